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
def _add_lagged(typing, flat, base, half, lags, values, start, stop, out, at):
    """``out[at:] += Σ values[m] * flat[place of base - lags[m]:]`` over ``range(start, stop)``, for ``CHANNELS`` channels.

    Samples lie in the order 0, 2, 4 … (``half`` of them), 1, 3, 5 …
    """

    def build(context, builder, signature, arguments):
        data, lag, value, target = _pointers(context, builder, signature, arguments, 0, 3, 4, 7)
        _, base, half, _, _, start, stop, _, at = arguments
        one, width = ir.Constant(_INDEX, 1), ir.Constant(_INDEX, CHANNELS)

        def step(m, total):
            sample = builder.sub(base, builder.zext(builder.load(builder.gep(lag, [m])), _INDEX))
            place = builder.add(builder.lshr(sample, one), builder.mul(builder.and_(sample, one), half))
            return _plus(builder, total, builder.load(builder.gep(value, [m])), data, builder.mul(place, width))

        _accumulate(builder, (start, stop, ir.Constant(_INDEX, 1)), _vector(builder, target, at), step)
        return context.get_dummy_value()

    return types.void(flat, base, half, lags, values, start, stop, out, at), build


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
def _add_variance(typing, flat, width, first, cross, sample, fraction, start, stop, stride, out, at):
    """The same for variances: squares of the interpolation's weights, and twice their product on what lies ``cross`` further on."""

    def build(context, builder, signature, arguments):
        data, samples, fractions, target = _pointers(context, builder, signature, arguments, 0, 4, 5, 9)
        _, width, first, cross, _, _, start, stop, stride, _, at = arguments

        def step(p, total):
            index = builder.add(builder.mul(builder.zext(builder.load(builder.gep(samples, [p])), _INDEX), width), first)
            high = builder.load(builder.gep(fractions, [p]))
            low = builder.fsub(ir.Constant(_FLOAT, 1.0), high)
            total = _plus(builder, total, builder.fmul(low, low), data, index)
            total = _plus(builder, total, builder.fmul(builder.fadd(low, low), high), data, builder.add(index, cross))
            return _plus(builder, total, builder.fmul(high, high), data, builder.add(index, width))

        _accumulate(builder, (start, stop, stride), _vector(builder, target, at), step)
        return context.get_dummy_value()

    return types.void(flat, width, first, cross, sample, fraction, start, stop, stride, out, at), build


@njit(nogil=True)
def _aligned(size):
    """Zeros that begin on a cache line: vectors that straddle lines cost twice."""
    room = np.zeros(size + 16, np.float32)
    start = np.int64((64 - room.ctypes.data % 64) % 64) // 4
    return room[start : start + size]


@njit(nogil=True, fastmath=_FAST)
def _filter(projection, first, weight, lags, values, ranges, block, out, place, width):
    """Convolve ``CHANNELS`` channels of one projection with one kernel, into ``out`` from ``place`` on; ``block`` is room for these.

    The ramp reads every second sample. These lie together and are read one after the other: every second of rows would share half
    of the nearest cache.
    """
    n_samples = len(projection)
    n, half, none = max(min(CHANNELS, projection.shape[1] - first), 0), (n_samples + 1) // 2, np.float32(0.0)
    for i in range(n_samples):
        at = (i // 2 + i % 2 * half) * CHANNELS
        for k in range(n):
            block[at + k] = projection[i, first + k] * weight
        for k in range(n, CHANNELS):
            block[at + k] = none
    for i in range(n_samples + 2):
        for k in range(CHANNELS):
            out[place + i * width + k] = none
    for turn in range(n_samples if n > 0 else 0):
        i = 2 * turn if turn < half else 2 * (turn - half) + 1
        if ranges[0, i] < ranges[1, i]:
            base, at = np.uint64(n_samples + i), np.uint64(place + (i + 1) * width)
            _add_lagged(block, base, np.uint64(half), lags, values, ranges[0, i], ranges[1, i], out, at)  # pyright: ignore[reportCallIssue]


@njit(cache=True, nogil=True, parallel=True)
def filter_slab(projections, order, first, lags, values, ranges, weights, slab):
    """Convolve the channels from ``first`` on of some projections with one kernel or several, into ``slab``.

    Parameters
    ----------
    projections : (any, sample, channel) float32, finite.
    order : (projection,) int64, which of them, in this order.
    lags, values : (tap,) uint32, plus the number of samples, and float32: a kernel where it is not zero; one kernel after another.
    ranges : (kernel, 2, sample) uint64, for each sample the range ``[a, b)`` of those taps that reach into the projection.
    weights : (projection,) float32, with which each filtered projection is multiplied.
    slab : (kernel, projection, sample + 2, a multiple of CHANNELS) float32, overwritten; channels beyond the last become 0.
    """
    width, out = slab.shape[3], slab.reshape(slab.size)
    parts, size = width // CHANNELS, slab.shape[2] * width
    for job in prange(order.size * parts):
        p, part, block = job // parts, job % parts * CHANNELS, _aligned(projections.shape[1] * CHANNELS)
        for kind in range(len(ranges)):
            place = (kind * order.size + p) * size + part
            _filter(projections[order[p]], first + part, weights[p], lags, values, ranges[kind], block, out, place, width)


def beams(cosines, sines, centre, n_rows, n_columns):
    """What the tracing wants to know of each projection.

    Parameters
    ----------
    cosines, sines : (projection,) float64.
    centre : the sample, fractional, on which the rotation axis falls, one or (projection,).

    Returns
    -------
    (projection, 3) float64: the steps along rows and columns, and the place of pixel (0, 0), in rows of the slab; and (projection, 3)
    float32 of the shadow, a trapezoid, that a square pixel casts: how far its foot reaches beyond half a sample, the width of its flank,
    and the scale of the parabolas that its integral consists of.
    """
    long, short = np.maximum(abs(cosines), abs(sines)), np.maximum(np.minimum(abs(cosines), abs(sines)), 1e-6)
    origin = centre + 1.0 - 0.5 * (n_columns - 1) * cosines - 0.5 * (n_rows - 1) * sines
    shadows = np.stack([0.5 * (long + short - 1.0), short, 0.5 / (long * short)], axis=-1)
    return np.stack([sines, cosines, origin], axis=-1), shadows.astype(np.float32)


@njit(nogil=True, fastmath=_FAST)
def _trace(tile, block, paths, shadows, n_samples, sample, fraction):
    """For each projection of a block and pixel of a tile, the lower of two samples and the share of the upper one.

    The sample farther from the pixel's centre gets the area that its strip and the square pixel have in common, the nearer one the rest.
    Beyond the detector both are rows of zeros. Positions are computed in the same way for every tile.
    """
    top, left, height, width = tile
    one, half, last = np.float32(1.0), np.float32(0.5), n_samples + _LAST
    for p in range(block[0], block[1]):
        first, step = np.int32(p * (n_samples + 2)), paths[p, 1]
        reach, flank, scale = shadows[p]
        for i in range(height):
            start = (top + i) * paths[p, 0] + paths[p, 2]
            k = np.uint64(((p - block[0]) * height + i) * width)
            for j in range(width):
                position = start + np.int32(left + j) * step
                inside = min(max(position, 0.0), last)
                below = np.int32(inside)
                upper = np.float32(inside - below)
                outer = reach + min(upper, one - upper)
                share = min(outer, flank) * (outer + max(outer - flank, np.float32(0.0))) * scale
                share = share if upper < half else one - share
                share = share if position > 0.0 else np.float32(0.0)
                sample[k + np.uint64(j)] = np.uint32(first + below)
                fraction[k + np.uint64(j)] = share if position < last else one


@njit(nogil=True)
def _tile(tile, n_rows, n_columns):
    """Top, left, height and width of a tile: nearly equal ones, so that threads end together."""
    down, across = _tiles(n_rows, n_columns)
    height, width = (n_rows + down - 1) // down, (n_columns + across - 1) // across
    top, left = (tile // across) * height, (tile % across) * width
    return top, left, max(min(height, n_rows - top), 0), max(min(width, n_columns - left), 0)


@njit(nogil=True)
def _tiles(n_rows, n_columns):
    """How many tiles there are down and across."""
    return 2 * ((n_rows + 2 * EDGE - 1) // (2 * EDGE)), (n_columns + EDGE - 1) // EDGE


@njit(nogil=True, fastmath=_FAST)
def _backproject(tile, slab, channels, paths, shadows, volume, add):
    top, left, h, w = tile
    n_projections, n_samples, width = slab.shape[1], slab.shape[2] - 2, slab.shape[3]
    flat, variance, cross = slab.reshape(slab.size), len(slab) == 2, np.uint64(slab.size // 2)
    stride, pixels, (first, n) = np.uint64(width), np.uint64(h * w), channels
    sample, fraction = np.empty(h * w * BLOCK, np.uint32), np.empty(h * w * BLOCK, np.float32)
    out = _aligned(h * w * width)
    for block in range(0, n_projections, BLOCK):
        stop = min(block + BLOCK, n_projections)
        _trace(tile, (block, stop), paths, shadows, n_samples, sample, fraction)
        end = np.uint64(stop - block) * pixels
        for q in range(0, n, CHANNELS):
            here = np.uint64(q)
            for pixel in range(h * w):
                p, at = np.uint64(pixel), np.uint64(pixel * width + q)
                if variance:
                    _add_variance(flat, stride, here, cross, sample, fraction, p, end, pixels, out, at)  # pyright: ignore[reportCallIssue]
                else:
                    _add_between(flat, stride, here, sample, fraction, p, end, pixels, out, at)  # pyright: ignore[reportCallIssue]
    for pixel in range(h * w):
        y, x, at = top + pixel // w, left + pixel % w, pixel * width
        if add:
            for k in range(n):
                volume[y, x, first + k] += out[at + k]
        else:
            for k in range(n):
                volume[y, x, first + k] = out[at + k]


@njit(cache=True, nogil=True, parallel=True)
def backproject_slab(slab, channels, paths, shadows, volume, add):
    """Write the backprojection of a slab into channels of ``volume``, or add it to them.

    Parameters
    ----------
    slab : (1 or 2, projection, sample + 2, a multiple of CHANNELS) float32, weighted. Where there are 2, they hold variances filtered by
        h² and by h·h₊₁, and what is written is the variance: the sum of squares of the interpolation's weights on the one, and twice
        their product on the other.
    channels : the first of the volume's, and how many; the slab may have more.
    paths, shadows : of the projections (`beams`).
    volume : (row, column, channel) float32. The axis runs through its middle; row and column step by one sample.
    add : whether to add to what is in the volume.
    """
    down, across = _tiles(volume.shape[0], volume.shape[1])
    for tile in prange(down * across):
        _backproject(_tile(tile, volume.shape[0], volume.shape[1]), slab, channels, paths, shadows, volume, add)


@njit(nogil=True, fastmath=_FAST)
def _add(tile, slab, paths, shadows, volume):
    top, left, h, w = tile
    n_columns, n_channels, n_projections, n_samples = volume.shape[1], volume.shape[2], slab.shape[1], slab.shape[2] - 2
    flat, flat_volume, stride = slab.reshape(slab.size), volume.reshape(volume.size), np.uint64(slab.shape[3])
    pixels, whole = np.uint64(h * w), n_channels // CHANNELS * CHANNELS
    sample, fraction = np.empty(h * w * BLOCK, np.uint32), np.empty(h * w * BLOCK, np.float32)
    _trace(tile, (0, n_projections), paths, shadows, n_samples, sample, fraction)
    end, rest = np.uint64(n_projections) * pixels, np.empty(CHANNELS, np.float32)
    span = max(4 * BLOCK // n_projections, 1) * CHANNELS  # so few channels that their samples stay near for a whole tile
    for near in range(0, slab.shape[3], span):
        for pixel in range(h * w):
            base, start = ((top + pixel // w) * n_columns + left + pixel % w) * n_channels, np.uint64(pixel)
            for q in range(near, min(near + span, slab.shape[3]), CHANNELS):
                target, at = (flat_volume, np.uint64(base + q)) if q < whole else (rest, np.uint64(0))
                for k in range(CHANNELS if q == whole else 0):
                    rest[k] = 0.0
                _add_between(flat, stride, np.uint64(q), sample, fraction, start, end, pixels, target, at)  # pyright: ignore[reportCallIssue]
                if q == whole:
                    for k in range(n_channels - whole):
                        flat_volume[base + whole + k] += rest[k]


@njit(cache=True, nogil=True, parallel=True)
def add_projections(slab, paths, shadows, volume):
    """Add the backprojection of a few projections, at most ``BLOCK``, to all channels of ``volume``, which is read and written once.

    Parameters
    ----------
    slab : (1, projection, sample + 2, channel, filled up with zeros to a multiple of CHANNELS) float32, weighted.
    paths, shadows, volume : as `backproject_slab` has them; the volume contiguous.
    """
    down, across = _tiles(volume.shape[0], volume.shape[1])
    for tile in prange(down * across):
        _add(_tile(tile, volume.shape[0], volume.shape[1]), slab, paths, shadows, volume)
