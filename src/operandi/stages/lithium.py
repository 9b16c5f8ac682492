"""Lithium: how much of it the graphite and the oxide hold, against the charge that has passed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.experiment import LITHIUM_PHASES, QWindow
from operandi.stages.crystals import Crystal, crystal_named
from operandi.stages.reflections import lines_of, pattern_of
from operandi.stages.windows import plain_weights

STAGES: dict[str, float] = {"graphite": 0.0, "LiC12": 0.5, "LiC6": 1.0}
"""Lithium for six carbons in each phase that has a map; dilute stages count as the map into whose window they fall."""

SPACINGS: tuple[tuple[float, float], ...] = ((2 * np.pi / 3.356, 0.0), (2 * np.pi / 3.533, 0.5), (2 * np.pi / 3.706, 1.0))
"""q of graphite 002, LiC12 002 and LiC6 001 (Å⁻¹), and the lithium for six carbons: a straight line from one to the next."""


@dataclass(frozen=True, slots=True)
class Relation:
    """Lithium content against a lattice constant: straight lines between points (Å, lithium in the formula unit), and where it is from."""

    points: tuple[tuple[float, float], ...]
    source: str


NMC622 = Relation(
    ((2.823, 0.35), (2.868, 1.0)),
    "a of pristine LiNi0.6Mn0.2Co0.2O2 (x = 1) and at 4.2 V, where 180 of 276.5 mAh/g are assumed to be extracted (x = 0.35), a straight "
    "line between; the lattice follows x alone, whatever the nickel content (Jousseaume et al. 2024, 10.1039/D3EE04115H), and c turns",
)

CONTENTS = (1.0, 0.35)
"""Lithium in the formula unit where NMC622 counts as lithiated and as delithiated: the ends of that relation."""

_IN_BIN = 5
"""Points by which a bin of a pattern is averaged."""

OXIDES = ("NMC lithiated", "NMC delithiated")

ASSUMPTIONS = (
    "coulombs are those of lithium: no side reaction takes charge",
    "the slice stands for the cell: all of it reacts alike along its axis",
    "graphite holds lithium as C6, LiC12 and LiC6 alone; silicon and surface films are in the residual",
    "maps hold nothing but their own phases",
)
"""What the balance takes for granted, whoever makes it."""


def lattice_of_oxide(q_110: xr.Dataset, q_113: xr.Dataset) -> xr.Dataset:
    """The lattice constants of a layered oxide (hexagonal axes) from the positions of its 110 and 113.

    Parameters
    ----------
    q_110, q_113 : fits of one peak each (`fit_peaks`): `position` and `position_sigma`, of the same dims.

    Returns
    -------
    Dataset: `a`, `c` in Å with `a_sigma`, `c_sigma`; NaN where one of the peaks is missing. 1/d² = 4/3 (h² + hk + k²)/a² + l²/c²; both
    positions are taken as independent.

    Raises
    ------
    ShapeError
        If the fits hold no positions, or their grids differ.
    """
    one, other = _position(q_110), _position(q_113)
    if one[0].sizes != other[0].sizes:
        raise ShapeError(f"the fits of 110 and 113 differ in shape: {dict(one[0].sizes)} and {dict(other[0].sizes)}")
    (at, sigma), (above, sigma_above) = one, other
    difference = above**2 - at**2
    difference = difference.where(difference > 0)
    a, c = 4 * np.pi / at, 6 * np.pi / np.sqrt(difference)
    variables = {
        "a": a,
        "a_sigma": a * sigma / at,
        "c": c,
        "c_sigma": c * np.hypot(above * sigma_above, at * sigma) / difference,
    }
    return xr.Dataset({name: value.assign_attrs(units="angstrom") for name, value in variables.items()})


def _position(fit: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    if "position" not in fit or fit.sizes.get("peak", 1) != 1:
        raise ShapeError("a lattice constant needs the fit of one peak, as fit_peaks gives it for one range")
    squeezed = fit.isel(peak=0, drop=True) if "peak" in fit.dims else fit
    return squeezed["position"], squeezed["position_sigma"]


def lithium_of_lattice(a: xr.DataArray, sigma: xr.DataArray | None = None, relation: Relation = NMC622) -> xr.Dataset:
    """`lithium` in the formula unit of an oxide, from its lattice constant a (Å), and its `sigma`.

    Beyond the relation's ends by as much as three sigma or 0.002 Å the nearest end counts; further off it is NaN.

    Raises
    ------
    ShapeError
        If the relation has fewer than two points.
    """
    return _along(a, sigma, relation.points, 0.002, {"source": relation.source})


def lithium_of_spacing(q: xr.DataArray, sigma: xr.DataArray | None = None) -> xr.Dataset:
    """`lithium` for six carbons from the position q (Å⁻¹) of a LiCx layer line between 1.66 and 1.90 Å⁻¹, and its `sigma`.

    Straight lines between graphite 002, LiC12 002 and LiC6 001: for a voxel with one such line. Where phases lie side by side the lines
    are apart, and `lithium_in_graphite` counts them.
    """
    points = tuple(sorted(SPACINGS))
    return _along(q, sigma, points, 0.03, {"source": "d of graphite 3.356, LiC12 3.533 and LiC6 3.706 Å, straight lines between"})


def _along(at: xr.DataArray, sigma: xr.DataArray | None, points, margin: float, attrs: Mapping[str, str]) -> xr.Dataset:
    places, amounts = (np.array(column, float) for column in zip(*sorted(points), strict=True))
    if places.size < 2 or not (np.diff(places) > 0).all():
        raise ShapeError(f"a relation needs two or more distinct points, got {points}")
    values = at.to_numpy()
    errors = np.zeros(values.shape) if sigma is None else sigma.transpose(*at.dims).to_numpy()
    room = np.maximum(margin, 3 * np.nan_to_num(errors))
    inside = (values >= places[0] - room) & (values <= places[-1] + room)
    lithium = np.where(inside, np.interp(values, places, amounts), np.nan)
    slopes = np.abs(np.diff(amounts) / np.diff(places))[np.clip(np.searchsorted(places, values) - 1, 0, places.size - 2)]
    spread = np.full(values.shape, np.nan) if sigma is None else np.where(inside, slopes * errors, np.nan)
    made = {"lithium": at.copy(data=lithium), "sigma": at.copy(data=spread)}
    return xr.Dataset({name: value.assign_attrs(units="1") for name, value in made.items()}, attrs=dict(attrs))


def carbon_strengths(phases: Mapping[str, float] = STAGES) -> dict[str, float]:
    """What the layer line of each phase gives for one carbon, relative to graphite's: |F|² / (V q²) for each carbon of its cell.

    For crystals without texture; platelets that lie flat change all of them alike.
    """
    strengths = {}
    for name in phases:
        crystal = crystal_named(name)
        lines = lines_of(crystal, 1.6, 1.95)
        strengths[name] = float(lines.intensity.max() * crystal.volume / _carbons(crystal))
    return {name: value / strengths["graphite"] for name, value in strengths.items()} if "graphite" in strengths else strengths


def _carbons(crystal: Crystal) -> float:
    """Carbon atoms in the cell of graphite or LiCx."""
    return sum(atom.occupancy for atom in crystal.atoms if atom.form_factor == crystal.atoms[-1].form_factor)


def window_strengths(q: np.ndarray, windows: Sequence[QWindow], fwhm_inv_angstrom: float) -> dict[str, float]:
    """What the maps of `LITHIUM_PHASES` give for one carbon relative to graphite's, or one formula unit relative to the lithiated oxide's.

    As `carbon_strengths`, of what each window with its background holds of its phase's lines: a line at the edge of its window is cut, and
    one in the band of the background is taken away.

    Parameters
    ----------
    q : centres of the patterns' bins, evenly spaced, Å⁻¹.
    fwhm_inv_angstrom : width of the lines.

    Raises
    ------
    ShapeError
        A window is missing, or one holds nothing of its own phase.
    """
    weights, names, strengths = plain_weights(q, windows), [window.phase for window in windows], {}
    within = (np.arange(_IN_BIN) - (_IN_BIN - 1) / 2) / _IN_BIN * (q[1] - q[0])
    for name in LITHIUM_PHASES:
        if name not in names:
            raise ShapeError(f"lithium needs windows {', '.join(LITHIUM_PHASES)}: there is no {name!r}")
        crystal, weight = crystal_named(name), weights[names.index(name)]
        seen = np.flatnonzero(weight)
        pattern = pattern_of(crystal, np.add.outer(q[seen], within).ravel(), fwhm_inv_angstrom).reshape(seen.size, _IN_BIN).mean(axis=1)
        held = float(weight[seen] @ pattern)
        if not held > 0:
            raise ShapeError(
                f"the window of {name!r} takes more of its lines, {fwhm_inv_angstrom:g} Å⁻¹ wide, for background than it holds: widen it"
            )
        strengths[name] = held * crystal.volume / (_carbons(crystal) if name in STAGES else 1.0)  # both oxides have 3 units in a cell
    return {name: value / strengths["graphite" if name in STAGES else OXIDES[0]] for name, value in strengths.items()}


def lithium_in_graphite(maps: xr.Dataset, strengths: Mapping[str, float] | None = None, *, at_least: float = 3.0) -> xr.Dataset:
    """Lithium for six carbons from the maps of graphite, LiC12 and LiC6: the mean of their stages, weighted by their carbon.

    Parameters
    ----------
    maps : `intensity` and perhaps `sigma` (phase, …), or sums of them over voxels.
    strengths : what each map gives for the same amount of carbon, relative to each other; None takes those of the crystals
        (`carbon_strengths`).
    at_least : where the carbon is below so many of its sigma there is no graphite: NaN.

    Returns
    -------
    Dataset of the maps' other dims: `lithium` for six carbons, its `sigma`, and `carbon`, the weighted sum in the maps' unit.

    Raises
    ------
    ShapeError
        If the maps hold fewer than two of the stages, or a strength is missing or not above 0.
    """
    known = maps["phase"].to_numpy().tolist() if "phase" in maps.coords else []
    stages = [name for name in STAGES if name in known]
    if len(stages) < 2:
        raise ShapeError(f"lithium in graphite needs maps of {', '.join(STAGES)}; there are {', '.join(map(str, known)) or 'none'}")
    told = dict(carbon_strengths() if strengths is None else strengths)
    if any(not told.get(name, 0) > 0 for name in stages):
        raise ShapeError(f"strengths {told} must be above 0 for each of {', '.join(stages)}")
    chosen = maps.sel(phase=stages)
    scale = xr.DataArray([told[name] for name in stages], {"phase": stages}, ("phase",))
    stage = xr.DataArray([STAGES[name] for name in stages], {"phase": stages}, ("phase",))
    amount = chosen["intensity"] / scale
    variance = (chosen["sigma"] / scale) ** 2 if "sigma" in chosen else amount * np.nan
    carbon = amount.sum("phase", skipna=False)
    there = (carbon > at_least * np.sqrt(variance.sum("phase"))) & (carbon > 0)
    carbon = carbon.where(there)
    lithium = (amount * stage).sum("phase", skipna=False) / carbon
    sigma = (variance * ((stage - lithium) / carbon) ** 2).sum("phase", skipna=False) ** 0.5
    attrs = {"strengths": [told[name] for name in stages], "stages": stages, "assumption": "silicon and dilute stages hold no lithium here"}
    made = {"lithium": lithium.assign_attrs(units="1"), "sigma": sigma.assign_attrs(units="1")}
    return xr.Dataset({**made, "carbon": carbon.assign_attrs(units=maps["intensity"].attrs.get("units", "1"))}, attrs=attrs)


def lithium_in_oxide(
    maps: xr.Dataset,
    lithiated: str = OXIDES[0],
    delithiated: str = OXIDES[1],
    *,
    strength: float = 1.0,
    at_least: float = 3.0,
    contents: tuple[float, float] = CONTENTS,
) -> xr.Dataset:
    """Lithium in the formula unit of the oxide from the ratio of its two maps.

    Parameters
    ----------
    maps : `intensity` and perhaps `sigma` (phase, …), or sums of them over voxels.
    strength : what the delithiated map gives for the same amount of oxide, relative to the lithiated one.
    contents : lithium of the lithiated and of the delithiated oxide.
    at_least : where the oxide is below so many of its sigma there is none: NaN.

    Returns
    -------
    Dataset of the maps' other dims: `lithium` and `sigma`.

    Raises
    ------
    ShapeError
        If a map is missing, or the strength is not above 0.
    """
    known = maps["phase"].to_numpy().tolist() if "phase" in maps.coords else []
    if not {lithiated, delithiated} <= set(known) or not strength > 0:
        raise ShapeError(
            f"lithium in the oxide needs maps {lithiated!r} and {delithiated!r} and a strength above 0, got {strength}; there are "
            + (", ".join(map(str, known)) or "none")
        )
    full, empty = (maps.sel(phase=name, drop=True) for name in (lithiated, delithiated))
    one, other = full["intensity"], empty["intensity"] / strength
    total = (one + other).where((one + other) > 0)
    share = one / total
    if "sigma" in maps:
        error, more = full["sigma"], empty["sigma"] / strength
        total = total.where(total > at_least * np.hypot(error, more))
        share = share.where(np.isfinite(total))
        spread = (((1 - share) * error) ** 2 + (share * more) ** 2) ** 0.5 / total
    else:
        spread = share * np.nan
    lithium = contents[1] + share * (contents[0] - contents[1])
    sigma = spread * abs(contents[0] - contents[1])
    made = {"lithium": lithium.assign_attrs(units="1"), "sigma": sigma.assign_attrs(units="1")}
    return xr.Dataset(made, attrs={"contents": list(contents), "strength": strength, "source": NMC622.source})


def balance_lithium(
    charge_mah: xr.DataArray,
    graphite: xr.Dataset,
    oxide: xr.Dataset,
    *,
    graphite_mah: float,
    oxide_mah: float,
) -> xr.Dataset:
    """Lithium in both electrodes against coulombs: what has left the oxide and what the graphite holds, and what is neither.

    Parameters
    ----------
    charge_mah : (frame,) charge since the first frame's state or any other start, positive where the cell charges.
    graphite, oxide : (frame,) `lithium` and `sigma` of the whole electrodes, such as `lithium_in_graphite` and `lithium_in_oxide` give of
        the sums of maps over the cell.
    graphite_mah : charge that fills all graphite from C6 to LiC6; NaN is not known, and so is what follows from it.
    oxide_mah : charge for one lithium in each formula unit of the oxide, likewise.

    Returns
    -------
    Dataset (frame): `graphite`, `oxide`: lithium gained and lost since the first frame, mAh, and their `…_sigma`; `charge` since then;
    `residual` = oxide - graphite, the lithium that has left the oxide and is not in the graphite: in silicon, in surface films, plated,
    stuck; `unseen` = charge - graphite, the same by the coulombs, and `oxide_error` = charge - oxide, which is 0 where oxide and coulombs
    agree; each with its sigma. NaN where a content is. The attributes state the assumptions.

    Raises
    ------
    ShapeError
        If the frames differ, or a capacity is not above 0.
    """
    dims = charge_mah.dims
    if any({"lithium", "sigma"} - set(part.data_vars) for part in (graphite, oxide)):
        raise ShapeError("contents must hold lithium and sigma, as lithium_in_graphite and lithium_in_oxide give them")
    if len(dims) != 1 or any(part["lithium"].dims != dims or part.sizes != charge_mah.sizes for part in (graphite, oxide)):
        raise ShapeError(f"charge and contents must be over the same frames, got {charge_mah.dims}, {graphite.sizes} and {oxide.sizes}")
    if not all(0 < one < np.inf or np.isnan(one) for one in (graphite_mah, oxide_mah)) or not charge_mah.size:
        raise ShapeError(f"capacities must be above 0 mAh, got {graphite_mah} for the graphite and {oxide_mah} for the oxide")
    frame = str(dims[0])
    charge = charge_mah - charge_mah.isel({frame: 0})
    gained, gained_sigma = _since_first(graphite, frame, graphite_mah)
    lost, lost_sigma = _since_first(oxide, frame, -oxide_mah)
    made = {
        "charge": charge, "graphite": gained, "graphite_sigma": gained_sigma, "oxide": lost, "oxide_sigma": lost_sigma,
        "residual": lost - gained, "residual_sigma": (lost_sigma**2 + gained_sigma**2) ** 0.5,
        "unseen": charge - gained, "unseen_sigma": gained_sigma, "oxide_error": charge - lost, "oxide_error_sigma": lost_sigma,
    }  # fmt: skip
    attrs = {
        "graphite_mah": graphite_mah,
        "oxide_mah": oxide_mah,
        "assumptions": [*ASSUMPTIONS, "sigma is that of the maps; capacities, strengths and contents are taken as exact"],
    }
    return xr.Dataset({name: value.assign_attrs(units="mAh") for name, value in made.items()}, attrs=attrs)


def _since_first(content: xr.Dataset, frame: str, capacity_mah: float) -> tuple[xr.DataArray, xr.DataArray]:
    """Change of a content since the first frame, mAh, and its standard deviation, which is 0 there."""
    lithium, sigma = content["lithium"], content["sigma"]
    first = xr.DataArray(np.arange(lithium.size) == 0, dims=(frame,))
    spread = xr.where(first, 0.0, np.hypot(sigma, sigma.isel({frame: 0})))
    return (lithium - lithium.isel({frame: 0})) * capacity_mah, spread * abs(capacity_mah)
