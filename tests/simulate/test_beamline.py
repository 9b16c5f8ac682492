"""A rehearsal drives a real RunEngine and leaves real files."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlparse

import event_model
import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest
import yaml
from bluesky_tiled_plugins.writing.consolidators import HDF5Consolidator

from operandi.errors import ShapeError
from operandi.experiment import Experiment
from operandi.simulate.beamline import demo_file, rehearse
from operandi.simulate.phantom import jelly_roll
from operandi.simulate.potentiostat import recorded_curve

PONI = """poni_version: 2
Detector: Detector
Detector_config: {"pixel1": 0.000172, "pixel2": 0.000172, "max_shape": [20, 300]}
Distance: 0.3
Poni1: 0.0017
Poni2: 0.001
Rot1: 0.0
Rot2: 0.0
Rot3: 0.0
Wavelength: 1.74625623831e-11
"""


def small_experiment(folder: Path, **scan) -> Experiment:
    (folder / "small.poni").write_text(PONI)
    mask = np.zeros((20, 300), bool)
    mask[:, 100:107] = True
    mask[5, 20] = True
    np.save(folder / "mask.npy", mask)
    return Experiment.model_validate(
        {
            "sample": {"name": "tiny"},
            "geometry": {"poni": folder / "small.poni", "mask": folder / "mask.npy"},
            "integration": {"q_min_inv_angstrom": 0.6, "q_max_inv_angstrom": 5.3},
            "scan": {
                "sets": 2, "rotations_per_set": 3, "translations": 7, "translation_start_mm": -4.2, "translation_stop_mm": 4.2,
                "exposure_s": 1.0, **scan,
            },
            "potentiostat": {"file": folder / "tiny.mpt", "timezone": "Europe/Paris", "clock_offset_s": 37.0},
        }
    )  # fmt: skip


def documents_of(folder: Path, **arguments):
    documents = []
    done = rehearse(small_experiment(folder), folder=folder / "raw", subscribers=[lambda *d: documents.append(d)], **arguments)
    return done, documents


def path_of(uri: str) -> Path:
    return Path(unquote(urlparse(uri).path))


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    return documents_of(tmp_path_factory.mktemp("fly"), seed=3)


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    return documents_of(tmp_path_factory.mktemp("step"), step=True, seed=3, first_image_s=1.7e9)


@pytest.mark.parametrize("run", ["flown", "stepped"])
def test_every_document_follows_the_event_model(run, request):
    for name, document in request.getfixturevalue(run)[1]:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)


def test_a_line_of_translations_is_one_stream_datum_for_each_key(flown):
    done, documents = flown
    names = [name for name, _ in documents]
    assert names[0] == "start"
    assert names[-1] == "stop"
    assert names.count("stream_resource") == 5
    assert names.count("stream_datum") == 2 * 3 * 5
    datums = [d for n, d in documents if n == "stream_datum"]
    assert {(d["seq_nums"]["start"], d["seq_nums"]["stop"]) for d in datums} == {(k, k + 7) for k in range(1, 43, 7)}
    assert done.images == 42


def test_the_descriptor_announces_images_and_positions_as_external(flown):
    (descriptor,) = [d for n, d in flown[1] if n == "descriptor"]
    keys = descriptor["data_keys"]
    assert set(keys) == {"pilatus", "rotation", "translation", "monitor", "exposure_start"}
    assert keys["pilatus"]["shape"][-2:] == [20, 300]
    assert keys["pilatus"]["dtype_numpy"] == "<i4"
    assert all(key["external"] == "STREAM:" for key in keys.values())


def test_what_a_stream_datum_announces_can_be_read_at_once(tmp_path):
    resources, seen = {}, []

    def follow(name, document):
        if name == "stream_resource":
            resources[document["uid"]] = document
        if name == "stream_datum":
            resource = resources[document["stream_resource"]]
            with h5py.File(path_of(resource["uri"]), "r", libver="latest", swmr=True) as file:
                data = file[resource["parameters"]["dataset"]]
                seen.append(data[document["indices"]["start"] : document["indices"]["stop"]].shape[0])

    rehearse(small_experiment(tmp_path), folder=tmp_path / "raw", subscribers=[follow])
    assert seen == [7] * 30


def test_a_step_scan_has_an_event_for_every_image(stepped):
    done, documents = stepped
    events = [d for n, d in documents if n == "event"]
    assert len(events) == 42
    assert [e["seq_num"] for e in events] == list(range(1, 43))
    assert set(events[0]["data"]) == {"rotation", "translation", "monitor", "exposure_start"}
    with h5py.File(done.position_file) as file:
        np.testing.assert_array_equal([e["data"]["translation"] for e in events], file["/entry/data/translation"][:])


def images_of(done) -> np.ndarray:
    with h5py.File(done.image_file) as file:
        return file["/entry/data/data"][:]


def test_the_same_seed_gives_the_same_images_in_either_kind_of_scan_at_any_time(flown, stepped):
    np.testing.assert_array_equal(images_of(flown[0]), images_of(stepped[0]))


def test_another_seed_gives_other_images(flown, tmp_path):
    other, _ = documents_of(tmp_path, seed=4)
    assert (images_of(flown[0]) != images_of(other)).any()


def test_gaps_and_dead_pixels_show_what_a_pilatus_shows(flown):
    images = images_of(flown[0])
    assert (images[:, :, 100:107] == -1).all()
    assert (images[:, 5, 20] == 1_048_575).all()
    assert (images[:, :, :20].min(axis=0) >= 0).all()


def test_the_log_lies_where_the_experiment_expects_it(flown):
    assert flown[0].log_file.name == "tiny.mpt"
    assert flown[0].log_file.read_bytes().startswith(b"EC-Lab ASCII FILE\r\n")


def test_truth_has_a_map_for_every_frame_and_phase(flown):
    with h5py.File(flown[0].truth_file) as file:
        assert file["maps"].shape == (1, 10, 7, 7)
        assert file["present"].shape == (1, 10)


def test_tiled_reads_the_same_images_as_the_documents_announce(flown):
    done, documents = flown
    (descriptor,) = [d for n, d in documents if n == "descriptor"]
    (resource,) = [d for n, d in documents if n == "stream_resource" and d["data_key"] == "pilatus"]
    consolidator = HDF5Consolidator(resource, descriptor)
    for name, document in documents:
        if name == "stream_datum" and document["stream_resource"] == resource["uid"]:
            consolidator.consume_stream_datum(document)
    found = np.asarray(consolidator.init_adapter().read())
    np.testing.assert_array_equal(found.reshape(42, 20, 300), images_of(done))


def test_an_operator_who_interrupts_leaves_a_run_closed_as_aborted(tmp_path):
    documents = []

    def interrupt_once(done: int, planned: int) -> None:
        if done == 9:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        rehearse(small_experiment(tmp_path), folder=tmp_path / "raw", on_image=interrupt_once, subscribers=[lambda *d: documents.append(d)])
    assert documents[-1][0] == "stop"
    assert documents[-1][1]["exit_status"] == "abort"
    datums = [d for n, d in documents if n == "stream_datum"]
    assert max(d["seq_nums"]["stop"] for d in datums) < 43


def test_a_recorded_discharge_empties_the_cell(tmp_path):
    elapsed = np.linspace(0, 42, 5)
    echem = recorded_curve(elapsed, -elapsed / 42 * 10, np.linspace(4.1, 2.8, 5), np.full(5, -857.0))
    scan = {"rotations_per_set": 1, "window_sets": 1}
    done = rehearse(small_experiment(tmp_path, **scan, sets=2), folder=tmp_path / "raw", echem=replace(echem, elapsed_s=elapsed / 3))
    with h5py.File(done.truth_file) as file:
        lic6 = list(file["phases"].asstr()[()]).index("LiC6")
        assert file["in_layer"][0, lic6] > 0.1 > file["in_layer"][1, lic6]


def test_a_cell_for_another_scan_is_refused(tmp_path):
    experiment = small_experiment(tmp_path)
    with pytest.raises(ShapeError, match="fit_cell"):
        rehearse(experiment, folder=tmp_path, cell=jelly_roll(21, 0.4))


def test_the_built_in_experiment_is_valid():
    content = yaml.safe_load(demo_file().read_text())
    for name in ("poni", "mask"):
        content["geometry"][name] = demo_file(content["geometry"][name])
    experiment = Experiment.model_validate(content)
    assert experiment.scan.sets == 10
    assert np.load(experiment.geometry.mask).shape == (100, 960)
