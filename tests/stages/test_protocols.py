import numpy as np
import pytest

from operandi.stages.protocols import StepFinder


def numbered(current, voltage=None, **options):
    current = np.asarray(current, float)
    return StepFinder(**options).number(np.full(len(current), 4.0) if voltage is None else np.asarray(voltage, float), current)


def test_a_cycle_ends_where_the_current_changes_its_sign_for_the_second_time():
    step, cycle = numbered([0, 5, 5, 0, -5, -5, 0, 5, 0, 5, -5])
    np.testing.assert_array_equal(step, [0, 1, 1, 2, 3, 3, 4, 5, 6, 7, 8])
    np.testing.assert_array_equal(cycle, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1])


def test_a_current_that_falls_while_the_voltage_stays_is_a_hold():
    current = np.concatenate([np.full(20, 30.0), 30 * 0.9 ** np.arange(1, 20)])
    step, _ = numbered(current, np.concatenate([np.linspace(3.6, 4.2, 20), np.full(19, 4.2)]))
    np.testing.assert_array_equal(np.flatnonzero(np.diff(step)), [21])


def test_a_smaller_constant_current_at_a_lower_voltage_is_no_hold():
    current = np.concatenate([np.full(20, 30.0), np.full(20, 10.0)])
    step, _ = numbered(current, np.concatenate([np.linspace(3.6, 4.2, 20), np.full(20, 4.0)]))
    assert set(step) == {0}


def test_one_high_row_makes_no_hold_of_the_others():
    assert set(numbered([36.0, *[30.0] * 30], np.linspace(3.6, 4.2, 31))[0]) == {0}


@pytest.mark.parametrize("rest_ma", [1e-3, 0.1])
def test_noise_of_the_reading_is_no_current(rest_ma):
    noise = np.random.default_rng(0).normal(0, rest_ma / 5, 500)
    assert set(numbered(noise, rest_ma=rest_ma)[0]) == {0}


def test_current_that_was_not_read_counts_as_none():
    np.testing.assert_array_equal(numbered([5, np.nan, 5])[0], [0, 1, 2])


def test_rows_may_come_in_any_pieces():
    current = np.random.default_rng(1).choice([0.0, 5.0, 5.0, 5.0, 4.0, -3.0], 300)
    finder = StepFinder()
    parts = [finder.number(np.full(len(part), 4.0), part) for part in np.split(current, [1, 1, 7, 100, 250])]
    for whole, found in zip(numbered(current), map(np.concatenate, zip(*parts, strict=True)), strict=True):
        np.testing.assert_array_equal(whole, found)
