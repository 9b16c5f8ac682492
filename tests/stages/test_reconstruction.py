import sys

import numpy as np
import pytest
import xarray as xr
from analytic import Spot

from operandi.errors import MissingBackendError, ShapeError
from operandi.stages.axis import Axis
from operandi.stages.reconstruction import reconstruct
from operandi.stages.volumes import grid_mm, partial_variance, partial_volume

PITCH, AXIS = 0.05, 0.113
TRANSLATION = 2.0 + (np.arange(61) - 30) * PITCH
CENTRE = 2.0 + AXIS
ANGLE = np.arange(96) * 180 / 96
SPOTS = (Spot(0.3, -0.4, 0.15, 3.0), Spot(-0.25, 0.2, 0.45, 2.0, disc=True))
SINOGRAM = np.stack([s.project(ANGLE, TRANSLATION, CENTRE) for s in SPOTS], axis=-1)
GRID = grid_mm(TRANSLATION)


def labelled(values: np.ndarray = SINOGRAM, rotation: np.ndarray = ANGLE) -> xr.DataArray:
    coords = {"rotation": rotation, "translation": TRANSLATION, "q": ("q", [1.0, 2.0], {"units": "1/angstrom"})}
    return xr.DataArray(values, coords, ("rotation", "translation", "q"), attrs={"units": "counts"})


def nrmse(volume: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((volume - truth) ** 2) / np.mean(truth**2)))


def test_labelled_reconstruction_carries_units_coordinates_and_how_it_was_made():
    data = labelled()
    result = reconstruct(data, axis=Axis(CENTRE, 0.001), sigma=xr.full_like(data, 0.1))
    assert dict(result.sizes) == {"y": 61, "x": 61, "q": 2}
    assert result["intensity"].attrs["units"] == "counts/mm"
    assert result["q"].attrs["units"] == "1/angstrom"
    np.testing.assert_allclose(result["x"], GRID)
    np.testing.assert_array_equal(result["intensity"], partial_volume(SINOGRAM, ANGLE, TRANSLATION, CENTRE))
    variance = partial_variance(np.full_like(SINOGRAM, 0.01), ANGLE, TRANSLATION, CENTRE)
    np.testing.assert_allclose(result["sigma"], np.sqrt(variance), rtol=1e-5)
    assert result.attrs == {"method": "fbp", "engine": "native", "axis_mm": CENTRE, "filter": "ramp"}


def test_the_axis_is_found_and_a_single_channel_needs_no_q():
    result = reconstruct(labelled().isel(q=0, drop=True))
    assert result.attrs["axis_mm"] == pytest.approx(CENTRE, abs=0.02 * PITCH)
    assert result["intensity"].dims == ("y", "x")


def test_q_may_decrease_and_its_channels_stay_with_it():
    there, back = (reconstruct(data, axis=CENTRE) for data in (labelled(), labelled()[:, :, ::-1]))
    np.testing.assert_array_equal(back["q"], [2.0, 1.0])
    xr.testing.assert_identical(back.sortby("q"), there)


def test_one_angle_gives_a_volume_with_its_sigma():
    data = labelled()[:1]
    result = reconstruct(data, axis=CENTRE, sigma=xr.full_like(data, 0.1))
    assert np.isfinite(result["intensity"]).all()
    assert (result["sigma"][20:-20, 20:-20] > 0).all()


@pytest.mark.parametrize("method", ["fbp", "sirt", "cgls", "mlem", "tv"])
def test_a_sigma_of_another_shape_is_refused(method):
    data = labelled()
    for wrong in (data[:, :, :1], data[:-1], data.isel(q=0, drop=True)):
        with pytest.raises(ShapeError, match="sigma"):
            reconstruct(data, axis=CENTRE, method=method, sigma=wrong, bootstrap=None if method == "fbp" else 0)


def test_fbp_agrees_with_astra():
    pytest.importorskip("astra")
    native, peer = (reconstruct(labelled(), axis=CENTRE, engine=engine)["intensity"].to_numpy() for engine in ("native", "astra"))
    # strips and lines of no width see a Gaussian of 3 pixels differently by a few 1e-3
    assert nrmse(native[:, :, 0], peer[:, :, 0]) < 0.02
    assert nrmse(native[:, :, 1], peer[:, :, 1]) < 0.05


def test_iterative_methods_find_the_object_from_few_projections():
    truth = SPOTS[0].image(GRID)
    few = labelled(SINOGRAM[::4], ANGLE[::4])
    for method, bound in {"sirt": 0.1, "cgls": 0.1, "mlem": 0.1}.items():
        found = reconstruct(few, axis=CENTRE, method=method)["intensity"][:, :, 0].to_numpy()
        assert nrmse(found, truth) < bound, method
        assert found.sum() == pytest.approx(truth.sum(), rel=0.01), method


def test_unknown_names_and_an_impossible_sigma_are_refused(monkeypatch: pytest.MonkeyPatch):
    data = labelled()
    for wrong in ({"method": "art"}, {"engine": "art"}, {"filter": "ram-lak"}, {"method": "mlem", "engine": "astra"}):
        with pytest.raises(ShapeError):
            reconstruct(data, axis=CENTRE, **wrong)
    with pytest.raises(ShapeError, match="sigma"):
        reconstruct(data, axis=CENTRE, method="sirt", sigma=data)
    with pytest.raises(ShapeError, match="coordinates"):
        reconstruct(data.drop_vars("rotation"), axis=CENTRE)
    monkeypatch.setitem(sys.modules, "astra", None)
    with pytest.raises(MissingBackendError, match=r"operandi\[astra\]"):
        reconstruct(data, axis=CENTRE, engine="astra")
