"""How true the published maps of the built-in example are: counts in, maps and their sigma out, against the cell itself."""

from dataclasses import dataclass

import numpy as np
import pytest
import yaml

from operandi import pipeline
from operandi.experiment import Experiment
from operandi.nodes import Block
from operandi.pipeline import Images, Positions, RunEnded
from operandi.runner import make_integrator
from operandi.simulate.beamline import demo_file, fit_cell, plan_schedule
from operandi.simulate.detectors import NOMINAL_MONITOR, expected_image, response
from operandi.simulate.exposures import Exposures
from operandi.simulate.phantom import CAPACITY_MAH, SPECIES
from operandi.simulate.potentiostat import ChargeCurve
from operandi.stages import scans
from operandi.stages.maps import window_weights
from operandi.stages.volumes import partial_volume

CHARGES = (0.3, 0.8)
"""States of charge of two frames, of one set each: graphite, LiC12 and both oxides; LiC12, LiC6 and both oxides."""
SEPARATOR_200 = 0.0452
"""What the film of the example puts into the window of LiC6 for each unit of its own map: fitted in a frame without LiC6."""


@dataclass(frozen=True)
class Judged:
    """Maps and sigma (frame, phase, y, x); what every species puts into each map (frame, phase, species, y, x)."""

    phases: list[str]
    maps: np.ndarray
    sigma: np.ndarray
    parts: np.ndarray

    def of(self, phase: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Map, sigma, what the phase itself and what all species put into it, in the frame that has most of it."""
        k = self.phases.index(phase)
        own = self.parts[:, k, SPECIES.index(phase)]
        frame = int(np.argmax(own.sum(axis=(1, 2))))
        return self.maps[frame, k], self.sigma[frame, k], own[frame], self.parts[frame, k].sum(axis=0)


def inside(own: np.ndarray) -> np.ndarray:
    """Where at least half of the most that there is of a phase lies."""
    return own > 0.5 * np.percentile(own, 99)


def experiment() -> Experiment:
    content = yaml.safe_load(demo_file().read_text())
    content["geometry"] = {name: str(demo_file(content["geometry"][name])) for name in ("poni", "mask")}
    content["scan"] |= {"sets": 2, "rotations_per_set": 20, "translations": 49, "exposure_s": 1.0, "window_sets": 1, "interlaces": 1}
    content["windows"][2]["subtract"] = [{"phase": "separator", "ratio": SEPARATOR_200}]
    del content["potentiostat"]
    return Experiment.model_validate(content)


def judge(seed: int) -> Judged:
    of = experiment()
    schedule, integrator = plan_schedule(of), make_integrator(of)
    end, none = schedule.set_duration_s, np.zeros(4)
    curve = ChargeCurve(np.array([0, end - 0.5, end, 2 * end]), np.repeat(CHARGES, 2) * CAPACITY_MAH, none, none)
    exposures = Exposures(schedule, fit_cell(schedule), curve, response(of), 1.7e9, seed)
    state, _ = pipeline.begin(of, integrator)
    published: dict[str, list[np.ndarray]] = {"intensity": [], "sigma": []}
    lengths, rotations, monitors = [], [], []
    for number in range(schedule.lines):
        line = schedule.line(number)
        read, through = exposures.record(line), exposures.lengths(line)
        counts = np.stack([exposures.image(line, i, through[i]) for i in range(len(through))])
        at = Positions(read.rotation_deg, read.translation_mm, read.monitor, read.time_s)
        lengths.append(through[np.argsort(line.translations_mm)])
        rotations.append(read.rotation_deg.mean())
        monitors.append(read.monitor)
        for product in pipeline.step(state, Images(number * len(through) + 1 + np.arange(len(through)), counts, at)):
            if isinstance(product, Block) and product.path[0] == "maps":
                published[product.path[1]].append(product.data[0].copy())
    list(pipeline.step(state, RunEnded("success")))
    assert state.axis is not None
    n, place = schedule.lines_per_set, (scans.translations_mm(of.scan), state.axis.position)
    sinogram, angles = np.stack(lengths).astype(np.float32), np.array(rotations)
    truth = np.stack([np.moveaxis(partial_volume(sinogram[p], angles[p], *place), -1, 0) for p in (slice(0, n), slice(n, 2 * n))])
    flux = np.median(monitors[:n]) / NOMINAL_MONITOR
    pure = window_weights(integrator.q, of.windows) @ pure_patterns(of, integrator).T * flux
    parts = pure[None, :, :, None, None] * truth[:, None]
    return Judged([w.phase for w in of.windows], np.stack(published["intensity"]), np.stack(published["sigma"]), parts)


def pure_patterns(of: Experiment, integrator) -> np.ndarray:
    """Noise-free patterns (species, q) of 1 mm of each species, as the same detector and integration show them."""
    detector, patterns = response(of), []
    masked = detector.flags.reshape(detector.shape) != 0
    nothing = expected_image(detector, np.zeros(len(SPECIES)), NOMINAL_MONITOR)
    for one in np.eye(len(SPECIES)):
        image = np.where(masked, np.nan, expected_image(detector, one, NOMINAL_MONITOR) - nothing)
        patterns.append(integrator(image.astype(np.float32)).intensity[0])
    return np.nan_to_num(np.stack(patterns).astype(float))


@pytest.fixture(scope="module")
def judged() -> Judged:
    return judge(seed=11)


PHASES = [window["phase"] for window in yaml.safe_load(demo_file().read_text())["windows"]]


@pytest.mark.parametrize("phase", PHASES)
def test_inside_its_phase_a_map_is_true_within_5_percent(judged, phase):
    found, _, own, _ = judged.of(phase)
    assert inside(own).sum() > 50
    assert found[inside(own)].mean() == pytest.approx(own[inside(own)].mean(), rel=0.05)


@pytest.mark.parametrize("phase", PHASES)
def test_pulls_of_a_map_are_one_wide(judged, phase):
    """Against all that scatters into the window, as `operandi check` names it: sigma is that of the noise, not of overlaps."""
    found, sigma, own, everything = judged.of(phase)
    pulls = (found - everything) / sigma
    assert 0.8 < pulls[inside(own)].std() < 1.2
    assert 0.9 < pulls.std() < 1.15
