"""The log of a run on the beamline's clock: found, drifting, unknown, damaged; the same live and in replay."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operandi.experiment import Experiment
from operandi.pipeline import ClockTold, LogRows
from operandi.simulate.potentiostat import OPEN_ROWS, PotentiostatLog, paper_curve
from operandi.sources import log_feed
from operandi.sources.log_feed import LogFeed, signals_of
from operandi.sources.signals import Signal
from operandi.stages.charge import Log

T0 = 1_763_800_000.0
DURATION_S, ROW_S = 7200.0, 5.0


def experiment(**potentiostat: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "sample": {"name": "cell"},
            "geometry": {"poni": "none.poni"},
            "integration": {"q_min_inv_angstrom": 1.0, "q_max_inv_angstrom": 5.2},
            "scan": {
                "sets": 10, "rotations_per_set": 30, "translations": 60,
                "translation_start_mm": -3, "translation_stop_mm": 3, "exposure_s": 1,
            },
            "potentiostat": potentiostat,
        }
    )  # fmt: skip


def written(file: Path, offset_s: float, until_s: float = DURATION_S + 300) -> Path:
    log = PotentiostatLog(file, paper_curve(DURATION_S), first_image_s=T0, clock_offset_s=offset_s, row_s=ROW_S)
    log.advance(T0 + until_s)
    log.close()
    return file


def readings(times: np.ndarray, values: np.ndarray) -> Signal:
    return Signal("clock", times, {"reading": np.asarray(values, float)})


def pulse(start_s: float = 0.0, end_s: float = 3.0) -> Signal:
    elapsed = np.arange(-30.0, DURATION_S + 30)
    return readings(T0 + elapsed, (elapsed >= start_s) & (elapsed < end_s))


def rows_of(events) -> Log:
    log = Log.empty()
    for event in events:
        if isinstance(event, LogRows):
            log = event.rows if event.restarted else log.append(event.rows)
    return log


def finished(feed: LogFeed, *signals: Signal) -> Log:
    """The rows of a replay: the whole file is there at once."""
    events = feed.poll()
    for signal in signals:
        feed.take(signal)
    feed.run_over()
    return rows_of(events + feed.poll(final=True))


def test_a_number_is_added_to_the_times_of_the_log(tmp_path):
    feed = LogFeed(experiment(file=str(written(tmp_path / "a.mpt", 37.0)), clock_offset_s=37.0))
    told, rows = feed.poll()
    assert isinstance(told, ClockTold)
    assert told.clock.offset_s == 37.0
    np.testing.assert_allclose(rows_of([rows]).time[OPEN_ROWS], T0, atol=1e-3)


@pytest.mark.parametrize("offset_s", [3600.0, 37.0, 0.5, -120.0])
def test_a_marker_is_within_a_row_of_the_truth(tmp_path, offset_s):
    feed = LogFeed(experiment(file=str(written(tmp_path / "a.mpt", offset_s)), clock_offset_s="marker", clock_key="pulse"))
    rows = finished(feed, pulse())
    assert abs(feed.clock.offset_s - offset_s) <= ROW_S
    assert abs(rows.time[OPEN_ROWS] - T0) <= ROW_S


def test_with_a_marker_the_rows_come_as_soon_as_the_log_shows_the_current(tmp_path):
    file = written(tmp_path / "a.mpt", 37.0, until_s=-10.0)
    feed = LogFeed(experiment(file=str(file), clock_offset_s="marker", clock_key="pulse"))
    feed.take(pulse())
    events = feed.poll(final=True)
    assert rows_of(events).time.size == 0
    assert "does not show the start" in feed.clock.reason
    file.unlink()
    written(file, 37.0, until_s=20.0)
    assert len(rows_of(events + feed.poll(final=True))) > OPEN_ROWS
    assert abs(feed.clock.offset_s - 37.0) <= ROW_S


def test_a_marker_that_falls_with_the_current_tells_the_drift(tmp_path, monkeypatch):
    monkeypatch.setattr(log_feed, "CUT_S", 60.0)
    way = {"clock_offset_s": "marker", "clock_key": "on", "marker_falls": True}
    feed = LogFeed(experiment(file=str(written(tmp_path / "a.mpt", 37.0)), **way))
    drifted = readings(T0 + np.arange(-30.0, 8000.0) * 1.005, pulse(end_s=DURATION_S).columns["reading"][:8030])
    assert finished(feed, drifted).time.size == 0
    assert "other switches" in feed.clock.reason  # 5000 ppm are no drift of a clock


def test_a_match_gives_the_same_offset_however_far_the_log_goes_on_behind_the_run(tmp_path):
    elapsed = np.arange(0.0, DURATION_S / 2)
    voltage = paper_curve(DURATION_S).voltage(elapsed) * 0.98 + 0.05 + np.random.default_rng(3).normal(0, 1e-4, len(elapsed))
    found = []
    for i, more_s in enumerate((180.0, 300.0, 3000.0)):
        file = written(tmp_path / f"{i}.mpt", 37.0, until_s=DURATION_S / 2 + more_s)
        feed = LogFeed(experiment(file=str(file), clock_offset_s="voltage", clock_key="v"))
        finished(feed, readings(T0 + elapsed, voltage))
        found.append(feed.clock)
    assert abs(found[0].offset_s - 37.0) <= ROW_S
    assert found[0] == found[1] == found[2]


def test_before_the_run_is_over_a_match_places_nothing(tmp_path):
    feed = LogFeed(experiment(file=str(written(tmp_path / "a.mpt", 0.0)), clock_offset_s="voltage", clock_key="v"))
    elapsed = np.arange(0.0, DURATION_S)
    feed.take(readings(T0 + elapsed, paper_curve(DURATION_S).voltage(elapsed)))
    assert rows_of(feed.poll()).time.size == 0
    assert "at the run's end" in feed.clock.reason
    assert len(feed.take_fresh()) > OPEN_ROWS  # the guardian sees them all the same


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (readings(T0 + np.arange(20.0), np.zeros(20)), "has not been above"),
        (readings(T0 + np.arange(20.0), np.ones(20)), "from the first reading on"),
        (pulse(), "beyond clock_search_s"),
        (None, "has not been above"),
    ],
)
def test_what_tells_no_offset_leaves_it_unknown_with_the_reason(tmp_path, signal, reason):
    file = written(tmp_path / "a.mpt", 36000.0)  # a time zone wrong by ten hours
    feed = LogFeed(experiment(file=str(file), clock_offset_s="marker", clock_key="pulse"))
    assert finished(feed, *([signal] if signal else [])).time.size == 0
    assert reason in feed.clock.reason


def test_a_damaged_log_is_told_once_and_read_anew_when_it_is_well_again(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(log_feed, "DAMAGED_POLL_S", 0.0)
    caplog.set_level(logging.WARNING)
    file = tmp_path / "a.mpt"
    file.write_text("EC-Lab ASCII FILE\nNb header lines : 3\nno columns at all\n1\t2\t3\n")
    feed = LogFeed(experiment(file=str(file)))
    events = feed.poll() + feed.poll(final=True)
    assert "a.mpt" in feed.fault
    assert len(caplog.records) == 1
    file.unlink()
    written(file, 0.0)
    rows = rows_of(events + feed.poll(final=True))
    assert feed.fault == ""
    assert len(rows) == OPEN_ROWS + int((DURATION_S + 300) / ROW_S) + 1


def test_a_stream_is_a_log_whose_units_must_be_known():
    keys = {"stream": "cell", "keys": {"voltage": "v", "current": "i"}}
    time = T0 + np.arange(5.0)
    columns = {"voltage": np.full(5, 3700.0), "current": np.full(5, 0.03)}
    feed = LogFeed(experiment(**keys))
    assert not feed.grows
    rows = finished(feed, Signal("log", time, columns, {"voltage": "mV", "current": "A"}))
    np.testing.assert_allclose(rows.voltage, 3.7)
    np.testing.assert_allclose(rows.current, 30.0)
    nameless = LogFeed(experiment(**keys))
    nameless.take(Signal("log", time, columns, {"voltage": "mV"}))
    assert "potentiostat.units" in nameless.fault
    declared = LogFeed(experiment(**keys, units={"current": "mA"}))
    np.testing.assert_allclose(finished(declared, Signal("log", time, columns, {"voltage": "mV"})).current, 0.03)


def descriptor(*keys: str) -> tuple[str, dict]:
    about = {key: {"source": "test", "dtype": "number", "shape": [], "units": "V"} for key in keys}
    return "descriptor", {"uid": "d", "run_start": "r", "name": "cell", "data_keys": about, "time": T0}


def test_signals_come_from_the_events_of_their_stream():
    (signals,) = signals_of(experiment(file="a.mpt", clock_offset_s="voltage", clock_key="v", clock_stream="cell"))
    page = {"descriptor": "d", "seq_num": [1, 2], "time": [T0, T0 + 1], "data": {"v": [3.5, 3.6], "w": [1, 2]}}
    events = {"uid": ["a", "b"], "timestamps": {"v": [T0, T0], "w": [T0, T0]}, "filled": {}}
    documents = [("start", {"uid": "r", "time": T0}), descriptor("v", "w"), ("event_page", page | events)]
    (signal,) = [signal for name, doc in documents for signal in signals.signals(name, doc)]
    signals.close()
    assert signal.time.tolist() == [T0, T0 + 1]
    assert signal.columns["reading"].tolist() == [3.5, 3.6]
    assert signal.units == {"reading": "V"}


def test_a_stream_that_is_not_there_or_lacks_its_key_says_so():
    where = experiment(file="a.mpt", clock_offset_s="voltage", clock_key="v", clock_stream="cell")
    start, stop = ("start", {"uid": "r", "time": T0}), ("stop", {"uid": "s", "run_start": "r", "time": T0, "num_events": {}})
    for documents, reason in (([start, stop], "no stream 'cell'"), ([start, descriptor("w"), stop], "no data key 'v'")):
        (signals,) = signals_of(where)
        faults = [signal.fault for name, doc in documents for signal in signals.signals(name, doc)]
        signals.close()
        assert len(faults) == 1
        assert reason in faults[0]


def test_without_a_potentiostat_there_are_no_signals_and_no_rows():
    plain = experiment(file="a.mpt").model_copy(update={"potentiostat": None})
    assert signals_of(plain) == []
    assert LogFeed(plain).poll(final=True) == []
