import numpy as np
import pytest
import xarray as xr

from operandi.errors import ShapeError
from operandi.experiment import DEFAULT_WINDOWS, QWindow, Subtraction
from operandi.stages.maps import apply_weights, screen, window_weights

Q = np.linspace(1.5, 2.5, 501)
WINDOWS = {"a": (1.7, 1.8), "b": (2.0, 2.031)}


def peak(q: np.ndarray, at: float, width: float) -> np.ndarray:
    return np.exp(-((q - at) ** 2) / (2 * width**2)) / (width * np.sqrt(2 * np.pi))


def volume(values: np.ndarray, q: np.ndarray = Q) -> xr.DataArray:
    values = np.broadcast_to(values, (2, 3, q.size)).astype(np.float32)
    return xr.DataArray(values, {"q": q, "x": [0.0, 1, 2]}, ("y", "x", "q"), attrs={"units": "counts/mm"})


def test_a_map_is_the_integral_of_the_peak_above_a_sloping_background():
    maps = screen(volume(3 * peak(Q, 1.75, 0.008) + 40 * Q - 7), {"a": (1.7, 1.8)})
    np.testing.assert_allclose(maps["intensity"], 3, rtol=1e-3)
    assert maps["intensity"].dims == ("phase", "y", "x")
    assert maps["intensity"].attrs["units"] == "counts/mm 1/angstrom"
    assert maps["phase"].values.tolist() == ["a"]
    assert np.isnan(maps["sigma"]).all()


@pytest.mark.parametrize("q", [Q, np.sort(np.random.default_rng(0).uniform(1.4, 2.6, 300))])
def test_a_linear_background_takes_out_any_straight_line_and_a_constant_one_any_constant(q: np.ndarray):
    np.testing.assert_allclose(window_weights(q, WINDOWS, "linear") @ (5 - 2 * q), 0, atol=1e-12)
    np.testing.assert_allclose(window_weights(q, WINDOWS, "constant") @ np.ones(q.size), 0, atol=1e-12)


def test_a_window_cuts_the_bins_in_which_it_begins_and_ends():
    weights = window_weights(np.arange(6.0) + 10, {"a": (10.75, 13.0)}, "none")
    np.testing.assert_allclose(weights, [[0, 0.75, 1, 0.5, 0, 0]])


def test_each_window_has_its_own_background_unless_one_is_asked_for():
    window = QWindow(phase="a", q_min_inv_angstrom=1.7, q_max_inv_angstrom=1.8, background="none")
    flat = volume(np.ones(Q.size))
    assert screen(flat, [window])["intensity"].values == pytest.approx(0.1)
    assert screen(flat, [window], background="linear")["intensity"].values == pytest.approx(0, abs=1e-6)


def test_sigma_is_what_noise_realisations_scatter_by_background_included():
    sigma = np.random.default_rng(1).uniform(0.5, 2, Q.size)
    noisy = xr.DataArray(np.random.default_rng(2).normal(size=(4000, Q.size)) * sigma, {"q": Q}, ("n", "q"))
    maps = screen(xr.Dataset({"intensity": noisy, "sigma": noisy * 0 + sigma}), WINDOWS)
    np.testing.assert_allclose(maps["intensity"].std("n") / maps["sigma"].isel(n=0), 1, atol=0.05)


def split(n: int, seed: int) -> np.ndarray:
    """Noise (n, q) of unit variance in which neighbours share pixels: correlations 2/3 and 1/6."""
    white = np.random.default_rng(seed).normal(size=(n, Q.size + 2))
    return (white[:, :-2] + 2 * white[:, 1:-1] + white[:, 2:]) / np.sqrt(6)


@pytest.mark.parametrize("given", [True, False])
def test_sigma_heeds_channels_that_share_pixels(given: bool):
    noisy = xr.DataArray(split(4000, 3), {"q": Q}, ("n", "q"))
    correlation = [1.0, 2 / 3, 1 / 6]
    sigma = (noisy * 0 + 1).assign_attrs({} if given else {"channel_correlation": correlation})
    maps = screen(xr.Dataset({"intensity": noisy, "sigma": sigma}), WINDOWS, correlation=np.array(correlation) if given else None)
    np.testing.assert_allclose(maps["intensity"].std("n") / maps["sigma"].isel(n=0), 1, atol=0.05)
    blind = screen(xr.Dataset({"intensity": noisy, "sigma": noisy * 0 + 1}), WINDOWS)
    assert (maps["sigma"] > 1.4 * blind["sigma"]).all()


def test_correlations_between_maps_are_those_of_noise_realisations():
    touching = [
        QWindow(phase=p, q_min_inv_angstrom=a, q_max_inv_angstrom=b) for p, a, b in (("a", 1.7, 1.8), ("b", 1.8, 1.9), ("c", 2.1, 2.2))
    ]
    touching[2] = touching[2].model_copy(update={"subtract": (Subtraction(phase="a", ratio=0.8),)})
    noisy = xr.DataArray(split(4000, 4), {"q": Q}, ("n", "q"))
    maps = screen(xr.Dataset({"intensity": noisy, "sigma": noisy * 0 + 1}), touching, correlation=np.array([1, 2 / 3, 1 / 6]))
    np.testing.assert_allclose(maps["correlation"], np.corrcoef(maps["intensity"]), atol=0.05)
    assert maps["correlation"].sel(phase="c", other="a") < -0.5


def test_what_a_window_subtracts_is_the_plain_map_of_another_times_the_ratio():
    pattern = volume(3 * peak(Q, 1.75, 0.008) + 2 * peak(Q, 2.015, 0.004))
    windows = [QWindow(phase=p, q_min_inv_angstrom=a, q_max_inv_angstrom=b) for p, (a, b) in WINDOWS.items()]
    own = [windows[0], windows[1].model_copy(update={"subtract": (Subtraction(phase="a", ratio=0.5),)})]
    plain, less = screen(pattern, windows)["intensity"], screen(pattern, own)["intensity"]
    np.testing.assert_allclose(less.sel(phase="b"), plain.sel(phase="b") - 0.5 * plain.sel(phase="a"), rtol=1e-5)
    xr.testing.assert_allclose(less.sel(phase="a"), plain.sel(phase="a"))


def test_channels_between_a_window_and_the_one_that_it_subtracts_do_not_count():
    values = np.ones((1, Q.size), np.float32)
    values[0, 200] = np.nan
    windows = [QWindow(phase=p, q_min_inv_angstrom=a, q_max_inv_angstrom=b) for p, (a, b) in WINDOWS.items()]
    own = [windows[0], windows[1].model_copy(update={"subtract": (Subtraction(phase="a", ratio=0.5),)})]
    assert np.isfinite(apply_weights(values, window_weights(Q, own))).all()


def test_a_band_of_the_background_ends_where_another_window_begins():
    """LiC12 ends at 1.80, and the band below graphite would reach down to 1.793."""
    q = np.arange(1.6, 2.1, 0.001)
    weights = dict(zip("ab", window_weights(q, {"a": (1.75, 1.80), "b": (1.82, 1.90)}), strict=True))
    assert (weights["b"][(q < 1.7995)] == 0).all()
    assert (weights["b"][(q > 1.8005) & (q < 1.8195)] < 0).all()
    np.testing.assert_allclose(weights["b"] @ (5 - 2 * q), 0, atol=1e-12)


@pytest.mark.parametrize("correlation", [np.ones((2, 3)), np.ones((2, 2, 2))])
def test_correlations_that_do_not_fit_are_refused(correlation: np.ndarray):
    with pytest.raises(ShapeError, match="correlations"):
        screen(xr.Dataset({"intensity": volume(Q), "sigma": volume(Q)}), WINDOWS, correlation=correlation)


def test_a_channel_that_is_nan_spoils_only_the_windows_that_use_it():
    values = np.ones((2, Q.size), np.float32)
    values[1, 120] = np.nan
    maps = apply_weights(values, window_weights(Q, WINDOWS))
    assert np.isnan(maps).tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("edges", [(1.4, 1.6), (2.4, 2.6), (1.5, 1.6), (2.4, 2.5)])
def test_a_window_or_background_beyond_the_patterns_is_refused_by_name(edges: tuple[float, float]):
    with pytest.raises(ShapeError, match="'a'.*1.5 to 2.5|'a'.*1.499 to 2.501"):
        window_weights(Q, {"a": edges}, "linear")


def test_one_side_is_enough_for_a_constant_background():
    weights = window_weights(Q, {"a": (1.5, 1.6)}, "constant")
    np.testing.assert_allclose(weights.sum(), 0, atol=1e-12)
    assert (weights[:, Q > 1.64] == 0).all()


@pytest.mark.parametrize("q", [Q[::-1], Q[:1], np.zeros(5), np.full(5, np.nan), np.ones((2, 2))])
def test_q_that_does_not_increase_is_refused(q: np.ndarray):
    with pytest.raises(ShapeError, match="increasing"):
        window_weights(q, WINDOWS)


def test_without_windows_the_defaults_that_the_volume_holds_are_screened():
    names = screen(volume(np.ones(Q.size)))["phase"].values.tolist()
    assert names == [w.phase for w in DEFAULT_WINDOWS if 1.6 < w.q_min_inv_angstrom < 2]
    with pytest.raises(ShapeError, match="default"):
        screen(volume(np.ones(5), np.linspace(8, 9, 5)))
    with pytest.raises(ShapeError, match="no window"):
        screen(volume(np.ones(Q.size)), [])
