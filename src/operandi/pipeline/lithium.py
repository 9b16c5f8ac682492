"""Lithium in both electrodes of every frame, against the charge that has passed.

The sum of a projection over its positions is what the cell holds of a phase, whatever the angle: it needs no reconstruction, and its
error is known exactly.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from operandi.experiment import LITHIUM_PHASES, Corrections, Experiment, Lithium
from operandi.nodes import LITHIUM, LITHIUM_COLUMNS, Product, Rows, Table, typed_row
from operandi.pipeline.phases import PhaseSet
from operandi.stages.lithium import (
    ASSUMPTIONS,
    STAGES,
    balance_lithium,
    carbon_strengths,
    lithium_in_graphite,
    lithium_in_oxide,
    window_strengths,
)
from operandi.stages.sinograms import fill_gaps, usable_projections

_SIDES = ("graphite", "oxide")
_STRENGTHS = ("LiC12", "LiC6", "NMC delithiated")
_ASSUMPTIONS = (
    *ASSUMPTIONS,
    "sigma is that of the counts and of the strengths; capacities and contents are taken as exact",
    "the travel of every projection spans the cell",
    "frames that share sets are taken as independent",
)


@dataclass(frozen=True, slots=True)
class Contents:
    """Lithium for six carbons of the graphite and in the formula unit of the oxide, (2,), at a mean charge; NaN is not known.

    ``sigma`` (2,) is that of the counts; ``shift`` (2, strength) what one standard deviation of each strength makes of them, in all frames.
    """

    charge_mah: float
    lithium: np.ndarray
    sigma: np.ndarray
    shift: np.ndarray

    @property
    def known(self) -> bool:
        """Whether a balance can count from it."""
        return bool(np.isfinite([self.charge_mah, *self.lithium]).all())


def tree(experiment: Experiment) -> Iterator[Product]:
    """Declare the table, where the experiment asks for it.

    Raises
    ------
    ShapeError
        A window holds nothing of its own phase (`strengths_of`).
    """
    how = experiment.lithium
    if how is None:
        return
    units = {name: "mAh" if name.endswith("mah") else "1" for name, kind in LITHIUM_COLUMNS.items() if kind == "float64"}
    about = {**how.model_dump(mode="json"), "strengths": strengths_of(experiment, how), "assumptions": list(_ASSUMPTIONS)}
    yield Table(LITHIUM, LITHIUM_COLUMNS, "frame", {"units": units, **about})


def strengths_of(experiment: Experiment, how: Lithium) -> dict[str, float]:
    """What the map of each phase gives for the same amount, relative to graphite and to the lithiated oxide.

    Raises
    ------
    ShapeError
        A window holds nothing of its own phase.
    """
    if how.line_width_inv_angstrom is None:
        derived = {**carbon_strengths(), **dict.fromkeys(LITHIUM_PHASES[len(STAGES) :], 1.0)}
    else:
        axis = experiment.integration
        edges = np.linspace(axis.q_min_inv_angstrom, axis.q_max_inv_angstrom, axis.bins + 1)
        derived = window_strengths((edges[1:] + edges[:-1]) / 2, experiment.windows, how.line_width_inv_angstrom)
    given = {"LiC12": how.lic12_strength, "LiC6": how.lic6_strength, "NMC delithiated": how.delithiated_strength}
    return derived | {name: value for name, value in given.items() if value is not None}


def contents_of(sets: Sequence[PhaseSet], charge_mah: float, experiment: Experiment) -> Contents:
    """The lithium of a frame, of the sets of its window and their mean charge."""
    how = experiment.lithium
    assert how is not None
    total, variance = totals_of(sets, experiment)
    maps = xr.Dataset({"intensity": ("phase", total), "sigma": ("phase", np.sqrt(variance))}, {"phase": list(LITHIUM_PHASES)})
    strengths = strengths_of(experiment, how)
    lithium, sigma = _lithium(maps, strengths, how)
    changed = [_lithium(maps, strengths | {name: (1 + how.strength_error) * strengths[name]}, how)[0] for name in _STRENGTHS]
    return Contents(charge_mah, lithium, sigma, np.stack(changed, axis=1) - lithium[:, None])


def _lithium(maps: xr.Dataset, strengths: Mapping[str, float], how: Lithium) -> tuple[np.ndarray, np.ndarray]:
    """Lithium (2,) in graphite and oxide, of maps (phase,), and its sigma."""
    contents = (how.lithiated_content, how.delithiated_content)
    parts = lithium_in_graphite(maps, strengths), lithium_in_oxide(maps, strength=strengths["NMC delithiated"], contents=contents)
    lithium, sigma = (np.array([float(part[name]) for part in parts]) for name in ("lithium", "sigma"))
    return lithium, sigma


def totals_of(sets: Sequence[PhaseSet], experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """The mean over projections of their sums over all positions, (phase,) of `LITHIUM_PHASES`, and its variance; NaN is not measured.

    Projections of which less than half is measured are left out, and single missing cells interpolated, as in the maps of the frame.
    """
    chosen = [[w.phase for w in experiment.windows].index(phase) for phase in LITHIUM_PHASES]
    intensity = np.concatenate([one.intensity[..., chosen] for one in sets])
    variance = np.concatenate([one.variance[..., chosen] for one in sets])
    usable = usable_projections(intensity)
    n = max(int(usable.sum()), 1)
    filled, lost = fill_gaps(intensity[usable])
    spread, _ = fill_gaps(variance[usable])
    lost = lost if usable.any() else ~lost
    own = spread.sum(axis=(0, 1), dtype=float) + sum(_of_rim(one.variance[..., chosen], experiment.corrections) for one in sets)
    return np.where(lost, np.nan, filled.sum(axis=(0, 1), dtype=float) / n), np.where(lost, np.nan, own / n**2)


def _of_rim(variance: np.ndarray, corrections: Corrections) -> np.ndarray:
    """What the variance (phase,) of the sum of a set's cells (rotation, translation, phase) is above the sum of theirs, by air of the rim.

    Its mean over n cells is subtracted from all N, and so its variance s counts N² times, not N times; but of the cells of the rim
    themselves nothing is left. Of the variances there s is 1 / (n + 1).
    """
    if not corrections.subtracts_rim:
        return np.zeros(variance.shape[-1])
    points, cells = corrections.rim_points, float(variance.shape[0] * variance.shape[1])
    rim = variance[:, np.r_[:points, -points:0]]
    n = np.maximum(np.isfinite(rim).sum(axis=(0, 1)), 1)
    shared = np.nansum(rim, axis=(0, 1), dtype=float) / n / (n + 1)
    return shared * (cells**2 - 2 * cells * n - cells)


def row(frame: int, now: Contents, first: Contents | None, experiment: Experiment) -> Rows:
    """The row of a frame; ``first`` is that since which the balance counts, None where there is none yet."""
    how = experiment.lithium
    assert how is not None
    sigma = np.hypot(now.sigma, np.linalg.norm(now.shift, axis=1))
    sides = {f"{name}{end}": values[i] for i, name in enumerate(_SIDES) for end, values in (("", now.lithium), ("_sigma", sigma))}
    values = {"frame": frame, "charge_mah": now.charge_mah, "reason": _reason(now, how), **sides, **_balance(now, first, how)}
    return Rows(LITHIUM, typed_row(LITHIUM_COLUMNS, values))


def _balance(now: Contents, first: Contents | None, how: Lithium) -> dict[str, float]:
    """The columns in mAh."""
    names = (*_SIDES, "residual", "unseen")
    if first is None:
        return dict.fromkeys(["passed_mah", *(f"{name}{end}" for name in names for end in ("_mah", "_sigma_mah"))], np.nan)
    both = [first] if now is first else [first, now]
    charge = xr.DataArray([one.charge_mah for one in both], dims="frame")
    graphite, oxide = (
        xr.Dataset({name: ("frame", [getattr(one, name)[i] for one in both]) for name in ("lithium", "sigma")}) for i in range(2)
    )
    capacities = {"graphite_mah": how.graphite_mah or np.nan, "oxide_mah": how.oxide_mah or np.nan}
    found = balance_lithium(charge, graphite, oxide, **capacities).isel(frame=-1)
    gained, lost = np.array([[capacities["graphite_mah"]], [-capacities["oxide_mah"]]]) * (now.shift - first.shift)
    shifts = {"graphite": gained, "oxide": lost, "residual": lost - gained, "unseen": gained}
    columns = {f"{name}_mah": float(found[name]) for name in names}
    columns |= {f"{name}_sigma_mah": float(np.hypot(found[f"{name}_sigma"], np.linalg.norm(shifts[name]))) for name in names}
    return {"passed_mah": float(found["charge"]), **columns}


def _reason(now: Contents, how: Lithium) -> str:
    """Why some of a row is NaN, or nothing."""
    reasons = [f"no {name} stands above its noise" for name, value in zip(_SIDES, now.lithium, strict=True) if not np.isfinite(value)]
    reasons += [] if np.isfinite(now.charge_mah) else ["the charge is unknown"]
    reasons += [f"lithium.{name} is not given" for name in ("graphite_mah", "oxide_mah") if getattr(how, name) is None]
    return "; ".join(reasons)
