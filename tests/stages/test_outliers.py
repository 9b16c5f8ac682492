import numpy as np
import pytest
from analytic import Spot

from operandi.errors import ShapeError
from operandi.stages.outliers import without_spots, without_stripes

ROTATION = np.arange(90) * 2.0
TRANSLATION = np.linspace(-5, 5, 81)


def sinogram(seed: int, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Clean and noisy (rotation, translation, q) of discs with sharp edges."""
    rng = np.random.default_rng(seed)
    clean = np.zeros((90, 81, 3))
    for _ in range(8):
        spot = Spot(*rng.uniform(-2, 2, 2), rng.uniform(0.4, 1.5), disc=True)
        clean += spot.project(ROTATION, TRANSLATION, 0)[..., None] * rng.uniform(0.3, 1, 3)
    clean /= clean.max()
    return clean.astype(np.float32), (clean + noise * rng.normal(size=clean.shape)).astype(np.float32)


def test_grain_spots_and_streaks_are_replaced_and_hardly_anything_else():
    for seed in range(4):
        clean, noisy = sinogram(seed)
        rng, lit = np.random.default_rng(seed + 50), np.zeros(noisy.shape, bool)
        lit[rng.integers(0, 90, 60), rng.integers(5, 76, 60), rng.integers(0, 3, 60)] = True
        lit[33, 20:50, 1] = True  # a streak
        spoiled = np.where(lit, noisy + 3, noisy)
        found = without_spots(spoiled, ROTATION, variance=np.full_like(noisy, 0.02**2))
        assert found.replaced[lit].mean() > 0.95
        assert found.replaced[~lit].mean() < 0.002
        hit = lit & found.replaced
        assert np.sqrt(np.mean((found.values - clean)[hit] ** 2)) < 0.06
        assert found.variance is not None
        assert 0.7 < np.sqrt(np.mean((found.values - clean)[hit] ** 2 / found.variance[hit])) < 1.4
        assert np.array_equal(found.values[~found.replaced], spoiled[~found.replaced])


def test_the_order_of_the_rotations_does_not_matter():
    _, noisy = sinogram(5)
    noisy[10, 40] += 3
    order = np.random.default_rng(0).permutation(90)
    np.testing.assert_array_equal(without_spots(noisy[order], ROTATION[order]).values, without_spots(noisy, ROTATION).values[order])


def test_spots_become_nan_on_request_and_what_was_not_measured_stays_so():
    _, noisy = sinogram(6)
    noisy[10, 40], noisy[20, 30], noisy[:, 12] = 5, np.nan, np.nan
    found = without_spots(noisy, ROTATION, variance=np.ones_like(noisy) * 4e-4, fill=False)
    assert found.variance is not None
    assert np.isnan(found.values[10, 40]).all()
    assert np.isnan(found.variance[10, 40]).all()
    filled = without_spots(noisy, ROTATION)
    assert np.isfinite(filled.values[10, 40]).all()
    assert np.isnan(filled.values[20, 30]).all()
    assert np.isnan(filled.values[:, 12]).all()
    assert not filled.replaced[20, 30].any()


def test_stripes_are_taken_out_and_the_object_stays():
    clean, noisy = sinogram(7)
    stripes = np.zeros(81, np.float32)
    stripes[[20, 41, 60]] = 0.15, -0.2, 0.1
    left = without_stripes(noisy + stripes[:, None]) - noisy
    assert np.abs(left[:, [20, 41, 60]]).max() < 0.08
    assert np.sqrt(np.mean(left**2)) < 0.5 * np.sqrt(np.mean(stripes**2))
    assert np.isnan(without_stripes(np.where(clean > 2, clean, np.nan))).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda v: without_spots(v[:4], ROTATION[:4]),
        lambda v: without_spots(v, ROTATION[:4]),
        lambda v: without_spots(v, ROTATION, limit=0),
        lambda v: without_spots(v, ROTATION, variance=v[:3]),
        lambda v: without_stripes(v, width=4),
        lambda v: without_stripes(v, width=83),
        lambda v: without_stripes(v[0]),
    ],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ShapeError):
        call(sinogram(0)[1])
