"""The layers of a wound cell in a map: their direction, the distance at which they repeat, and their phase.

Everything here is in pixels of a square grid; positions are (x, y), columns and rows. A mask ``valid`` says where the map is known.
"""

from dataclasses import dataclass

import numpy as np
from numpy import fft
from scipy import ndimage

from operandi.errors import ShapeError

_GRADIENT_PX = 1.0
_TENSOR_PX = 3.0
_BANDWIDTH = 0.35
FINEST_PX = 3.0
_MOST_POINTS = 50_000
_OUTLIER = 3.0


@dataclass(frozen=True, slots=True)
class Directions:
    """Normal of the layers (unit vector, sign unknown) and how surely it is known, 0 … 1; each (y, x)."""

    normal_x: np.ndarray
    normal_y: np.ndarray
    certainty: np.ndarray


def smooth(values: np.ndarray, sigma_px: float) -> np.ndarray:
    """Gaussian average that takes what lies beyond the edge as what lies on it."""
    return ndimage.gaussian_filter(values, sigma_px, mode="nearest")


def directions(image: np.ndarray, valid: np.ndarray) -> Directions:
    """Directions of the layers by the structure tensor; certain where gradients are strong and agree."""
    known = smooth(valid.astype(float), _GRADIENT_PX)
    even = smooth(_compressed(image, valid), _GRADIENT_PX) / np.maximum(known, 1e-6)
    g_y, g_x = (np.where(valid, g, 0) for g in np.gradient(even))
    normal_x, normal_y, coherence, energy = _tensor(g_x, g_y, _TENSOR_PX)
    strength = np.sqrt(energy)
    strong = np.percentile(strength[valid], 90) if valid.any() else 0.0
    certainty = coherence**2 * np.minimum(strength / strong, 1) * valid if strong > 0 else np.zeros(image.shape)
    return Directions(normal_x, normal_y, certainty)


def _compressed(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Values that saturate far from the usual ones, so that a casing does not outshine the windings; 0 where unknown."""
    if not valid.any():
        return np.zeros(image.shape)
    low, middle, high = np.percentile(image[valid], [25, 50, 75])
    scale = max(high - low, 0.1 * float(np.std(image[valid])), np.finfo(float).tiny)
    return np.where(valid, np.arctan((image - middle) / scale), 0)


def _tensor(g_x: np.ndarray, g_y: np.ndarray, sigma_px: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Main direction (x, y), coherence and energy of a vector field's tensor."""
    xx, xy, yy = (smooth(a, sigma_px) for a in (g_x * g_x, g_x * g_y, g_y * g_y))
    angle, energy = 0.5 * np.arctan2(2 * xy, xx - yy), xx + yy
    coherence = np.hypot(xx - yy, 2 * xy) / np.maximum(energy, 1e-12 * energy.max() + np.finfo(float).tiny)
    return np.cos(angle), np.sin(angle), coherence, energy


def common_centre(found: Directions) -> tuple[np.ndarray, np.ndarray]:
    """The point (x, y) that the normals of the layers pass through, and its covariance, px².

    Least squares of the normals' distances over radius, robust against bends (Cauchy weights). The normals of a spiral miss its centre by
    pitch/2π, all to the same side, and those of an ellipse symmetrically: neither moves the result. Neighbouring directions are not
    independent: the covariance counts one for each area that the tensor averages.

    Raises
    ------
    ShapeError
        If there are no layers, or they do not turn about a point.
    """
    y, x = np.nonzero(found.certainty > 0.2)
    every = max(x.size // _MOST_POINTS, 1)
    y, x = y[::every], x[::every]
    if x.size < 20:
        raise ShapeError("no layers stand out in the map: give one that shows the casing or the windings")
    tangent = np.stack([-found.normal_y[y, x], found.normal_x[y, x]], axis=1)
    at, certainty = np.stack([x, y], axis=1).astype(float), found.certainty[y, x]
    centre, weights = np.average(at, axis=0, weights=certainty), certainty
    matrix, miss, radius = np.eye(2), np.zeros(x.size), np.ones(x.size)
    for _ in range(30):
        matrix = np.einsum("n,ni,nj->ij", weights, tangent, tangent)
        if np.linalg.cond(matrix) > 1e6:
            raise ShapeError("the layers of the map are straight: they have no centre; give it by hand")
        centre = np.linalg.solve(matrix, np.einsum("n,ni,nj,nj->i", weights, tangent, tangent, at))
        radius = np.maximum(np.hypot(*(at - centre).T), 1)
        miss = np.sum(tangent * (at - centre), axis=1) / radius
        scale = max(1.4826 * float(np.median(np.abs(miss))), 1e-6)
        weights = certainty / radius**2 / (1 + (miss / (2 * scale)) ** 2) ** 2
    spread = np.einsum("n,ni,nj->ij", (weights * miss * radius) ** 2, tangent, tangent) * max(4 * np.pi * _TENSOR_PX**2 / every, 1)
    inverse = np.linalg.inv(matrix)
    return centre, inverse @ spread @ inverse


def even_out(image: np.ndarray, valid: np.ndarray, found: Directions, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map about the middle of its layers' values, in units of half their range, and where it can be believed.

    What lies far outside that range (casing, tabs, air) is taken out, lest its edges outshine the layers.
    """
    y, x = np.indices(image.shape)
    outwards = np.abs(found.normal_x * (x - centre[0]) + found.normal_y * (y - centre[1])) / np.maximum(
        np.hypot(x - centre[0], y - centre[1]), 1
    )
    layered = (found.certainty > 0.2) & (outwards > 0.8)
    if layered.sum() < 20:
        raise ShapeError("no layers about the centre stand out in the map: give a map that shows the windings, or their centre")
    even = smooth(np.where(valid, image, 0), _GRADIENT_PX) / np.maximum(smooth(valid.astype(float), _GRADIENT_PX), 1e-6)
    low, high = (float(v) for v in np.percentile(even[layered], [10, 90]))
    middle, half = (low + high) / 2, max((high - low) / 2, float(np.finfo(float).tiny))
    scaled = (np.where(valid, image, middle) - middle) / half
    usable = valid & np.logical_not(ndimage.binary_dilation(np.abs(even - middle) > _OUTLIER * half, iterations=2))
    return np.where(usable, scaled, 0), usable


def polar(image: np.ndarray, centre: np.ndarray, radius_px: np.ndarray, angle: np.ndarray, order: int = 1) -> np.ndarray:
    """``image`` at polar positions (radius, angle in rad); 0 outside."""
    at = [centre[1] + radius_px[:, None] * np.sin(angle), centre[0] + radius_px[:, None] * np.cos(angle)]
    return ndimage.map_coordinates(image, at, order=order, mode="constant", cval=0)


def repeat_distance(scaled: np.ndarray, usable: np.ndarray, found: Directions, centre: np.ndarray) -> float:
    """The distance in px at which the layers repeat most strongly along the radius: the peak of the power spectrum on a logarithmic axis.

    Raises
    ------
    ShapeError
        If nothing repeats.
    """
    reach = max(scaled.shape) / 2
    radius = np.arange(0, reach, 0.5)
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    weight = polar(np.where(usable, np.clip(found.certainty, 0, 1), 0), centre, radius, angle)
    profile = polar(scaled, centre, radius, angle)
    weight = ndimage.gaussian_filter1d(weight, 4, axis=0)
    profile = weight * (profile - np.sum(weight * profile, axis=0) / np.maximum(weight.sum(axis=0), 1e-9))
    n = _fast_length(4 * radius.size)
    power = np.mean(np.abs(fft.rfft(profile, n, axis=0)) ** 2, axis=1)
    frequency = fft.rfftfreq(n, 0.5)
    range_ = (frequency > 4 / reach) & (frequency < 1 / FINEST_PX)
    floor = np.median(power[(frequency > 0.8 / FINEST_PX) & (frequency < 1 / FINEST_PX)])
    density = np.where(range_, frequency * (power - floor), 0)
    if not density.max() > 0:
        raise ShapeError("nothing repeats along the radius of the map: give a map that shows several windings")
    return float(1 / frequency[np.argmax(density)])


@dataclass(frozen=True, slots=True)
class LayerSignal:
    """The layers as an oscillation, (y, x).

    ``signal`` is complex: its phase grows by 2π from layer to layer, outwards; ``weight`` 0 … 1 says how much of an orderly oscillation
    there is.
    """

    signal: np.ndarray
    weight: np.ndarray


def layer_signal(scaled: np.ndarray, usable: np.ndarray, centre: np.ndarray, repeat_px: float) -> LayerSignal:
    """The layers' phase by the monogenic signal (Felsberg & Sommer 2001, doi:10.1109/78.969520) of the band about ``repeat_px``.

    Both halves of the spectrum are told apart along the local normal, which points outwards from ``centre``. The weight falls where the
    oscillation is weak or of another wavelength, as where layers begin, end or gape.
    """
    known = np.maximum(smooth(usable.astype(float), repeat_px), 1e-3)
    mean = smooth(np.where(usable, scaled, 0), repeat_px) / known
    even, r_x, r_y = _riesz(np.where(usable, scaled - mean, 0), repeat_px)
    n_x, n_y, coherence, _ = _tensor(r_x, r_y, repeat_px / 2)
    y, x = np.indices(scaled.shape)
    outwards = np.where(n_x * (x - centre[0]) + n_y * (y - centre[1]) < 0, -1, 1)
    signal = even + 1j * outwards * (n_x * r_x + n_y * r_y)
    energy = smooth(np.abs(signal) ** 2, repeat_px / 2)
    turning = [smooth(np.imag(g * np.conj(signal)), repeat_px / 2) for g in np.gradient(signal)]
    typical = np.median(energy[usable & (energy > 0.1 * np.percentile(energy[usable], 95))])
    frequency = np.hypot(*turning) / (energy + 1e-3 * typical)
    usual = np.median(frequency[usable & (energy > 0.5 * typical)])
    orderly = np.exp(-((np.log(np.maximum(frequency / usual, 1e-3)) / 0.3) ** 2))
    quality = np.minimum(energy / typical, 1) * orderly * coherence * usable
    return LayerSignal(signal, np.clip((quality - 0.15) / 0.35, 0, 1))


def _fast_length(n: int) -> int:
    """The next length without prime factors beyond 5."""
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
        n += 1


def _riesz(image: np.ndarray, repeat_px: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The band about ``repeat_px`` (log-Gabor) and both parts of its Riesz transform."""
    shape = [_fast_length(n + int(4 * repeat_px)) for n in image.shape]
    f_y, f_x = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None]
    f = np.hypot(f_x, f_y)
    f[0, 0] = 1
    band = np.exp(-(np.log(f * repeat_px) ** 2) / (2 * _BANDWIDTH**2))
    band[0, 0] = 0
    spectrum = fft.rfft2(image, shape) * band
    rows, columns = image.shape
    parts = (fft.irfft2(spectrum * factor, shape)[:rows, :columns] for factor in (1, -1j * f_x / f, -1j * f_y / f))
    even, r_x, r_y = parts
    return even, r_x, r_y
