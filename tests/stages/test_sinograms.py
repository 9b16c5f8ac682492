import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operandi.errors import ShapeError
from operandi.stages.sinograms import assemble, fill_gaps, usable_projections


@given(st.permutations(range(6)))
def test_patterns_find_their_cells_in_any_order(order: list[int]):
    patterns = np.arange(12, dtype=np.float32).reshape(6, 2)
    row, column = np.divmod(np.arange(6), 3)
    sinogram = assemble(patterns[order], row[order], column[order], 2, 3)
    np.testing.assert_array_equal(sinogram.values, patterns.reshape(2, 3, 2))
    assert (sinogram.coverage == 1).all()


def test_a_cell_that_was_not_measured_is_nan_with_coverage_0():
    sinogram = assemble(np.ones((1, 2)), np.array([1]), np.array([0]), 2, 2)
    assert sinogram.coverage.tolist() == [[0, 0], [1, 0]]
    assert np.isnan(sinogram.values[sinogram.coverage == 0]).all()


def test_the_later_of_a_repeated_cell_wins_unless_it_is_empty():
    patterns = np.array([[1, 1], [2, 2], [np.nan, np.nan]])
    sinogram = assemble(patterns, np.zeros(3, int), np.zeros(3, int), 1, 2)
    assert sinogram.values[0, 0].tolist() == [2, 2]


def test_no_pattern_at_all_gives_an_unmeasured_sinogram():
    sinogram = assemble(np.empty((0, 4)), np.empty(0, int), np.empty(0, int), 2, 3)
    assert sinogram.values.shape == (2, 3, 4)
    assert not sinogram.coverage.any()


@pytest.mark.parametrize(("row", "column"), [([0, 5], [0, 0]), ([0, -1], [0, 0]), ([0], [0]), ([0.0, 1.0], [0, 0])])
def test_cells_outside_the_sinogram_are_refused(row: list, column: list):
    with pytest.raises(ShapeError):
        assemble(np.ones((2, 3)), np.array(row), np.array(column), 2, 2)


def test_a_projection_counts_from_half_of_its_cells_on():
    sinogram = np.ones((4, 4, 2), np.float32)
    sinogram[0] = np.nan
    sinogram[1, :3] = np.nan
    sinogram[2, :2] = np.inf
    sinogram[3, :, 0] = np.nan
    assert usable_projections(sinogram).tolist() == [False, False, True, True]


def test_gaps_are_interpolated_along_the_translation_and_held_at_the_ends():
    line = np.array([np.nan, 1, np.nan, np.nan, 4, np.inf], np.float32)
    filled, lost = fill_gaps(np.stack([line, np.arange(6)], axis=1)[None].astype(np.float32))
    np.testing.assert_allclose(filled[0, :, 0], [1, 1, 2, 3, 4, 4])
    assert filled[0, :, 1].tolist() == [0, 1, 2, 3, 4, 5]
    assert not lost.any()


def test_a_channel_that_one_projection_lacks_is_lost():
    sinogram = np.ones((2, 3, 2), np.float32)
    sinogram[1, :, 1] = np.nan
    filled, lost = fill_gaps(sinogram)
    assert lost.tolist() == [False, True]
    assert np.isfinite(filled).all()
