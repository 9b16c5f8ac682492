"""Cells: what material lies where, and what the charge makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from operandi.errors import ShapeError
from operandi.simulate.states import (
    AGGLOMERATE,
    ALUMINIUM,
    ANODE,
    BEND,
    CASING,
    CATHODE,
    COPPER,
    EMPTY,
    NORMAL,
    POLYMER,
    map_species,
)

PHASES = (
    "graphite", "LiC12", "LiC6", "NMC lithiated", "NMC delithiated", "aluminium", "copper", "casing", "separator", "silicon",
)  # fmt: skip
SILICON_STATES = ("silicon discharged", "silicon normal", "silicon bend", "silicon agglomerate", "silicon agglomerate discharged")
SPECIES = (*PHASES[:-1], *SILICON_STATES)
"""What scatters: the phases, silicon in each of the states that small angles tell apart."""

CAPACITY_MAH = 28.54


@dataclass(frozen=True, slots=True)
class Layout:
    """Measures of a jelly roll, mm, and its defects (None where there is none)."""

    radius_mm: float = 3.8
    casing_mm: float = 0.25
    roll_mm: tuple[float, float] = (0.55, 3.45)
    core_mm: tuple[float, float] = (0.25, 0.5)
    turns: float = 2.5
    anode_mm: float = 0.17
    cathode_mm: float = 0.17
    collector_mm: float = 0.12
    separator_mm: float = 0.12
    bend: tuple[float, float, float] | None = (0.9, 0.28, 0.16)
    """Azimuth (rad), width (rad) and depth (mm) of a kink towards the centre."""
    agglomerate: tuple[float, float, float] | None = (-1.35, 1.15, 0.45)
    """Centre x, y and radius, mm: silicon replaces graphite in the anode there."""
    lag: float = 0.15
    """How far the reaction of the outer windings runs behind that of the inner ones (0 none, below 0.5)."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A slice of a cell on a square grid centred on the rotation axis.

    ``host``, ``region`` (int8) and ``lag`` (float32) have shape (n, n); ``pitch_mm`` is the grid's. Row index grows
    with y, column index with x; the centre of point i is (i - (n - 1)/2)·pitch. ``lag`` in (-0.5, 0.5): positive where
    the reaction is ahead. The cell is empty at a charge of ``empty_mah``, and full ``capacity_mah`` later.
    """

    host: np.ndarray
    region: np.ndarray
    lag: np.ndarray
    pitch_mm: float
    capacity_mah: float = CAPACITY_MAH
    empty_mah: float = 0.0

    def state(self, charge_mah: np.ndarray) -> np.ndarray:
        """State of charge, 0 empty … 1 full, at a charge in mAh; beyond its ends the cell stays as it is there."""
        return (np.asarray(charge_mah, float) - self.empty_mah) / self.capacity_mah


def grid_mm(n: int, pitch_mm: float) -> np.ndarray:
    """Centres of ``n`` points about the rotation axis, mm."""
    return (np.arange(n) - (n - 1) / 2) * pitch_mm


def jelly_roll(n: int, pitch_mm: float, layout: Layout | None = None) -> Cell:
    """A wound cell of ``n`` × ``n`` points; the defaults are the demo's: few, thick windings that a 0.14 mm beam resolves."""
    layout = layout or Layout()
    axis = grid_mm(n, pitch_mm)
    x, y = np.meshgrid(axis, axis)
    radius, azimuth = np.hypot(x, y), np.arctan2(y, x)
    wound = radius + _kink(radius, azimuth, layout)
    host = _hosts(radius, wound, azimuth, layout)
    region = np.full(host.shape, NORMAL, np.int8)
    if layout.bend is not None:
        region[np.abs(_turned(azimuth, layout.bend[0])) < 1.2 * layout.bend[1]] = BEND
    if layout.agglomerate is not None:
        at_x, at_y, size = layout.agglomerate
        region[np.hypot(x - at_x, y - at_y) < size] = AGGLOMERATE
    outwards = np.clip(radius / layout.roll_mm[1], 0, 1)
    lag = layout.lag * (0.6 * (1 - 2 * outwards) + 0.4 * np.sin(azimuth + 0.5))
    return Cell(host=host, region=region, lag=lag.astype(np.float32), pitch_mm=pitch_mm)


def _turned(azimuth: np.ndarray, to: float) -> np.ndarray:
    return (azimuth - to + np.pi) % (2 * np.pi) - np.pi


def _kink(radius: np.ndarray, azimuth: np.ndarray, layout: Layout) -> np.ndarray:
    if layout.bend is None:
        return np.zeros_like(radius)
    at, width, depth = layout.bend
    inner, outer = layout.roll_mm
    along = np.clip((radius - inner) / (outer - inner), 0, 1)
    return depth * np.exp(-0.5 * (_turned(azimuth, at) / width) ** 2) * 4 * along * (1 - along)


def _hosts(radius: np.ndarray, wound: np.ndarray, azimuth: np.ndarray, layout: Layout) -> np.ndarray:
    host = np.full(radius.shape, EMPTY, np.int8)
    host[(radius <= layout.radius_mm) & (radius > layout.radius_mm - layout.casing_mm)] = CASING
    host[(radius >= layout.core_mm[0]) & (radius < layout.core_mm[1])] = POLYMER
    inner, outer = layout.roll_mm
    winding = (outer - inner) / layout.turns
    layers = _layers(layout)
    scale = winding / sum(thickness for _, thickness in layers)
    depth = (wound - inner - winding * azimuth / (2 * np.pi)) % winding
    edges = np.cumsum([thickness * scale for _, thickness in layers])
    kinds = np.array([kind for kind, _ in layers], np.int8)
    inside = (radius >= inner) & (radius < outer)
    host[inside] = kinds[np.minimum(np.searchsorted(edges, depth[inside], side="right"), kinds.size - 1)]
    return host


def _layers(layout: Layout) -> list[tuple[int, float]]:
    anode = [(ANODE, layout.anode_mm), (COPPER, layout.collector_mm), (ANODE, layout.anode_mm)]
    cathode = [(CATHODE, layout.cathode_mm), (ALUMINIUM, layout.collector_mm), (CATHODE, layout.cathode_mm)]
    separator = [(POLYMER, layout.separator_mm)]
    return [*anode, *separator, *cathode, *separator]


def cell_from_image(path: Path, *, n: int, pitch_mm: float, radius_mm: float = 3.8) -> Cell:
    """A cell after an X-ray CT slice of a real one, scaled to ``radius_mm`` and sampled at ``n`` × ``n`` points.

    The casing is the brightest ring; within it each grey is ranked among its surroundings: dark is separator, then
    anode, aluminium, cathode, and brightest copper. ``path`` is any two-dimensional TIFF.

    Raises
    ------
    ShapeError
        The image is not two-dimensional, or no casing stands out.
    """
    import tifffile
    from scipy import ndimage

    image = np.asarray(tifffile.imread(path), float)
    if image.ndim != 2:
        raise ShapeError(f"{path} has shape {image.shape}: give one slice, (row, column)")
    bright = ndimage.gaussian_filter(image, 1) > 0.6 * np.percentile(image, 99.9)
    rows, columns = np.nonzero(bright)
    if rows.size < 100:
        raise ShapeError(f"{path} shows no bright casing: give a slice through a canned cell")
    centre = np.array([(rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2])
    scale = (np.ptp(rows) + np.ptp(columns)) / 4 / radius_mm
    axis = grid_mm(n, pitch_mm)
    x, y = np.meshgrid(axis, axis)
    at = [centre[0] + y * scale, centre[1] + x * scale]
    # One sample stands for a block of image pixels: the finest windings may be thinner than the grid.
    grey = ndimage.map_coordinates(ndimage.uniform_filter(image, max(1, round(0.5 * scale * pitch_mm))), at, order=1)
    # Surroundings of one winding, 22 pixels in the image this was made for; the bright casing must not outshine them.
    radius = np.hypot(x, y)
    dimmed = np.minimum(image, np.percentile(grey[radius < 0.9 * radius_mm], 99))
    local = ndimage.gaussian_filter(dimmed, 16)
    spread = np.sqrt(ndimage.gaussian_filter((dimmed - local) ** 2, 16)) + 1e-9
    mean, width = (ndimage.map_coordinates(image_of, at, order=1, mode="nearest") for image_of in (local, spread))
    contrast = (grey - mean) / width
    host = _hosts_by_grey(grey, contrast, radius / radius_mm)
    lag = 0.15 * (1 - 2 * np.clip(radius / radius_mm, 0, 1))
    return Cell(host=host, region=np.zeros(host.shape, np.int8), lag=lag.astype(np.float32), pitch_mm=pitch_mm)


def _hosts_by_grey(grey: np.ndarray, contrast: np.ndarray, relative_radius: np.ndarray) -> np.ndarray:
    host = np.full(grey.shape, EMPTY, np.int8)
    wound = (relative_radius < 0.95) & (relative_radius > 0.21)
    limits = np.quantile(contrast[wound], [0.12, 0.46, 0.53, 0.90])
    kinds = np.array([POLYMER, ANODE, ALUMINIUM, CATHODE, COPPER], np.int8)
    host[wound] = kinds[np.searchsorted(limits, contrast[wound])]
    host[(relative_radius >= 0.95) & (relative_radius <= 1.02) & (grey > 0.5 * grey.max())] = CASING
    host[(relative_radius > 0.17) & (relative_radius <= 0.21)] = POLYMER
    return host


def species_maps(cell: Cell, charge_mah: float) -> np.ndarray:
    """Volume fraction (species, y, x) of everything that scatters, at one charge; species as in ``SPECIES``."""
    return map_species(cell.host, cell.region, cell.lag, float(cell.state(np.asarray(charge_mah))))


def phase_maps(cell: Cell, charge_mah: float) -> np.ndarray:
    """Volume fraction (phase, y, x) at one charge; phases as in ``PHASES``, silicon in all its states together."""
    maps = species_maps(cell, charge_mah)
    return np.concatenate([maps[: len(PHASES) - 1], maps[len(PHASES) - 1 :].sum(axis=0, keepdims=True)])


def layer(cell: Cell, phase: str) -> np.ndarray:
    """True where ``phase`` can be, (y, x)."""
    hosts = {"aluminium": ALUMINIUM, "copper": COPPER, "casing": CASING, "separator": POLYMER}
    default = CATHODE if phase.startswith("NMC") else ANODE
    return cell.host == hosts.get(phase, default)
