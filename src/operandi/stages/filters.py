"""Filters of filtered back projection, as convolutions in real space.

The exact kernels of band-limited filters equal Fourier filters with unlimited zero-padding. Source: Kak & Slaney, Principles of
Computerized Tomographic Imaging (1988), chapter 3.
"""

import numpy as np

from operandi.errors import ShapeError
from operandi.kernels import backprojection as kernel


def _ramp(n: np.ndarray) -> np.ndarray:
    """Kernel of the ramp, band-limited at half a cycle per sample, at ``n`` samples (may be fractional)."""
    return 0.5 * np.sinc(n) - 0.25 * np.sinc(n / 2) ** 2


FILTERS = {
    "ramp": _ramp,
    "shepp-logan": lambda n: -2 / (np.pi**2 * (4 * n**2 - 1)),
    "cosine": lambda n: 0.5 * (_ramp(n + 0.5) + _ramp(n - 0.5)),
    "hann": lambda n: 0.5 * _ramp(n) + 0.25 * (_ramp(n + 1) + _ramp(n - 1)),
}
"""Kernels, as functions of the distance in samples, for a pitch of 1."""


_NEGLIGIBLE = 1e-6
"""Share of a variance: a hundredth of what a thousand realisations of the noise could tell."""


def filter_taps(name: str, n_samples: int, pitch_mm: float) -> np.ndarray:
    """The filter's kernel at -n … n - 1 samples, in 1/mm, so that its sum with a projection needs no further factor.

    Raises
    ------
    ShapeError
        If there is no filter of this name.
    """
    if name not in FILTERS:
        raise ShapeError(f"there is no filter {name!r}; choose one of {', '.join(FILTERS)}")
    taps = FILTERS[name](np.arange(-n_samples, n_samples, dtype=float))
    if name == "ramp":
        taps[n_samples % 2 :: 2] = 0.0
        taps[n_samples] = 0.25
    return taps / pitch_mm


def that_counts(taps: np.ndarray) -> np.ndarray:
    """The taps without the outermost ones that add up to less than ``_NEGLIGIBLE`` of all: squares of a filter's taps fall off fast."""
    middle = len(taps) // 2
    distance = np.abs(np.arange(len(taps)) - middle)
    sums = np.bincount(distance, np.abs(taps))
    reach = np.count_nonzero(np.cumsum(sums[::-1])[::-1] >= _NEGLIGIBLE * sums.sum())
    return np.where(distance < reach, taps, 0.0)


def tap_lists(*kernels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lags, values and ranges of one or several of `filter_taps` where these are not zero, as `filter_slab` of the kernels has them."""
    n_samples, lists, ranges = len(kernels[0]) // 2, [], []
    for taps in kernels:
        lags, at = np.flatnonzero(taps[1:]) + 1 - n_samples, np.arange(n_samples)
        before = sum(len(lags) for lags, _ in lists)
        ranges.append([before + np.searchsorted(lags, at - n_samples + 1), before + np.searchsorted(lags, at, "right")])
        lists.append((lags, taps[lags + n_samples]))
    lags, values = (np.concatenate(part) for part in zip(*lists, strict=True))
    return (lags + n_samples).astype(np.uint32), values.astype(np.float32), np.array(ranges, np.uint64)


def filter_projections(sinogram: np.ndarray, pitch_mm: float, name: str = "ramp") -> np.ndarray:
    """Filter the projections of a finite sinogram (rotation, translation, q); returns float32 of the same shape, in its unit per mm."""
    values = np.ascontiguousarray(sinogram, np.float32)
    width = -(-values.shape[2] // kernel.CHANNELS) * kernel.CHANNELS
    slab = np.empty((1, values.shape[0], values.shape[1] + 2, width), np.float32)
    taps = tap_lists(filter_taps(name, values.shape[1], pitch_mm))
    kernel.filter_slab(values, np.arange(len(values)), 0, *taps, np.ones(len(values), np.float32), slab)
    return slab[0, :, 1:-1, : values.shape[2]]
