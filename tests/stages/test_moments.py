"""The moment of a voxel is that of the projections that carry its contrast."""

import functools

import numpy as np
import pytest
from reacting import NOISE, SET_S, Experiment, effective_times_of_all, measure

from operandi.errors import ShapeError
from operandi.simulate.phantom import Layout
from operandi.stages.instants import Projections, instant_sinograms
from operandi.stages.moments import SINGLE, course_times, tangential_windings, voxel_times, windings_of
from operandi.stages.temporal import learn
from operandi.stages.volumes import angular_weights, partial_volume

ROTATION = np.arange(0.0, 180.0, 3.0)
TRANSLATION = np.linspace(-2.0, 2.0, 41)


def test_a_winding_has_the_time_of_the_projections_tangent_to_it():
    moments = voxel_times(ROTATION, ROTATION, TRANSLATION, 0.0, aspect=0.05)
    right, above, diagonal = moments.mean[20, 38], moments.mean[38, 20], moments.mean[34, 34]
    assert above == pytest.approx(90, abs=3)
    assert diagonal == pytest.approx(45, abs=12)  # the tails of the kernel reach all angles
    assert moments.mean[6, 34] > 120
    assert moments.spread[38, 20] < moments.spread[20, 20]
    assert 0 < right < 180  # θ = 0 and 180° both see it: half of its time is the beginning, half the end
    assert moments.spread[20, 38] > 60


def test_without_a_direction_every_projection_counts_by_its_angle():
    rotation = np.sort(np.random.default_rng(0).uniform(0, 180, 25))
    weights = angular_weights(rotation) / np.pi
    mean = weights @ rotation
    plain = voxel_times(rotation, rotation, TRANSLATION, 0.0, np.full((41, 41), np.nan))
    round_ = voxel_times(rotation, rotation, TRANSLATION, 0.0, aspect=1.0)
    inside = np.hypot(*np.meshgrid(TRANSLATION, TRANSLATION)) < 2
    for moments in (plain, round_):
        np.testing.assert_allclose(moments.mean[inside], mean)
        np.testing.assert_allclose(moments.spread[inside], np.sqrt(weights @ (rotation - mean) ** 2))
    assert np.isnan(tangential_windings(TRANSLATION)[20, 20])


@pytest.mark.parametrize("aspect", [0.25, 0.6])
def test_the_kernel_is_the_share_of_each_projection_in_the_contrast_of_a_ridge(aspect):
    """Filtered back projection of a Gaussian ridge, one projection at a time, on its crest."""
    along, normal = 0.5, 40.0
    delta = np.deg2rad(ROTATION - normal)
    width = along * np.sqrt(aspect**2 * np.cos(delta) ** 2 + np.sin(delta) ** 2)
    sinogram = (np.exp(-0.5 * (TRANSLATION / width[:, None]) ** 2) / width[:, None])[..., None]
    parts = [
        partial_volume(p[None], np.array([a]), TRANSLATION, 0.0, weights=np.ones(1))[20, 20, 0]
        for p, a in zip(sinogram, ROTATION, strict=True)
    ]
    share = np.array(parts) / np.sum(parts)
    times = np.random.default_rng(1).uniform(0, 100, ROTATION.size)
    moments = voxel_times(times, ROTATION, TRANSLATION, 0.0, np.full((41, 41), normal), aspect=aspect)
    assert moments.mean[20, 20] == pytest.approx(share @ times, abs=0.5)  # the grid of 0.1 mm blurs the ridge a little


def test_a_translation_as_the_outer_loop_gives_a_voxel_the_times_at_which_the_beam_met_it():
    times = np.broadcast_to(TRANSLATION + 5, (ROTATION.size, 41))
    moments = voxel_times(times, ROTATION, TRANSLATION, 0.0, np.full((41, 41), 90.0), aspect=0.02)
    np.testing.assert_allclose(moments.mean[5:36, 20], TRANSLATION[5:36] + 5, atol=0.1)


def test_the_order_and_direction_of_measurement_do_not_matter():
    random = np.random.default_rng(2)
    times, order = random.uniform(0, 10, (60, 41)), random.permutation(60)
    one = voxel_times(times, ROTATION, TRANSLATION, 0.03)
    other = voxel_times(times[order][:, ::-1], ROTATION[order], TRANSLATION[::-1], 0.03)
    np.testing.assert_allclose(one.mean, other.mean)


def test_projections_that_are_missing_do_not_count():
    times = ROTATION.copy()
    times[30:] = np.nan
    assert np.nanmax(voxel_times(times, ROTATION, TRANSLATION, 0.0).mean) < 90
    assert np.isnan(voxel_times(times * np.nan, ROTATION, TRANSLATION, 0.0).mean).all()


@pytest.mark.parametrize("normal", [0.0, 35.0, 90.0, 160.0])
def test_the_structure_tensor_finds_the_normals_of_stripes(normal):
    x, y = np.meshgrid(np.arange(60.0), np.arange(60.0))
    stripes = np.sin(0.9 * (x * np.cos(np.deg2rad(normal)) + y * np.sin(np.deg2rad(normal))))
    found = windings_of(stripes)[10:-10, 10:-10]
    assert np.abs(np.mod(found - normal + 90, 180) - 90).max() < 2
    assert np.isnan(windings_of(np.random.default_rng(0).normal(size=(60, 60)))).any()


@functools.cache
def projections(layout: Layout | None, noise: float, golden: bool = False) -> tuple[Experiment, Projections]:
    cell = measure(layout=layout, golden=golden)
    sigma = noise * cell.sinograms.max()
    noisy = cell.sinograms + sigma * np.random.default_rng(1).standard_normal(cell.sinograms.shape)
    flat = noisy.reshape(-1, *cell.sinograms.shape[2:])
    charge = cell.curve.charge(cell.time_s).mean(axis=2).ravel()
    return cell, Projections(cell.rotation_deg.ravel(), charge, flat, np.full(flat.shape, sigma**2))


OTHER = Layout(turns=2.0, anode_mm=0.2, bend=(2.9, 0.3, 0.2), agglomerate=None, lag=0.05)


@pytest.mark.parametrize(
    ("layout", "noise", "golden", "frame"),
    [(None, NOISE, False, 0), (None, NOISE, False, 1), (None, NOISE, False, 2), (None, 1e-4, False, 1), (None, NOISE, False, 6),
     (OTHER, NOISE, False, 0), (OTHER, NOISE, False, 2)],
)  # fmt: skip
def test_the_map_of_moments_correlates_with_the_effective_time_of_the_truth(layout, noise, golden, frame):
    cell, measured = projections(layout, noise, golden)
    rotation, times, clean = cell.window(frame, cell.sinograms)
    at = (rotation, cell.translation_mm, 0.0)
    geometric = voxel_times(times, *at)
    model = learn(measured.intensity, measured.variance, measured.rotation_deg, measured.progress)
    when = np.linspace(times.min(), times.max(), 7)
    instants = instant_sinograms(measured, cell.curve.charge(when).tolist(), "model", model)
    rows = np.searchsorted(instants[0].rotation_deg, rotation)
    found = course_times(
        geometric, times, np.stack([one.intensity[rows] for one in instants]), when.tolist(), instants[3].variance[rows], (*at, "ramp")
    )

    seconds = (frame - 0.5 + np.linspace(0, 3, 13)) * SET_S
    series = np.stack([cell.frozen(t) for t in seconds])
    effective = effective_times_of_all(series, seconds, partial_volume(clean, *at))
    change = np.linalg.norm(series[-3] - series[2], axis=-1)
    strong = change > 0.25 * np.percentile(change, 99)
    single = strong & (found.bend < SINGLE)
    assert single.sum() > (0.4 if frame == 2 else 0.95) * strong.sum()  # in frame 2 the phases of the anode turn into each other
    assert np.corrcoef(found.mean[single], effective[single])[0, 1] >= 0.9
    assert np.corrcoef(geometric.mean[single], effective[single])[0, 1] >= 0.35


def constant(change: np.ndarray) -> np.ndarray:
    """A course of three moments, (3, 60, 41, 1), that rises by ``change`` (60, 41, 1) from each to the next."""
    return np.stack([np.zeros_like(change), change, 2 * change])


def test_a_voxel_without_measurable_change_keeps_its_geometric_moment():
    moments = voxel_times(ROTATION, ROTATION, TRANSLATION, 0.0)
    nothing, when, at = np.zeros((60, 41, 1)), [0.0, 90.0, 177.0], (ROTATION, TRANSLATION, 0.0, "ramp")
    for change, atol in ((nothing, 0.3), (1e-3 * np.random.default_rng(0).normal(size=nothing.shape), 0.5)):
        found = course_times(moments, ROTATION, constant(change), when, np.ones_like(nothing), at)
        np.testing.assert_allclose(found.mean, moments.mean, atol=atol)
    np.testing.assert_array_equal(found.spread, moments.spread)


def test_what_is_not_known_leaves_the_geometric_moment_and_no_bend():
    moments = voxel_times(ROTATION, ROTATION, TRANSLATION, 0.0)
    nothing = np.full((60, 41, 1), np.nan)
    found = course_times(moments, ROTATION, constant(nothing), [0.0, 90.0, 177.0], nothing, (ROTATION, TRANSLATION, 0.0, "ramp"))
    np.testing.assert_allclose(found.mean, moments.mean, atol=0.3)
    assert np.isnan(found.bend).all()


def test_a_phase_that_comes_and_goes_bends():
    moments = voxel_times(ROTATION, ROTATION, TRANSLATION, 0.0)
    disc = np.broadcast_to(np.sqrt(np.maximum(1 - TRANSLATION**2, 0))[:, None], (60, 41, 1))
    at, variance = (ROTATION, TRANSLATION, 0.0, "ramp"), np.full((60, 41, 1), 1e-4)
    straight = course_times(moments, ROTATION, constant(disc), [0.0, 90.0, 180.0], variance, at)
    bent = course_times(moments, ROTATION, np.stack([0 * disc, disc, 0.1 * disc]), [0.0, 90.0, 180.0], variance, at)
    inside = np.hypot(*np.meshgrid(TRANSLATION, TRANSLATION)) < 0.8
    assert straight.bend[inside].max() < 0.01
    assert bent.bend[inside].min() > SINGLE


def test_arrays_that_do_not_fit_are_an_error():
    moments = voxel_times(ROTATION, ROTATION, TRANSLATION, 0.0)
    with pytest.raises(ShapeError, match="do not fit"):
        voxel_times(ROTATION[1:], ROTATION, TRANSLATION, 0.0)
    with pytest.raises(ShapeError, match="aspect"):
        voxel_times(ROTATION, ROTATION, TRANSLATION, 0.0, aspect=0.0)
    with pytest.raises(ShapeError, match="one for each"):
        voxel_times(ROTATION, ROTATION, TRANSLATION, 0.0, np.zeros((3, 3)))
    at = (ROTATION, TRANSLATION, 0.0, "ramp")
    with pytest.raises(ShapeError, match="do not fit"):
        course_times(moments, ROTATION, np.zeros((3, 60, 41)), [0.0, 1.0, 2.0], np.zeros((60, 41)), at)
    with pytest.raises(ShapeError, match="three moments or more"):
        course_times(moments, ROTATION, np.zeros((2, 60, 41, 1)), [0.0, 1.0], np.zeros((60, 41, 1)), at)
