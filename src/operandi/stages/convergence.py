"""How well a frame is determined: Fourier ring correlation, what more projections would give, and whether the cell changed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from operandi.errors import ShapeError

Threshold = Literal["half-bit", "one-bit", "one-seventh", "three-sigma"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RingCorrelation:
    """Agreement of two maps, ring by ring in frequency; all arrays are (ring,).

    ``frequency`` 1/mm (of a full period); ``correlation`` -1 … 1, NaN where the maps have no power; ``number`` of independent points of
    a ring, both of each pair at opposite frequencies counted; ``threshold`` above which the maps agree. ``resolution_mm`` is the
    period at which the correlation, smoothed over three rings, first falls below; that of the last ring, two points of the map, where it
    never does; inf where the maps do not agree at all.
    """

    frequency: Array
    correlation: Array
    number: Array
    threshold: Array
    resolution_mm: float
    criterion: Threshold


def fourier_ring_correlation(a: Array, b: Array, pitch_mm: float, *, criterion: Threshold = "half-bit") -> RingCorrelation:
    """Fourier ring correlation of two maps of the same cell, such as those of the even and the odd sets.

    Both are taken within the circle that the grid holds, less their mean there, and faded out towards its edge (a raised cosine over
    the outer fifth of the radius), for a hard edge common to both would correlate. The fading joins neighbouring frequencies: the
    number of independent ones falls accordingly. NaN in either map counts in neither.

    Two interlaced sets also differ by the streaks of their few angles: these count as disagreement, as noise does. What is wrong in
    both alike (rings, a wrong axis) counts as agreement. The correlation is that of the halves; their mean is determined better,
    and the criteria half-bit, one-bit and one-seventh say so already: they are thresholds for halves.

    Parameters
    ----------
    a, b
        (y, x), square, of one shape.
    criterion
        half-bit, one-bit: information per point in the mean of both (van Heel & Schatz, J. Struct. Biol. 151, 250 (2005),
        10.1016/j.jsb.2005.05.009, eq. 17 and its like); one-seventh: 0.143 (Rosenthal & Henderson, J. Mol. Biol. 333, 721 (2003));
        three-sigma: above what noise alone gives.

    Raises
    ------
    ShapeError
        Maps that are not square or not of one shape; fewer than 8 points wide.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.ndim != 2 or first.shape != second.shape or first.shape[0] != first.shape[1] or len(first) < 8:
        raise ShapeError(f"maps of shapes {first.shape} and {second.shape}: give two square ones of one shape, at least 8 points wide")
    n = len(first)
    measured = np.isfinite(first) & np.isfinite(second)
    window = np.where(measured, _fading(n), 0.0)
    left, right = (np.fft.fft2(_centred(values, window)) for values in (first, second))
    ring = _rings(n)
    rings = np.arange(1, n // 2 + 1)

    def summed(values: Array) -> Array:
        return np.bincount(ring.ravel(), values.ravel(), minlength=n)[rings].astype(np.float64)

    power = np.sqrt(summed(np.abs(left) ** 2) * summed(np.abs(right) ** 2))
    cross = summed((left * right.conj()).real)
    correlation = np.divide(cross, power, out=np.full(len(rings), np.nan), where=power > 0)
    # the share of independent points in the plane; along a ring, which is but one point thick, its root
    share = (window**2).sum() ** 2 / max((window**4).sum(), 1e-300) / window.size
    number = np.maximum(summed(np.ones((n, n))) * np.sqrt(share), 1.0)
    frequency = rings / (n * pitch_mm)
    threshold = _threshold(number, criterion)
    resolution = _resolution(frequency, _smoothed(correlation, number) - threshold)
    return RingCorrelation(frequency, correlation, number, threshold, resolution, criterion)


def _fading(n: int) -> Array:
    """1 in the middle of the grid, 0 from its inner circle on, a raised cosine over the outer fifth of the radius."""
    axis = np.arange(n) - (n - 1) / 2
    radius = np.hypot(axis[:, None], axis[None]) / (n / 2)
    return 0.5 * (1 + np.cos(pi * np.clip((radius - 0.8) / 0.2, 0, 1)))


def _rings(n: int) -> NDArray[np.int64]:
    axis = np.fft.fftfreq(n) * n
    rings: NDArray[np.int64] = np.rint(np.hypot(axis[:, None], axis[None])).astype(np.int64)
    return rings


def _centred(values: Array, window: Array) -> Array:
    filled = np.where(window > 0, values, 0.0)
    return window * (filled - (window * filled).sum() / max(window.sum(), 1e-300))


def _threshold(number: Array, criterion: Threshold) -> Array:
    """The correlation above which halves agree, for rings of so many points."""
    root = np.sqrt(number)
    if criterion == "three-sigma":
        return np.minimum(3 / root, 1.0)
    if criterion == "one-seventh":
        return np.full(number.shape, 1 / 7)
    # information of the mean, in bits: log2(1 + SNR); each half has half of that SNR
    snr = {"half-bit": (2**0.5 - 1) / 2, "one-bit": 0.5}[criterion]
    common = snr + 2 * np.sqrt(snr) / root
    return (common + 1 / root) / (common + 1)


def _smoothed(correlation: Array, number: Array) -> Array:
    """Mean over three neighbouring rings by their numbers of points; rings without power count as not correlated."""
    padded, weight = (np.pad(values, 1, mode="edge") for values in (np.nan_to_num(correlation), number))
    return np.convolve(padded * weight, np.ones(3), "valid") / np.convolve(weight, np.ones(3), "valid")


def _resolution(frequency: Array, above: Array) -> float:
    """The period, mm, at which ``above`` first falls below 0, linear between rings."""
    below = np.flatnonzero(~(above >= 0))
    if len(below) == 0:
        return 1 / float(frequency[-1])
    first = int(below[0])
    if first == 0:
        return float("inf")
    high, low = above[first - 1], above[first]
    share = high / (high - low) if np.isfinite(low) else 0.0
    return 1 / float(frequency[first - 1] + share * (frequency[first] - frequency[first - 1]))


@dataclass(frozen=True, slots=True)
class Difference:
    """``second - first`` of two maps and its standard deviation, in the maps' unit; ``significance`` is their ratio, NaN without sigma."""

    difference: Array
    sigma: Array
    significance: Array


def difference_map(first: Array, second: Array, sigma_first: Array, sigma_second: Array) -> Difference:
    """What changed from one map to the other, against the exact standard deviations of both, which must be independent.

    Of maps from sets at other angles the streaks of too few angles show as well, in a cell that stands still.
    """
    difference = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    sigma = np.hypot(np.asarray(sigma_first, np.float64), np.asarray(sigma_second, np.float64))
    significance = np.divide(difference, sigma, out=np.full(difference.shape, np.nan), where=sigma > 0)
    return Difference(difference, sigma, significance)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a frame of ``projections`` would be like.

    ``snr`` (ring,) of power, of the mean of both halves; ``correlation`` (ring,) expected between its halves; ``resolution_mm`` by
    the criterion; ``angular_mm`` the finest period for which the angles suffice (Crowther): below it the resolution is limited by
    noise, and above it streaks limit it, so that further angles give more than forecast.
    """

    projections: int
    snr: Array
    correlation: Array
    resolution_mm: float
    angular_mm: float


def more_projections(measured: RingCorrelation, projections: int, wanted: Sequence[int], diameter_mm: float) -> list[Forecast]:
    """What frames of other numbers of projections would be like, from the halves of one.

    The signal-to-noise ratio of power, SNR = 2 C / (1 - C) for halves that correlate by C, grows as the number of projections, for
    the variance of each voxel falls as 1/n. That is exact for noise. Disagreement by streaks is taken for noise too, and falls faster,
    so the forecast is on the safe side for more projections than there are, and too hopeful for fewer. It knows nothing of what is
    wrong in both halves alike, nor of a cell that changes while they are measured.

    Parameters
    ----------
    measured
        Of the halves of a frame; a ring that does not correlate has no signal to forecast.
    projections
        Of both halves together.
    diameter_mm
        Of what is in the beam. A period d needs n ≥ π D / d projections over 180° (Crowther, DeRosier & Klug, Proc. R. Soc. A 317,
        319 (1970)).
    """
    if projections < 1 or not diameter_mm > 0 or any(n < 1 for n in wanted):
        raise ShapeError(f"{projections} projections of a cell of {diameter_mm} mm, forecast for {list(wanted)}: all must be above 0")
    snr = _snr(measured)
    forecasts = []
    for n in wanted:
        ratio = snr * n / projections
        correlation = ratio / (ratio + 2)
        resolution = _resolution(measured.frequency, correlation - measured.threshold)
        forecasts.append(Forecast(n, ratio, correlation, resolution, pi * diameter_mm / n))
    return forecasts


def projections_for(measured: RingCorrelation, projections: int, resolution_mm: float, diameter_mm: float) -> int | None:
    """How many projections a frame needs for ``resolution_mm``: those that the noise asks for, or the angles, whichever are more.

    None where it cannot be told: the maps do not correlate at that period or a longer one, or it is finer than two points of the map.

    Parameters
    ----------
    measured, projections, diameter_mm
        As in `more_projections`, whose assumptions hold.
    """
    coarser = measured.frequency <= 1 / resolution_mm + 1e-9
    if not coarser.any() or 1 / resolution_mm > measured.frequency[-1] + 1e-9:
        return None
    snr, needed = _snr(measured)[coarser], 2 * measured.threshold[coarser] / (1 - np.minimum(measured.threshold[coarser], 1 - 1e-9))
    if not (snr > 0).all():
        return None
    by_noise = float((needed / snr).max()) * projections
    return int(np.ceil(max(by_noise, pi * diameter_mm / resolution_mm) - 1e-9))


def _snr(measured: RingCorrelation) -> Array:
    """Signal-to-noise ratio of power in the mean of both halves (ring,); 0 where they do not correlate."""
    clipped = np.clip(_smoothed(measured.correlation, measured.number), 0, 1 - 1e-9)
    return 2 * clipped / (1 - clipped)


@dataclass(frozen=True, slots=True)
class Change:
    """Whether a cell changed between two sets by more than the noise.

    ``flag``: it did, at the given rate of false alarms. ``probability`` of so much difference by noise alone, over all scales looked
    at; ``scale`` the edge in cells of the blocks in which it shows best. ``ratio``: rms of the change by that of the noise, cell by cell
    (0: no more than noise). ``drift``: change of the total by its sigma. ``significance`` (rotation, translation): the difference of
    each cell by its sigma, NaN where either set lacks it.
    """

    flag: bool
    probability: float
    scale: int
    ratio: float
    drift: float
    significance: Array


def changed_too_fast(
    first: Array,
    second: Array,
    sigma_first: Array,
    sigma_second: Array,
    *,
    alarm_rate: float = 1e-3,
    common_offset: bool = False,
) -> Change:
    """Whether a cell moved by more than the noise between two sets of the *same* angles, such as s and s + interlaces.

    Those lie one window apart where a window has as many sets as the scan has interlaces: what differs between them differs within the
    window. Maps of two consecutive sets would not do, whose angles differ: in a cell that stands still their streaks differ by many
    sigma. Projections at equal angles have no such difference, and their cells are independent, so the test is exact.

    Cells are summed in blocks of 1, 2, 4, … cells up to all of them: a small change everywhere shows in large blocks, a large one
    at one place in small; a single cell, which may be a stray count, hardly does. The squares of the sums by their variances make a
    chi² at each scale; the least likely decides, its probability multiplied by the number of scales (Bonferroni), so that false
    alarms come at most at ``alarm_rate``.

    Parameters
    ----------
    first, second
        Sinograms of one channel or one map (rotation, translation), on one scale of flux. Give them before air is subtracted: it
        cancels in the difference.
    sigma_first, sigma_second
        Their standard deviations. NaN or 0, there or above: not measured.
    common_offset
        Each set has an unknown constant of its own, such as the error of the air subtracted from it: it is fitted and left out. A change
        of the total alone then cannot show.

    Raises
    ------
    ShapeError
        Arrays of other dimensions or not of one shape, or a rate that is not between 0 and 1.
    """
    difference, variance = _cells(first, second, sigma_first, sigma_second)
    if not 0 < alarm_rate < 1:
        raise ShapeError(f"alarm_rate is {alarm_rate}: give the share of false alarms, between 0 and 1")
    measured = variance > 0
    found = []
    edge = 1
    while True:
        sums, variances, numbers = (_blocks(values, edge) for values in (difference, variance, measured.astype(np.float64)))
        found.append((*_chi_squared(sums, variances, numbers, common_offset), edge))
        if edge >= max(difference.shape):
            break
        edge *= 2
    tested = [(_tail(chi, freedom), edge) for chi, freedom, edge in found if freedom > 0]
    least, scale = min(tested, default=(1.0, 1))
    probability = min(1.0, least * max(len(tested), 1))
    chi, freedom, _ = found[0]
    total = float(variance.sum())
    return Change(
        flag=probability < alarm_rate,
        probability=probability,
        scale=scale,
        ratio=float(np.sqrt(max(chi / freedom - 1, 0.0))) if freedom > 0 else np.nan,
        drift=float(difference.sum() / np.sqrt(total)) if total > 0 else np.nan,
        significance=np.divide(difference, np.sqrt(variance), out=np.full(difference.shape, np.nan), where=measured),
    )


def total_drift(first: Array, second: Array, sigma_first: Array, sigma_second: Array) -> float:
    """Change of the total between two sets of *any* angles by its standard deviation: a normal number where nothing changed.

    The sum of a projection over all translations is that of the cell, from whatever angle (Helgason & Ludwig's first condition), so
    the means over complete projections compare even between consecutive sets. It needs a cell that lies within the translations, and
    neither absorption nor texture that depends on the angle. NaN where a set has no complete projection.

    Parameters
    ----------
    first, second, sigma_first, sigma_second
        As in `changed_too_fast`; the numbers of rotations may differ.

    Raises
    ------
    ShapeError
        Arrays that do not fit each other.
    """
    means, variances = [], []
    for values, sigma in ((first, sigma_first), (second, sigma_second)):
        values, sigma = np.asarray(values, np.float64), np.asarray(sigma, np.float64)
        if values.ndim != 2 or values.shape != sigma.shape:
            raise ShapeError(f"a set of shape {values.shape} and its sigma of {sigma.shape}: give both as (rotation, translation)")
        complete = (np.isfinite(values) & (sigma > 0)).all(axis=1)
        if not complete.any():
            return float("nan")
        means.append(values[complete].sum() / complete.sum())
        variances.append((sigma[complete] ** 2).sum() / complete.sum() ** 2)
    return float((means[1] - means[0]) / np.sqrt(sum(variances)))


def _cells(first: Array, second: Array, sigma_first: Array, sigma_second: Array) -> tuple[Array, Array]:
    """Difference and its variance; both 0 where it is not measured."""
    arrays = [np.asarray(values, np.float64) for values in (first, second, sigma_first, sigma_second)]
    if arrays[0].ndim != 2 or len({values.shape for values in arrays}) != 1:
        raise ShapeError(f"sets of shapes {[values.shape for values in arrays]}: give four arrays (rotation, translation) of one shape")
    difference, variance = arrays[1] - arrays[0], arrays[2] ** 2 + arrays[3] ** 2
    measured = np.isfinite(difference) & (arrays[2] > 0) & (arrays[3] > 0) & np.isfinite(variance)
    return np.where(measured, difference, 0.0), np.where(measured, variance, 0.0)


def _blocks(values: Array, edge: int) -> Array:
    """Sums over blocks of ``edge`` × ``edge`` cells; those at the end may be smaller."""
    for axis in (0, 1):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], edge), axis=axis)
    return values


def _chi_squared(sums: Array, variances: Array, numbers: Array, common_offset: bool) -> tuple[float, int]:
    """Chi² of sums against their variances, and its degrees of freedom; the best common offset of the cells taken out where asked for."""
    good = variances > 0
    b, v, n = sums[good], variances[good], numbers[good]
    chi = float((b**2 / v).sum())
    if not common_offset or not len(b):
        return chi, len(b)
    return max(chi - float((n * b / v).sum() ** 2 / (n**2 / v).sum()), 0.0), len(b) - 1


def _tail(chi_squared: float, freedom: int) -> float:
    """Probability of a larger chi² by noise alone."""
    from scipy.special import gammaincc

    return float(gammaincc(freedom / 2, chi_squared / 2))
