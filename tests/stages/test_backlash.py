"""Backlash is found in the data, and taken out of them."""

import numpy as np
import pytest
from analytic import Spot
from hypothesis import given
from hypothesis import strategies as st

from operandi.errors import ShapeError
from operandi.stages.backlash import directions, estimate_backlash, off_grid_mm, onto_grid, true_translations_mm
from operandi.stages.volumes import partial_volume

TRANSLATIONS = np.linspace(-5.0, 5.0, 101)
PITCH, AXIS = 0.1, 0.07
ANGLES = np.arange(120) * 1.5
DIRECTION = np.where(np.arange(120) % 2, -1, 1)
SAMPLE = (Spot(0.3, -0.2, 3.5, 1.0, True), Spot(1.6, 0.9, 0.5, 3.0), Spot(-1.2, -1.5, 0.6, 2.0, True), Spot(-2.0, 1.0, 0.25, 4.0))


def measure(backlash: float, *, noise: float = 0.0, seed: int = 0, angles=ANGLES, direction=DIRECTION) -> np.ndarray:
    """(rotation, translation, q): lines that run backwards are measured at the true translation less the backlash."""
    lines = np.zeros((len(angles), TRANSLATIONS.size))
    for beam in (np.arange(5) - 2) / 5 * PITCH:  # as wide as the step
        for i in range(len(angles)):
            true = TRANSLATIONS + beam + (backlash if direction[i] < 0 else 0.0)
            lines[i] += sum(spot.project(angles[i : i + 1], true, AXIS)[0] for spot in SAMPLE) / 5
    channels = lines[:, :, None] * np.array([1.0, 0.4, 2.0])
    return (channels + noise * channels.max((0, 1)) * np.random.default_rng(seed).standard_normal(channels.shape)).astype(np.float32)


@pytest.mark.parametrize("backlash", [-0.37, -0.02, 0.0, 0.013, 0.05, 0.21])
def test_the_backlash_of_a_clean_sinogram_is_found_exactly(backlash):
    found = estimate_backlash(measure(backlash), ANGLES, TRANSLATIONS, DIRECTION)
    assert found.value == pytest.approx(backlash, abs=0.005 * PITCH)


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_two_per_cent_leaves_it_within_hundredths_of_a_step(seed):
    found = estimate_backlash(measure(0.043, noise=0.02, seed=seed), ANGLES, TRANSLATIONS, DIRECTION)
    assert abs(found.value - 0.043) < 0.06 * PITCH
    assert found.uncertainty < 0.03 * PITCH


def test_the_uncertainty_is_that_of_repeated_measurements():
    found = [estimate_backlash(measure(0.043, noise=0.05, seed=s), ANGLES, TRANSLATIONS, DIRECTION) for s in range(40)]
    pulls = [(f.value - 0.043) / f.uncertainty for f in found]
    assert 0.7 < np.std(pulls) < 1.4
    assert abs(np.mean(pulls)) < 0.6


def test_missing_cells_and_lines_grains_and_interlaced_angles_hardly_matter():
    random = np.random.default_rng(5)
    angles = np.concatenate([(np.arange(30) + part) * 6.0 for part in (0, 0.5, 0.25, 0.75)])
    sinogram = measure(0.043, noise=0.02, angles=angles)
    for line in range(0, 120, 11):  # a grain lights up
        sinogram[line, random.integers(20, 80)] += 15 * sinogram[line].max()
    sinogram[random.random(sinogram.shape[:2]) < 0.05] = np.nan
    sinogram[random.random(120) < 0.05] = np.nan
    sinogram[44:60] = np.nan
    found = estimate_backlash(sinogram, angles, TRANSLATIONS, DIRECTION)
    assert abs(found.value - 0.043) < 0.06 * PITCH


def test_the_number_may_not_be_known():
    with pytest.raises(ShapeError, match="3 usable lines in either direction"):
        estimate_backlash(measure(0.0), ANGLES, TRANSLATIONS, np.ones(120))
    with pytest.raises(ShapeError, match="3 usable lines in either direction"):
        estimate_backlash(np.full((120, 101), np.nan), ANGLES, TRANSLATIONS, DIRECTION)
    with pytest.raises(ShapeError, match="does not fit"):
        estimate_backlash(measure(0.0), ANGLES[1:], TRANSLATIONS, DIRECTION)


def truth() -> np.ndarray:
    """(y, x) the sample, averaged over each voxel."""
    fine = ((np.arange(5 * 101) - 252) / 5) * PITCH
    image = sum(spot.image(fine) for spot in SAMPLE)
    return np.asarray(image).reshape(101, 5, 101, 5).mean(axis=(1, 3))


def error(volume: np.ndarray) -> float:
    return float(np.sqrt(np.mean((volume[:, :, 0] - truth()) ** 2)))


@pytest.mark.parametrize("backlash", [0.08, -0.05])
def test_lines_brought_onto_the_grid_give_the_volume_of_a_drive_without_backlash(backlash):
    at, shifted = (ANGLES, TRANSLATIONS, AXIS), measure(backlash)
    without, with_it = error(partial_volume(measure(0.0), *at)), error(partial_volume(shifted, *at))
    off = np.where(DIRECTION < 0, backlash, 0.0) / PITCH
    corrected = error(partial_volume(onto_grid(shifted, off), *at))
    assert corrected < 1.1 * without < with_it


@pytest.mark.parametrize("backlash", [0.08, -0.25])
def test_an_axis_for_each_line_gives_it_too(backlash):
    shifted, corrected = measure(backlash), np.zeros((101, 101, 3))
    for way, off in ((1, 0.0), (-1, backlash)):
        part = way == DIRECTION
        weights = np.full(part.sum(), np.pi / 120)
        corrected += partial_volume(shifted[part], ANGLES[part], TRANSLATIONS, AXIS - off, weights=weights)
    without, with_it = (error(partial_volume(measure(b), ANGLES, TRANSLATIONS, AXIS)) for b in (0.0, backlash))
    assert error(corrected) < 1.1 * without < with_it


@given(st.floats(-1, 1), st.floats(-2, 2), st.floats(-2, 2), st.floats(-0.1, 0.1))
def test_bringing_onto_the_grid_is_exact_for_parabolas(off, a, b, c):
    def parabola(at):
        return a + b * at + c * at**2

    sinogram = parabola(np.arange(20) + off)[None, :, None].astype(np.float32)
    moved = onto_grid(sinogram, np.array([off]))
    np.testing.assert_allclose(moved[0, 3:-3, 0], parabola(np.arange(20.0))[3:-3], atol=1e-4)


def test_a_missing_cell_stays_missing_where_it_counts():
    sinogram = np.ones((2, 9, 1), np.float32)
    sinogram[:, 4] = np.nan
    moved = onto_grid(sinogram, np.array([0.0, 0.3]))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(moved[0, :, 0])), [4])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(moved[1, :, 0])), [3, 4, 5, 6])
    with pytest.raises(ShapeError, match="whole steps"):
        onto_grid(sinogram, np.array([0.0, 1.5]))


# Directions and positions


def test_the_direction_of_a_line_is_told_by_its_times():
    line = np.repeat([0, 1, 3], 4)
    translation = np.array([0, 1, 2, 3, 3, 2, 1, 0, 2, 2, 2, 2.0])
    np.testing.assert_array_equal(directions(line, translation, 1e9 + np.arange(12.0), 4), [1, -1, 0, 0])
    shuffled = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(directions(line[shuffled], translation[shuffled], 1e9 + shuffled, 4), [1, -1, 0, 0])


def test_only_what_runs_backwards_is_moved():
    np.testing.assert_allclose(true_translations_mm(np.array([1.0, 1.0, 1.0]), np.array([1, -1, 0]), 0.05), [1, 1.05, 1])


def test_what_is_left_off_the_grid_is_told_line_by_line():
    line, planned = np.array([0, 0, 2, 2]), np.array([0.0, 0.1, 0.0, 0.1])
    np.testing.assert_allclose(off_grid_mm(line, planned + [0.01, 0.03, -0.02, -0.02], planned, 3), [0.02, 0, -0.02])
