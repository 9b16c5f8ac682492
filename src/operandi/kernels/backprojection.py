"""Filtering and backprojection of many channels that share one geometry.

Arrays are (projection, sample, channel) and (row, column, channel) with the channel last and contiguous. Channels are
processed in slabs of ``CHANNELS``, so that the filtered projections of a slab stay in cache while every pixel reads them;
within a slab the image is cut into tiles, and a tile takes ``BLOCK`` projections at a time: their samples then come from the nearest cache.
Each voxel is the sum over the projections in the order in which they are given, whichever thread computes it: results do not
depend, bit by bit, on the number of threads, nor on how channels are cut into slabs.

A slab is (projection, sample + 2, channel): a row of zeros at either end stands for what lies beyond the detector. The
innermost loops are written in LLVM's vectors: all sums of ``CHANNELS`` channels stay in registers, and what is added is read once.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

CHANNELS = 64
BLOCK = 8
EDGE = 16
"""Longest edge of a tile, in pixels."""

_FAST = {"contract", "nsz", "arcp"}
_CONTRACT = ("contract", "nsz")
_LAST = 1.0 - 1e-9
_INDEX, _FLOAT = ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, CHANNELS)


def _pointers(context, builder, signature, arguments, *places):
    """Where the data of array arguments begin."""
    return [context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in places]


def _vector(builder, data, index):
    """A pointer to the ``CHANNELS`` floats from ``index`` on."""
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _everywhere(builder, scalar):
    """A vector of one value."""
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), CHANNELS), [0] * CHANNELS))


def _plus(builder, total, weight, data, index):
    """``total + weight * data[index : index + CHANNELS]``, as multiply-adds where the machine has them."""
    row = builder.load(_vector(builder, data, index), align=4)
    return builder.fadd(builder.fmul(row, _everywhere(builder, weight), _CONTRACT), total, _CONTRACT)


def _accumulate(builder, span, out, step):
    """Loop ``p`` over ``range(start, stop, stride)`` (``span``, not empty) and add to ``out`` what ``step(p, total)`` sums up."""
    start, stop, stride = span
    before, loop, end = builder.block, builder.append_basic_block("add"), builder.append_basic_block("added")
    builder.branch(loop)
    builder.position_at_end(loop)
    p, total = builder.phi(_INDEX), builder.phi(_VECTOR)
    p.add_incoming(start, before)
    total.add_incoming(ir.Constant(_VECTOR, [ir.Constant(_FLOAT, 0.0)] * CHANNELS), before)
    grown, following = step(p, total), builder.add(p, stride)
    p.add_incoming(following, loop)
    total.add_incoming(grown, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, stop), loop, end)
    builder.position_at_end(end)
    builder.store(builder.fadd(builder.load(out, align=4), grown), out, align=4)


@intrinsic
def _add_lagged(typing, flat, base, width, lags, values, start, stop, out, at):
    """``out[at:] += Σ values[m] * flat[(base - lags[m]) * width:]`` over ``range(start, stop)``, for ``CHANNELS`` channels."""

    def build(context, builder, signature, arguments):
        data, lag, value, target = _pointers(context, builder, signature, arguments, 0, 3, 4, 7)
        _, base, width, _, _, start, stop, _, at = arguments

        def step(m, total):
            sample = builder.sub(base, builder.zext(builder.load(builder.gep(lag, [m])), _INDEX))
            return _plus(builder, total, builder.load(builder.gep(value, [m])), data, builder.mul(sample, width))

        _accumulate(builder, (start, stop, ir.Constant(_INDEX, 1)), _vector(builder, target, at), step)
        return context.get_dummy_value()

    return types.void(flat, base, width, lags, values, start, stop, out, at), build


@intrinsic
def _add_between(typing, flat, width, first, sample, fraction, start, stop, stride, out, at):
    """Add to ``out[at:]`` the projections listed in ``range(start, stop, stride)``, each interpolated between two of its samples."""

    def build(context, builder, signature, arguments):
        data, samples, fractions, target = _pointers(context, builder, signature, arguments, 0, 3, 4, 8)
        _, width, first, _, _, start, stop, stride, _, at = arguments

        def step(p, total):
            index = builder.add(builder.mul(builder.zext(builder.load(builder.gep(samples, [p])), _INDEX), width), first)
            high = builder.load(builder.gep(fractions, [p]))
            total = _plus(builder, total, builder.fsub(ir.Constant(_FLOAT, 1.0), high), data, index)
            return _plus(builder, total, high, data, builder.add(index, width))

        _accumulate(builder, (start, stop, stride), _vector(builder, target, at), step)
        return context.get_dummy_value()

    return types.void(flat, width, first, sample, fraction, start, stop, stride, out, at), build


@intrinsic
def _add_variance(typing, flat, cross, width, first, sample, fraction, start, stop, stride, out, at):
    """The same for variances: squares of the interpolation's weights, and twice their product on ``cross``."""

    def build(context, builder, signature, arguments):
        data, mixed, samples, fractions, target = _pointers(context, builder, signature, arguments, 0, 1, 4, 5, 9)
        _, _, width, first, _, _, start, stop, stride, _, at = arguments

        def step(p, total):
            index = builder.add(builder.mul(builder.zext(builder.load(builder.gep(samples, [p])), _INDEX), width), first)
            high = builder.load(builder.gep(fractions, [p]))
            low = builder.fsub(ir.Constant(_FLOAT, 1.0), high)
            total = _plus(builder, total, builder.fmul(low, low), data, index)
            total = _plus(builder, total, builder.fmul(builder.fadd(low, low), high), mixed, index)
            return _plus(builder, total, builder.fmul(high, high), data, builder.add(index, width))

        _accumulate(builder, (start, stop, stride), _vector(builder, target, at), step)
        return context.get_dummy_value()

    return types.void(flat, cross, width, first, sample, fraction, start, stop, stride, out, at), build


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def count_finite(projections):
    """(projection, sample) int32: of how many channels the value is finite."""
    count = np.zeros(projections.shape[:2], np.int32)
    for p in prange(projections.shape[0]):
        for i in range(projections.shape[1]):
            n = np.int32(0)
            for q in range(projections.shape[2]):
                n += np.int32(abs(projections[p, i, q]) < np.inf)
            count[p, i] = n
    return count


@njit(nogil=True)
def _within(lags, n_samples):
    """For each sample i, the range of the taps whose lag keeps ``i - lag`` within the projection."""
    begin, end = np.zeros(n_samples, np.uint64), np.zeros(n_samples, np.uint64)
    low = high = 0
    for i in range(n_samples):
        while low < lags.size and lags[low] < i - n_samples + 1:
            low += 1
        while high < lags.size and lags[high] <= i:
            high += 1
        begin[i], end[i] = low, high
    return begin, end


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def filter_slab(projections, order, first, lags, values, weights, slab):
    """Convolve the channels from ``first`` on of some projections with a kernel, into ``slab``.

    Parameters
    ----------
    projections : (any, sample, channel) float32, finite.
    order : (projection,) int64, which of them, in this order.
    lags, values : (tap,) int32, increasing, from -sample + 1 to sample - 1, and float32: the kernel where it is not zero.
    weights : (projection,) float32, with which each filtered projection is multiplied.
    slab : (projection, sample + 2, a multiple of CHANNELS) float32, overwritten; channels beyond the last become 0.
    """
    n_samples, width = projections.shape[1], slab.shape[2]
    parts = width // CHANNELS
    shifted, (begin, end) = (lags + n_samples).astype(np.uint32), _within(lags, n_samples)
    for job in prange(order.size * parts):
        p, part = job // parts, job % parts * CHANNELS
        n = min(CHANNELS, projections.shape[2] - first - part)
        block, row = np.zeros((n_samples, CHANNELS), np.float32), np.zeros(CHANNELS, np.float32)
        for i in range(n_samples):
            for k in range(n):
                block[i, k] = projections[order[p], i, first + part + k] * weights[p]
        flat = block.ravel()
        slab[p, 0, part : part + CHANNELS] = 0.0
        slab[p, n_samples + 1, part : part + CHANNELS] = 0.0
        for turn in range(n_samples):
            i = 2 * turn if 2 * turn < n_samples else 2 * (turn - (n_samples + 1) // 2) + 1  # the ramp reads every second sample
            row[:] = 0.0
            if begin[i] < end[i]:
                base = np.uint64(n_samples + i)
                _add_lagged(flat, base, np.uint64(CHANNELS), shifted, values, begin[i], end[i], row, np.uint64(0))  # pyright: ignore[reportCallIssue]
            slab[p, i + 1, part : part + CHANNELS] = row


@njit(nogil=True, fastmath=_FAST)
def _trace(tile, block, cosines, sines, origin, n_samples, sample, fraction):
    """For each projection of a block and pixel of a tile, the lower of two samples and the fraction of the upper one.

    Beyond the detector both are rows of zeros. Positions are computed in the same way for every tile.
    """
    top, left, height, width = tile
    last = n_samples + _LAST
    for p in range(block[0], block[1]):
        first = np.int32(p * (n_samples + 2))
        for i in range(height):
            start = (top + i) * sines[p] + origin[p]
            k = np.uint64(((p - block[0]) * height + i) * width)
            for j in range(width):
                position = start + np.int32(left + j) * cosines[p]
                position = 0.0 if position < 0.0 else position
                position = last if position > last else position
                below = np.int32(position)
                sample[k + np.uint64(j)] = np.uint32(first + below)
                fraction[k + np.uint64(j)] = np.float32(position - below)


@njit(nogil=True)
def _tiling(n_rows, n_columns):
    """How many tiles down and across, and their edges: nearly equal ones, so that threads end together."""
    down, across = 2 * ((n_rows + 2 * EDGE - 1) // (2 * EDGE)), (n_columns + EDGE - 1) // EDGE
    return down, across, (n_rows + down - 1) // down, (n_columns + across - 1) // across


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def backproject_slab(slab, cross, first, cosines, sines, centre, volume, add):
    """Write the backprojection of a slab into the channels from ``first`` on of ``volume``, or add it to them.

    Parameters
    ----------
    slab : (projection, sample + 2, CHANNELS) float32, weighted.
    cross : the same, or no projection at all. Where given, ``slab`` and ``cross`` hold variances filtered by h² and by h·h₊₁, and what is
        written is the variance: the sum of squares of the interpolation weights, and twice their product times ``cross``.
    cosines, sines : (projection,) float64.
    centre : the sample, fractional, on which the rotation axis falls.
    volume : (row, column, channel) float32. The axis runs through its middle; row and column step by one sample.
    add : whether to add to what is in the volume.
    """
    n_rows, n_columns = volume.shape[0], volume.shape[1]
    n_projections, n_samples = slab.shape[0], slab.shape[1] - 2
    n = min(CHANNELS, volume.shape[2] - first)
    down, across, height, width = _tiling(n_rows, n_columns)
    flat, flat_cross, variance = slab.ravel(), cross.ravel(), cross.shape[0] > 0
    origin = centre + 1.0 - 0.5 * (n_columns - 1) * cosines - 0.5 * (n_rows - 1) * sines
    stride, none = np.uint64(CHANNELS), np.uint64(0)
    for tile in prange(down * across):
        top, left = (tile // across) * height, (tile % across) * width
        h, w = max(min(height, n_rows - top), 0), max(min(width, n_columns - left), 0)
        pixels = np.uint64(h * w)
        sample, fraction = np.empty(h * w * BLOCK, np.uint32), np.empty(h * w * BLOCK, np.float32)
        out = np.zeros(h * w * CHANNELS, np.float32)
        for block in range(0, n_projections, BLOCK):
            stop = min(block + BLOCK, n_projections)
            _trace((top, left, h, w), (block, stop), cosines, sines, origin, n_samples, sample, fraction)
            end = np.uint64(stop - block) * pixels
            for pixel in range(h * w):
                at = np.uint64(pixel) * stride
                if variance:
                    _add_variance(flat, flat_cross, stride, none, sample, fraction, np.uint64(pixel), end, pixels, out, at)  # pyright: ignore[reportCallIssue]
                else:
                    _add_between(flat, stride, none, sample, fraction, np.uint64(pixel), end, pixels, out, at)  # pyright: ignore[reportCallIssue]
        for pixel in range(h * w):
            y, x = top + pixel // w, left + pixel % w
            for k in range(n):
                volume[y, x, first + k] = out[pixel * CHANNELS + k] + (volume[y, x, first + k] if add else np.float32(0.0))


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def add_projections(slab, cosines, sines, centre, volume):
    """Add the backprojection of a few projections, at most ``BLOCK``, to all channels of ``volume``, which is read and written once.

    Parameters
    ----------
    slab : (projection, sample + 2, channel, filled up with zeros to a multiple of CHANNELS) float32, weighted.
    cosines, sines, centre, volume : as `backproject_slab` has them; the volume contiguous.
    """
    n_rows, n_columns, n_channels = volume.shape
    n_projections, n_samples = slab.shape[0], slab.shape[1] - 2
    down, across, height, width = _tiling(n_rows, n_columns)
    flat, flat_volume, stride = slab.ravel(), volume.ravel(), np.uint64(slab.shape[2])
    origin = centre + 1.0 - 0.5 * (n_columns - 1) * cosines - 0.5 * (n_rows - 1) * sines
    whole = n_channels // CHANNELS * CHANNELS
    for tile in prange(down * across):
        top, left = (tile // across) * height, (tile % across) * width
        h, w = max(min(height, n_rows - top), 0), max(min(width, n_columns - left), 0)
        pixels = np.uint64(h * w)
        sample, fraction = np.empty(h * w * BLOCK, np.uint32), np.empty(h * w * BLOCK, np.float32)
        _trace((top, left, h, w), (0, n_projections), cosines, sines, origin, n_samples, sample, fraction)
        end, rest = np.uint64(n_projections) * pixels, np.empty(CHANNELS, np.float32)
        for pixel in range(h * w):
            base = ((top + pixel // w) * n_columns + left + pixel % w) * n_channels
            start = np.uint64(pixel)
            for q in range(0, whole, CHANNELS):
                _add_between(flat, stride, np.uint64(q), sample, fraction, start, end, pixels, flat_volume, np.uint64(base + q))  # pyright: ignore[reportCallIssue]
            if whole < n_channels:
                rest[:] = 0.0
                _add_between(flat, stride, np.uint64(whole), sample, fraction, start, end, pixels, rest, np.uint64(0))  # pyright: ignore[reportCallIssue]
                for k in range(n_channels - whole):
                    flat_volume[base + whole + k] += rest[k]
