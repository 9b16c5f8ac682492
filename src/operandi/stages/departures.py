"""Where profiles turn away from their power law, in log-log."""

from dataclasses import dataclass

import numpy as np

from operandi.kernels.corners import find_corners
from operandi.stages.profiles import LogProfiles, without_outliers

REASONS = ("", "one slope", "too noisy", "out of range", "not measured")
"""Why there is no d*, by code; 0: there is one."""
FOUND, ONE_SLOPE, TOO_NOISY, OUT_OF_RANGE, NOT_MEASURED = range(len(REASONS))
SIGNIFICANT = 4.5
"""A turn counts from so many standard deviations: of pure power laws less than 1 % have one at any q."""
LEAST_TURN = 0.5
"""Smallest change of slope that counts; air, background and artefacts bend a power law by less."""
TELLING_TURN = 1.5
"""Where not even such a change of slope would be significant, the profile is too noisy to tell of one slope."""
STRETCH = 0.45
"""Length in ln q, below a turn's rounding, that is described by a line of its own: what comes further down is of other sizes."""
LEAST_ABOVE, LEAST_BELOW = 6, 4
"""Bins needed on either side of a turn."""
WORST_ERROR = 0.25
"""A q* that is known no better, relatively, is too noisy."""
FINENESS = 0.003
"""What the bins and the form of the rounding leave uncertain of ln q*, however good the data."""

_SHAPE = (STRETCH, LEAST_BELOW, SIGNIFICANT, LEAST_TURN, TELLING_TURN)


@dataclass(frozen=True, slots=True)
class Departures:
    """One for each profile: ``log_q_star``, its standard deviation ``error``, ``slope`` of the power law, ``code`` of `REASONS`."""

    log_q_star: np.ndarray
    error: np.ndarray
    slope: np.ndarray
    code: np.ndarray


@dataclass(frozen=True, slots=True)
class Range:
    """ln q where the points begin and end that decide the power law."""

    top: float
    bottom: float

    @property
    def middle(self) -> float:
        """From here down a turn is looked for."""
        return (self.top + self.bottom) / 2


def depart(profiles: LogProfiles, where: Range) -> Departures:
    """Where profiles depart from the power law that they follow in the range ``where``."""
    profiles = without_outliers(profiles)
    x, used = profiles.log_q, profiles.weight > 0
    top, middle, bottom = (int(np.searchsorted(-x, -edge)) for edge in (where.top, where.middle, where.bottom))
    shift = float(x.mean())
    limits = (top, max(middle, top + LEAST_ABOVE))
    state, found = find_corners(x - shift, profiles.log_intensity, profiles.weight, limits, _SHAPE)
    log_q_star, error = found[:, 0] + shift, np.sqrt(found[:, 1] + found[:, 2] + FINENESS**2)
    outside = (log_q_star <= x[-2 - LEAST_BELOW]) | (log_q_star >= where.middle)
    code = np.where(state == 0, ONE_SLOPE, np.where((state < 0) | ~(outside | (error < WORST_ERROR)), TOO_NOISY, FOUND))
    code = np.where((state == 1) & outside, OUT_OF_RANGE, code)
    enough = (used[:, top:middle].sum(axis=1) >= 4) & (used[:, top : bottom + 1].sum(axis=1) >= LEAST_ABOVE)
    code = np.where(profiles.measured, np.where(enough, code, TOO_NOISY), NOT_MEASURED)
    none = code != FOUND
    above = np.where(none, where.bottom, np.maximum(np.nan_to_num(log_q_star, nan=-np.inf), where.bottom))
    slope = _slope(profiles, (x <= where.top) & (x >= above[:, None]))
    return Departures(np.where(none, np.nan, log_q_star), np.where(none, np.nan, error), slope, code)


def _slope(profiles: LogProfiles, where: np.ndarray) -> np.ndarray:
    """Slope (n,) of the line through the bins ``where`` (n, bin); NaN where it is not told."""
    w, x = np.where(where, profiles.weight, 0.0), profiles.log_q
    wy = w * profiles.log_intensity
    n, sx, sxx = w.sum(axis=1), np.einsum("nb,b->n", w, x), np.einsum("nb,b->n", w, x * x)
    sy, sxy = wy.sum(axis=1), np.einsum("nb,b->n", wy, x)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (sxy - sx * sy / n) / (sxx - sx**2 / n)
    return np.where(np.count_nonzero(w, axis=1) >= 2, slope, np.nan)


def warm_up() -> None:
    """Compile (or load from the cache) what `depart` runs."""
    find_corners(np.array([1.0, 0.0]), np.zeros((1, 2)), np.ones((1, 2)), (0, 1), _SHAPE)
