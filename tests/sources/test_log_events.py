import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import shared_file

from operandi.errors import PotentiostatError
from operandi.sources.log_events import EventLog, log_of_events
from operandi.sources.potentiostat import read_potentiostat, to_dataset, to_log
from operandi.stages.charge import Log

BEGUN = 1.7e9
UNITS = {"voltage": "mV", "current": "A"}


def protocol(n=400):
    """Times, and what a beamline reads, in mV and A, of rest, charge, hold and discharge."""
    t = np.arange(n) * 5.0
    current = np.select([t < 200, t < 800, t < 1200, t < 1300], [0.0, 30.0, 30 * np.exp((800 - t) / 300), 0.0], -30.0)
    voltage = np.select([t < 200, t < 800, t < 1200], [3400, 3600 + (t - 200), 4200], 3900.0)
    noise = np.random.default_rng(2).normal(0, 1, (2, n))
    return BEGUN + t, {"voltage": voltage + 0.1 * noise[0], "current": (current + 1e-4 * noise[1]) / 1000}


def assert_same(log: Log, other: Log):
    for name in Log.__slots__:
        np.testing.assert_array_equal(getattr(log, name), getattr(other, name))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=40), st.booleans())
def test_events_that_come_bit_by_bit_give_what_all_at_once_do(cuts, counted):
    times, columns = protocol()
    units = dict(UNITS)
    if counted:
        columns["charge"], units["charge"] = np.concatenate([np.linspace(0, 20, 300), np.linspace(0, 5, 100)]), "C"
    events, log = EventLog(units), Log.empty()
    edges = [0, *sorted(cuts), 400]
    for first, last in zip(edges, edges[1:], strict=False):
        if news := events.add(times[first:last], {role: column[first:last] for role, column in columns.items()}):
            log = news.onto(log)
    assert_same(log, log_of_events(times, columns, units))


def test_the_current_is_integrated_with_its_sign_and_in_its_unit():
    log = log_of_events(*protocol(), UNITS)
    seconds, current = np.arange(400) * 5.0, protocol()[1]["current"] * 1000
    np.testing.assert_allclose(log.charge[-1], np.trapezoid(current, seconds) / 3600, rtol=1e-12)
    assert log.charge[-1] < log.charge.max()
    assert log.voltage[0] == pytest.approx(3.4, abs=1e-3)


def test_rest_constant_current_hold_and_discharge_are_steps():
    log = log_of_events(*protocol(), UNITS)
    seconds = log.time[1:] - BEGUN
    np.testing.assert_array_equal(seconds[np.diff(log.step) > 0], [200, 820, 1200, 1300])
    assert set(log.cycle) == {0}


def test_the_dataset_is_that_of_a_file():
    path = shared_file("echem_biologic/yadg_bcd.issue_241.mpt")
    known = read_potentiostat(path)
    columns = {role: known[role].values for role in ("voltage", "current", "charge", "step", "cycle")}
    units = {role: str(known[role].attrs["units"]) for role in columns}
    found = to_dataset(log_of_events(known["time"].values, columns, units | {"step": "", "cycle": ""}), dict(known.attrs))
    assert found.identical(known)
    assert_same(to_log(found), to_log(known))


def test_events_beyond_every_limit_or_out_of_order_are_refused_and_the_rest_kept():
    events = EventLog(UNITS)
    news = events.add([1.0, 2.0, 1.5, 3.0, 4.0], {"voltage": [3500, 3500, 3500, 9e7, 3500], "current": [0.0] * 5})
    assert news
    np.testing.assert_array_equal(news.rows.time, [1, 2, 4])
    assert events.refused == 2
    assert "decimal sign" in events.reasons[0]
    assert "came earlier" in events.reasons[1]
    assert events.add([3.9], {"voltage": [3500], "current": [0.0]}) is None
    with pytest.raises(PotentiostatError, match="2 such events"):
        log_of_events([1.0, 0.5, 0.6], {"voltage": [3500] * 3, "current": [0.0] * 3}, UNITS)


def test_a_reading_that_failed_leaves_its_charge_unknown_and_is_bridged():
    log = log_of_events(
        [0.0, 10, 20, 30], {"voltage": [4.0, np.nan, 4.0, 4.0], "current": [36, np.nan, 36, 36]}, {"voltage": "V", "current": "mA"}
    )
    np.testing.assert_allclose(log.charge, [0, np.nan, 0.2, 0.3])


@pytest.mark.parametrize(
    "units", [{}, {"voltage": "V"}, {"current": "mA"}, {"voltage": "V", "current": "mA", "smell": ""}, {"voltage": "V", "current": "kg"}]
)
def test_a_stream_without_what_is_needed_is_refused(units):
    with pytest.raises(PotentiostatError, match="declare"):
        EventLog(units)


def test_columns_that_do_not_fit_their_times_are_refused():
    with pytest.raises(PotentiostatError, match="one reading"):
        EventLog(UNITS).add([1.0, 2.0], {"voltage": [3500.0], "current": [0.0]})
    with pytest.raises(PotentiostatError, match="one reading"):
        EventLog(UNITS).add([1.0], {"voltage": [3500.0]})
