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


def filter_projections(sinogram: np.ndarray, pitch_mm: float, name: str = "ramp") -> np.ndarray:
    """Filter the projections of a finite sinogram (rotation, translation, q); returns float32 of the same shape, in its unit per mm."""
    values = np.ascontiguousarray(sinogram, np.float32)
    taps = filter_taps(name, values.shape[1], pitch_mm).astype(np.float32)
    slab = np.empty((values.shape[0], values.shape[1] + 2, kernel.CHANNELS), np.float32)
    filtered = np.empty_like(values)
    for first in range(0, values.shape[2], kernel.CHANNELS):
        kernel.filter_slab(values, first, taps, slab)
        filtered[:, :, first : first + kernel.CHANNELS] = slab[:, 1:-1, : values.shape[2] - first]
    return filtered
