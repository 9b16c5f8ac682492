"""The instant frame shows the cell at one moment, where the sliding window shows two."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from reacting import NOISE, OTHER_CELLS, SET_S, Experiment, measure, quadrant_difference, taken

from operandi.errors import ShapeError
from operandi.stages.instants import Instant, Projections, instant_sinogram
from operandi.stages.temporal import TemporalModel, learn
from operandi.stages.volumes import partial_volume

FAST = (0, 1, 2, 3)
"""Frames during which more than 4 mAh pass; the phases of the anode turn into each other in frame 2."""


@functools.cache
def experiment() -> Experiment:
    return measure()


@functools.cache
def measured(noise: float) -> tuple[Projections, TemporalModel]:
    return taken(experiment(), noise)


def volume_of(instant: Instant) -> np.ndarray:
    return partial_volume(instant.intensity, instant.rotation_deg, experiment().translation_mm, 0.0)


@functools.cache
def truth(frame: int) -> np.ndarray:
    return experiment().frozen((frame + 1) * SET_S)


def sliding(frame: int, projections: Projections) -> np.ndarray:
    cell = experiment()
    rotation, _, values = cell.window(frame, projections.intensity.reshape(cell.sinograms.shape))
    return partial_volume(values, rotation, cell.translation_mm, 0.0)


@functools.cache
def instant(frame: int, noise: float, scheme="model") -> np.ndarray:
    projections, model = measured(noise)
    charge = float(experiment().curve.charge((frame + 1) * SET_S))
    return volume_of(instant_sinogram(projections, charge, scheme, model))


def error(volume: np.ndarray, frame: int) -> float:
    return float(np.sqrt(np.mean((volume - truth(frame)) ** 2)))


def asymmetry(volume: np.ndarray, frame: int) -> float:
    return float(np.linalg.norm(quadrant_difference(volume) - quadrant_difference(truth(frame))))


@pytest.mark.parametrize("noise", [0.0, NOISE])
@pytest.mark.parametrize("frame", FAST)
def test_the_error_is_at_most_half_of_the_sliding_window_s(noise, frame):
    share = error(instant(frame, noise), frame) / error(sliding(frame, measured(noise)[0]), frame)
    assert share <= 0.5


@pytest.mark.parametrize("noise", [0.0, NOISE])
@pytest.mark.parametrize("frame", FAST)
def test_the_quadrant_asymmetry_is_at_most_a_fifth_of_the_sliding_window_s(noise, frame):
    shown = asymmetry(sliding(frame, measured(noise)[0]), frame)
    assert shown > 0.1 * np.linalg.norm(quadrant_difference(truth(frame)))
    assert asymmetry(instant(frame, noise), frame) <= 0.2 * shown


@functools.cache
def windings() -> np.ndarray:
    """Where the phases are when the cell is full (y, x, channel); those of the empty cell are where their successors are."""
    full = experiment().frozen(10 * SET_S)[..., [2, 2, 2, 4, 4]]
    return full > 0.5 * np.percentile(full, 98, axis=(0, 1))


@pytest.mark.parametrize("noise", [0.0, NOISE])
@pytest.mark.parametrize("frame", FAST)
def test_so_it_is_within_the_windings(noise, frame):
    shown = quadrant_difference((sliding(frame, measured(noise)[0]) - truth(frame)) * windings())
    left = quadrant_difference((instant(frame, noise) - truth(frame)) * windings())
    assert np.linalg.norm(left) <= 0.2 * np.linalg.norm(shown)
    assert np.abs(left[3:]).max() <= 0.12 * np.abs(shown[3:]).max()  # the cathode's course does not bend


@pytest.mark.parametrize("layout", OTHER_CELLS)
def test_so_it_is_with_other_cells(layout):
    cell = measure(layout=OTHER_CELLS[layout])
    projections, model = taken(cell, NOISE, seed=5)
    for frame in FAST:
        still = cell.frozen((frame + 1) * SET_S)
        rotation, _, values = cell.window(frame, projections.intensity.reshape(cell.sinograms.shape))
        before = partial_volume(values, rotation, cell.translation_mm, 0.0) - still
        after = volume_of(instant_sinogram(projections, float(cell.curve.charge((frame + 1) * SET_S)), "model", model)) - still
        assert np.sqrt(np.mean(after**2)) <= 0.5 * np.sqrt(np.mean(before**2))
        assert np.linalg.norm(quadrant_difference(after)) <= 0.2 * np.linalg.norm(quadrant_difference(before))


ONSET_MAH = 14.82
"""In the middle of the third frame's charge, where LiC6 begins and LiC12 turns over."""


def stopped_at_onset(cell: Experiment) -> np.ndarray:
    seconds = np.linspace(0, 10 * SET_S, 7201)
    return cell.frozen(float(np.interp(ONSET_MAH, cell.curve.charge(seconds), seconds)))


def asymmetry_at_onset(cell: Experiment, noise: float) -> float:
    projections, model = taken(cell, noise)
    volume = volume_of(instant_sinogram(projections, ONSET_MAH, "model", model))
    return float(np.linalg.norm(quadrant_difference(volume - stopped_at_onset(cell))))


@pytest.mark.parametrize("layout", [None, *OTHER_CELLS])
def test_where_a_phase_begins_shorter_sets_with_as_many_photons_cure_the_asymmetry_and_more_photons_do_not(layout):
    cell = measure(layout=OTHER_CELLS.get(layout))
    rotation, _, values = cell.window(2, cell.sinograms)
    sliding_window = partial_volume(values, rotation, cell.translation_mm, 0.0)
    shown = np.linalg.norm(quadrant_difference(sliding_window - stopped_at_onset(cell)))
    assert asymmetry_at_onset(cell, 0.0) > 0.12 * shown
    short = measure(layout=OTHER_CELLS.get(layout), sets=30)
    assert asymmetry_at_onset(short, np.sqrt(3) * NOISE) < 0.1 * shown


def test_over_the_whole_run_the_asymmetry_is_at_most_a_fifth():
    noise = NOISE
    shown = np.linalg.norm([asymmetry(sliding(frame, measured(noise)[0]), frame) for frame in range(9)])
    assert np.linalg.norm([asymmetry(instant(frame, noise), frame) for frame in range(9)]) <= 0.2 * shown


def test_linear_interpolation_cures_the_asymmetry_and_keeps_the_error_where_the_course_bends():
    before = sliding(2, measured(0.0)[0])
    assert error(instant(2, 0.0, "linear"), 2) > error(before, 2)
    assert error(instant(2, 0.0, "quadratic"), 2) < 0.7 * error(before, 2)
    assert asymmetry(instant(2, 0.0, "linear"), 2) < 0.3 * asymmetry(before, 2)


def plain(values: np.ndarray, progress: np.ndarray, variance: float = 1.0) -> Projections:
    """Five sets at the same three angles, two translations, one channel; ``values`` (15,) hold for both translations."""
    intensity = np.repeat(values[:, None, None], 2, axis=1)
    return Projections(np.tile([0.0, 60.0, 120.0], 5), progress, intensity, np.full_like(intensity, variance))


PROGRESS = np.arange(15.0)


@pytest.mark.parametrize(("scheme", "power"), [("linear", 1), ("quadratic", 2)])
def test_a_course_of_the_scheme_s_degree_is_met_exactly(scheme, power):
    got = instant_sinogram(plain(PROGRESS**power, PROGRESS), 7.3, scheme)
    np.testing.assert_allclose(got.intensity, 7.3**power, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["linear", "quadratic", "model"])
def test_what_does_not_change_stays_as_it_is(scheme):
    values = np.tile([3.0, 5.0, 8.0], 5)
    model = learn(plain(PROGRESS, PROGRESS).intensity, np.full((15, 2, 1), 0.1), np.tile([0.0, 60.0, 120.0], 5), PROGRESS)
    got = instant_sinogram(plain(values, PROGRESS), 7.3, scheme, model)
    np.testing.assert_allclose(got.intensity[..., 0], np.repeat([[3.0], [5.0], [8.0]], 2, axis=1), rtol=1e-5)


def test_the_variance_is_that_of_many_noisy_repetitions():
    projections, _ = measured(NOISE)
    model = learn(projections.intensity, projections.variance, projections.rotation_deg, projections.progress, pooled=True)
    charge = 10.0
    noise = np.sqrt(projections.variance[0, 0, 0]) * np.random.default_rng(0).standard_normal((*projections.intensity.shape[:2], 400))
    many = replace(projections, intensity=noise, variance=np.broadcast_to(projections.variance[..., :1], noise.shape))
    got = instant_sinogram(many, charge, "model", model)
    ratio = got.intensity.var(axis=2) / got.variance[..., 0]
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)
    assert ratio.std() < 0.1  # of a variance from 400 values: √(2/400) = 0.07


@pytest.mark.parametrize("scheme", ["linear", "quadratic", "model"])
def test_missing_projections_cells_and_sets_leave_a_whole_frame(scheme):
    projections, _ = measured(NOISE)
    holes = projections.intensity.copy()
    random = np.random.default_rng(3)
    holes[random.random(len(holes)) < 0.05] = np.nan
    holes[random.random(holes.shape[:2]) < 0.002] = np.nan
    holes[7 * 30 + 12 : 8 * 30] = np.nan
    torn = replace(projections, intensity=holes)
    model = learn(holes, torn.variance, torn.rotation_deg, torn.progress)
    charge = float(experiment().curve.charge(2 * SET_S))
    got = volume_of(instant_sinogram(torn, charge, scheme, model))
    assert np.isfinite(got).all()
    assert error(got, 1) < (0.7 if scheme == "model" else 1.2) * error(sliding(1, torn), 1)


def test_a_cell_that_was_never_measured_stays_unknown():
    projections = plain(PROGRESS, PROGRESS)
    projections.intensity[0::3, 1] = np.nan
    got = instant_sinogram(projections, 7.0, "linear")
    assert np.isnan(got.intensity[0, 1]).all()
    assert np.isnan(got.variance[0, 1]).all()
    assert np.isfinite(got.intensity).sum() == 5


def test_the_newest_frame_is_provisional_until_the_next_sets_complete_it():
    cell = experiment()
    projections, model = measured(0.0)
    charge = float(cell.curve.charge(5 * SET_S))
    per_set = cell.rotation_deg.shape[1]

    def until(sets: int) -> Instant:
        part = Projections(
            *(a[: sets * per_set] for a in (projections.rotation_deg, projections.progress, projections.intensity, projections.variance))
        )
        return instant_sinogram(part, charge, "linear")

    assert until(5).provisional
    assert until(5).one_sided.all()
    assert not until(7).provisional
    np.testing.assert_array_equal(until(7).intensity, until(9).intensity)


def test_the_first_frame_is_one_sided_but_final():
    got = instant_sinogram(plain(PROGRESS, PROGRESS + 5), 4.0, "linear")
    assert got.one_sided.all()
    assert not got.provisional


def test_progress_may_differ_from_translation_to_translation():
    progress = np.stack([PROGRESS, PROGRESS + 0.5], axis=1)
    intensity = progress[..., None].copy()
    got = instant_sinogram(Projections(np.tile([0.0, 60.0, 120.0], 5), progress, intensity, np.ones_like(intensity)), 7.0, "linear")
    np.testing.assert_allclose(got.intensity, 7.0, rtol=1e-6)


def test_a_rest_between_sets_is_no_division_by_zero():
    got = instant_sinogram(plain(np.ones(15), np.full(15, 2.0)), 2.0, "quadratic")
    np.testing.assert_allclose(got.intensity, 1.0)


def test_a_golden_angle_scan_needs_the_model_and_shows_the_cell():
    cell = measure(golden=True)
    projections, model = taken(cell, NOISE)
    charge = float(cell.curve.charge(6 * SET_S))
    with pytest.raises(ShapeError, match="no angle is measured twice"):
        instant_sinogram(projections, charge, "linear")
    got = instant_sinogram(projections, charge, "model", model)
    frozen = cell.frozen(6 * SET_S)
    rotation, _, values = cell.window(5, projections.intensity.reshape(cell.sinograms.shape))
    before = partial_volume(values, rotation, cell.translation_mm, 0.0)
    assert np.mean((volume_of(got) - frozen) ** 2) < np.mean((before - frozen) ** 2)
    assert not got.provisional


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((np.nan, "linear"), "give a charge or a time"), ((1.0, "cubic"), "choose linear"), ((1.0, "model"), "needs a temporal model")],
)
def test_what_cannot_be_answered_is_an_error(arguments, message):
    with pytest.raises(ShapeError, match=message):
        instant_sinogram(plain(PROGRESS, PROGRESS), *arguments)


def test_arrays_that_do_not_fit_are_an_error():
    with pytest.raises(ShapeError, match="do not fit"):
        Projections(np.zeros(3), np.zeros(4), np.zeros((3, 2, 1)), np.zeros((3, 2, 1)))
    with pytest.raises(ShapeError, match="do not fit"):
        learn(np.zeros((3, 2, 1)), np.zeros((3, 2, 1)), np.zeros(3), np.zeros(4))


def test_a_single_set_teaches_nothing():
    with pytest.raises(ShapeError, match="at least two sets"):
        learn(np.ones((3, 41, 1)), np.ones((3, 41, 1)), np.array([0.0, 60.0, 120.0]), np.arange(3.0))
