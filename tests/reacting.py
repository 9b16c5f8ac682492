"""A simulated jelly roll that reacts while it is scanned with the paper's timing, and what it would show frozen."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from operandi.simulate.phantom import SPECIES, Cell, Layout, jelly_roll
from operandi.simulate.potentiostat import ChargeCurve, paper_curve
from operandi.simulate.projections import line_integrals
from operandi.stages.instants import Projections
from operandi.stages.temporal import TemporalModel, learn
from operandi.stages.volumes import partial_volume

SETS, SET_S = 10, 720.0
CHANNELS = ("graphite", "LiC12", "LiC6", "NMC lithiated", "NMC delithiated")
NOISE = 0.005
"""Standard deviation over the strongest cell: about twice what counting gives on the small detector of the built-in example."""
OTHER_CELLS = {
    "more turns, further apart": Layout(bend=None, agglomerate=(1.0, -1.2, 0.4), turns=3.0, lag=0.25),
    "fewer turns, closer together": Layout(turns=2.0, anode_mm=0.2, bend=(2.9, 0.3, 0.2), agglomerate=None, lag=0.05),
}


@dataclass(frozen=True)
class Experiment:
    """Projections (set, rotation, translation, channel) of a cell, their angles (set, rotation) and times (set, rotation, translation)."""

    cell: Cell
    curve: ChargeCurve
    translation_mm: np.ndarray
    rotation_deg: np.ndarray
    time_s: np.ndarray
    sinograms: np.ndarray

    def frozen(self, time_s: float) -> np.ndarray:
        """The volume (y, x, channel) of the cell stopped at a time: noise-free, at the angles of two interlaced sets."""
        angles = np.sort(self.rotation_deg[:2].ravel())
        charge = np.full(self.translation_mm.size, float(self.curve.charge(time_s)))
        lines = [line_integrals(self.cell, a, self.translation_mm, charge) for a in angles]
        return partial_volume(np.stack(lines)[..., : len(CHANNELS)], angles, self.translation_mm, 0.0)

    def window(self, first: int, sinograms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rotation, time and projections of two consecutive sets, in the order of the angles."""
        rotation = self.rotation_deg[first : first + 2].ravel()
        order = np.argsort(rotation)
        parts = (np.concatenate(a[first : first + 2])[order] for a in (self.time_s, sinograms))
        return rotation[order], *parts


def measure(
    translations: int = 41, rotations: int = 30, fine: int = 5, golden: bool = False, layout: Layout | None = None, sets: int = SETS
) -> Experiment:
    """Ten sets of 12 min, or more and shorter ones in the same time; the charge is the paper's."""
    assert SPECIES[: len(CHANNELS)] == CHANNELS
    pitch = 8.4 / (translations - 1)
    curve = paper_curve(SETS * SET_S)
    cell = jelly_roll(translations * fine, pitch / fine, layout)
    offsets = (np.arange(translations) - (translations - 1) / 2) * pitch
    number = np.arange(sets * rotations)
    which, row = np.divmod(number, rotations)
    rotation = (row + 0.5 * (which % 2)) * 180 / rotations
    if golden:
        rotation = (number * 180 * 0.6180339887498949) % 180
    time = (number[:, None] * translations + np.arange(translations) + 0.5) * SETS * SET_S / (sets * rotations * translations)
    time[1::2] = time[1::2, ::-1]
    lines = [line_integrals(cell, a, offsets, curve.charge(t))[:, : len(CHANNELS)] for a, t in zip(rotation, time, strict=True)]
    shape = (sets, rotations)
    return Experiment(
        cell, curve, offsets, rotation.reshape(shape), time.reshape(*shape, -1), np.stack(lines).reshape(*shape, translations, -1)
    )


def taken(cell: Experiment, noise: float, seed: int = 1, sets: int | None = None) -> tuple[Projections, TemporalModel]:
    """The noisy projections of the first sets (all if None), by the charge, and the temporal model that they teach."""
    sigma, shape = noise * cell.sinograms.max(), cell.sinograms[:sets].shape
    flat = (cell.sinograms[:sets] + sigma * np.random.default_rng(seed).standard_normal(shape)).reshape(-1, *shape[2:])
    progress = cell.curve.charge(cell.time_s[:sets]).mean(axis=2).ravel()
    projections = Projections(cell.rotation_deg[:sets].ravel(), progress, flat, np.full(flat.shape, sigma**2))
    return projections, learn(flat, projections.variance, projections.rotation_deg, progress)


def quadrant_difference(volume: np.ndarray) -> np.ndarray:
    """Mean of the first and third quadrant less that of the others (channel,), within the circle of the grid (y, x, channel)."""
    at = np.arange(len(volume)) - (len(volume) - 1) / 2
    x, y = np.meshgrid(at, at)
    circle = np.hypot(x, y) < at[-1]
    return volume[circle & (x * y > 0)].mean(axis=0) - volume[circle & (x * y < 0)].mean(axis=0)


def effective_times(volumes: np.ndarray, times_s: np.ndarray, frame: np.ndarray, middle_s: float) -> np.ndarray:
    """When the true series (time, y, x) of each voxel equals the frame (y, x).

    NaN where it never does; nearest to the middle where it does twice.
    """
    difference = volumes - frame
    before, after = difference[:-1], difference[1:]
    crosses = (before <= 0) != (after <= 0)
    share = np.divide(before, before - after, out=np.zeros_like(before), where=crosses)
    at = times_s[:-1, None, None] + share * np.diff(times_s)[:, None, None]
    away = np.where(crosses, np.abs(at - middle_s), np.inf)
    nearest = away.argmin(axis=0)[None]
    found = np.take_along_axis(at, nearest, axis=0)[0]
    return np.where(np.isfinite(away.min(axis=0)), found, np.nan)


def effective_times_of_all(volumes: np.ndarray, times_s: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """When the true series (time, y, x, channel) of each voxel is nearest to the frame (y, x, channel) in all channels together."""
    fine = np.linspace(times_s[0], times_s[-1], 601)
    return fine[((CubicSpline(times_s, volumes)(fine) - frame) ** 2).sum(axis=-1).argmin(axis=0)]
