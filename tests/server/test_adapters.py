"""Windows on request: of plain arrays on disk, and through a real server."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import xarray as xr
import zarr
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st
from published import NQ, NX, NY, Q, everything, frame, tree, values
from tiled.adapters.mapping import MapAdapter
from tiled.ndslice import NDBlock, NDSlice

from operandi import client
from operandi.errors import NotPublishedError, ShapeError
from operandi.experiment import QWindow
from operandi.nodes import WINDOWS_MIMETYPE, read_window_key, window_key
from operandi.server import embedded
from operandi.server.adapters import Windows, weights_of
from operandi.server.embedded import start_server
from operandi.sinks.tiled import TiledSink

POINTS = np.linspace(1.5, 2.2, 351)
CENTRE, WIDTH, AREA = 1.86, 0.006, 0.7
GRAPHITE = QWindow(phase="graphite", q_min_inv_angstrom=1.82, q_max_inv_angstrom=1.90, background="constant")
SHAPE = (3, 7, 5)


def about(**changes):
    plane = {axis: {"values": list(range(n)), "units": "mm"} for axis, n in zip("yx", SHAPE[1:], strict=True)}
    coords = {**plane, "q": {"values": POINTS.tolist(), "units": "1/angstrom"}}
    return {"units": "counts/mm/angstrom", "result": "this", "coords": coords, "windows": [GRAPHITE.model_dump(mode="json")], **changes}


def peaks(scale: float = 1.0) -> np.ndarray:
    """(frame, y, x, q): a Gaussian of area AREA times the number of the voxel, on a slope."""
    number = np.arange(np.prod(SHAPE)).reshape(SHAPE)[..., None]
    line = AREA * np.exp(-(((POINTS - CENTRE) / WIDTH) ** 2) / 2) / (WIDTH * np.sqrt(2 * np.pi))
    return (scale * number * line + 5 * POINTS + 2).astype("float32")


@pytest.fixture
def location(tmp_path):
    """Volumes on disk."""
    there = zarr.create_array(
        tmp_path / "volumes", shape=(*SHAPE, POINTS.size), chunks=(1, 4, 4, POINTS.size), dtype="float32", fill_value=np.nan
    )
    there[:] = peaks()
    return tmp_path / "volumes"


def test_a_window_gives_the_area_of_its_peak_above_background(location):
    maps = Windows(location, about())["1.82-1.9-linear"].read()
    assert maps.dtype == np.float32
    # a peak of seven standard deviations to each side, sampled three to one of them: its sum over bins is its area to 1e-6, float32 to 1e-5
    np.testing.assert_allclose(maps, AREA * np.arange(np.prod(SHAPE)).reshape(SHAPE), rtol=1e-4, atol=1e-4)


def test_a_map_says_what_it_is(location):
    node = Windows(location, about())["1.820-1.9"]
    told = node.metadata()
    assert told["coords"] == {axis: about()["coords"][axis] for axis in "yx"}
    assert {name: told[name] for name in ("phase", "units", "background", "q_min_inv_angstrom", "q_max_inv_angstrom", "result", "of")} == {
        "phase": "graphite", "units": "counts/mm/angstrom", "background": "constant", "q_min_inv_angstrom": 1.82, "q_max_inv_angstrom": 1.9,
        "result": "this", "of": "volumes/intensity",
    }  # fmt: skip
    structure = node.structure()
    assert (structure.shape, structure.dims, structure.chunks) == (SHAPE, ("frame", "y", "x"), ((1, 1, 1), (7,), (5,)))
    assert Windows(location, about())["1.6-1.7"].metadata()["background"] == "linear"


@pytest.mark.parametrize("part", ["", ":", "1", "-1", "::-1", "0:2,3", "2:0:-1,1:4,::2", "1:1", ":,2,3", "2,6,4"])
def test_parts_of_the_maps_are_those_that_numpy_cuts(location, part):
    node = Windows(location, about())["1.82-1.90"]
    cut = NDSlice.from_numpy_str(part)
    expected = node.read()[tuple(cut) or ...]
    found = node.read(cut)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    block = node.read_block(NDBlock(2, 0, 0), NDSlice.from_numpy_str("0,1:3"))
    np.testing.assert_array_equal(block, node.read()[2, 1:3])


def test_only_the_frames_asked_for_are_read(location):
    for chunk in (location / "c" / "1").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"broken")
    node = Windows(location, about())["1.83-1.89"]
    assert np.isfinite(node.read(NDSlice(slice(0, 3, 2)))).all()
    with pytest.raises(RuntimeError):
        node.read(NDSlice(1))


def test_a_frame_that_is_written_anew_is_summed_anew_and_new_frames_are_seen(location):
    windows, key = Windows(location, about()), "1.82-1.90"
    before = windows[key].read()
    there = zarr.open_array(location, mode="r+")
    there[1] = peaks(2.0)[1]
    after = windows[key].read()
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    np.testing.assert_allclose(after[1], 2 * before[1], rtol=1e-4)
    there.resize((5, *there.shape[1:]))
    assert windows[key].structure().shape == (5, *SHAPE[1:])
    assert np.isnan(windows[key].read(NDSlice(4))).all()


def test_many_threads_get_the_same_maps(location):
    keys = [f"1.{n}-1.{n + 5}" for n in range(60, 85)] * 4
    windows = Windows(location, about())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda key: windows[key].read(), keys))
    for key, maps in zip(keys, found, strict=True):
        _, weights = weights_of(key, POINTS, [GRAPHITE])
        np.testing.assert_allclose(maps, peaks() @ weights, atol=1e-4)


def test_a_window_of_another_reflection_takes_none_of_it_for_background():
    """The right side band lies in graphite's window: as in the published maps, the left alone gives a constant."""
    _, beside = weights_of("1.79-1.82", POINTS, [GRAPHITE])
    assert not beside[(POINTS > 1.822)].any()
    _, alone = weights_of("1.79-1.82", POINTS, [])
    assert alone[(POINTS > 1.822)].any()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("graphite", "is no window: ask for q_min-q_max"),
        ("1.82-1.90-cubic", "linear, constant or none"),
        ("1.82-1.90-", "is no window"),
        ("-1.82-1.90", "is no window"),
        ("1e0-1.9", "is no window"),
        ("١-٢", "is no window"),
        ("1.90-1.82", "give q_min before q_max"),
        ("0-1.6", "begin above 0"),
        ("1.6-" + "9" * 400, "end above its beginning"),
        ("1.9-3", "reaches beyond the patterns"),
        ("1.5-1.6", "has no room for its linear background"),
        ("1.4989995-1.4989999-none", "lies outside of the patterns"),
    ],
)
def test_a_bad_window_is_a_bad_request_that_names_the_remedy(location, key, message):
    with pytest.raises(HTTPException, match=message) as caught:
        MapAdapter(Windows(location, about())).get(key)
    assert caught.value.status_code == 400


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.sampled_from(["linear", "constant", "none", None]))
def test_a_key_says_exactly_the_window_that_it_was_made_of(low, width, background):
    if low + width > low:
        assert read_window_key(window_key(low, low + width, background)) == (low, low + width, background)


# Through a server


def publish(service, folder, key, products, **options) -> None:
    with TiledSink(service.uri, api_key=service.api_key, storage=folder / "data", state=folder / "state", **options) as sink:
        sink.open(key, {})
        for product in products:
            sink.apply(product)
        assert sink.drain(30)


@pytest.fixture(scope="module")
def result(service, catalog, tmp_path_factory) -> client.Result:
    publish(service, tmp_path_factory.mktemp("lazy"), "lazy", everything())
    return catalog.results["lazy"]


def test_a_window_is_labelled_as_the_maps_are_and_made_when_it_is_computed(result):
    maps = result.window(2.0, 3.5)
    assert maps.chunks is not None
    assert maps.dims == ("frame", "y", "x")
    xr.testing.assert_identical(maps.coords.to_dataset(), result.maps["intensity"].isel(phase=0, drop=True).coords.to_dataset())
    assert maps["x"].attrs["units"] == "mm"
    assert {name: maps.attrs[name] for name in ("units", "background", "result")} == {
        "units": "counts/mm/angstrom", "background": "none", "result": "lazy"}  # fmt: skip
    volume = values(("volumes", "intensity"), 2, (1, NY, NX, NQ))[0]
    edges = np.linspace(Q[0] - (Q[1] - Q[0]) / 2, Q[-1] + (Q[1] - Q[0]) / 2, NQ + 1)
    inside = np.clip(np.minimum(edges[1:], 3.5) - np.maximum(edges[:-1], 2.0), 0, None)
    np.testing.assert_allclose(maps.sel(frame=2), volume[..., inside > 0] @ inside[inside > 0], rtol=1e-5)
    above, plain = (result.window(3.2, 3.7, background=background) for background in ("constant", "none"))
    assert (above.attrs["background"], plain.attrs["background"]) == ("constant", "none")
    assert float(abs(above - plain).min()) > 1e-3


def test_a_bad_window_tells_the_reader_what_is_wrong(result):
    with pytest.raises(ShapeError, match="reaches beyond the patterns .* integrate a wider range of q"):
        result.window(4.0, 9.0)
    with pytest.raises(ShapeError, match="give q_min before q_max"):
        result.window(4.0, 3.0)
    answer = httpx.get(f"{result.client.uri}/windows/silicon")
    assert (answer.status_code, answer.json()["detail"][:23]) == (400, "'silicon' is no window:")
    assert httpx.get(f"{result.client.uri}/windows/2-3.5-none/deeper").status_code == 404


def test_windows_are_listed_nowhere_and_digested_nowhere(result):
    assert list(result.client["windows"]) == []
    assert "windows" in list(result.client)
    assert not [path for path in result.digest() if path.startswith("windows")]


def test_before_the_first_frame_there_is_nothing_to_sum(service, catalog, tmp_path_factory):
    publish(service, tmp_path_factory.mktemp("empty"), "empty", tree())
    with pytest.raises(NotPublishedError, match="no frame yet"):
        catalog.results["empty"].window(2.0, 3.5)
    answer = httpx.get(f"{catalog.results['empty'].client.uri}/windows/2-3.5-none")
    assert (answer.status_code, "no frame has a volume yet" in answer.text) == (404, True)


def register(service, key: str, uri: str) -> httpx.Response:
    """What the server answers where windows of the array at ``uri`` are asked for, that somebody with the key registered."""
    headers = {"Authorization": f"Apikey {service.api_key}"}
    asset = {"data_uri": uri, "is_directory": True, "parameter": "data_uris", "num": 0}
    source = {"structure_family": "container", "structure": None, "mimetype": WINDOWS_MIMETYPE, "management": "external", "assets": [asset]}
    body = {"id": key, "structure_family": "container", "metadata": about(), "specs": [], "data_sources": [source]}
    assert httpx.post(f"{service.uri}/api/v1/register/", headers=headers, json=body).is_success
    return httpx.get(f"{service.uri}/api/v1/array/full/{key}/1.82-1.90", params={"format": "text/csv", "slice": "0"})


def test_only_arrays_in_the_folders_of_the_server_are_read(service, location, tmp_path_factory):
    outside = tmp_path_factory.getbasetemp().parent / "outside" / "volumes"
    assert register(service, "inside", f"file://localhost{location}").status_code == 200
    assert register(service, "outside", f"file://localhost{outside}").status_code == 500  # Tiled's own refusal
    back = register(service, "back", f"file://localhost{service.storage}/../../{outside.parent.name}/volumes")
    assert (back.status_code, "leads back out" in back.text) == (410, True)
    gone = register(service, "gone", f"file://localhost{location}/nothing")
    assert (gone.status_code, "replay the run" in gone.text) == (410, True)


def test_a_server_without_the_adapter_serves_everything_else(monkeypatch, tmp_path):
    folder = tmp_path / "server"
    with start_server(folder, [tmp_path]) as server, client.open(server.uri) as catalog:
        publish(server, tmp_path, "before", everything(1))
        digest = catalog.results["before"].digest()
    monkeypatch.setattr(embedded, "ADAPTERS", {})
    with start_server(folder, [tmp_path]) as server, client.open(server.uri) as catalog:
        assert catalog.results["before"].digest() == digest
        publish(server, tmp_path, "before", [*everything(1), *frame(1)])
        publish(server, tmp_path, "after", everything(1))
        assert len(catalog.results["before"].maps["frame"]) == 2
        assert catalog.results["after"].digest() == digest
        with pytest.raises(NotPublishedError, match=r"does not compute them .* operandi\.screen"):
            catalog.results["after"].window(2.0, 3.5)
