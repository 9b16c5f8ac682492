"""Self-absorption: what of the scattered intensity the sample itself takes away.

Forward approximation: what is scattered by a small angle leaves along the beam, so that wherever on its path it scattered it is weakened as
the transmitted beam is, and dividing by the transmission of the path is exact. `forward_bias` tells how far that holds.
"""

from collections.abc import Sequence

import numpy as np

from operandi.errors import ShapeError


def mixture_attenuation_inv_mm(parts: Sequence[tuple[float, float]], density_g_cm3: float) -> float:
    """Linear attenuation of a composition: (mass fraction, mass attenuation in cm²/g, as NIST's XCOM tabulates it) of each part, 1/mm."""
    fractions = np.array([fraction for fraction, _ in parts], float)
    if not parts or (fractions < 0).any() or abs(fractions.sum() - 1) > 0.01 or not density_g_cm3 > 0:
        raise ShapeError(f"mass fractions must be positive and add up to 1, the density be positive; got {list(parts)}, {density_g_cm3}")
    return float(sum(fraction * attenuation for fraction, attenuation in parts) * density_g_cm3 / 10)


def cylinder_transmission(translation_mm: np.ndarray, axis_mm: float, layers: Sequence[tuple[float, float]]) -> np.ndarray:
    """(translation,) transmission of a cylinder that turns about its own axis: the same for every rotation.

    Parameters
    ----------
    layers : (outer radius in mm, linear attenuation in 1/mm) of each shell, the innermost a full cylinder; in any order.
    """
    if not layers or any(not (radius > 0 and attenuation >= 0) for radius, attenuation in layers):
        raise ShapeError(f"layers of a cylinder need positive radii and attenuations that are not negative, got {list(layers)}")
    off, path, inner = np.asarray(translation_mm, float) - axis_mm, 0.0, 0.0
    for radius, attenuation in sorted(layers):
        path = path + attenuation * (_chord(radius, off) - _chord(inner, off))
        inner = radius
    return np.exp(-path)


def _chord(radius: float, off: np.ndarray) -> np.ndarray:
    return 2 * np.sqrt(np.clip(radius**2 - off**2, 0, None))


def without_absorption(
    values: np.ndarray, transmission: np.ndarray, *, variance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """A sinogram (rotation, translation, q) divided by the transmission of each path, with its variance.

    Air scatters before and behind the sample, and is weakened as what scatters within: subtract it afterwards.

    ``transmission`` (translation,) or (rotation, translation), in (0, 1]; other values (noise may give more than 1: clip it) make the
    cell NaN.

    Raises
    ------
    ShapeError
        If the arrays do not fit each other.
    """
    transmission = np.asarray(transmission, float)
    if values.ndim != 3 or transmission.shape not in (values.shape[:2], values.shape[1:2]):
        raise ShapeError(f"transmission of shape {transmission.shape} does not fit a sinogram {values.shape} (rotation, translation, q)")
    good = np.isfinite(transmission) & (transmission > 0) & (transmission <= 1)
    scale = np.where(good, 1 / np.where(good, transmission, 1), np.nan).astype(np.float32)[..., None]
    return values * scale, None if variance is None else variance * scale**2


def transmission_at(
    rotation_deg: np.ndarray,
    translation_mm: np.ndarray,
    measured: np.ndarray,
    measured_rotation_deg: np.ndarray,
    measured_translation_mm: np.ndarray,
) -> np.ndarray:
    """A measured transmission (rotation, translation) at other angles and positions, between neighbours on a line, at its ends as there;
    at most 1."""
    order, across = np.argsort(measured_rotation_deg), np.argsort(measured_translation_mm)
    lines = np.stack([np.interp(translation_mm, measured_translation_mm[across], line[across]) for line in measured[order]])
    columns = [np.interp(rotation_deg, measured_rotation_deg[order], column) for column in lines.T]
    return np.minimum(np.stack(columns, axis=1), 1.0)


def require_cover(name: str, wanted: np.ndarray, measured: np.ndarray) -> None:
    """Raise ShapeError where what was ``measured`` does not reach, but for one step, as far as what is ``wanted``."""
    step = 1.01 * np.ptp(measured) / max(len(measured) - 1, 1)
    if min(wanted) < min(measured) - step or max(wanted) > max(measured) + step:
        goes = f"{min(measured):g} to {max(measured):g}, those of the scan from {min(wanted):g} to {max(wanted):g}"
        raise ShapeError(f"the {name} of the transmission go from {goes}: measure it over all of these")


def forward_bias(radius_mm: float, attenuation_inv_mm: float, two_theta_deg: float, *, n_points: int = 201) -> float:
    """Largest relative error of the forward approximation for a full cylinder, over all paths up to 0.95 radii from its axis.

    By integration over where along the path it scatters and over the azimuth of the ring: infinitely long cylinder, axis across the beam.
    """
    angle, azimuth = np.deg2rad(two_theta_deg), np.linspace(0, 2 * np.pi, 48, endpoint=False)
    along, across = np.cos(angle), np.sin(angle) * np.cos(azimuth)
    length = np.hypot(along, across)
    along, across = along / length, across / length
    worst = 0.0
    for off in np.linspace(0, 0.95, 20) * radius_mm:
        half = np.sqrt(radius_mm**2 - off**2)
        depth = half * (2 * (np.arange(n_points)[:, None] + 0.5) / n_points - 1)
        inward = depth * along + off * across
        out = (-inward + np.sqrt(inward**2 + half**2 - depth**2)) / length
        survive = np.exp(-attenuation_inv_mm * (depth + half + out)).mean()
        worst = max(worst, abs(survive / np.exp(-2 * attenuation_inv_mm * half) - 1))
    return float(worst)
