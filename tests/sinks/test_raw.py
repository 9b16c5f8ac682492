import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import h5py
import numpy as np
import pytest
from event_model import compose_run
from links import Link
from shared import shared_file

from operandi.errors import PublishError
from operandi.sinks.raw import RawPublisher

N = 12
Documents = list[tuple[str, dict[str, Any]]]


def fly_run(folder: Path) -> Documents:
    """A run whose images lie in an HDF5 file, and the file."""
    file = folder / "images.h5"
    with h5py.File(file, "w") as target:
        target["/entry/data/data"] = np.random.default_rng(0).integers(0, 100, (N, 5, 4), dtype="i4")
        target["/entry/rotation"] = np.arange(N) * 0.5
    run = compose_run(metadata={"plan_name": "fly"})
    keys = {
        "pilatus": {"source": "detector", "dtype": "array", "shape": [1, 5, 4], "dtype_numpy": "<i4", "external": "STREAM:"},
        "rotation": {"source": "motor", "dtype": "number", "shape": [], "dtype_numpy": "<f8", "external": "STREAM:", "units": "deg"},
    }
    descriptor = run.compose_descriptor(name="primary", data_keys=keys)
    documents: Documents = [("start", run.start_doc), ("descriptor", descriptor.descriptor_doc)]
    resources = []
    for key, dataset, chunk in (("pilatus", "/entry/data/data", [1, 5, 4]), ("rotation", "/entry/rotation", [N])):
        parameters = {"dataset": dataset, "chunk_shape": chunk}
        resource = run.compose_stream_resource(
            data_key=key, mimetype="application/x-hdf5", uri=f"file://localhost{file}", parameters=parameters
        )
        documents.append(("stream_resource", resource.stream_resource_doc))
        resources.append(resource)
    for first in range(0, N, 4):
        for resource in resources:
            part = {"start": first, "stop": first + 4}
            numbers = {"start": first + 1, "stop": first + 5}
            datum = resource.compose_stream_datum(indices=part, seq_nums=numbers, descriptor=descriptor.descriptor_doc)
            documents.append(("stream_datum", datum))
    documents.append(("stop", run.compose_stop()))
    return json.loads(json.dumps(documents))


def images_of(catalog, uid: str) -> np.ndarray:
    return catalog.runs[uid]["primary/pilatus"].read().compute().reshape(N, 5, 4)


def test_a_run_whose_images_lie_in_a_file_is_read_through_the_server(service, catalog, tmp_path):
    documents = fly_run(tmp_path)
    uid = documents[0][1]["uid"]
    with RawPublisher(service.uri, api_key=service.api_key) as publisher:
        assert publisher.publish(uid, lambda stop: documents).result(60)
        found = images_of(catalog, uid)
        with h5py.File(tmp_path / "images.h5") as file:
            np.testing.assert_array_equal(found, file["/entry/data/data"][:])
        assert catalog.runs[uid].metadata["stop"]["exit_status"] == "success"
        assert publisher.publish(uid, lambda stop: pytest.fail("a complete run is written again")).result(60)


def test_a_run_that_was_cut_short_is_written_anew_and_its_files_are_left_alone(service, catalog, tmp_path):
    documents = fly_run(tmp_path)
    uid, before = documents[0][1]["uid"], (tmp_path / "images.h5").read_bytes()
    with RawPublisher(service.uri, api_key=service.api_key, batch=1) as publisher:
        assert not publisher.publish(uid, lambda stop: documents[:6]).result(60)
        assert "stop" not in catalog.runs[uid].metadata
        assert publisher.publish(uid, lambda stop: documents).result(60)
    assert images_of(catalog, uid).shape == (N, 5, 4)
    assert (tmp_path / "images.h5").read_bytes() == before


def test_an_outage_makes_it_begin_again_with_the_first_document(service, catalog, tmp_path, monkeypatch):
    monkeypatch.setattr("operandi.sinks.raw.FIRST_WAIT_S", 0.05)
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_TIMEOUT", 0.5)
    documents, link = fly_run(tmp_path), Link(service.uri)
    uid, begun = documents[0][1]["uid"], []

    def live(stop: threading.Event) -> Iterator[tuple[str, dict[str, Any]]]:
        begun.append(uid)
        for number, document in enumerate(documents):
            if number == 5 and len(begun) == 1:
                link.cut()
                threading.Timer(2.0, link.mend).start()
            yield document

    with RawPublisher(link.uri, api_key=service.api_key, batch=1) as publisher:
        assert publisher.publish(uid, live).result(120)
        assert publisher.retries >= 1
    link.close()
    assert len(begun) >= 2
    assert images_of(catalog, uid).shape == (N, 5, 4)


def test_stopping_ends_a_run_that_still_grows(service, tmp_path):
    documents = fly_run(tmp_path)
    reached = threading.Event()

    def live(stop: threading.Event) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from documents[:4]
        reached.set()
        stop.wait(60)

    publisher = RawPublisher(service.uri, api_key=service.api_key)
    future = publisher.publish(documents[0][1]["uid"], live)
    assert reached.wait(60)
    publisher.stop()
    assert future.result(0) is False


def test_a_refusal_is_told_and_other_runs_go_on(service, tmp_path):
    documents = fly_run(tmp_path)
    with RawPublisher(service.uri, api_key="wrong") as publisher, pytest.raises(PublishError, match="API key"):
        publisher.publish(documents[0][1]["uid"], lambda stop: documents).result(60)


@pytest.mark.parametrize("name", ["internal_events", "external_assets", "external_assets_legacy", "external_assets_single_key"])
def test_published_documents_of_others_are_taken(service, catalog, name, tmp_path):
    text = shared_file(f"bluesky_docs/{name}.json").read_text()
    text = text.replace("{{ uuid }}", str(uuid4())[:-13]).replace("{{ root_path }}", str(tmp_path))
    documents = [(item["name"], item["doc"]) for item in json.loads(text)]
    uid = documents[0][1]["uid"]
    with RawPublisher(service.uri, api_key=service.api_key) as publisher:
        assert publisher.publish(uid, lambda stop: documents).result(60)
    streams = {doc["name"] for kind, doc in documents if kind == "descriptor"}
    assert set(catalog.runs[uid]) == streams
    assert catalog.runs[uid].metadata["stop"]["run_start"] == uid
