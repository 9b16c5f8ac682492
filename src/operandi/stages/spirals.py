"""The windings of a rolled cell, followed through a map: a field that counts windings outwards, and the spiral of its middle.

All in pixels of a square grid, positions (x, y), columns and rows. The polar grid has evenly spaced ``angle`` over a full turn in
the direction in which the roll is wound outwards (``hand`` +1: from x to y, −1 the other way).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from operandi.errors import ShapeError
from operandi.stages.layers import LayerSignal, polar

_STEPS_A_LAYER = 6
_COLUMNS_A_LAYER = 4
_FINEST = (1.0, 1.5)
_COLUMNS = (360, 2048)
_STARTS = 4
_FAINT = 0.02
_BINS = 64
_REFINEMENTS = 5
_HARMONICS = 6
_LOCKED = 0.3
_LEAST_VOTES = 0.25


@dataclass(frozen=True, slots=True)
class Windings:
    """How many windings lie between the centre and each point of a polar grid.

    ``count`` (radius, angle) grows by 1 from a layer to the same layer of the next winding, along every ray. It is periodic in the
    angle: a point belongs to the winding ``count − angle/2π``, a whole number of which is the same depth in the electrode as at the first.
    ``lock`` (radius, angle), 0 … 1: how well the layers seen there agree. ``layers``: how many layers a winding has.
    """

    centre: np.ndarray
    hand: int
    radius: np.ndarray
    angle: np.ndarray
    count: np.ndarray
    lock: np.ndarray
    layers: int


def follow_layers(image: np.ndarray, usable: np.ndarray, seen: LayerSignal, centre: np.ndarray, repeat_px: float) -> Windings:
    """Follow all layers together around the centre, then lock on what a whole winding looks like.

    A layer that is followed once around ends some layers further out: as many as a winding has. How many follows from the phase alone.

    Parameters
    ----------
    image : (y, x) the evened-out map, known where ``usable``.
    seen : its layers as an oscillation of wavelength ``repeat_px``.

    Raises
    ------
    ShapeError
        If the layers close on themselves (rings), or too few can be followed.
    """
    radius, angle = _grid(image.shape, centre, repeat_px)
    real, imaginary = (polar(part(seen.signal), centre, radius, angle) for part in (np.real, np.imag))
    signal = real + 1j * imaginary
    weight = polar(seen.weight, centre, radius, angle)
    advance = _advance(signal, weight)
    hand = 1 if advance < 0 else -1
    if hand < 0:
        signal, weight = (np.roll(a[:, ::-1], 1, axis=1) for a in (signal, weight))
    wave = weight * signal / np.maximum(np.abs(signal), 1e-12)
    layers, scale = abs(advance), _Scale.of(weight, radius, angle, repeat_px)
    phase = _settle(_best_track(wave, layers, scale.rows / 2), wave, layers, scale)
    count = phase / layers
    seen_polar = polar(image, centre, radius, hand * angle, order=3)
    known = polar(usable.astype(float), centre, radius, hand * angle)
    count, lock = _lock_on_windings(count, seen_polar, weight * (known > 0.5), scale.times(layers))
    return Windings(centre, hand, radius, angle, _extend(count, lock, layers * scale.rows), lock, layers)


def _grid(shape: tuple[int, ...], centre: np.ndarray, repeat_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Radii and angles fine enough for both the layers' phase and the pixels."""
    reach = max(centre[0], centre[1], shape[1] - 1 - centre[0], shape[0] - 1 - centre[1])
    columns = np.ceil(2 * np.pi * reach / min(repeat_px / _COLUMNS_A_LAYER, _FINEST[1]))
    columns = int(np.clip(columns, *_COLUMNS))
    return np.arange(0, reach, min(repeat_px / _STEPS_A_LAYER, _FINEST[0])), np.arange(columns) * (2 * np.pi / columns)


def _advance(signal: np.ndarray, weight: np.ndarray) -> int:
    """Layers that a full turn leads across, what most rings see: each ring's phase closes on a whole number."""
    turn = np.angle(np.roll(signal, -1, axis=1) * np.conj(signal)).sum(axis=1) / (2 * np.pi)
    rings = np.nonzero(np.mean(weight > 0.3, axis=1) > 0.7)[0]
    if rings.size < _STEPS_A_LAYER:
        raise ShapeError("no full turn of layers about the centre can be followed: give a map that shows the windings more clearly")
    numbers, votes = np.unique(np.rint(turn[rings]).astype(int), return_counts=True)
    wound = np.where(numbers == 0, 0, votes)
    if wound.max() >= _LEAST_VOTES * rings.size:
        return int(numbers[np.argmax(wound)])
    if votes.max() > 0.6 * rings.size:
        raise ShapeError("the layers close on themselves: these are rings, not the windings of a roll")
    raise ShapeError("the layers cannot be followed around the centre: the map is too noisy, or the centre or the layers' distance wrong")


def _along_radius(n: int, rows: float) -> np.ndarray:
    """The matrix (radius, radius) that averages a column over neighbouring rows; where nothing is seen, over far ones."""
    apart = np.subtract.outer(np.arange(n), np.arange(n))
    near, far = (np.exp(-0.5 * (apart / s) ** 2) / s for s in (rows, 6 * rows))
    return near + _FAINT * far


def _averaged(average: np.ndarray, wave: np.ndarray) -> np.ndarray:
    return average @ np.real(wave) + 1j * (average @ np.imag(wave))


def _turns(wave: np.ndarray) -> np.ndarray:
    return np.angle(wave) / (2 * np.pi)


def _best_track(wave: np.ndarray, layers: int, rows: float) -> np.ndarray:
    """(radius, angle) phase in layers, periodic: from the one of several starting columns that agrees best with all that is seen."""
    columns = wave.shape[1]
    goodness = ndimage.uniform_filter1d(np.abs(wave).mean(axis=0), max(columns // 60, 1), mode="wrap")
    starts = np.array([s[np.argmax(goodness[s])] for s in np.array_split(np.arange(columns), _STARTS)])
    steady = layers * np.arange(columns) / columns
    tracks = _tracks(wave, starts, rows)
    for track, start in zip(tracks, starts, strict=True):
        track += steady + layers * (np.arange(columns) < start)
    return max(tracks, key=lambda t: float(np.sum(np.real(wave * np.exp(-2j * np.pi * (t - steady))))))


def _tracks(wave: np.ndarray, starts: np.ndarray, rows: float) -> np.ndarray:
    """(start, radius, angle) phases: that of the starting column carried on from column to column, corrected by what is seen there.

    What carries and corrects is averaged over neighbouring layers: a layer that begins or ends shifts none of the others.
    """
    columns, average = wave.shape[1], _along_radius(len(wave), rows)
    first = wave[:, starts]
    steps = _turns(_averaged(average[1:, 1:], first[1:] * np.conj(first[:-1])))
    phase = np.concatenate([np.zeros((1, starts.size)), np.cumsum(steps, axis=0)])
    for _ in range(8):
        phase = phase + _turns(_averaged(average, first * np.exp(-2j * np.pi * phase)))
    tracks, which = np.empty((starts.size, *wave.shape)), np.arange(starts.size)
    tracks[which, :, starts] = phase.T
    for k in range(1, columns):
        at = (starts + k) % columns
        now = wave[:, at]
        phase = phase + _turns(_averaged(average, now * np.conj(wave[:, at - 1])))
        phase = phase + 0.5 * _turns(_averaged(average, now * np.exp(-2j * np.pi * phase)))
        tracks[which, :, at] = phase.T
    return tracks


def _settle(phase: np.ndarray, wave: np.ndarray, layers: int, scale: "_Scale") -> np.ndarray:
    """Bring a periodic phase (in layers) into agreement with the waves of its neighbourhood on all sides."""
    steady = layers * np.arange(wave.shape[1]) / wave.shape[1]
    phase = _over(phase, scale.times(0.25))
    for _ in range(4):
        left = wave * np.exp(-2j * np.pi * (phase - steady))
        near, far = (_over(left.real, s) + 1j * _over(left.imag, s) for s in (scale.times(0.5), scale.times(3)))
        phase = phase + _turns(near + _FAINT * far)
    return phase


def _over(values: np.ndarray, scale: "_Scale") -> np.ndarray:
    """Average with about a Gaussian of this standard deviation: three boxes each way."""
    for axis, (sigma, mode) in enumerate(((scale.rows, "nearest"), (scale.columns, "wrap"))):
        size = min(max(round(np.sqrt(4 * sigma**2 + 1)), 1), values.shape[axis])
        for _ in range(3):
            values = ndimage.uniform_filter1d(values, size, axis=axis, mode=mode)
    return values


@dataclass(frozen=True, slots=True)
class _Scale:
    """A length in rows of the polar grid, and in its columns half-way out in the roll."""

    rows: float
    columns: float

    @classmethod
    def of(cls, weight: np.ndarray, radius: np.ndarray, angle: np.ndarray, length_px: float) -> "_Scale":
        usual = float(np.average(radius, weights=weight.sum(axis=1) + 1e-12))
        return cls(length_px / (radius[1] - radius[0]), length_px / (usual * (angle[1] - angle[0])))

    def times(self, factor: float) -> "_Scale":
        return _Scale(self.rows * factor, self.columns * factor)


def _lock_on_windings(count: np.ndarray, image: np.ndarray, weight: np.ndarray, scale: "_Scale") -> tuple[np.ndarray, np.ndarray]:
    """Refine the count until each place looks like the mean winding, shifted by nothing; and how well it does, 0 … 1.

    The image is locally background + gain · (winding + shift · its slope): three linear unknowns for each neighbourhood (Lucas & Kanade
    1981), half a winding across and as much along.
    """
    turn = np.arange(count.shape[1]) / count.shape[1]
    trust, agreement = weight, np.zeros(count.shape)
    for _ in range(_REFINEMENTS):
        shape = winding_shape(count - turn, image, weight)
        shift, agreement = _shift_onto(shape(count - turn), shape(count - turn, 1), image, trust, scale.times(0.5))
        count = count + _over(shift, scale.times(0.25))
        trust = weight * np.maximum(agreement, 0.05)
    return count, agreement * np.minimum(_over(trust, scale.times(0.5)), 1)


def _shift_onto(
    value: np.ndarray, slope: np.ndarray, image: np.ndarray, trust: np.ndarray, scale: "_Scale"
) -> tuple[np.ndarray, np.ndarray]:
    """The shift that brings what is expected onto the image, 0 where that is not seen; and how well they agree, 0 … 1."""
    total = np.maximum(_over(trust, scale), 1e-6)

    def mean(values: np.ndarray) -> np.ndarray:
        return _over(trust * values, scale) / total

    m_i, m_v, m_s = mean(image), mean(value), mean(slope)
    vv, ss, vs = mean(value**2) - m_v**2, mean(slope**2) - m_s**2, mean(value * slope) - m_v * m_s
    iv, is_, ii = mean(image * value) - m_i * m_v, mean(image * slope) - m_i * m_s, mean(image**2) - m_i**2
    vv, ss, ii = (a + 0.02 * np.mean(a) for a in (vv, ss, ii))
    determinant = np.maximum(vv * ss - vs**2, 1e-12)
    gain, shifted = (iv * ss - is_ * vs) / determinant, (is_ * vv - iv * vs) / determinant
    usable = (gain > 0.2) & (total > 0.05)
    shift = np.where(usable, np.clip(shifted / np.where(usable, gain, 1), -0.1, 0.1), 0)
    return shift, np.clip(iv / np.sqrt(np.maximum(vv * ii, 1e-24)), 0, 1)


def _extend(count: np.ndarray, lock: np.ndarray, rows: float) -> np.ndarray:
    """The count between the innermost and outermost place of each ray where it is locked, made to grow; steady beyond."""
    locked = lock > _LOCKED
    if not locked.any(axis=0).all():
        raise ShapeError("the windings are lost in some directions from the centre: the map is too noisy, or holds no whole roll")
    first, last = locked.argmax(axis=0), len(count) - 1 - locked[::-1].argmax(axis=0)
    row = np.arange(len(count))[:, None]
    nearest = np.clip(row, first, last)
    inside = np.where(row < first, -np.inf, count)
    grown = np.maximum.accumulate(inside, axis=0)
    return np.take_along_axis(grown, nearest, axis=0) + (row - nearest) / rows


class Shape:
    """The mean winding, smooth, over its depth 0 … 1, and its slope."""

    def __init__(self, values: np.ndarray, harmonics: int = _HARMONICS):
        spectrum = np.fft.rfft(values)[: harmonics + 1] / values.size
        spectrum[0] = 0
        n = 16 * values.size
        turning = 2j * np.pi * np.arange(harmonics + 1)
        self._tables = [np.append(t, t[0]) for t in (np.fft.irfft(spectrum * n, n), np.fft.irfft(turning * spectrum * n, n))]

    def __call__(self, position: np.ndarray, derivative: int = 0) -> np.ndarray:
        table = self._tables[derivative]
        at = (position % 1) * (table.size - 1)
        low = np.minimum(at.astype(int), table.size - 2)
        return table[low] + (at - low) * (table[low + 1] - table[low])


def winding_shape(position: np.ndarray, image: np.ndarray, weight: np.ndarray) -> Shape:
    """The mean of an image over all windings, by the position in the winding (whole numbers are equal)."""
    bins = (np.floor((position % 1) * _BINS).astype(int) % _BINS).ravel()
    total = np.bincount(bins, weight.ravel(), _BINS)
    sums = np.bincount(bins, (weight * image).ravel(), _BINS)
    values = np.where(total > 0, sums / np.maximum(total, 1e-12), np.average(image, weights=weight + 1e-12))
    centred = np.fft.irfft(np.fft.rfft(values) * np.exp(-1j * np.pi * np.arange(_BINS // 2 + 1) / _BINS), _BINS)
    return Shape(centred)
