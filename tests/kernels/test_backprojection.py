import numba
import numpy as np
import pytest

from operandi.kernels import backprojection as kernel
from operandi.stages.filters import filter_taps

N_ANGLES, N_SAMPLES, CENTRE = 12, 21, 9.3
ANGLE = np.arange(N_ANGLES) * np.pi / N_ANGLES
COSINES, SINES, ONES = np.cos(ANGLE), np.sin(ANGLE), np.ones(N_ANGLES)
NO_SLAB = np.empty((0, 1, 1), np.float32)


def slab_of(rng: np.random.Generator) -> np.ndarray:
    slab = rng.normal(size=(N_ANGLES, N_SAMPLES + 2, kernel.CHANNELS)).astype(np.float32)
    slab[:, [0, -1]] = 0
    return slab


def backprojected(slab: np.ndarray, cross: np.ndarray = NO_SLAB) -> np.ndarray:
    volume = np.empty((N_SAMPLES, N_SAMPLES, kernel.CHANNELS), np.float32)
    kernel.backproject_slab(slab, cross, 0, COSINES, SINES, ONES, CENTRE, volume)
    return volume


@pytest.mark.parametrize("name", ["ramp", "shepp-logan", "hann"])
def test_filtering_is_the_product_with_a_toeplitz_matrix(name: str):
    projections = np.random.default_rng(1).normal(size=(5, N_SAMPLES, 150)).astype(np.float32)
    taps = filter_taps(name, N_SAMPLES, 0.1)
    matrix = taps[N_SAMPLES + np.subtract.outer(np.arange(N_SAMPLES), np.arange(N_SAMPLES))]
    slab = np.empty((8, N_SAMPLES + 2, kernel.CHANNELS), np.float32)
    kernel.filter_slab(projections, 128, taps.astype(np.float32), slab)
    np.testing.assert_allclose(slab[:5, 1:-1, :22], (matrix @ projections[:, :, 128:]), atol=2e-5)
    assert not slab[5:].any()
    assert not slab[:, [0, -1]].any()
    assert not slab[:, :, 22:].any()


def test_backprojection_interpolates_each_projection_where_the_pixel_falls():
    slab = slab_of(np.random.default_rng(2))
    step = np.arange(N_SAMPLES) - (N_SAMPLES - 1) / 2
    expected = np.zeros((N_SAMPLES, N_SAMPLES))
    for cosine, sine, row in zip(COSINES, SINES, slab[:, :, 3], strict=True):
        at = step[None] * cosine + step[:, None] * sine + CENTRE
        expected += np.interp(at, np.arange(-1, N_SAMPLES + 1), row, left=0, right=0)
    np.testing.assert_allclose(backprojected(slab)[:, :, 3], expected, atol=1e-5)


def test_projection_is_the_transpose_of_backprojection():
    rng = np.random.default_rng(3)
    slab, volume = slab_of(rng), rng.normal(size=(N_SAMPLES, N_SAMPLES, kernel.CHANNELS)).astype(np.float32)
    projected = np.empty_like(slab)
    kernel.project_slab(volume, COSINES, SINES, CENTRE, projected)
    np.testing.assert_allclose(
        np.sum(projected * slab, axis=(0, 1)), np.sum(volume * backprojected(slab), axis=(0, 1)), rtol=1e-3, atol=1e-3
    )


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_results_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(4)
    slab, cross, results = slab_of(rng), slab_of(rng), []
    before = numba.get_num_threads()
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            volume = backprojected(slab)
            projected = np.empty_like(slab)
            kernel.project_slab(volume, COSINES, SINES, CENTRE, projected)
            results.append((volume, backprojected(slab, cross), projected))
    finally:
        numba.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert one.tobytes() == two.tobytes()
