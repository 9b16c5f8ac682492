"""Small beamtimes for tests: an experiment, measured by the simulated beamline into a journal."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from operandi.experiment import Experiment
from operandi.experiment_file import load_experiment
from operandi.simulate.beamline import Rehearsal, demo_file, rehearse
from operandi.sources import replay as sources
from operandi.sources.journal import Journal

SETS, ROTATIONS, TRANSLATIONS = 4, 6, 15
IMAGES_PER_SET = ROTATIONS * TRANSLATIONS


@dataclass(frozen=True, slots=True)
class Beamtime:
    """An experiment file, and what was measured by it."""

    file: Path
    rehearsal: Rehearsal | None = None

    @property
    def experiment(self) -> Experiment:
        """What the file says now."""
        return load_experiment(self.file)

    def changed(self, name: str, **sections: dict[str, Any]) -> Experiment:
        """The experiment of a second file beside the first, with other values in some sections."""
        content = yaml.safe_load(self.file.read_text())
        for section, values in sections.items():
            content.setdefault(section, {}).update(values)
        file = self.file.with_name(name)
        file.write_text(yaml.safe_dump(content, allow_unicode=True))
        return load_experiment(file)


def documents(beamtime: Beamtime):
    """What its rehearsal wrote into the journal."""
    assert beamtime.rehearsal is not None
    return sources.from_journal(beamtime.experiment.publishing.journal, beamtime.rehearsal.uid)


def prepare(folder: Path, uri: str, **scan: Any) -> Beamtime:
    """Write the experiment file of a small scan into ``folder``, with the built-in detector."""
    folder.mkdir(parents=True, exist_ok=True)
    content = yaml.safe_load(demo_file().read_text())
    content["geometry"] = {name: str(demo_file(content["geometry"][name])) for name in ("poni", "mask")}
    content["integration"]["bins"] = 400
    content["scan"] |= {
        "sets": SETS,
        "rotations_per_set": ROTATIONS,
        "translations": TRANSLATIONS,
        "exposure_s": 720 / IMAGES_PER_SET,
        **scan,
    }
    content["potentiostat"]["late_s"] = 0
    content["publishing"] = {"tiled": uri, "storage": "data", "journal": "journal", "state": "state"}
    file = folder / "experiment.yml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True))
    return Beamtime(file)


def measure(beamtime: Beamtime, **options: Any) -> Beamtime:
    """Have the simulated beamline measure an experiment into its journal."""
    folder = beamtime.file.parent
    with Journal(beamtime.experiment.publishing.journal) as journal:
        done = rehearse(beamtime.experiment, folder=folder / "images", subscribers=[journal], **options)
    return Beamtime(beamtime.file, done)


def in_background(call: Any) -> threading.Thread:
    """Run ``call`` in a thread."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread
