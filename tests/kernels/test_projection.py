import numba
import numpy as np
import pytest
from scipy.integrate import quad

from operandi.kernels import projection as kernel

N, N_SAMPLES, CENTRE = 19, 23, 10.7
ANGLE = np.deg2rad([0.0, 17.0, 45.0, 63.0, 90.0, 111.0, 135.0, 200.0, 305.0])
BEAM, ORDERS = kernel.beams(np.cos(ANGLE), np.sin(ANGLE), CENTRE)
NO_STEP = np.empty((0, 0), np.float32)
NOTHING, NO_SQUARES = np.empty((0, 1, 1, kernel.CHANNELS), np.float32), np.empty((0, 1, kernel.CHANNELS), np.float32)


def random_volumes(seed: int, n_slabs: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_slabs, N, N, kernel.CHANNELS)).astype(np.float32)


def random_sinograms(seed: int, n_slabs: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_slabs, ANGLE.size, N_SAMPLES, kernel.CHANNELS)).astype(np.float32)


def projected(volumes: np.ndarray) -> np.ndarray:
    out = np.full((len(volumes), ANGLE.size, N_SAMPLES, kernel.CHANNELS), np.nan, np.float32)
    kernel.project(volumes, BEAM, ORDERS, NOTHING, NO_STEP, out, NO_SQUARES)
    return out


def backprojected(sinograms: np.ndarray) -> np.ndarray:
    out = np.full((len(sinograms), N, N, kernel.CHANNELS), np.nan, np.float32)
    kernel.backproject(sinograms, BEAM, NO_STEP, np.float32(0), out)
    return out


def overlap(angle: float, left: float, right: float) -> float:
    """Area of the unit square about the origin with x·cos + y·sin in [left, right], from the lengths of its chords."""

    def chord(t: float) -> float:
        c, s = abs(np.cos(angle)), abs(np.sin(angle))
        if min(c, s) < 1e-9:
            return float(abs(t) < 0.5)
        return max(0.0, min(1 / max(c, s), ((c + s) / 2 - abs(t)) / (c * s)))

    edges = [t for t in (-(abs(np.cos(angle)) + abs(np.sin(angle))) / 2, -0.5, 0.5) if left < t < right]
    return quad(chord, left, right, points=edges or None, limit=200)[0]


def test_a_weight_is_the_area_of_pixel_and_strip():
    for row, column in ((0, 0), (9, 9), (4, 13), (18, 2)):
        volumes = np.zeros((1, N, N, kernel.CHANNELS), np.float32)
        volumes[0, row, column] = 1.0
        found = projected(volumes)[0, :, :, 0]
        for p, angle in enumerate(ANGLE):
            at = (column - (N - 1) / 2) * np.cos(angle) + (row - (N - 1) / 2) * np.sin(angle) + CENTRE
            expected = [overlap(angle, k - 0.5 - at, k + 0.5 - at) for k in range(N_SAMPLES)]
            np.testing.assert_allclose(found[p], expected, atol=2e-6)


def test_what_lies_within_the_detector_keeps_its_sum():
    volumes = random_volumes(1)
    volumes[:, :4] = volumes[:, -4:] = 0.0
    volumes[:, :, :4] = volumes[:, :, -4:] = 0.0
    sums = volumes.sum(axis=(1, 2), dtype=float)
    np.testing.assert_allclose(projected(volumes).sum(axis=2, dtype=float), np.broadcast_to(sums[:, None], (2, ANGLE.size, 64)), atol=2e-4)


def test_backprojection_is_the_transpose_of_projection():
    volumes, sinograms = random_volumes(2), random_sinograms(3)
    one = np.sum(projected(volumes) * sinograms, axis=(1, 2), dtype=float)
    other = np.sum(volumes * backprojected(sinograms), axis=(1, 2), dtype=float)
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_slabs_do_not_touch_each_other():
    volumes, sinograms = random_volumes(4, 3), random_sinograms(5, 3)
    for s in range(3):
        assert projected(volumes)[s].tobytes() == projected(volumes[s : s + 1].copy())[0].tobytes()
        assert backprojected(sinograms)[s].tobytes() == backprojected(sinograms[s : s + 1].copy())[0].tobytes()


def test_what_is_left_of_the_measured_is_scaled_and_0_where_nothing_is_measured():
    volumes, measured = random_volumes(6), random_sinograms(7)
    measured[1, 2, 5], measured[0, 3, :, 7] = np.nan, np.nan
    scale = np.random.default_rng(8).random((ANGLE.size, N_SAMPLES), np.float32)
    left, squares = np.empty_like(measured), np.empty((2, ANGLE.size, kernel.CHANNELS), np.float32)
    kernel.project(volumes, BEAM, ORDERS, measured, scale, left, squares)
    expected = np.nan_to_num(measured - projected(volumes))
    np.testing.assert_allclose(left, scale[:, :, None] * expected, atol=1e-6)
    np.testing.assert_allclose(squares, (expected**2).sum(axis=2), rtol=1e-5)


def test_an_update_goes_by_its_step_and_not_below_the_lowest():
    volumes, sinograms = random_volumes(9), random_sinograms(10)
    step = np.random.default_rng(11).random((N, N), np.float32)
    expected = np.maximum(volumes + step[:, :, None] * backprojected(sinograms), 0.25)
    kernel.backproject(sinograms, BEAM, step, np.float32(0.25), volumes)
    np.testing.assert_allclose(volumes, expected, atol=1e-5)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_results_do_not_depend_on_the_number_of_threads():
    volumes, sinograms, results = random_volumes(12), random_sinograms(13), []
    before = numba.get_num_threads()
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            results.append((projected(volumes).tobytes(), backprojected(sinograms).tobytes()))
    finally:
        numba.set_num_threads(before)
    assert results[0] == results[1]


def test_strips_agree_with_astra():
    astra = pytest.importorskip("astra")
    volume = np.random.default_rng(14).random((N, N), np.float32)
    geometry = astra.create_proj_geom("parallel", 1.0, N_SAMPLES, ANGLE)
    projector = astra.create_projector("strip", geometry, astra.create_vol_geom(N, N))
    identifier, theirs = astra.create_sino(volume[::-1].copy(), projector)
    astra.data2d.delete(identifier)
    astra.projector.delete(projector)
    beam, orders = kernel.beams(np.cos(ANGLE), np.sin(ANGLE), (N_SAMPLES - 1) / 2)
    ours = np.empty((1, ANGLE.size, N_SAMPLES, kernel.CHANNELS), np.float32)
    volumes = np.ascontiguousarray(np.broadcast_to(volume[None, :, :, None], (1, N, N, kernel.CHANNELS)))
    kernel.project(volumes, beam, orders, NOTHING, NO_STEP, ours, NO_SQUARES)
    np.testing.assert_allclose(ours[0, :, :, 3], theirs, atol=2e-5 * theirs.max())
