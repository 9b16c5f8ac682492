"""Time and charge end to end: a real RunEngine, real files, a real Tiled server, and a cell that is discharged by accident."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from beamtimes import Beamtime, in_background, measure, prepare

from operandi.client import Result
from operandi.experiment import Experiment
from operandi.runner import Callback, Status
from operandi.simulate.beamline import plan_schedule
from operandi.simulate.potentiostat import REST_V, ROW_S, ChargeCurve, PotentiostatLog, discharged_by_accident, paper_curve
from operandi.sources import replay as sources
from operandi.sources.potentiostat import read_potentiostat, to_log
from operandi.stages.charge import Log
from operandi.stages.routes import describes
from operandi.worker import make_sink, replay, run_worker

SETS, START_S, DISCHARGE_S, CURRENT_MA = 3, 900.0, 120.0, 30.0
OFFSET_S, DRIFT_PPM = 61.0, 50.0
Document = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Accident:
    """A run that was followed while it was measured, and the truth about its cell."""

    beamtime: Beamtime
    curve: ChargeCurve
    key: str
    first_image_s: float

    def documents(self) -> list[Document]:
        uid = self.beamtime.rehearsal.uid
        return [(name, dict(doc)) for name, doc in sources.from_journal(self.beamtime.experiment.publishing.journal, uid)]


@pytest.fixture(scope="module")
def accident(service, tmp_path_factory) -> Accident:
    prepared = prepare(service.storage / "accident", service.uri, sets=SETS)
    curve = paper_curve(plan_schedule(prepared.experiment).duration_s)
    curve = discharged_by_accident(curve, start_s=START_S, discharge_s=DISCHARGE_S, current_ma=CURRENT_MA)
    done: list[str] = []
    worker = in_background(lambda: done.extend(run_worker(prepared.experiment, api_key=service.api_key, once=True)))
    measured = measure(prepared, echem=curve)
    worker.join(300)
    assert not worker.is_alive()
    log = log_of(prepared.experiment)
    return Accident(measured, curve, done[0], float(log.time[np.abs(log.current) > 0][0]))


@pytest.fixture(scope="module")
def digest(catalog, accident) -> dict[str, str]:
    """Of the live result."""
    return catalog.results[accident.key].digest()


def log_of(experiment: Experiment) -> Log:
    """The log as it stands in the file, on the beamline's clock."""
    given = experiment.potentiostat
    return to_log(read_potentiostat(given.file, timezone=given.timezone), clock_offset_s=given.clock_offset_s)


def charge_by_the_log(experiment: Experiment, times: np.ndarray) -> np.ndarray:
    log = log_of(experiment)
    return np.interp(times, log.time, log.charge)


def test_every_image_and_frame_of_an_accidental_discharge_has_the_charge_of_the_log_though_it_goes_back(catalog, accident):
    result, experiment = catalog.results[accident.key], accident.beamtime.experiment
    patterns = result.patterns
    middle = patterns["time"].values + experiment.scan.exposure_s / 2
    expected = charge_by_the_log(experiment, middle)
    np.testing.assert_allclose(patterns["charge"], expected, atol=1e-9)
    assert np.diff(expected).min() < -0.01
    steps, per_set = result.steps, len(middle) // SETS
    for frame in range(SETS - 1):
        of_frame = expected[frame * per_set : (frame + 2) * per_set]
        dose = patterns["monitor"].values[frame * per_set : (frame + 2) * per_set]
        row = steps.iloc[frame]
        np.testing.assert_allclose(row[["q_low_mah", "q_high_mah"]].astype(float), [of_frame.min(), of_frame.max()], atol=1e-9)
        assert row["q_mean_mah"] == pytest.approx(np.average(of_frame, weights=dose), abs=1e-9)
        assert row["q_mah"] == pytest.approx(charge_by_the_log(experiment, row[["t_start", "t_end"]].to_numpy(float)).mean(), abs=1e-9)
    assert not steps["provisional"].any()
    assert steps["protocol_step"].tolist()[-1] >= 1


def test_the_guardian_tells_of_the_accident_within_ten_seconds_of_log_time_and_of_nothing_else(catalog, accident):
    events = catalog.results[accident.key].events
    assert set(events["rule"]) == {"accidental_discharge", "wrong_current"}
    begun = events[(events["rule"] == "accidental_discharge") & (events["change"] == "begins")]
    assert len(begun) == 1
    assert 0 < begun["time"].iloc[0] - (accident.first_image_s + START_S) <= 10.0
    assert begun["severity"].tolist() == ["alarm"]


def test_replay_gives_the_bytes_of_the_live_run(service, catalog, accident, digest):
    key = replay(accident.beamtime.experiment, accident.documents(), api_key=service.api_key, root="accident-replays")
    again = Result(catalog.client["accident-replays", key])
    live = catalog.results[accident.key]
    assert again.digest() == digest
    told = ["time", "rule", "change", "value"]
    assert again.events[told].to_numpy().tolist() == live.events[told].to_numpy().tolist()


def test_a_log_that_arrives_after_the_run_completes_the_tags(service, catalog, accident, digest):
    """Frames can be read meanwhile, and are told to be provisional; then all is as if the log had been there."""
    file = accident.beamtime.experiment.potentiostat.file
    late = accident.beamtime.changed("late.yml", potentiostat={"file": str(file.with_name("late.mpt")), "late_s": 60})
    seen: list[Any] = []
    with make_sink(late, api_key=service.api_key, root="late") as sink:

        def on_status(status: Status) -> None:
            if "waiting for the potentiostat log" in status.message and not seen:
                assert sink.drain(60)
                result = Result(catalog.client["late", status.key])
                seen.extend([result.steps, result.frame(0).maps, str(result)])
                shutil.copy(file, file.with_name("late.mpt"))

        callback = Callback(late, sink, on_status=on_status)
        for name, doc in accident.documents():
            callback(name, doc)
        assert callback.processing is not None
        key = callback.processing.status.key
    steps, maps, summary = seen
    assert steps["provisional"].tolist() == [True] * (SETS - 1)
    assert steps["q_mah"].isna().all()
    assert steps["quality"].str.contains("log has no row yet").all()
    assert np.isfinite(maps["intensity"]).any()
    assert "provisional" in summary
    complete = Result(catalog.client["late", key])
    assert not complete.steps["provisional"].any()
    assert complete.digest() == digest


# Clocks


def recorded(accident: Accident, columns: dict[str, Any], times: np.ndarray, *, units: dict[str, str] | None = None) -> Iterator[Document]:
    """The documents of the run, with a further stream of readings after the descriptor of the images."""
    experiment = accident.beamtime.experiment
    for name, doc in accident.documents():
        yield name, doc
        if describes(experiment.scan, name, doc):
            keys = {key: {"source": "test", "dtype": "number", "shape": [], "units": (units or {}).get(key)} for key in columns}
            yield "descriptor", {"uid": "cell", "run_start": doc["run_start"], "name": "cell", "time": times[0], "data_keys": keys}
            page = {"seq_num": list(range(1, len(times) + 1)), "time": times.tolist(), "uid": [f"e{i}" for i in range(len(times))]}
            data = {key: np.asarray(values, float).tolist() for key, values in columns.items()}
            yield (
                "event_page",
                {"descriptor": "cell", **page, "data": data, "timestamps": {key: page["time"] for key in columns}, "filled": {}},
            )


def shifted(accident: Accident, name: str, clock: dict[str, Any], offset_s: float = OFFSET_S, drift_ppm: float = 0.0) -> Experiment:
    """The experiment with a log whose clock is behind, and a way to find out by how much."""
    file = accident.beamtime.file.with_name(name + ".mpt")
    zone = accident.beamtime.experiment.potentiostat.timezone
    clocks = {"clock_offset_s": offset_s, "drift_ppm": drift_ppm}
    log = PotentiostatLog(file, accident.curve, first_image_s=accident.first_image_s, timezone=zone, **clocks)
    log.advance(accident.first_image_s + accident.curve.elapsed_s[-1] + 300)
    log.close()
    return accident.beamtime.changed(name + ".yml", potentiostat={"file": str(file), **clock})


def tag_error(result: Result, accident: Accident) -> float:
    """Largest error of the images' charge, as time at the largest current."""
    patterns = result.patterns
    middle = patterns["time"].values + accident.beamtime.experiment.scan.exposure_s / 2
    error = patterns["charge"].values - charge_by_the_log(accident.beamtime.experiment, middle)
    largest_ma = np.abs(log_of(accident.beamtime.experiment).current).max()
    return float(np.abs(error).max()) * 3600 / largest_ma


def test_a_marker_at_the_start_of_the_current_tells_the_offset_of_the_clock(service, catalog, accident):
    experiment = shifted(accident, "marker", {"clock_offset_s": "marker", "clock_stream": "cell", "clock_key": "pulse"})
    times = accident.first_image_s + np.arange(-20.0, 20.0)
    documents = recorded(accident, {"pulse": (times >= accident.first_image_s) & (times < accident.first_image_s + 3)}, times)
    result = catalog.results[replay(experiment, documents, api_key=service.api_key)]
    clock = result.metadata["clock"]
    assert abs(clock["offset_s"] - OFFSET_S) <= ROW_S / 2 + 0.01
    assert clock["uncertainty_s"] == pytest.approx(ROW_S / 12**0.5)
    assert tag_error(result, accident) <= ROW_S


def test_the_beamlines_own_voltage_tells_the_offset_of_the_clock(service, catalog, accident):
    way = {"clock_offset_s": "voltage", "clock_stream": "cell", "clock_key": "cell_voltage"}
    experiment = shifted(accident, "match", way)
    elapsed = np.arange(0.0, plan_schedule(experiment).duration_s)
    noise = np.random.default_rng(1).normal(0, 1e-4, len(elapsed))
    documents = recorded(accident, {"cell_voltage": accident.curve.voltage(elapsed) + noise}, accident.first_image_s + elapsed)
    result = catalog.results[replay(experiment, documents, api_key=service.api_key)]
    assert abs(result.metadata["clock"]["offset_s"] - OFFSET_S) <= ROW_S
    assert tag_error(result, accident) <= ROW_S


@pytest.fixture(scope="module")
def long_run(service) -> Accident:
    """A run of thirty hours, in which a clock that drifts by 50 ppm goes wrong by more than a row of the log."""
    prepared = prepare(service.storage / "long", service.uri, sets=SETS, exposure_s=400.0)
    curve = paper_curve(plan_schedule(prepared.experiment).duration_s)
    curve = discharged_by_accident(curve, start_s=80_000.0, discharge_s=1200.0, current_ma=3.0)
    measured = measure(prepared, echem=curve)
    log = log_of(prepared.experiment)
    return Accident(measured, curve, "", float(log.time[np.abs(log.current) > 0][0]))


PACE_S = {"voltage": 10.0, "marker": 2.0}
WAYS = {"voltage": {"clock_offset_s": "voltage"}, "marker": {"clock_offset_s": "marker", "marker_falls": True}}


@pytest.mark.parametrize(("offset_s", "way"), [(3600.0, "voltage"), (0.5, "voltage"), (37.0, "marker")])
def test_offset_and_drift_of_the_clock_are_found_and_every_image_has_its_charge(service, catalog, long_run, way, offset_s):
    name = f"drift-{way}-{offset_s:g}"
    experiment = shifted(long_run, name, {**WAYS[way], "clock_stream": "cell", "clock_key": "reading"}, offset_s, DRIFT_PPM)
    duration_s = long_run.curve.elapsed_s[-1]
    elapsed = np.arange(-60.0, duration_s + 60, PACE_S[way])
    noise = np.random.default_rng(1).normal(0, 1e-4, len(elapsed))
    on = (elapsed >= 0) & (elapsed < duration_s)
    cell = np.where(elapsed < 0, REST_V, long_run.curve.voltage(elapsed)) + noise
    reading = {"voltage": cell, "marker": on}[way]
    documents = recorded(long_run, {"reading": reading}, long_run.first_image_s + elapsed)
    result = catalog.results[replay(experiment, documents, api_key=service.api_key)]
    clock = result.metadata["clock"]
    assert abs(clock["offset_s"] - offset_s) <= ROW_S
    assert clock["drift_ppm"] == pytest.approx(DRIFT_PPM, abs=ROW_S / duration_s * 1e6)  # a row of the log over the whole run
    assert tag_error(result, long_run) <= ROW_S
    assert (result.steps["quality"] == "complete").all()


def test_without_its_marker_the_charge_is_unknown_and_nothing_is_placed_wrongly(service, catalog, accident):
    experiment = shifted(accident, "none", {"clock_offset_s": "marker", "clock_stream": "cell", "clock_key": "pulse"})
    result = catalog.results[replay(experiment, accident.documents(), api_key=service.api_key)]
    assert result.steps["q_mah"].isna().all()
    assert result.steps["quality"].str.contains("the run has no stream 'cell'").all()
    assert np.isnan(result.patterns["charge"]).all()
    assert result.echem.empty


def test_a_stream_of_the_run_is_a_log(service, catalog, accident):
    keys = {"voltage": "v", "current": "i", "charge": "q"}
    stream = {"file": None, "stream": "cell", "keys": keys, "clock_offset_s": 0.0}
    experiment = accident.beamtime.changed("stream.yml", potentiostat=stream)
    elapsed = np.arange(-10.0, plan_schedule(experiment).duration_s + 10.0, 1.0)
    curve = accident.curve
    columns = {"v": curve.voltage(elapsed), "i": curve.current(elapsed) / 1000, "q": curve.charge(elapsed)}
    documents = list(recorded(accident, columns, accident.first_image_s + elapsed, units={"v": "V", "i": "A", "q": "mAh"}))
    result = catalog.results[replay(experiment, documents, api_key=service.api_key)]
    assert (result.steps["quality"] == "complete").all()
    assert tag_error(result, accident) <= ROW_S
    assert result.echem["current"].min() == pytest.approx(-CURRENT_MA, rel=0.05)


def test_a_cell_that_grows_hot_is_told_of_and_the_result_is_the_same(service, catalog, accident, digest):
    watched = accident.beamtime.changed("hot.yml", guardian={"temperature_key": "cell_temperature", "temperature_stream": "cell"})
    times = accident.first_image_s + np.arange(0.0, 1200.0, 10.0)
    documents = recorded(accident, {"cell_temperature": np.linspace(300.0, 330.0, len(times))}, times, units={"cell_temperature": "K"})
    result = Result(catalog.client["hot", replay(watched, documents, api_key=service.api_key, root="hot")])
    hot = result.events[result.events["rule"].str.startswith("temperature")]
    assert hot[["rule", "change"]].to_numpy().tolist() == [["temperature_high", "begins"]]
    assert hot["time"].iloc[0] - accident.first_image_s == pytest.approx(1190 * (318.15 - 300) / 30, abs=10)
    assert result.digest() == digest


def test_a_temperature_that_the_run_does_not_hold_is_told_once(service, accident, caplog):
    watched = accident.beamtime.changed("blind.yml", guardian={"temperature_key": "cell_temperature", "temperature_stream": "cell"})
    replay(watched, accident.documents(), api_key=service.api_key, root="blind")
    assert caplog.text.count("the temperature is not watched: the run has no stream 'cell'") == 1


def test_a_log_that_is_damaged_costs_the_charge_and_not_the_run(service, catalog, accident, caplog):
    file = accident.beamtime.experiment.potentiostat.file.with_name("damaged.mpt")
    file.write_text("EC-Lab ASCII FILE\nNb header lines : 3\nno columns at all\n1\t2\t3\n")
    damaged = accident.beamtime.changed("damaged.yml", potentiostat={"file": str(file)})
    result = catalog.results[replay(damaged, accident.documents(), api_key=service.api_key)]
    assert result.steps["q_mah"].isna().all()
    assert result.steps["quality"].str.contains("damaged.mpt").all()
    assert caplog.text.count("goes on without charge") == 1
