"""Binning equals the plain sparse product in double precision."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from operandi.kernels.binning import LAGS, Limits, bin_correlations, bin_images, compile_operator

COUNTS = Limits(0, 2**31)

N = 20_003
"""Pixels that do not fill their patches, nor the vectors in which they are read."""


def matrix(n_bins=23, n_pixels=N, per_pixel=3, seed=0):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n_bins - per_pixel + 1, n_pixels)
    rows = (first[:, None] + np.arange(per_pixel)).ravel()
    shares = rng.dirichlet(np.ones(per_pixel), n_pixels).ravel().astype(np.float32)
    return sparse.csr_array((shares, (rows, np.repeat(np.arange(n_pixels), per_pixel))), shape=(n_bins, n_pixels))


@pytest.mark.parametrize("per_pixel", [1, 2, 3, 7])
@pytest.mark.parametrize("n_images", [1, 16, 19])
def test_sums_equal_the_sparse_product(per_pixel, n_images):
    a = matrix(per_pixel=per_pixel)
    rng = np.random.default_rng(1)
    weight, dark = rng.uniform(0.5, 1, N).astype(np.float32), rng.uniform(0, 3, N).astype(np.float32)
    images = rng.poisson(2, (n_images, N)).astype(np.int32)
    images[:, ::13] = -1
    sums = bin_images(compile_operator(a, weight, dark), images, COUNTS)
    valid = images >= 0
    exact, squared = a.astype(float), a.astype(float).power(2)
    np.testing.assert_allclose(sums.signal, (exact @ np.where(valid, images - dark, 0).T).T, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(sums.variance, (squared @ np.where(valid, np.maximum(images, 1), 0).T).T, rtol=1e-6)
    np.testing.assert_allclose(sums.norm, (exact @ np.where(valid, weight, 0).T).T, rtol=1e-12)


def test_a_gap_in_the_bins_of_a_pixel_is_kept():
    a = sparse.csr_array(np.array([[0.5, 0], [0, 1], [0.5, 0]], np.float32))
    sums = bin_images(compile_operator(a, np.ones(2), np.zeros(2)), np.array([[4, 8]], np.int32), COUNTS)
    np.testing.assert_array_equal(sums.signal, [[2, 8, 2]])


def test_bins_that_lost_every_pixel_have_a_norm_of_exactly_zero():
    a = matrix()
    weight = np.random.default_rng(3).uniform(0.1, 1, N).astype(np.float32)
    sums = bin_images(compile_operator(a, weight, np.zeros(N)), np.full((2, N), -1, np.int32), COUNTS)
    assert (sums.norm == 0).all()
    assert (sums.variance == 0).all()


def test_large_counts_keep_their_precision():
    a = sparse.csr_array(np.ones((1, 20000), np.float32))
    images = np.random.default_rng(4).integers(10**6, 2 * 10**6, (3, 20000)).astype(np.int32)
    sums = bin_images(compile_operator(a, np.ones(20000), np.zeros(20000)), images, COUNTS)
    np.testing.assert_allclose(sums.signal[:, 0], images.sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.uint32, np.float32])
@pytest.mark.parametrize("limits", [Limits(0, 90), Limits(0, 1000, dummy=7, delta_dummy=0.5)])
def test_counts_outside_the_limits_are_left_out_for_every_type(dtype, limits):
    a = matrix(per_pixel=2)
    images = np.random.default_rng(5).integers(0, 100, (17, N)).astype(dtype)
    sums = bin_images(compile_operator(a, np.ones(N), np.zeros(N)), images, limits)
    valid = (images <= limits.high) & ~(abs(images - limits.dummy) <= limits.delta_dummy)
    exact = a.astype(float)
    np.testing.assert_allclose(sums.signal, (exact @ np.where(valid, images, 0).T).T, rtol=1e-6)
    np.testing.assert_allclose(sums.norm, (exact @ valid.T.astype(float)).T, rtol=1e-6)


def whole_pixels(n_bins=23):
    """Every pixel counts in one bin or in none, as without splitting."""
    rows = np.random.default_rng(7).integers(-1, n_bins, N)
    pixels = np.flatnonzero(rows >= 0)
    return sparse.csr_array((np.ones(pixels.size, np.float32), (rows[pixels], pixels)), shape=(n_bins, N))


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.uint32])
@pytest.mark.parametrize("limits", [COUNTS, Limits(0, 40_000), Limits(0, 50_000, dummy=65_535), Limits(0, 90)])
@pytest.mark.parametrize("highest", [100, 1023, 30_000, 300_000])
@pytest.mark.parametrize("odd", [3, 20_000])
def test_whole_pixels_are_counted_exactly_be_they_small_large_or_invalid(dtype, limits, highest, odd):
    """A few odd pixels are taken one by one, many leave their patch to the general kernel; both give the same."""
    a, rng = whole_pixels(), np.random.default_rng(odd)
    images = rng.integers(0, 100, (19, N))
    where = rng.integers(0, N, odd)
    images[:, where] = rng.integers(0, highest + 1, (19, odd))
    images[3, where[:2]], images[:, N - 1] = (-1, 65_535), 1500
    images = np.minimum(images, 65_535 if dtype == np.uint16 else highest + 70_000).astype(dtype)
    weight = rng.uniform(0.5, 1, N).astype(np.float32)
    operator = compile_operator(a, weight, np.zeros(N, np.float32))
    sums, others = bin_images(operator, images, limits), bin_images(replace(operator, only=None), images, limits)
    counts = images.astype(np.int64)
    valid = (counts >= 0) & (counts <= limits.high) & ~(counts == limits.dummy)
    exact = a.astype(np.int64)
    np.testing.assert_array_equal(sums.signal, (exact @ np.where(valid, counts, 0).T).T)
    np.testing.assert_array_equal(sums.variance, (exact @ np.where(valid, np.maximum(counts, 1), 0).T).T)
    np.testing.assert_allclose(sums.norm, (a.astype(float) @ np.where(valid, weight, 0).T).T, rtol=1e-12)
    np.testing.assert_array_equal(sums.signal, others.signal)
    np.testing.assert_array_equal(sums.variance, others.variance)
    np.testing.assert_allclose(sums.norm, others.norm, rtol=1e-12)


def test_an_image_gives_the_same_bits_whatever_images_are_beside_it():
    rng = np.random.default_rng(9)
    images = rng.integers(0, 100, (5, N)).astype(np.int32)
    images[1, rng.integers(0, N, 9000)] = 2**20 + 1
    images[2, rng.integers(0, N, 50)] = 2**25 + 3
    images[3, rng.integers(0, N, 50)] = -1
    operator = compile_operator(whole_pixels(), rng.uniform(0.5, 1, N).astype(np.float32), np.zeros(N, np.float32))
    together = bin_images(operator, images, COUNTS)
    for i in range(len(images)):
        alone = bin_images(operator, images[i : i + 1], COUNTS)
        for name in ("signal", "variance", "norm"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[i], err_msg=f"{name} of image {i}")


def test_correlations_of_bins_are_those_of_noise_realisations():
    shares = matrix(n_bins=9, n_pixels=300)
    counts = np.random.default_rng(1).normal(size=(20_000, 300))
    wanted, found = np.corrcoef(shares @ counts.T), bin_correlations(shares)
    assert found.shape == (3, 9)  # a pixel reaches three bins
    for lag, rho in enumerate(found):
        np.testing.assert_allclose(rho[: 9 - lag], np.diagonal(wanted, lag), atol=0.03)
        assert (rho[9 - lag :] == 0).all()


def test_whole_pixels_and_empty_bins_are_correlated_with_themselves_alone():
    assert bin_correlations(sparse.csr_array((4, 5))).tolist() == [[1.0] * 4]
    assert bin_correlations(matrix(per_pixel=1)).shape == (1, 23)
    assert len(bin_correlations(sparse.csr_array(np.ones((60, 3))))) == LAGS
