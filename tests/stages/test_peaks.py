"""Peaks of many voxels against one fit after the other by scipy, and where there is none."""

import numpy as np
import pytest
import xarray as xr
from scipy.optimize import curve_fit
from scipy.special import voigt_profile

from operandi.errors import ShapeError
from operandi.stages.peaks import AT_EDGE, FITTED, NO_PEAK, NOT_MEASURED, REASONS, WIDTH_AT_LIMIT, fit_peaks

Q = np.arange(1.64, 1.92, 0.0044)
RANGE = (1.64, 1.92)
LOG2 = np.log(2)


def gauss(q, area, position, width):
    return area * np.sqrt(4 * LOG2 / np.pi) / width * np.exp(-4 * LOG2 * ((q - position) / width) ** 2)


def pseudo_voigt(q, area, position, width, share):
    return (1 - share) * gauss(q, area, position, width) + share * area * 2 / np.pi / width / (1 + 4 * ((q - position) / width) ** 2)


def line(q, base, slope):
    return base + slope * (q - (Q[0] + Q[-1]) / 2) / (Q[-1] - Q[0])


def noisy(n: int = 400, seed: int = 0):
    """Patterns of one peak each with Poisson-like noise, and what they are made of."""
    random = np.random.default_rng(seed)
    true = np.stack([random.uniform(1, 5, n), random.uniform(1.69, 1.87, n), random.uniform(0.014, 0.03, n)], axis=1)
    more = np.stack([random.uniform(20, 50, n), random.uniform(-20, 20, n)], axis=1)
    mean = np.stack([gauss(Q, *t) + line(Q, *m) for t, m in zip(true, more, strict=True)])
    sigma = np.sqrt(mean)
    values = mean + sigma * random.normal(size=mean.shape)
    return xr.Dataset({"intensity": (("v", "q"), values), "sigma": (("v", "q"), sigma)}, {"q": Q}), true, more


def test_every_voxel_is_fitted_as_scipy_fits_it():
    data, true, more = noisy(40)
    found = fit_peaks(data, RANGE)
    model = lambda q, area, at, width, base, slope: gauss(q, area, at, width) + line(q, base, slope)  # noqa: E731
    for v in range(40):
        values, sigma = data["intensity"].to_numpy()[v], data["sigma"].to_numpy()[v]
        wanted, covariance = curve_fit(model, Q, values, [*true[v], *more[v]], sigma=sigma, absolute_sigma=True)
        errors = np.sqrt(np.diag(covariance))
        for k, name in enumerate(("area", "position", "width")):
            # Both stop where another step is no matter: a thousandth of sigma.
            assert float(found[name][0, v]) == pytest.approx(wanted[k], abs=0.005 * errors[k])
            assert float(found[name + "_sigma"][0, v]) == pytest.approx(errors[k], rel=0.01)


def test_errors_are_honest():
    data, true, _ = noisy(2000, seed=1)
    found = fit_peaks(data, RANGE)
    assert (found["reason"] == FITTED).mean() > 0.99
    for k, name in enumerate(("area", "position", "width")):
        pulls = (found[name][0] - true[:, k]) / found[name + "_sigma"][0]
        assert float(pulls.mean()) == pytest.approx(0, abs=0.08)
        assert float(pulls.std()) == pytest.approx(1, abs=0.06)
    assert float(found["chi2"].mean()) == pytest.approx(1, abs=0.03)


def test_without_sigma_the_scatter_about_the_fit_tells_the_errors():
    random = np.random.default_rng(2)
    values = gauss(Q, 3.0, 1.78, 0.02) + 30 + 4 * random.normal(size=(1500, Q.size))
    found = fit_peaks(xr.DataArray(values, {"q": Q}, ("v", "q")), RANGE)
    pulls = (found["position"][0] - 1.78) / found["position_sigma"][0]
    assert float(pulls.std()) == pytest.approx(1, abs=0.08)


def test_errors_heed_channels_that_share_pixels():
    random = np.random.default_rng(3)
    white = random.normal(size=(1500, Q.size + 2))
    noise = (white[:, :-2] + 2 * white[:, 1:-1] + white[:, 2:]) / np.sqrt(6)  # correlated 4/6 and 1/6
    values = gauss(Q, 3.0, 1.78, 0.02) + 30 + 4 * noise
    sigma = xr.DataArray(np.full(values.shape, 4.0), dims=("v", "q"), attrs={"channel_correlation": [1.0, 4 / 6, 1 / 6]})
    found = fit_peaks(xr.Dataset({"intensity": (("v", "q"), values), "sigma": sigma}, {"q": Q}), RANGE)
    pulls = (found["area"][0] - 3.0) / found["area_sigma"][0]
    assert float(pulls.std()) == pytest.approx(1, abs=0.08)


def test_three_lines_that_overlap_are_told_apart():
    random, n = np.random.default_rng(4), 300
    areas = random.uniform(0.5, 3, (n, 3))
    places, widths = np.array([1.695, 1.779, 1.873]), np.array([0.02, 0.03, 0.02])
    values = sum(areas[:, k, None] * gauss(Q, 1.0, places[k], widths[k]) for k in range(3)) + 20
    sigma = np.full(values.shape, 2.0)
    values = values + sigma * random.normal(size=values.shape)
    found = fit_peaks(
        xr.Dataset({"intensity": (("v", "q"), values), "sigma": (("v", "q"), sigma)}, {"q": Q}), RANGE, centres=[1.69, 1.78, 1.87]
    )
    assert found.sizes["peak"] == 3
    pulls = (found["area"].transpose("v", "peak") - areas) / found["area_sigma"].transpose("v", "peak")
    assert float(pulls.std()) == pytest.approx(1, abs=0.08)
    np.testing.assert_allclose(found["position"].median("v"), places, atol=2e-4)


def test_a_pseudo_voigt_takes_the_area_of_a_voigt_line():
    """The Voigt profile itself is the independent reference; a pseudo-Voigt has its area to 1.5 %."""
    q = np.arange(1.4, 2.2, 0.002)
    values = 5 * voigt_profile(q - 1.8, 0.008, 0.006)[None] + 2.0
    found = fit_peaks(xr.DataArray(values, {"q": q}, ("v", "q")), (1.4, 2.2), shape="pseudo-voigt", width=0.025)
    assert float(found["area"][0, 0]) == pytest.approx(5, rel=0.015)
    assert 0.2 < float(found["lorentzian"][0, 0]) < 0.8
    exact = pseudo_voigt(q, 3.0, 1.8, 0.02, 0.4)[None] + 1
    again = fit_peaks(xr.DataArray(exact, {"q": q}, ("v", "q")), (1.4, 2.2), shape="pseudo-voigt", width=0.03)
    assert [float(again[name][0, 0]) for name in ("area", "position", "width", "lorentzian")] == pytest.approx(
        [3, 1.8, 0.02, 0.4], rel=1e-4
    )


def test_where_there_is_no_peak_there_is_nan_and_a_reason():
    random = np.random.default_rng(5)
    values = 30 + 3 * random.normal(size=(6, Q.size))
    values[1] = np.nan
    values[2] = gauss(Q, 5, 1.78, 0.02) + 30
    values[2, 10:14] = np.nan
    values[3] = gauss(Q, 20, 1.63, 0.02) + 30
    values[4] = gauss(Q, 50, 1.78, 0.0005) + 30 + 0.1 * random.normal(size=Q.size)
    values[5] = 0.0
    sigma = np.full(values.shape, 3.0)
    found = fit_peaks(xr.Dataset({"intensity": (("v", "q"), values), "sigma": (("v", "q"), sigma)}, {"q": Q}), RANGE)
    assert found["reason"].to_numpy()[0, :3].tolist() == [NO_PEAK, NOT_MEASURED, FITTED]
    assert int(found["reason"][0, 3]) == AT_EDGE
    assert int(found["reason"][0, 4]) in (WIDTH_AT_LIMIT, NO_PEAK)
    assert int(found["reason"][0, 5]) == NO_PEAK
    assert np.isnan(found["position"].to_numpy()[0, [0, 1, 3, 4, 5]]).all()
    assert float(found["position"][0, 2]) == pytest.approx(1.78, abs=1e-3)
    assert found["reason"].attrs["flag_meanings"] == list(REASONS)


def test_noise_alone_is_no_peak():
    values = 30 + 3 * np.random.default_rng(6).normal(size=(2000, Q.size))
    data = xr.Dataset({"intensity": (("v", "q"), values), "sigma": (("v", "q"), np.full(values.shape, 3.0))}, {"q": Q})
    assert float((fit_peaks(data, RANGE)["reason"] == FITTED).mean()) < 0.01


def test_maps_of_a_volume_keep_their_places():
    values = np.broadcast_to(gauss(Q, 3, 1.78, 0.02) + 5, (2, 3, Q.size))
    volume = xr.DataArray(values, {"q": Q, "y": [0.0, 1], "x": [0.0, 1, 2]}, ("y", "x", "q"), attrs={"units": "counts/mm"})
    found = fit_peaks(volume.transpose("q", "y", "x"), RANGE)
    assert found["position"].dims == ("peak", "y", "x")
    assert found["area"].attrs["units"] == "counts/mm 1/angstrom"
    np.testing.assert_allclose(found["area"], 3, rtol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"q_range": (1.9, 1.7)}, {"q_range": (5.0, 6.0)}, {"q_range": (1.70, 1.72)}, {"centres": [1.5]}, {"centres": [1.7, 1.7]},
        {"shape": "triangle"}, {"width": 0.0},
    ],
)  # fmt: skip
def test_ranges_without_points_and_places_outside_are_refused(wrong):
    with pytest.raises(ShapeError):
        fit_peaks(noisy(3)[0], **{"q_range": RANGE, **wrong})


def test_a_volume_without_q_is_refused():
    with pytest.raises(ShapeError, match="q"):
        fit_peaks(xr.DataArray(np.ones((2, 3)), dims=("y", "x")), RANGE)
