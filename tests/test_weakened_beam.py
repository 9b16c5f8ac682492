"""Absorption and stripes end to end: a can that absorbs and positions that count wrongly give the maps of a run without either."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from beamtimes import Beamtime, documents, in_background, measure, prepare

from operandi.client import Catalog, Result
from operandi.simulate.beamline import plan_schedule
from operandi.simulate.exposures import Beam
from operandi.simulate.phantom import Cell, Layout, jelly_roll
from operandi.simulate.projections import FINE
from operandi.stages.absorption import cylinder_transmission
from operandi.stages.scans import translations_mm
from operandi.worker import replay, run_worker

CAN = [(3.4, 0.02), (3.8, 0.45)]
"""Radius, mm, and attenuation, 1/mm, of what is in the can and of the can: less than half of the beam passes through its wall."""
GAINS, AIR_MM = {13: 0.9, 26: 1.1}, 15.0
"""Of positions that count wrongly, whatever the angle; most of what they count is air, so that it is an offset."""
AXIS_MM, POSITIONS, LINES = 0.05, 41, 24
WINDOWS = [("graphite", 1.7, 2.0), ("NMC", 4.5, 4.7), ("copper", 4.85, 4.95)]


def beamtime(folder: Path, uri: str) -> Beamtime:
    prepared = prepare(folder, uri, sets=1, window_sets=1, interlaces=1, rotations_per_set=LINES, translations=POSITIONS)
    content = yaml.safe_load(prepared.file.read_text())
    content["windows"] = [
        {"phase": p, "q_min_inv_angstrom": low, "q_max_inv_angstrom": high, "background": "none"} for p, low, high in WINDOWS
    ]
    content |= {"composites": [], "reconstruction": {"axis_mm": AXIS_MM}, "corrections": {"monitor_reference": 1e6}}
    content.pop("lithium", None)
    prepared.file.write_text(yaml.safe_dump(content))
    return prepared


def off_axis(of: Beamtime) -> Cell:
    """A small roll beside the axis: windings about the axis are what stripes look like."""
    schedule = plan_schedule(of.experiment)
    n, pitch = schedule.scan.translations * FINE, schedule.pitch_mm / FINE
    cell = jelly_roll(n, pitch, Layout(radius_mm=1.7, roll_mm=(0.3, 1.5), core_mm=(0.1, 0.25), turns=1.2, agglomerate=None, bend=None))
    moved = {name: np.roll(getattr(cell, name), (round(1.2 / pitch), round(-0.9 / pitch)), (0, 1)) for name in ("host", "region", "lag")}
    return replace(cell, **moved)


def weakened(of: Beamtime) -> Beam:
    places = translations_mm(of.experiment.scan)

    def counted(translation: float) -> float:
        gain = GAINS.get(int(np.abs(places - translation).argmin()), 1.0)
        return gain * float(cylinder_transmission(np.array([translation]), AXIS_MM, CAN)[0])

    return Beam(strength=30, drift=0.0, air_mm=AIR_MM, counted=counted)


CORRECTED = {
    "monitor_reference": 1e6,
    "stripes_width": 9,
    "absorption": {"layers": [{"radius_mm": radius, "attenuation_inv_mm": attenuation} for radius, attenuation in CAN]},
}


@dataclass(frozen=True, slots=True)
class Runs:
    """The run of a beam that nothing weakens, and its maps (phase, y, x); the other one, followed live with both corrections."""

    expected: np.ndarray
    measured: Beamtime
    live: Result


@pytest.fixture(scope="module")
def runs(service, catalog: Catalog) -> Runs:
    folder = service.storage / "weakened"
    clean = beamtime(folder / "clean", service.uri)
    clean = measure(clean, beam=Beam(strength=30, drift=0.0, air_mm=AIR_MM), cell=off_axis(clean), seed=1)
    expected = catalog.results[replay(clean.experiment, documents(clean), api_key=service.api_key)].maps
    other = beamtime(folder / "other", service.uri)
    content = yaml.safe_load(other.file.read_text())
    other.file.write_text(yaml.safe_dump(content | {"corrections": CORRECTED}))
    keys: list[str] = []
    worker = in_background(lambda: keys.extend(run_worker(other.experiment, api_key=service.api_key, once=True)))
    measured = measure(other, beam=weakened(other), cell=off_axis(other), seed=2)
    worker.join(120)
    return Runs(expected["intensity"].to_numpy()[0], measured, catalog.results[keys[0]])


def off(maps: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(phase,) root mean square of the difference over that of the maps."""
    return np.sqrt(np.mean((maps - expected) ** 2, axis=(1, 2)) / np.mean(expected**2, axis=(1, 2)))


def without(runs: Runs, service, catalog: Catalog, *names: str) -> np.ndarray:
    """The maps of the same run without some of the corrections."""
    content, root = yaml.safe_load(runs.measured.file.read_text()), "weakened-" + "-".join(names)
    content["corrections"] = {name: value for name, value in CORRECTED.items() if name not in names}
    file = runs.measured.file.with_name(f"{root}.yml")
    file.write_text(yaml.safe_dump(content))
    key = replay(Beamtime(file).experiment, documents(runs.measured), api_key=service.api_key, root=root)
    return Result(catalog.client[root, key]).maps["intensity"].to_numpy()[0]


def test_absorption_and_stripes_are_taken_out_of_the_maps_by_their_settings(runs, service, catalog):
    no_absorption, no_stripes = (off(without(runs, service, catalog, name), runs.expected) for name in ("absorption", "stripes_width"))
    found = off(runs.live.maps["intensity"].to_numpy()[0], runs.expected)
    # graphite, NMC and copper: off by 122, 126 and 66 % without the one, by 29, 29 and 15 % without the other
    assert (no_absorption > (1.0, 1.0, 0.5)).all()
    assert (no_stripes[:2] > 0.25).all()
    # with both by 9, 9 and 14 %: noise behind the can's wall, and of copper, as thin as a stripe, some is taken for one
    assert (found < (0.12, 0.12, 0.18)).all()
    assert (found < no_stripes).all()


def test_replay_gives_the_bytes_of_the_live_run(runs, service, catalog):
    key = replay(runs.measured.experiment, documents(runs.measured), api_key=service.api_key, root="weakened")
    assert key == runs.live.key
    assert Result(catalog.client["weakened", key]).digest() == runs.live.digest()
