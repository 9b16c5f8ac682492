"""Jelly rolls unrolled: their centre, the polar image of the paper, and the straightened electrode."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from scipy import ndimage

from operandi.errors import ShapeError
from operandi.stages import electrodes, layers, rings, spirals

Along = Literal["electrode", "angle"]


@dataclass(frozen=True, slots=True)
class Centre:
    """The centre of a cell, in the unit of the map's coordinates (mm)."""

    x: float
    y: float
    uncertainty: float
    """One standard deviation, the larger of both directions."""
    method: str
    """``ring``: an ellipse through a bright ring, the casing; ``normals``: where the normals of the layers meet."""
    radius: float | None = None
    """Mean radius of the ring."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Square pixels of a map: position = origin + index · pixel, mm."""

    x: float
    y: float
    pixel: float

    def index(self, x: np.ndarray | float, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        return (np.asarray(x) - self.x) / self.pixel, (np.asarray(y) - self.y) / self.pixel

    def position(self, column: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.x + column * self.pixel, self.y + row * self.pixel


@dataclass(frozen=True, slots=True)
class Winding:
    """The winding of a roll, followed through one of its maps; it unrolls every map of the same cell and state.

    ``turn`` counts turns outwards along the spiral, a whole number where it passes the direction of +x from the centre; ``arc`` is the
    true length along the middle of the winding from its inner end, mm; ``depth`` the distance from that middle, mm, positive outwards.
    """

    grid: Grid
    spiral: electrodes.Spiral

    @property
    def hand(self) -> int:
        """+1 where the roll winds outwards from +x to +y, −1 the other way."""
        return self.spiral.windings.hand

    @property
    def layers(self) -> int:
        """How many alike layers a winding has."""
        return self.spiral.windings.layers

    @property
    def length(self) -> float:
        """mm."""
        return float(self.spiral.arc[-1] * self.grid.pixel)

    def curve(self) -> xr.Dataset:
        """The middle of the winding: ``x``, ``y``, ``turn``, ``lock`` (0 … 1, how well it is seen) over ``arc``."""
        s = self.spiral
        x, y = self.grid.position(s.x, s.y)
        columns = {"x": (x, "mm"), "y": (y, "mm"), "turn": (s.theta / (2 * np.pi), "1"), "lock": (s.lock, "1")}
        data = {name: ("arc", values, {"units": unit}) for name, (values, unit) in columns.items()}
        return xr.Dataset(data, {"arc": ("arc", s.arc * self.grid.pixel, {"units": "mm"})})

    def coordinates(self, map: xr.DataArray) -> xr.Dataset:
        """Electrode coordinates of every voxel of a map: ``turn``, ``arc``, ``depth``, ``share`` on (y, x).

        ``share`` is the position across the winding, −½ at its inner face and ½ at its outer. All NaN outside the roll.
        """
        sorted_, _ = _checked(map)
        columns, rows = self.grid.index(sorted_["x"].to_numpy(), sorted_["y"].to_numpy())
        x, y = np.meshgrid(columns, rows)
        found = electrodes.locate(self.spiral, x, y)
        pixel = self.grid.pixel
        quantities = {
            "turn": (found.theta / (2 * np.pi), "1"), "arc": (found.arc * pixel, "mm"),
            "depth": (found.depth * pixel, "mm"), "share": (found.share, "1"),
        }  # fmt: skip
        data = {name: (("y", "x"), values, {"units": unit}) for name, (values, unit) in quantities.items()}
        result = xr.Dataset(data, {"y": sorted_["y"], "x": sorted_["x"]})
        return result.reindex(y=map["y"], x=map["x"])

    def positions(self, arc: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The points (x, y), mm, at a length and a depth in the electrode, mm; NaN beyond its ends. The inverse of `coordinates`."""
        column, row, _ = electrodes.place(self.spiral, np.asarray(arc) / self.grid.pixel, np.asarray(depth) / self.grid.pixel)
        return self.grid.position(column, row)


def find_centre(map: xr.DataArray, method: Literal["auto", "ring", "normals"] = "auto") -> Centre:
    """The centre of a cell from a casing map, or from any map that shows windings.

    An ellipse is fitted to the brightest ring, robustly: gaps and streaks of coarse grains don't move it. Where there is no such ring, the
    centre is where the normals of the layers meet (`layers.common_centre`).

    Parameters
    ----------
    map : (y, x) with coordinates in mm, evenly spaced; NaN is not measured.
    method : ``auto`` takes the ring if one stands out, else the normals.

    Raises
    ------
    ShapeError
        There is neither a ring nor a layer about a point, or no ring where one is asked for.
    """
    if method not in ("auto", "ring", "normals"):
        raise ShapeError(f"there is no method {method!r}; choose auto, ring or normals")
    values, valid, grid = _plane(map)
    start, covariance = _normals_or_none(values, valid)
    if method != "normals":
        ring = rings.find_ring(values, valid, start)
        if ring is not None:
            x, y = grid.position(np.array(ring.x), np.array(ring.y))
            return Centre(float(x), float(y), ring.uncertainty * grid.pixel, "ring", ring.radius * grid.pixel)
        if method == "ring":
            raise ShapeError("no ring stands out in the map: give a map of the casing, or use method='normals' on one that shows windings")
    if start is None or covariance is None:
        raise ShapeError("the map shows neither a ring nor windings about a point: give a casing map, or the centre by hand")
    x, y = grid.position(start[0], start[1])
    return Centre(float(x), float(y), float(np.sqrt(np.linalg.eigvalsh(covariance)[-1])) * grid.pixel, "normals")


def _normals_or_none(values: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    try:
        return layers.common_centre(layers.directions(values, valid))
    except ShapeError:
        return None, None


def follow_winding(
    map: xr.DataArray, *, centre: Centre | tuple[float, float] | None = None, repeat_mm: float | None = None, cut: float | None = None
) -> Winding:
    """Follow the winding of a roll from its inner end to its outer, however eccentric, oval or bent.

    The phase of the layers is followed around the centre, all layers together (`spirals.follow_layers`); where a layer is after a full turn
    tells how the roll is wound and how many layers a winding has. The curve is then locked on what the mean winding looks like.

    Parameters
    ----------
    map : (y, x) with coordinates in mm; one that shows the layers well (an electrode, or attenuation). NaN is not measured.
    centre : any point within the innermost winding will do; found if not given.
    repeat_mm : about the distance at which the layers repeat; found if not given.
    cut : where one winding ends and the next begins, 0 … 1 from the darkest place of the mean winding, which is taken if not given.

    Raises
    ------
    ShapeError
        No layers stand out, they are rings, or less than a turn can be followed; the message says which.
    """
    values, valid, grid = _plane(map)
    found = layers.directions(values, valid)
    middle = layers.common_centre(found)[0] if centre is None else _point(centre, grid)
    inside = valid & rings.within_casing(values, valid, middle)
    found = layers.directions(values, inside)
    middle = layers.common_centre(found)[0] if centre is None else middle
    scaled, usable = layers.even_out(values, inside, found, middle)
    repeat_px = layers.repeat_distance(scaled, usable, found, middle) if repeat_mm is None else repeat_mm / grid.pixel
    if not layers.FINEST_PX <= repeat_px <= max(values.shape) / 2:
        raise ShapeError(f"layers that repeat every {repeat_px * grid.pixel:.4g} mm cannot be followed on pixels of {grid.pixel:.4g} mm")
    seen = layers.layer_signal(scaled, usable, middle, repeat_px)
    windings = spirals.follow_layers(scaled, usable, seen, middle, repeat_px)
    seen_polar = layers.polar(scaled, windings.centre, windings.radius, windings.hand * windings.angle)
    return Winding(grid, electrodes.trace(windings, seen_polar, cut))


def unroll(
    map: xr.DataArray, *, centre: Centre | tuple[float, float] | None = None, winding: Winding | None = None, along: Along = "electrode"
) -> xr.DataArray:
    """A map unrolled to (depth, arc), mm; other dims (phase, frame) stay in front.

    ``along="electrode"``: straightened. ``arc`` is the true length along the electrode, ``depth`` the true distance from the middle of the
    winding, so that nothing is distorted; each place appears once, in its own winding, and is NaN beyond. Coordinates ``turn`` (arc), and
    ``x``, ``y`` (depth, arc): where each value was in the cell.

    ``along="angle"``: the polar image of the paper. ``depth`` is the true distance from the centre, mm; ``arc`` the angle from +x towards
    +y, scaled to mm on the mean radius, and hence distorted elsewhere; coordinate ``angle`` (arc) in degrees.

    Parameters
    ----------
    map : (…, y, x) with coordinates in mm. NaN stays NaN, with its neighbours.
    centre : found if not given.
    winding : from `follow_winding` of another map of the same cell; for ``electrode``, followed in this map if not given.

    Raises
    ------
    ShapeError
        As in `find_centre` and `follow_winding`.
    """
    if along == "angle":
        where = centre if centre is not None else _centre_of(map, winding)
        return _unroll_angle(map, where)
    if along != "electrode":
        raise ShapeError(f"a map cannot be unrolled along {along!r}; choose electrode or angle")
    if winding is None:
        if map.ndim != 2:
            raise ShapeError(f"a map of dims {map.dims} shows no single winding: follow_winding one (y, x) map, and give winding=")
        winding = follow_winding(map, centre=centre)
    return _unroll_electrode(map, winding)


def _centre_of(map: xr.DataArray, winding: Winding | None) -> tuple[float, float]:
    if winding is not None:
        x, y = winding.grid.position(*winding.spiral.windings.centre)
        return float(x), float(y)
    found = find_centre(map)
    return found.x, found.y


def _unroll_electrode(map: xr.DataArray, winding: Winding) -> xr.DataArray:
    sorted_, grid = _checked(map)
    half = electrodes.half_thickness(winding.spiral) * winding.grid.pixel
    steps = int(np.ceil(half / grid.pixel))
    depth, arc = np.arange(-steps, steps + 1) * grid.pixel, np.arange(0, winding.length, grid.pixel)
    scale = winding.grid.pixel
    column, row, share = electrodes.place(winding.spiral, arc[None] / scale, depth[:, None] / scale)
    x, y = winding.grid.position(column, row)
    values = _sample(sorted_, grid, x, y, inside=np.abs(share) <= 0.5)
    turn = winding.spiral.theta_at(arc / scale) / (2 * np.pi)
    coords = {
        "turn": ("arc", turn, {"units": "1"}),
        "x": (("depth", "arc"), x, {"units": "mm"}),
        "y": (("depth", "arc"), y, {"units": "mm"}),
    }
    return _unrolled(map, sorted_, values, depth, arc).assign_coords(coords)


def _unroll_angle(map: xr.DataArray, centre: Centre | tuple[float, float]) -> xr.DataArray:
    sorted_, grid = _checked(map)
    c_x, c_y = (centre.x, centre.y) if isinstance(centre, Centre) else centre
    at_x, at_y = sorted_["x"].to_numpy(), sorted_["y"].to_numpy()
    if not (at_x[0] <= c_x <= at_x[-1] and at_y[0] <= c_y <= at_y[-1]):
        raise ShapeError(
            f"the centre ({c_x:g}, {c_y:g}) mm lies outside the map ({at_x[0]:g} to {at_x[-1]:g}, {at_y[0]:g} to {at_y[-1]:g} mm)"
        )
    reach = max(c_x - at_x[0], at_x[-1] - c_x, c_y - at_y[0], at_y[-1] - c_y)
    radius = np.arange(0, reach, grid.pixel)
    columns = max(int(np.ceil(2 * np.pi * reach / grid.pixel)), 8)
    angle = np.arange(columns) * (2 * np.pi / columns)
    x, y = c_x + radius[:, None] * np.cos(angle), c_y + radius[:, None] * np.sin(angle)
    values = _sample(sorted_, grid, x, y, inside=np.ones(x.shape, bool))
    result = _unrolled(map, sorted_, values, radius, angle * reach / 2)
    return result.assign_coords(angle=("arc", np.rad2deg(angle), {"units": "deg"}))


def _sample(map: xr.DataArray, grid: Grid, x: np.ndarray, y: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(…, y, x) values at positions, bilinear; NaN outside the map and next to NaN."""
    column, row = grid.index(x, y)
    planes = map.to_numpy().reshape(-1, *map.shape[-2:]).astype(float)
    at = [np.where(np.isfinite(row), row, -1), np.where(np.isfinite(column), column, -1)]
    sampled = [ndimage.map_coordinates(plane, at, order=1, mode="constant", cval=np.nan) for plane in planes]
    return np.where(inside, np.stack(sampled), np.nan).reshape(*map.shape[:-2], *x.shape)


def _unrolled(map: xr.DataArray, sorted_: xr.DataArray, values: np.ndarray, depth: np.ndarray, arc: np.ndarray) -> xr.DataArray:
    dims = (*sorted_.dims[:-2], "depth", "arc")
    kept = {name: c for name, c in sorted_.coords.items() if not {"y", "x"} & set(c.dims)}
    coords = kept | {"depth": ("depth", depth, {"units": "mm"}), "arc": ("arc", arc, {"units": "mm"})}
    return xr.DataArray(values, dims=dims, coords=coords, name=map.name, attrs=map.attrs)


def _point(centre: Centre | tuple[float, float], grid: Grid) -> np.ndarray:
    x, y = (centre.x, centre.y) if isinstance(centre, Centre) else centre
    return np.array([float(a) for a in grid.index(x, y)])


def _checked(map: xr.DataArray) -> tuple[xr.DataArray, Grid]:
    """The map with y and x last, both increasing, and its grid."""
    if not {"y", "x"} <= set(map.dims) or not {"y", "x"} <= set(map.coords):
        raise ShapeError(f"a map needs dims y and x with their coordinates in mm, got {dict(map.sizes)} with {list(map.coords)}")
    if min(map.sizes["x"], map.sizes["y"]) < 16:
        raise ShapeError(f"a map of {map.sizes['y']} × {map.sizes['x']} voxels is too small to be unrolled: give at least 16 × 16")
    map = map.transpose(..., "y", "x").sortby(["y", "x"])
    x, y = (map[name].to_numpy().astype(float) for name in ("x", "y"))
    steps = np.concatenate([np.diff(x), np.diff(y)])
    if not np.isfinite(steps).all() or np.ptp(steps) > 0.01 * abs(steps.mean()):
        raise ShapeError(
            f"the pixels of the map must be square and even; steps range from {steps.min():g} to {steps.max():g} mm: interpolate it"
        )
    return map, Grid(float(x[0]), float(y[0]), float(steps.mean()))


def _plane(map: xr.DataArray) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Values (NaN as 0), where they are known, and the grid of one (y, x) map."""
    if map.ndim != 2:
        raise ShapeError(f"one map (y, x) is needed, got dims {map.dims}: select a phase or a frame")
    map, grid = _checked(map)
    values = map.to_numpy().astype(float)
    valid = np.isfinite(values)
    if valid.mean() < 0.05 or not np.ptp(values[valid]) > 0:
        raise ShapeError("the map is empty: every voxel is NaN or has the same value")
    return np.where(valid, values, 0), valid, grid
