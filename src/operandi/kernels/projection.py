"""A parallel beam as wide as its step, and its exact transpose, for many channels that share one geometry.

The weight of a pixel in a sample is the area that the square pixel and the strip of that sample have in common: the pixel's shadow is
a trapezoid, and what falls on a sample is a difference of its integrals, in closed form. A pixel touches two or three samples. Both
directions take the same weights from `_trace`, so that one is the transpose of the other up to rounding.

Volumes are (slab, row, column, ``CHANNELS``), sinograms (slab, projection, sample, ``CHANNELS``), float32. For a tile of pixels and some
projections the weights are listed once and used by all slabs. Each sum has a fixed order and one thread that makes it: results do
not depend, bit by bit, on the number of threads.

The sums over a list keep their totals in registers. numba has no vectors, so that step is written as LLVM vectors; it lives beside
its callers because numba's cache looks only at the file of the caller.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

CHANNELS = 64
TILE = 8
_PIXELS = TILE * TILE
_ANGLES = 16
"""Projections that read a tile while it is in cache."""
_BLOCK = 8
"""Projections that a tile is summed from at a time."""
_LANES = 16
_MOST_SAMPLES = 2 * TILE
"""More than a tile's diagonal and its two neighbours."""
_NOTHING = np.float32(1e-7)
_FAST = {"contract", "nsz", "arcp"}
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_F32, _LANES)


def beams(cosines: np.ndarray, sines: np.ndarray, centre: float) -> tuple[np.ndarray, np.ndarray]:
    """What `project` and `backproject` want to know of each projection.

    Parameters
    ----------
    cosines, sines : (projection,) of its angle.
    centre : the sample, fractional, on which the rotation axis falls.

    Returns
    -------
    (projection, 6) float64: cosine, sine, centre, half the foot and half the top of the trapezoid, and the scale of its integral's
    parabolas; and (projection, pixel) uint8, the pixels of a tile by the sample on which they fall.
    """
    long, short = np.maximum(abs(cosines), abs(sines)), np.maximum(np.minimum(abs(cosines), abs(sines)), 1e-6)
    columns = [cosines, sines, np.full_like(cosines, centre), (long + short) / 2, (long - short) / 2, 0.5 / (long * short)]
    y, x = np.divmod(np.arange(_PIXELS), TILE)
    order = np.argsort(x * cosines[:, None] + y * sines[:, None], axis=1, kind="stable")
    return np.stack(columns, axis=-1), order.astype(np.uint8)


def _rows(builder, array, index):
    """Pointers to the vectors of ``CHANNELS`` floats from a flat index on."""
    for lane in range(0, CHANNELS, _LANES):
        yield builder.bitcast(builder.gep(array, [builder.add(index, _I64(lane))]), _VECTOR.as_pointer())


def _add_listed(context, builder, signature, arguments):
    source, offsets, shares, out = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 1, 2, 6))
    start, stop, base, at = (arguments[i] for i in (3, 4, 5, 7))
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{_LANES}f32")
    totals = [builder.load(place, align=4) for place in _rows(builder, out, at)]
    before, head, body, done = builder.block, *(builder.append_basic_block(name) for name in ("head", "body", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    entry, sums = builder.phi(_I64), [builder.phi(_VECTOR) for _ in totals]
    builder.cbranch(builder.icmp_signed("<", entry, stop), body, done)
    builder.position_at_end(body)
    row = builder.add(base, builder.zext(builder.load(builder.gep(offsets, [entry])), _I64))
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, builder.load(builder.gep(shares, [entry])), _I32(0))
    share = builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES))
    values = [builder.load(place, align=4) for place in _rows(builder, source, row)]
    added = [builder.call(fma, [value, share, total]) for value, total in zip(values, sums, strict=True)]
    for phi, first, later in zip([entry, *sums], [start, *totals], [builder.add(entry, _I64(1)), *added], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, body)
    builder.branch(head)
    builder.position_at_end(done)
    for place, total in zip(_rows(builder, out, at), sums, strict=True):
        builder.store(total, place, align=4)
    return context.get_dummy_value()


@intrinsic
def _add_rows(typing, source, offsets, shares, start, stop, base, out, at):
    """``out[at:at + CHANNELS] += Σ shares[j] * source[base + offsets[j]:]`` over ``[start, stop)``, in that order."""
    signature = types.none(source, offsets, shares, types.int64, types.int64, types.int64, out, types.int64)
    return signature, _add_listed


@njit(nogil=True, fastmath=_FAST)
def _trace(row, column, shape, beam, n_samples, sample, shares):
    """For every pixel of a tile the sample nearest to it in one projection, and its shares in the one before, in this, in the one after.

    Shares of samples beyond the detector and of pixels beyond the volume are 0.
    """
    cosine, sine, centre, foot, top, scale = beam
    x0, y0 = column - 0.5 * (shape[1] - 1), row - 0.5 * (shape[0] - 1)
    for pixel in range(_PIXELS):
        y, x = pixel // TILE, pixel % TILE
        position = (x0 + x) * cosine + (y0 + y) * sine + centre
        near = np.floor(position + 0.5)
        beyond = position - near - 0.5
        outer, inner = max(foot + beyond, 0.0), max(top + beyond, 0.0)
        after = scale * (outer * outer - inner * inner)
        beyond = near - position - 0.5
        outer, inner = max(foot + beyond, 0.0), max(top + beyond, 0.0)
        before = scale * (outer * outer - inner * inner)
        near = min(max(near, -2.0), n_samples + 1.0)
        inside = row + y < shape[0] and column + x < shape[1]
        shares[pixel] = before if inside and 1.0 <= near <= n_samples else 0.0
        shares[_PIXELS + pixel] = 1.0 - before - after if inside and 0.0 <= near < n_samples else 0.0
        shares[2 * _PIXELS + pixel] = after if inside and -1.0 <= near < n_samples - 1.0 else 0.0
        sample[pixel] = np.int32(near)


@njit(nogil=True, fastmath=_FAST)
def _list_by_pixel(sample, shares, start, stop, n_samples, offset, weight, ends):
    """List, for every pixel of a tile, the samples of the projections ``[start, stop)`` on which it falls."""
    n = 0
    for pixel in range(_PIXELS):
        for p in range(start, stop):
            at = p * n_samples + sample[p - start, pixel] - 1
            for side in range(3):
                share = shares[p - start, side * _PIXELS + pixel]
                offset[n] = np.uint32((at + side) * CHANNELS)
                weight[n] = share
                n += share > _NOTHING
        ends[pixel] = n


@njit(nogil=True, fastmath=_FAST)
def _list_by_sample(sample, shares, order, place, p, n_samples, n, n_rows, offset, weight, rows, ends):
    """List, after the ``n`` entries and ``n_rows`` lists that there are, the pixels of a tile for each sample of projection ``p``."""
    low = 0
    for k in range(max(sample[order[0]] - 1, 0), min(sample[order[_PIXELS - 1]] + 2, n_samples)):
        begin = n
        while low < _PIXELS and sample[order[low]] < k - 1:
            low += 1
        j = low
        while j < _PIXELS and sample[order[j]] <= k + 1:
            pixel = order[j]
            share = shares[(k - sample[pixel] + 1) * _PIXELS + pixel]
            offset[n] = place[pixel]
            weight[n] = share
            n += share > _NOTHING
            j += 1
        rows[n_rows] = p * n_samples + k
        ends[n_rows] = n
        n_rows += n > begin
    return n, n_rows


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def backproject(sinograms, beam, step, lowest, volumes):
    """Backproject, and write the result over ``volumes`` or add it to them.

    Parameters
    ----------
    sinograms : (slab, projection, sample, CHANNELS) float32, finite.
    beam : (projection, 6), from `beams`.
    step : (row, column) float32: ``volumes`` become the larger of ``volumes + step * backprojection`` and ``lowest``; or (0, 0): they
        become the backprojection.
    volumes : (slab, row, column, CHANNELS) float32.
    """
    n_slabs, n_rows, n_columns = volumes.shape[:3]
    n_projections, n_samples = sinograms.shape[1:3]
    across = (n_columns + TILE - 1) // TILE
    flat, size = sinograms.ravel(), n_projections * n_samples * CHANNELS
    for tile in prange(((n_rows + TILE - 1) // TILE) * across):
        row, column = (tile // across) * TILE, (tile % across) * TILE
        offset = np.empty(_PIXELS * 3 * _BLOCK + 1, np.uint32)
        weight = np.empty(_PIXELS * 3 * _BLOCK + 1, np.float32)
        ends = np.empty(_PIXELS, np.int64)
        sample, shares = np.empty((_BLOCK, _PIXELS), np.int32), np.empty((_BLOCK, 3 * _PIXELS), np.float32)
        out = np.zeros(n_slabs * _PIXELS * CHANNELS, np.float32)
        for start in range(0, n_projections, _BLOCK):
            stop = min(start + _BLOCK, n_projections)
            for p in range(start, stop):
                _trace(row, column, (n_rows, n_columns), beam[p], n_samples, sample[p - start], shares[p - start])
            _list_by_pixel(sample, shares, start, stop, n_samples, offset, weight, ends)
            for s in range(n_slabs):
                first = 0
                for pixel in range(_PIXELS):
                    at = (s * _PIXELS + pixel) * CHANNELS
                    _add_rows(flat, offset, weight, first, ends[pixel], s * size, out, at)  # pyright: ignore[reportCallIssue]
                    first = ends[pixel]
        for s in range(n_slabs):
            for pixel in range(_PIXELS):
                y, x = row + pixel // TILE, column + pixel % TILE
                if y < n_rows and x < n_columns:
                    _put(out, (s * _PIXELS + pixel) * CHANNELS, step, y, x, lowest, volumes[s, y, x])


@njit(nogil=True, fastmath=_FAST)
def _put(out, at, step, y, x, lowest, voxel):
    if step.size:
        for q in range(CHANNELS):
            voxel[q] = max(voxel[q] + step[y, x] * out[at + q], lowest)
    else:
        for q in range(CHANNELS):
            voxel[q] = out[at + q]


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def project(volumes, beam, orders, measured, scale, sinograms, squares):
    """Project, and write the result or what is left of ``measured`` after it.

    Parameters
    ----------
    volumes : (slab, row, column, CHANNELS) float32, finite.
    beam, orders : from `beams`.
    measured : (slab, projection, sample, CHANNELS) float32, NaN where there is nothing; or no slab at all.
    scale : (projection, sample) float32. With ``measured``, ``sinograms`` become ``scale * (measured - projection)``, 0 where it is NaN.
    sinograms : (slab, projection, sample, CHANNELS) float32, overwritten.
    squares : (slab, projection, CHANNELS) float32: with ``measured``, the sums over samples of ``(measured - projection)²``.
    """
    n_slabs, n_rows, n_columns = volumes.shape[:3]
    n_projections, n_samples = sinograms.shape[1:3]
    across, down = (n_columns + TILE - 1) // TILE, (n_rows + TILE - 1) // TILE
    flat, flat_out, size = volumes.ravel(), sinograms.ravel(), n_rows * n_columns * CHANNELS
    for group in prange((n_projections + _ANGLES - 1) // _ANGLES):
        start, stop = group * _ANGLES, min((group + 1) * _ANGLES, n_projections)
        offset = np.empty(_ANGLES * 3 * _PIXELS + 1, np.uint32)
        weight = np.empty(_ANGLES * 3 * _PIXELS + 1, np.float32)
        rows, ends = np.empty(_ANGLES * _MOST_SAMPLES + 1, np.int64), np.empty(_ANGLES * _MOST_SAMPLES + 1, np.int64)
        place, sample, shares = np.empty(_PIXELS, np.uint32), np.empty(_PIXELS, np.int32), np.empty(3 * _PIXELS, np.float32)
        for s in range(n_slabs):
            sinograms[s, start:stop] = 0.0
        for tile in range(across * down):
            row, column, n, n_lists = (tile // across) * TILE, (tile % across) * TILE, 0, 0
            for pixel in range(_PIXELS):
                place[pixel] = np.uint32(((row + pixel // TILE) * n_columns + column + pixel % TILE) * CHANNELS)
            for p in range(start, stop):
                _trace(row, column, (n_rows, n_columns), beam[p], n_samples, sample, shares)
                n, n_lists = _list_by_sample(sample, shares, orders[p], place, p, n_samples, n, n_lists, offset, weight, rows, ends)
            for s in range(n_slabs):
                first = 0
                for i in range(n_lists):
                    at = (s * n_projections * n_samples + rows[i]) * CHANNELS
                    _add_rows(flat, offset, weight, first, ends[i], s * size, flat_out, at)  # pyright: ignore[reportCallIssue]
                    first = ends[i]
        if measured.shape[0]:
            for s in range(n_slabs):
                for p in range(start, stop):
                    _subtract(measured[s, p], scale[p], sinograms[s, p], squares[s, p])


@njit(nogil=True, fastmath=_FAST)
def _subtract(measured, scale, projection, squares):
    squares[:] = 0.0
    for i in range(projection.shape[0]):
        for q in range(CHANNELS):
            left = measured[i, q] - projection[i, q]
            left = left if left == left else np.float32(0.0)
            squares[q] += left * left
            projection[i, q] = scale[i] * left
