"""Regions of a cell: normal, bend and agglomerate; and the same defect in two states or cells."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial import ConvexHull, QhullError

from operandi.errors import ShapeError
from operandi.stages import bends, electrodes, peers
from operandi.stages.unrolling import Winding

OUTSIDE, NORMAL, BEND, AGGLOMERATE = range(4)
REGIONS = ("outside", "normal", "bend", "agglomerate")
CRITICAL_UM = 50.0
"""Agglomerates from this size on make the cell fail (Lübke et al. 2024, 10.1039/D4EE00590B)."""

_EIGHT = np.ones((3, 3), int)
_FEWEST_TO_ALIGN = 3
_COMPACT_PX = 0.8
_LEAST_DSTAR = 0.02
"""Least relative scatter of d*: what a fit of a voxel's profile is exact to, at best."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for an agglomerate in each voxel (y, x), in standard deviations; NaN is unknown."""

    composition: np.ndarray
    """More silicon, less graphite than the layer has."""
    structure: np.ndarray
    """d* below that of the layer, or there where the layer has none."""

    def together(self) -> np.ndarray:
        return _together(self.composition, self.structure)

    def of_agglomerate(self, bent: np.ndarray) -> np.ndarray:
        """Both together, but no more than twice the composition where that is known, nor than it in a bend."""
        score, known = self.together(), np.isfinite(self.composition)
        most = np.where(known, 2 * self.composition, np.inf)
        return np.minimum(score, np.where(bent, np.nan_to_num(self.composition), most))


def _together(*scores: np.ndarray) -> np.ndarray:
    """The sum of those scores that are known, as standard deviations again; NaN where none is."""
    every = np.stack(scores)
    known = np.isfinite(every).sum(axis=0)
    return np.where(known > 0, np.nansum(every, axis=0) / np.sqrt(np.maximum(known, 1)), np.nan)


def find_regions(
    winding: Winding,
    *,
    silicon: xr.DataArray | None = None,
    graphite: xr.DataArray | None = None,
    dstar: xr.DataArray | None = None,
    layer: xr.DataArray | None = None,
    threshold: float = 5.0,
    critical_um: float = CRITICAL_UM,
) -> xr.Dataset:
    """Tell normal material, bends and agglomerates apart, and measure each defect.

    A bend is where the winding departs from the smooth spiral (`bends.find_bends`), and where d* is lower beside a place, at the same
    azimuth in any turn, where it departs by half of that at least. An agglomerate is where silicon, graphite (inverted) and d* (inverted)
    together, averaged over neighbouring voxels, differ from the same depth of the electrode nearby by more than ``threshold`` standard
    deviations; it reaches as far as they differ by half of what they do in its middle. Where silicon or graphite is known, d* alone makes
    none: in a bend it is lower too.

    Parameters
    ----------
    winding : from `follow_winding` of a map of the same cell and state.
    silicon, graphite, dstar : (y, x) maps on one grid, whichever there are; d* NaN is *none*.
    layer : (y, x) True where to look, e.g. in the anode; everywhere in the roll if not given.

    Returns
    -------
    On (y, x): ``region`` int8, 0 outside, 1 normal, 2 bend, 3 agglomerate; ``defect`` int32, 0 none, else its number; ``score``, standard
    deviations (NaN within one thickness of both ends of the winding); ``departure``, mm.
    On (defect_number,), from 1: ``kind``; ``centre_x``, ``centre_y``, and their distance ``radius`` from the centre, mm; ``turn``, ``arc``,
    ``depth`` of the middle; ``voxels``; ``area`` mm²; ``diameter`` µm of the circle of equal area; ``length`` µm, the greatest distance;
    ``critical``, True for an agglomerate of at least ``critical_um`` in diameter; ``severity``: the largest score, or departure in µm;
    ``bend_radius`` mm, the tightest; ``reason`` why a size is not to be trusted.

    Raises
    ------
    ShapeError
        No map is given, maps differ in grid, or no voxel of the layer lies in the roll.
    """
    given = {"silicon": silicon, "graphite": graphite, "dstar": dstar, "layer": layer}
    maps = _aligned({name: m for name, m in given.items() if m is not None})
    first = next(iter(maps.values()))
    coordinates = winding.coordinates(first)
    inside = np.isfinite(coordinates["arc"].to_numpy())
    if "layer" in maps:
        inside &= np.nan_to_num(maps["layer"].to_numpy()).astype(bool)
    if not inside.any():
        raise ShapeError("no voxel of the layer lies in the roll: the region is empty; give another layer, or the winding of this cell")
    bent, beside, departure, tightness = _bent(winding, coordinates)
    evidence = _evidence(winding, coordinates, maps, inside)
    score = evidence.together()
    region = np.where(inside, NORMAL, OUTSIDE).astype(np.int8)
    region[inside & (bent | (beside & _stand_out(evidence.structure, inside, threshold)))] = BEND
    region[_stand_out(evidence.of_agglomerate(bent), inside, threshold)] = AGGLOMERATE
    fields = _Fields(winding, coordinates, region, score, departure, tightness, critical_um)
    return _dataset(fields, first)


def _aligned(maps: dict[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    if not maps:
        raise ShapeError("regions need a map to be found in: give silicon, graphite, dstar, or at least a layer")
    for name, map_ in maps.items():
        if set(map_.dims) != {"y", "x"}:
            raise ShapeError(f"{name} must have dims y and x, got {map_.dims}")
    maps = {name: m.transpose("y", "x").sortby(["y", "x"]) for name, m in maps.items()}
    first_name, first = next(iter(maps.items()))
    for name, m in maps.items():
        if m.shape != first.shape or not all(np.allclose(m[c], first[c], atol=1e-6) for c in ("y", "x")):
            raise ShapeError(f"{name} {dict(m.sizes)} does not lie on the grid of {first_name} {dict(first.sizes)}: interpolate it first")
    return maps


def _bent(winding: Winding, coordinates: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Whether each voxel (y, x) lies in a bend, or beside what may be one; the departure of its winding, mm, and its curvature, 1/mm."""
    spiral, pixel = winding.spiral, winding.grid.pixel
    found = bends.find_bends(spiral, 2 * electrodes.half_thickness(spiral))
    theta = coordinates["turn"].to_numpy() * 2 * np.pi
    known = np.isfinite(theta)
    safe = np.where(known, theta, spiral.theta[0])
    bent = known & (np.interp(safe, spiral.theta, found.bent.astype(float)) > 0.5)
    along = (np.where(known, np.interp(safe, spiral.theta, a), np.nan) for a in (found.departure * pixel, found.curvature / pixel))
    departure, curvature = along
    return bent, known & bends.beside(found.hinted, spiral.theta, safe), departure, curvature


def _evidence(winding: Winding, coordinates: xr.Dataset, maps: dict[str, xr.DataArray], inside: np.ndarray) -> Evidence:
    at = electrodes.ElectrodePositions(
        *(coordinates[n].to_numpy() * f for n, f in (("turn", 2 * np.pi), ("arc", 1), ("depth", 1), ("share", 1)))
    )
    pixel = abs(float(coordinates["x"][1] - coordinates["x"][0]))
    thickness = 2 * electrodes.half_thickness(winding.spiral) * winding.grid.pixel
    depths = max(int(thickness / pixel), 1)
    # At both ends the winding has one neighbour only, and its depth is not sure enough to compare with.
    inside = inside & (at.arc > thickness) & (at.arc < winding.length - thickness)
    scores = [np.full(inside.shape, np.nan)]
    if "silicon" in maps:
        scores.append(peers.against_layer(maps["silicon"].to_numpy().astype(float), at, inside, depths))
    if "graphite" in maps:
        # Less graphite is also what a partly filled voxel at the electrode's face has: the high tail is scatter too.
        scores.append(peers.against_layer(-maps["graphite"].to_numpy().astype(float), at, inside, depths, both_tails=True))
    composition = _together(*scores)
    structure = np.full(inside.shape, np.nan)
    if "dstar" in maps:
        values = maps["dstar"].to_numpy().astype(float)
        usual = peers.share_known(values, at, inside, depths) > 0.5
        # Where the layer has no d*, one that is there counts by how rare it is: as three standard deviations.
        structure = np.where(
            usual, peers.against_layer(-values, at, inside, depths, least=_LEAST_DSTAR), np.where(inside & np.isfinite(values), 3.0, np.nan)
        )
    return Evidence(composition, structure)


def _stand_out(score: np.ndarray, inside: np.ndarray, threshold: float) -> np.ndarray:
    """True in compact groups that together stand out, as far as they differ by half of what they do in their middle."""
    strength = np.where(inside, np.nan_to_num(score), 0)
    known = ndimage.gaussian_filter(inside.astype(float), _COMPACT_PX)
    mean = np.where(inside, ndimage.gaussian_filter(strength, _COMPACT_PX) / np.maximum(known, 1e-3), 0)
    # The mean of independent voxels scatters by this, if all of them are known.
    together = mean * np.sqrt(4 * np.pi) * _COMPACT_PX * np.sqrt(np.minimum(known, 1))
    groups, n = _grouped((np.maximum(together, strength) > threshold / 2) & (strength > 0))
    if n == 0:
        return np.zeros(strength.shape, bool)
    numbers = np.arange(1, n + 1)
    found = ndimage.maximum(np.maximum(together, strength), groups, numbers) > threshold
    height = ndimage.maximum(mean, groups, numbers)
    kept = np.where(found, height / 2, np.inf)
    return (groups > 0) & (mean >= np.concatenate([[np.inf], kept])[groups])


def _grouped(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected groups, numbered from 1; corners connect."""
    groups = np.zeros(mask.shape, np.int32)
    return groups, int(ndimage.label(mask, _EIGHT, output=groups))  # pyright: ignore[reportArgumentType, reportCallIssue]


@dataclass(frozen=True, slots=True)
class _Fields:
    winding: Winding
    coordinates: xr.Dataset
    region: np.ndarray
    score: np.ndarray
    departure: np.ndarray
    curvature: np.ndarray
    critical_um: float

    def defects(self) -> Iterator[tuple[int, np.ndarray]]:
        """Kind and voxels (n, 2) of every connected bend and agglomerate."""
        for kind in (BEND, AGGLOMERATE):
            groups, n = _grouped(self.region == kind)
            for box, number in zip(ndimage.find_objects(groups), range(1, n + 1), strict=True):
                yield kind, np.argwhere(groups[box] == number) + [s.start for s in box]


def _dataset(fields: _Fields, like: xr.DataArray) -> xr.Dataset:
    number, rows = np.zeros(fields.region.shape, np.int32), []
    for kind, voxels in fields.defects():
        rows.append(_measured(fields, kind, voxels))
        number[tuple(voxels.T)] = len(rows)
    maps = {
        "region": (fields.region, {"flag_values": list(range(4)), "flag_meanings": " ".join(REGIONS)}), "defect": (number, {}),
        "score": (fields.score, {"units": "1"}), "departure": (fields.departure, {"units": "mm"}),
    }  # fmt: skip
    data: dict[str, Any] = {name: (("y", "x"), values, attrs) for name, (values, attrs) in maps.items()}
    for name, (kind, unit) in _COLUMNS.items():
        data[name] = ("defect_number", np.array([row[name] for row in rows], dtype=kind), {"units": unit} if unit else {})
    coords = {"y": like["y"], "x": like["x"], "defect_number": np.arange(1, len(rows) + 1)}
    return xr.Dataset(data, coords, {"critical_um": fields.critical_um})


_COLUMNS: dict[str, tuple[type | str, str]] = {
    "kind": ("U11", ""), "centre_x": (float, "mm"), "centre_y": (float, "mm"), "radius": (float, "mm"),
    "turn": (float, "1"), "arc": (float, "mm"), "depth": (float, "mm"), "voxels": (int, ""), "area": (float, "mm²"),
    "diameter": (float, "µm"), "length": (float, "µm"),
    "critical": (bool, ""), "severity": (float, ""), "bend_radius": (float, "mm"), "reason": ("U80", ""),
}  # fmt: skip


def _measured(fields: _Fields, kind: int, voxels: np.ndarray) -> dict[str, Any]:
    x, y = (fields.coordinates[name].to_numpy() for name in ("x", "y"))
    pixel = abs(float(x[1] - x[0]))
    middle = voxels[np.argmin(np.sum((voxels - voxels.mean(axis=0)) ** 2, axis=1))]
    at = {name: float(fields.coordinates[name].to_numpy()[tuple(middle)]) for name in ("turn", "arc", "depth")}
    centre = fields.winding.grid.position(*fields.winding.spiral.windings.centre)
    mean_y, mean_x = (float(np.mean(axis[voxels[:, k]])) for k, axis in ((0, y), (1, x)))
    area, inside = len(voxels) * pixel**2, tuple(voxels.T)
    diameter = 2e3 * np.sqrt(area / np.pi)
    severity = np.nanmax(fields.score[inside]) if kind == AGGLOMERATE else 1e3 * np.nanmax(np.abs(fields.departure[inside]))
    return {**at,
        "kind": REGIONS[kind], "centre_x": mean_x, "centre_y": mean_y, "radius": float(np.hypot(mean_x - centre[0], mean_y - centre[1])),
        "voxels": len(voxels), "area": area, "diameter": diameter, "length": 1e3 * pixel * _greatest_distance(voxels),
        "critical": bool(kind == AGGLOMERATE and diameter >= fields.critical_um), "severity": float(severity),
        "bend_radius": float(1 / np.nanmax(np.abs(fields.curvature[inside]))), "reason": _doubt(voxels, pixel),
    }  # fmt: skip


def _doubt(voxels: np.ndarray, pixel: float) -> str:
    if len(voxels) == 1:
        return f"a single voxel: no larger than {1e3 * pixel:.0f} µm, its size is not known"
    return ""


def _greatest_distance(voxels: np.ndarray) -> float:
    """Between the far sides of the voxels, in voxels."""
    corners = np.unique((voxels[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reshape(-1, 2), axis=0).astype(float)
    with suppress(QhullError):
        corners = corners[ConvexHull(corners).vertices]
    return float(np.sqrt(((corners[:, None] - corners) ** 2).sum(axis=-1).max()))


def match_regions(before: xr.Dataset, after: xr.Dataset, *, gate_mm: float = 0.3, turns: float | None = None) -> xr.Dataset:
    """Find each defect of one state or cell again in another, by its kind and place in the electrode.

    Places are compared after turning one roll by ``turns``, which is found where each has at least 3 defects as the turn that brings most
    of them together, and 0 otherwise. Pairs have the least total distance (Hungarian method) of those that are less than ``gate_mm`` apart.

    Returns
    -------
    On (pair,): ``before``, ``after``, the defects' numbers; ``kind``; ``distance`` mm; ``growth``, the change of diameter, µm.
    ``unmatched_before`` and ``unmatched_after``: numbers of those that have no partner. attrs: ``turns``.

    Raises
    ------
    ShapeError
        The gate is not positive.
    """
    if not gate_mm > 0:
        raise ShapeError(f"the gate is {gate_mm} mm: give a positive distance")
    candidates = _turns_to_try(before, after) if turns is None else np.array([turns])
    costs = [_distances(before, after, offset) for offset in candidates]
    pairs = [_assign(cost, gate_mm) for cost in costs]
    # Most pairs first, then the nearest, then the smallest turn.
    order = [(-len(i), round(float(c[i, j].sum()), 9), abs(float(o))) for (i, j), c, o in zip(pairs, costs, candidates, strict=True)]
    best = min(range(len(order)), key=order.__getitem__)
    (i, j), cost = pairs[best], costs[best]
    numbers = [d["defect_number"].to_numpy() for d in (before, after)]
    data = {
        "before": ("pair", numbers[0][i]), "after": ("pair", numbers[1][j]), "kind": ("pair", before["kind"].to_numpy()[i]),
        "distance": ("pair", cost[i, j], {"units": "mm"}),
        "growth": ("pair", after["diameter"].to_numpy()[j] - before["diameter"].to_numpy()[i], {"units": "µm"}),
        "unmatched_before": ("lone_before", np.delete(numbers[0], i)), "unmatched_after": ("lone_after", np.delete(numbers[1], j)),
    }  # fmt: skip
    return xr.Dataset(data, attrs={"turns": float(candidates[best]), "gate_mm": gate_mm})


def _turns_to_try(before: xr.Dataset, after: xr.Dataset) -> np.ndarray:
    if min(before.sizes["defect_number"], after.sizes["defect_number"]) < _FEWEST_TO_ALIGN:
        return np.zeros(1)
    apart = after["turn"].to_numpy()[None] - before["turn"].to_numpy()[:, None]
    alike = before["kind"].to_numpy()[:, None] == after["kind"].to_numpy()[None]
    return np.concatenate([[0.0], apart[alike]])


def _distances(before: xr.Dataset, after: xr.Dataset, turns: float) -> np.ndarray:
    """(before, after) distance within the electrode, mm; infinite between kinds."""
    one, two = ({n: d[n].to_numpy() for n in ("turn", "radius", "depth", "kind")} for d in (before, after))
    radius = (one["radius"][:, None] + two["radius"]) / 2
    along = 2 * np.pi * radius * (two["turn"] - one["turn"][:, None] - turns)
    distance = np.hypot(along, two["depth"] - one["depth"][:, None])
    return np.where(one["kind"][:, None] == two["kind"], distance, np.inf)


def _assign(cost: np.ndarray, gate: float) -> tuple[np.ndarray, np.ndarray]:
    allowed = cost < gate
    if not allowed.any():
        return np.zeros(0, int), np.zeros(0, int)
    # What is beyond the gate costs more than all pairs within it together: as many pairs as can be.
    i, j = linear_sum_assignment(np.where(allowed, cost, gate * (min(cost.shape) + 1)))
    kept = allowed[i, j]
    return i[kept], j[kept]
