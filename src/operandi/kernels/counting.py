"""The inner loops of binning where each pixel counts whole and counts are small: sixteen images in the halves of eight integers.

What `lanes` does in single precision is done in integers of 16 bits here: a tile has half its size, takes half the shuffles, and nothing is
multiplied. The few counts that are large, or not valid, are added one by one; a patch of many is left to `lanes`. All sums are exact,
there too up to 2¹⁸ counts a pixel, so that it makes no difference, bit by bit, which of the two took a patch.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from operandi.kernels.lanes import AHEAD, LANES, PATCH, SPAN, fetch, transposed

SMALL = 1023
"""Counts up to this are small: 64 of them fit 16 bits."""
LARGEST = 2**18
"""Counts from this on are left to `lanes`: 64 of them do not fit a float exactly."""
MOST = PATCH // SPAN // 8
"""So many spans of a patch may have counts that are not small."""

_EIGHT, _I8, _I16, _I32 = 8, ir.IntType(8), ir.IntType(16), ir.IntType(32)
_WORDS, _HALVES = ir.VectorType(_I32, _EIGHT), ir.VectorType(_I16, LANES)


def _all(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _data(context, builder, signature, arguments, *places):
    """Where the data of array arguments begin."""
    return [context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in places]


def _at(builder, data, index, kind):
    """A pointer to a vector that begins with the element ``index`` of an array."""
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


@intrinsic
def _pack_eight(typing, images, pixel, first, last, used, tile, row):
    """Transpose eight pixels of the images first … first + 15, none above last, into eight rows of the tile.

    Images 0, 8, 1, 9 … lie side by side. True where all counts of pixels that are used are small.
    """

    def generate(context, builder, signature, arguments):
        _, pixel, first, last, _, _, row = arguments
        number = signature.args[0].dtype
        data, use, out = _data(context, builder, signature, arguments, 0, 4, 5)
        pixels = builder.extract_value(context.make_array(signature.args[0])(context, builder, arguments[0]).shape, 1)
        element = ir.VectorType(context.get_data_type(number), _EIGHT)
        counts, any_bit = [], _all(_WORDS, 0)
        for lane in range(LANES):
            image = builder.add(first, ir.Constant(first.type, lane))
            image = builder.select(builder.icmp_signed("<", image, last), image, last)
            place = _at(builder, data, builder.add(builder.mul(image, pixels), pixel), element)
            counts.append(builder.load(place, align=number.bitwidth // 8))
            fetch(builder, place, AHEAD)
            if number.bitwidth < 32:
                counts[-1] = builder.zext(counts[-1], _WORDS)
            any_bit = builder.or_(any_bit, counts[-1])
        rows = [builder.or_(low, builder.shl(up, _all(_WORDS, 16))) for low, up in zip(counts[:_EIGHT], counts[_EIGHT:], strict=True)]
        for k, column in enumerate(transposed(builder, rows)):
            index = builder.mul(builder.add(row, ir.Constant(row.type, k)), ir.Constant(row.type, LANES))
            builder.store(column, _at(builder, out, index, _WORDS), align=4)
        counted = builder.load(_at(builder, use, row, ir.VectorType(_I8, _EIGHT)), align=1)
        counted = builder.icmp_unsigned("!=", counted, _all(ir.VectorType(_I8, _EIGHT), 0))
        found = builder.and_(counted, builder.icmp_unsigned(">", any_bit, _all(_WORDS, SMALL)))
        mask = builder.bitcast(found, _I8)
        return builder.icmp_unsigned("==", mask, ir.Constant(mask.type, 0))

    return types.boolean(images, types.intp, types.intp, types.intp, used, tile, types.intp), generate


@intrinsic
def _count_run(typing, tile, pixels, begin, end, totals, bin_):
    """Add the entries begin … end - 1 of a patch, all of one bin, to its totals (bin, 32): signal of sixteen images, then variance."""

    def generate(context, builder, signature, arguments):
        _, _, begin, end, _, bin_ = arguments
        data, places, out = _data(context, builder, signature, arguments, 0, 1, 4)
        one = _all(_HALVES, 1)
        sums = [cgutils.alloca_once_value(builder, _all(_HALVES, 0)) for _ in range(2)]
        with cgutils.for_range(builder, builder.sub(end, begin)) as loop:
            place = builder.zext(builder.load(builder.gep(places, [builder.add(begin, loop.index)])), begin.type)
            counts = builder.load(_at(builder, data, builder.mul(place, ir.Constant(begin.type, LANES)), _HALVES), align=4)
            some = builder.select(builder.icmp_unsigned(">", counts, one), counts, one)
            for values, total in ((counts, sums[0]), (some, sums[1])):
                builder.store(builder.add(builder.load(total), values), total)
        for part, total in enumerate(sums):
            words = builder.bitcast(builder.load(total), _WORDS)
            for half, values in enumerate((builder.and_(words, _all(_WORDS, 0xFFFF)), builder.lshr(words, _all(_WORDS, 16)))):
                index = builder.mul(bin_, ir.Constant(bin_.type, 2 * LANES))
                address = _at(builder, out, builder.add(index, ir.Constant(bin_.type, part * LANES + half * _EIGHT)), _WORDS)
                builder.store(builder.add(builder.load(address, align=4), values), address, align=4)
        return context.get_dummy_value()

    return types.void(tile, pixels, types.intp, types.intp, totals, types.intp), generate


@njit(nogil=True)
def _pack_patch(images, block, start, used, spans, tile, others):
    """Fill the tile (place, 16) with the pixels from ``start`` on of the images block … block + 15, in those spans that have a used pixel.

    Writes down the spans with ``others`` than small counts, or that are not whole, and returns how many there are.
    """
    n_pixels, last, n = images.shape[1], images.shape[0] - 1, 0
    for span in range(PATCH // SPAN):
        if not spans[span]:
            continue
        first, stop = span * SPAN, min((span + 1) * SPAN, n_pixels - start)
        whole, inside = first + max(stop - first, 0) // _EIGHT * _EIGHT, True
        for k in range(first, whole, _EIGHT):
            inside &= _pack_eight(images, start + k, block, last, used, tile, k)  # pyright: ignore[reportCallIssue]
        if not inside or whole < stop:
            others[n] = span
            n += 1
    return n


@njit(nogil=True)
def _has_large(images, block, start, used, spans, high):
    """Whether a valid count of the spans is `LARGEST` or more."""
    for span in spans:
        for place in range(span * SPAN, (span + 1) * SPAN):
            if used[place]:
                for image in range(block, min(block + LANES, images.shape[0])):
                    if LARGEST <= images[image, start + place] <= high:
                        return True
    return False


@njit(nogil=True)
def _take_singly(images, block, start, spans, bins, weight, limits, tile, total, lost_norm, lost):
    """Add the counts of the spans that are not small to their bins, and leave zeros in the tile, which count as 1 in a variance."""
    low, high, dummy, delta_dummy = limits
    for span in spans:
        for place in range(span * SPAN, (span + 1) * SPAN):
            b = bins[place]
            if b < 0:
                continue
            for lane in range(LANES):
                count = np.int64(images[min(block + lane, images.shape[0] - 1), start + place])
                small = 0 <= count <= SMALL
                tile[place, 2 * (lane % _EIGHT) + lane // _EIGHT] = count if small else 0
                if not small and low <= count <= high and not abs(count - dummy) <= delta_dummy:
                    total[b, lane] += count
                    total[b, LANES + lane] += max(count, 1) - 1
                elif not small:
                    total[b, LANES + lane] -= 1
                    lost_norm[b, lane] += weight[place]
                    lost[b, lane] += 1


@njit(cache=True, nogil=True)
def count_patches(images, block, first, stop, entries, fields, limits, counted, total, lost_norm, lost, left):
    """Bin the images block … block + 15 in the patches first … stop - 1, each pixel in one bin, with a share of 1.

    Not parallel, so that it compiles fast: call it from several threads.

    Parameters
    ----------
    images : (image, pixel) of integers of 16 or 32 bits.
    entries : as `lanes.sum_patches` takes them, without shares.
    fields : bins, weight, used, spans: the pixel's bin, or -1, and the others as for `lanes.sum_patches`.
    limits : float32 lowest and highest valid count, dummy (NaN: none) and its tolerance; all small counts are valid.
    counted : (bin, 32) uint32, added to: signal of sixteen images, then their variance.
    total, lost_norm, lost : as for `lanes.sum_patches`, added to: what counts that are not small add.
    left : (stop - first,) int64, overwritten: the patches that have many other counts, or very large ones.

    Returns
    -------
    How many patches are left.
    """
    patches, runs, places, pixels = entries
    bins, weight, used, spans = fields
    tile, found, n_left = np.empty((PATCH, LANES), np.uint16), np.empty(PATCH // SPAN, np.int64), 0
    for patch in range(first, stop):
        start = patch * PATCH
        others = found[: _pack_patch(images, block, start, used[patch], spans[patch], tile, found)]
        if others.size > MOST or _has_large(images, block, start, used[patch], others, limits[1]):
            left[n_left] = patch
            n_left += 1
            continue
        _take_singly(images, block, start, others, bins[patch], weight[patch], limits, tile, total, lost_norm, lost)
        for run in range(patches[patch], patches[patch + 1]):
            _count_run(tile, pixels, runs[run], runs[run + 1], counted, places[run])  # pyright: ignore[reportCallIssue]
    return n_left
