"""Iterative reconstruction, for few projections and gaps: many channels at once, with a strip projector and its exact transpose.

SIRT: Gregor & Benson 2008, doi:10.1109/TMI.2008.923696. CGLS: Hestenes & Stiefel 1952, doi:10.6028/jres.049.044. MLEM: Shepp & Vardi 1982,
doi:10.1109/TMI.1982.4307558. TV: least squares with isotropic total variation
(Rudin, Osher & Fatemi 1992, doi:10.1016/0167-2789(92)90242-F)
by the primal-dual method of Chambolle & Pock with diagonal steps (Pock & Chambolle 2011, doi:10.1109/ICCV.2011.6126441; for
tomography Sidky, Jørgensen & Pan 2012, doi:10.1088/0031-9155/57/10/3065).

SIRT, CGLS and MLEM grow noise the longer they run: stopping is their regularisation. Where the noise of the sinogram is known a channel
stops as soon as it is described to within that (Morozov's discrepancy principle), otherwise where its residual hardly changes any more.
A cell that is not measured has no residual: it is left out, not filled.
"""

from dataclasses import dataclass, replace

import numpy as np

from operandi.errors import ShapeError
from operandi.kernels import projection as kernel
from operandi.kernels import updates
from operandi.stages.volumes import aligned

DEFAULT_ITERATIONS = {"sirt": 50, "cgls": 15, "mlem": 50, "tv": 200}
_SLABS = 4
"""Slabs of channels that are worked on together; they share the projector's weights."""
_EMPTY, _NO_SLAB = np.empty((0, 0), np.float32), np.empty((0, 1, 1, kernel.CHANNELS), np.float32)
_NO_SQUARES = np.empty((0, 1, kernel.CHANNELS), np.float32)
_TV_BALANCE = 0.2
"""Share of the gradient in the steps of the volume."""
_TV_STRENGTH, _TV_LEAST_NOISE, _TV_FIRST_STOP = 0.7, 1e-3, 20
_MOST_MOMENTS = 16
"""Higher ones tell nothing more about the noise, and feel the width of the beam."""


@dataclass(frozen=True, slots=True)
class Iterations:
    """How to iterate.

    Parameters
    ----------
    method : one of `DEFAULT_ITERATIONS`.
    most : upper bound of the number of iterations; None takes the method's default.
    nonnegative : no voxel below 0; mlem never has one, cgls cannot promise it.
    tolerance : stop where the residual's norm changes by less than this fraction in one iteration; 0 never does.
    noise : (q,) root mean square of the sinogram's standard deviation over its measured cells, where it is known.
    strength : of tv, weight of the total variation against half the sum of squares, both in the sinogram's unit and per step of the
        translation; None takes it from the noise, given or estimated from the sinogram.
    """

    method: str
    most: int | None = None
    nonnegative: bool = False
    tolerance: float = 1e-3
    noise: np.ndarray | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.method not in DEFAULT_ITERATIONS:
            raise ShapeError(f"there is no iterative method {self.method!r}; choose one of {', '.join(DEFAULT_ITERATIONS)}")
        if self.most is not None and (isinstance(self.most, bool) or not isinstance(self.most, int | np.integer) or self.most < 1):
            raise ShapeError(f"iterations={self.most!r}: give a whole number of at least 1, or None for the method's default")
        if self.nonnegative and self.method == "cgls":
            raise ShapeError("cgls cannot keep voxels from being negative: use method='sirt', 'mlem' or 'tv', or leave nonnegative out")
        if not (np.isfinite(self.tolerance) and 0 <= self.tolerance < 1):
            raise ShapeError(f"tolerance={self.tolerance}: give a fraction in [0, 1)")
        if self.strength is not None and (self.method != "tv" or not (np.isfinite(self.strength) and self.strength >= 0)):
            raise ShapeError(f"strength={self.strength} with method {self.method!r}: it belongs to tv, and is a finite number, 0 or more")

    @property
    def count(self) -> int:
        """The upper bound that holds."""
        return DEFAULT_ITERATIONS[self.method] if self.most is None else int(self.most)


def iterate(
    projections: np.ndarray,
    rotation_deg: np.ndarray,
    centre: float,
    pitch_mm: float,
    how: Iterations,
    limits: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Volume (y, x, q) float32, per mm, and the number of iterations (q,) that each channel took.

    Parameters
    ----------
    projections : (rotation, translation, q) float32; what is not finite is not measured. mlem takes what is negative as 0.
    rotation_deg : (rotation,), finite; angles may repeat and leave any gaps.
    centre : the sample, fractional, on which the rotation axis falls.
    limits : (q,) numbers of iterations that each channel takes, in place of the rule for stopping.

    Returns
    -------
    Channels without a single measured cell are NaN, with 0 iterations.
    """
    n_samples, n_channels = projections.shape[1:]
    volume, used = np.full((n_samples, n_samples, n_channels), np.nan, np.float32), np.zeros(n_channels, int)
    if len(projections) == 0:
        return volume, used
    projector = _Projector.of(np.deg2rad(rotation_deg), centre, n_samples)
    known = np.isfinite(projections)
    projector = projector.weighed(np.asarray(known.any(axis=2)))
    solve = {"sirt": _sirt, "cgls": _cgls, "mlem": _mlem, "tv": _tv}[how.method]
    for first in range(0, n_channels, _SLABS * kernel.CHANNELS):
        part = slice(first, min(first + _SLABS * kernel.CHANNELS, n_channels))
        cells = np.where(known[:, :, part], projections[:, :, part], np.nan)
        scale = _scales(cells)
        noise = None if how.noise is None else how.noise[part]
        target = None if noise is None or how.method == "tv" else known[:, :, part].sum(axis=(0, 1)) * (noise / scale) ** 2
        watch = _Watch.of(_slabs(cells / scale), how, target, None if limits is None else limits[part], volume[:, :, part], used[part])
        solve(projector, watch, how.nonnegative, _per_slab(_strength(cells, np.deg2rad(rotation_deg), noise, how) / scale))
        volume[:, :, part] *= scale / np.float32(pitch_mm)
        volume[:, :, part][:, :, ~known[:, :, part].any(axis=(0, 1))] = np.nan
    return volume, used


def _scales(cells: np.ndarray) -> np.ndarray:
    """(q,) the largest absolute value of each channel, by which it is divided so that squares neither overflow nor vanish."""
    largest = np.max(np.abs(cells), axis=(0, 1), initial=0.0, where=np.isfinite(cells))
    return np.where(largest > 0, largest, 1.0).astype(np.float32)


def _strength(cells: np.ndarray, angle: np.ndarray, noise: np.ndarray | None, how: Iterations) -> np.ndarray:
    """(q,) weight of the total variation: what the noise of all projections adds up to in a voxel, or else a small share of the signal.

    Some part of that force is needed to hold noise down, whatever the object is. More suits flat and smooth objects, less fine ones.
    """
    if how.method != "tv" or how.strength is not None:
        return np.full(cells.shape[2], how.strength or 0.0)
    known = np.where(np.isfinite(cells).any(axis=(0, 1)), cells, 0.0)
    signal = np.sqrt(np.nanmean(np.square(known, dtype=float), axis=(0, 1)))
    noise = _estimated_noise(cells, angle) if noise is None else noise
    return _TV_STRENGTH * np.sqrt(len(cells)) * np.maximum(noise, _TV_LEAST_NOISE * signal)


def _estimated_noise(cells: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(q,) standard deviation of a cell: the smaller of two estimates, either of which takes something else for noise.

    One takes fine structure for noise, the other what changes between projections, or lies beyond the scanned width.
    """
    return np.fmin(_bent(cells), _inconsistent(cells, angle))


def _bent(cells: np.ndarray) -> np.ndarray:
    """(q,) by what is not straight within three neighbouring samples, robustly, from at most 32 projections or so."""
    bent = np.abs(np.diff(cells[:: -(-len(cells) // 32)], 2, axis=1)).reshape(-1, cells.shape[2])
    if bent.size == 0:
        return np.zeros(cells.shape[2])
    return 1.4826 / np.sqrt(6) * np.nanmedian(np.where(np.isfinite(bent).any(axis=0), bent, 0.0), axis=0)


def _inconsistent(cells: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(q,) by what no object can project, from the projections that are whole; NaN where fewer than three are.

    Moment m of the projections over the translation is a trigonometric polynomial of degree m of the angle (Ludwig 1966,
    doi:10.1002/cpa.3160190207).
    """
    whole = np.isfinite(cells).all(axis=(1, 2))
    if (n := int(whole.sum())) < 3:
        return np.full(cells.shape[2], np.nan)
    degree = min((n - 1) // 2, cells.shape[1] // 4, _MOST_MOMENTS)
    across = np.linalg.qr(np.polynomial.legendre.legvander(np.linspace(-1, 1, cells.shape[1]), degree))[0]
    moments = np.einsum("pnq,nm->mpq", cells[whole], across, optimize=True)
    squares, free = np.zeros(cells.shape[2]), 0
    for m, moment in enumerate(moments):
        turns = np.outer(angle[whole], np.arange(1, m + 1))
        basis = np.linalg.qr(np.hstack([np.ones((n, 1)), np.cos(turns), np.sin(turns)]))[0]
        squares += np.sum((moment - basis @ (basis.T @ moment)) ** 2, axis=0)
        free += n - basis.shape[1]
    return np.sqrt(squares / free)


def _per_slab(values: np.ndarray) -> np.ndarray:
    """(q,) as (slab, CHANNELS) float32, 0 beyond."""
    out = np.zeros((-(-values.size // kernel.CHANNELS), kernel.CHANNELS), np.float32)
    out.ravel()[: values.size] = values
    return out


def _slabs(cells: np.ndarray) -> np.ndarray:
    """(rotation, translation, q) as (slab, rotation, translation, CHANNELS), 0 beyond the last channel."""
    n_channels = cells.shape[2]
    out = np.zeros((-(-n_channels // kernel.CHANNELS), *cells.shape[:2], kernel.CHANNELS), np.float32)
    for slab, first in zip(out, range(0, n_channels, kernel.CHANNELS), strict=True):
        slab[:, :, : n_channels - first] = cells[:, :, first : first + kernel.CHANNELS]
    return out


@dataclass(frozen=True, slots=True)
class _Projector:
    """A parallel beam as wide as its step, which is 1, with the reciprocals of its row and column sums over measured cells."""

    beam: np.ndarray
    orders: np.ndarray
    n_samples: int
    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, angle: np.ndarray, centre: float, n_samples: int) -> "_Projector":
        return cls(*kernel.beams(np.cos(angle), np.sin(angle), centre), n_samples, _EMPTY, _EMPTY)

    def weighed(self, measured: np.ndarray) -> "_Projector":
        """With the sums over those cells (projection, sample) that are measured in some channel: then no channel's step is too long."""
        ones = np.zeros((1, *measured.shape, kernel.CHANNELS), np.float32)
        ones[0, measured] = 1.0
        columns = self.back(ones)[0, :, :, 0]
        through = self.forward(np.ones((1, self.n_samples, self.n_samples, kernel.CHANNELS), np.float32))[0, :, :, 0]
        return replace(self, rows=np.where(measured, _reciprocal(through), 0).astype(np.float32), columns=_reciprocal(columns))

    def forward(self, volumes: np.ndarray) -> np.ndarray:
        out = aligned((len(volumes), len(self.beam), self.n_samples, kernel.CHANNELS))
        kernel.project(volumes, self.beam, self.orders, _NO_SLAB, _EMPTY, out, _NO_SQUARES)
        return out

    def residual(self, volumes: np.ndarray, measured: np.ndarray, scale: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write ``scale * (measured - projection)``; returns the sum of the squares without the scale (slab, channel)."""
        squares = np.empty((*measured.shape[:2], kernel.CHANNELS), np.float32)
        kernel.project(volumes, self.beam, self.orders, measured, scale, out, squares)
        return squares.sum(axis=1, dtype=float)

    def back(self, sinograms: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        out = aligned((len(sinograms), self.n_samples, self.n_samples, kernel.CHANNELS)) if out is None else out
        kernel.backproject(sinograms, self.beam, _EMPTY, np.float32(0), out)
        return out

    def empty(self, measured: np.ndarray) -> np.ndarray:
        out = aligned((len(measured), self.n_samples, self.n_samples, kernel.CHANNELS))
        out[:] = 0.0
        return out


def _reciprocal(values: np.ndarray) -> np.ndarray:
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 1e-3)


@dataclass(slots=True)
class _Watch:
    """The measured slabs, and which channels still run; keeps each channel as it was when it stopped."""

    measured: np.ndarray
    most: int
    tolerance: float
    target: np.ndarray | None
    limits: np.ndarray | None
    volume: np.ndarray
    used: np.ndarray
    running: np.ndarray
    before: np.ndarray

    @classmethod
    def of(cls, measured: np.ndarray, how: Iterations, target, limits, volume: np.ndarray, used: np.ndarray) -> "_Watch":
        most = how.count if limits is None else int(limits.max(initial=0))
        return cls(measured, most, how.tolerance, target, limits, volume, used, np.ones(used.size, bool), np.full(used.size, np.inf))

    def ends(self, iteration: int, squares: np.ndarray, volumes: np.ndarray, first: int = 2) -> bool:
        """Whether no channel runs on after ``iteration`` iterations, which left the sums of squares (slab, channel)."""
        left = squares.ravel()[: self.used.size]
        if self.limits is not None:
            done = self.limits <= iteration
        else:
            done = (left <= 0 if self.target is None else left <= self.target) | (left <= 0)
            if self.target is None and iteration >= first:
                done |= np.abs(np.sqrt(self.before) - np.sqrt(left)) < self.tolerance * np.sqrt(self.before)
            self.before = left
        self._keep(np.flatnonzero(done & self.running), iteration, volumes)
        return not self.running.any()

    def close(self, volumes: np.ndarray) -> None:
        """Keep the channels that still run."""
        self._keep(np.flatnonzero(self.running), self.most, volumes)

    def _keep(self, channels: np.ndarray, iteration: int, volumes: np.ndarray) -> None:
        for s in range(len(volumes)):
            own = channels[channels // kernel.CHANNELS == s]
            if own.size:
                self.volume[:, :, own] = volumes[s][:, :, own % kernel.CHANNELS]
        self.used[channels], self.running[channels] = iteration, False


def _sirt(projector: _Projector, watch: _Watch, nonnegative: bool, strength: np.ndarray) -> None:
    volumes, left = projector.empty(watch.measured), aligned(watch.measured.shape)
    lowest = np.float32(0.0 if nonnegative else -np.inf)
    for i in range(watch.most):
        if watch.ends(i, projector.residual(volumes, watch.measured, projector.rows, left), volumes):
            return
        kernel.backproject(left, projector.beam, projector.columns, lowest, volumes)
    watch.close(volumes)


def _cgls(projector: _Projector, watch: _Watch, nonnegative: bool, strength: np.ndarray) -> None:
    unit = np.ones(watch.measured.shape[1:3], np.float32)
    volumes, blank = projector.empty(watch.measured), watch.measured * 0
    left, along = np.nan_to_num(watch.measured), aligned(blank.shape)
    gradient, direction = projector.back(left), projector.back(left)
    norm, squares = _norms(gradient), _norms(left)
    for i in range(watch.most):
        if watch.ends(i, squares, volumes):
            return
        step = _ratio(norm, projector.residual(direction, blank, -unit, along))
        _combine(step, direction, 1.0, volumes)
        squares = _combine(-step, along, 1.0, left)
        before, norm = norm, _norms(projector.back(left, gradient))
        _combine(1.0, gradient, _ratio(norm, before), direction)
    watch.close(volumes)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _norms(values: np.ndarray) -> np.ndarray:
    """(slab, channel) sums of squares."""
    squares = np.empty((values.shape[1], len(values), kernel.CHANNELS), np.float32)
    updates.sum_squares(values, squares)
    return squares.sum(axis=0, dtype=float)


def _combine(a: np.ndarray | float, x: np.ndarray, b: np.ndarray | float, y: np.ndarray) -> np.ndarray:
    """``y`` becomes ``a * x + b * y``; returns its sums of squares."""
    squares = np.empty((y.shape[1], len(y), kernel.CHANNELS), np.float32)
    factors = (np.ascontiguousarray(np.broadcast_to(f, (len(y), kernel.CHANNELS)), np.float32) for f in (a, b))
    updates.combine(next(factors), x, next(factors), y, squares)
    return squares.sum(axis=0, dtype=float)


def _mlem(projector: _Projector, watch: _Watch, nonnegative: bool, strength: np.ndarray) -> None:
    measured, squares = np.maximum(watch.measured, 0), np.empty((watch.measured.shape[1], len(watch.measured), kernel.CHANNELS), np.float32)
    volumes, raised = projector.empty(measured), projector.empty(measured)
    known = np.isfinite(measured)
    reach = np.where(projector.rows > 0, _reciprocal(projector.rows), 0)
    level = _ratio(np.nansum(measured, axis=(1, 2), dtype=float), np.einsum("spiq,pi->sq", known, reach, dtype=float))
    volumes[:] = np.where(projector.columns > 0, 1, 0)[None, :, :, None] * level[:, None, None, :]
    columns = _reciprocal(projector.back(known.astype(np.float32)))
    for i in range(watch.most):
        projected = projector.forward(volumes)
        updates.divide(measured, projected, squares)
        if watch.ends(i, squares.sum(axis=0, dtype=float), volumes):
            return
        volumes *= np.multiply(columns, projector.back(projected, raised), out=raised)
    watch.close(volumes)


def _tv(projector: _Projector, watch: _Watch, nonnegative: bool, strength: np.ndarray) -> None:
    """The data's dual variable is kept with its sign turned, so that it pulls the volume up where too little is projected."""
    measured, rows = watch.measured, projector.rows
    balance = 1 / rows[rows > 0].mean()
    through = _reciprocal(projector.columns)
    slope_step = np.float32(_TV_BALANCE * balance * through.mean() / 4)
    step = _reciprocal(balance * through + 4 * slope_step)
    share = 1 / (1 + balance * rows)
    lowest = np.float32(0.0 if nonnegative else -np.inf)
    volumes, pull, left = projector.empty(measured), np.zeros_like(measured), aligned(measured.shape)
    ahead, raised, slopes = projector.empty(measured), projector.empty(measured), np.zeros((2, *volumes.shape), np.float32)
    for i in range(watch.most):
        if watch.ends(i, projector.residual(ahead, measured, balance * rows * share, left), volumes, _TV_FIRST_STOP):
            return
        pull *= share[:, :, None]
        pull += left
        updates.rise(ahead, slope_step, strength, slopes)
        updates.descend(projector.back(pull, raised), slopes, step, lowest, volumes, ahead)
    watch.close(volumes)
