"""d*: the size at which a small-angle profile leaves its power law (10.1039/D4EE00590B, supporting information).

A power law is a straight line in log-log. Going from high q to low q, q* is where the profile turns away from it, and d* = 2π/q*. A turn at
q_h shows as c in ``y = a - p x + c max(x_h - x, 0)`` with x = ln q, y = ln I, between the points that decide the power law and a stretch
below x_h; c over its error, for every x_h, tells whether there is one. That of the first stretch where it is significant is then placed
by least squares, between the points. A profile that only rises above its power law has no d*: what scatters more at low q is large, as
pores, or the beam itself.
"""

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.stages.departures import LEAST_ABOVE, LEAST_BELOW, REASONS, Departures, Range, depart
from operandi.stages.profiles import LogBins, log_bins, profiles_of

FIT = (0.2, 0.7)
"""Points that decide the power law, as shares of all, counted from high q."""
_CHUNK = 4096
"""Profiles that are taken at a time: as many as a processor's cache holds."""


def fit_dstar(
    intensity: xr.DataArray | xr.Dataset,
    *,
    sigma: xr.DataArray | None = None,
    q_range: tuple[float, float] | None = None,
    fit: tuple[float, float] = FIT,
) -> xr.Dataset:
    """d* of every small-angle profile: where it departs from the power law that it follows at high q.

    Parameters
    ----------
    intensity : dims …, q (Å⁻¹) with its coordinate, in any unit; or a Dataset of `intensity` and perhaps `sigma`. NaN is not measured.
    sigma : its standard deviation, of the same dims; points without it are not used. None: the scatter of each profile about itself.
    q_range : the q to look at (both ends included), Å⁻¹; None takes all. Leave out what is shadowed by the beam stop, and high q where the
        background is no longer small.
    fit : shares of the points in ``q_range``, counted from high q, between which the power law is fitted: by default from 20 % to 70 %.
        q* is looked for from the middle of them down; where it lies among them, only points above it decide the power law.

    Returns
    -------
    Dataset (…): `dstar` nm, `sigma` its standard deviation by the errors and by the choice of range, `q_star` Å⁻¹, `slope` (I ∝ q^slope
    above q*), and `reason` as text, why there is no d*, else empty: one slope (no turn), too noisy (a turn would not show), out of range
    (it lies at an end of the range), not measured. Without d* `dstar`, `sigma` and `q_star` are NaN, never a number; `slope` may be known.

    Raises
    ------
    ShapeError
        If there is no q, it is not finite, sigma has other dims, or the range holds too few points.

    Notes
    -----
    For a profile of two power laws q* is where they meet, however smooth the knee; for other shapes where the line through the stretch
    below q* meets the power law. The streaks of a reconstruction carry the profile of what they come from, also into air: look at d* where
    the intensity says that there is silicon.
    """
    if isinstance(intensity, xr.Dataset):
        sigma = intensity.get("sigma") if sigma is None else sigma
        intensity = intensity["intensity"]
    if "q" not in intensity.dims or "q" not in intensity.coords:
        raise ShapeError(f"d* needs profiles over q, with its coordinate in Å⁻¹; the array has {dict(intensity.sizes)}")
    intensity = intensity.transpose(..., "q")
    if sigma is not None and dict(sigma.sizes) != dict(intensity.sizes):
        raise ShapeError(f"sigma has {dict(sigma.sizes)}, the intensity {dict(intensity.sizes)}: give one for each value")
    errors = None if sigma is None else sigma.transpose(*intensity.dims).to_numpy()
    q = intensity["q"].to_numpy()
    found = find_departures(intensity.to_numpy(), errors, q, q_range=q_range, fit=fit)
    return _labelled(found, intensity, q_range or (float(np.min(q)), float(np.max(q))), fit)


def _labelled(found: Departures, intensity: xr.DataArray, q_range: tuple[float, float], fit: tuple[float, float]) -> xr.Dataset:
    dims = intensity.dims[:-1]
    dstar, q_star = dstar_of(found)
    arrays = {
        "dstar": (dstar, {"units": "nm"}),
        "q_star": (q_star, {"units": "1/angstrom"}),
        "slope": (found.slope, {"units": "1"}),
        "sigma": (dstar * found.error, {"units": "nm"}),
        "reason": (np.array(REASONS)[found.code], {}),
    }
    coords = {name: c for name, c in intensity.coords.items() if "q" not in c.dims}
    attrs = {"q_range_inv_angstrom": list(q_range), "fit": list(fit), "method": "departure from a power law, 10.1039/D4EE00590B"}
    return xr.Dataset({name: (dims, values, about) for name, (values, about) in arrays.items()}, coords, attrs)


def dstar_of(found: Departures) -> tuple[np.ndarray, np.ndarray]:
    """d* in nm and q* in Å⁻¹; NaN where there is none."""
    q_star = np.exp(found.log_q_star)
    return 0.2 * np.pi / q_star, q_star


def find_departures(
    intensity: np.ndarray,
    sigma: np.ndarray | None,
    q: np.ndarray,
    *,
    q_range: tuple[float, float] | None = None,
    fit: tuple[float, float] = FIT,
) -> Departures:
    """Departures of spectra (…, q) from their power law, of shape (…); see `fit_dstar`."""
    bins, where = _axis(np.asarray(q, np.float64), q_range, fit)
    shape, nq = intensity.shape[:-1], intensity.shape[-1]
    flat = intensity.reshape(-1, nq)
    errors = None if sigma is None else sigma.reshape(-1, nq)
    parts = [slice(first, first + _CHUNK) for first in range(0, len(flat), _CHUNK)]
    found = [depart(profiles_of(bins, flat[part], None if errors is None else errors[part]), where) for part in parts]
    names = ("log_q_star", "error", "slope", "code")
    at, error, slope, code = (np.concatenate([getattr(one, name) for one in found] or [np.empty(0)]).reshape(shape) for name in names)
    return Departures(at, error, slope, code.astype(np.int8))


def _axis(q: np.ndarray, q_range: tuple[float, float] | None, fit: tuple[float, float]) -> tuple[LogBins, Range]:
    if q.ndim != 1 or not np.isfinite(q).all():
        raise ShapeError(f"q of shape {q.shape} must be finite points: give the axis in Å⁻¹")
    if not 0 <= fit[0] < fit[1] <= 1:
        raise ShapeError(f"fit is {fit}: give two increasing shares of the points, from 0 to 1")
    low, high = (0.0, np.inf) if q_range is None else q_range
    points = np.sort(q[(q >= low) & (q <= high) & (q > 0)])[::-1]
    first, last = (int(round(share * (len(points) - 1))) for share in fit)
    bins = log_bins(q, (low, high)) if len(points) else None
    if bins is None or len(bins.log_q) < 2 * LEAST_ABOVE + LEAST_BELOW or points[first] <= points[last]:
        held = f"{len(points)} points" + (f" from {points[-1]:.4g} to {points[0]:.4g} Å⁻¹" if len(points) else "")
        raise ShapeError(f"d* needs more points of q above 0 than the {held} in the range {low:g} to {high:g}: integrate finer or widen it")
    return bins, Range(float(np.log(points[first])), float(np.log(points[last])))
