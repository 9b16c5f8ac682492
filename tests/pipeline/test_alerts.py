"""The guardian of a run: the same log events live and in replay, and no false silence."""

import numpy as np
import pytest

from operandi.errors import ShapeError
from operandi.experiment import Experiment
from operandi.pipeline.alerts import LEAD_S, Watch
from operandi.simulate.potentiostat import OPEN_ROWS, discharged_by_accident, paper_curve
from operandi.stages.charge import Log
from operandi.stages.clocks import ClockOffset, unknown

T0 = 1.7638e9
KNOWN = ClockOffset(0.0, 0.0, 0.0)


def experiment(*, logged: bool = True) -> Experiment:
    content = {
        "sample": {"name": "cell"},
        "geometry": {"poni": "none.poni"},
        "integration": {"q_min_inv_angstrom": 1.0, "q_max_inv_angstrom": 5.2},
        "scan": {
            "sets": 10, "rotations_per_set": 30, "translations": 60, "translation_start_mm": -3, "translation_stop_mm": 3, "exposure_s": 1,
        },
    }  # fmt: skip
    return Experiment.model_validate(content | ({"potentiostat": {"file": "a.mpt"}} if logged else {}))


def accident_log() -> Log:
    curve = discharged_by_accident(paper_curve(7200.0), start_s=3600.0, discharge_s=120.0, current_ma=30.4)
    elapsed = np.arange(-OPEN_ROWS * 5.0, 7200.0, 5.0)
    step = np.where(elapsed < 0, 0, 1).astype(np.int64)
    return Log(T0 + elapsed, curve.voltage(elapsed), curve.current(elapsed), curve.charge(elapsed), step, step * 0)


def exposures(first: float, last: float, every: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    time = T0 + np.arange(first, last, every)
    return time, np.full(len(time), 1000.0)


def told(events):
    return [(event.rule, event.change) for event in events]


def test_what_the_log_tells_does_not_depend_on_when_it_comes():
    log = accident_log()
    early, late = Watch(experiment(), live=True), Watch(experiment(), live=False)
    one = early.exposures(*exposures(0, 7200), 5e9)
    for first in range(0, len(log), 7):
        one += early.rows(log.after(first).part(log.time[first], log.time[min(first + 6, len(log) - 1)]), KNOWN, 5e9)
    other = late.rows(log, KNOWN, 6e9) + late.exposures(*exposures(0, 7200), 6e9)
    assert one == other
    assert ("accidental_discharge", "begins") in told(one)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_run_faster_than_time_and_a_log_that_comes_in_pieces_are_no_silence(ahead):
    """The whole run within three seconds of the wall clock, the images hours ahead of the log or behind it."""
    log, watch, events = accident_log(), Watch(experiment(), live=True), []
    for i, now in enumerate(5e9 + np.linspace(0, 3, 10)):
        rows = log.part(T0 + 720 * i, T0 + 720 * i + 719)
        images = exposures(720 * i, 720 * (i + 1))
        if ahead:
            events += watch.exposures(*images, now) + watch.rows(rows, KNOWN, now + 0.2)
        else:
            events += watch.rows(rows, KNOWN, now) + watch.exposures(*images, now + 0.2)
        events += watch.idle(now + 0.25)
    events += watch.over(5e9 + 4) + watch.rows(log.part(T0 + 7200, T0 + 9000), KNOWN, 5e9 + 300) + watch.idle(5e9 + 900)
    assert not {"log_silent", "detector_silent"} & {event.rule for event in events}


def test_live_a_silence_is_told_by_the_wall_clock_and_ends_when_something_comes():
    watch = Watch(experiment(), live=True)
    watch.exposures(*exposures(0, 10), 100.0)
    watch.rows(accident_log().part(T0, T0 + 10), KNOWN, 100.0)
    assert watch.idle(219.0) == []
    assert {event.rule for event in watch.idle(221.0)} == {"log_silent", "detector_silent"}
    assert set(watch.on) == {"log_silent", "detector_silent"}
    assert told(watch.exposures(*exposures(10, 20), 222.0)) == [("detector_silent", "ends")]
    assert set(watch.on) == {"log_silent"}


def test_in_replay_a_silence_is_told_by_the_data_at_its_own_time():
    log, watch = accident_log(), Watch(experiment(), live=False)
    gap = Log.joined([log.part(-np.inf, T0 + 1000), log.part(T0 + 1300, np.inf)])
    watch.rows(gap, KNOWN, 9e9)
    watch.exposures(*exposures(0, 7000), 9e9)
    assert watch.idle(9e9 + 1e6) == []
    begins, ends = watch.silences(gap.time)
    assert told([begins, ends]) == [("log_silent", "begins"), ("log_silent", "ends")]
    assert begins.time == pytest.approx(T0 + 1121, abs=1.5)


def test_without_a_potentiostat_no_log_is_missed():
    watch = Watch(experiment(logged=False), live=True)
    watch.exposures(*exposures(0, 10), 100.0)
    assert {event.rule for event in watch.idle(1000.0)} == {"detector_silent"}


def test_of_the_time_before_the_run_only_the_last_minutes_are_told():
    log = accident_log()
    long_ago, just_now = Watch(experiment(), live=True), Watch(experiment(), live=True)
    for watch in (long_ago, just_now):
        assert watch.rows(log, KNOWN, 5e9) == []
    assert long_ago.exposures(*exposures(3900 + LEAD_S, 6000), 5e9) == []
    assert ("accidental_discharge", "begins") in told(just_now.exposures(*exposures(3600 + LEAD_S - 10, 6000), 5e9))


def test_times_are_the_beamlines_where_its_clock_is_known_and_marked_where_not():
    log = accident_log()
    ahead, none = Watch(experiment(), live=False), Watch(experiment(), live=False)
    events = ahead.rows(log, ClockOffset(37.0, 0.1, 0.0), 0.0) + ahead.exposures(*exposures(0, 10), 0.0)
    unplaced = none.rows(log, unknown("no marker"), 0.0) + none.exposures(*exposures(0, 10), 0.0)
    assert [a.time - b.time for a, b in zip(events, unplaced, strict=True)] == [37.0] * len(events)
    assert all("by the potentiostat's clock" in event.message for event in unplaced)


def test_rows_of_the_table_are_told_one_after_the_other_whatever_the_clock_says():
    watch = Watch(experiment(), live=True)
    events = watch.rows(accident_log(), KNOWN, 5.0) + watch.exposures(*exposures(0, 10), 5.0)
    moments = np.concatenate([watch.table_rows(events, now).columns["told"] for now in (1.7e9, 1.7e9, 1.6e9)])
    assert (np.diff(moments) > 0).all()


@pytest.mark.parametrize(("unit", "zero"), [("degC", 0.0), ("°C", 0.0), ("", 0.0), ("K", 273.15), ("Kelvin", 273.15)])
def test_temperatures_beyond_their_limits_are_told_in_celsius_and_those_not_read_are_left_out(unit, zero):
    watch, time = Watch(experiment(), live=False), T0 + np.arange(5.0)
    events = watch.temperatures(time, zero + np.array([25.0, 46.0, np.nan, 47.0, 30.0]), unit)
    assert told(events) == [("temperature_high", "begins"), ("temperature_high", "ends")]
    assert events[0].time == T0 + 1
    assert events[0].value == pytest.approx(46.0)
    assert told(watch.temperatures(time + 10, zero + np.full(5, 5.0), unit)) == [("temperature_low", "begins")]


def test_a_temperature_in_another_unit_is_an_error():
    with pytest.raises(ShapeError, match="knows °C and K"):
        Watch(experiment(), live=False).temperatures(T0 + np.arange(2.0), np.full(2, 80.0), "degF")
