import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from links import Link
from published import NQ, NX, NY, everything, frame, step, tree, values

from operandi import client
from operandi.errors import PublishError, ShapeError
from operandi.nodes import STEPS, Array, Block, Container, Rows, Table
from operandi.server.embedded import start_server
from operandi.sinks.tiled import TiledSink

FRAMES = 2


@pytest.fixture
def link(service) -> Iterator[Link]:
    link = Link(service.uri)
    yield link
    link.close()


def sink_to(uri: str, service, folder: Path) -> TiledSink:
    return TiledSink(uri, api_key=service.api_key, storage=service.storage, state=folder / "state")


def publish(service, folder: Path, key: str, products) -> None:
    with sink_to(service.uri, service, folder) as sink:
        sink.open(key, {"sample": "cell-17"})
        for product in products:
            sink.apply(product)
        assert sink.drain(30)


@pytest.fixture(scope="module")
def reference(service, catalog, tmp_path_factory) -> dict[str, str]:
    """Digest of the whole result, published without any trouble."""
    publish(service, tmp_path_factory.mktemp("reference"), "reference", everything(FRAMES))
    return catalog.results["reference"].digest()


def test_every_product_comes_back_bit_by_bit(service, catalog, reference):
    root = catalog.results["reference"].client
    maps = root["maps/intensity"].read().compute()
    np.testing.assert_array_equal(maps, np.concatenate([values(("maps", "intensity"), n, (1, 2, NY, NX)) for n in range(FRAMES)]))
    np.testing.assert_array_equal(root["sinograms/0001"].read().compute(), values(("sinograms", "0001"), 1, (2, NX, NQ)))
    rgb = root["composites/rgb"].read().compute()
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb[1:], values(("composites", "rgb"), 1, (1, 1, NY, NX, 3), "uint8"))


def test_tables_keep_strings_integers_and_nan(service, catalog, reference):
    result = catalog.results["reference"]
    steps, ledger, echem = result.steps, result.ledger, result.echem
    for column, wanted in step(1).columns.items():
        found = steps[column].to_numpy()[1]
        assert found == wanted[0] or (np.isnan(found) and np.isnan(wanted[0])), column
    assert ledger["reason"].tolist()[:3] == ["", "a 'quoted' \"reason\"; --", "\n"]
    assert ledger["entry"].dtype == np.int64
    assert echem["voltage"].isna().all()
    assert echem["current"].tolist()[2] == 1e-300


def test_publishing_again_changes_nothing(service, catalog, reference, tmp_path):
    publish(service, tmp_path, "reference", everything(FRAMES))
    assert catalog.results["reference"].digest() == reference


def test_an_outage_holds_nothing_up_and_loses_nothing(service, catalog, link, reference, tmp_path):
    sink = sink_to(link.uri, service, tmp_path)
    sink.open("outage", {"sample": "cell-17"})
    for product in tree():
        sink.apply(product)
    for number in range(FRAMES):
        if number == 1:
            link.cut()
        began = time.monotonic()
        for product in frame(number):
            sink.apply(product)
        assert time.monotonic() - began < 2.0
    assert sink.backlog > 0
    assert not sink.drain(0.2)
    link.mend()
    assert sink.drain(30)
    assert sink.retries > 0
    sink.close()
    assert catalog.results["outage"].digest() == reference


def test_what_waits_when_the_worker_ends_is_published_by_the_next(service, catalog, link, reference, tmp_path):
    link.cut()
    with sink_to(link.uri, service, tmp_path) as sink:
        sink.open("later", {})
        for product in everything(FRAMES):
            sink.apply(product)
        assert not sink.close(0.0)
    with sink_to(service.uri, service, tmp_path) as sink:
        sink.open("later", {})
        assert sink.drain(30)
    assert catalog.results["later"].digest() == reference


REQUESTS = [b"PATCH /api/v1/table", b"POST /api/v1/register", b"PUT /api/v1/data_source", b"POST /api/v1/metadata"]


@pytest.mark.parametrize("request_line", REQUESTS)
def test_an_answer_that_is_lost_makes_no_row_come_twice(service, catalog, link, reference, tmp_path, request_line):
    link.lose_answers_to = request_line
    key = "lost-" + request_line.split(b"/")[-1].decode()
    with sink_to(link.uri, service, tmp_path) as sink:
        sink.open(key, {})
        for product in (*tree(), *frame(0)):
            sink.apply(product)
        assert sink.drain(30)  # else the arrays would be registered as they are at the end, and never grow
        for product in everything(FRAMES):
            sink.apply(product)
        assert sink.drain(30)
    result = catalog.results[key]
    assert link.lost == 1
    assert len(result.client["steps"].read().compute()) == FRAMES
    assert result.digest() == reference


def test_a_row_is_visible_only_after_the_data_that_it_announces(service, catalog, link, tmp_path, monkeypatch):
    """Whenever the table has n rows, the array that they announce has n frames, whatever the network does."""
    monkeypatch.setattr("operandi.sinks.tiled.LONGEST_WAIT_S", 0.2)
    chaos = random.Random(1)
    result = catalog
    with sink_to(link.uri, service, tmp_path) as sink:
        sink.open("order", {})
        for product in (*tree(), *frame(0)):
            sink.apply(product)
        assert sink.drain(30)
        root = result.results["order"].client
        for number in range(1, 4):
            for product in frame(number):
                sink.apply(product)
            while sink.backlog:
                (link.cut if chaos.random() < 0.3 else link.mend)()
                rows = len(root["steps"].read().compute())
                assert root["maps/intensity"].shape[0] >= rows
                assert root["volumes/intensity"].shape[0] >= rows


WORKER = """
import sys
from pathlib import Path
from published import everything
from operandi.sinks.tiled import TiledSink
uri, key, storage, state, api_key = sys.argv[1:]
sink = TiledSink(uri, api_key=api_key, storage=Path(storage), state=Path(state))
sink.open("killed", {})
print("open", flush=True)
for product in everything(2):
    sink.apply(product)
sink.drain(60)
sink.close()
print("closed", flush=True)
"""


def test_a_worker_that_is_killed_anywhere_ends_at_the_same_result(service, catalog, reference, tmp_path):
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent / 'src'}"}
    command = [sys.executable, "-c", WORKER, service.uri, "killed", str(service.storage), str(tmp_path / "state"), service.api_key]
    for wait_s in (0.0, 0.15, 0.5, None):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        process.stdout.readline()
        if wait_s is not None:
            time.sleep(wait_s)
            process.send_signal(signal.SIGKILL)
        assert process.wait(60) in (0, -signal.SIGKILL)
        process.stdout.close()
    result = catalog.results["killed"]
    assert result.digest() == reference
    assert len(result.client["steps"].read().compute()) == FRAMES


def test_a_server_that_restarts_finds_everything_published(tmp_path):
    storage = tmp_path / "a folder with spaces"
    with start_server(tmp_path / "server", [storage]) as server:
        sink = TiledSink(server.uri, api_key=server.api_key, storage=storage, state=tmp_path / "state")
        sink.open("restart", {})
        for product in (*tree(), *frame(0)):
            sink.apply(product)
        assert sink.drain(30)
    for product in frame(1):
        sink.apply(product)
    with start_server(tmp_path / "server", [storage], api_key=server.api_key, port=server.port) as server:
        assert sink.drain(30)
        assert sink.close()
        with client.open(server.uri) as catalog:
            result = catalog.latest()
            assert result.steps["step"].tolist() == [0, 1]
            np.testing.assert_array_equal(result.maps["intensity"][1:], values(("maps", "intensity"), 1, (1, 2, NY, NX)))


def test_a_refusal_surfaces_and_nothing_is_lost(service, catalog, tmp_path):
    sink = TiledSink(service.uri, api_key="wrong", storage=service.storage, state=tmp_path / "state")
    sink.open("refused", {})
    with pytest.raises(PublishError, match="API key"):
        sink.drain(30)
    with pytest.raises(PublishError, match="API key"):
        sink.apply(Container(("maps",)))
    with pytest.raises(PublishError, match="API key"):
        sink.close()
    with sink_to(service.uri, service, tmp_path) as sink:
        sink.open("refused", {})
        assert sink.drain(30)
    assert "refused" in catalog.results


def test_an_array_of_another_storage_is_refused(service, tmp_path, reference):
    sink = TiledSink(service.uri, api_key=service.api_key, storage=tmp_path / "elsewhere", state=tmp_path / "state")
    sink.open("reference", {})
    for product in (*tree(), *frame(0)):
        sink.apply(product)
    with pytest.raises(PublishError, match="another array is registered"):
        sink.drain(30)
    with pytest.raises(PublishError, match="another array is registered"):
        sink.close()


def test_a_storage_that_no_uri_can_name_is_refused(service, tmp_path):
    sink = TiledSink(service.uri, api_key=service.api_key, storage=tmp_path / "what?", state=tmp_path / "state")
    sink.open("unnameable", {})
    for product in (*tree(), *frame(0)):
        sink.apply(product)
    with pytest.raises(PublishError, match="choose another storage folder"):
        sink.close(30)


def test_products_that_do_not_fit_are_refused_at_the_door(service, tmp_path):
    with sink_to(service.uri, service, tmp_path) as sink:
        with pytest.raises(PublishError, match="call open"):
            sink.apply(step(0))
        sink.open("door", {})
        with pytest.raises(ShapeError, match="not declared"):
            sink.apply(step(0))
        with pytest.raises(ShapeError, match="not declared"):
            sink.apply(Block(("maps", "intensity"), (0,), np.zeros(1)))
        with pytest.raises(ShapeError, match="order column"):
            sink.apply(Table(STEPS, {"step": "int64"}, "time"))
        sink.apply(Table(STEPS, {"step": "int64", "x": "float64"}, "step"))
        for columns in ({"step": [0]}, {"step": [0, 1], "x": [0.0]}, {"step": [1, 1], "x": [0.0, 0.0]}, {"step": [0], "y": [1.0]}):
            with pytest.raises(ShapeError):
                sink.apply(Rows(STEPS, {name: np.array(column) for name, column in columns.items()}))
        with pytest.raises(PublishError, match="still open"):
            sink.open("other", {})


def test_a_table_of_thousands_of_rows_that_begins_without_values_comes_back(service, catalog, tmp_path):
    """The reason for DuckDB: ADBC guesses the type of a SQLite column from its first rows, and NaN is stored there as NULL."""
    times = np.arange(3000, dtype=np.float64)
    voltage = np.where(times < 2500, np.nan, times / 1000)
    products = [Table(("echem",), {"time": "float64", "voltage": "float64"}, "time")]
    products.append(Rows(("echem",), {"time": times, "voltage": voltage}))
    publish(service, tmp_path, "long", products)
    found = catalog.results["long"].echem
    np.testing.assert_array_equal(found["voltage"], voltage)


def test_an_array_without_extent_is_registered_when_it_has_one(service, catalog, tmp_path):
    array = Array(("maps", "intensity"), ("frame", "y"), (0, 3), (1, 3))
    publish(service, tmp_path, "empty", [array])
    result = catalog.results["empty"]
    assert "intensity" not in result.client["maps"]
    publish(service, tmp_path, "empty", [array, Block(array.path, (0, 0), np.ones((1, 3), np.float32))])
    assert result.client["maps/intensity"].shape == (1, 3)
