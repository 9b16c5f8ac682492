"""Fresh and aged cells, charged and discharged, at small angles: measured by a RunEngine, processed by the service, and drawn."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from beamtimes import in_background
from PIL import Image

from operandi.cli import main
from operandi.client import Catalog, Result
from operandi.experiment_file import load_experiment
from operandi.simulate.phantom import Layout
from operandi.simulate.reference import TABLE_S1
from operandi.simulate.small_angles import StaticTomogram, write_poni
from operandi.sources import replay as sources
from operandi.sources.journal import Journal
from operandi.worker import replay, run_worker

ROTATIONS, TRANSLATIONS = 44, 61
FIGURES = ("states-unrolled-map-silicon", "states-dstar", "states-regions", "states-profiles", "states-dstar-table")
STATES = (("fresh", "discharged"), ("aged", "charged"))
"""Of the four of the table: all of them take too long for every day."""
CELLS = {  # of the same make, but no two alike
    "fresh": Layout(agglomerate=(-1.35, 1.15, 0.8)),
    "aged": Layout(agglomerate=(1.3, -1.3, 0.7), bend=(2.3, 0.28, 0.25)),
}


@dataclass(frozen=True, slots=True)
class State:
    """A tomogram of a cell, its result, and the run behind it."""

    tomogram: StaticTomogram
    key: str
    run_uid: str

    def result(self, catalog: Catalog) -> Result:
        return catalog.results[self.key]


@pytest.fixture(scope="module")
def states(service) -> dict[str, State]:
    folder = service.storage / "saxs"
    folder.mkdir()
    poni, found = write_poni(folder / "saxs.poni"), {}
    for seed, (age, charge) in enumerate(STATES):
        tomogram = StaticTomogram(
            load_experiment(_file(folder, service.uri, poni, f"{age}-{charge}")), age, charge, seed, layout=CELLS[age]
        )
        process = _while_it_is_measured if seed == 0 else _afterwards
        found[f"{age}, {charge}"] = process(tomogram, folder / "images" / f"{seed}", service.api_key)
    return found


def _while_it_is_measured(tomogram: StaticTomogram, images: Path, api_key: str) -> State:
    keys: list[str] = []
    worker = in_background(lambda: keys.extend(run_worker(tomogram.experiment, api_key=api_key, once=True)))
    uid = _measure(tomogram, images)
    worker.join(120)
    return State(tomogram, keys[0], uid)


def _afterwards(tomogram: StaticTomogram, images: Path, api_key: str) -> State:
    uid = _measure(tomogram, images)
    return State(tomogram, replay(tomogram.experiment, _documents(tomogram, uid), api_key=api_key), uid)


def _measure(tomogram: StaticTomogram, images: Path) -> str:
    with Journal(tomogram.experiment.publishing.journal) as journal:
        return tomogram.measure(images, subscribers=[journal]).uid


def _documents(tomogram: StaticTomogram, uid: str):
    return sources.from_journal(tomogram.experiment.publishing.journal, uid)


def _file(folder: Path, uri: str, poni: Path, name: str) -> Path:
    content = {
        "sample": {"name": name},
        "geometry": {"poni": str(poni)},
        "integration": {"q_min_inv_angstrom": 0.01, "q_max_inv_angstrom": 0.2, "bins": 184},
        "scan": {
            "sets": 1, "rotations_per_set": ROTATIONS, "interlaces": 1, "window_sets": 1, "translations": TRANSLATIONS,
            "translation_start_mm": -4.2, "translation_stop_mm": 4.2, "exposure_s": 0.05,
        },
        "publishing": {"tiled": uri, "storage": "data", "journal": f"journal-{name}", "state": f"state-{name}"},
    }  # fmt: skip
    file = folder / f"{name}.yml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def gallery(service, states, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    named = [f"--state={name}={state.key}" for name, state in states.items()]
    only = [f"--only={name}" for name in FIGURES]
    with pytest.raises(SystemExit) as ended:
        main(["figures", *named, *only, "--profile", service.uri, "--folder", str(folder), "--format", "png"])
    assert not ended.value.code
    return folder


@pytest.mark.parametrize("key", STATES, ids=", ".join)
def test_the_command_writes_table_s1_of_regions_that_were_found(gallery, states, key):
    text = (gallery / "states-dstar-table.csv").read_text(encoding="utf-8").splitlines()
    rows = {(row["state"], row["region"]): row for row in csv.DictReader(line for line in text if not line.startswith("#"))}
    for region, wanted in TABLE_S1[key].items():
        row = rows[", ".join(key), region]
        if wanted is None:
            assert (row["dstar_nm"], row["reason"]) == ("nan", "one slope")
        else:
            assert float(row["dstar_nm"]) == pytest.approx(wanted, abs=0.5)
            assert float(row["sigma_nm"]) < 0.3


@pytest.mark.parametrize("name", [", ".join(key) for key in STATES])
def test_regions_lie_in_the_anode_where_they_are(catalog, states, name):
    state = states[name]
    found, true = state.result(catalog).frame(0).regions["label"].to_numpy(), state.tomogram.labels()
    labels = range(1, 4)
    assert (true[found == 0] > 0).mean() < 0.03
    for label in labels:
        there = found[true == label]
        assert (there[there > 0] == label).mean() > 0.65  # of the anode that is seen
        assert np.isin(true[found == label], (0, label)).mean() > 0.9  # and of what is called so: 0 is where half of a voxel is else


def test_sizes_of_agglomerates_are_told_in_micrometres(catalog, states):
    state = states["fresh, discharged"]
    defects, pitch_mm = state.result(catalog).defects, 8.4 / (TRANSLATIONS - 1)
    clusters = defects[defects["kind"] == "agglomerate"]
    true = (state.tomogram.labels() == 3).sum() * pitch_mm**2
    assert clusters["area_mm2"].sum() == pytest.approx(true, rel=0.8)  # both coats with their collector, of two windings
    assert clusters["critical"].all()
    x, y, radius = CELLS["fresh"].agglomerate
    assert (np.hypot(clusters["centre_x_mm"] - x, clusters["centre_y_mm"] - y) < radius).all()
    assert ((clusters["diameter_um"] < 2e3 * radius) & (clusters["length_um"] < 2e3 * radius + 2e3 * pitch_mm)).all()


def test_every_comparison_is_drawn_with_the_keys_of_all_results(gallery, states):
    drawn = {file.stem for file in gallery.glob("*.png")}
    assert drawn == set(FIGURES)
    for name in drawn:
        source = Image.open(gallery / f"{name}.png").text["Source"]
        assert all(f"{title}: {state.key}" in source for title, state in states.items())
    assert "Not drawn" not in (gallery / "index.html").read_text(encoding="utf-8")


def test_regions_of_the_live_run_are_those_of_its_replay_bit_by_bit(service, catalog, states):
    state = states["fresh, discharged"]
    documents = _documents(state.tomogram, state.run_uid)
    key = replay(state.tomogram.experiment, documents, api_key=service.api_key, root="replays-saxs")
    again = Result(catalog.client["replays-saxs", key]).digest()
    assert again == state.result(catalog).digest()
    assert {"regions/label", "regions/intensity", "regions/table", "regions/defects"} <= set(again)
