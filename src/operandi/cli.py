"""The command line. Each command imports what it needs when it runs, so that ``operandi --help`` answers at once."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from operandi import terminal
from operandi.errors import ExperimentError, OperandiError, PotentiostatError, PublishError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from operandi.experiment import Experiment
    from operandi.simulate.phantom import Cell
    from operandi.simulate.potentiostat import ChargeCurve

app = typer.Typer(
    name="operandi",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Operando scattering tomography: measured, processed live, served and replayed.",
    epilog="Start with **operandi demo**, then **operandi init my-cell.yml**. Every command explains itself: operandi COMMAND --help",
)
profile = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="How Tiled clients of this machine find the server.")
app.add_typer(profile, name="profile")

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="The experiment file (YAML).")]
ApiKey = Annotated[
    str | None, typer.Option(envvar="TILED_API_KEY", help="Key with which to write to the Tiled server.", show_default=False)
]

BLOCK_IMAGES = 32

_options = {"debug": False}


@app.callback()
def _before(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and what the libraries log.")] = False,
) -> None:
    _options["debug"] = debug
    import logging

    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # It warns, once in each process, of every way to use a graphics card that is not installed.
    logging.getLogger("silx.opencl").setLevel(logging.DEBUG if debug else logging.ERROR)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that has a remedy becomes one message and exit code 1. None takes the process's arguments."""
    try:
        app(arguments)
    except OperandiError as error:
        if _options["debug"]:
            traceback.print_exc()
        else:
            lines = str(error).splitlines()
            print("operandi:" if len(lines) > 1 else "operandi: ", *lines, sep="\n" if len(lines) > 1 else "", file=sys.stderr)
        sys.exit(1)


def _load(path: Path) -> Experiment:
    from operandi.experiment_file import load_experiment

    return load_experiment(path)


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
    loaded = _load(experiment)
    from operandi.check import check as examine
    from operandi.plans import IMAGES_PER_S

    report = examine(loaded, images_per_s=images_per_s or IMAGES_PER_S)
    terminal.console().print(terminal.report_view(report))
    if report.errors:
        print(f"operandi: {len(report.errors)} error(s) in {experiment}; correct what is listed above", file=sys.stderr)
        raise typer.Exit(1)


@app.command(
    epilog="Example: operandi integrate CeO2.cbf --poni CeO2.poni --mask mask.edf --calibrant CeO2 --plot CeO2.png --output CeO2.csv"
)
def integrate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Detector images (.cbf, .edf, .tif, .npy, .h5::/dataset ...).")],
    poni: Annotated[Path, typer.Option(help="pyFAI calibration.")],
    mask: Annotated[Path | None, typer.Option(help="Image, non-zero where a pixel is to be ignored.")] = None,
    dark: Annotated[Path | None, typer.Option(help="Image to subtract.")] = None,
    flat: Annotated[Path | None, typer.Option(help="Image to divide by.")] = None,
    bins: Annotated[int, typer.Option(help="Number of points in q.", min=2)] = 2000,
    q_min: Annotated[float | None, typer.Option(help="Smallest q, Å⁻¹; all that the detector sees if omitted.")] = None,
    q_max: Annotated[float | None, typer.Option(help="Largest q, Å⁻¹.")] = None,
    method: Annotated[str, typer.Option(help="Pixel splitting: no, bbox or full.")] = "full",
    polarization: Annotated[float, typer.Option(help="Polarization factor.")] = 0.99,
    calibrant: Annotated[str | None, typer.Option(help="Compare with the reflections of a known powder: CeO2, LaB6, Si, AgBh ...")] = None,
    output: Annotated[Path | None, typer.Option(help="Save the patterns: .csv or .h5.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Save a picture of the patterns: .png, .pdf or .svg.")] = None,
) -> None:
    """Integrate detector images to patterns I(q) with their standard errors."""
    import xarray as xr

    from operandi.sources.assets import load_correction, load_mask
    from operandi.stages import calibrants, patterns

    calibration = patterns.load_calibration(poni)
    options = {
        "mask": load_mask(mask) if mask else None,
        "n_q": bins,
        "dark": load_correction(dark) if dark else None,
        "flat": load_correction(flat) if flat else None,
        "polarization": polarization,
        "method": method,
    }
    parts = []
    for first in range(0, len(files), BLOCK_IMAGES):
        images = _read_block(files[first : first + BLOCK_IMAGES])
        options["q_range"] = options.get("q_range") or _q_range(calibration, images.shape[1:], q_min, q_max)
        parts.append(patterns.integrate(images, calibration, **options))
    result = cast("xr.Dataset", xr.concat(parts, "image", data_vars="all", coords="minimal", compat="override", join="override"))
    names, console = [file.name for file in files], terminal.console()
    q = result["q"].values
    console.print(f"{len(files)} image(s), {bins} points from {q[0]:.4f} to {q[-1]:.4f} Å⁻¹")
    reflections = calibrants.find_reflections(q, result["intensity"].values[0], calibrant) if calibrant else []
    if calibrant:
        console.print(terminal.reflections_view(reflections, calibrant))
    if output is not None:
        from operandi.sinks.pattern_files import write_patterns

        write_patterns(result, output, names=names)
        console.print(f"patterns: {output}", highlight=False)
    if plot is not None:
        from operandi.figures import draw_patterns

        terminal.save(draw_patterns(result, names=names, reflections=reflections), plot)


def _read_block(files: list[Path]) -> np.ndarray:
    import numpy as np

    from operandi.errors import GeometryError
    from operandi.sources.assets import load_correction

    images = [load_correction(file) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise GeometryError(f"{file} has shape {image.shape}, but {files[0]} {images[0].shape}: give images of one detector")
    return np.stack(images)


def _q_range(calibration: Any, shape: tuple[int, ...], q_min: float | None, q_max: float | None) -> tuple[float, float] | None:
    """The range to integrate; what is not given is as far as the detector sees."""
    if q_min is None and q_max is None:
        return None
    q = calibration.center_array(shape, unit="q_A^-1")
    return (float(q.min()) if q_min is None else q_min, float(q.max()) if q_max is None else q_max)


@app.command(epilog="Example: operandi echem cell-17.mpt --timezone Europe/Paris --plot cell-17.png")
def echem(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Potentiostat logs (.mpt, .mpr or .csv).")],
    timezone: Annotated[str, typer.Option(help="Time zone of the computer that wrote them.")] = "UTC",
    start: Annotated[
        str | None, typer.Option(help="When it began, for a log that does not say: 2026-11-22T14:03:00.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Save the rows of one FILE as .csv.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Save a picture of one FILE: .png, .pdf or .svg.")] = None,
) -> None:
    """Read potentiostat logs: their extent, ranges and steps."""
    from operandi.plots import draw_echem, summary
    from operandi.sources.potentiostat import read_potentiostat

    if len(files) > 1 and (output or plot):
        raise PotentiostatError(f"--output and --plot take one log, {len(files)} are given: run the command for each")
    for file in files:
        log = read_potentiostat(file, timezone=timezone, start=start)
        print("\n".join(summary(log)), end="\n\n" if len(files) > 1 else "\n")
        if output is not None:
            _save_rows(log, output)
        if plot is not None:
            terminal.save(draw_echem(log), plot)


def _save_rows(log: xr.Dataset, path: Path) -> None:
    try:
        log.to_dataframe().to_csv(path)
    except OSError as error:
        raise PublishError(f"{path} cannot be written ({error.strerror}): give a path in a folder that can") from error
    print(f"rows: {path}")


@app.command(
    epilog="Example: operandi tomogram scan.nxs --signal entry1/data/data --monitor entry1/monitor/data --rotation entry1/data/theta "
    "--translation entry1/data/x --row 3 --transmission --plot slice.png"
)
def tomogram(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="HDF5 or NeXus file of the scan.")],
    signal: Annotated[str, typer.Option(help="Dataset (rotation, translation), or (rotation, row, translation).")],
    rotation: Annotated[str, typer.Option(help="Dataset of the angles.")],
    translation: Annotated[str, typer.Option(help="Dataset of the positions across the beam.")],
    monitor: Annotated[str | None, typer.Option(help="Dataset of the incident flux, shaped as the signal.")] = None,
    row: Annotated[int | None, typer.Option(help="Which row, from 0, of a scan of several.", min=0)] = None,
    transmission: Annotated[bool, typer.Option("--transmission", help="The signal is the transmitted beam: take -log(I/I0).")] = False,
    no_air: Annotated[bool, typer.Option("--no-air", help="Subtract nothing: the outermost positions lie in the sample.")] = False,
    axis: Annotated[float | None, typer.Option(help="The rotation axis, mm; omitted: found.", show_default=False)] = None,
    filter: Annotated[str, typer.Option(help="ramp, shepp-logan, cosine or hann.")] = "ramp",  # noqa: A002
    plot: Annotated[Path | None, typer.Option(help="Save a picture of sinogram and slice: .png, .pdf or .svg.")] = None,
    tiled: Annotated[str | None, typer.Option(help="Publish it to this Tiled server.", show_default=False)] = None,
    storage: Annotated[Path, typer.Option(help="Folder for published arrays; the server must be able to read it.")] = Path("data"),
    state: Annotated[Path, typer.Option(help="Folder for what the server has not taken yet.")] = Path("state"),
    sample: Annotated[str | None, typer.Option(help="Name of the sample; omitted: that of FILE.", show_default=False)] = None,
    api_key: ApiKey = None,
) -> None:
    """Correct and reconstruct one measured sinogram of one channel, such as a transmission; publish it where a server is given."""
    from operandi.single import Processing, make_tomogram, publish_tomogram
    from operandi.sources.sinograms import read_sinogram

    measured = read_sinogram(file, signal=signal, rotation=rotation, translation=translation, monitor=monitor, row=row)
    result = make_tomogram(measured, Processing(transmission, not no_air, axis_mm=axis, filter=filter))
    name = file.stem if row is None else f"{file.stem} row {row}"
    lines, positions = result.sinogram.shape
    print(f"{name}: {lines} angles × {positions} positions; axis at {result.axis.position:.5g} ± {result.axis.uncertainty:.1g} mm")
    if plot is not None:
        from operandi.figures import draw_tomogram

        terminal.save(draw_tomogram(result.sinogram, result.volume, axis_mm=result.axis.position, title=name), plot)
    if tiled is not None:
        from operandi.sinks.tiled import TiledSink

        print(publish_tomogram(result, TiledSink(tiled, api_key=api_key, storage=storage, state=state), sample=sample or name))


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
    loaded = _load(experiment)
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


@app.command(epilog="Example: operandi run cell-17.yml")
def run(
    experiment: ExperimentFile,
    once: Annotated[bool, typer.Option("--once", help="Return after the first run that is complete.")] = False,
    api_key: ApiKey = None,
) -> None:
    """Follow the experiment's journal, process each run as it is measured, and publish it. Ctrl-C ends it; it goes on where it was."""
    loaded = _load(experiment)
    from operandi.worker import run_worker

    with terminal.interruptible() as stop, terminal.status_shown() as show:
        keys = run_worker(loaded, api_key=api_key, on_status=show, stop=stop, once=once)
    for key in keys:
        print(key)


@app.command(epilog="Example: operandi replay 219cc7b4 --experiment cell-17.yml --config other-windows.yml")
def replay(
    uid: Annotated[str, typer.Argument(help="The run: its uid, the beginning of it, or latest.")],
    experiment: Annotated[Path, typer.Option(help="The experiment file: where the journal and the server are.")] = Path("experiment.yml"),
    config: Annotated[Path | None, typer.Option(help="Another experiment file to process by.", show_default=False)] = None,
    journal: Annotated[Path | None, typer.Option(help="Folder of journals, if not the experiment's.", show_default=False)] = None,
    from_tiled: Annotated[bool, typer.Option("--from-tiled", help="Take the run from the Tiled server, not from a journal.")] = False,
    api_key: ApiKey = None,
) -> None:
    """Process a run that is over once more. The same experiment gives the same result; another config makes one beside the first."""
    loaded = _load(experiment)
    from operandi.sources import replay as sources
    from operandi.worker import replay as process

    where, named = loaded.publishing, -1 if uid == "latest" else uid
    if config is not None:
        loaded = _load(config).model_copy(update={"publishing": where})
    if from_tiled:
        from operandi.client import open as open_catalog

        documents = sources.from_tiled(open_catalog(where.tiled, api_key=api_key).client, named)
    else:
        documents = sources.from_journal(journal or where.journal, named)
    with terminal.interruptible() as stop, terminal.status_shown() as show:
        key = process(loaded, documents, api_key=api_key, on_status=show, stop=stop)
    print(key)


@app.command(epilog="Example: operandi serve data/server --readable data --readable images --api-key secret")
def serve(
    folder: Annotated[Path, typer.Argument(help="Where the catalog lies; made where it is not there.")] = Path("server"),
    config: Annotated[
        Path | None, typer.Option(help="A configuration of Tiled to serve in place of the embedded one.", show_default=False)
    ] = None,
    readable: Annotated[list[Path] | None, typer.Option(help="A further folder whose files it may serve: arrays, images.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    private: Annotated[bool, typer.Option("--private", help="Reading takes the key, too.")] = False,
    api_key: ApiKey = None,
) -> None:
    """Serve results with Tiled: SQLite and files in one folder, nothing else to start."""
    if config is not None:
        _serve_config(config, host, port)
        return
    import secrets

    from operandi.server.embedded import serve as run_server

    key = api_key or secrets.token_hex(16)
    print(f"http://{host}:{port} serves {folder.absolute()}")
    if api_key is None:
        print(f"To write to it, in the worker's shell: export TILED_API_KEY={key}", flush=True)
    run_server(folder, readable or [], api_key=key, public=not private, host=host, port=port)


def _serve_config(config: Path, host: str, port: int) -> None:
    import subprocess

    if not config.exists():
        raise PublishError(f"{config} is not there: give a Tiled configuration, such as tiled_config/embedded.yml")
    command = [sys.executable, "-m", "tiled", "serve", "config", str(config), "--host", host, "--port", str(port)]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command(epilog="Example: operandi demo --json figures.json")
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything goes; made anew.")] = Path("demo"),
    json: Annotated[Path | None, typer.Option(help="Write the figures as JSON.", show_default=False)] = None,
    experiment: Annotated[Path | None, typer.Option(help="Another experiment file to rehearse.", show_default=False)] = None,
    speed: Annotated[float | None, typer.Option(help="1 is real time; omitted: as fast as possible.", min=0.001)] = None,
) -> None:
    """A whole simulated beamtime: measured, processed live, served, read and replayed, in minutes."""
    from operandi.demo import run_demo

    run_demo(folder, json_file=json, experiment_file=experiment, speed=speed, console=terminal.console())


@profile.command("install", epilog="Example: operandi profile install http://beamline-server:8000")
def profile_install(
    uri: Annotated[str, typer.Argument(help="The Tiled server.")] = "http://127.0.0.1:8000",
    name: Annotated[str, typer.Option(help="Name of the profile.")] = "operandi",
) -> None:
    """Let notebooks of this user open the server by name."""
    from operandi.client import install_profile

    path = install_profile(uri, name)
    print(f'{path} is written. In Python: import operandi; operandi.open("{name}")')
