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

CHARGE = 0.53
"""State of charge at which graphite, LiC12, LiC6 and both oxides are all there."""
SEPARATOR_200 = 0.0456
"""What the film of the example puts into the window of LiC6 for each unit of its own map: fitted in a frame without LiC6."""


@dataclass(frozen=True)
class Judged:
    """Of one frame: maps and sigma (phase, y, x); what every species puts into each map (phase, species, y, x)."""

    phases: list[str]
    maps: np.ndarray
    sigma: np.ndarray
    parts: np.ndarray

    def inside(self, phase: str) -> np.ndarray:
        own = self.own(phase)
        return own > 0.5 * np.percentile(own, 99)

    def own(self, phase: str) -> np.ndarray:
        return self.parts[self.phases.index(phase), SPECIES.index(phase)]


def experiment() -> Experiment:
    content = yaml.safe_load(demo_file().read_text())
    content["geometry"] = {name: str(demo_file(content["geometry"][name])) for name in ("poni", "mask")}
    content["scan"] |= {"sets": 2, "rotations_per_set": 24, "translations": 49, "exposure_s": 1.0}
    content["windows"][2]["subtract"] = [{"phase": "separator", "ratio": SEPARATOR_200}]
    del content["potentiostat"]
    return Experiment.model_validate(content)


def judge(seed: int) -> Judged:
    of = experiment()
    schedule, integrator = plan_schedule(of), make_integrator(of)
    curve = ChargeCurve(*(np.array(v, float) for v in ([0, 1e6], [CHARGE * CAPACITY_MAH] * 2, [0, 0], [3.7, 3.7])))
    exposures = Exposures(schedule, fit_cell(schedule), curve, response(of), 1.7e9, seed)
    state, _ = pipeline.begin(of, integrator)
    published, lengths, rotations, monitors = {}, [], [], []
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
                published[product.path[1]] = product.data[0].copy()
    list(pipeline.step(state, RunEnded("success")))
    assert state.axis is not None
    truth = partial_volume(np.stack(lengths).astype(np.float32), np.array(rotations), scans.translations_mm(of.scan), state.axis.position)
    flux = np.median(monitors[: schedule.lines_per_set]) / NOMINAL_MONITOR
    pure = window_weights(integrator.q, of.windows) @ pure_patterns(of, integrator).T * flux
    parts = pure[:, :, None, None] * np.moveaxis(truth, -1, 0)
    return Judged([w.phase for w in of.windows], published["intensity"], published["sigma"], parts)


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
    inside, own = judged.inside(phase), judged.own(phase)
    assert inside.sum() > 50
    assert judged.maps[judged.phases.index(phase)][inside].mean() == pytest.approx(own[inside].mean(), rel=0.05)


@pytest.mark.parametrize("phase", PHASES)
def test_pulls_of_a_map_are_one_wide(judged, phase):
    """Against all that scatters into the window, as `operandi check` names it: sigma is that of the noise, not of overlaps."""
    k, inside = judged.phases.index(phase), judged.inside(phase)
    pulls = (judged.maps[k] - judged.parts[k].sum(axis=0)) / judged.sigma[k]
    assert 0.8 < pulls[inside].std() < 1.2
    assert 0.9 < pulls.std() < 1.15
