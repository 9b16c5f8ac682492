"""The inner loops of binning: sixteen images side by side, one in each lane of a vector.

The operator's shares are then read once for sixteen images, and every multiplication works on sixteen pixels. numba has no
vectors, so the two innermost steps are written as LLVM vectors of sixteen floats, which LLVM splits into what the
processor has. They live beside their callers because numba's cache looks only at the file of the caller.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
TILE = 256
"""Pixels that are transposed at a time: 256 × 16 floats stay in the first-level cache."""
BAND = 32768
"""Pixels whose sums are kept in single precision before they are added up in double."""

_EIGHT, _I32, _F32, _F64 = 8, ir.IntType(32), ir.FloatType(), ir.DoubleType()
_INVALID = -1.0


def _vector(element: ir.Type, values: float | list[int], n: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(element, n), values if isinstance(values, list) else [values] * n)


def _address(context, builder, array_type, array, index, element, n):
    """Pointer to ``n`` elements as a vector, from the flat ``index`` of a contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.VectorType(element, n).as_pointer())


def _spread(builder, scalar, n):
    """A vector with ``scalar`` in all lanes."""
    vector = ir.VectorType(scalar.type, n)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, _I32(0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), _vector(_I32, 0, n))


def _call(builder, name, vector, arguments):
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [a.type for a in arguments]), f"llvm.{name}.v{vector.count}{_SUFFIX[str(vector.element)]}"
    )
    return builder.call(function, arguments)


_SUFFIX = {str(_F32): "f32", str(_F64): "f64"}


def _transposed(builder, rows):
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


def _checked(builder, raw, number_type, dummy, delta_dummy):
    """Counts as floats, with -1 for an invalid pixel; ordered comparisons are false for NaN, unordered ones true."""
    floats = ir.VectorType(_F32, _EIGHT)
    counts = raw
    if not isinstance(number_type, types.Float):
        counts = (builder.sitofp if number_type.signed else builder.uitofp)(raw, floats)
    apart = _call(builder, "fabs", floats, [builder.fsub(counts, dummy)])
    valid = builder.and_(
        builder.fcmp_ordered(">=", counts, _vector(_F32, 0.0, _EIGHT)),
        builder.and_(
            builder.fcmp_ordered("<", counts, _vector(_F32, float("inf"), _EIGHT)), builder.fcmp_unordered(">", apart, delta_dummy)
        ),
    )
    return builder.select(valid, counts, _vector(_F32, _INVALID, _EIGHT))


@intrinsic
def _load_eight(typing, images, pixel, first, last, dummy, delta_dummy, tile, row):
    """Transpose eight pixels of the images first … first + 15, none above last, into eight rows of the tile."""

    def generate(context, builder, signature, arguments):
        images, pixel, first, last, dummy, delta_dummy, tile, row = arguments
        number = signature.args[0].dtype
        element = context.get_data_type(number)
        pixels = builder.extract_value(context.make_array(signature.args[0])(context, builder, images).shape, 1)
        dummies, deltas = _spread(builder, dummy, _EIGHT), _spread(builder, delta_dummy, _EIGHT)
        for half in range(0, LANES, _EIGHT):
            rows = []
            for lane in range(half, half + _EIGHT):
                image = builder.add(first, ir.Constant(first.type, lane))
                image = builder.select(builder.icmp_signed("<", image, last), image, last)
                index = builder.add(builder.mul(image, pixels), pixel)
                raw = builder.load(
                    _address(context, builder, signature.args[0], images, index, element, _EIGHT), align=number.bitwidth // 8
                )
                rows.append(_checked(builder, raw, number, dummies, deltas))
            for k, column in enumerate(_transposed(builder, rows)):
                index = builder.add(builder.mul(row, ir.Constant(row.type, LANES)), ir.Constant(row.type, k * LANES + half))
                builder.store(column, _address(context, builder, signature.args[6], tile, index, _F32, _EIGHT), align=4)
        return context.get_dummy_value()

    signature = types.void(images, types.intp, types.intp, types.intp, types.float32, types.float32, tile, types.intp)
    return signature, generate


@intrinsic
def _add_pixel(typing, tile, row, dark, shares, start, stop, sums, first):
    """Add a row of the tile, times its shares, to the sums of the bins from first on; true where a lane is invalid.

    Sums are (bin, 32): signal in the first sixteen, variance in the others.
    """

    def generate(context, builder, signature, arguments):
        tile, row, dark, shares, start, stop, sums, first = arguments
        floats = ir.VectorType(_F32, LANES)
        index = builder.mul(row, ir.Constant(row.type, LANES))
        counts = builder.load(_address(context, builder, signature.args[0], tile, index, _F32, LANES), align=4)
        valid = builder.fcmp_ordered(">=", counts, _vector(_F32, 0.0, LANES))
        zero = _vector(_F32, 0.0, LANES)
        signal = builder.select(valid, builder.fsub(counts, _spread(builder, dark, LANES)), zero)
        one = _vector(_F32, 1.0, LANES)
        at_least_one = builder.select(builder.fcmp_ordered(">", counts, one), counts, one)
        variance = builder.select(valid, at_least_one, zero)
        with cgutils.for_range(builder, builder.sub(stop, start)) as loop:
            share_at = _address(context, builder, signature.args[3], shares, builder.add(start, loop.index), _F32, 1)
            share = builder.extract_element(builder.load(share_at, align=4), _I32(0))
            index = builder.mul(builder.add(first, loop.index), ir.Constant(row.type, 2 * LANES))
            for offset, values, factor in ((0, signal, share), (LANES, variance, builder.fmul(share, share))):
                position = builder.add(index, ir.Constant(row.type, offset))
                place = _address(context, builder, signature.args[6], sums, position, _F32, LANES)
                total = _call(builder, "fmuladd", floats, [values, _spread(builder, factor, LANES), builder.load(place, align=4)])
                builder.store(total, place, align=4)
        mask = builder.bitcast(valid, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, -1))

    signature = types.boolean(tile, types.intp, types.float32, shares, types.intp, types.intp, sums, types.intp)
    return signature, generate


@njit(cache=True, nogil=True)
def _note_invalid(tile, row, weight, shares, start, stop, lost_norm, lost, first):
    for e in range(start, stop):
        share = np.float64(shares[e]) * weight
        b = first + e - start
        for lane in range(LANES):
            invalid = tile[row, lane] < 0
            lost_norm[b, lane] += share if invalid else 0.0
            lost[b, lane] += 1 if invalid and shares[e] != 0 else 0


@njit(cache=True, nogil=True)
def _load_tile(images, pixel, n, block, dummy, delta_dummy, tile):
    """Fill the tile with the next n pixels of sixteen images; -1 for an invalid pixel."""
    last = images.shape[0] - 1
    whole = n - n % 8
    for row in range(0, whole, 8):
        _load_eight(images, pixel + row, block, last, dummy, delta_dummy, tile, row)  # pyright: ignore[reportCallIssue]
    for row in range(whole, n):
        for lane in range(LANES):
            count = np.float32(images[min(block + lane, last), pixel + row])
            valid = count >= 0 and count < np.inf and not abs(count - dummy) <= delta_dummy
            tile[row, lane] = count if valid else np.float32(_INVALID)


@njit(cache=True, nogil=True)
def _flush(sums, low, high, totals):
    """Move the single-precision sums of bins [low, high) into the double-precision totals."""
    for b in range(low, high):
        for lane in range(2 * LANES):
            totals[b, lane] += sums[b, lane]
            sums[b, lane] = 0


@njit(cache=True, nogil=True)
def _sum_stretch(images, block, begin, end, first, start, shares, weight, dark, dummy, delta_dummy, totals, lost_norm, lost):
    """Bin pixels [begin, end) of the images block … block + 15 into totals (bin, 32), lost_norm and lost (bin, 16)."""
    tile = np.empty((TILE, LANES), np.float32)
    sums = np.zeros(totals.shape, np.float32)
    for band in range(begin, end, BAND):
        low, high = totals.shape[0], 0
        band_end = min(band + BAND, end)
        for pixel in range(band, band_end, TILE):
            n = min(TILE, band_end - pixel)
            if start[pixel] == start[pixel + n]:
                continue
            _load_tile(images, pixel, n, block, dummy, delta_dummy, tile)
            for row in range(n):
                p = pixel + row
                if start[p] == start[p + 1]:
                    continue
                low, high = min(low, first[p]), max(high, first[p] + start[p + 1] - start[p])
                incomplete = _add_pixel(tile, row, dark[p], shares, start[p], start[p + 1], sums, first[p])  # pyright: ignore[reportCallIssue]
                if incomplete:
                    _note_invalid(tile, row, np.float64(weight[p]), shares, start[p], start[p + 1], lost_norm, lost, first[p])
        _flush(sums, low, high, totals)


@njit(cache=True, nogil=True, parallel=True)
def sum_stretches(images, stretch, first, start, shares, weight, dark, dummy, delta_dummy, totals, lost_norm, lost):
    """Bin images (image, pixel), at most sixteen for each entry of axis 0 of totals, in stretches of ``stretch`` pixels.

    Adds to ``totals`` (block, stretch, bin, 32): signal of sixteen images, then their variance; ``lost_norm`` and ``lost``
    (block, stretch, bin, 16): norm and number of the pixels that are invalid.
    """
    n_pixels, n_stretches = images.shape[1], totals.shape[1]
    for unit in prange(totals.shape[0] * n_stretches):
        block, part = unit // n_stretches, unit % n_stretches
        _sum_stretch(
            images, block * LANES, part * stretch, min(part * stretch + stretch, n_pixels), first, start, shares, weight, dark,
            dummy, delta_dummy, totals[block, part], lost_norm[block, part], lost[block, part],
        )  # fmt: skip
