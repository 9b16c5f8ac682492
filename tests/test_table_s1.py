"""Table S1 of 10.1039/D4EE00590B, end to end: images, integration, reconstruction, d*, table."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import operandi
from operandi.simulate.reference import TABLE_S1
from operandi.simulate.small_angles import StaticTomogram, static_scan, write_poni
from operandi.stages.regions import REGIONS, as_printed, region_profiles, region_table


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pd.DataFrame:
    poni = write_poni(tmp_path_factory.mktemp("saxs") / "saxs.poni")
    experiment, states = static_scan(poni), {}
    scan, q = experiment.scan, experiment.integration
    for seed, (age, state) in enumerate(TABLE_S1):
        tomogram = StaticTomogram(experiment, age, state, seed)
        rotation, images = zip(*tomogram.lines(), strict=True)
        patterns = operandi.integrate(
            np.concatenate(images), poni, q_range=(q.q_min_inv_angstrom, q.q_max_inv_angstrom), n_q=q.bins, polarization=q.polarization
        )
        at = np.linspace(scan.translation_start_mm, scan.translation_stop_mm, scan.translations)
        places = pd.MultiIndex.from_product([rotation, at], names=("rotation", "translation"))
        patterns = patterns.assign_coords(xr.Coordinates.from_pandas_multiindex(places, "image"))
        sinogram = operandi.correct(patterns.unstack("image"), air="rim")
        volume = operandi.reconstruct(sinogram["intensity"], axis=0.0, sigma=sinogram["sigma"])
        states[f"{age}, {state}"] = region_profiles(volume, xr.DataArray(tomogram.labels(), dims=("y", "x")))
    return region_table(states)


@pytest.mark.parametrize("key", list(TABLE_S1), ids=", ".join)
@pytest.mark.parametrize("region", list(REGIONS.values()))
def test_each_number_of_table_s1_comes_back_from_images_and_each_none_as_none(table, key, region):
    row = table[(table["state"] == ", ".join(key)) & (table["region"] == region)].iloc[0]
    wanted = TABLE_S1[key][region]
    if wanted is None:
        assert np.isnan(row["dstar_nm"])
        assert row["reason"] == "one slope"
    else:
        assert row["dstar_nm"] == pytest.approx(wanted, abs=0.5)
        assert row["sigma_nm"] < 0.5


def test_the_table_is_written_and_printed_as_in_the_paper(table, tmp_path):
    table.to_csv(tmp_path / "regions.csv", index=False)
    read = pd.read_csv(tmp_path / "regions.csv", keep_default_na=False, na_values={"dstar_nm": [""]})
    assert read["reason"].tolist() == table["reason"].tolist()
    printed = as_printed(table)
    assert printed.loc["fresh, discharged", "normal"] == "one slope"
    assert printed.index.tolist() == [", ".join(key) for key in TABLE_S1]
    assert printed.columns.tolist() == ["normal", "bend", "agglomerate"]
    assert abs(float(printed.loc["aged, charged", "normal"]) - 14.1) <= 0.5
