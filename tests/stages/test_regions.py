"""Regions: means, spreads and the table, against numpy on the voxels themselves."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from operandi.errors import ShapeError
from operandi.stages.regions import TABLE_COLUMNS, as_printed, region_profiles, region_table

Q = np.linspace(0.01, 0.2, 191)


def knee(d_nm: float) -> np.ndarray:
    r = Q / (0.2 * np.pi / d_nm)
    return r**-1.2 * (1 + r**30) ** (-2.2 / 30)


def volume(seed: int = 0) -> xr.Dataset:
    """Rows of voxels: three of 11.8 nm, two of 10.8 nm, one without a knee."""
    profiles = np.stack([knee(11.8)] * 3 + [knee(10.8)] * 2 + [(Q / 0.05) ** -3.4])[:, None].repeat(8, axis=1)
    values = profiles * (1 + 0.03 * np.random.default_rng(seed).standard_normal(profiles.shape))
    dims = ("y", "x", "q")
    return xr.Dataset({"intensity": (dims, values, {"units": "counts/mm"}), "sigma": (dims, 0.03 * profiles)}, {"q": Q})


LABELS = xr.DataArray(np.repeat([0, 1, 1, 2, 2, 3], 8).reshape(6, 8), dims=("y", "x"))


def test_means_and_spreads_are_those_of_the_voxels_of_each_region():
    given = volume()
    found = region_profiles(given, LABELS.transpose("x", "y"))
    voxels = given["intensity"].values[1:3].reshape(16, -1)
    np.testing.assert_allclose(found["intensity"].sel(region="normal"), voxels.mean(axis=0))
    np.testing.assert_allclose(found["spread"].sel(region="normal"), voxels.std(axis=0, ddof=1))
    np.testing.assert_allclose(found["sigma"].sel(region="normal"), 0.03 * knee(11.8) / 4)
    assert found["voxels"].values.tolist() == [16, 16, 8]
    assert found["intensity"].attrs["units"] == "counts/mm"
    plain = region_profiles(given["intensity"], LABELS)
    scaled = voxels * (voxels.mean(axis=0) / voxels).mean(axis=1, keepdims=True)  # to the mean, by any estimate of the scale
    np.testing.assert_allclose(plain["sigma"].sel(region="normal"), scaled.std(axis=0, ddof=1) / 4, rtol=0.03)


def test_holes_are_left_out_and_what_is_not_there_is_nan_with_a_reason():
    given = volume()
    given["intensity"][1, 0, 30:60] = np.nan
    given["intensity"][2, 1] = np.nan
    labels = xr.where(LABELS == 2, 0, LABELS)
    found = region_profiles(given, labels)
    assert np.isfinite(found["intensity"].sel(region="normal")).all()
    assert found["voxels"].values.tolist() == [15, 0, 8]
    table = region_table({"fresh": found})
    assert table.set_index("region").loc["bend", ["voxels", "reason"]].tolist() == [0, "not measured"]
    assert np.isnan(table.set_index("region").loc["bend", "dstar_nm"])


def test_a_region_of_one_voxel_has_no_spread_but_its_dstar():
    labels = xr.zeros_like(LABELS)
    labels[1, 1] = 1
    for given in (volume(), volume()["intensity"]):
        found = region_profiles(given, labels)
        assert np.isnan(found["spread"]).all()
        assert region_table({"a": found})["dstar_nm"][0] == pytest.approx(11.8, abs=0.3)


def test_the_table_has_a_row_for_each_state_and_region_and_survives_csv(tmp_path):
    table = region_table({"fresh, charged": region_profiles(volume(), LABELS), "aged, charged": region_profiles(volume(1), LABELS)})
    assert list(table.columns) == list(TABLE_COLUMNS)
    assert len(table) == 6
    assert table["dstar_nm"][:2].tolist() == pytest.approx([11.8, 10.8], abs=0.15)
    assert table["reason"].tolist() == ["", "", "one slope"] * 2
    table.to_csv(tmp_path / "table.csv", index=False)
    numbers = {name: [""] for name, kind in TABLE_COLUMNS.items() if kind == "float64"}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv", keep_default_na=False, na_values=numbers), table)
    printed = as_printed(table)
    assert printed.index.tolist() == ["fresh, charged", "aged, charged"]
    assert printed["agglomerate"].tolist() == ["one slope", "one slope"]
    assert float(printed.loc["fresh, charged", "bend"]) == pytest.approx(10.8, abs=0.15)
    assert region_table({}).empty


@pytest.mark.parametrize("labels", [LABELS[:3], LABELS.rename(y="z"), LABELS.astype(float)])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ShapeError, match="labels"):
        region_profiles(volume(), labels)
