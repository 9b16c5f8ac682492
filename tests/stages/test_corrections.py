import numpy as np
import pytest
import xarray as xr

from operandi.errors import ShapeError
from operandi.stages.corrections import correct, correct_values

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
