"""Faults of the input, by the command line: one message that says what, where and what to do; what is good is published."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from beamtimes import Beamtime, measure, prepare

from operandi.cli import main
from operandi.client import Result

SCAN = {"sets": 2, "window_sets": 1, "rotations_per_set": 5, "translations": 11, "exposure_s": 720 / 55}
IMAGES, PER_SET, PER_LINE = 110, 55, 11


@pytest.fixture(scope="module")
def beamtime(service) -> Beamtime:
    """A small run that is over."""
    return measure(prepare(service.storage / "good", service.uri, **SCAN))


@pytest.fixture
def damaged(service, beamtime, request, monkeypatch) -> Beamtime:
    """A copy of the run, to be damaged."""
    monkeypatch.setenv("TILED_API_KEY", service.api_key)
    old, new = beamtime.file.parent, service.storage / request.node.name
    shutil.copytree(old, new, ignore=shutil.ignore_patterns("state", "data"))
    for journal in (new / "journal").glob("*.jsonl"):
        journal.write_text(journal.read_text().replace(str(old), str(new)))
    # The sample is named, so that each copy of the run has a result of its own.
    assert beamtime.rehearsal is not None
    text = (
        (new / "experiment.yml")
        .read_text()
        .replace("demo-cell\n", f"{request.node.name}\n", 1)
        .replace("splitting: full", "splitting: 'no'")
    )
    (new / "experiment.yml").write_text(text)
    return Beamtime(new / "experiment.yml", beamtime.rehearsal)


@pytest.fixture
def told(capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; its exit code, output and errors, in which no traceback may be."""

    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return int(ended.value.code or 0), shown.out, shown.err

    return command


def images(beamtime: Beamtime) -> Path:
    assert beamtime.rehearsal is not None
    return beamtime.file.parent / "images" / beamtime.rehearsal.image_file.name


def replayed(told, catalog, beamtime: Beamtime) -> Result:
    """The result of a replay that goes through."""
    code, out, err = told("replay", "latest", "--experiment", beamtime.file)
    assert code == 0, err
    return catalog.results[out.split()[-1]]


def one_message(err: str, *parts: str) -> None:
    """A single line that holds all of ``parts``."""
    assert err.startswith("operandi: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


@pytest.mark.parametrize("command", ["check", "rehearse", "run", "replay"])
def test_an_experiment_without_its_calibration_is_one_message(damaged, told, command):
    text = damaged.file.read_text()
    damaged.file.write_text(re.sub(r"poni: .*", "poni: nowhere.poni", text))
    arguments = [command, "latest", "--experiment", damaged.file] if command == "replay" else [command, damaged.file]
    code, out, err = told(*arguments, *(["--once"] if command == "run" else []))
    assert code == 1
    assert "nowhere.poni" in " ".join((out + err).split())
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["check", "rehearse", "replay"])
def test_a_mask_of_another_shape_is_one_message_with_both_shapes(damaged, told, command):
    np.save(damaged.file.with_name("wrong.npy"), np.zeros((10, 12), bool))
    damaged.file.write_text(re.sub(r"mask: .*", "mask: wrong.npy", damaged.file.read_text()))
    arguments = ["latest", "--experiment", damaged.file] if command == "replay" else [damaged.file]
    code, out, err = told(command, *arguments)
    assert code == 1
    assert re.search(r"10\D+12", out + err)
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["check", "rehearse", "run", "replay"])
def test_a_typo_in_the_experiment_names_the_line_and_the_right_word(damaged, told, command):
    damaged.file.write_text(damaged.file.read_text().replace("translations:", "translatoins:"))
    arguments = [command, "latest", "--experiment", damaged.file] if command == "replay" else [command, damaged.file]
    code, _, err = told(*arguments)
    assert code == 1
    assert re.search(r"experiment\.yml:\d+: scan\.translatoins: is not known; did you mean 'translations'\?", err)


def test_a_missing_image_file_is_refused_and_told(damaged, told, catalog):
    images(damaged).unlink()
    result = replayed(told, catalog, damaged)
    assert result.ledger["status"].tolist() == ["refused"] * IMAGES
    assert result.ledger["reason"].str.contains("is not there: restore the file and replay").all()
    assert result.steps.empty


def test_a_cut_image_file_is_refused_and_told(damaged, told, catalog):
    content = images(damaged).read_bytes()
    images(damaged).write_bytes(content[: len(content) // 2])
    result = replayed(told, catalog, damaged)
    ledger = result.ledger
    assert len(ledger[ledger["seq_num"] > 0]) == IMAGES
    assert (ledger["status"] == "refused").sum() > IMAGES // 4
    assert ledger["reason"][ledger["status"] == "refused"].str.contains("restore the file").all()


def test_images_of_another_shape_are_refused_and_the_rest_is_published(damaged, told, catalog):
    other = damaged.file.parent / "images" / "other.h5"
    with h5py.File(other, "w") as file:
        file["/entry/data/data"] = np.zeros((PER_LINE, 20, 30), np.int32)
    swap_line(damaged, 1, other)
    result = replayed(told, catalog, damaged)
    refused = result.ledger[result.ledger["status"] == "refused"]
    assert refused["seq_num"].tolist() == list(range(1, PER_LINE + 1))
    assert refused["reason"].str.contains(r"\(20, 30\).*geometry is for").all()
    assert (result.ledger["status"] == "admitted").sum() == IMAGES - PER_LINE
    assert result.steps["frame"].tolist() == [0, 1]
    assert result.steps["quality"].str.contains("20.0 % of the projections not measured").tolist() == [True, False]


def swap_line(beamtime: Beamtime, first: int, file: Path) -> None:
    """Make the line of images that begins with seq_num ``first`` come from another file."""
    (journal,) = (beamtime.file.parent / "journal").glob("*.jsonl")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    resource = next(doc for name, doc in lines if name == "stream_resource" and doc["data_key"] == "pilatus")
    changed = []
    for name, doc in lines:
        changed.append([name, doc])
        if doc is resource:
            changed.append([name, doc | {"uid": "other", "uri": f"file://localhost{file}"}])
        elif name == "stream_datum" and doc["stream_resource"] == resource["uid"] and doc["seq_nums"]["start"] == first:
            count = doc["seq_nums"]["stop"] - first
            changed[-1][1] = doc | {"stream_resource": "other", "indices": {"start": 0, "stop": count}}
    journal.write_text("".join(json.dumps(line) + "\n" for line in changed))


def test_a_set_with_too_little_for_the_axis_costs_its_frame_only(damaged, told, catalog):
    for first in (1, 12, 23):
        swap_line(damaged, first, damaged.file.parent / "images" / "nowhere.h5")
    result = replayed(told, catalog, damaged)
    assert result.steps["frame"].tolist() == [1]
    reasons = result.ledger["reason"][result.ledger["seq_num"] == 0]
    assert reasons.str.contains("frame 0 is not reconstructed: the axis needs at least 4 usable projections").tolist() == [True]
    assert reasons.str.contains("give reconstruction.axis_mm, and replay").all()


def test_a_log_of_another_day_leaves_the_charge_unknown_and_says_why(damaged, told, catalog):
    text = damaged.file.read_text()
    damaged.file.write_text(re.sub(r"clock_offset_s: .*", "clock_offset_s: 86437.0", text))
    result = replayed(told, catalog, damaged)
    assert result.steps["frame"].tolist() == [0, 1]
    assert result.steps["q_mah"].isna().all()
    for part in ("charge unknown", "demo-cell.mpt covers", "correct potentiostat.timezone or clock_offset_s"):
        assert result.steps["quality"].str.contains(part).all()


def test_a_log_that_is_not_there_leaves_the_charge_unknown_and_says_why(damaged, told, catalog):
    next(damaged.file.parent.glob("*.mpt")).unlink()
    result = replayed(told, catalog, damaged)
    assert result.steps["quality"].str.contains(r"demo-cell\.mpt is not there or has no rows: give potentiostat\.file").all()


def test_a_server_that_is_away_is_told_and_keeps_nothing_from_being_processed(damaged, told):
    damaged.file.write_text(re.sub(r"tiled: .*", "tiled: http://127.0.0.1:9", damaged.file.read_text()))
    code, _, err = told("replay", "latest", "--experiment", damaged.file, "--from-tiled")
    assert code == 1
    one_message(err, "http://127.0.0.1:9 does not answer", "operandi serve")
