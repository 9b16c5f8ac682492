"""The join of documents into exposures."""

import json
import random
from collections.abc import Iterable

import hostile
import numpy as np
import pytest
from hostile import KEYS, RUN, datum, descriptor, event, fly_run, legacy_run, resource, start, step_run, stop
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import shared_file

from operandi.experiment import Scan
from operandi.stages.documents import Admission, Exposures, Missing, Refused, RunStarted, RunStopped

RUNS = (
    "external_assets",
    "external_assets_legacy",
    "external_assets_single_key",
    "external_assets_single_key_two_files",
    "internal_events",
)
JOURNALS = ("0bffac43-2002-40b5-a9a5-e1aa6debf59f", "17edf994-bcbe-4113-840b-3ccebb1dfdbe")


def fold(documents: Iterable, keys=KEYS, **options):
    admission = Admission("primary", keys, **options)
    return [outcome for name, doc in documents for outcome in admission.admit(name, doc)]


def of(kind, outcomes):
    return [outcome for outcome in outcomes if isinstance(outcome, kind)]


def table(outcomes):
    """Everything that was released, by seq_num: the last of a repeated one, as the pipeline sees it."""
    cells = {}
    for exposures in of(Exposures, outcomes):
        places = {}
        for role, references in exposures.references.items():
            places[role] = [(r.uri, r.dataset, i) for r in references for i in range(r.start, r.stop, r.per_exposure)]
        for i in range(len(exposures)):
            numbers = {role: values[i] for role, values in exposures.values.items()}
            cells[exposures.seq_first + i] = numbers | {role: place[i] for role, place in places.items()}
    return cells


def load(name):
    text = shared_file(f"bluesky_docs/{name}").read_text()
    if name.endswith(".jsonl"):
        return [tuple(json.loads(line)) for line in text.splitlines()]
    return [(item["name"], item["doc"]) for item in json.loads(text)]


# -- what is released ---------------------------------------------------------------------------------------------


def test_a_fly_scan_is_released_line_by_line():
    outcomes = fold(fly_run(20, 8))
    assert isinstance(outcomes[0], RunStarted)
    assert outcomes[-1] == RunStopped("success", "", {"primary": 20})
    assert [(e.seq_first, e.seq_last) for e in of(Exposures, outcomes)] == [(1, 8), (9, 16), (17, 20)]
    (reference,) = of(Exposures, outcomes)[1].references["image"]
    assert (reference.uri, reference.dataset, reference.start, reference.stop) == ("file://localhost/data/scan.h5", "/entry/pilatus", 8, 16)
    assert reference.shape == (13, 17)
    assert reference.mimetype == "application/x-hdf5"
    assert of(Exposures, outcomes)[0].values == {}


def test_a_step_scan_has_its_numbers_from_the_events():
    exposures = of(Exposures, fold(step_run(6)))
    assert [len(e) for e in exposures] == [1] * 6
    assert exposures[3].values["monitor"] == 1e6 + 4
    assert exposures[3].values["monitor"].dtype == np.float64
    assert set(exposures[3].references) == {"image"}


def test_a_legacy_run_gives_the_references_of_the_step_run():
    old, new = table(fold(legacy_run(7))), table(fold(step_run(7)))
    assert {n: cell["image"] for n, cell in old.items()} == {
        n: ("file://localhost/data/old.h5", "/entry/data/data", n - 1) for n in range(1, 8)
    }
    assert {n: cell["rotation"] for n, cell in old.items()} == {n: cell["rotation"] for n, cell in new.items()}


def test_a_datum_may_come_after_its_event():
    documents = legacy_run(3)
    late = [d for d in documents if d[0] != "datum"][:-1] + [d for d in documents if d[0] == "datum"] + documents[-1:]
    assert table(fold(late)) == table(fold(documents))


def test_pages_are_rows():
    events = [doc for name, doc in step_run(5) if name == "event"]
    columns = {field: [doc[field] for doc in events] for field in ("seq_num", "time", "uid")}
    page = columns | {"descriptor": f"d-{RUN}", "data": {key: [doc["data"][key] for doc in events] for key in events[0]["data"]}}
    documents = [d for d in step_run(5) if d[0] != "event"]
    assert table(fold([*documents[:-1], ("event_page", page), documents[-1]])) == table(fold(step_run(5)))


def test_the_time_of_the_event_serves_where_no_key_is_named():
    exposures = of(Exposures, fold(step_run(3), KEYS | {"time": None}))
    assert [float(e.values["time"][0]) for e in exposures] == [hostile.START] * 3


def test_a_streamed_run_without_a_time_key_says_what_to_correct():
    refused = of(Refused, fold(fly_run(8), KEYS | {"time": None}))
    assert "scan.keys.time" in refused[0].reason


def test_a_scan_says_stream_and_keys():
    scan = Scan(sets=2, rotations_per_set=2, translations=2, translation_start_mm=0, translation_stop_mm=1, exposure_s=1)
    assert Admission.of(scan).keys == scan.keys.model_dump(exclude={"set"})
    assert Admission.of(scan).stream == "primary"


def test_the_number_of_the_set_is_read_only_where_it_tells_the_set():
    scan = {"sets": 2, "rotations_per_set": 2, "translations": 2, "translation_start_mm": 0, "translation_stop_mm": 1, "exposure_s": 1}
    admissions = [Admission.of(Scan.model_validate(scan | {"keys": {"set": "pass"}, "sets_by": by})) for by in ("key", "motion")]
    assert [admission.keys.get("set") for admission in admissions] == ["pass", None]


def test_several_images_an_exposure_lie_one_after_the_other():
    name, doc = descriptor({"pilatus"})
    doc["data_keys"]["pilatus"] = hostile.IMAGE | {"shape": [3, 13, 17]}
    outcomes = fold([start(), (name, doc), resource("pilatus"), datum("pilatus", 1, 3), event(1), event(2), stop(2)])
    references = [e.references["image"][0] for e in of(Exposures, outcomes)]
    assert [(r.start, r.stop, r.per_exposure, r.shape) for r in references] == [(0, 3, 3, (13, 17)), (3, 6, 3, (13, 17))]


@pytest.mark.parametrize("template", ["img_{:05d}.tif", "img_%05d.tif", "%s_%5.5d.tif"])
def test_a_series_of_files_is_named_file_by_file(template):
    parameters = {"template": template, "filename": "img", "chunk_shape": [1, 13, 17]}
    series = resource("pilatus", mimetype="multipart/related;type=image/tiff", uri="file://localhost/data/", parameters=parameters)
    documents = [start(), descriptor({"pilatus"}), series, datum("pilatus", 1, 3), event(1), event(2), stop(2)]
    names = [list(e.references["image"][0].parts()) for e in of(Exposures, fold(documents))]
    assert names == [[(f"file://localhost/data/img_0000{i}.tif", 0, None)] for i in range(2)]


def test_a_second_file_goes_on_where_the_first_ended():
    documents = fly_run(16)
    second = [resource("pilatus", uid="part-2", uri="file://localhost/data/scan-2.h5")]
    moved = [
        (name, doc | {"stream_resource": "part-2", "indices": {"start": 0, "stop": 8}}) if doc.get("uid") == "pilatus-9-17" else (name, doc)
        for name, doc in documents
    ]
    first, last = of(Exposures, fold(moved[:7] + second + moved[7:]))
    assert [(r.uri[-9:], r.start, r.stop) for e in (first, last) for r in e.references["image"]] == [
        ("a/scan.h5", 0, 8),
        ("scan-2.h5", 0, 8),
    ]


# -- order --------------------------------------------------------------------------------------------------------


@st.composite
def deliveries(draw):
    """A run, and the same run in another permitted order, its stream_datums split and merged elsewhere."""
    count = draw(st.integers(1, 60))
    run = draw(st.sampled_from([fly_run, step_run, legacy_run]))(count)
    streamed = sorted({doc["stream_resource"].split("-")[0] for name, doc in run if name == "stream_datum"})
    rest = [document for document in run[1:-1] if document[0] in ("event", "datum")]
    for key in streamed:
        cuts = sorted(draw(st.sets(st.integers(2, count), max_size=8))) if count > 1 else []
        rest += [datum(key, a, b) for a, b in zip([1, *cuts], [*cuts, count + 1], strict=True)]
    head = [document for document in run[1:-1] if document[0] not in ("event", "datum", "stream_datum")]
    random.Random(draw(st.integers(0, 2**32))).shuffle(rest)
    again = [rest[i] for i in draw(st.lists(st.integers(0, len(rest) - 1), max_size=3))]
    return run, [run[0], *head, *rest, *again, run[-1]]


@given(deliveries())
@settings(max_examples=150, deadline=None)
def test_what_is_released_does_not_depend_on_the_order_of_delivery(delivery):
    run, shuffled = delivery
    outcomes = fold(shuffled)
    firsts = [n for e in of(Exposures, outcomes) for n in range(e.seq_first, e.seq_last + 1)]
    assert firsts == sorted(firsts)
    assert table(outcomes) == table(fold(run))
    assert not of(Refused, outcomes)
    assert not of(Missing, outcomes)


@given(st.sets(st.integers(1, 30)), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_exposure_is_released_refused_or_missing_and_only_once(lost, seed):
    run = step_run(30)
    kept = [d for d in run if not (d[0] == "event" and d[1]["seq_num"] in lost)]
    bad = {n for n in lost if n % 3 == 0}
    body = kept[3:-1] + [event(n, rotation=float("nan")) for n in bad]
    random.Random(seed).shuffle(body)
    outcomes = fold([*kept[:3], *body, kept[-1]])
    missing = {n for m in of(Missing, outcomes) for n in range(m.seq_first, m.seq_last + 1)}
    assert {r.seq_num for r in of(Refused, outcomes)} == bad
    assert missing == lost - bad
    assert set(table(outcomes)) == set(range(1, 31)) - lost


def test_a_gap_holds_what_lies_behind_it_until_the_stop():
    run = [d for d in step_run(5) if d[1].get("seq_num") != 3]
    outcomes = fold(run[:-1])
    assert [e.seq_last for e in of(Exposures, outcomes)] == [1, 2]
    outcomes = fold(run)
    assert [type(o).__name__ for o in outcomes] == ["RunStarted", "Exposures", "Exposures", "Missing", "Exposures", "RunStopped"]
    assert of(Missing, outcomes) == [Missing(3, 3, ("rotation", "translation", "monitor", "time"))]
    assert of(Exposures, outcomes)[-1].seq_last == 5


def test_a_refused_exposure_holds_nothing():
    run = [event(3, monitor=None) if d[1].get("seq_num") == 3 else d for d in step_run(5)]
    outcomes = fold(run[:-1])
    assert [e.seq_last for e in of(Exposures, outcomes)] == [1, 2, 4, 5]
    assert [(r.stream, r.seq_num) for r in of(Refused, outcomes)] == [("primary", 3)]


def test_a_killed_run_declares_nothing_missing():
    outcomes = fold(d for d in step_run(5)[:-1] if d[1].get("seq_num") != 3)
    assert not of(Missing, outcomes)
    assert not of(RunStopped, outcomes)


def test_what_the_stop_counts_and_nobody_sent_is_missing():
    run = [*fly_run(16)[:-1], stop(20)]
    assert of(Missing, fold(run)) == [Missing(17, 20, tuple(KEYS))]


def test_a_repeated_point_is_released_again_on_its_own():
    run = step_run(4)
    repeat = [datum("pilatus", 2, 3, uid="again", indices={"start": 4, "stop": 5}), event(2, monitor=5.0)]
    outcomes = fold([*run[:-1], *repeat, run[-1]])
    assert [e.seq_first for e in of(Exposures, outcomes)] == [1, 2, 3, 4, 2, 2]
    assert table(outcomes)[2] | {"rotation": None} == table(fold(run))[2] | {
        "rotation": None, "monitor": 5.0, "image": ("file://localhost/data/scan.h5", "/entry/pilatus", 4),
    }  # fmt: skip


def test_a_document_that_comes_twice_changes_nothing():
    run = step_run(6)
    twice = [document for document in run[:-1] for _ in range(2)] + [run[-1]] * 2
    assert [type(o) for o in fold(twice)] == [type(o) for o in fold(run)]


def test_a_new_configuration_within_the_stream_changes_nothing():
    run = step_run(6)
    second = descriptor({"pilatus"}, uid="d-later")
    later = [(n, d | {"descriptor": "d-later"}) if d.get("seq_num", 0) > 3 else (n, d) for n, d in run]
    assert table(fold([*run[:2], second, *later[2:]])) == table(fold(run))


def test_another_stream_is_ignored():
    run = step_run(4)
    baseline = [descriptor(set(), uid="d-b", name="baseline"), event(1, descriptor="d-b", rotation=99.0)]
    assert [type(o) for o in fold([*run[:3], *baseline, *run[3:]])] == [type(o) for o in fold(run)]


# -- hostile documents --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", hostile.DOCUMENTS, ids=lambda bad: bad.why)
@pytest.mark.parametrize("place", [3, 9, -1])
def test_a_hostile_document_is_refused_and_harms_nothing_else(bad, place):
    run = step_run(6)
    spoilt = [*run[:place], (bad.name, bad.doc), *run[place:]]
    outcomes = fold(spoilt)
    assert [r.reason for r in of(Refused, outcomes)] != [] or bad.ignored
    assert table(outcomes) == table(fold(run))
    assert not of(Missing, outcomes)


def test_documents_before_the_start_and_after_the_stop_are_refused():
    run = step_run(3)
    outcomes = fold([run[3], *run, event(4)])
    assert ["before" in r.reason or "after" in r.reason for r in of(Refused, outcomes)] == [True, True]


NAMES = ["start", "descriptor", "event", "event_page", "stream_resource", "stream_datum", "resource", "datum", "datum_page", "stop"]
FIELDS = ["uid", "run_start", "descriptor", "seq_num", "time", "data", "data_keys", "name", "seq_nums", "indices", "datum_id", "resource"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([RUN, f"d-{RUN}", f"pilatus-{RUN}", "primary"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["start", "stop", "pilatus", "rotation"]), inner),
    max_leaves=5,
)


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(FIELDS), VALUES)), max_size=8))
@settings(max_examples=40, deadline=None)
def test_no_document_raises(documents):
    run = step_run(2)
    fold([*run[:4], *documents, *run[4:]], most=10_000)


# -- documents of others ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"{run}.json" for run in RUNS] + [f"{run}.jsonl" for run in JOURNALS])
def test_real_runs_are_admitted_whole(name):
    documents = load(name)
    keys = {key: doc for kind, doc in documents if kind == "descriptor" and doc["name"] == "primary" for key in doc["data_keys"]}
    scalar = [key for key, doc in keys.items() if doc["data_keys"][key]["dtype"] == "number"]
    images = [key for key, doc in keys.items() if doc["data_keys"][key].get("external") and key not in scalar]
    roles = dict(zip(("rotation", "translation"), scalar, strict=False)) | dict.fromkeys(["image"][: len(images)], images and images[0])
    outcomes = fold(documents, roles)
    counted = documents[-1][1]["num_events"]["primary"]
    assert not of(Refused, outcomes)
    assert not of(Missing, outcomes)
    assert set(range(1, counted + 1)) <= set(table(outcomes))


def test_the_second_of_two_files_wins_where_both_claim_the_seq_nums():
    cells = table(fold(load("external_assets_single_key_two_files.json"), {"image": "det-key2"}))
    assert [cell["image"][0][-16:] for cell in cells.values()] == ["dataset_part2.h5"] * 5
