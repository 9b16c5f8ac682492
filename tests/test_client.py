import threading

import httpx
import numpy as np
import pytest
import tiled.profiles
import xarray as xr
from published import FRAMES, IMAGES, NQ, NX, NY, TAGS, Q, X, Y, everything, frame, step, tree, values
from tiled.client import from_profile

from operandi import client
from operandi.errors import NotPublishedError, PublishError
from operandi.nodes import Container
from operandi.profiles import install_profile
from operandi.sinks.tiled import TiledSink


@pytest.fixture(scope="module")
def result(service, catalog, tmp_path_factory) -> client.Result:
    """A complete result, of which frame 3 is written but not committed."""
    with TiledSink(service.uri, api_key=service.api_key, storage=service.storage, state=tmp_path_factory.mktemp("state")) as sink:
        sink.open("20261122-1403_cell-17_219cc7b4_5f3a9c01", {"sample": {"name": "cell-17"}})
        for product in (*everything(3), *list(frame(3))[:-1]):
            sink.apply(product)
        assert sink.drain(30)
    return catalog.results["20261122-1403_cell-17_219cc7b4_5f3a9c01"]


def test_maps_are_labelled_with_charge_time_phase_and_place(result):
    maps = result.maps
    assert maps["intensity"].dims == ("frame", "phase", "y", "x")
    assert maps["intensity"].attrs["units"] == "counts/mm/angstrom"
    assert maps["phase"].to_numpy().tolist() == ["Al", "Cu"]
    assert maps["q_mah"].to_numpy().tolist() == TAGS[:3]
    assert maps["x"].attrs["units"] == "mm"
    expected = values(("maps", "sigma"), 1, (1, 2, NY, NX))[0, 1]
    np.testing.assert_array_equal(maps["sigma"].sel(frame=1, phase="Cu"), expected)


def test_dstar_is_read_with_its_reasons_in_words(result):
    found = result.frame(1).dstar
    assert found["dstar"].dims == ("y", "x")
    assert found["dstar"].attrs["units"] == "nm"
    np.testing.assert_array_equal(found["dstar"], values(("dstar", "value"), 1, (1, 6, 5))[0])
    np.testing.assert_allclose(found["q_star"] * found["dstar"], np.where(np.isnan(found["dstar"]), np.nan, 0.2 * np.pi), rtol=1e-6)
    codes = values(("dstar", "reason"), 1, (1, 6, 5), "uint8")[0] % 3
    np.testing.assert_array_equal(found["reason"], np.array(["", "one slope", "not measured"])[codes])
    assert result.dstar["reason"].dims == ("frame", "y", "x")
    assert {"dstar", "sigma", "slope", "q_star", "reason"} == set(result.dstar)


def test_frames_that_are_not_committed_are_not_shown(result):
    assert result.client["maps/intensity"].shape[0] == 4
    assert result.maps.sizes["frame"] == result.volumes.sizes["frame"] == result.composites.sizes["frame"] == 3
    with pytest.raises(NotPublishedError, match=r"frame 3 is not committed .* \[0, 1, 2\]"):
        result.frame(3)


def test_volumes_and_patterns_are_read_when_asked_for(result):
    assert result.volumes["intensity"].chunks is not None
    voxel = result.volumes["intensity"].sel(frame=2).isel(y=1, x=2).compute()
    np.testing.assert_array_equal(voxel, values(("volumes", "intensity"), 2, (1, NY, NX, NQ))[0, 1, 2])
    patterns = result.patterns
    assert patterns["intensity"].shape == (IMAGES, NQ)
    assert set(patterns.coords) == {"q", "time", "rotation", "charge"}
    np.testing.assert_array_equal(patterns["sigma"][3:6].compute(), values(("patterns", "sigma"), 1, (3, NQ)))


def test_the_frame_nearest_to_a_charge_is_found(result):
    nearest = result.nearest_frame(5.5)
    assert (nearest.number, nearest.q_mah) == (0, 5.74)
    assert result.nearest_frame(12.9).number == 2
    assert result.nearest_frame(18.4).number == 2
    assert nearest.maps["intensity"].dims == ("phase", "y", "x")
    assert nearest.composites.dtype == np.uint8
    assert nearest.volume["intensity"].shape == (NY, NX, NQ)
    assert nearest.sinogram.dims == ("rotation", "translation", "q")
    assert nearest.sinogram.attrs["axis_mm"] == 0.01


def test_a_charge_that_no_frame_covers_is_not_answered(result):
    with pytest.raises(NotPublishedError, match=r"no frame at 25 mAh; the frames cover 0.00 to 18.14 mAh"):
        result.nearest_frame(25)
    with pytest.raises(NotPublishedError, match="phase 'discharge'"):
        result.nearest_frame(5.74, phase="discharge")


def test_the_spectrum_of_a_voxel_is_found_by_its_place(result):
    spectrum = result.spectrum(0.3, -0.9, frame=1)
    assert isinstance(spectrum, xr.DataArray)
    np.testing.assert_array_equal(spectrum, values(("volumes", "intensity"), 1, (1, NY, NX, NQ))[0, Y.index(0.25), X.index(-1.0)])
    np.testing.assert_array_equal(spectrum["q"], Q)
    assert float(spectrum["y"]) == 0.25
    with pytest.raises(NotPublishedError, match="outside of the volume"):
        result.spectrum(0, 5, frame=1)


def test_a_catalog_shows_its_results(catalog, result):
    assert result.key in catalog.results
    assert len(catalog.results) == len(list(catalog.results))
    assert catalog.latest().key in list(catalog.results)
    assert "3 frames, 5.74 to 14.82 mAh, complete" in repr(result)
    assert "<table" in result._repr_html_()
    assert result.key in catalog._repr_html_()
    assert "5.74 mAh" in repr(result.frame(0))
    assert result.metadata["sample"] == {"name": "cell-17"}


def test_what_is_not_there_is_said_clearly(catalog, service, tmp_path):
    with pytest.raises(NotPublishedError, match="no result 'nonsense'"):
        catalog.results["nonsense"]
    with TiledSink(service.uri, api_key=service.api_key, storage=service.storage, state=tmp_path) as sink:
        sink.open("bare", {})
        sink.apply(Container(("maps",)))
        assert sink.drain(30)
    bare = catalog.results["bare"]
    assert "nothing committed yet" in repr(bare)
    assert "bare" in bare._repr_html_()
    for ask in (
        lambda: bare.maps,
        lambda: bare.steps,
        lambda: bare.patterns,
        lambda: bare.sinogram(0),
        lambda: bare.nearest_frame(1),
        lambda: bare.at_charge(1),
    ):
        with pytest.raises(NotPublishedError):
            ask()


def test_a_server_that_is_away_is_said_at_once():
    with pytest.raises(PublishError, match="does not answer"):
        client.open("http://127.0.0.1:9")
    with pytest.raises(NotPublishedError, match="no Tiled profile"):
        client.open("no-such-profile")


def test_an_installed_profile_reaches_the_server(service, tmp_path, monkeypatch):
    monkeypatch.setattr(tiled.profiles, "paths", [tmp_path])
    file = install_profile(service.uri, "beamline")
    assert file == tmp_path / "beamline.yml"
    assert service.api_key not in file.read_text()
    with client.open("beamline") as catalog:
        assert "processed" in catalog.client
    theirs = from_profile("beamline")
    assert list(theirs) == list(catalog_keys(service.uri))
    theirs.context.http_client.close()
    tiled.profiles.load_profiles.cache_clear()


def catalog_keys(uri: str) -> list[str]:
    return [node["id"] for node in httpx.get(f"{uri}/api/v1/search/").json()["data"]]


# Tiled 0.2.20 calls websockets' connect() in a way that websockets 17.1 deprecates.
@pytest.mark.filterwarnings("ignore:connect\\(\\) must be used as a context manager:DeprecationWarning")
def test_subscribers_get_every_step_once_and_in_order(service, catalog, tmp_path):
    seen: list[int] = []
    complete = threading.Event()

    def on_step(row):
        assert catalog.results["followed"].maps.sizes["frame"] > row["frame"]  # the data are there before the row
        seen.append(int(row["step"]))
        if row["step"] == FRAMES - 1:
            complete.set()

    with TiledSink(service.uri, api_key=service.api_key, storage=service.storage, state=tmp_path) as sink:
        sink.open("followed", {})
        for product in (*tree(), *frame(0)):
            sink.apply(product)
        assert sink.drain(30)
        with catalog.results["followed"].subscribe(on_step, reconcile_s=30.0):
            for number in range(1, FRAMES):
                for product in frame(number):
                    sink.apply(product)
            assert sink.drain(30)
            assert complete.wait(30)
    assert seen == list(range(FRAMES))


@pytest.mark.filterwarnings("ignore:connect\\(\\) must be used as a context manager:DeprecationWarning")
def test_what_a_subscriber_raises_comes_back_when_it_stops(result):
    def on_step(row):
        raise ZeroDivisionError(row["step"])

    called = threading.Event()
    subscription = result.subscribe(lambda row: (called.set(), on_step(row)))
    assert called.wait(30)
    with pytest.raises(ZeroDivisionError):
        subscription.stop()


@pytest.mark.filterwarnings("ignore:connect\\(\\) must be used as a context manager:DeprecationWarning")
def test_a_subscriber_can_begin_later(result):
    seen, last = [], threading.Event()
    with result.subscribe(lambda row: (seen.append(row["step"]), last.set() if row["step"] == 2 else None), since=0):
        assert last.wait(30)
    assert seen == [1, 2]
    assert step(1).columns["q_mah"][0] == TAGS[1]
