import h5py
import numpy as np
import pytest
import xarray as xr
from analytic import Spot
from shared import shared_file

from operandi.errors import ShapeError
from operandi.experiment import QWindow
from operandi.stages.axis import Axis
from operandi.stages.corrections import correct, correct_values, flux, transmission_of, without_dead_time
from operandi.stages.maps import screen
from operandi.stages.reconstruction import reconstruct

RNG = np.random.default_rng(5)
SINOGRAM = RNG.uniform(1, 2, (4, 9, 3)).astype(np.float32)
FLUX = RNG.uniform(900, 1100, (4, 9))


def test_the_monitor_takes_out_the_flux_on_a_scale_that_the_caller_holds_over_a_run():
    corrected, _ = correct_values(SINOGRAM * (FLUX / 1000)[:, :, None], monitor=FLUX, monitor_reference=1000)
    np.testing.assert_allclose(corrected, SINOGRAM, rtol=1e-6)


def test_without_a_reference_the_median_flux_stays_as_it_is():
    corrected, _ = correct_values(SINOGRAM, monitor=FLUX)
    np.testing.assert_allclose(corrected, SINOGRAM * (np.median(FLUX) / FLUX)[:, :, None], rtol=1e-6)


@pytest.mark.parametrize("flux", [0.0, -3.0, np.nan, np.inf, 1e-320])
def test_a_cell_without_flux_is_not_measured(flux: float):
    monitor = FLUX.copy()
    monitor[2, 5] = flux
    values, variance = correct_values(SINOGRAM, variance=SINOGRAM, monitor=monitor)
    assert variance is not None
    assert np.isnan(values[2, 5]).all()
    assert np.isnan(variance[2, 5]).all()
    assert np.isfinite(np.delete(values.reshape(36, 3), 2 * 9 + 5, axis=0)).all()


def test_air_is_the_mean_of_the_rim_over_all_rotations():
    air = np.array([5.0, 6.0, 7.0])
    sinogram = np.zeros((4, 9, 3))
    sinogram[:, 3:6] = 10
    corrected, _ = correct_values(sinogram + air, air="rim", rim_points=2)
    np.testing.assert_allclose(corrected, sinogram, atol=1e-6)
    np.testing.assert_allclose(correct_values(sinogram + air, air=air)[0], sinogram, atol=1e-6)


def test_a_rim_cell_that_is_missing_does_not_spoil_air():
    sinogram = np.full((4, 9, 1), 3.0)
    sinogram[0, 0] = np.nan
    corrected, _ = correct_values(sinogram, air="rim")
    assert np.nansum(np.abs(corrected)) == 0
    assert np.isnan(corrected[0, 0, 0])


def test_sigma_is_what_noise_realisations_scatter_by():
    sigma = np.sqrt(SINOGRAM)
    noisy = SINOGRAM[..., None] + sigma[..., None] * np.random.default_rng(6).normal(size=(*SINOGRAM.shape, 1500))
    realisations = np.stack([correct_values(n, monitor=FLUX, air="rim")[0] for n in np.moveaxis(noisy, -1, 0)])
    _, variance = correct_values(SINOGRAM, variance=sigma**2, monitor=FLUX, air="rim")
    inner = np.s_[:, 2:-2]  # the rim's own cells are correlated with their mean
    ratio = realisations.var(axis=0)[inner] / variance[inner]
    assert abs(ratio.mean() - 1) < 0.01
    assert abs(ratio - 1).max() < 5 * np.sqrt(2 / 1500)


def test_transmission_corrects_instead_of_monitor_and_air():
    transmission = np.full((4, 9), 0.5)
    np.testing.assert_allclose(correct_values(SINOGRAM, transmission=transmission)[0], 2 * SINOGRAM)
    with pytest.raises(ShapeError, match="instead"):
        correct_values(SINOGRAM, transmission=transmission, air="rim")
    with pytest.raises(ShapeError, match="instead"):
        correct_values(SINOGRAM, transmission=transmission, monitor=FLUX)


@pytest.mark.parametrize(
    "wrong",
    [
        {"monitor": FLUX[:2]},
        {"monitor": FLUX, "monitor_reference": 0.0},
        {"air": "none"},
        {"air": np.ones(4)},
        {"air": "rim", "rim_points": 5},
        {"air": "rim", "rim_points": 0},
        {"variance": np.ones((2, 2, 2))},
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict):
    with pytest.raises(ShapeError):
        correct_values(SINOGRAM, **wrong)


def test_labelled_sinograms_keep_their_labels_whatever_the_order_of_dimensions():
    data = xr.DataArray(SINOGRAM, dims=("rotation", "translation", "q"), coords={"q": [1.0, 2.0, 3.0]}, attrs={"units": "counts"})
    monitor = xr.DataArray(FLUX.T, dims=("translation", "rotation"))
    corrected = correct(data.transpose("q", "translation", "rotation"), monitor=monitor, air="rim")
    np.testing.assert_array_equal(corrected, correct_values(SINOGRAM, monitor=FLUX, air="rim")[0])
    assert corrected.attrs == {"units": "counts"}
    both = correct(xr.Dataset({"intensity": data, "sigma": data}), monitor=monitor)
    np.testing.assert_allclose(both["sigma"], both["intensity"], rtol=1e-6)


def test_measured_air_brings_its_own_sigma():
    air = xr.Dataset({"intensity": ("q", [0.1, 0.2, 0.3]), "sigma": ("q", [0.01, 0.02, 0.5])})
    data = xr.DataArray(SINOGRAM, dims=("rotation", "translation", "q"))
    found = correct(xr.Dataset({"intensity": data, "sigma": 0.1 + 0 * data}), air=air)
    np.testing.assert_allclose(found["intensity"], SINOGRAM - np.array([0.1, 0.2, 0.3]), rtol=1e-6)
    np.testing.assert_allclose(found["sigma"][0, 0], np.hypot(0.1, [0.01, 0.02, 0.5]), rtol=1e-6)


def test_dead_time_is_undone_with_its_variance_and_saturated_counts_are_nan():
    true = np.random.default_rng(0).uniform(1e3, 4e5, (3, 9, 2))
    seen = true / (1 + true * 1e-6 / 0.5)
    found = correct(xr.DataArray(seen, dims=("rotation", "translation", "q")), dead_time_s=1e-6, exposure_s=0.5)
    np.testing.assert_allclose(found, true, rtol=1e-5)
    counts, variance = without_dead_time(np.float32([100.0, 5e5, 6e5]), 1e-6, 0.5, variance=np.float32([100.0, 1, 1]))
    assert np.isnan(counts[1:]).all()
    assert variance is not None
    # a change of the counts seen changes the true ones by the square of 1 / live
    step = without_dead_time(np.float32([99.0, 101.0]) * 1000, 1e-6, 0.5)[0]
    _, slope = without_dead_time(np.float32([1e5]), 1e-6, 0.5, variance=np.float32([1.0]))
    assert slope is not None
    assert np.sqrt(slope[0]) == pytest.approx(np.diff(step)[0] / 2000, rel=1e-3)
    with pytest.raises(ShapeError, match="exposure_s positive"):
        correct(xr.DataArray(seen, dims=("rotation", "translation", "q")), dead_time_s=1e-6)


def test_a_range_that_an_amplifier_changes_during_a_run_leaves_no_step():
    gain = np.where(np.arange(9) > 4, 1e7, 1e8) * np.ones((4, 1))
    monitor = flux(FLUX * gain + 25, gain=gain, dark=25)
    np.testing.assert_allclose(monitor, FLUX, rtol=1e-9)
    assert np.isnan(flux(np.array([0.0, -1, np.nan, 5, 5]), gain=np.array([1, 1, 1, 0, -2]))).all()


def test_a_sample_measured_at_a_beamline_transmits_what_its_diodes_say_gains_included():
    def fluxes(name: str) -> tuple[float, float, float]:
        with h5py.File(shared_file(f"saxs_waxs_frames/{name}.hdf")) as file:
            about = file["entry/Metadata"]
            pairs = (("Pin_TrPD", "Pin_TrPDgain"), ("Pin_TrI0", "Pin_TrI0gain"), ("I0_cts", "I0_gain"))
            return tuple(float(flux(about[c][0], gain=about[g][0])) for c, g in pairs)

    behind, before, monitor = fluxes("saxs_PU_25C_orig_0061")
    blank_behind, blank_before, blank_monitor = fluxes("saxs_HeaterBlank_0060")
    blank = {"blank_transmitted": blank_behind, "blank_incident": blank_before}
    assert transmission_of(behind, before, **blank) == pytest.approx(0.946, abs=0.002)
    # Without the gains the monitor's two ranges would differ ten times.
    assert monitor / blank_monitor == pytest.approx(1, abs=0.1)
    assert np.isnan(transmission_of(np.array([1.0, np.nan]), np.array([0.0, 1.0]), **blank)).all()
    with pytest.raises(ShapeError, match="no flux"):
        transmission_of(behind, before, blank_transmitted=0.0, blank_incident=1.0)


def test_maps_of_a_run_with_drifting_flux_and_strong_air_are_those_of_a_steady_run_without():
    rotation, translation, q = np.arange(0, 180, 2.0), np.linspace(-5, 5, 81), np.linspace(1.4, 2.1, 71)
    window = QWindow(phase="graphite", q_min_inv_angstrom=1.82, q_max_inv_angstrom=1.90)
    rng = np.random.default_rng(11)
    true = sum(
        Spot(*rng.uniform(-2, 2, 2), rng.uniform(0.5, 1.2)).project(rotation, translation, 0)[..., None]
        * (rng.uniform(0.5, 1) * np.exp(-(((q - 1.86) / 0.012) ** 2)) + rng.uniform(0, 0.3))
        for _ in range(6)
    )
    air = 5 * true.max() * np.exp(-(((q - 1.6) / 0.3) ** 2))
    drift = np.linspace(1, 0.7, rotation.size * translation.size).reshape(rotation.size, -1)
    flux_seen = 1e6 * drift * rng.uniform(0.98, 1.02, drift.shape)
    coords = {"rotation": rotation, "translation": translation, "q": q}
    data = xr.DataArray((true + air) * (flux_seen / 1e6)[..., None], coords, ("rotation", "translation", "q"))
    corrected = correct(data, monitor=flux_seen, monitor_reference=1e6, air="rim")
    steady = data.copy(data=true)
    maps = [screen(reconstruct(s, axis=Axis(0.0, 0.0)), [window])["intensity"].values[0] for s in (corrected, steady, data)]
    inside = maps[1] > 0.2 * maps[1].max()
    assert np.abs(maps[0] / maps[1] - 1)[inside].max() < 0.02
    assert np.abs(maps[2] / maps[1] - 1)[inside].max() > 0.1  # without correction: what the test would see
