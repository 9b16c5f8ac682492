import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from operandi.errors import PublishError, ShapeError
from operandi.nodes import Array, Block
from operandi.sinks.arrays import ArrayStore

MAPS = Array(("maps", "intensity"), ("frame", "y", "x"), (0, 5, 4), (1, 5, 4))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def frame(number: int) -> np.ndarray:
    return np.random.default_rng(number).random((1, 5, 4), dtype=np.float32)


def test_blocks_grow_the_first_axis_and_come_back_bit_by_bit(tmp_path):
    store = ArrayStore(tmp_path)
    store.create(MAPS)
    shapes = [store.write(Block(MAPS.path, (i, 0, 0), frame(i))) for i in range(3)]
    store.sync()
    there = zarr.open_array(tmp_path / "maps" / "intensity", mode="r")
    assert shapes == [(1, 5, 4), (2, 5, 4), (3, 5, 4)]
    assert there.metadata.dimension_names == ("frame", "y", "x")
    np.testing.assert_array_equal(there[:], np.concatenate([frame(i) for i in range(3)]))


def test_the_files_are_the_same_whatever_the_number_of_attempts(tmp_path):
    for name, repeats in (("once", 1), ("thrice", 3)):
        for _ in range(repeats):
            store = ArrayStore(tmp_path / name)
            store.create(MAPS)
            for i in (0, 1, 1, 2):
                store.write(Block(MAPS.path, (i, 0, 0), frame(i)))
    assert content(tmp_path / "once") == content(tmp_path / "thrice")


def test_what_is_announced_is_on_the_disk_and_nothing_is_forced_there_twice(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fdatasync", lambda descriptor: synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.removesuffix(" (deleted)"))
    )
    store = ArrayStore(tmp_path)
    store.create(MAPS)
    store.write(Block(MAPS.path, (0, 0, 0), frame(0)))
    store.sync()
    assert sorted(set(synced)) == ["0", "zarr.json"]
    before = len(synced)
    store.sync()
    store.close()
    assert len(synced) == before


def test_a_disk_that_fails_is_told_to_whoever_announces(tmp_path, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError("the disk fails")

    monkeypatch.setattr(os, "fdatasync", fail)
    store = ArrayStore(tmp_path)
    store.create(MAPS)
    with pytest.raises(OSError, match="the disk fails"):
        store.sync()
    store.close()


def test_a_cell_that_no_block_covers_is_nan(tmp_path):
    store = ArrayStore(tmp_path)
    store.create(MAPS)
    store.write(Block(MAPS.path, (1, 0, 0), frame(1)))
    assert np.isnan(zarr.open_array(tmp_path / "maps" / "intensity", mode="r")[0]).all()


@pytest.mark.parametrize(
    "other", [{"dtype": "float64"}, {"shape": (0, 5, 5), "chunks": (1, 5, 5)}, {"chunks": (2, 5, 4)}, {"shape": (2, 5, 4)}]
)
def test_an_array_of_another_layout_is_refused(tmp_path, other):
    ArrayStore(tmp_path).create(MAPS)
    different = Array(MAPS.path, MAPS.dims, **{"shape": MAPS.shape, "chunks": MAPS.chunks, **other})
    with pytest.raises(PublishError, match="is there, but"):
        ArrayStore(tmp_path).create(different)


def test_a_block_that_does_not_fit_is_refused(tmp_path):
    store = ArrayStore(tmp_path)
    store.create(MAPS)
    with pytest.raises(ShapeError, match="does not fit"):
        store.write(Block(MAPS.path, (0, 0, 1), frame(0)))
    with pytest.raises(ShapeError, match="does not fit"):
        store.write(Block(MAPS.path, (0, 0), frame(0)))
    with pytest.raises(ShapeError, match="not declared"):
        store.write(Block(("maps", "sigma"), (0, 0, 0), frame(0)))


@pytest.mark.parametrize("key", ["..", "", ".hidden", "a/b", "a\\b"])
def test_no_path_leads_out_of_the_folder(tmp_path, key):
    with pytest.raises(ShapeError, match="cannot be the key"):
        ArrayStore(tmp_path).location(("maps", key))


def test_an_empty_group_that_a_server_made_of_a_missing_array_is_replaced(tmp_path):
    zarr.open(tmp_path / "maps" / "intensity")
    store = ArrayStore(tmp_path)
    store.create(MAPS)
    assert store.write(Block(MAPS.path, (0, 0, 0), frame(0))) == (1, 5, 4)
