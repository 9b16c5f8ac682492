"""Convergence: what halves of a frame say about it, what more projections give, and whether the cell stood still."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operandi.errors import ShapeError
from operandi.simulate.phantom import SPECIES, jelly_roll
from operandi.simulate.projections import line_integrals
from operandi.stages.convergence import (
    changed_too_fast,
    difference_map,
    fourier_ring_correlation,
    more_projections,
    projections_for,
    total_drift,
)
from operandi.stages.volumes import partial_variance, partial_volume

N, PITCH = 65, 0.125
TRANSLATION = (np.arange(N) - (N - 1) / 2) * PITCH
CELL = jelly_roll(3 * N, PITCH / 3)
LIC6 = SPECIES.index("LiC6")
ROTATIONS = 45


def angles(number, rotations=ROTATIONS):
    """The angles of one of two interlaced sets."""
    return (np.arange(rotations) + 0.5 * (number % 2)) * 180 / rotations


def projected(rotation_deg, charge_start, charge_end):
    """Exact sinogram (rotation, translation) of LiC6 while the charge goes from one value to the other."""
    charge = np.linspace(charge_start, charge_end, len(rotation_deg))
    return np.stack([
        line_integrals(CELL, angle, TRANSLATION, np.full(N, q))[:, LIC6] for angle, q in zip(rotation_deg, charge, strict=True)
    ])  # fmt: skip


def volume_of(sinogram, rotation_deg):
    return partial_volume(sinogram[:, :, None], rotation_deg, TRANSLATION, 0.0)[:, :, 0]


def tomogram(sinogram, rotation_deg, sigma):
    volume = volume_of(sinogram, rotation_deg)
    variance = partial_variance(np.full((*sinogram.shape, 1), sigma**2), rotation_deg, TRANSLATION, 0.0)[:, :, 0]
    return volume, np.sqrt(variance)


@pytest.fixture(scope="module")
def still():
    """Noise-free sinograms of two interlaced sets of a cell that stands still."""
    return [projected(angles(s), 25.0, 25.0) for s in (0, 1)]


def textured(n=128, seed=0):
    """A map with power at all frequencies, falling as 1/f."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)[None]) + 1 / n
    return np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, n))) / f).real / 10


def halves(sigma, n=128, seed=1):
    rng = np.random.default_rng(seed)
    truth = textured(n)
    return truth + rng.normal(0, sigma, (n, n)), truth + rng.normal(0, sigma, (n, n))


def test_equal_maps_correlate_fully_down_to_two_points():
    found = fourier_ring_correlation(textured(), textured(), PITCH)
    np.testing.assert_allclose(found.correlation, 1.0, atol=1e-12)
    assert found.resolution_mm == pytest.approx(2 * PITCH)
    assert found.frequency[-1] == pytest.approx(0.5 / PITCH)


def test_noise_alone_correlates_as_the_number_of_points_of_a_ring_says():
    rng = np.random.default_rng(0)
    found = [fourier_ring_correlation(*rng.normal(size=(2, 64, 64)), 1.0) for _ in range(300)]
    correlation = np.array([f.correlation for f in found])
    scaled = correlation * np.sqrt(found[0].number)
    assert abs(correlation.mean()) < 5e-3
    # the outer rings; inside a ring's points are few and joined by the fading
    np.testing.assert_allclose(scaled[:, 4:].std(axis=0), 1.0, atol=0.2)
    assert scaled[:, 4:].std() == pytest.approx(1.0, abs=0.05)


def test_correlation_is_that_of_signal_and_noise_of_known_power():
    n, sigma = 256, 1.0
    rng = np.random.default_rng(3)
    signal = rng.normal(size=(n, n))
    a, b = signal + rng.normal(0, sigma, (n, n)), signal + rng.normal(0, sigma, (n, n))
    found = fourier_ring_correlation(a, b, 1.0)
    assert found.correlation[5:].mean() == pytest.approx(0.5, abs=0.01)


def test_the_half_bit_threshold_is_that_of_van_heel_and_schatz():
    found = fourier_ring_correlation(*halves(1.0), PITCH)
    root = np.sqrt(found.number)
    np.testing.assert_allclose(found.threshold, (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root), rtol=1e-4)


def test_criteria_order_as_they_should():
    resolution = {
        c: fourier_ring_correlation(*halves(1.0), PITCH, criterion=c).resolution_mm for c in ("half-bit", "one-bit", "one-seventh")
    }
    assert resolution["one-bit"] > resolution["half-bit"] > resolution["one-seventh"]


def test_noise_alone_has_no_resolution():
    rng = np.random.default_rng(5)
    assert fourier_ring_correlation(*rng.normal(size=(2, 64, 64)), 1.0).resolution_mm > 20


def test_correlation_does_not_depend_on_scale_and_offset_of_either_map():
    a, b = halves(1.0)
    np.testing.assert_allclose(
        fourier_ring_correlation(3 * a + 7, 0.1 * b - 2, PITCH).correlation, fourier_ring_correlation(a, b, PITCH).correlation, atol=1e-9
    )


def test_a_hard_edge_that_both_maps_share_does_not_correlate():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 128, 128))
    a[:15, :15] += 100  # beyond the circle
    b[:15, :15] += 100
    assert fourier_ring_correlation(a, b, 1.0).correlation[10:].max() < 0.4


def test_points_that_are_not_measured_count_in_neither_map():
    a, b = halves(0.5)
    a[40:50, 60:70] = np.nan
    found = fourier_ring_correlation(a, b, PITCH)
    b[40:50, 60:70] = 1e6
    np.testing.assert_array_equal(found.correlation, fourier_ring_correlation(a, b, PITCH).correlation)
    assert found.resolution_mm == pytest.approx(fourier_ring_correlation(*halves(0.5), PITCH).resolution_mm, rel=0.15)


def test_maps_without_a_number_have_no_correlation():
    nothing = np.full((16, 16), np.nan)
    found = fourier_ring_correlation(nothing, nothing, 1.0)
    assert np.isnan(found.correlation).all()
    assert np.isinf(found.resolution_mm)


@pytest.mark.parametrize("shapes", [((8, 9), (8, 9)), ((16, 16), (17, 17)), ((4, 4), (4, 4)), ((16,), (16,))])
def test_maps_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ShapeError):
        fourier_ring_correlation(np.zeros(shapes[0]), np.zeros(shapes[1]), 1.0)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_forecast_of_more_projections_is_what_more_projections_give(factor):
    sigma, seeds = 1.0, range(12)
    forecasts = [more_projections(fourier_ring_correlation(*halves(sigma, seed=s), PITCH), 100, [100 * factor], 8.0)[0] for s in seeds]
    found = [fourier_ring_correlation(*halves(sigma / np.sqrt(factor), seed=100 + s), PITCH) for s in seeds]
    error = np.mean([f.correlation for f in forecasts], axis=0) - np.mean([f.correlation for f in found], axis=0)
    assert abs(error[2:].mean()) < 0.02
    assert np.abs(error[2:]).max() < 0.15  # of 12 realisations
    resolution = [np.median([f.resolution_mm for f in many]) for many in (forecasts, found)]
    assert resolution[0] == pytest.approx(resolution[1], rel=0.15)


def test_a_forecast_for_the_projections_that_there_are_is_what_there_is():
    measured = fourier_ring_correlation(*halves(1.5), PITCH)
    (same,) = more_projections(measured, 100, [100], 8.0)
    assert same.resolution_mm == pytest.approx(measured.resolution_mm)
    assert same.angular_mm == pytest.approx(np.pi * 8.0 / 100)


def test_the_projections_for_a_resolution_reach_it():
    measured = fourier_ring_correlation(*halves(1.5), PITCH)
    wanted = 0.6 * measured.resolution_mm
    needed = projections_for(measured, 100, wanted, 1.0)
    assert needed is not None
    enough, fewer = more_projections(measured, 100, [needed, int(0.9 * needed)], 1.0)
    assert enough.resolution_mm <= wanted * 1.01 < fewer.resolution_mm
    found = [fourier_ring_correlation(*halves(1.5 / np.sqrt(needed / 100), seed=s), PITCH).resolution_mm for s in range(9, 18)]
    assert np.median(found) < 1.1 * wanted


def test_where_noise_is_no_limit_the_angles_are():
    measured = fourier_ring_correlation(*halves(1e-6), PITCH)
    assert projections_for(measured, 1000, 2 * PITCH, 8.0) == int(np.ceil(np.pi * 8.0 / (2 * PITCH)))


def test_what_does_not_correlate_needs_nobody_knows_how_many():
    rng = np.random.default_rng(5)
    measured = fourier_ring_correlation(*rng.normal(size=(2, 64, 64)), 1.0)
    assert projections_for(measured, 100, 3.0, 64.0) is None
    assert projections_for(fourier_ring_correlation(*halves(1.0), PITCH), 100, PITCH, 8.0) is None


def test_doubling_the_projections_of_a_noisy_tomogram_gives_the_forecast_resolution():
    """Halves of 90 projections forecast those of 180, where noise, not the angles, is the limit."""
    offsets, sigma = (0.0, 0.5, 0.25, 0.75), 0.3
    rotations = [(np.arange(ROTATIONS) + offset) * 180 / ROTATIONS for offset in offsets]
    sinograms = [projected(rotation, 25.0, 25.0) for rotation in rotations]
    found, forecast = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        maps = [volume_of(s + rng.normal(0, sigma, s.shape), r) for s, r in zip(sinograms, rotations, strict=True)]
        measured = fourier_ring_correlation(maps[0], maps[1], PITCH)
        forecast.append(more_projections(measured, 90, [180], 7.6)[0].resolution_mm)
        doubled = fourier_ring_correlation(0.5 * (maps[0] + maps[2]), 0.5 * (maps[1] + maps[3]), PITCH).resolution_mm
        assert doubled < measured.resolution_mm
        found.append(doubled)
    assert np.median(forecast) == pytest.approx(np.median(found), rel=0.15)


def test_the_difference_of_static_noise_has_the_sigma_it_says(still):
    rng = np.random.default_rng(0)
    sigma = 0.5
    a, b = (tomogram(still[0] + rng.normal(0, sigma, still[0].shape), angles(0), sigma) for _ in range(2))
    found = difference_map(a[0], b[0], a[1], b[1])
    assert found.significance.std() == pytest.approx(1.0, abs=0.05)
    assert np.isnan(difference_map(a[0], b[0], 0 * a[1], 0 * b[1]).significance).all()


def test_streaks_of_other_angles_are_no_change_but_look_like_one_in_maps(still):
    """Why the test compares equal angles: maps of consecutive sets differ by many sigma in a cell that stands still."""
    rng = np.random.default_rng(0)
    sigma = 0.01
    noisy = [still[s % 2] + rng.normal(0, sigma, still[0].shape) for s in range(4)]
    maps = [tomogram(noisy[s], angles(s), sigma) for s in (0, 1)]
    assert difference_map(maps[0][0], maps[1][0], maps[0][1], maps[1][1]).significance.std() > 2
    sigmas = np.full(still[0].shape, sigma)
    assert not changed_too_fast(noisy[0], noisy[2], sigmas, sigmas).flag
    assert not changed_too_fast(noisy[1], noisy[3], sigmas, sigmas).flag


@pytest.mark.parametrize("common_offset", [False, True])
def test_false_alarms_on_static_noise_come_at_the_rate_asked_for(common_offset):
    rng = np.random.default_rng(42)
    sigma = rng.uniform(0.5, 2.0, (32, 41))
    sigma[3, 4:9] = np.nan
    runs, rate = 1500, 0.05
    alarms = 0
    for _ in range(runs):
        first, second = rng.normal(0, sigma), rng.normal(0, sigma)
        offset = 3.0 if common_offset else 0.0
        alarms += changed_too_fast(first, second + offset, sigma, sigma, alarm_rate=rate, common_offset=common_offset).flag
    # Bonferroni over scales that share their cells: somewhat below the rate, never above it by more than chance (4 sigma)
    assert 0.4 * rate < alarms / runs < rate + 4 * np.sqrt(rate * (1 - rate) / runs)


def test_a_cell_that_reacts_by_more_than_the_noise_is_told(still):
    rng = np.random.default_rng(0)
    sets = [projected(angles(s), *charge) for s, charge in ((0, (20.3, 22.2)), (2, (23.9, 25.6)))]
    sigma = 0.3
    noisy = [sinogram + rng.normal(0, sigma, sinogram.shape) for sinogram in sets]
    sigmas = np.full(still[0].shape, sigma)
    found = changed_too_fast(*noisy, sigmas, sigmas)
    assert found.flag
    assert found.drift > 10
    true_ratio = np.sqrt(np.mean((sets[1] - sets[0]) ** 2)) / (np.sqrt(2) * sigma)
    assert found.ratio == pytest.approx(true_ratio, abs=0.1)


def test_noise_hides_a_small_reaction():
    sets = [projected(angles(s), 25.0, 25.0 + s / 200) for s in (0, 2)]
    rng = np.random.default_rng(0)
    sigmas = np.full(sets[0].shape, 3.0)
    assert not changed_too_fast(*(sinogram + rng.normal(0, 3.0, sinogram.shape) for sinogram in sets), sigmas, sigmas).flag


def test_a_small_change_everywhere_shows_in_large_blocks_and_one_at_a_place_in_small_ones():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 45, 65))
    sigma = np.ones((45, 65))
    everywhere = changed_too_fast(first, second + 0.3, sigma, sigma)
    assert everywhere.flag
    assert everywhere.scale == 128
    second[20:24, 28:32] += 4
    at_a_place = changed_too_fast(first, second, sigma, sigma)
    assert at_a_place.flag
    assert at_a_place.scale in (2, 4)
    assert np.nanmean(at_a_place.significance[20:24, 28:32]) == pytest.approx(4 / np.sqrt(2), abs=1.0)


def test_an_offset_of_a_set_is_no_change_where_it_is_fitted():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 45, 65))
    sigma = np.ones((45, 65))
    assert not changed_too_fast(first, second + 5, sigma, sigma, common_offset=True).flag
    second[:, 20:40] += 0.3
    assert changed_too_fast(first, second + 5, sigma, sigma, common_offset=True).flag


def test_sets_that_share_no_cell_have_no_answer():
    nothing = np.full((4, 5), np.nan)
    found = changed_too_fast(nothing, nothing, nothing, nothing)
    assert not found.flag
    assert found.probability == 1.0
    assert np.isnan([found.ratio, found.drift]).all()


@pytest.mark.parametrize("wrong", [{"alarm_rate": 0.0}, {"shape": (3, 3)}])
def test_sets_that_do_not_fit_are_refused(wrong):
    values = np.ones((4, 5))
    with pytest.raises(ShapeError):
        changed_too_fast(values, np.ones(wrong.get("shape", (4, 5))), values, values, alarm_rate=wrong.get("alarm_rate", 0.1))
    with pytest.raises(ShapeError):
        total_drift(values, values, values, np.ones((3, 3)))


def test_the_total_of_consecutive_sets_tells_a_reaction_from_standing_still(still):
    rng = np.random.default_rng(0)
    sigma = 0.05
    sigmas = np.full(still[0].shape, sigma)
    noisy = [s + rng.normal(0, sigma, s.shape) for s in (*still, projected(angles(1), 26.0, 27.0))]
    assert abs(total_drift(noisy[0], noisy[1], sigmas, sigmas)) < 4
    assert total_drift(noisy[0], noisy[2], sigmas, sigmas) > 20


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_significance_does_not_depend_on_the_unit(seed, unit):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, 6, 7))
    sigma = rng.uniform(0.5, 2, (6, 7))
    found, scaled = (changed_too_fast(first * u, second * u, sigma * u, sigma * u) for u in (1.0, unit))
    assert scaled.probability == pytest.approx(found.probability, rel=1e-6)
    assert scaled.scale == found.scale


def test_the_total_leaves_out_projections_that_are_not_complete():
    first, second, sigma = np.ones((5, 6)), np.ones((4, 6)), 0.1
    second[2, 3] = np.nan
    assert total_drift(first, second, np.full((5, 6), sigma), np.full((4, 6), sigma)) == pytest.approx(0.0)
    second[:, 0] = np.nan
    assert np.isnan(total_drift(first, second, np.full((5, 6), sigma), np.full((4, 6), sigma)))
