"""Windows against crystals: which reflections of which phases each map really holds, and what one map takes out of another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.experiment import DEFAULT_WINDOWS, QWindow, Subtraction
from operandi.stages.crystals import CRYSTALS, Crystal, crystal_named
from operandi.stages.reflections import FWHM_INV_ANGSTROM, lines_of, pattern_of
from operandi.stages.windows import Background, Windows, as_windows, plain_weights

_STEP = 0.001
_LEAST_SHARE = 0.003
"""Of the crystal's strongest line between 0.5 and 6 Å⁻¹: weaker ones are no matter."""
_LEAST_ADDED = 0.001
"""Of what the map's own phase gives, likewise."""


@dataclass(frozen=True, slots=True)
class Intruder:
    """A reflection that a map holds beside its own.

    ``share`` is what it adds to the map, for equal volumes of both phases, relative to the map's own phase: negative where it lies in the
    background's bands, NaN where the map's own phase or an intensity is not known, or where it is smeared in alone.
    """

    phase: str
    crystal: str
    reflection: str
    q_inv_angstrom: float
    where: Literal["window", "background"]
    share: float

    def __str__(self) -> str:
        size = "" if np.isnan(self.share) else f", {self.share:+.1%}"
        return f"{self.crystal} {self.reflection} at {self.q_inv_angstrom:.3f} Å⁻¹ ({self.where}{size})"


def overlaps(
    windows: Windows = DEFAULT_WINDOWS,
    crystals: Sequence[Crystal] = CRYSTALS,
    *,
    background: Background | None = None,
    fwhm_inv_angstrom: float = FWHM_INV_ANGSTROM,
) -> xr.Dataset:
    """What one volume of each crystal puts into each map, above its background, before anything is subtracted.

    Parameters
    ----------
    windows : of an experiment, or phase → (q_min, q_max), Å⁻¹.
    crystals : with atoms; those without are NaN.
    background : in place of each window's own.
    fwhm_inv_angstrom : width of every line, that of the instrument with parallax.

    Returns
    -------
    Dataset (phase, crystal): `intensity`, the map's value in electrons²/Å⁴, and `share`, relative to the crystal that the map is meant to
    show: what off-diagonal terms are at equal volumes. NaN where a map is meant for no crystal of these.

    Raises
    ------
    ShapeError
        If there is no window, or the width is none.
    """
    windows = as_windows(windows)
    q = _grid(windows)
    weights = plain_weights(q, windows, background)
    known = [pattern_of(c, q, fwhm_inv_angstrom) if c.atoms else np.full(q.size, np.nan) for c in crystals]
    matrix = np.stack([weights @ pattern for pattern in known], axis=1)
    own = np.array([_own(window, crystals, row) for window, row in zip(windows, matrix, strict=True)])
    share = matrix / np.where(own > 0, own, np.nan)[:, None]
    coords = {"phase": [w.phase for w in windows], "crystal": [c.name for c in crystals]}
    variables = {
        "intensity": (("phase", "crystal"), matrix, {"units": "electron**2/angstrom**4"}),
        "share": (("phase", "crystal"), share, {"units": "1"}),
    }
    return xr.Dataset(variables, coords, {"fwhm_inv_angstrom": fwhm_inv_angstrom, "sources": [c.source for c in crystals]})


def _own(window: QWindow, crystals: Sequence[Crystal], row: np.ndarray) -> float:
    """Of what crystals put into a map, that of the one which it is meant to show; NaN where it is none of these."""
    return next((float(value) for crystal, value in zip(crystals, row, strict=True) if window.phase in crystal.maps), np.nan)


def _grid(windows: Sequence[QWindow]) -> np.ndarray:
    """Fine points over all windows with the bands of their background."""
    room = 2 * max(w.q_max_inv_angstrom - w.q_min_inv_angstrom for w in windows) + 10 * _STEP
    low = max(min(w.q_min_inv_angstrom for w in windows) - room, _STEP)
    return np.arange(low, max(w.q_max_inv_angstrom for w in windows) + room, _STEP)


def intruders(
    windows: Windows = DEFAULT_WINDOWS,
    crystals: Sequence[Crystal] = CRYSTALS,
    *,
    background: Background | None = None,
    smear_inv_angstrom: float = 0.0,
) -> list[Intruder]:
    """Every reflection of another phase that falls into a window or its background, in the order of windows and of q.

    Parameters
    ----------
    smear_inv_angstrom : what windows are widened by on either side; for reflections that the sample's radius smears into them.

    Raises
    ------
    ShapeError
        If there is no window, or the smear is negative.
    """
    if not 0 <= smear_inv_angstrom < np.inf:
        raise ShapeError(f"the smear is {smear_inv_angstrom} Å⁻¹: give a width from 0 on")
    windows = as_windows(windows)
    q = _grid(windows)
    weights = plain_weights(q, windows, background)
    table = overlaps(windows, crystals, background=background)["intensity"].to_numpy()
    found = []
    for window, weight, row in zip(windows, weights, table, strict=True):
        own = _own(window, crystals, row)
        for crystal in (c for c in crystals if window.phase not in c.maps):
            found += _of_crystal(window, crystal, q, weight, own, smear_inv_angstrom)
    return found


def _of_crystal(window: QWindow, crystal: Crystal, q: np.ndarray, weight: np.ndarray, own: float, smear: float) -> list[Intruder]:
    reach = q[np.flatnonzero(weight)[[0, -1]]]
    low, high = window.q_min_inv_angstrom - smear, window.q_max_inv_angstrom + smear
    lines = lines_of(crystal, min(reach[0], low), max(reach[1], high))
    strongest = np.max(lines_of(crystal, 0.5, 6.0).intensity, initial=0.0) if crystal.atoms else np.nan
    also, found = dict(crystal.also), []
    for name, at, intensity in zip(lines.names, lines.q, lines.intensity, strict=True):
        inside = low <= at <= high
        taken = float(np.interp(at, q, weight)) / _STEP
        if intensity < _LEAST_SHARE * strongest or (not inside and abs(taken) < 0.01):
            continue
        smeared = inside and not window.q_min_inv_angstrom <= at <= window.q_max_inv_angstrom
        share = float(intensity * taken / own) if own > 0 and not smeared else np.nan
        if abs(share) < _LEAST_ADDED:
            continue
        label = f"{name} = {also[name]}" if name in also else name
        found.append(Intruder(window.phase, crystal.name, label, float(at), "window" if inside else "background", share))
    return found


def own_share(window: QWindow, crystals: Sequence[Crystal] = CRYSTALS, *, fwhm_inv_angstrom: float = FWHM_INV_ANGSTROM) -> float:
    """How much of its own strongest line a map holds, 0 … 1; NaN where it is meant for no crystal of these with atoms.

    A line near the edge of its window is cut: NMC 113 at 4.578 Å⁻¹ in the window from 4.57 on.
    """
    crystal = next((c for c in crystals if window.phase in c.maps and c.atoms), None)
    if crystal is None:
        return np.nan
    lines = lines_of(crystal, window.q_min_inv_angstrom, window.q_max_inv_angstrom)
    if not lines.q.size:
        return 0.0
    at, sigma = lines.q[np.argmax(lines.intensity)], fwhm_inv_angstrom / np.sqrt(8 * np.log(2))
    q = _grid([window])
    line = np.exp(-0.5 * ((q - at) / sigma) ** 2)
    inside = (q >= window.q_min_inv_angstrom) & (q <= window.q_max_inv_angstrom)
    return float(line[inside].sum() / line.sum())


def mixing(windows: Sequence[QWindow]) -> np.ndarray:
    """(phase, phase) by which plain maps become those with their subtractions: 1 on the diagonal, less the ratios.

    Raises
    ------
    ShapeError
        If a window subtracts one that is not among them, or a ratio cannot be derived.
    """
    names, matrix = [w.phase for w in windows], np.eye(len(windows))
    for row, window in zip(matrix, windows, strict=True):
        for taken in window.subtract:
            if taken.phase not in names or taken.phase == window.phase:
                raise ShapeError(f"window {window.phase!r} subtracts {taken.phase!r}, which is no other window of {', '.join(names)}")
            row[names.index(taken.phase)] -= derived_ratio(windows, window.phase, taken) if taken.ratio == "derived" else taken.ratio
    return matrix


def derived_ratio(windows: Windows, phase: str, taken: Subtraction) -> float:
    """What a crystal puts into the map ``phase`` for each unit that it puts into the map ``taken.phase``, by its structure.

    For a powder: texture, as of a rolled foil or a drawn film, changes it. Then give a number, such as `fit_ratio` finds.

    Raises
    ------
    ShapeError
        If the crystal is not known, or does not appear in its own map.
    """
    crystal = crystal_named(taken.crystal or taken.phase)
    row = overlaps(windows, [crystal])["intensity"].sel(crystal=crystal.name)
    into, own = float(row.sel(phase=phase)), float(row.sel(phase=taken.phase))
    if not (np.isfinite(into) and own > 0):
        raise ShapeError(
            f"the ratio by which {phase!r} holds {taken.phase!r} cannot be derived: {crystal.name} has no line in the window of "
            f"{taken.phase!r}; give a number, or another crystal"
        )
    return into / own


@dataclass(frozen=True, slots=True)
class Ratio:
    """What one map holds of another for each unit of it, and the standard deviation of that."""

    value: float
    uncertainty: float


def fit_ratio(maps: xr.Dataset, phase: str, of: str, *, where: xr.DataArray | np.ndarray | None = None) -> Ratio:
    """The ratio by which the map ``phase`` holds that of ``of``, from voxels where ``phase`` itself is not.

    A straight line through the origin with errors in both maps: the weighted least squares of York et al. 2004 (10.1119/1.1632486),
    without correlation. The uncertainty grows with the scatter where that is more than the errors.

    Parameters
    ----------
    maps : `intensity` and `sigma` (phase, …), such as `screen` gives: of a state in which ``phase`` is absent, or with ``where``.
    where : True for the voxels to take; None takes all.

    Raises
    ------
    ShapeError
        If a map or its errors are not there, or fewer than 3 voxels hold anything of ``of``.
    """
    known = maps["phase"].to_numpy().tolist() if "phase" in maps.coords else []
    if {phase, of} - set(known) or "sigma" not in maps:
        raise ShapeError(f"a ratio of {phase!r} to {of!r} needs both maps with their sigma; there are {', '.join(map(str, known))}")
    y, x = (maps["intensity"].sel(phase=name).to_numpy().astype(float) for name in (phase, of))
    sy, sx = (maps["sigma"].sel(phase=name).to_numpy().astype(float) for name in (phase, of))
    chosen = np.isfinite(x + y) & (sx > 0) & (sy > 0)
    chosen &= True if where is None else np.asarray(where, bool)
    if np.count_nonzero(chosen & (x > 3 * sx)) < 3:
        raise ShapeError(f"fewer than 3 of the chosen voxels hold {of!r} above three sigma: choose others, or give the ratio as a number")
    x, y, sx, sy = x[chosen], y[chosen], sx[chosen], sy[chosen]
    ratio = float(np.sum(x * y / sy**2) / np.sum(x * x / sy**2))
    for _ in range(50):
        weight = 1 / (sy**2 + (ratio * sx) ** 2)
        true = weight * (x * sy**2 + ratio * y * sx**2)
        before, ratio = ratio, float(np.sum(weight * true * y) / np.sum(weight * true * x))
        if abs(ratio - before) <= 1e-9 * max(abs(ratio), 1e-9):
            break
    weight = 1 / (sy**2 + (ratio * sx) ** 2)
    true = weight * (x * sy**2 + ratio * y * sx**2)
    scatter = float(np.sum(weight * (y - ratio * x) ** 2)) / max(x.size - 1, 1)
    return Ratio(ratio, float(np.sqrt(max(scatter, 1.0) / np.sum(weight * true**2))))
