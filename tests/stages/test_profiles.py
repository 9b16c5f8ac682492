"""Power laws of many spectra, against scipy one by one; and what a profile's own scatter tells of its errors."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from operandi.errors import ShapeError
from operandi.stages.profiles import fit_power_law, log_bins, profiles_of

Q = np.linspace(0.01, 0.2, 100)


def spectra(n: int, noise: float = 0.03) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 7 * Q ** -rng.uniform(2, 4, (n, 1)) * np.exp(noise * rng.standard_normal((n, Q.size)))


def line(x, level, slope):
    return level + slope * x


def test_power_laws_are_those_of_curve_fit():
    values = spectra(20)
    amplitude, slope = fit_power_law(Q, values)
    for value, a, p in zip(values, amplitude, slope, strict=True):
        expected = curve_fit(line, np.log(Q), np.log(value))[0]
        np.testing.assert_allclose([np.log(a), p], expected, rtol=1e-5)


def test_errors_weigh_and_what_is_no_number_is_left_out():
    values, sigma = spectra(6), np.random.default_rng(1).uniform(0.01, 0.1, (6, Q.size)) * spectra(6)
    values[:3, ::7], values[3, 5], sigma[4, 5] = np.nan, -1, 0
    _, slope = fit_power_law(Q, values, sigma)
    for value, error, p in zip(values, sigma, slope, strict=True):
        good = (value > 0) & (error > 0)
        expected = curve_fit(line, np.log(Q[good]), np.log(value[good]), sigma=(error / value)[good])[0]
        assert p == pytest.approx(expected[1], rel=1e-5)
    _, plain = fit_power_law(Q, values)
    good = values[0] > 0
    assert plain[0] == pytest.approx(np.polyfit(np.log(Q[good]), np.log(values[0][good]), 1)[0], rel=1e-6)


def test_a_spectrum_with_fewer_than_two_points_has_none():
    values = np.full((2, Q.size), np.nan)
    values[1, 3] = 1.0
    assert np.isnan(fit_power_law(Q, values)[1]).all()


@pytest.mark.parametrize("arguments", [(Q, np.ones((2, 3))), (-Q, np.ones((2, 100))), (Q, np.ones((2, 100)), np.ones((3, 100)))])
def test_arrays_that_do_not_fit_are_refused(arguments):
    with pytest.raises(ShapeError):
        fit_power_law(*arguments)


@pytest.mark.parametrize("relative", [0.003, 0.05, 0.2])
def test_the_scatter_of_a_profile_tells_its_error_as_realisations_do(relative):
    profile = Q**-3.4
    sigma = relative * np.sqrt(profile * np.interp(0.1, Q, profile) * 0.1 / Q)
    values = profile + sigma * np.random.default_rng(2).standard_normal((3000, Q.size))
    found = profiles_of(log_bins(Q, (0.01, 0.2)), values, None)
    ratio = np.median(found.weight**-0.5, axis=0) / found.log_intensity.std(axis=0)
    np.testing.assert_allclose(ratio, 1, atol=0.08)  # 3000 realisations: 1.3 %; the rest is the power law of the errors
    bias = (found.log_intensity.mean(axis=0) + 3.4 * found.log_q) / found.log_intensity.std(axis=0)
    assert np.ptp(bias) < 0.25


def test_errors_that_are_given_too_small_are_raised_to_the_scatter():
    values = spectra(500, 0.1)
    bins = log_bins(Q, (0.01, 0.2))
    believed, scatter = profiles_of(bins, values, 0.02 * values), profiles_of(bins, values, None)
    assert np.median(believed.weight) == pytest.approx(np.median(scatter.weight), rel=0.15)
