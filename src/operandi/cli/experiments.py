"""Commands that prepare and rehearse an experiment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from operandi import terminal
from operandi.cli.application import ExperimentFile, app, load
from operandi.errors import ExperimentError, PotentiostatError

if TYPE_CHECKING:
    from operandi.experiment import Experiment
    from operandi.simulate.phantom import Cell
    from operandi.simulate.potentiostat import ChargeCurve


@app.command(epilog="Example: operandi init cell-17.yml")
def init(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented example of an experiment file, to be changed to yours."""
    from operandi.experiment_file import example_yaml

    if file.exists() and not force:
        raise ExperimentError(f"{file} is there already: give another name, or --force to replace it")
    try:
        file.write_text(example_yaml(), encoding="utf-8")
    except OSError as error:
        raise ExperimentError(f"{file} cannot be written ({error.strerror}): give a path in a folder that can") from error
    print(f"{file} is written. Change it to your experiment, then: operandi check {file}")


@app.command(epilog="Example: operandi check cell-17.yml --images-per-s 250")
def check(
    experiment: ExperimentFile,
    images_per_s: Annotated[float | None, typer.Option(help="Images that this machine integrates in a second.", min=0.001)] = None,
) -> None:
    """Tell what an experiment will produce, and what is wrong with it, before beamtime. Exit code 1 if something must be corrected."""
    loaded = load(experiment)
    from operandi.check import check as examine
    from operandi.plans import IMAGES_PER_S

    report = examine(loaded, images_per_s=images_per_s or IMAGES_PER_S)
    terminal.console().print(terminal.report_view(report))
    if report.errors:
        print(f"operandi: {len(report.errors)} error(s) in {experiment}; correct what is listed above", file=sys.stderr)
        raise typer.Exit(1)


@app.command(epilog="Example: operandi rehearse cell-17.yml --speed 20 --cell slice.tif")
def rehearse(
    experiment: ExperimentFile,
    folder: Annotated[Path | None, typer.Option(help="Where images go; omitted: 'images' beside the experiment file.")] = None,
    speed: Annotated[float | None, typer.Option(help="1 is real time; omitted: as fast as possible.", min=0.001)] = None,
    cell: Annotated[Path | None, typer.Option(help="Image of a slice of a real cell to take the place of the simulated one.")] = None,
    echem: Annotated[Path | None, typer.Option(help="Log of a real charge to take the place of the simulated one.")] = None,
    step: Annotated[bool, typer.Option("--step", help="Step scan, one event an image, in place of the fly scan.")] = False,
) -> None:
    """Rehearse a beamtime: a simulated beamline measures the experiment with a real RunEngine, into the experiment's journal."""
    loaded = load(experiment)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from operandi.simulate.beamline import rehearse as measure
    from operandi.sources.journal import Journal

    folder = folder or experiment.absolute().parent / "images"
    journal, console = Journal(loaded.publishing.journal), terminal.console()
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=None)
            done = measure(
                loaded,
                folder=folder,
                speed=speed,
                cell=_cell_of(loaded, cell),
                echem=_curve_of(loaded, echem),
                step=step,
                on_image=lambda written, planned: progress.update(task, completed=written, total=planned),
                subscribers=[journal],
            )
    finally:
        journal.close()
    rate = done.images / max(done.seconds, 1e-9)
    console.print(f"run {done.uid}: {done.images:,} images in {done.seconds:.0f} s ({rate:.0f} a second), in {folder}", highlight=False)


def _cell_of(experiment: Experiment, image: Path | None) -> Cell | None:
    from operandi.simulate.beamline import fit_cell, plan_schedule

    return None if image is None else fit_cell(plan_schedule(experiment), image)


def _curve_of(experiment: Experiment, file: Path | None) -> ChargeCurve | None:
    from operandi.simulate.potentiostat import recorded_curve
    from operandi.sources.potentiostat import read_potentiostat

    if file is None:
        return None
    log = read_potentiostat(file, timezone=experiment.potentiostat.timezone if experiment.potentiostat else "UTC")
    log = log.dropna("time", subset=["charge", "voltage", "current"])
    if log.sizes["time"] < 2:
        raise PotentiostatError(f"{file} holds no charge, voltage and current: give the log of a charge or discharge")
    elapsed = log["time"].values - log["time"].values[0]
    return recorded_curve(elapsed, log["charge"].values, log["voltage"].values, log["current"].values)
