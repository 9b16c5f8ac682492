"""Files are read as they are, through every filter and layout, and what is wrong with them is said."""

import h5py
import hdf5plugin
import numpy as np
import pytest
from shared import shared_file

from operandi.errors import AssetError, GeometryError
from operandi.sources.assets import AssetReader, load_image, load_mask, path_of, read_block

IMAGES = np.random.default_rng(0).poisson(3, (5, 61, 53)).astype(np.int32)
FILTERS = {
    "bitshuffle-lz4": hdf5plugin.Bitshuffle(),
    "bitshuffle-zstd": hdf5plugin.Bitshuffle(cname="zstd"),
    "lz4": hdf5plugin.LZ4(),
    "gzip": {"compression": "gzip", "shuffle": True},
    "none": {},
}


def write(path, images=IMAGES, chunks=None, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data/data", data=images, chunks=chunks or (1, *images.shape[1:]), **options)
    return path


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("dtype", ["<i4", "<u2", "<u4", "<f4", ">i4", "u1"])
def test_a_block_is_what_was_written(tmp_path, name, dtype):
    path = write(tmp_path / "a.h5", IMAGES.astype(dtype), **FILTERS[name])
    block = read_block(path, "/entry/data/data", 1, 4)
    np.testing.assert_array_equal(block, IMAGES[1:4])


@pytest.mark.parametrize("name", ["bitshuffle-lz4", "gzip"])
def test_memory_is_used_again_where_it_fits(tmp_path, name):
    path = write(tmp_path / "a.h5", **FILTERS[name])
    with AssetReader() as reader:
        memory = reader.read_block(path, "entry/data/data")
        block = reader.read_block(path, "entry/data/data", 1, 4, out=memory)
        assert np.shares_memory(block, memory)
        np.testing.assert_array_equal(block, IMAGES[1:4])
        assert not np.shares_memory(reader.read_block(path, "entry/data/data", 0, 5, out=memory[:2]), memory)


@pytest.mark.parametrize("chunks", [(2, 61, 53), (1, 30, 53)])
def test_other_chunkings_are_read_too(tmp_path, chunks):
    path = write(tmp_path / "a.h5", chunks=chunks, **hdf5plugin.Bitshuffle())
    np.testing.assert_array_equal(read_block(path, "entry/data/data"), IMAGES)


def test_images_with_a_dimension_of_one_and_odd_block_sizes_are_read(tmp_path):
    path = write(tmp_path / "a.h5", IMAGES[:, None], **hdf5plugin.Bitshuffle(nelems=64))
    np.testing.assert_array_equal(read_block(path, "entry/data/data"), IMAGES[:, None])


def test_positions_are_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/rotation"] = np.arange(9.0)
    np.testing.assert_array_equal(read_block(tmp_path / "a.h5", "entry/rotation", 3, 5), [3.0, 4.0])


def test_a_file_that_grows_is_followed(tmp_path):
    path = tmp_path / "growing.h5"
    with h5py.File(path, "w", libver="latest") as file, AssetReader() as reader:
        data = file.create_dataset("d", (1, 61, 53), "<i4", maxshape=(None, 61, 53), chunks=(1, 61, 53), **hdf5plugin.Bitshuffle())
        file.swmr_mode = True
        for n in range(1, 5):
            data.resize(n, 0)
            data[n - 1] = IMAGES[n - 1]
            data.flush()
            np.testing.assert_array_equal(reader.read_block(path, "d", 0, n), IMAGES[:n])
        with pytest.raises(AssetError, match="it holds 4"):
            reader.read_block(path, "d", 0, 5)


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_file_that_is_open_elsewhere_in_the_process_is_read(tmp_path, version):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=version) as file:
        file.create_dataset("d", data=IMAGES, chunks=(1, 61, 53), **hdf5plugin.Bitshuffle())
    with h5py.File(path) as file, AssetReader() as reader:
        for _ in range(2):
            np.testing.assert_array_equal(reader.read_block(path, "d", 0, 3), file["d"][:3])


def test_a_file_that_was_rewritten_longer_is_followed(tmp_path):
    path = write(tmp_path / "a.h5", IMAGES[:2], maxshape=(None, 61, 53))
    with AssetReader() as reader:
        assert len(reader.read_block(path, "entry/data/data")) == 2
        write(tmp_path / "b.h5").replace(path)
        np.testing.assert_array_equal(reader.read_block(path, "entry/data/data", 0, 5), IMAGES)


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    path = write(tmp_path / "a.h5")
    with AssetReader() as reader:
        reader.read_block(path, "entry/data/data")
        write(tmp_path / "b.h5", IMAGES + 1).replace(path)
        np.testing.assert_array_equal(reader.read_block(path, "entry/data/data", 0, 5), IMAGES + 1)


def test_a_restored_file_is_read_after_an_error(tmp_path):
    path = write(tmp_path / "a.h5", IMAGES[:2])
    with AssetReader() as reader:
        with pytest.raises(AssetError):
            reader.read_block(path, "entry/data/data", 0, 5)
        path.unlink()
        with pytest.raises(AssetError, match="not there"):
            reader.read_block(path, "entry/data/data", 0, 5)
        write(path)
        np.testing.assert_array_equal(reader.read_block(path, "entry/data/data", 0, 5), IMAGES)


def test_open_files_are_bounded(tmp_path):
    with AssetReader(max_open=2) as reader:
        for k in range(5):
            reader.read_block(write(tmp_path / f"{k}.h5"), "entry/data/data", 0, 1)
        assert len(reader._files) == 2


def test_virtual_datasets_of_bliss_are_read():
    path = shared_file("bliss_hdf5/RAW_DATA/TestEwoksTomo/TestEwoksTomo_0010/TestEwoksTomo_0010.h5")
    with h5py.File(path) as file:
        name = next(f"4.1/measurement/{key}" for key, item in file["4.1/measurement"].items() if item.ndim == 3)
    block = read_block(path, name, 2, 5)
    assert block.shape == (3, 16, 16)
    assert block.any()


def test_an_image_file_is_one_image():
    path = shared_file("xrd_frames/CeO2.cbf")
    block = read_block(path, None, 0, 1)
    assert block.shape == (1, 1679, 1475)
    with pytest.raises(AssetError, match="holds 1 image"):
        read_block(path, None, 0, 2)
    assert (load_image(path) == block[0]).all()


@pytest.mark.parametrize("name", ["bitshuffle-lz4", "gzip", "none"])
def test_an_image_never_written_is_no_image_of_zeros(tmp_path, name):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("d", (5, 61, 53), "<i4", chunks=(1, 61, 53), **FILTERS[name])
        data[0] = 1
    read_block(tmp_path / "a.h5", "d", 0, 1)
    with pytest.raises(AssetError, match=r"a\.h5.*image 3 was never written"):
        read_block(tmp_path / "a.h5", "d", 3, 4)


@pytest.mark.parametrize("damage", ["cut", "header", "length", "bytes"])
def test_a_damaged_chunk_is_named(tmp_path, damage):
    path = write(tmp_path / "a.h5", **hdf5plugin.Bitshuffle())
    with h5py.File(path, "r+") as file:
        data = file["entry/data/data"]
        chunk = bytearray(data.id.read_direct_chunk((2, 0, 0))[1])
        if damage == "cut":
            del chunk[len(chunk) // 2 :]
        elif damage == "header":
            chunk[3] = 77
        elif damage == "length":
            chunk[12:16] = b"\x7f\xff\xff\xff"
        else:
            chunk[16:40] = b"\xff" * 24
        data.id.write_direct_chunk((2, 0, 0), bytes(chunk))
    np.testing.assert_array_equal(read_block(path, "entry/data/data", 0, 2), IMAGES[:2])
    with pytest.raises(AssetError, match=r"a\.h5.*image 2"):
        read_block(path, "entry/data/data", 0, 5)


def test_what_is_missing_is_named(tmp_path):
    path = write(tmp_path / "a.h5")
    with pytest.raises(AssetError, match=r"absent\.h5"):
        read_block(tmp_path / "absent.h5", "d", 0, 1)
    with pytest.raises(AssetError, match="no dataset entry/nothing"):
        read_block(path, "entry/nothing", 0, 1)
    with pytest.raises(AssetError, match="is a group"):
        read_block(path, "entry/data", 0, 1)
    with pytest.raises(AssetError, match=r"\[4, 6\).*holds 5"):
        read_block(path, "entry/data/data", 4, 6)


@pytest.mark.parametrize("content", [b"", b"no file of any kind", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "a.h5"
    path.write_bytes(write(tmp_path / "whole.h5").read_bytes()[:5000] if content is None else content)
    with pytest.raises(AssetError, match=r"a\.h5"):
        read_block(path, "entry/data/data", 0, 1)


def test_uris_become_paths():
    assert str(path_of("file://localhost/data/a%20b/%C3%A9.h5")) == "/data/a b/é.h5"
    assert str(path_of("file:///data/a.h5")) == "/data/a.h5"
    assert str(path_of("/data/100%/a.h5")) == "/data/100%/a.h5"


@pytest.mark.parametrize("uri", ["https://host/a.h5", "file://elsewhere/a.h5", "a.h5", "s3://bucket/a.h5", ""])
def test_other_uris_are_refused(uri):
    with pytest.raises(AssetError):
        path_of(uri)


def test_masks_are_read_from_every_format(tmp_path):
    mask = np.zeros((7, 9), np.uint8)
    mask[2, 3] = 4
    np.save(tmp_path / "m.npy", mask)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a/title"], file["a/mask"], file["b"] = "text", mask, mask[:3]
    fabio = pytest.importorskip("fabio")
    fabio.edfimage.EdfImage(data=mask).write(str(tmp_path / "m.edf"))
    fabio.tifimage.TifImage(data=mask).write(str(tmp_path / "m.tif"))
    for name in ("m.npy", "m.h5", "m.h5::/a/mask", "m.edf", "m.tif"):
        np.testing.assert_array_equal(load_mask(f"{tmp_path}/{name}"), mask != 0)


@pytest.mark.parametrize("name", ["absent.edf", "absent.npy", "absent.h5", "broken.edf", "broken.npy", "broken.h5", "flat.npy"])
def test_a_mask_that_cannot_be_read_is_named(tmp_path, name):
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"nothing of use")
    np.save(tmp_path / "flat.npy", np.zeros(5))
    with pytest.raises(GeometryError, match=name):
        load_mask(tmp_path / name)
