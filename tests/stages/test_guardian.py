"""The guardian speaks in time, once, and never without a reason."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operandi.experiment import Guardian
from operandi.simulate.potentiostat import OPEN_ROWS, discharged_by_accident, paper_curve
from operandi.stages.charge import Log
from operandi.stages.guardian import KINDS, Clock, Exposures, RunOver, State, Temperatures, watch

T0 = 1.7638e9


def told(observations, rules=None):
    state, events = State(), []
    for observation in observations:
        state, new = watch(state, observation, rules or Guardian())
        events += new
    return events


def log_of(time, voltage, current, *, charge=None, step=None):
    """A log whose charge is integrated from the current, unless given."""
    time, voltage, current = (np.asarray(column, float) for column in (time, voltage, current))
    passed = np.cumsum(0.5 * (current + np.roll(current, 1)) * np.diff(time, prepend=time[:1])) / 3600
    number = np.zeros(len(time), np.int64)
    return Log(T0 + time, voltage, current, passed if charge is None else charge, number if step is None else step, number)


def with_noise(log, seed=0, volts=5e-4, milliamps=0.01):
    rng = np.random.default_rng(seed)
    return replace(log, voltage=log.voltage + rng.normal(0, volts, len(log)), current=log.current + rng.normal(0, milliamps, len(log)))


def simulated(curve, row_s):
    elapsed = np.arange(-OPEN_ROWS * 5.0, curve.elapsed_s[-1] + 3600, row_s)
    start, limit, stop = curve.elapsed_s[0], curve.constant_current_s, curve.elapsed_s[-1]
    step = np.select([elapsed < start, elapsed < limit, elapsed < stop], [0, 1, 2], 3)
    voltage = np.where(elapsed < start, 3.42, curve.voltage(elapsed))
    return Log(T0 + elapsed, voltage, curve.current(elapsed), curve.charge(elapsed), step, np.zeros(len(step), np.int64))


def whole_protocol(row_s=5.0):
    """CC, CV, rest, CC discharge, hold at 2.8 V, rest; twice. The cell relaxes by up to 60 mV after each."""
    time, voltage, current, step = [0.0], [3.0], [0.0], [0]

    def go(seconds, volts, milliamps):
        t = np.arange(row_s, seconds + row_s / 2, row_s)
        step.extend([step[-1] + 1] * len(t))
        voltage.extend(volts(t))
        current.extend(milliamps(t))
        time.extend(time[-1] + t)

    for _ in range(2):
        go(3000, lambda t: 3.0 + 1.2 * t / 3000, lambda t: np.full(len(t), 30.0))
        go(1800, lambda t: np.full(len(t), 4.2), lambda t: 30 * np.exp(-t / 300))
        go(5400, lambda t: 4.2 - 0.06 * (1 - np.exp(-t / 300)), lambda t: np.zeros(len(t)))
        go(3000, lambda t: 4.14 - 1.34 * t / 3000, lambda t: np.full(len(t), -30.0))
        go(1800, lambda t: np.full(len(t), 2.8), lambda t: -30 * np.exp(-t / 300))
        go(5400, lambda t: 2.8 + 0.2 * (1 - np.exp(-t / 300)), lambda t: np.zeros(len(t)))
    return log_of(time, voltage, current, step=np.array(step))


@pytest.mark.parametrize("row_s", [1.0, 5.0])
@pytest.mark.parametrize("expected", ["charge", "protocol"])
@pytest.mark.parametrize("start_s", [300.0, 303.7, 3600.0, 5000.3])
def test_an_accidental_discharge_is_told_within_ten_seconds_of_log_time(row_s, expected, start_s):
    curve = discharged_by_accident(paper_curve(7200.0), start_s=start_s, discharge_s=120.0, current_ma=30.4)
    events = told([with_noise(simulated(curve, row_s))], Guardian(expected=expected))
    begun = {e.rule: e.time for e in events if e.change == "begins"}
    assert set(begun) == {"accidental_discharge", "wrong_current"}
    assert all(0 < time - T0 - start_s <= 10.0 for time in begun.values())


def test_a_small_cell_discharged_at_a_tenth_of_a_c_is_told_within_ten_seconds_too():
    time = np.arange(0, 4000, 5.0)
    current = np.where((time > 2002) & (time < 2300), -0.5, 0.5)
    events = told([with_noise(log_of(time, np.full(len(time), 3.7), current, step=np.ones(len(time), np.int64)))])
    assert 0 < min(e.time for e in events) - T0 - 2002 <= 10.0


def test_the_end_of_an_accident_tells_how_much_charge_was_lost():
    curve = discharged_by_accident(paper_curve(7200.0), start_s=3600.0, discharge_s=120.0, current_ma=30.4)
    events = [e for e in told([simulated(curve, 1.0)]) if e.rule == "accidental_discharge"]
    assert [e.change for e in events] == ["begins", "ends"]
    assert events[1].value == pytest.approx(30.4 * 120 / 3600, rel=0.02)
    assert events[1].time - T0 == pytest.approx(3600 + 240, abs=10)


@pytest.mark.parametrize(("seed", "row_s"), [(0, 5.0), (1, 5.0), (2, 1.0)])
def test_an_ordinary_protocol_gives_no_alarm(seed, row_s):
    log = with_noise(whole_protocol(row_s), seed)
    log = replace(log, charge=log_of(log.time - T0, log.voltage, log.current).charge)
    assert told([log]) == []


def test_the_papers_charge_gives_no_alarm_whatever_is_expected_but_a_discharge():
    log = simulated(paper_curve(7200.0), 5.0)
    assert [told([log], Guardian(expected=e)) for e in ("charge", "protocol", "any")] == [[], [], []]
    assert {e.rule for e in told([log], Guardian(expected="discharge"))} == {"accidental_charge", "wrong_current"}


def test_a_planned_discharge_in_a_log_without_steps_follows_a_rest():
    log = whole_protocol()
    assert told([replace(log, step=np.zeros(len(log), np.int64))]) == []


def test_a_planned_discharge_is_an_accident_where_only_charge_is_expected():
    begun = [e.rule for e in told([whole_protocol()], Guardian(expected="charge")) if e.change == "begins"]
    assert begun == ["accidental_discharge", "wrong_current"] * 2


def test_where_current_may_flow_either_way_none_is_wrong():
    curve = discharged_by_accident(paper_curve(7200.0), start_s=3600.0, discharge_s=120.0, current_ma=30.4)
    assert told([simulated(curve, 1.0)], Guardian(expected="any")) == []


def test_a_single_row_of_wrong_current_is_a_glitch():
    time = np.arange(0, 1000, 5.0)
    current = np.full(len(time), 3.0)
    current[100] = -3.0
    log = log_of(time, np.full(len(time), 3.7), current, charge=3.0 * time / 3600)
    assert told([log]) == []


def test_a_cell_that_discharges_itself_after_the_hold_is_told_by_its_rate():
    curve = replace(paper_curve(7200.0), self_discharge_v_h=0.05)
    events = told([with_noise(simulated(curve, 5.0))])
    assert [e.rule for e in events] == ["self_discharge"]
    assert events[0].value == pytest.approx(50, rel=0.05)
    assert events[0].time - T0 - 7200 == pytest.approx(1800 + 2 * 600, abs=6)


def test_a_cell_that_falls_as_soon_as_the_current_is_removed_is_told_at_once():
    curve = replace(paper_curve(7200.0), self_discharge_v_h=2.0)
    first = told([simulated(curve, 5.0)])[0]
    assert first.rule == "rest_drop"
    assert first.time - T0 - 7200 < 300


def test_voltages_out_of_limits_are_told_once_and_end_with_the_worst():
    time = np.arange(0, 500, 5.0)
    voltage = np.where((time >= 100) & (time < 200), 4.30 + 0.02 * np.sin(time), 4.2)
    events = told([log_of(time, voltage, np.zeros(len(time)))])
    assert [(e.rule, e.change) for e in events] == [("voltage_high", "begins"), ("voltage_high", "ends")]
    assert events[1].value == voltage.max()
    assert told([log_of(time, voltage, np.zeros(len(time)))], Guardian(voltage_max_v=None)) == []


def test_a_voltage_that_trembles_about_its_limit_is_told_once():
    time = np.arange(0, 5000, 5.0)
    voltage = 4.25 + np.random.default_rng(1).normal(0, 2e-3, len(time))
    assert len(told([log_of(time, voltage, np.zeros(len(time)))])) == 1


def both(log_until, exposures_until, block_s=10.0, lag_s=0.0):
    """Rows each 5 s and exposures each 1 s, a block of each in turn, the log ``lag_s`` behind."""
    for start in np.arange(0, 2000, block_s):
        rows = np.arange(start - lag_s, start + block_s - lag_s, 5.0)
        rows = rows[(rows >= 0) & (rows < log_until)]
        yield log_of(rows, np.full(len(rows), 3.7), np.zeros(len(rows)))
        times = np.arange(start, start + block_s)
        times = times[times < exposures_until]
        yield Exposures(T0 + times, np.full(len(times), 1000.0))


def test_a_log_that_stops_while_exposures_go_on_is_told():
    events = told(both(500, 2000))
    assert [(e.rule, e.time - T0) for e in events] == [("log_silent", 495 + 121)]


def test_a_log_that_never_comes_is_told_and_ends_when_it_does():
    events = told([*both(0, 2000), log_of(np.arange(0, 2000, 5.0), np.full(400, 3.7), np.zeros(400))])
    assert [(e.rule, e.change) for e in events] == [("log_silent", "begins"), ("log_silent", "ends")]
    assert events[0].time - T0 == 121


def test_a_detector_that_stalls_while_the_log_goes_on_is_told():
    events = told(both(2000, 500))
    assert [(e.rule, e.time - T0) for e in events] == [("detector_silent", 620)]


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 100), st.sampled_from([5.0, 10.0, 90.0]))
def test_streams_that_lag_less_than_the_limit_give_no_alarm(lag_s, block_s):
    assert told(both(3000, 2000, block_s=min(block_s, 110 - lag_s), lag_s=lag_s)) == []


def test_the_wall_clock_tells_when_both_are_silent():
    events = told([*both(2000, 2000), Clock(T0 + 2050), Clock(T0 + 2500), Clock(T0 + 2600)])
    assert [(e.rule, e.change) for e in events] == [("log_silent", "begins"), ("detector_silent", "begins")]


def test_after_the_run_no_exposure_is_missed():
    assert told([*both(2000, 2000), RunOver(T0 + 2000), Clock(T0 + 9000)]) == []


def test_a_log_before_the_first_exposure_misses_none():
    assert told([log_of(np.arange(0, 9000, 5.0), np.full(1800, 3.7), np.zeros(1800)), Clock(T0 + 9500)]) == []


def test_a_lost_beam_is_told_at_the_second_exposure_and_ends_when_it_is_back():
    rng = np.random.default_rng(0)
    monitor = rng.normal(1000, 30, 600)
    monitor[50] = 0  # a glitch
    monitor[200:400] = rng.normal(20, 5, 200)
    events = told([Exposures(T0 + np.arange(600.0), monitor)], Guardian(log_silent_s=None))
    assert [(e.rule, e.change, e.time - T0) for e in events] == [("beam_lost", "begins", 201), ("beam_lost", "ends", 400)]


def test_a_beam_that_decays_slowly_is_not_lost():
    time = np.arange(0, 5000.0)
    assert told([Exposures(T0 + time, 1000 * np.exp(-time / 2000))], Guardian(log_silent_s=None)) == []


def test_without_a_monitor_no_beam_is_lost():
    assert told([Exposures(T0 + np.arange(100.0), np.full(100, np.nan))]) == []


def test_temperatures_out_of_limits_are_told():
    celsius = np.concatenate([np.full(10, 25.0), np.full(5, 50.0), np.full(5, 25.0), np.full(5, 5.0)])
    events = told([Temperatures(T0 + np.arange(25.0), celsius)])
    assert [e.rule for e in events] == ["temperature_high", "temperature_high", "temperature_low"]


def test_rows_that_are_given_again_are_not_told_again():
    curve = discharged_by_accident(paper_curve(7200.0), start_s=3600.0, discharge_s=120.0, current_ma=30.4)
    log = simulated(curve, 5.0)
    assert told([log, log]) == told([log])


def test_a_message_says_when_what_and_what_to_do():
    log = log_of([0.0, 5.0], [4.3, 4.3], [0.0, 0.0])
    (event,) = told([log])
    assert event.said.startswith("2025-11-22 08:26:40 UTC: voltage of 4.3 V (limit 4.25 V); stop the charge")
    assert (event.time, event.rule, event.severity, event.limit) == (T0, "voltage_high", "alarm", 4.25)


def test_times_and_values_that_mean_nothing_do_not_stop_the_guardian():
    broken = np.array([np.nan, np.inf, -np.inf, 1e300, T0])
    zeros = np.zeros(5, np.int64)
    told([Log(np.sort(broken), broken, broken, broken, zeros, zeros), Exposures(broken, broken), Temperatures(broken, broken)])


def everything():
    """A run with an accident, a high voltage, a lost beam and a stall, as rows and exposures in the order of time."""
    curve = discharged_by_accident(paper_curve(1200.0), start_s=400.0, discharge_s=60.0, current_ma=150.0)
    log = simulated(curve, 5.0)
    log = replace(log, voltage=np.where((log.time > T0 + 900) & (log.time < T0 + 950), 4.4, log.voltage))
    log = with_noise(log)
    times = np.concatenate([np.arange(0, 800.0, 2), np.arange(1000, 1300.0, 2)])
    flux = np.where((times > 200) & (times < 300), 10.0, 1000.0)
    return log, Exposures(T0 + times, flux)


def parts(observation, cuts):
    edges = [0, *sorted(cuts), len(observation.time)]
    names = observation.__dataclass_fields__
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        yield type(observation)(*(getattr(observation, name)[first:last] for name in names))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 900)), st.lists(st.integers(0, 550)))
def test_events_are_the_same_however_rows_are_cut_into_blocks(cuts, exposure_cuts):
    log, exposures = everything()
    whole = told([log, exposures])
    assert len(whole) >= 8
    cuts, exposure_cuts = (
        [min(c, len(o.time)) for c in chosen] for chosen, o in ((cuts, log), (exposure_cuts, exposures))
    )  # fmt: skip
    assert told([*parts(log, cuts), *parts(exposures, exposure_cuts)]) == whole


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_log_and_exposures_say_alone_is_the_same_in_any_interleaving(data):
    log, exposures = everything()
    rules = Guardian(log_silent_s=None, detector_silent_s=None)
    apart = told([log], rules), told([exposures], rules)
    rows = list(parts(log, data.draw(st.lists(st.integers(0, len(log)), max_size=12))))
    images = list(parts(exposures, data.draw(st.lists(st.integers(0, len(exposures.time)), max_size=12))))
    mixed = []
    while rows or images:
        chosen = rows if rows and (not images or data.draw(st.booleans())) else images
        mixed.append(chosen.pop(0))
    events = told(mixed, rules)
    assert ([e for e in events if e.rule != "beam_lost"], [e for e in events if e.rule == "beam_lost"]) == apart


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_each_condition_begins_before_it_ends_and_never_twice(seed):
    rng = np.random.default_rng(seed)
    n = 300
    log = log_of(np.cumsum(rng.exponential(20, n)), rng.uniform(2, 5, n), rng.normal(0, 5, n), step=rng.integers(0, 2, n))
    exposures = Exposures(T0 + np.cumsum(rng.exponential(20, n)), rng.uniform(0, 10, n))
    mixed = [part for pair in zip(parts(log, range(0, n, 10)), parts(exposures, range(0, n, 10)), strict=True) for part in pair]
    events = told(mixed)
    for rule in KINDS:
        sequence = [e.change for e in events if e.rule == rule]
        assert sequence == ["begins", "ends"] * (len(sequence) // 2) + ["begins"] * (len(sequence) % 2), rule


def test_the_state_that_was_given_stays_as_it_was():
    state, _ = watch(State(), log_of([0.0], [4.5], [0.0]), Guardian())
    before = dict(state.active)
    watch(state, log_of([5.0], [3.5], [0.0]), Guardian())
    assert dict(state.active) == before
