"""The share of false discoveries, and what has no significance."""

import numpy as np
import pytest
import xarray as xr

from operandi.errors import ShapeError
from operandi.stages.significance import find_significant, thresholds


def maps(values: np.ndarray, sigma: np.ndarray | float = 1.0) -> xr.Dataset:
    phases = [f"phase {i}" for i in range(len(values))]
    dims = ("phase", "y", "x")
    return xr.Dataset({"intensity": (dims, values), "sigma": (dims, np.broadcast_to(sigma, values.shape))}, {"phase": phases})


def test_of_what_is_called_significant_the_given_share_is_noise():
    random, false, found = np.random.default_rng(0), [], []
    for _ in range(200):
        values = random.normal(size=(1, 60, 60))
        values[0, :10] += 4
        mask = find_significant(maps(values), rate=0.05, streaks=False)["significant"].to_numpy()[0]
        false.append(mask[10:].sum() / max(mask.sum(), 1))
        found.append(mask[:10].mean())
    # Benjamini and Hochberg: exactly the rate times the share of empty voxels, 50 of 60 rows; 200 maps of 600 discoveries tell it to 0.001.
    assert np.mean(false) == pytest.approx(0.05 * 50 / 60, abs=0.003)
    assert np.mean(found) > 0.9


def test_streaks_of_too_few_angles_are_not_taken_for_a_phase():
    """Values that go both ways with four times the width of the noise, and a phase well above."""
    values = 4 * np.random.default_rng(4).normal(size=(1, 60, 60))
    values[0, :10] += 24
    blind, aware = (find_significant(maps(values), streaks=s)["significant"].to_numpy()[0] for s in (False, True))
    assert blind[10:].mean() > 0.2
    assert aware[10:].mean() < 0.02
    assert aware[:10].mean() > 0.98


@pytest.mark.parametrize("control", ["fdr", "fdr-dependent"])
def test_noise_alone_is_rarely_significant(control):
    random = np.random.default_rng(1)
    any_found = [bool(find_significant(maps(random.normal(size=(1, 40, 40))), control=control)["significant"].any()) for _ in range(200)]
    assert np.mean(any_found) < 0.1


def test_by_voxel_the_rate_is_that_of_empty_voxels():
    mask = find_significant(maps(np.random.default_rng(2).normal(size=(1, 200, 200))), rate=0.01, control="voxel", streaks=False)
    assert float(mask["significant"].mean()) == pytest.approx(0.01, abs=0.002)
    assert float(mask["threshold"][0]) == pytest.approx(2.326, abs=1e-3)


def test_each_phase_has_a_threshold_of_its_own_that_does_not_depend_on_the_order_of_dims():
    values = np.random.default_rng(3).normal(size=(2, 30, 30))
    values[0, :15] += 6
    one, other = find_significant(maps(values)), find_significant(maps(values).transpose("y", "phase", "x"))
    assert float(one["threshold"][0]) < 3 < float(one["threshold"][1])
    xr.testing.assert_equal(one["significant"], other["significant"].transpose("phase", "y", "x"))
    assert float(find_significant(maps(values), at_least=5.0)["threshold"].min()) == 5


def test_what_is_not_known_is_not_significant():
    values, sigma = np.full((1, 2, 3), 100.0), np.ones((1, 2, 3))
    values[0, 0, 0], values[0, 0, 1], sigma[0, 0, 2], sigma[0, 1, 0] = np.nan, np.inf, 0.0, np.nan
    found = find_significant(maps(values, sigma))
    assert found["significant"].to_numpy().tolist() == [[[False, False, False], [False, True, True]]]
    assert np.isnan(found["ratio"].to_numpy()[0, 0]).all()


def test_a_single_voxel_and_a_map_of_nothing_have_thresholds():
    assert bool(find_significant(maps(np.full((1, 1, 1), 9.0)))["significant"])
    assert thresholds(np.full(4, np.nan), 0.05) == np.inf


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: find_significant(xr.Dataset({"intensity": ("x", [1.0])})),
        lambda: find_significant(maps(np.ones((1, 2, 2)), np.nan)),
        lambda: find_significant(maps(np.ones((1, 2, 2))), rate=0.0),
        lambda: find_significant(maps(np.ones((1, 2, 2))), control="none"),
    ],
)
def test_maps_without_sigma_and_impossible_rates_are_refused(wrong):
    with pytest.raises(ShapeError):
        wrong()
