"""Commands for measurements without an experiment: detector images, potentiostat logs, single sinograms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from operandi import terminal
from operandi.cli.application import ApiKey, app
from operandi.errors import PotentiostatError, PublishError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

BLOCK_IMAGES = 32


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
    method: Annotated[
        str | None, typer.Option(help="Pixel splitting: no, bbox or full; omitted: full for means, no for the others.", show_default=False)
    ] = None,
    averaging: Annotated[str, typer.Option(help="mean; clipped or median, which leave out grains and hot spots.")] = "mean",
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
        "averaging": averaging,
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
        from operandi.figures.measurements import draw_patterns

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


@app.command(epilog="Example: operandi echem 01_OCV.mpr 02_GCPL.mpr --timezone Europe/Paris --folder pictures")
def echem(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Potentiostat logs (.mpt, .mpr or .csv).")],
    timezone: Annotated[str, typer.Option(help="Time zone of the computer that wrote them.")] = "UTC",
    start: Annotated[
        str | None, typer.Option(help="When it began, for a log that does not say: 2026-11-22T14:03:00.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Save the rows of one FILE as .csv.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Name of the picture of one FILE: .png, .pdf or .svg.")] = None,
    folder: Annotated[Path, typer.Option(help="Folder for the picture of each FILE, named after it.")] = Path(),
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw nothing.")] = False,
) -> None:
    """Read potentiostat logs: their extent, ranges and steps; draw voltage, current and charge over time, steps shaded."""
    from operandi.figures.echem import draw_echem, summary
    from operandi.sources.potentiostat import read_potentiostat

    if len(files) > 1 and (output or plot):
        raise PotentiostatError(f"--output and --plot take one log, {len(files)} are given: run the command for each, or give --folder")
    for file in files:
        log = read_potentiostat(file, timezone=timezone, start=start)
        print("\n".join(summary(log)))
        if output is not None:
            _save_rows(log, output)
        if not no_plot:
            folder.mkdir(parents=True, exist_ok=True)
            terminal.save(draw_echem(log), plot or folder / f"{file.name}.png")
        if file != files[-1]:
            print()


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
        from operandi.figures.measurements import draw_tomogram

        terminal.save(draw_tomogram(result.sinogram, result.volume, axis_mm=result.axis.position, title=name), plot)
    if tiled is not None:
        from operandi.sinks.tiled import TiledSink

        print(publish_tomogram(result, TiledSink(tiled, api_key=api_key, storage=storage, state=state), sample=sample or name))
