"""Scans in other orders than the plain one, damaged, end to end: a real RunEngine, real files, a real Tiled server."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pytest
import xarray as xr
from beamtimes import Beamtime, documents, in_background, measure, prepare

from operandi import pipeline
from operandi.client import Result
from operandi.experiment import Experiment
from operandi.intake import Intake
from operandi.nodes import STEPS, Block, Rows
from operandi.pipeline import LogEnded
from operandi.runner import make_integrator
from operandi.simulate import beamline
from operandi.simulate.comparison import correlations, load_truth
from operandi.simulate.exposures import Exposures
from operandi.simulate.projections import line_integrals
from operandi.simulate.schedules import Line, Schedule
from operandi.stages import scans
from operandi.worker import replay, run_worker

SETS, LINES, TRANSLATIONS, ABORTED = 5, 6, 13, 2
PER_SET = LINES * TRANSLATIONS
ORDER = {"sets": SETS, "rotations_per_set": LINES, "translations": TRANSLATIONS, "interlaces": 4, "window_sets": 4}
KEYS = {"keys": {"set": "pass"}}
Place = tuple[int, int]
"""Set, and which exposure of it in the order of the plan."""


@dataclass(frozen=True, slots=True)
class Kept(Schedule):
    """A schedule of which only some exposures are made, each a line of its own."""

    places: tuple[Place, ...] = ()

    @property
    def lines_per_set(self) -> int:
        return PER_SET

    @property
    def images_per_line(self) -> int:
        return 1

    @property
    def lines(self) -> int:
        return len(self.places)

    def line(self, number: int) -> Line:
        which, order = self.places[number]
        route, here = scans.route(self.scan, which), slice(order, order + 1)
        elapsed = np.array([(which * PER_SET + order) * self.scan.exposure_s])
        rotation, translation = route.rotation_deg[here], route.translation_mm[here]
        return Line(number, which, float(rotation[0]), route.column[here], translation, rotation, elapsed)


class OneByOne(Exposures):
    """Exposures of lines of one position."""

    def lengths(self, line: Line) -> np.ndarray:
        charge = self.curve.charge(line.elapsed_s + self.schedule.scan.exposure_s / 2)
        beam = line.translations_mm[0] - self.schedule.axis_mm + np.array([0.0, self.schedule.pitch_mm])
        return line_integrals(self.cell, line.rotation_deg, beam, np.repeat(charge, 2))[:1]


def damaged() -> tuple[Place, ...]:
    """5 % of the exposures are missing, a whole projection among them, and one set was aborted after 60 %."""
    random = np.random.default_rng(4)
    keep = random.random((SETS, PER_SET)) > 0.03
    keep[3, 2 * TRANSLATIONS : 3 * TRANSLATIONS] = False
    keep[ABORTED, int(0.6 * PER_SET) :] = False
    return tuple((int(number), int(order)) for number, order in np.argwhere(keep))


def covered(places: tuple[Place, ...], number: int) -> int:
    return sum(which == number for which, _ in places)


def followed(beamtime: Beamtime, api_key: str, measuring: Callable[[Beamtime], Beamtime]) -> tuple[Beamtime, str]:
    """The run, measured while the worker follows it, and the key of the result."""
    keys: list[str] = []
    worker = in_background(lambda: keys.extend(run_worker(beamtime.experiment, api_key=api_key, once=True)))
    measured = measuring(beamtime)
    worker.join(120)
    assert not worker.is_alive()
    return measured, keys[0]


def measure_damaged(beamtime: Beamtime) -> Beamtime:
    whole = beamline.plan_schedule(beamtime.experiment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beamline, "plan_schedule", lambda experiment: Kept(whole.scan, whole.axis_mm, damaged()))
        patch.setattr(beamline, "Exposures", OneByOne)
        return measure(beamtime, step=True)


@pytest.fixture(scope="module")
def golden(service) -> tuple[Beamtime, str]:
    return followed(prepare(service.storage / "golden", service.uri, **ORDER, order="golden"), service.api_key, measure)


@pytest.fixture(scope="module")
def torn(service) -> tuple[Beamtime, str]:
    prepared = prepare(service.storage / "torn", service.uri, **ORDER, **KEYS, order="bit-reversed", sets_by="motion")
    return followed(prepared, service.api_key, measure_damaged)


def folded(beamtime: Beamtime, experiment: Experiment) -> tuple[xr.Dataset, list[float]]:
    """Maps and coverage of every frame, computed without publishing them."""
    integrator = make_integrator(experiment)
    state, _ = pipeline.begin(experiment, integrator)
    intake, maps, coverage = Intake(experiment.scan, integrator.shape), [], []
    events = (event for name, doc in documents(beamtime) for event in intake.events(name, doc))
    for product in (product for event in chain(events, [LogEnded("none is read")]) for product in pipeline.step(state, event)):
        if isinstance(product, Block) and product.path == ("maps", "intensity"):
            maps.append(product.data[0].copy())
        elif isinstance(product, Rows) and product.path == STEPS:
            coverage += product.columns["coverage"].tolist()
    intake.close()
    phases = [window.phase for window in experiment.windows]
    coords = {"frame": range(len(maps)), "phase": phases}
    return xr.Dataset({"intensity": (("frame", "phase", "y", "x"), np.array(maps))}, coords), coverage


def likeness(maps: xr.Dataset, beamtime: Beamtime) -> np.ndarray:
    """(frame,) the mean correlation of the maps with the truth, over the phases that are there."""
    assert beamtime.rehearsal is not None
    return np.nanmean(correlations(maps, load_truth(beamtime.rehearsal.truth_file)).values, axis=1)


@pytest.fixture(scope="module")
def plain(service) -> np.ndarray:
    """How like the truth the frames of a whole scan of evenly spaced projections are."""
    measured = measure(prepare(service.storage / "equidistant", service.uri, **ORDER))
    maps, coverage = folded(measured, measured.experiment)
    assert coverage == [1.0, 1.0]
    return likeness(maps, measured)


def test_maps_of_a_golden_scan_are_as_good_as_those_of_equidistant_projections(catalog, plain, golden):
    beamtime, key = golden
    result = catalog.results[key]
    assert result.steps["frame"].tolist() == [0, 1]
    assert (result.steps["quality"] == "complete").all()
    assert (likeness(result.maps, beamtime) > plain - 0.01).all()


def test_a_scan_with_gaps_and_an_aborted_set_has_all_its_frames_and_nearly_the_maps_of_a_whole_one(catalog, plain, torn):
    beamtime, key = torn
    result = catalog.results[key]
    assert result.steps["frame"].tolist() == [0, 1]
    assert result.steps["quality"].str.contains("of the projections not measured").all()
    measured = np.array([sum(covered(damaged(), n) for n in range(first, first + 4)) for first in (0, 1)])
    assert (measured < 0.9 * 4 * PER_SET).all()
    # By the motion, two exposures wait at each leap: over the missing projection, and out of the aborted set.
    lost = measured - result.steps["coverage"].to_numpy() * 4 * PER_SET
    assert ((lost > -0.5) & (lost < 4.5)).all()
    assert (likeness(result.maps, beamtime) > plain - 0.03).all()


def test_the_key_that_came_with_the_data_places_every_exposure(torn):
    beamtime, _ = torn
    _, coverage = folded(beamtime, beamtime.changed("by-key.yml", scan={"sets_by": "key"}))
    assert coverage == [sum(covered(damaged(), n) for n in range(first, first + 4)) / (4 * PER_SET) for first in (0, 1)]


def test_every_exposure_of_the_damaged_scan_is_in_the_ledger_once(catalog, torn):
    ledger = catalog.results[torn[1]].ledger
    seen = ledger[ledger["seq_num"] > 0]
    assert sorted(seen["seq_num"]) == list(range(1, len(damaged()) + 1))
    assert set(seen["status"]) <= {"admitted", "refused"}


def test_a_golden_scan_gives_the_maps_of_the_live_run_again(catalog, golden):
    beamtime, key = golden
    maps, _ = folded(beamtime, beamtime.experiment)
    np.testing.assert_array_equal(maps["intensity"].values, catalog.results[key].maps["intensity"].values)


def test_the_damaged_scan_gives_the_bytes_of_the_live_run_again(service, catalog, torn):
    beamtime, key = torn
    assert replay(beamtime.experiment, documents(beamtime), api_key=service.api_key, root="scans-torn") == key
    assert Result(catalog.client["scans-torn", key]).digest() == catalog.results[key].digest()
