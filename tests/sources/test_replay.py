"""Replay: a run told again from a Tiled server says what it said live."""

import copy
import warnings
from types import SimpleNamespace

import pytest
from hostile import KEYS, fly_run, legacy_run, resource, step_run

from operandi.errors import DocumentError, NotPublishedError
from operandi.sources.replay import EXPORT, TILED_PATCHES, from_tiled
from operandi.stages.documents import Admission, Exposures, Missing, Refused


def fold(documents):
    admission = Admission("primary", KEYS)
    return [outcome for name, doc in documents for outcome in admission.admit(name, doc)]


def table(outcomes):
    """Everything that was released, by seq_num."""
    assert not [outcome for outcome in outcomes if isinstance(outcome, Refused | Missing)]
    cells = {}
    for exposures in (outcome for outcome in outcomes if isinstance(outcome, Exposures)):
        for i in range(len(exposures)):
            numbers = {role: values[i] for role, values in exposures.values.items()}
            places = {
                role: [(r.uri, r.dataset, n) for r in references for n in range(r.start, r.stop)][i]
                for role, references in exposures.references.items()
            }
            cells[exposures.seq_first + i] = numbers | places
    return cells


@pytest.fixture(scope="module")
def catalog(service):
    """A container of runs on the real server, and what writes into it."""
    from bluesky_tiled_plugins import TiledWriter
    from tiled.client import from_uri

    root = from_uri(service.uri, api_key=service.api_key)
    if EXPORT not in root.context.server_info.formats.get("BlueskyRun", ()):
        pytest.skip("the server is not configured to tell runs as documents")
    runs = root.create_container("replay-raw")
    return SimpleNamespace(client=runs, writer=TiledWriter(runs, batch_size=4, patches=TILED_PATCHES))


def publish(catalog, documents):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, doc in copy.deepcopy(documents):
            catalog.writer(name, doc)


@pytest.mark.parametrize("run", [fly_run, step_run, legacy_run], ids=lambda run: run.__name__)
def test_a_run_from_tiled_gives_the_exposures_of_the_run_live(catalog, run):
    uid = f"11111111-{run.__name__}"
    documents = run(11, run=uid)
    publish(catalog, documents)
    assert table(fold(from_tiled(catalog.client, uid))) == table(fold(documents))


def test_a_killed_run_has_no_stop(catalog):
    publish(catalog, step_run(8, "22222222-killed")[:-1])
    names = [name for name, _ in from_tiled(catalog.client, "22222222")]
    assert names[0] == "start"
    assert "stop" not in names


def test_the_latest_run_and_the_one_before_it(catalog):
    publish(catalog, [*step_run(2, "33333333-a"), *step_run(3, "33333333-b")])
    assert next(from_tiled(catalog.client))[1]["uid"] == "33333333-b"
    assert next(from_tiled(catalog.client, -2))[1]["uid"] == "33333333-a"


def test_a_run_that_is_not_there_is_named_with_what_is(catalog):
    publish(catalog, [*step_run(2, "44444444-a"), *step_run(2, "44444444-b")])
    with pytest.raises(NotPublishedError, match=r"no run 'nothing' .*44444444-b"):
        from_tiled(catalog.client, "nothing")
    with pytest.raises(NotPublishedError, match="several runs '44444444'"):
        from_tiled(catalog.client, "44444444")
    with pytest.raises(NotPublishedError, match="no run -100"):
        from_tiled(catalog.client, -100)


def test_a_key_in_several_files_is_refused_with_the_way_out(catalog):
    run = fly_run(16, run="55555555-two")
    second = resource("pilatus", "55555555-two", uid="part-2", uri="file://localhost/data/scan-2.h5")
    moved = [(n, d | {"stream_resource": "part-2"}) if d.get("uid") == "pilatus-9-17" else (n, d) for n, d in run]
    publish(catalog, [*moved[:7], second, *moved[7:]])
    with pytest.raises(DocumentError, match="lies in 2 files.*from the journal"):
        from_tiled(catalog.client, "55555555-two")


def test_a_key_that_was_called_time_underscore_keeps_its_name(catalog):
    uid = "66666666-own"
    run = [(n, copy.deepcopy(d)) for n, d in step_run(2, uid)]
    for name, doc in run:
        for field in {"descriptor": ["data_keys"], "event": ["data", "timestamps"]}.get(name, []):
            doc[field]["time_"] = doc[field].pop("time")
    publish(catalog, run)
    events = [doc for name, doc in from_tiled(catalog.client, uid) if name == "event"]
    assert all("time_" in doc["data"] and "time" not in doc["data"] for doc in events)
