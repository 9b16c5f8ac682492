"""One tomogram from one sinogram, against a disc whose absorption is known."""

import numpy as np
import pytest
import xarray as xr

from operandi.errors import ShapeError
from operandi.nodes import Array, Block, Rows
from operandi.single import Processing, make_tomogram, products

ATTENUATION, RADIUS, AXIS, OFFSET = 0.8, 1.5, 0.13, 0.7
"""1/mm; mm; mm; distance of the disc's centre from the axis, along x, mm."""


def scan() -> xr.Dataset:
    """Transmission of a disc off the axis, with a flux that drifts."""
    rotation, translation = np.arange(90) * 2.0, np.linspace(-3, 3, 61)
    along = translation[None, :] - AXIS - OFFSET * np.cos(np.deg2rad(rotation))[:, None]
    chord = 2 * np.sqrt(np.clip(RADIUS**2 - along**2, 0, None))
    flux = 1e6 * (1 + 0.1 * np.sin(np.arange(chord.size).reshape(chord.shape) / 40))
    dims = ("rotation", "translation")
    return xr.Dataset(
        {"signal": (dims, 0.3 * flux * np.exp(-ATTENUATION * chord)), "monitor": (dims, flux)},
        {"rotation": ("rotation", rotation, {"units": "deg"}), "translation": ("translation", translation, {"units": "mm"})},
    )


def test_a_disc_gets_its_attenuation_and_its_axis_whatever_the_flux():
    tomogram = make_tomogram(scan(), Processing(transmission=True))
    assert tomogram.axis.position == pytest.approx(AXIS, abs=0.01)  # a tenth of the pitch
    x, y = np.meshgrid(tomogram.volume["x"], tomogram.volume["y"])
    distance = np.hypot(x - OFFSET, y)
    assert tomogram.volume.values[distance < 1.2].mean() == pytest.approx(ATTENUATION, rel=0.02)
    assert abs(tomogram.volume.values[(distance > 1.8) & (np.hypot(x, y) < 2.8)].mean()) < 0.02
    assert tomogram.volume.attrs["units"] == "1/mm"


def test_the_order_of_the_angles_changes_nothing():
    shuffled = np.random.default_rng(0).permutation(90)
    plain = make_tomogram(scan(), Processing(transmission=True))
    mixed = make_tomogram(scan().isel(rotation=shuffled), Processing(transmission=True))
    np.testing.assert_array_equal(plain.volume, mixed.volume)


def test_cells_without_light_are_not_measured_and_told():
    dark = scan()
    dark["signal"][3, 10:13] = 0.0
    dark["monitor"][5, 40] = -1.0
    tomogram = make_tomogram(dark, Processing(transmission=True, axis_mm=AXIS))
    assert np.isfinite(tomogram.volume).all()
    assert tomogram.coverage == pytest.approx(1 - 4 / (90 * 61))
    row = next(p for p in products(tomogram) if isinstance(p, Rows))
    assert "0.1 % of the projections not measured" in row.columns["quality"][0]


def test_the_products_are_a_frame_of_one_channel():
    declared = {p.path: p for p in products(make_tomogram(scan(), Processing(transmission=True))) if isinstance(p, Array)}
    blocks = {p.path: p for p in products(make_tomogram(scan(), Processing(transmission=True))) if isinstance(p, Block)}
    assert declared[("volumes", "intensity")].dims == ("frame", "y", "x", "q")
    assert blocks[("volumes", "intensity")].data.shape == (1, 61, 61, 1)
    assert blocks[("sinograms", "0000")].data.shape == (90, 61, 1)
    assert declared[("sinograms", "0000")].metadata["coords"]["rotation"]["units"] == "deg"


def test_an_unknown_filter_and_a_blank_sinogram_are_refused():
    with pytest.raises(ShapeError, match="shepp-logan"):
        make_tomogram(scan(), Processing(filter="shep"))
    with pytest.raises(ShapeError, match="no signal"):
        make_tomogram(xr.ones_like(scan()).assign_coords(scan().coords), Processing())
