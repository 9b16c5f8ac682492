from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from operandi.errors import AssetError
from operandi.sinks.pattern_files import write_patterns
from operandi.sources.pattern_files import read_pattern


def patterns(n: int) -> xr.Dataset:
    rng = np.random.default_rng(n)
    q = ("q", np.linspace(1, 2, 9), {"units": "1/angstrom"})
    columns = {name: (("image", "q"), rng.uniform(1, 2, (n, 9)), {"units": "counts"}) for name in ("intensity", "sigma")}
    columns["intensity"][1][0, 3] = np.nan
    return xr.Dataset(columns, {"q": q})


@pytest.mark.parametrize("name", ["air.csv", "air.h5"])
@pytest.mark.parametrize("n", [1, 3])
def test_what_integrate_writes_comes_back_as_the_mean_of_its_patterns(tmp_path: Path, name: str, n: int):
    written = patterns(n)
    write_patterns(written, tmp_path / name, names=["image"] * n)
    found = read_pattern(tmp_path / name)
    np.testing.assert_allclose(found["q"], written["q"])
    np.testing.assert_allclose(found["intensity"], written["intensity"].mean("image", skipna=False), rtol=1e-7)
    np.testing.assert_allclose(found["sigma"], np.sqrt((written["sigma"] ** 2).sum("image")) / n, rtol=1e-7)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("# q_nm^-1 I sigma\n10 5 1\n20 6 1\n", {}),
        ("q (A^-1); I; s\n1.0; 5; 1\n2.0; 6; 1\n", {}),
        ("  1.0   5  1\n\n  2.0   6  1\n# end\n", {"q_units": "1/angstrom"}),
        ("20 6 1\n10 5 1\n", {"q_units": "1/nm"}),
    ],
)
def test_columns_of_other_programs_are_read_with_their_unit(tmp_path: Path, text: str, options: dict):
    (tmp_path / "air.dat").write_text(text)
    found = read_pattern(tmp_path / "air.dat", **options)
    assert found["q"].to_numpy().tolist() == [1.0, 2.0]
    assert found["intensity"].to_numpy().tolist() == [5.0, 6.0]
    assert found["sigma"].to_numpy().tolist() == [1.0, 1.0]


def test_a_pattern_without_errors_has_nan_for_sigma(tmp_path: Path):
    (tmp_path / "air.xy").write_text("1 5\n2 6\n")
    assert np.isnan(read_pattern(tmp_path / "air.xy", q_units="1/angstrom")["sigma"]).all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("air.dat", "1 2 3\n2 3 4\n", "tell it with q_units"),
        ("air.dat", "# 2th_deg I\n1 2\n2 3\n", "tell it with q_units"),
        ("air.dat", "", "no columns of numbers"),
        ("air.dat", "# 1/nm\n1 2 3\n2 3\n", "air.dat:3: '2 3' is no row of 3 numbers"),
        ("air.dat", "# 1/nm\n1 2\n1 3\n", "come once"),
        ("air.dat", "# 1/nm\n1 2\nnan 3\n", "each must be a number"),
        ("air.h5", "this is no HDF5", "air.h5"),
    ],
)
def test_what_is_no_pattern_is_refused_with_the_remedy(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(AssetError, match=message):
        read_pattern(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(AssetError, match="is not there"):
        read_pattern(tmp_path / "air.dat")
