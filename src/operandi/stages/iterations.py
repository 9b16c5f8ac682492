"""Iterative reconstruction for few projections: many channels at once, with a projector and its exact transpose.

SIRT: Gregor & Benson 2008, doi:10.1109/TMI.2008.923696. CGLS: Hestenes & Stiefel 1952. MLEM: Shepp & Vardi 1982,
doi:10.1109/TMI.1982.4307558. All stop after a given number of iterations, which is their regularisation.
"""

from dataclasses import dataclass

import numpy as np

from operandi.kernels import backprojection as kernel

DEFAULT_ITERATIONS = {"sirt": 50, "cgls": 15, "mlem": 50}
_NO_SLAB = np.empty((0, 1, 1), np.float32)
_TINY = np.float32(1e-30)


@dataclass(frozen=True, slots=True)
class _Projector:
    """A parallel beam with linear interpolation between samples, of pitch 1."""

    cosines: np.ndarray
    sines: np.ndarray
    weights: np.ndarray
    """1 for a projection, 0 for one that only fills up a group."""
    centre: float
    n_samples: int

    def forward(self, volume: np.ndarray) -> np.ndarray:
        slab = np.empty((self.cosines.size, self.n_samples + 2, kernel.CHANNELS), np.float32)
        kernel.project_slab(volume, self.cosines, self.sines, self.centre, slab)
        slab[self.weights == 0] = 0.0
        return slab

    def transpose(self, slab: np.ndarray) -> np.ndarray:
        volume = np.empty((self.n_samples, self.n_samples, kernel.CHANNELS), np.float32)
        kernel.backproject_slab(slab, _NO_SLAB, 0, self.cosines, self.sines, self.weights, self.centre, volume)
        return volume


def iterate(projections: np.ndarray, rotation_deg: np.ndarray, centre: float, pitch_mm: float, method: str, iterations: int) -> np.ndarray:
    """Volume (y, x, q) float32, per mm, by sirt, cgls or mlem.

    Parameters
    ----------
    projections : (rotation, translation, q) float32, finite. mlem takes what is negative as 0.
    centre : the sample, fractional, on which the rotation axis falls.
    """
    n_projections, n_samples, n_channels = projections.shape
    padded = -(-n_projections // kernel.GROUP) * kernel.GROUP
    angle = np.zeros(padded)
    angle[:n_projections] = np.deg2rad(rotation_deg)
    projector = _Projector(np.cos(angle), np.sin(angle), (np.arange(padded) < n_projections).astype(float), centre, n_samples)
    solve = {"sirt": _sirt, "cgls": _cgls, "mlem": _mlem}[method]
    volume = np.empty((n_samples, n_samples, n_channels), np.float32)
    for first in range(0, n_channels, kernel.CHANNELS):
        n = min(kernel.CHANNELS, n_channels - first)
        measured = np.zeros((padded, n_samples + 2, kernel.CHANNELS), np.float32)
        measured[:n_projections, 1:-1, :n] = projections[:, :, first : first + n] / np.float32(pitch_mm)
        volume[:, :, first : first + n] = solve(projector, measured, iterations)[:, :, :n]
    return volume


def _sums(projector: _Projector) -> tuple[np.ndarray, np.ndarray]:
    """Row sums (a slab) and column sums (a volume) of the projector."""
    ones = np.zeros((projector.cosines.size, projector.n_samples + 2, kernel.CHANNELS), np.float32)
    ones[projector.weights > 0, 1:-1] = 1.0
    return projector.forward(np.ones((projector.n_samples, projector.n_samples, kernel.CHANNELS), np.float32)), projector.transpose(ones)


def _reciprocal(values: np.ndarray) -> np.ndarray:
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 1e-6)


def _sirt(projector: _Projector, measured: np.ndarray, iterations: int) -> np.ndarray:
    rows, columns = (_reciprocal(sums) for sums in _sums(projector))
    volume = np.zeros_like(columns)
    for _ in range(iterations):
        residual = measured - projector.forward(volume)
        residual *= rows
        volume += columns * projector.transpose(residual)
    return volume


def _cgls(projector: _Projector, measured: np.ndarray, iterations: int) -> np.ndarray:
    residual = measured.copy()
    gradient = projector.transpose(residual)
    volume, direction, norm = np.zeros_like(gradient), gradient.copy(), _norms(gradient)
    for _ in range(iterations):
        projected = projector.forward(direction)
        step = norm / np.maximum(_norms(projected), _TINY)
        volume += step * direction
        residual -= step * projected
        gradient = projector.transpose(residual)
        previous, norm = norm, _norms(gradient)
        direction *= norm / np.maximum(previous, _TINY)
        direction += gradient
    return volume


def _norms(values: np.ndarray) -> np.ndarray:
    """(channel,) sums of squares."""
    return np.einsum("ijq,ijq->q", values, values)


def _mlem(projector: _Projector, measured: np.ndarray, iterations: int) -> np.ndarray:
    measured = np.maximum(measured, 0)
    columns = _reciprocal(_sums(projector)[1])
    volume = (columns > 0).astype(np.float32)
    for _ in range(iterations):
        ratio = measured / np.maximum(projector.forward(volume), _TINY)
        volume *= columns * projector.transpose(ratio)
    return volume
