import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operandi.stages.charge import Log, at
from operandi.stages.passages import passages


def log(time, charge) -> Log:
    time = np.asarray(time, float)
    nothing = np.full(len(time), np.nan)
    return Log(time, nothing, nothing, np.asarray(charge, float), np.zeros(len(time), np.int64), np.zeros(len(time), np.int64))


def test_a_charge_that_goes_back_is_passed_several_times():
    there_and_back = log([0, 10, 20, 30], [0, 10, 4, 8])
    np.testing.assert_allclose(passages(there_and_back, 6, 0, 30), [6, 10 + 10 * 4 / 6, 25])
    np.testing.assert_allclose(passages(there_and_back, 6, 7, 20), [10 + 10 * 4 / 6])


def test_a_rest_counts_once_when_it_is_reached():
    assert passages(log([0, 1, 2, 3, 4], [0, 5, 5, 5, 9]), 5, 0, 4).tolist() == [1]


def test_nothing_is_known_in_gaps_outside_and_where_nothing_is_recorded():
    assert passages(log([0, 1, 1000, 1001], [0, 1, 5, 6]), 3, 0, 2000).tolist() == []
    assert passages(log([0, 1, 2], [0, np.nan, 2]), 1, 0, 2).tolist() == []
    assert passages(log([0, 1], [0, 1]), 2, 0, 1).tolist() == []
    assert passages(Log.empty(), 2, 0, 1).tolist() == []


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=30), st.floats(-21, 21))
def test_at_a_passage_the_log_reads_that_charge(charge, wanted):
    course = log(np.arange(len(charge)), charge)
    found = passages(course, wanted, 0, len(charge))
    np.testing.assert_allclose(at(course, found).charge, wanted, atol=1e-9)
    assert bool(len(found)) == (min(charge) <= wanted <= max(charge))
