import numpy as np
import pytest

from operandi.errors import ShapeError
from operandi.stages.air import Air, mean_air, resample

Q = np.linspace(1.0, 2.0, 21)


def test_air_on_the_patterns_own_points_stays_as_it_is():
    intensity, variance = np.sin(Q) + 2, np.cos(Q) ** 2
    found = resample(Q, Q, intensity, variance)
    np.testing.assert_allclose(found[0], intensity, rtol=1e-6)
    np.testing.assert_allclose(found[1], variance, rtol=1e-6)


def test_between_points_a_straight_line_is_exact_and_its_variance_that_of_two_points():
    coarse = np.linspace(0.98, 2.02, 14)[::-1]
    intensity, variance = resample(Q, coarse, 3 * coarse - 1, np.full(14, 4.0))
    np.testing.assert_allclose(intensity, 3 * Q - 1, rtol=1e-6)
    assert ((variance >= 2 - 1e-6) & (variance <= 4 + 1e-6)).all()


def test_a_point_that_is_nan_is_bridged_and_none_is_made_beyond_the_ends():
    values = 2 * Q
    values[7] = np.nan
    np.testing.assert_allclose(resample(Q, Q, values, np.ones(21))[0], 2 * Q, rtol=1e-6)
    with pytest.raises(ShapeError, match="measure it over all of that"):
        resample(Q, Q[:15], Q[:15], np.ones(15))
    with pytest.raises(ShapeError, match="nothing"):
        resample(Q, Q, np.full(21, np.nan), np.ones(21))


def test_the_mean_of_patterns_at_different_flux_has_the_error_of_all_counts():
    rng = np.random.default_rng(5)
    monitor = rng.uniform(0.5, 1.5, 40)
    drawn = rng.poisson(200 * monitor[None, :, None], (500, 40, 3)).astype(float)
    found = [mean_air(counts, counts, monitor) for counts in drawn]
    values = np.array([one.intensity for one in found])
    assert found[0].monitor == pytest.approx(monitor.mean())
    np.testing.assert_allclose(values.mean(axis=0), 200 * monitor.mean(), rtol=2e-3)
    # 1500 values tell a standard deviation to 2 %
    assert values.std() == pytest.approx(np.sqrt(np.mean([one.variance for one in found])), rel=0.06)


def test_patterns_without_flux_and_channels_without_counts_are_left_out():
    counts = np.array([[10.0, np.nan], [20.0, 40.0], [7.0, 7.0]])
    found = mean_air(counts, counts, np.array([1.0, 2.0, 0.0]))
    np.testing.assert_allclose(found.intensity, [15, 30])
    with pytest.raises(ShapeError, match="measure it with the monitor"):
        mean_air(counts, counts, np.full(3, np.nan))
    assert np.isnan(mean_air(counts, counts, None).monitor)


def test_another_flux_scales_air_and_its_error():
    intensity, variance = Air(np.array([4.0]), np.array([2.0]), 10.0).at(5.0)
    assert (intensity[0], variance[0]) == (2.0, 0.5)
    assert Air(np.array([4.0]), np.array([2.0])).at(5.0)[0] == 4.0
