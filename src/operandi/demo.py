"""``operandi demo``: a whole beamtime on one machine, in minutes.

A Tiled server, the worker and the simulated beamline run as they would at a beamline, each in its own process; this one
is a client like any other. At the end the run is replayed, and both results are compared.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from operandi.client import Result
from operandi.client import open as open_catalog
from operandi.errors import OperandiError
from operandi.experiment_file import load_experiment
from operandi.gallery.items import Look
from operandi.gallery.material import Material
from operandi.gallery.series import overview
from operandi.server.embedded import RunningServer, start_server
from operandi.simulate.beamline import demo_file
from operandi.simulate.comparison import correlations, load_truth
from operandi.sources import replay as sources
from operandi.worker import STATUS_FILE, replay

MARKER = ".operandi-demo"
REPLAYS = "replays"
POLL_S = 0.5
STALLED_S = 300.0


class DemoError(OperandiError):
    """A process of the demo failed: look at the log that the message names."""


def run_demo(
    folder: Path,
    *,
    json_file: Path | None = None,
    experiment_file: Path | None = None,
    speed: float | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure, process, publish, read and replay the built-in example in ``folder``; its figures as a dict.

    Parameters
    ----------
    folder
        Made anew; an existing one only if an earlier demo made it.
    json_file
        Where to write the figures as JSON.
    experiment_file
        Another experiment to rehearse instead of the built-in example.
    speed
        Virtual seconds for each real one; None goes as fast as the machine can.

    Raises
    ------
    DemoError
        ``folder`` holds something else, or a process failed.
    """
    console = console or Console()
    began = time.monotonic()
    folder = _fresh(folder.absolute())
    with start_server(folder / "server", [folder]) as server:
        file = _write_experiment(folder, experiment_file or demo_file(), server.uri)
        console.print(f"Tiled server at [bold]{server.uri}[/], measuring in [bold]{folder}[/]")
        with _processes(folder, file, server, speed) as processes:
            result = _watch(folder, file, server, processes, console)
        figures = _report(folder, file, server, result, console)
    figures["seconds"] = round(time.monotonic() - began, 1)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    console.print(f"\n{figures['seconds']:.0f} s in all. Montage: [bold]{folder / 'montage.png'}[/]. Open the result again with\n")
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    print(f'import operandi; result = operandi.open("{shown}").latest()')
    return figures


def _fresh(folder: Path) -> Path:
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise DemoError(f"{folder} is not empty and was not made by a demo: give another --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    return folder


def _write_experiment(folder: Path, example: Path, uri: str) -> Path:
    """The example beside its calibration, publishing to ``uri`` and into ``folder``."""
    content = yaml.safe_load(example.read_text())
    for section, field in (("geometry", "poni"), ("geometry", "mask")):
        if content[section].get(field):
            source = example.parent / content[section][field]
            shutil.copy(source, folder / source.name)
            content[section][field] = source.name
    content["publishing"] = {"tiled": uri, "storage": "data", "journal": "journal", "state": "state"}
    file = folder / "experiment.yml"
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return file


@contextmanager
def _processes(folder: Path, file: Path, server: RunningServer, speed: float | None) -> Iterator[dict[str, subprocess.Popen]]:
    """The worker and the beamline, each with its log; both are ended at the end."""
    fast = [] if speed is None else ["--speed", str(speed)]
    commands = {"worker": ["run", str(file), "--once"], "beamline": ["rehearse", str(file), "--folder", str(folder / "images"), *fast]}
    environment = {**os.environ, "TILED_API_KEY": server.api_key}
    running: dict[str, subprocess.Popen] = {}
    try:
        for name, arguments in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen([sys.executable, "-m", "operandi", *arguments], stdout=log, stderr=log, env=environment)
        yield running
    finally:
        for process in running.values():
            process.terminate()
            process.wait()


def _watch(folder: Path, file: Path, server: RunningServer, processes: dict[str, subprocess.Popen], console: Console) -> Result:
    """Follow the worker's status and the rows of ``steps`` until the worker is done."""
    status_file, seen, moved, last = load_experiment(file).publishing.state / STATUS_FILE, 0, time.monotonic(), {}
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, note="")
        while processes["worker"].poll() is None:
            _check(folder, processes)
            status = _status(status_file)
            moved = time.monotonic() if status != last else moved
            if time.monotonic() - moved > STALLED_S:
                raise DemoError(f"nothing has happened for {STALLED_S:.0f} s; see {folder / 'worker.log'} and {folder / 'beamline.log'}")
            last = status
            if status.get("planned"):
                progress.update(
                    task, description=f"set {status['set'] + 1}", total=status["planned"], completed=status["images"], note=_note(status)
                )
            if status.get("frames", 0) > seen:
                seen = _announce(server, status["key"], seen, console)
            time.sleep(POLL_S)
    _check(folder, processes)
    status = _status(status_file)
    _announce(server, status["key"], seen, console)
    return open_catalog(server.uri).results[status["key"]]


def _check(folder: Path, processes: dict[str, subprocess.Popen]) -> None:
    for name, process in processes.items():
        if process.poll() not in (None, 0):
            log = folder / f"{name}.log"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise DemoError(f"the {name} ended with exit code {process.returncode}; the end of {log}:\n{tail}")


def _status(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def _note(status: dict[str, Any]) -> str:
    cell = "" if status["charge"] is None else f"{status['voltage']:.3f} V, {status['current']:.1f} mA, {status['charge']:.2f} mAh"
    return f"{status['images']} images, {status['images_per_s']:.0f} images/s  {cell}"


def _announce(server: RunningServer, key: str, seen: int, console: Console) -> int:
    """Print the frames that a client of the server sees beyond the ``seen`` ones; how many there are now."""
    steps = open_catalog(server.uri).results[key].steps
    steps = steps[~steps["provisional"].astype(bool)]
    for row in steps.iloc[seen:].to_dict("records"):
        console.print(
            f"frame {row['frame'] + 1}: {row['q_start_mah']:.2f} – {row['q_end_mah']:.2f} mAh, "
            f"tag [bold]{row['q_mah']:.2f} mAh[/], {row['quality']}"
        )
    return len(steps)


def _report(folder: Path, file: Path, server: RunningServer, result: Result, console: Console) -> dict[str, Any]:
    experiment = load_experiment(file)
    overview(Material(result), Look(("paper",))).savefig(folder / "montage.png", dpi=200)
    truth = correlations(result.maps, load_truth(folder / "images" / "truth.h5"))
    console.print("replaying the run from its journal …")
    documents = sources.from_journal(experiment.publishing.journal, result.metadata["run_uid"])
    key = replay(experiment, documents, api_key=server.api_key, root=REPLAYS)
    again = Result(open_catalog(server.uri).client[REPLAYS, key])
    equal = again.key == result.key and again.digest() == result.digest()
    status = _status(experiment.publishing.state / STATUS_FILE)
    console.print(_frames_table(result), _truth_table(truth))
    console.print(f"live equals replay: [bold]{'yes' if equal else 'NO'}[/]; worker: {status['images_per_s']:.0f} images/s")
    steps = result.steps
    return {
        "result": result.key,
        "frames": [
            {"frame": row["frame"] + 1, **{name: row[name] for name in ("q_start_mah", "q_end_mah", "q_mah", "quality")}}
            for row in steps.to_dict("records")
        ],
        "tags_mah": [round(float(q), 2) for q in steps["q_mah"]],
        "images": status["images"],
        "images_per_s": round(status["images_per_s"], 1),
        "correlation": {
            str(phase): [None if c != c else round(float(c), 4) for c in truth.sel(phase=phase).values] for phase in truth["phase"].values
        },
        "live_equals_replay": "yes" if equal else "no",
    }


def _frames_table(result: Result) -> Table:
    table = Table(title="frames, charge read off the potentiostat's log", title_justify="left")
    for name in ("frame", "Q range, mAh", "tag, mAh", "V", "mA", "phase of the cycle"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.steps.to_dict("records"):
        cell = (f"{row['q_mah']:.2f}", f"{row['voltage']:.3f}", f"{row['current']:.1f}", row["phase"])
        table.add_row(str(row["frame"] + 1), f"{row['q_start_mah']:.2f} – {row['q_end_mah']:.2f}", *cell)
    return table


def _truth_table(truth: xr.DataArray) -> Table:
    table = Table(title="correlation of each map with the truth, over the frames in which the phase is present", title_justify="left")
    for name in ("phase", "frames", "lowest", "highest"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase in truth["phase"].values:
        there = truth.sel(phase=phase).dropna("frame")
        if there.size:
            frames = f"{int(there['frame'][0]) + 1} – {int(there['frame'][-1]) + 1}"
            table.add_row(str(phase), frames, f"{float(there.min()):.3f}", f"{float(there.max()):.3f}")
    return table
