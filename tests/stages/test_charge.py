import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operandi.errors import ShapeError
from operandi.stages.charge import PHASES, Log, Window, at, phase_of_cycle, phases, tag_of_exposures, windows

# Lübke et al., 10.1039/D4EE00590B, supporting information
BOUNDARIES = [0, 6.08, 11.49, 15.36, 18.14, 20.28, 22.21, 23.93, 25.59, 27.28, 28.54]
RANGES = [
    (0, 11.49),
    (6.08, 15.36),
    (11.49, 18.14),
    (15.36, 20.28),
    (18.14, 22.21),
    (20.28, 23.93),
    (22.21, 25.59),
    (23.93, 27.28),
    (25.59, 28.54),
]
TAGS = [5.74, 10.72, 14.82, 17.82, 20.18, 22.11, 23.90, 25.61, 27.07]


def log_of(seconds, charge=None, voltage=None, current=None, step=None, cycle=None) -> Log:
    t = np.asarray(seconds, float)
    n = len(t)

    def column(values, fill):
        return np.full(n, fill) if values is None else np.asarray(values, float)

    steps, cycles = (np.zeros(n, np.int64) if values is None else np.asarray(values, np.int64) for values in (step, cycle))
    return Log(t, column(voltage, 3.7), column(current, 1.0), column(charge, 0.0), steps, cycles)


def test_ten_sets_give_the_nine_frames_of_the_paper():
    frames = windows(BOUNDARIES)
    assert [(f.set_first, f.set_last) for f in frames] == [(i, i + 1) for i in range(9)]
    assert [(f.q_start_mah, f.q_end_mah) for f in frames] == RANGES
    # the paper states the tags to 0.01 mAh, of boundaries known to 0.01 mAh
    np.testing.assert_allclose([f.q_mah for f in frames], TAGS, rtol=0, atol=0.005 + 1e-9)


def test_windows_may_be_longer_and_further_apart():
    assert windows([0, 1, 2, 3, 4, 5], length=3, step=2) == [Window(0, 2, 0, 3, 1.5), Window(2, 4, 2, 5, 3.5)]


def test_there_is_no_frame_before_the_window_is_full():
    assert windows([]) == []
    assert windows([0.0, 1.0]) == []


def test_a_window_over_an_accidental_discharge_keeps_its_sign():
    (frame,) = windows([5.0, 7.0, 4.0])
    assert frame.q_mah == 4.5


def test_an_unknown_charge_makes_an_unknown_tag():
    assert np.isnan(windows([0.0, 1.0, np.nan])[0].q_mah)


@pytest.mark.parametrize("arguments", [{"length": 0}, {"step": 0}])
def test_a_window_without_sets_is_refused(arguments):
    with pytest.raises(ShapeError, match="at least 1"):
        windows([0, 1, 2], **arguments)


@given(st.lists(st.floats(-1e3, 1e3), max_size=12), st.integers(1, 4), st.integers(1, 4))
def test_every_window_spans_its_own_boundaries(boundaries, length, step):
    for i, frame in enumerate(windows(boundaries, length=length, step=step)):
        assert frame.set_first == i * step
        assert frame.set_last - frame.set_first == length - 1
        assert (frame.q_start_mah, frame.q_end_mah) == (boundaries[frame.set_first], boundaries[frame.set_last + 1])


def test_between_rows_the_log_is_linear_and_step_and_cycle_are_those_of_the_row_before():
    log = log_of([0, 10, 20], charge=[0, 1, -1], voltage=[3, 3.2, 3.1], current=[5, 5, -10], step=[1, 2, 3], cycle=[0, 0, 1])
    found = at(log, [0, 5, 10, 15, 20])
    np.testing.assert_array_equal(found.charge, [0, 0.5, 1, 0, -1])
    np.testing.assert_allclose(found.voltage, [3, 3.1, 3.2, 3.15, 3.1])
    np.testing.assert_array_equal(found.current, [5, 5, 5, -2.5, -10])
    np.testing.assert_array_equal(found.step, [1, 1, 2, 2, 3])
    np.testing.assert_array_equal(found.cycle, [0, 0, 0, 0, 1])


def test_outside_the_log_nothing_is_known():
    found = at(log_of([100, 110], charge=[1, 2]), [[99.999, 110.001], [np.nan, 105]])
    np.testing.assert_array_equal(found.charge, [[np.nan, np.nan], [np.nan, 1.5]])
    np.testing.assert_array_equal(found.step, [[-1, -1], [-1, 0]])
    empty = at(Log.empty(), [1.0])
    assert np.isnan(empty.charge[0])
    assert empty.step[0] == empty.cycle[0] == -1


def test_inside_a_gap_nothing_is_known_but_at_its_edges():
    seconds = np.concatenate([np.arange(0, 100, 5.0), np.arange(1000, 1100, 5.0)])
    log = log_of(seconds, charge=seconds)
    found = at(log, [95, 95.1, 500, 999.9, 1000])
    np.testing.assert_array_equal(found.charge, [95, np.nan, np.nan, np.nan, 1000])
    assert at(log, 500, gap_s=1000).charge == 500


def test_rows_of_one_moment_are_no_trouble():
    log = log_of([0, 1, 1, 2, 2], charge=[0, 1, 5, 6, 7])
    np.testing.assert_array_equal(at(log, [1, 1.5, 2]).charge, [5, 5.5, 7])


@given(st.lists(st.floats(0, 1e4), min_size=2, max_size=30, unique=True), st.floats(-10, 1.1e4))
def test_what_is_read_lies_between_its_neighbours(seconds, moment):
    seconds = sorted(seconds)
    log = log_of(seconds, charge=np.sin(seconds))
    found = float(at(log, moment, gap_s=np.inf).charge)
    assert np.isnan(found) == (not log.covers(moment))
    if log.covers(moment):
        assert found == pytest.approx(np.interp(moment, seconds, np.sin(seconds)), abs=1e-9)


def test_the_tag_of_a_frame_is_its_range_its_middle_and_its_mean_by_dose():
    tag = tag_of_exposures([1.0, 2.0, 6.0, 4.0], dose=[1, 1, 0, 2])
    assert (tag.first, tag.last, tag.middle, tag.lowest, tag.highest) == (1, 4, 2.5, 1, 6)
    assert tag.mean == pytest.approx((1 + 2 + 2 * 4) / 4)
    assert tag.spread == pytest.approx(np.sqrt(np.cov([1, 2, 4], aweights=[1, 1, 2], ddof=0)))
    assert tag.known == 1


def test_without_a_monitor_every_exposure_counts_alike():
    charge = np.linspace(0, 11.49, 400)
    tag = tag_of_exposures(charge)
    assert tag.mean == pytest.approx(tag.middle)
    assert tag.spread == pytest.approx(charge.std())


def test_a_beam_that_fades_moves_the_mean_towards_what_it_saw():
    tag = tag_of_exposures(np.linspace(0, 10, 101), dose=np.linspace(1, 0, 101))
    assert tag.mean == pytest.approx(10 / 3, rel=0.01)
    assert tag.middle == 5


def test_what_is_not_known_yet_is_told_and_leaves_the_mean_of_the_rest():
    tag = tag_of_exposures([1.0, 3.0, np.nan], dose=[1, 1, 2])
    assert (tag.first, tag.mean, tag.known) == (1, 2, 0.5)
    assert np.isnan([tag.last, tag.middle]).all()
    nothing = tag_of_exposures([np.nan, np.nan])
    assert nothing.known == 0
    assert np.isnan([nothing.first, nothing.middle, nothing.mean, nothing.lowest]).all()
    assert np.isnan(tag_of_exposures([1.0, 2.0], dose=[0, 0]).mean)


@pytest.mark.parametrize("dose", [[1.0], [1.0, -1.0]])
def test_doses_that_do_not_fit_are_refused(dose):
    with pytest.raises(ShapeError, match="dose"):
        tag_of_exposures([1.0, 2.0], dose=dose)


@given(st.lists(st.tuples(st.floats(-50, 50), st.integers(0, 10**6)), min_size=1, max_size=20))
def test_the_mean_lies_within_the_range(exposures):
    charge, dose = map(list, zip(*exposures, strict=True))
    tag = tag_of_exposures(charge, dose=dose)
    assert np.isnan(tag.mean) == (sum(dose) == 0)
    if sum(dose):
        assert tag.lowest - 1e-6 <= tag.mean <= tag.highest + 1e-6


def test_a_log_grows_by_rows_that_follow_it():
    first, second = log_of([0, 1]), log_of([2, 3])
    grown = Log.empty().append(first).append(second)
    np.testing.assert_array_equal(grown.time, [0, 1, 2, 3])
    assert grown.covers(3)
    assert not grown.covers(3.1)
    with pytest.raises(ShapeError, match="start a new log"):
        second.append(first)


def test_columns_of_different_lengths_are_no_log():
    with pytest.raises(ShapeError, match="one length"):
        Log(np.zeros(2), np.zeros(1), np.zeros(2), np.zeros(2), np.zeros(2, int), np.zeros(2, int))


def cycle_log() -> Log:
    """Open circuit, charge at constant current, then at 4.2 V, rest, discharge, then at 2.8 V."""
    t = np.arange(0, 10000, 10.0)
    voltage, current = np.full(len(t), 3.0), np.zeros(len(t))
    cc, cv = (t >= 1000) & (t < 4000), (t >= 4000) & (t < 6000)
    voltage[cc], current[cc] = np.linspace(3.2, 4.2, cc.sum()), 25.0
    voltage[cv], current[cv] = 4.2, 25 * np.exp(-(t[cv] - 3990) / 600)
    voltage[(t >= 6000) & (t < 7000)] = 4.1
    down, hold = (t >= 7000) & (t < 9000), t >= 9000
    voltage[down], current[down] = np.linspace(4.0, 2.8, down.sum()), -25.0
    voltage[hold], current[hold] = 2.8, -25 * np.exp(-(t[hold] - 8990) / 300)
    rng = np.random.default_rng(3)
    return log_of(t, voltage=voltage + rng.normal(0, 2e-4, len(t)), current=current + (current != 0) * rng.normal(0, 0.01, len(t)))


@pytest.mark.parametrize(
    ("start", "end", "name"),
    [
        (0, 900, "OCV"),
        (1500, 3000, "charge CC"),
        (4200, 5500, "charge CV"),
        (3000, 5000, "charge CC + charge CV"),
        (6100, 6900, "rest"),
        (7100, 8900, "discharge CC"),
        (9100, 9900, "discharge CV"),
        (20000, 30000, ""),
    ],
)
def test_the_phase_of_the_cycle_is_named(start, end, name):
    assert phase_of_cycle(cycle_log(), start, end) == name


def test_a_hold_that_is_short_beside_the_charge_before_it_is_seen():
    t = np.arange(0, 35_000, 10.0)
    held = t >= 34_000
    voltage, current = np.where(held, 4.2, 3.2 + t / 34_000), np.where(held, 25 * np.exp((33_990 - t) / 600), 25.0)
    labels = phases(log_of(t, voltage=voltage, current=current))
    assert np.mean(labels[held] == 2) > 0.95
    assert np.mean(labels[~held] == 1) > 0.99


def test_a_row_that_catches_the_current_while_it_sets_in_makes_no_hold():
    """Ten seconds of a small cell: all its voltages lie within a few mV."""
    t, current = np.arange(12.0), np.full(12, -0.03)
    current[0] = -0.02
    labels = phases(log_of(t, voltage=3.417 - 0.0003 * t, current=current))
    assert {PHASES[i] for i in labels} == {"discharge CC"}


def test_every_row_has_its_phase():
    log = cycle_log()
    labels = phases(log)
    assert np.mean(labels[log.time < 1000] == 0) == 1
    assert np.mean(labels[(log.time >= 1000) & (log.time < 4000)] == 1) > 0.98
    assert np.mean(labels[(log.time >= 4000) & (log.time < 6000)] == 2) > 0.98
    assert phases(Log.empty()).shape == (0,)
