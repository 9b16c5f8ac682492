import numpy as np
import pytest

from operandi.errors import ShapeError
from operandi.stages.clocks import ClockOffset, find_offset, marked_offset

BEGUN = 1_700_000_000.0


def cell(t):
    """Voltage and current: open circuit, 30 mA up to 4.2 V, 4.2 V held, relaxation."""
    rising = np.clip((t - 600) / 4000, 0, 1)
    voltage = np.where(t < 600, 3.42, 3.62 + 0.5 * rising + 0.08 * rising**6)
    voltage = np.where(t > 20000, 4.2 - 0.04 * (1 - np.exp(-np.maximum(t - 20000, 0) / 240)), voltage)
    current = np.select([t < 600, t < 4600, t < 20000], [0.0, 30.4, 30.4 * np.exp(-np.maximum(t - 4600, 0) / 6000)], 0.0)
    return voltage, current


def readings(offset, drift_ppm, *, quantity=0, log_period=5.0, beamline_period=2.0, seed=0):
    """The log and, by another clock, factor, constant and noise, the beamline's reading of the same cell."""
    rng = np.random.default_rng(seed)
    t, elapsed = np.arange(0.013, 22000, log_period), np.arange(300.0, 21500, beamline_period)
    log = cell(t)[quantity] + rng.normal(0, (2e-4, 0.01)[quantity], len(t))
    seen = 1.01 * cell(elapsed / (1 + 1e-6 * drift_ppm))[quantity] + 0.02 + rng.normal(0, (1e-3, 0.05)[quantity], len(elapsed))
    return BEGUN + t, log, BEGUN + elapsed + offset, seen


@pytest.mark.parametrize("offset", [3600.0, 37.0, 0.5, -7200.0])
@pytest.mark.parametrize("drift", [0.0, 50.0])
@pytest.mark.parametrize("quantity", [0, 1])
def test_the_offset_is_found_within_a_row_of_the_log(offset, drift, quantity):
    found = find_offset(*readings(offset, drift, quantity=quantity))
    assert found.reason == ""
    error = float(found.to_beamline(BEGUN)) - BEGUN - offset
    assert abs(error) < 5.0
    assert abs(error) < 4 * found.uncertainty_s
    assert abs(found.drift_ppm - drift) < 100


@pytest.mark.parametrize(("log_period", "beamline_period"), [(1.0, 1.0), (30.0, 2.0), (5.0, 0.5)])
def test_any_pace_of_either_reading_will_do(log_period, beamline_period):
    found = find_offset(*readings(37.0, 50.0, log_period=log_period, beamline_period=beamline_period))
    assert abs(float(found.to_beamline(BEGUN)) - BEGUN - 37) < log_period


def test_a_clear_drift_is_found():
    rng = np.random.default_rng(4)
    t = np.arange(0.0, 40000, 5)
    wave = np.interp(t, np.arange(0, 40001, 400), rng.normal(size=101))
    found = find_offset(t, wave, t * (1 + 80e-6) + 12, wave + rng.normal(0, 0.01, len(t)))
    assert found.drift_ppm == pytest.approx(80, abs=5)
    assert found.offset_s == pytest.approx(12, abs=0.5)
    np.testing.assert_allclose(found.to_beamline([0, 40000]), [12, 40015.2], atol=0.5)


@pytest.mark.parametrize(
    ("log", "beamline", "reason"),
    [
        (lambda t: np.ones_like(t), lambda t: np.sin(t), "does not vary"),
        (lambda t: t * 1e-4, lambda t: t * 1e-4, "alike"),
        (lambda t: np.sin(t / 300), lambda t: np.sin(t / 300), "alike"),
        (lambda t: np.random.default_rng(0).normal(size=len(t)), lambda t: np.sin(t / 300), "does not match"),
        (lambda t: np.full_like(t, np.nan), lambda t: np.sin(t / 300), "only 0 readings"),
    ],
)
def test_an_offset_that_cannot_be_known_is_unknown_and_says_why(log, beamline, reason):
    t = np.arange(0.0, 20000, 5)
    found = find_offset(t, log(t), t + 37, beamline(t))
    assert np.isnan([found.offset_s, found.uncertainty_s, found.drift_ppm]).all()
    assert reason in found.reason
    assert np.isnan(found.to_beamline([0.0, 1.0])).all()


def test_the_start_of_the_current_is_a_marker():
    t = np.arange(0.0, 2000, 5)
    found = marked_offset(t, cell(t)[1], 600 + 37.0)
    assert abs(found.offset_s - 37) <= 2.5
    assert found.uncertainty_s == pytest.approx(5 / np.sqrt(12))
    assert "start of the current" in marked_offset(t, np.zeros_like(t), 600.0).reason
    assert np.isnan(marked_offset(t, cell(t)[1], np.nan).offset_s)


@pytest.mark.parametrize("offset", [3600.0, 37.0, 0.5])
@pytest.mark.parametrize("hours", [6, 80])
def test_two_markers_tell_offset_and_drift_of_a_long_run(offset, hours):
    # the current flows from 600 s to an hour before the end; the potentiostat's clock is 50 ppm slow
    true = ClockOffset(offset, 0.0, 50.0, BEGUN)
    t = np.arange(1.7, 3600.0 * hours, 5.0)
    current = np.where((t > 600) & (t < 3600 * (hours - 1)), 30.4, 0.0)
    start, stop = true.to_beamline(BEGUN + np.array([600.0, 3600 * (hours - 1)]))
    found = marked_offset(BEGUN + t, current, start, stop_s=stop)
    assert found.reason == ""
    error = found.to_beamline(BEGUN + t) - true.to_beamline(BEGUN + t)
    assert np.abs(error).max() < 5.0
    assert abs(found.drift_ppm - 50) < 1e6 * 5.0 / (3600 * (hours - 1) - 600)


def test_two_markers_too_near_to_tell_a_drift_tell_the_offset_better():
    t = np.arange(0.0, 2000, 5)
    found = marked_offset(t, np.where((t > 600) & (t < 1000), 5.0, 0.0), 602.5 + 37, stop_s=997.5 + 37)
    assert (found.drift_ppm, found.reason) == (0.0, "")
    assert found.offset_s == pytest.approx(37, abs=2.6)
    assert found.uncertainty_s == pytest.approx(5 / np.sqrt(24))


@pytest.mark.parametrize(
    ("current_s", "stop_s", "reason"),
    [((600, 1500), 1537.0 + 60, "other switches"), ((600, 9999), 1537.0, "end of the current"), ((600, 1500), np.nan, "no time")],
)
def test_markers_that_do_not_fit_the_log_leave_the_offset_unknown(current_s, stop_s, reason):
    t = np.arange(0.0, 2000, 5)
    found = marked_offset(t, np.where((t > current_s[0]) & (t < current_s[1]), 5.0, 0.0), 637.0, stop_s=stop_s)
    assert reason in found.reason
    assert np.isnan(found.to_beamline(t)).all()


@pytest.mark.parametrize("quantity", [0, 1])
def test_over_ten_cycles_in_sixty_hours_every_row_is_placed_within_a_row(quantity):
    rng = np.random.default_rng(7)
    true = ClockOffset(37.0, 0.0, 50.0, BEGUN)
    t, seen = np.arange(0.0, 220_000, 5.0), np.arange(3000.0, 215_000, 10.0)
    # cycles differ, as those of a cell that ages do
    scale, noise = (0.4, 0.001) if quantity == 0 else (5.0, 0.01)

    def reading(seconds):
        cycle = np.floor(seconds / 22000)
        return cell(seconds % 22000)[quantity] + scale * 0.05 * cycle

    log = reading(t) + rng.normal(0, noise, len(t))
    found = find_offset(BEGUN + t, log, true.to_beamline(BEGUN + seen), 1.01 * reading(seen) + 0.02 + rng.normal(0, noise, len(seen)))
    assert found.reason == ""
    assert np.abs(found.to_beamline(BEGUN + t) - true.to_beamline(BEGUN + t)).max() < 5.0
    assert found.drift_ppm == pytest.approx(50, abs=20)


def test_an_offset_is_added_to_potentiostat_time():
    clock = ClockOffset(37.0, 0.1, 50.0, 1000.0)
    np.testing.assert_allclose(clock.to_beamline([1000.0, 21000.0]), [1037.0, 21038.0])


def test_readings_without_their_times_are_refused():
    with pytest.raises(ShapeError, match="one reading for each time"):
        find_offset([1, 2, 3], [1, 2], [1, 2], [1, 2])
