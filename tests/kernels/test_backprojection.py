import numba
import numpy as np
import pytest

from operandi.kernels import backprojection as kernel
from operandi.stages.filters import filter_taps, tap_lists

N_ANGLES, N_SAMPLES, CENTRE = 12, 21, 9.3
ANGLE = np.arange(N_ANGLES) * np.pi / N_ANGLES
COSINES, SINES = np.cos(ANGLE), np.sin(ANGLE)
BEAMS = kernel.beams(COSINES, SINES, CENTRE, N_SAMPLES, N_SAMPLES)


def slab_of(rng: np.random.Generator, n_angles: int = N_ANGLES, width: int = kernel.CHANNELS) -> np.ndarray:
    slab = rng.normal(size=(n_angles, N_SAMPLES + 2, width)).astype(np.float32)
    slab[:, [0, -1]] = 0
    return slab


def backprojected(*slabs: np.ndarray) -> np.ndarray:
    volume = np.empty((N_SAMPLES, N_SAMPLES, kernel.CHANNELS), np.float32)
    kernel.backproject_slab(np.stack(slabs), (0, kernel.CHANNELS), *BEAMS, volume, False)
    return volume


def beyond(distance: np.ndarray, cosine: float, sine: float) -> np.ndarray:
    """How much of a unit square lies farther than a distance from its middle, as the mean over 400 of its lines."""
    long, short = max(abs(cosine), abs(sine)), min(abs(cosine), abs(sine))
    line = (np.arange(400) + 0.5) / 400 - 0.5
    return np.clip(0.5 - (distance[..., None] - line * short) / long, 0, 1).mean(axis=-1)


def places(cosine: float, sine: float) -> tuple[np.ndarray, np.ndarray]:
    """The lower of the two rows of a slab between which each pixel falls, and the share of the upper one."""
    step = np.arange(N_SAMPLES) - (N_SAMPLES - 1) / 2
    at = np.clip(step[None] * cosine + step[:, None] * sine + CENTRE + 1, 0, N_SAMPLES + 1 - 1e-9)
    below, fraction = at.astype(int), at % 1
    area = beyond(0.5 - np.minimum(fraction, 1 - fraction), cosine, sine)
    share = np.where(fraction < 0.5, area, 1 - area)
    return below, np.where(at == 0, 0, np.where(at >= N_SAMPLES + 1 - 1e-9, 1, share))


def interpolated(slab: np.ndarray, n_angles: int = N_ANGLES) -> np.ndarray:
    """The backprojection of one channel, by numpy."""
    total = np.zeros((N_SAMPLES, N_SAMPLES))
    for cosine, sine, row in zip(COSINES[:n_angles], SINES[:n_angles], slab.astype(float), strict=True):
        below, high = places(cosine, sine)
        total += (1 - high) * row[below] + high * row[below + 1]
    return total


@pytest.mark.parametrize("name", ["ramp", "shepp-logan", "hann"])
@pytest.mark.parametrize("width", [kernel.CHANNELS, 2 * kernel.CHANNELS])
def test_filtering_is_the_product_with_a_toeplitz_matrix(name: str, width: int):
    rng = np.random.default_rng(1)
    projections, order, weights = rng.normal(size=(5, N_SAMPLES, 150)).astype(np.float32), np.array([3, 0, 4]), np.array([1, 2, 0.5])
    taps, first = filter_taps(name, N_SAMPLES, 0.1), 128
    slab, kernels = np.empty((2, 3, N_SAMPLES + 2, width), np.float32), (taps, taps * np.append(taps[1:], 0.0))
    kernel.filter_slab(projections, order, first, *tap_lists(*kernels), weights.astype(np.float32), slab)
    for filtered, values in zip(slab, kernels, strict=True):
        matrix = values[N_SAMPLES + np.subtract.outer(np.arange(N_SAMPLES), np.arange(N_SAMPLES))]
        expected = matrix @ projections[order][:, :, first:] * weights[:, None, None]
        np.testing.assert_allclose(filtered[:, 1:-1, :22], expected, atol=4e-5)
        assert not filtered[:, [0, -1]].any()
        assert not filtered[:, :, 22:].any()


def test_backprojection_takes_from_each_projection_the_share_of_the_pixel_that_its_two_samples_see():
    slab = slab_of(np.random.default_rng(2))
    np.testing.assert_allclose(backprojected(slab)[:, :, 3], interpolated(slab[:, :, 3]), atol=1e-5)


def test_variances_take_the_squares_of_the_interpolation_and_twice_its_product_between():
    rng = np.random.default_rng(5)
    slab, cross = np.abs(slab_of(rng)), slab_of(rng)
    cross[:, -2:] = 0
    expected = np.zeros((N_SAMPLES, N_SAMPLES))
    for cosine, sine, row, between in zip(COSINES, SINES, slab[:, :, 3].astype(float), cross[:, :, 3].astype(float), strict=True):
        below, high = places(cosine, sine)
        expected += (1 - high) ** 2 * row[below] + 2 * high * (1 - high) * between[below] + high**2 * row[below + 1]
    np.testing.assert_allclose(backprojected(slab, cross)[:, :, 3], expected, atol=1e-5)


@pytest.mark.parametrize("n_channels", [kernel.CHANNELS, 150])
def test_a_few_projections_are_added_to_all_channels(n_channels: int):
    rng, n = np.random.default_rng(6), 5
    slab = slab_of(rng, n, -(-n_channels // kernel.CHANNELS) * kernel.CHANNELS)
    before = rng.normal(size=(N_SAMPLES, N_SAMPLES, n_channels)).astype(np.float32)
    volume = before.copy()
    kernel.add_projections(slab[None], BEAMS[0][:n], BEAMS[1][:n], volume)
    for channel in (0, 70 % n_channels, n_channels - 1):
        expected = before[:, :, channel] + interpolated(slab[:, :, channel], n)
        np.testing.assert_allclose(volume[:, :, channel], expected, atol=1e-5)


@pytest.mark.parametrize("kinds", [1, 2])
def test_a_wide_slab_gives_bit_by_bit_what_narrow_ones_give(kinds: int):
    rng, n_channels, wide = np.random.default_rng(8), 150, 3 * kernel.CHANNELS
    slab = np.stack([slab_of(rng, width=wide) for _ in range(kinds)])
    at_once, apart = (np.empty((N_SAMPLES, N_SAMPLES, n_channels), np.float32) for _ in range(2))
    kernel.backproject_slab(slab, (0, n_channels), *BEAMS, at_once, False)
    for first in range(0, wide, kernel.CHANNELS):
        part = np.ascontiguousarray(slab[..., first : first + kernel.CHANNELS])
        kernel.backproject_slab(part, (first, min(kernel.CHANNELS, n_channels - first)), *BEAMS, apart, False)
    assert at_once.tobytes() == apart.tobytes()


def test_a_slab_is_added_where_asked():
    slab = slab_of(np.random.default_rng(7))
    volume = np.ones((N_SAMPLES, N_SAMPLES, kernel.CHANNELS), np.float32)
    kernel.backproject_slab(slab[None], (0, kernel.CHANNELS), *BEAMS, volume, True)
    np.testing.assert_allclose(volume, backprojected(slab) + 1, atol=1e-5)


@pytest.mark.skipif(numba.get_num_threads() < 2, reason="needs two threads")
def test_results_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(4)
    slab, cross, results = slab_of(rng), slab_of(rng), []
    before = numba.get_num_threads()
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            grown = np.ones((N_SAMPLES, N_SAMPLES, kernel.CHANNELS), np.float32)
            kernel.add_projections(slab[None, :8], BEAMS[0][:8], BEAMS[1][:8], grown)
            results.append((backprojected(slab), backprojected(slab, cross), grown))
    finally:
        numba.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert one.tobytes() == two.tobytes()
