"""Measured sinograms, from files as beamlines write them."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from operandi.errors import AssetError
from operandi.sources.sinograms import read_sinogram

NAMES = {"signal": "scan/signal", "rotation": "scan/theta", "translation": "scan/x"}
VALUES = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Two angles, three rows, five positions."""
    file = tmp_path / "scan.nxs"
    with h5py.File(file, "w") as handle:
        handle["scan/signal"], handle["scan/monitor"] = VALUES, VALUES + 100
        handle["scan/theta"], handle["scan/x"] = [0.0, np.pi / 2], np.tile(np.arange(5) * 2.0, (3, 1))
        handle["scan/theta"].attrs["units"], handle["scan/x"].attrs["units"] = "rad", "um"
        handle["scan/name"], handle["start_time"] = "cell", "2026-11-22T14:03:00+01:00"
    return file


def test_one_row_is_read_with_its_monitor_in_degrees_and_mm(scan):
    read = read_sinogram(scan, **NAMES, monitor="scan/monitor", row=1)
    np.testing.assert_array_equal(read["signal"], VALUES[:, 1])
    np.testing.assert_array_equal(read["monitor"], VALUES[:, 1] + 100)
    np.testing.assert_allclose(read["rotation"], [0, 90])
    np.testing.assert_allclose(read["translation"], np.arange(5) * 0.002)
    assert read.attrs["started"] == 1_795_352_580.0


def test_a_scan_of_one_row_needs_no_choice(tmp_path):
    with h5py.File(tmp_path / "one.h5", "w") as handle:
        handle["s"], handle["t"], handle["x"] = VALUES[:, :1], [0.0, 90.0], np.arange(5.0)
    read = read_sinogram(tmp_path / "one.h5", signal="s", rotation="t", translation="x")
    np.testing.assert_array_equal(read["signal"], VALUES[:, 0])
    assert read.attrs["started"] is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"signal": "scan/sgnal"}, "no scan/sgnal: give the path of a dataset, such as scan/monitor, scan/signal"),
        ({"signal": "scan"}, "a group, not a dataset"),
        ({"signal": "scan/name"}, "holds no numbers"),
        ({"signal": "scan/theta"}, "give a dataset of 2 or 3 dimensions"),
        ({"rotation": "scan/x"}, "scan/x has shape (3, 5), but scan/signal is (2, 5)"),
        ({"translation": "scan/theta"}, "scan/theta has shape (2,), but scan/signal is (2, 5)"),
        ({"row": None}, "has 3 rows, and none is chosen: give one of 0 to 2"),
        ({"row": 3}, "row 3 is not among them"),
    ],
)
def test_what_does_not_fit_is_one_message_with_the_remedy(scan, changes, told):
    with pytest.raises(AssetError, match=re.escape(told)):
        read_sinogram(scan, **{**NAMES, "row": 1, **changes})


def test_an_unknown_unit_is_not_guessed(scan):
    with h5py.File(scan, "r+") as handle:
        handle["scan/x"].attrs["units"] = "furlong"
    with pytest.raises(AssetError, match="'furlong'"):
        read_sinogram(scan, **NAMES, row=0)


@pytest.mark.parametrize("content", [None, b"", b"not HDF5 at all"])
def test_a_file_that_is_missing_or_no_hdf5_is_named(tmp_path, content):
    file = tmp_path / "scan.nxs"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(AssetError, match=r"scan\.nxs"):
        read_sinogram(file, **NAMES)
