"""The moment of a voxel is that of the projections that carry its contrast."""

import functools

import numpy as np
import pytest
from reacting import NOISE, SET_S, Experiment, effective_times, measure

from operandi.errors import ShapeError
from operandi.stages.instants import Projections, instant_sinogram
from operandi.stages.moments import refine_times, tangential_windings, voxel_times, windings_of
from operandi.stages.temporal import learn
from operandi.stages.volumes import angular_weights, partial_volume

ROTATION = np.arange(0.0, 180.0, 3.0)
TRANSLATION = np.linspace(-2.0, 2.0, 41)


@functools.cache
def experiment() -> Experiment:
    return measure()


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
def projections(noise: float) -> Projections:
    cell = experiment()
    sigma = noise * cell.sinograms.max()
    noisy = cell.sinograms + sigma * np.random.default_rng(1).standard_normal(cell.sinograms.shape)
    flat = noisy.reshape(-1, *cell.sinograms.shape[2:])
    return Projections(cell.rotation_deg.ravel(), cell.curve.charge(cell.time_s).mean(axis=2).ravel(), flat, np.full(flat.shape, sigma**2))


CATHODE = [3]
"""The channel of lithiated NMC, whose course does not bend: its voxels have one effective time."""


@pytest.mark.parametrize("noise", [0.0, NOISE])
@pytest.mark.parametrize("frame", [1, 3])
def test_the_map_of_moments_correlates_with_the_effective_time_of_the_truth(noise, frame):
    cell, measured = experiment(), projections(noise)
    rotation, times, clean = cell.window(frame, cell.sinograms)
    at = (rotation, cell.translation_mm, 0.0)
    moments = voxel_times(times, *at)
    model = learn(measured.intensity, measured.variance, measured.rotation_deg, measured.progress)
    start, end = (instant_sinogram(measured, float(cell.curve.charge((frame + t) * SET_S)), "model", model) for t in (0.25, 1.75))
    change, variance = (end.intensity - start.intensity)[..., CATHODE], (end.variance + start.variance)[..., CATHODE]
    refined = refine_times(moments, times, change, variance, *at)

    seconds = (frame - 0.5 + np.linspace(0, 3, 13)) * SET_S
    series = np.stack([cell.frozen(t)[..., CATHODE[0]] for t in seconds])
    middle = (frame + 1) * SET_S
    effective = effective_times(series, seconds, partial_volume(clean, *at)[..., CATHODE[0]], middle)
    change_of_truth = np.abs(series[-3] - series[2])
    voxels = np.isfinite(effective) & (change_of_truth > 0.25 * np.percentile(change_of_truth, 99))
    assert voxels.sum() > 200
    assert np.corrcoef(refined[voxels], effective[voxels])[0, 1] >= 0.9
    strong = np.isfinite(effective) & (change_of_truth > 0.5 * np.percentile(change_of_truth, 99))
    assert np.corrcoef(moments.mean[strong], effective[strong])[0, 1] >= 0.75


def test_a_voxel_without_measurable_change_keeps_its_geometric_moment():
    moments = voxel_times(ROTATION, ROTATION, TRANSLATION, 0.0)
    nothing = np.zeros((60, 41, 1))
    np.testing.assert_allclose(refine_times(moments, ROTATION, nothing, nothing, ROTATION, TRANSLATION, 0.0), moments.mean)
    faint = 1e-3 * np.random.default_rng(0).normal(size=nothing.shape)
    refined = refine_times(moments, ROTATION, faint, np.ones_like(faint), ROTATION, TRANSLATION, 0.0)
    np.testing.assert_allclose(refined, moments.mean, atol=0.1)


def test_arrays_that_do_not_fit_are_an_error():
    moments = voxel_times(ROTATION, ROTATION, TRANSLATION, 0.0)
    with pytest.raises(ShapeError, match="do not fit"):
        voxel_times(ROTATION[1:], ROTATION, TRANSLATION, 0.0)
    with pytest.raises(ShapeError, match="aspect"):
        voxel_times(ROTATION, ROTATION, TRANSLATION, 0.0, aspect=0.0)
    with pytest.raises(ShapeError, match="one for each"):
        voxel_times(ROTATION, ROTATION, TRANSLATION, 0.0, np.zeros((3, 3)))
    with pytest.raises(ShapeError, match="do not fit"):
        refine_times(moments, ROTATION, np.zeros((60, 41)), np.zeros((60, 41)), ROTATION, TRANSLATION, 0.0)
