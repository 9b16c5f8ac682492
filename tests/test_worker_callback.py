"""The processing as a callback of a real RunEngine, where several runs go through one subscription."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from beamtimes import IMAGES_PER_SET, Beamtime, prepare
from bluesky import Msg, RunEngine
from tiled.client import from_uri

from operandi.errors import PublishError
from operandi.runner import Callback, callback
from operandi.simulate.beamline import fit_cell, plan_schedule
from operandi.simulate.detectors import response
from operandi.simulate.devices import Acquisition, make_devices, position_units
from operandi.simulate.exposures import Exposures
from operandi.simulate.files import ImageFile, PositionFile
from operandi.simulate.plans import interlaced_scan
from operandi.simulate.potentiostat import paper_curve


class Diode:
    """What an alignment scan reads."""

    name, parent = "diode", None

    def describe(self) -> dict:
        return {self.name: {"source": "test", "dtype": "number", "shape": []}}

    def read(self) -> dict:
        return {self.name: {"value": 1.0, "timestamp": time.time()}}

    def describe_configuration(self) -> dict:
        return {}

    def read_configuration(self) -> dict:
        return {}


def alignment() -> Iterator[Msg]:
    """A short scan of another kind."""
    diode = Diode()
    yield Msg("open_run")
    for _ in range(3):
        yield Msg("create", name="primary")
        yield Msg("read", diode)
        yield Msg("save")
    yield Msg("close_run")


def scan_with(engine: RunEngine, beamtime: Beamtime, name: str) -> str:
    """Measure the experiment once with a given RunEngine; the uid of the run."""
    experiment, folder = beamtime.experiment, beamtime.file.parent
    schedule = plan_schedule(experiment)
    curve = paper_curve(schedule.duration_s)
    exposures = Exposures(schedule, fit_cell(schedule), curve, response(experiment), float(int(time.time())), 0)
    acquisition = Acquisition(
        exposures,
        ImageFile(folder / f"{name}_images.h5", exposures.response.shape),
        PositionFile(folder / f"{name}_positions.h5", position_units(experiment.scan.keys)),
        experiment.scan.keys,
        None,
    )
    try:
        (uid,) = engine(interlaced_scan(make_devices(acquisition, flying=True), experiment))
    finally:
        acquisition.close()
    return uid


@pytest.fixture
def beamtime(service, request) -> Beamtime:
    folder: Path = service.storage / "callback" / request.node.name[:20]
    return prepare(folder, service.uri, sets=2)


def test_two_runs_and_an_alignment_scan_through_one_subscription_give_two_results(service, catalog, beamtime, tmp_path, caplog):
    caplog.set_level("INFO", "operandi")
    process = callback(beamtime.experiment, from_uri(service.uri, api_key=service.api_key), state=tmp_path, root="subscribed")
    engine = RunEngine({})
    engine.subscribe(process)
    first = scan_with(engine, beamtime, "first")
    engine(alignment())
    second = scan_with(engine, beamtime, "second")
    results = list(catalog.client["subscribed"].values())
    assert {result.metadata["run_uid"] for result in results} == {first, second}
    assert [result.metadata["status"] for result in results] == ["complete", "complete"]
    for result in results:
        assert len(result["steps"].read()) == 1
        assert len(result["ledger"].read()) == 2 * IMAGES_PER_SET
    assert "only 'primary' with diode: it is not of this experiment" in caplog.text


def test_a_run_of_another_kind_never_opens_a_result(service, catalog, beamtime, tmp_path):
    process: Callback = callback(beamtime.experiment, service.uri, state=tmp_path, root="others")
    engine = RunEngine({})
    engine.subscribe(process)
    engine(alignment())
    assert process.processing is None
    assert "others" not in list(catalog.client)


def test_a_refusing_server_fails_each_run_with_its_own_words_and_not_with_an_open_result(service, beamtime, tmp_path):
    process = callback(beamtime.experiment, service.uri, state=tmp_path, root="forbidden")  # without a key that may write
    for name in ("first", "second"):
        engine = RunEngine({})
        engine.subscribe(process)
        with pytest.raises(PublishError, match="give an API key that may write"):
            scan_with(engine, beamtime, name)
