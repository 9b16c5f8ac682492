import numpy as np
import pytest
import xarray as xr
from analytic import Spot
from shared import shared_file

from operandi.errors import ShapeError
from operandi.single import Processing, make_tomogram
from operandi.sources.sinograms import read_sinogram
from operandi.stages.axis import locate_axis
from operandi.stages.wobble import find_wobble, locate_wobble, straighten, straighten_values, straighten_variance

FULL_TURN = np.arange(60) * 6.0
TRANSLATION = np.arange(121.0)
WAVES = np.stack([np.ones(60), np.cos(np.deg2rad(FULL_TURN)), np.sin(np.deg2rad(FULL_TURN))], axis=1)


def discs(axis: np.ndarray, seed: int) -> np.ndarray:
    """Six discs about an axis that lies elsewhere in each projection, in samples."""
    rng = np.random.default_rng(seed)
    total = np.zeros((60, 121))
    for _ in range(6):
        distance, azimuth, radius = rng.uniform(0, 25), rng.uniform(0, 2 * np.pi), rng.uniform(5, 19)
        spot = Spot(distance * np.cos(azimuth), distance * np.sin(azimuth), radius, rng.uniform(0.3, 1), disc=True)
        total += np.concatenate([spot.project(FULL_TURN[i : i + 1], TRANSLATION, axis[i]) for i in range(60)])
    return total / total.max()


def visible(offset: np.ndarray) -> np.ndarray:
    """What of offsets is no shift of the axis and no move of the sample."""
    return offset - WAVES @ np.linalg.lstsq(WAVES, offset, rcond=None)[0]


def test_a_random_wobble_is_found_within_its_sigma_and_the_axis_within_a_tenth_of_a_sample():
    pulls, errors, axes, axis_pulls = [], [], [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        axis, wobble = 60 + rng.uniform(-10, 10), 0.5 * rng.normal(size=60)
        noisy = discs(axis + wobble, seed)[:, :, None] + rng.normal(size=(60, 121, 50)) / 3
        offset, sigma, about = locate_wobble(noisy, FULL_TURN, TRANSLATION)
        errors.append(visible(offset - wobble))
        pulls.append(visible(offset - wobble) / sigma)
        axes.append(about["axis"] - axis)
        axis_pulls.append(axes[-1] / about["axis_uncertainty"])
        assert about["wobble"] == pytest.approx(0.5, rel=0.35)
    assert np.sqrt(np.mean(np.square(errors))) < 0.3
    assert 0.8 < np.sqrt(np.mean(np.square(pulls))) < 1.25
    # 0.5 / √60 = 0.065 is what the wobble itself leaves; 8 realisations scatter about that by a quarter
    assert np.sqrt(np.mean(np.square(axes))) < 0.1
    assert 0.6 < np.sqrt(np.mean(np.square(axis_pulls))) < 1.4


def test_projections_that_do_not_wobble_are_left_alone():
    noisy = discs(np.full(60, 57.3), 3)[:, :, None] + np.random.default_rng(3).normal(size=(60, 121, 50)) / 3
    offset, _, about = locate_wobble(noisy, FULL_TURN, TRANSLATION)
    assert about["wobble"] < 0.1
    assert np.abs(offset).max() < 0.1


def test_a_drift_is_taken_out_and_the_sinogram_is_that_of_a_steady_axis():
    drift = np.linspace(-1.5, 1.5, 60)
    drifted, steady = discs(60 + drift, 8), discs(np.full(60, 60.0), 8)
    data = xr.DataArray(drifted, {"rotation": FULL_TURN, "translation": 0.1 * TRANSLATION}, ("rotation", "translation"))
    found = find_wobble(data)
    np.testing.assert_allclose(visible(found["offset"].to_numpy()), visible(0.1 * drift), atol=0.005)
    straight = straighten(data, 0.1 * drift)
    assert np.nanstd(straight - steady) < 0.15 * np.std(drifted - steady)
    assert locate_axis(straighten(data, found["offset"]).to_numpy(), FULL_TURN, TRANSLATION).wobble < 0.1


def test_whole_steps_move_cells_unchanged_and_leave_nothing_measured_beyond_the_end():
    values = np.random.default_rng(0).normal(size=(3, 9, 2)).astype(np.float32)
    moved = straighten_values(values, np.array([0.0, 2.0, -20.0]))
    np.testing.assert_array_equal(moved[0], values[0])
    np.testing.assert_array_equal(moved[1, :7], values[1, 2:])
    assert np.isnan(moved[1, 7:]).all()
    assert np.isnan(moved[2]).all()


def test_sigma_is_that_of_straightened_noise():
    noise = np.random.default_rng(1).normal(size=(1, 40, 4000)).astype(np.float32)
    for offset in (0.3, -1.5, 0.5):
        moved = straighten_values(noise, np.array([offset]))[0, 4:-4]
        expected = straighten_variance(np.ones_like(noise), np.array([offset]))[0, 4:-4]
        np.testing.assert_allclose(moved.var(axis=1), expected[:, 0], rtol=0.1)  # four times the scatter of a variance of 4000


def test_a_dataset_keeps_its_sigma_and_its_order_of_dimensions_is_that_of_sinograms():
    data = xr.DataArray(discs(np.full(60, 60.0), 1), {"rotation": FULL_TURN, "translation": TRANSLATION}, ("rotation", "translation"))
    both = straighten(xr.Dataset({"intensity": data, "sigma": 0 * data + 2}).transpose("translation", "rotation"), np.full(60, 0.5))
    assert both["intensity"].dims == ("rotation", "translation")
    np.testing.assert_allclose(both["sigma"][:, 5:-5], 2 * np.sqrt(2 * (0.5625**2 + 0.0625**2)), rtol=1e-5)


def test_a_catalyst_measured_at_a_beamline_wobbles_and_is_better_for_being_straightened():
    entry = "entry1/stxm_entry"
    datasets = {"signal": "data/data", "monitor": "monitor/data", "rotation": "data/theta", "translation": "data/x"}
    paths = {name: f"{entry}/{path}" for name, path in datasets.items()}
    measured = read_sinogram(shared_file("pencilbeam_ct/I18_mm_stxm_xrf_xrd.nxs"), row=3, **paths)
    sinogram = make_tomogram(measured, Processing(transmission=True)).sinogram
    pitch = float(sinogram["translation"][1] - sinogram["translation"][0])
    found = find_wobble(sinogram)
    # A sine fit to the centres of mass leaves 1.15 samples, which includes what is no rigid move.
    assert 0.4 < found.attrs["wobble"] / pitch < 1.3
    straight = straighten(sinogram, found["offset"])
    assert mass_scatter(straight) < 0.6 * mass_scatter(sinogram)


def mass_scatter(sinogram: xr.DataArray) -> float:
    """How far the centres of mass lie off a sine curve, in samples; moments of higher order play no part."""
    values = np.clip(sinogram.interpolate_na("translation").fillna(0).to_numpy(), 0, None)
    theta = np.deg2rad(sinogram["rotation"].to_numpy())
    waves = np.stack([np.ones_like(theta), np.cos(theta), np.sin(theta)], axis=1)
    centre = values @ np.arange(values.shape[1]) / values.sum(axis=1)
    return float(np.std(centre - waves @ np.linalg.lstsq(waves, centre, rcond=None)[0]))


@pytest.mark.parametrize("offset", [np.zeros(3), np.full(60, np.nan), np.zeros((60, 2))])
def test_offsets_that_do_not_fit_are_refused(offset: np.ndarray):
    with pytest.raises(ShapeError, match="one finite number"):
        straighten_values(np.zeros((60, 121, 1), np.float32), offset)
    with pytest.raises(ShapeError, match="coordinates"):
        find_wobble(xr.DataArray(np.zeros((60, 121)), dims=("rotation", "translation")))
