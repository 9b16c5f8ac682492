import numpy as np
import pytest
import xarray as xr
from analytic import Spot
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from operandi.errors import ShapeError
from operandi.stages.iterations import DEFAULT_ITERATIONS, Iterations, iterate
from operandi.stages.reconstruction import reconstruct
from operandi.stages.volumes import grid_mm

PITCH, N = 0.05, 41
TRANSLATION = 3.0 + (np.arange(N) - 20) * PITCH
AXIS = 3.0 + 0.063
SPOTS = (Spot(0.2, -0.3, 0.18, 3.0), Spot(-0.2, 0.2, 0.3, 2.0, disc=True))
FINE = (np.repeat(grid_mm(TRANSLATION), 9).reshape(N, 9) + PITCH * (np.arange(9) - 4) / 9).ravel()
TRUTH = np.stack([s.image(FINE).reshape(N, 9, N, 9).mean(axis=(1, 3)) for s in SPOTS], axis=-1)
"""Averages over voxels."""
TWO_VOXELS = gaussian_filter(TRUTH, (0.85, 0.85, 0))
"""The truth at a resolution (full width at half maximum) of two voxels: what a map from a beam of one step can be asked for."""
METHODS = tuple(DEFAULT_ITERATIONS)
FEW = np.arange(24) * 180 / 24 + 1.0


BEAM = (TRANSLATION[:, None] + PITCH * (np.arange(5) - 2) / 5).ravel()
"""A beam as wide as its step, as the projector has it."""
RINGS = tuple(Spot(0.0, 0.0, 0.9 - 0.1 * i, (-1.0) ** i, disc=True) for i in range(9))
"""Of 2 steps each: fine structure, which is easily taken for noise."""


RINGS_TRUTH = sum(s.image(FINE) for s in RINGS).reshape(N, 9, N, 9).mean(axis=(1, 3))
TEXTURED = np.concatenate([TRUTH, RINGS_TRUTH[:, :, None]], axis=2)


def measured(spots: tuple[Spot, ...], rotation: np.ndarray) -> np.ndarray:
    return sum(s.project(rotation, BEAM, AXIS) for s in spots).reshape(-1, N, 5).mean(axis=2)


def scan(rotation: np.ndarray) -> np.ndarray:
    return np.stack([measured((s,), rotation) for s in SPOTS], axis=-1)


def textured(rotation: np.ndarray) -> np.ndarray:
    """`scan`, and the rings."""
    return np.concatenate([scan(rotation), measured(RINGS, rotation)[:, :, None]], axis=2)


def labelled(values: np.ndarray, rotation: np.ndarray) -> xr.DataArray:
    coords = {"rotation": rotation, "translation": TRANSLATION, "q": np.arange(1.0, values.shape[2] + 1)}
    return xr.DataArray(values, coords, ("rotation", "translation", "q"), attrs={"units": "counts"})


def volume(values: np.ndarray, rotation: np.ndarray = FEW, method: str = "sirt", **options) -> np.ndarray:
    found = reconstruct(labelled(values, rotation), axis=AXIS, method=method, **options)  # type: ignore[arg-type]
    return found["intensity"].to_numpy()


def nrmse(found: np.ndarray, truth: np.ndarray = TRUTH) -> np.ndarray:
    """(q,)"""
    return np.sqrt(np.mean((found - truth) ** 2, axis=(0, 1)) / np.mean(truth**2, axis=(0, 1)))


def noisy(values: np.ndarray, fraction: float, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    sigma = np.broadcast_to(fraction * values.max(axis=(0, 1)), values.shape)
    return values + sigma * np.random.default_rng(seed).standard_normal(values.shape), sigma


def strips(rotation_deg: np.ndarray, centre: float) -> np.ndarray:
    """The projector as a dense matrix: (rotation · translation, y · x), by areas of subpixels."""
    fine = (np.arange(32) + 0.5) / 32 - 0.5
    at = np.arange(N) - (N - 1) / 2
    matrix = np.zeros((rotation_deg.size, N, N * N))
    for p, angle in enumerate(np.deg2rad(rotation_deg)):
        middle = (at[None] * np.cos(angle) + at[:, None] * np.sin(angle)).ravel() + centre
        offsets = (fine[None] * np.cos(angle) + fine[:, None] * np.sin(angle)).ravel()
        sample = np.floor(middle[:, None] + offsets + 0.5).astype(int)
        for pixel, hit in enumerate(sample):
            found, count = np.unique(hit[(hit >= 0) & (hit < N)], return_counts=True)
            matrix[p, found, pixel] = count / fine.size**2
    return matrix.reshape(-1, N * N)


@pytest.fixture(scope="module")
def dense() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles, the matrix, and a noisy sinogram of one channel with gaps."""
    angle = np.array([3.0, 29.0, 48.0, 77.0, 91.0, 140.0])
    values = noisy(scan(angle), 0.02)[0][:, :, :1].astype(np.float32)
    values[1, 5:9], values[4, 30] = np.nan, np.nan
    return angle, strips(angle, (AXIS - TRANSLATION[0]) / PITCH), values


def test_sirt_is_the_textbook_iteration_over_measured_cells(dense):
    angle, matrix, values = dense
    b = values.ravel() / PITCH
    a, b = matrix[np.isfinite(b)], b[np.isfinite(b)]
    rows, columns = (1 / np.where(s > 1e-3, s, np.inf) for s in (a.sum(axis=1), a.sum(axis=0)))
    x = np.zeros(N * N)
    for _ in range(8):
        x += columns * (a.T @ (rows * (b - a @ x)))
    found, used = iterate(values, angle, (AXIS - TRANSLATION[0]) / PITCH, PITCH, Iterations("sirt", 8, tolerance=0))
    assert used.tolist() == [8]
    assert nrmse(found, x.reshape(N, N, 1)) < 0.02  # areas of subpixels are good to a few per cent of a weight


def test_cgls_is_the_textbook_iteration_over_measured_cells(dense):
    angle, matrix, values = dense
    b = values.ravel() / PITCH
    a, r = matrix[np.isfinite(b)], b[np.isfinite(b)]
    x, s = np.zeros(N * N), a.T @ r
    p, norm = s.copy(), s @ s
    for _ in range(6):
        along = a @ p
        step = norm / (along @ along)
        x, r = x + step * p, r - step * along
        s = a.T @ r
        before, norm = norm, s @ s
        p = s + norm / before * p
    found, _ = iterate(values, angle, (AXIS - TRANSLATION[0]) / PITCH, PITCH, Iterations("cgls", 6, tolerance=0))
    assert nrmse(found, x.reshape(N, N, 1)) < 0.02


def test_tv_comes_to_the_minimum_of_its_objective(dense):
    angle, matrix, values = dense
    b = values.ravel() / PITCH
    a, b = matrix[np.isfinite(b)], b[np.isfinite(b)]
    strength = 2.0 * PITCH

    def objective(x: np.ndarray) -> float:
        image = x.reshape(N, N).astype(float)
        down, across = np.zeros((N, N)), np.zeros((N, N))
        down[:-1], across[:, :-1] = np.diff(image, axis=0), np.diff(image, axis=1)
        return 0.5 * np.sum((a @ image.ravel() - b) ** 2) + strength / PITCH * np.hypot(down, across).sum()

    def best(n: int) -> np.ndarray:
        return iterate(values, angle, (AXIS - TRANSLATION[0]) / PITCH, PITCH, Iterations("tv", n, tolerance=0, strength=strength))[0]

    found = best(400).ravel()
    reached, random = objective(found), np.random.default_rng(3)
    assert reached < objective(best(20).ravel())
    for size in (0.003, 0.03, 0.3):
        for direction in (random.standard_normal(found.size), -found, TRUTH[:, :, 0].ravel() - found):
            assert objective(found + size * direction) > 0.999 * reached


@pytest.mark.parametrize("method", METHODS)
def test_voxels_are_in_the_sinograms_unit_per_mm_and_as_sharp_as_two_voxels(method: str):
    angle = np.arange(60) * 3.0
    found = volume(scan(angle), angle, method)
    assert (nrmse(found) < nrmse(TWO_VOXELS)).all()
    inner = Spot(-0.2, 0.2, 0.2, disc=True).image(grid_mm(TRANSLATION)) > 0
    assert found[:, :, 1][inner].mean() == pytest.approx(2.0, rel=0.03)


@pytest.mark.parametrize(("n", "fraction"), [(20, 0.01), (20, 0.05), (40, 0.05)])
def test_few_and_noisy_projections_come_out_better_than_by_fbp(n: int, fraction: float):
    angle = np.arange(n) * 180 / n
    values, sigma = noisy(textured(angle), fraction)
    options = {"sigma": labelled(sigma, angle), "bootstrap": 0}
    found = {method: nrmse(volume(values, angle, method, **options), TEXTURED) for method in ("sirt", "tv")}
    fbp = nrmse(volume(values, angle, "fbp"), TEXTURED)
    assert (found["sirt"] < fbp).all()
    assert (found["tv"] < found["sirt"])[:2].all()  # flat and smooth objects are what tv is for
    assert (found["tv"] < fbp).all()


@pytest.mark.parametrize(("n", "fraction"), [(12, 0.05), (20, 0.01), (40, 0.003), (40, 0.05)])
def test_tv_finds_the_noise_in_the_data_whatever_the_texture(n: int, fraction: float):
    angle = np.arange(n) * 180 / n
    values, sigma = noisy(textured(angle), fraction)
    given = volume(values, angle, "tv", sigma=labelled(sigma, angle), bootstrap=0, iterations=60)
    found = volume(values, angle, "tv", iterations=60)
    assert (abs(nrmse(found, TEXTURED) / nrmse(given, TEXTURED) - 1) < 0.1).all()


def test_tv_finds_the_noise_where_a_cell_is_missing_in_every_projection():
    values, sigma = noisy(scan(FEW), 0.05)
    values[np.arange(24), np.arange(24) + 8] = np.nan
    given = volume(values, method="tv", sigma=labelled(sigma, FEW), bootstrap=0, iterations=60)
    assert (abs(nrmse(volume(values, method="tv", iterations=60)) / nrmse(given) - 1) < 0.1).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_cell_is_left_out_not_filled(method: str):
    angle = np.arange(40) * 4.5
    whole = scan(angle)
    holes = np.random.default_rng(2).random(whole.shape[:2]) < 0.1
    gaps, wrong = whole.copy(), whole.copy()
    gaps[holes], wrong[holes] = np.nan, 0.0
    best, found, filled = (nrmse(volume(v, angle, method, iterations=50, tolerance=0)) for v in (whole, gaps, wrong))
    assert (np.sqrt(np.maximum(found**2 - best**2, 0)) < 0.1).all()  # a tenth of the cells takes less than a tenth of the signal
    assert (found < filled / 2).all()


def test_a_gap_in_one_channel_does_not_touch_the_others():
    values = scan(FEW)
    gaps = values.copy()
    gaps[3, 10:14, 0] = np.nan
    np.testing.assert_array_equal(volume(gaps)[:, :, 1], volume(values)[:, :, 1])


@pytest.mark.parametrize("method", METHODS)
def test_a_channel_does_not_depend_on_those_beside_it(method: str):
    values = np.tile(scan(FEW[:8]), (1, 1, 40)) * np.linspace(0.5, 2, 80)
    options = {"iterations": 6, "tolerance": 0}
    together = volume(values, FEW[:8], method, **options)
    for channel in (0, 63, 64, 79):
        alone = volume(values[:, :, channel : channel + 1], FEW[:8], method, **options)
        np.testing.assert_allclose(together[:, :, channel], alone[:, :, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_descending_scan_in_any_order_of_angles_gives_the_same_bits(method: str):
    values, order = scan(FEW), np.random.default_rng(1).permutation(FEW.size)
    turned = labelled(values, FEW).isel(rotation=order, translation=slice(None, None, -1))
    found = reconstruct(turned, axis=AXIS, method=method, iterations=5)["intensity"].to_numpy()  # type: ignore[arg-type]
    assert found.tobytes() == volume(values, method=method, iterations=5).tobytes()


@settings(max_examples=10, deadline=None)
@given(exponent=st.integers(-25, 25), method=st.sampled_from(METHODS))
@example(exponent=20, method="tv")
def test_the_scale_of_the_data_does_not_matter(exponent: int, method: str):
    values, factor = scan(FEW[::3]), 10.0**exponent
    one, other = (volume(v, FEW[::3], method, iterations=4) for v in (values, values * factor))
    np.testing.assert_allclose(other / np.float32(factor), one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("method", "noise"), [("sirt", 0.05), ("cgls", 0.05), ("mlem", 0.05)])
def test_known_noise_stops_each_channel_as_soon_as_it_is_described(method: str, noise: float):
    values, sigma = noisy(scan(FEW), noise)
    values[:, :, 1], sigma = scan(FEW)[:, :, 1], sigma.copy()
    sigma[:, :, 1] *= 1e-4
    found = reconstruct(labelled(values, FEW), axis=AXIS, method=method, sigma=labelled(sigma, FEW), bootstrap=0, iterations=60)  # type: ignore[arg-type]
    alone = reconstruct(
        labelled(values[:, :, :1], FEW), axis=AXIS, method=method, sigma=labelled(sigma[:, :, :1], FEW), bootstrap=0, iterations=60
    )  # type: ignore[arg-type]
    assert 0 < alone.attrs["iterations"] < 50 < found.attrs["iterations"] == 60
    longer = volume(values[:, :, :1], method=method, iterations=60, tolerance=0)
    assert nrmse(alone["intensity"].to_numpy(), TRUTH[:, :, :1]) < nrmse(longer, TRUTH[:, :, :1])


def test_without_noise_it_stops_where_the_residual_hardly_changes():
    centre = (AXIS - TRANSLATION[0]) / PITCH
    values = scan(FEW).astype(np.float32)
    _, coarse = iterate(values, FEW, centre, PITCH, Iterations("sirt", 300, tolerance=0.05))
    _, fine = iterate(values, FEW, centre, PITCH, Iterations("sirt", 300, tolerance=0.02))
    assert (coarse < fine).all()
    assert (fine < 300).all()


@pytest.mark.parametrize(("method", "options"), [("mlem", {}), ("sirt", {"nonnegative": True}), ("tv", {"nonnegative": True})])
def test_no_voxel_is_negative_where_that_is_asked(method: str, options: dict):
    values, _ = noisy(scan(FEW), 0.1)
    assert volume(values, method=method, **options).min() >= 0
    if options:
        assert volume(values, method=method).min() < 0


def test_negative_data_are_0_to_mlem():
    values, _ = noisy(scan(FEW), 0.1)
    np.testing.assert_array_equal(volume(values, method="mlem", tolerance=0), volume(np.maximum(values, 0), method="mlem", tolerance=0))
    assert (volume(-np.abs(values), method="mlem") == 0).all()


@pytest.mark.parametrize(("method", "iterations"), [("sirt", 15), ("cgls", 6)])
def test_bootstrap_is_the_scatter_of_independent_measurements(method: str, iterations: int):
    clean, n = scan(FEW)[:, :, :1], 64
    many = np.concatenate([noisy(clean, 0.05, seed)[0] for seed in range(100, 100 + n)], axis=2)
    sigma = noisy(np.repeat(clean, n, axis=2), 0.05)[1]
    scatter = volume(many, method=method, sigma=labelled(sigma, FEW), bootstrap=0, iterations=iterations).std(axis=2, ddof=1)
    one = reconstruct(
        labelled(many[:, :, :1], FEW),
        axis=AXIS,
        method=method,  # type: ignore[arg-type]
        sigma=labelled(sigma[:, :, :1], FEW),
        bootstrap=24,
        iterations=iterations,
    )
    found = one["sigma"].to_numpy()[:, :, 0]
    # of all voxels together: 24 realisations leave 15 % in one voxel
    assert np.sqrt((found**2).mean() / (scatter**2).mean()) == pytest.approx(1, abs=0.1)
    assert "24 realisations" in one.attrs["sigma_from"]


def test_bootstrap_is_the_same_for_the_same_seed_only():
    values, sigma = noisy(scan(FEW[::2]), 0.05)
    made = [
        reconstruct(labelled(values, FEW[::2]), axis=AXIS, method="cgls", sigma=labelled(sigma, FEW[::2]), bootstrap=3, seed=seed)["sigma"]
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0] != made[2]).any()


def test_sigma_without_bootstrap_is_an_error_that_says_what_to_do():
    with pytest.raises(ShapeError, match="bootstrap=20"):
        volume(scan(FEW), sigma=labelled(scan(FEW), FEW))


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("sirt", {"iterations": 0}, "at least 1"),
        ("sirt", {"iterations": -3}, "at least 1"),
        ("tv", {"iterations": 2.5}, "whole number"),
        ("cgls", {"nonnegative": True}, "sirt"),
        ("fbp", {"nonnegative": True}, "fbp can be negative"),
        ("sirt", {"tolerance": -1.0}, "fraction"),
        ("sirt", {"strength": 1.0}, "belongs to tv"),
        ("tv", {"strength": np.nan}, "finite"),
        ("sirt", {"bootstrap": 20}, "sigma"),
        ("art", {}, "sirt"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(method: str, options: dict, words: str):
    with pytest.raises(ShapeError, match=words):
        volume(scan(FEW), method=method, **options)


def test_an_unknown_iterative_method_is_refused():
    with pytest.raises(ShapeError, match="'art'"):
        Iterations("art")


@pytest.mark.parametrize("method", METHODS)
def test_nothing_measured_gives_nan(method: str):
    assert np.isnan(volume(np.full((24, N, 2), np.nan), method=method)).all()
    assert np.isnan(volume(np.full((24, N, 2), np.inf), method=method)).all()
    assert np.isnan(volume(np.empty((0, N, 2)), np.empty(0), method)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_channel_without_a_measured_cell_is_nan_and_leaves_the_others(method: str):
    values = scan(FEW)
    values[:, :, 0] = np.nan
    found = volume(values, method=method, iterations=5)
    assert np.isnan(found[:, :, 0]).all()
    np.testing.assert_array_equal(found[:, :, 1], volume(scan(FEW), method=method, iterations=5)[:, :, 1])


@pytest.mark.parametrize("method", METHODS)
def test_infinite_and_nan_cells_are_not_measured(method: str):
    values, gaps = scan(FEW), scan(FEW)
    values[2, 7:9], values[5, 20], gaps[2, 7:9], gaps[5, 20] = np.inf, -np.inf, np.nan, np.nan
    found = volume(values, method=method, iterations=10)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, volume(gaps, method=method, iterations=10))


@pytest.mark.parametrize("method", METHODS)
def test_zeros_give_zeros(method: str):
    assert (volume(np.zeros((24, N, 2)), method=method) == 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("angle", [np.array([12.0]), np.array([12.0, 12.0, 12.0, 192.0]), np.array([0.0, 90.0, np.nan])])
def test_one_angle_and_repeated_ones_give_finite_numbers(method: str, angle: np.ndarray):
    values = scan(np.nan_to_num(angle))
    assert np.isfinite(volume(values, angle, method, iterations=10)).all()


def test_cells_without_sigma_are_not_measured():
    values, sigma = noisy(scan(FEW), 0.05)
    gaps, unknown = values.copy(), sigma.copy()
    gaps[3, 4:8], unknown[3, 4:8] = np.nan, np.nan
    options = {"axis": AXIS, "method": "sirt", "bootstrap": 0}
    one = reconstruct(labelled(values, FEW), sigma=labelled(unknown, FEW), **options)  # type: ignore[arg-type]
    other = reconstruct(labelled(gaps, FEW), sigma=labelled(sigma.copy(), FEW), **options)  # type: ignore[arg-type]
    xr.testing.assert_identical(one, other)
