"""The spine end to end: a real RunEngine, real files, a real Tiled server."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from beamtimes import IMAGES_PER_SET, SETS, Beamtime, documents, in_background, measure, prepare

from operandi.client import Catalog, Result
from operandi.client import open as open_catalog
from operandi.errors import DocumentError, GeometryError
from operandi.runner import Callback
from operandi.server.embedded import start_server
from operandi.simulate.comparison import load_truth
from operandi.sinks.tiled import TiledSink
from operandi.sources import journal
from operandi.sources import replay as sources
from operandi.sources.journal import Journal
from operandi.worker import STATUS_FILE, replay, run_worker

IMAGES = SETS * IMAGES_PER_SET
KILLS = int(os.environ.get("OPERANDI_KILLS", "3"))


@pytest.fixture(scope="module")
def beamtime(service, tmp_path_factory) -> Beamtime:
    """A run that was measured while the worker followed it."""
    prepared = prepare(service.storage / "spine", service.uri)
    worker = in_background(lambda: run_worker(prepared.experiment, api_key=service.api_key, once=True))
    measured = measure(prepared)
    worker.join(120)
    assert not worker.is_alive()
    return measured


def live_result(catalog: Catalog, beamtime: Beamtime) -> Result:
    """The result that the worker made while the run was measured."""
    assert beamtime.rehearsal is not None
    return next(r for r in map(catalog.results.__getitem__, catalog.results) if r.metadata.get("run_uid") == beamtime.rehearsal.uid)


@pytest.fixture(scope="module")
def digest(catalog, beamtime) -> dict[str, str]:
    """Of the live result."""
    return live_result(catalog, beamtime).digest()


def test_a_run_followed_live_gives_all_frames_with_charge_and_full_coverage(catalog, beamtime):
    steps = live_result(catalog, beamtime).steps
    assert steps["frame"].tolist() == [0, 1, 2]
    assert (steps["quality"] == "complete").all()
    # the built-in curve is the paper's, from 0 to 28.54 mAh, here in four sets (10.1039/D4EE00590B)
    assert steps["q_start_mah"].iloc[0] == pytest.approx(0.0, abs=0.01)
    assert steps["q_end_mah"].iloc[-1] == pytest.approx(28.54, abs=0.01)
    np.testing.assert_allclose(steps["q_mah"], (steps["q_start_mah"] + steps["q_end_mah"]) / 2)


def test_the_ledger_accounts_for_every_exposure(catalog, beamtime):
    ledger = live_result(catalog, beamtime).ledger
    assert ledger["seq_num"].tolist() == list(range(1, IMAGES + 1))
    assert set(ledger["status"]) == {"admitted"}


def test_lithium_of_both_electrodes_follows_the_charge(catalog, beamtime):
    result = live_result(catalog, beamtime)
    assert beamtime.rehearsal is not None
    table, truth = result.lithium, load_truth(beamtime.rehearsal.truth_file)["maps"].sum(("y", "x"))
    assert "lithium" in result.digest()  # which live and replay share
    assert table["frame"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(table["charge_mah"], result.steps["q_mean_mah"])
    assert set(table["reason"]) == {""}
    for row in table.to_dict("records"):
        held = {str(phase): float(truth.sel(phase=phase)[row["frame"]]) for phase in truth["phase"].values}
        carbon = {"graphite": 0.1134 * held["graphite"], "LiC12": 0.1067 * held["LiC12"], "LiC6": 0.1009 * held["LiC6"]}  # atoms / Å³
        graphite = (0.5 * carbon["LiC12"] + carbon["LiC6"]) / sum(carbon.values())
        oxide = 0.35 + 0.65 * held["NMC lithiated"] / (held["NMC lithiated"] + held["NMC delithiated"])
        # strengths of the crystals, which the simulated lines have to 20 %, and polyethylene in the window of LiC6
        assert row["graphite"] == pytest.approx(graphite, abs=0.05)
        assert row["oxide"] == pytest.approx(oxide, abs=0.03)
        assert 0 < row["graphite_sigma"] < 0.05
    last = table.iloc[-1]
    assert last["oxide_mah"] == pytest.approx(last["passed_mah"], abs=3 * last["oxide_sigma_mah"] + 0.5)
    assert abs(last["residual_mah"]) < 3 * last["residual_sigma_mah"]  # nothing is stuck in this cell
    assert table.attrs["oxide_mah"] == 43.9
    assert any("slice stands for the cell" in one for one in table.attrs["assumptions"])


def test_the_window_of_a_published_map_gives_the_published_map(catalog, beamtime):
    result = live_result(catalog, beamtime)
    published = result.maps["intensity"]
    for window in beamtime.experiment.windows:
        maps = result.window(window.q_min_inv_angstrom, window.q_max_inv_angstrom).compute()
        expected = published.sel(phase=window.phase, drop=True)
        # the map is a back projection of sums, the window a sum of back projections, each in float32
        np.testing.assert_allclose(maps, expected, atol=1e-4 * float(abs(expected).max()))
        assert maps.attrs["phase"] == window.phase
        assert maps.coords.to_dataset().identical(expected.coords.to_dataset())


def test_replay_from_the_journal_gives_the_key_and_the_bytes_of_the_live_run(service, catalog, beamtime, digest):
    live = live_result(catalog, beamtime)
    key = replay(beamtime.experiment, documents(beamtime), api_key=service.api_key, root="replays-journal")
    assert key == live.key
    assert Result(catalog.client["replays-journal", key]).digest() == digest


def test_replay_from_tiled_gives_the_key_and_the_bytes_of_the_live_run(service, catalog, beamtime, digest):
    live = live_result(catalog, beamtime)
    key = replay(
        beamtime.experiment, sources.from_tiled(catalog.client, beamtime.rehearsal.uid), api_key=service.api_key, root="replays-tiled"
    )
    assert key == live.key
    assert Result(catalog.client["replays-tiled", key]).digest() == digest


def test_another_configuration_makes_another_result_beside_the_first(service, catalog, beamtime):
    live = live_result(catalog, beamtime)
    other = beamtime.changed("other.yml", reconstruction={"filter": "hann"})
    key = replay(other, documents(beamtime), api_key=service.api_key)
    result = catalog.results[key]
    assert key != live.key
    assert result.metadata["experiment"]["reconstruction"]["filter"] == "hann"
    assert result.metadata["run_uid"] == live.metadata["run_uid"]
    assert np.nanstd(result.maps["intensity"]) < np.nanstd(live.maps["intensity"])


def test_the_callback_alone_gives_the_bytes_of_the_worker(service, catalog, beamtime, digest, tmp_path):
    with TiledSink(service.uri, api_key=service.api_key, storage=service.storage, state=tmp_path, root="callbacks") as sink:
        callback = Callback(beamtime.experiment, sink)
        for name, doc in documents(beamtime):
            callback(name, doc)
        key = callback.processing.status.key
    assert Result(catalog.client["callbacks", key]).digest() == digest


def test_the_raw_run_can_be_read_beside_the_result(catalog, beamtime):
    run = catalog.runs[beamtime.rehearsal.uid]
    image = np.asarray(run["primary"]["pilatus"][0:1])
    with h5py.File(beamtime.rehearsal.image_file) as file:
        np.testing.assert_array_equal(np.squeeze(image), file["entry/data/data"][0])


def test_a_step_scan_gives_the_tree_of_a_fly_scan(service, catalog, tmp_path):
    measured = measure(prepare(service.storage / "step", service.uri, sets=2), step=True)
    key = replay(measured.experiment, documents(measured), api_key=service.api_key)
    result = catalog.results[key]
    assert result.steps["quality"].tolist() == ["complete"]
    assert result.maps["intensity"].sizes["phase"] == len(measured.experiment.windows)


def killed_in_the_middle(worker: subprocess.Popen, status_file: Path, after_s: float) -> bool:
    """SIGKILL ``after_s`` after the worker took up the run; whether it was still alive then."""
    waiting = threading.Event()
    for _ in range(1200):
        if worker.poll() is not None or (status_file.exists() and json.loads(status_file.read_text())["key"]):
            break
        waiting.wait(0.05)
    waiting.wait(after_s)
    alive = worker.poll() is None
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    return alive


def test_a_worker_killed_at_random_moments_ends_with_the_bytes_of_an_undisturbed_run(catalog, beamtime, digest, tmp_path):
    """SIGKILL, every time at another moment; the last worker is left alone."""
    folder = tmp_path / "killed"
    shutil.copytree(beamtime.file.parent, folder, ignore=shutil.ignore_patterns("state", "data"))
    (folder / "state").mkdir()
    (folder / "state" / "since").write_text("0")  # as if the worker had been started before the run
    with start_server(folder / "server", [folder]) as server:
        Beamtime(folder / "experiment.yml").changed("killed.yml", publishing={"tiled": server.uri})
        environment = {**os.environ, "TILED_API_KEY": server.api_key}
        command = [sys.executable, "-m", "operandi", "run", str(folder / "killed.yml"), "--once"]
        moments, killed = random.Random(20261122), 0
        for _ in range(KILLS):
            (folder / "state" / STATUS_FILE).unlink(missing_ok=True)
            worker = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            killed += killed_in_the_middle(worker, folder / "state" / STATUS_FILE, moments.uniform(0.0, 1.0))
        if not list((folder / "state" / "done").glob("*")):
            subprocess.run(command, env=environment, capture_output=True, timeout=120, check=True)
        with open_catalog(server.uri) as there:
            assert list(there.results) == [live_result(catalog, beamtime).key]
            assert there.latest().digest() == digest
    assert killed


def test_a_server_that_is_away_in_the_middle_of_a_run_holds_nothing_up_and_misses_nothing(tmp_path):
    """The server stops when the first frame is there, and comes back when the beamline is done."""
    folder = tmp_path / "away"
    server = start_server(folder / "server", [folder])
    prepared = prepare(folder, server.uri)
    first_frame, done = threading.Event(), []
    worker = in_background(
        lambda: done.extend(
            run_worker(prepared.experiment, api_key=server.api_key, once=True, on_status=lambda s: s.frames and first_frame.set())
        )
    )
    beamline = in_background(lambda: measure(prepared))
    assert first_frame.wait(120)
    server.stop()
    beamline.join(120)
    assert not beamline.is_alive()
    with start_server(folder / "server", [folder], api_key=server.api_key, port=server.port) as again:
        worker.join(120)
        assert len(done) == 1
        replay(prepared.experiment, sources.from_journal(prepared.experiment.publishing.journal), api_key=again.api_key, root="replays")
        with open_catalog(again.uri) as there:
            assert there.latest().steps["frame"].tolist() == [0, 1, 2]
            assert there.latest().digest() == Result(there.client["replays", done[0]]).digest()
            assert list(there.runs)


def test_a_run_of_another_kind_in_the_journal_is_left_alone(service, catalog, tmp_path, caplog):
    """An alignment scan goes through the same RunEngine; the worker goes on to the run that is the experiment's."""
    prepared = prepare(service.storage / "aligned", service.uri, sets=2)
    uid = "a11611ed-0000-4000-8000-000000000000"
    alignment = [
        ("start", {"uid": uid, "time": time.time()}),
        ("descriptor", {"uid": "d", "run_start": uid, "name": "primary", "time": time.time(), "data_keys": {"diode": {"shape": []}}}),
        ("stop", {"uid": "s", "run_start": uid, "time": time.time(), "exit_status": "success", "num_events": {}}),
    ]
    with pytest.raises(DocumentError, match=r"no stream 'primary' with the data keys pilatus.*only 'primary' with diode"):
        replay(prepared.experiment, alignment, api_key=service.api_key)
    done: list[str] = []
    worker = in_background(lambda: done.extend(run_worker(prepared.experiment, api_key=service.api_key, once=True)))
    started = prepared.experiment.publishing.state / "since"  # runs that were over before are none of the worker's
    while not started.exists() and worker.is_alive():
        time.sleep(0.01)
    with Journal(prepared.experiment.publishing.journal) as kept:
        for name, doc in alignment:
            kept(name, doc)
    measured = measure(prepared)
    worker.join(120)
    assert [catalog.results[key].metadata["run_uid"] for key in done] == [measured.rehearsal.uid]
    assert "left alone" in caplog.text


def hostile(beamtime: Beamtime, folder: Path) -> Beamtime:
    """A copy of a measured beamtime whose files may be damaged."""
    shutil.copytree(beamtime.file.parent, folder, ignore=shutil.ignore_patterns("state", "data", "journal"))
    (folder / "journal").mkdir()
    old, new = str(beamtime.file.parent), str(folder)
    for run in journal.runs(beamtime.experiment.publishing.journal):
        (folder / "journal" / run.path.name).write_text(run.path.read_text().replace(old, new))
    return Beamtime(folder / "experiment.yml", beamtime.rehearsal)


def test_images_in_a_missing_file_are_refused_and_named_and_the_run_ends(service, catalog, beamtime):
    damaged = hostile(beamtime, service.storage / "missing")
    (damaged.file.parent / "images" / beamtime.rehearsal.image_file.name).unlink()
    key = replay(damaged.experiment, documents(damaged), api_key=service.api_key, root="damaged-missing")
    ledger = Result(catalog.client["damaged-missing", key]).ledger
    assert (ledger["status"] == "refused").all()
    assert ledger["reason"].str.contains(beamtime.rehearsal.image_file.name).all()


def test_a_cut_image_costs_only_itself(service, catalog, beamtime):
    damaged = hostile(beamtime, service.storage / "cut")
    file = damaged.file.parent / "images" / beamtime.rehearsal.image_file.name
    with h5py.File(file, "r+") as handle:
        handle["entry/data/data"].id.write_direct_chunk((7, 0, 0), b"not a compressed image")
    key = replay(damaged.experiment, documents(damaged), api_key=service.api_key, root="damaged-cut")
    result = Result(catalog.client["damaged-cut", key])
    refused = result.ledger[result.ledger["status"] == "refused"]
    assert refused["seq_num"].tolist() == [8]
    assert (result.ledger["status"] == "admitted").sum() == IMAGES - 1
    assert result.steps["frame"].tolist() == [0, 1, 2]
    assert "not measured" in result.steps["quality"].iloc[0]
    assert result.steps["quality"].iloc[-1] == "complete"


def test_a_log_that_does_not_overlap_leaves_the_charge_unknown_with_the_reason(service, catalog, beamtime):
    wrong = beamtime.changed("wrong-zone.yml", potentiostat={"timezone": "America/New_York"})
    key = replay(wrong, documents(beamtime), api_key=service.api_key)
    steps = catalog.results[key].steps
    assert steps["q_mah"].isna().all()
    assert steps["quality"].str.contains("charge unknown").all()
    assert steps["quality"].str.contains("timezone").all()
    assert len(steps) == 3


def test_a_mask_of_another_shape_ends_in_one_message_that_names_both_shapes(service, beamtime, tmp_path):
    np.save(tmp_path / "mask.npy", np.zeros((10, 12), bool))
    wrong = beamtime.changed("wrong-mask.yml", geometry={"mask": str(tmp_path / "mask.npy")})
    with pytest.raises(GeometryError, match=r"10.*12"):
        replay(wrong, documents(beamtime), api_key=service.api_key)
