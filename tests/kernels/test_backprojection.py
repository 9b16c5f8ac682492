import numba
import numpy as np
import pytest

from operandi.kernels import backprojection as kernel
from operandi.stages.filters import filter_taps, tap_list

N_ANGLES, N_SAMPLES, CENTRE = 12, 21, 9.3
ANGLE = np.arange(N_ANGLES) * np.pi / N_ANGLES
COSINES, SINES = np.cos(ANGLE), np.sin(ANGLE)
NO_SLAB = np.empty((0, 1, 1), np.float32)


def slab_of(rng: np.random.Generator, n_angles: int = N_ANGLES, width: int = kernel.CHANNELS) -> np.ndarray:
    slab = rng.normal(size=(n_angles, N_SAMPLES + 2, width)).astype(np.float32)
    slab[:, [0, -1]] = 0
    return slab


def backprojected(slab: np.ndarray, cross: np.ndarray = NO_SLAB) -> np.ndarray:
    volume = np.empty((N_SAMPLES, N_SAMPLES, kernel.CHANNELS), np.float32)
    kernel.backproject_slab(slab, cross, 0, COSINES, SINES, CENTRE, volume, False)
    return volume


def interpolated(slab: np.ndarray, n_angles: int = N_ANGLES) -> np.ndarray:
    """The backprojection of one channel, by numpy."""
    step = np.arange(N_SAMPLES) - (N_SAMPLES - 1) / 2
    total = np.zeros((N_SAMPLES, N_SAMPLES))
    for cosine, sine, row in zip(COSINES[:n_angles], SINES[:n_angles], slab, strict=True):
        at = step[None] * cosine + step[:, None] * sine + CENTRE
        total += np.interp(at, np.arange(-1, N_SAMPLES + 1), row, left=0, right=0)
    return total


@pytest.mark.parametrize("name", ["ramp", "shepp-logan", "hann"])
@pytest.mark.parametrize("width", [kernel.CHANNELS, 2 * kernel.CHANNELS])
def test_filtering_is_the_product_with_a_toeplitz_matrix(name: str, width: int):
    rng = np.random.default_rng(1)
    projections, order, weights = rng.normal(size=(5, N_SAMPLES, 150)).astype(np.float32), np.array([3, 0, 4]), np.array([1, 2, 0.5])
    taps, first = filter_taps(name, N_SAMPLES, 0.1), 128
    matrix = taps[N_SAMPLES + np.subtract.outer(np.arange(N_SAMPLES), np.arange(N_SAMPLES))]
    slab = np.empty((3, N_SAMPLES + 2, width), np.float32)
    kernel.filter_slab(projections, order, first, *tap_list(taps), weights.astype(np.float32), slab)
    expected = matrix @ projections[order][:, :, first:] * weights[:, None, None]
    np.testing.assert_allclose(slab[:, 1:-1, :22], expected, atol=4e-5)
    assert not slab[:, [0, -1]].any()
    assert not slab[:, :, 22:].any()


def test_backprojection_interpolates_each_projection_where_the_pixel_falls():
    slab = slab_of(np.random.default_rng(2))
    np.testing.assert_allclose(backprojected(slab)[:, :, 3], interpolated(slab[:, :, 3]), atol=1e-5)


def test_variances_take_the_squares_of_the_interpolation_and_twice_its_product_between():
    rng = np.random.default_rng(5)
    slab, cross = np.abs(slab_of(rng)), slab_of(rng)
    cross[:, -2:] = 0
    step = np.arange(N_SAMPLES) - (N_SAMPLES - 1) / 2
    expected = np.zeros((N_SAMPLES, N_SAMPLES))
    for cosine, sine, row, between in zip(COSINES, SINES, slab[:, :, 3].astype(float), cross[:, :, 3].astype(float), strict=True):
        at = np.clip(step[None] * cosine + step[:, None] * sine + CENTRE + 1, 0, N_SAMPLES + 1 - 1e-9)
        below = at.astype(int)
        high = at - below
        expected += (1 - high) ** 2 * row[below] + 2 * high * (1 - high) * between[below] + high**2 * row[below + 1]
    np.testing.assert_allclose(backprojected(slab, cross)[:, :, 3], expected, atol=1e-5)


@pytest.mark.parametrize("n_channels", [kernel.CHANNELS, 150])
def test_a_few_projections_are_added_to_all_channels(n_channels: int):
    rng, n = np.random.default_rng(6), 5
    slab = slab_of(rng, n, -(-n_channels // kernel.CHANNELS) * kernel.CHANNELS)
    before = rng.normal(size=(N_SAMPLES, N_SAMPLES, n_channels)).astype(np.float32)
    volume = before.copy()
    kernel.add_projections(slab, COSINES[:n], SINES[:n], CENTRE, volume)
    for channel in (0, 70 % n_channels, n_channels - 1):
        expected = before[:, :, channel] + interpolated(slab[:, :, channel], n)
        np.testing.assert_allclose(volume[:, :, channel], expected, atol=1e-5)


def test_a_slab_is_added_where_asked():
    slab = slab_of(np.random.default_rng(7))
    volume = np.ones((N_SAMPLES, N_SAMPLES, kernel.CHANNELS), np.float32)
    kernel.backproject_slab(slab, NO_SLAB, 0, COSINES, SINES, CENTRE, volume, True)
    np.testing.assert_allclose(volume, backprojected(slab) + 1, atol=1e-5)


def test_finite_channels_are_counted():
    values = np.ones((2, 3, 5), np.float32)
    values[0, 1, 2:] = [np.nan, np.inf, -np.inf]
    np.testing.assert_array_equal(kernel.count_finite(values), [[5, 2, 5], [5, 5, 5]])


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_results_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(4)
    slab, cross, results = slab_of(rng), slab_of(rng), []
    before = numba.get_num_threads()
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            grown = np.ones((N_SAMPLES, N_SAMPLES, kernel.CHANNELS), np.float32)
            kernel.add_projections(slab[:8], COSINES[:8], SINES[:8], CENTRE, grown)
            results.append((backprojected(slab), backprojected(slab, cross), grown))
    finally:
        numba.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert one.tobytes() == two.tobytes()
