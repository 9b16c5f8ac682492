"""The inner loops of binning: sixteen images side by side, one in each lane of a vector.

Images are read in patches of ``PATCH`` consecutive pixels, so that memory is read in sixteen streams, and only where some bin wants it:
reading is what takes longest. A patch is transposed into a tile that stays in the second-level cache. In the tile the pixels of one bin are
visited one after the other, so that their sums stay in registers. The operator is read once for sixteen images, and every multiplication
works on sixteen pixels. numba has no vectors, so the innermost steps are written as LLVM vectors, which LLVM splits into what
the processor has. They live beside their callers because numba's cache looks only at the file of the caller.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
PATCH = 8192
"""Pixels of a patch: with sixteen floats for each, half of a second-level cache of 1 MiB."""
SPAN = 64
"""Pixels that are read together, or not at all."""
AHEAD = 256
"""Bytes by which memory is asked for before it is read."""

_EIGHT, _I32, _F32, _F64 = 8, ir.IntType(32), ir.FloatType(), ir.DoubleType()


def _vector(element: ir.Type, values: float | list[int], n: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(element, n), values if isinstance(values, list) else [values] * n)


def _address(context, builder, array_type, array, index, element, n):
    """Pointer to ``n`` elements as a vector, from the flat ``index`` of a contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.VectorType(element, n).as_pointer())


def _element(context, builder, array_type, array, index):
    """One element of a contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.load(builder.gep(data, [index]))


def _spread(builder, scalar, n):
    """A vector with ``scalar`` in all lanes."""
    vector = ir.VectorType(scalar.type, n)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, _I32(0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), _vector(_I32, 0, n))


def fetch(builder, address, n_bytes):
    """Ask for the memory ``n_bytes`` behind an address; nothing happens where there is none."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    function = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
    ahead = builder.gep(builder.bitcast(address, byte), [_I32(n_bytes)])
    builder.call(function, [ahead, _I32(0), _I32(3), _I32(1)])  # to read, keep in all caches, data


def _multiply_add(builder, a, b, c):
    name = f"llvm.fmuladd.v{a.type.count}f32"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
    return builder.call(function, [a, b, c])


def transposed(builder, rows):
    """Eight vectors of eight, transposed: in pairs, then in fours, then in halves."""
    for masks in (
        ([0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]),
        ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]),
        ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]),
    ):
        distance = 1 if masks[0][1] == 8 else 2 if masks[0][2] == 8 else 4
        pairs = [(i, i + distance) for i in range(_EIGHT) if not i & distance]
        out = [None] * _EIGHT
        for low, high in pairs:
            out[low] = builder.shuffle_vector(rows[low], rows[high], _vector(_I32, masks[0], _EIGHT))
            out[high] = builder.shuffle_vector(rows[low], rows[high], _vector(_I32, masks[1], _EIGHT))
        rows = out
    return [rows[i] for i in (0, 2, 1, 3, 4, 6, 5, 7)]


class _IntegersOutside:
    """Finds integers outside [0, high] by their largest as unsigned ones, where the negative are larger than all others."""

    def __init__(self, builder, number, element, high):
        largest = ir.Constant(ir.IntType(64), 2 ** (number.bitwidth - number.signed) - 1)
        high = builder.fptosi(high, largest.type)
        high = builder.trunc(builder.select(builder.icmp_signed("<", high, largest), high, largest), element)
        self._builder, self._high = builder, _spread(builder, high, _EIGHT)

    def gather(self, worst, counts):
        return counts if worst is None else self._builder.select(self._builder.icmp_unsigned(">", counts, worst), counts, worst)

    def found(self, worst):
        return self._builder.icmp_unsigned(">", worst, self._high)


class _FloatsOutside:
    """Finds floats outside [low, high], and NaN."""

    def __init__(self, builder, low, high):
        self._builder, self._low, self._high = builder, low, high

    def gather(self, worst, counts):
        below = self._builder.fcmp_unordered("<", counts, _spread(self._builder, self._low, _EIGHT))
        above = self._builder.fcmp_unordered(">", counts, _spread(self._builder, self._high, _EIGHT))
        outside = self._builder.or_(below, above)
        return outside if worst is None else self._builder.or_(worst, outside)

    def found(self, worst):
        return worst


def _outside_of(builder, number, element, low, high):
    return _FloatsOutside(builder, low, high) if isinstance(number, types.Float) else _IntegersOutside(builder, number, element, high)


@intrinsic
def _load_eight(typing, images, pixel, first, last, low, high, used, tile, row):
    """Transpose eight pixels of the images first … first + 15, none above last, into eight rows of the tile.

    Counts become floats; true where those that are used lie in [low, high], which NaN does not. ``low`` of integers is 0.
    """

    def generate(context, builder, signature, arguments):
        images, pixel, first, last, low, high, used, tile, row = arguments
        number = signature.args[0].dtype
        element, floats = context.get_data_type(number), ir.VectorType(_F32, _EIGHT)
        pixels = builder.extract_value(context.make_array(signature.args[0])(context, builder, images).shape, 1)
        outside = _outside_of(builder, number, element, low, high)
        worst = None
        for half in range(0, LANES, _EIGHT):
            rows = []
            for lane in range(half, half + _EIGHT):
                image = builder.add(first, ir.Constant(first.type, lane))
                image = builder.select(builder.icmp_signed("<", image, last), image, last)
                place = _address(
                    context, builder, signature.args[0], images, builder.add(builder.mul(image, pixels), pixel), element, _EIGHT
                )
                counts = builder.load(place, align=number.bitwidth // 8)
                fetch(builder, place, AHEAD)
                worst = outside.gather(worst, counts)
                if not isinstance(number, types.Float):
                    counts = (builder.sitofp if number.signed else builder.uitofp)(counts, floats)
                rows.append(counts)
            for k, column in enumerate(transposed(builder, rows)):
                index = builder.add(builder.mul(row, ir.Constant(row.type, LANES)), ir.Constant(row.type, k * LANES + half))
                builder.store(column, _address(context, builder, signature.args[7], tile, index, _F32, _EIGHT), align=4)
        flags = builder.load(_address(context, builder, signature.args[6], used, row, ir.IntType(8), _EIGHT), align=1)
        flags = builder.icmp_unsigned("!=", flags, _vector(ir.IntType(8), 0, _EIGHT))
        mask = builder.bitcast(builder.and_(flags, outside.found(worst)), ir.IntType(_EIGHT))
        return builder.icmp_unsigned("==", mask, ir.Constant(mask.type, 0))

    return types.boolean(images, types.intp, types.intp, types.intp, types.float32, types.float32, used, tile, types.intp), generate


def _run_of(careful):
    """Code that adds the entries begin … end - 1 of a patch, all of one bin, to its totals; true where all counts are valid.

    Totals are (bin, 32): signal in the first sixteen, variance in the others. ``careful`` subtracts dark and leaves out NaN.
    """

    def generate(context, builder, signature, arguments):
        tile, pixels, shares, dark, begin, end, totals, bin_ = arguments
        zero, one = _vector(_F32, 0.0, LANES), _vector(_F32, 1.0, LANES)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(2)]
        complete = cgutils.alloca_once_value(builder, _vector(ir.IntType(1), 1, LANES))
        with cgutils.for_range(builder, builder.sub(end, begin)) as loop:
            entry = builder.add(begin, loop.index)
            pixel = builder.zext(_element(context, builder, signature.args[1], pixels, entry), begin.type)
            share = _element(context, builder, signature.args[2], shares, entry)
            index = builder.mul(pixel, ir.Constant(begin.type, LANES))
            counts = builder.load(_address(context, builder, signature.args[0], tile, index, _F32, LANES), align=4)
            signal, variance = counts, builder.select(builder.fcmp_ordered(">", counts, one), counts, one)
            if careful:
                valid = builder.fcmp_ordered("ord", counts, counts)
                builder.store(builder.and_(builder.load(complete), valid), complete)
                offset = _spread(builder, _element(context, builder, signature.args[3], dark, pixel), LANES)
                signal = builder.select(valid, builder.fsub(counts, offset), zero)
                variance = builder.select(valid, variance, zero)
            for values, factor, total in ((signal, share, sums[0]), (variance, builder.fmul(share, share), sums[1])):
                builder.store(_multiply_add(builder, values, _spread(builder, factor, LANES), builder.load(total)), total)
        for part, total in enumerate(sums):
            index = builder.add(builder.mul(bin_, ir.Constant(bin_.type, 2 * LANES)), ir.Constant(bin_.type, part * LANES))
            place = _address(context, builder, signature.args[6], totals, index, _F64, LANES)
            more = builder.fpext(builder.load(total), ir.VectorType(_F64, LANES))
            builder.store(builder.fadd(builder.load(place, align=8), more), place, align=8)
        mask = builder.bitcast(builder.load(complete), ir.IntType(LANES))
        return builder.icmp_unsigned("==", mask, ir.Constant(mask.type, -1))

    return generate


@intrinsic
def _add_run(typing, tile, pixels, shares, dark, begin, end, totals, bin_):
    signature = types.boolean(tile, pixels, shares, dark, types.intp, types.intp, totals, types.intp)
    return signature, _run_of(careful=False)


@intrinsic
def _add_run_carefully(typing, tile, pixels, shares, dark, begin, end, totals, bin_):
    signature = types.boolean(tile, pixels, shares, dark, types.intp, types.intp, totals, types.intp)
    return signature, _run_of(careful=True)


@njit(cache=True, nogil=True)
def _load_patch(images, block, start, used, spans, low, high, tile, doubtful, check):
    """Fill the tile (place, lane) with the pixels from ``start`` on of the images block … block + 15, in spans that have a used pixel.

    Marks the spans that are ``doubtful``: where a used count does not lie in [low, high], or all if there is more to ``check``.
    Places beyond the image hold anything.
    """
    n_pixels, last = images.shape[1], images.shape[0] - 1
    for span in range(doubtful.size):
        doubtful[span] = False
        if not spans[span]:
            continue
        first, stop = span * SPAN, min((span + 1) * SPAN, n_pixels - start)
        whole, inside = first + max(stop - first, 0) // _EIGHT * _EIGHT, True
        for k in range(first, whole, _EIGHT):
            inside &= _load_eight(images, start + k, block, last, low, high, used, tile, k)  # pyright: ignore[reportCallIssue]
        for k in range(whole, stop):
            for lane in range(LANES):
                tile[k, lane] = np.float32(images[min(block + lane, last), start + k])
        doubtful[span] = check or not inside or whole < stop


@njit(cache=True, nogil=True)
def _mark_invalid(tile, used, doubtful, low, high, dummy, delta_dummy):
    """Make invalid counts NaN, in the places that are used of the doubtful spans; true where there are none."""
    valid = True
    for span in range(doubtful.size):
        if doubtful[span]:
            for place in range(span * SPAN, (span + 1) * SPAN):
                if used[place]:
                    for lane in range(LANES):
                        count = tile[place, lane]
                        if not low <= count <= high or abs(count - dummy) <= delta_dummy:
                            tile[place, lane] = np.nan
                            valid = False
    return valid


@njit(cache=True, nogil=True)
def _note_lost(tile, pixels, shares, weight, begin, end, lost_norm, lost):
    """Add the norm and the number of the invalid pixels of a run to those of its bin."""
    for entry in range(begin, end):
        place = pixels[entry]
        share = np.float64(shares[entry]) * weight[place]
        for lane in range(LANES):
            if np.isnan(tile[place, lane]):
                lost_norm[lane] += share
                lost[lane] += 1


@njit(cache=True, nogil=True)
def sum_patches(images, block, todo, entries, fields, has_dark, limits, total, lost_norm, lost):
    """Bin the images block … block + 15 of images (image, pixel), as far as there are so many, in some patches.

    Not parallel, so that it compiles fast: call it from several threads.

    Parameters
    ----------
    todo : (any,) int64, the patches, in this order.
    entries : patches (patch + 1,), first run of each patch, patches in rows; runs (run + 1,), first entry of each run; bins (run,);
        pixels (entry,) uint16, place in the patch; shares (entry,) float32.
    fields : used, weight, dark, each (patch, place): whether any entry uses the place, what the pixel's counts are divided and lessened by;
        and (patch, span) whether any entry uses a place of the span.
    has_dark : whether any dark is not 0.
    limits : float32 lowest and highest valid count, dummy (NaN: none) and its tolerance.
    total : (bin, 32) float64, added to: signal of sixteen images, then their variance.
    lost_norm, lost : (bin, 16) added to: norm and number of the pixels that are invalid.
    """
    patches, runs, bins, pixels, shares = entries
    used, weight, dark, spans = fields
    low, high, dummy, delta_dummy = limits
    tile, doubtful = np.empty((PATCH, LANES), np.float32), np.empty(PATCH // SPAN, np.bool_)
    for patch in todo:
        _load_patch(images, block, patch * PATCH, used[patch], spans[patch], low, high, tile, doubtful, not np.isnan(dummy))
        plain = _mark_invalid(tile, used[patch], doubtful, low, high, dummy, delta_dummy)
        if plain and not has_dark:
            for run in range(patches[patch], patches[patch + 1]):
                _add_run(tile, pixels, shares, dark[patch], runs[run], runs[run + 1], total, bins[run])  # pyright: ignore[reportCallIssue]
        else:
            for run in range(patches[patch], patches[patch + 1]):
                begin, end, b = runs[run], runs[run + 1], bins[run]
                if not _add_run_carefully(tile, pixels, shares, dark[patch], begin, end, total, b):  # pyright: ignore[reportCallIssue]
                    _note_lost(tile, pixels, shares, weight[patch], begin, end, lost_norm[b], lost[b])
