"""One tomogram from one measured sinogram: corrected, centred, reconstructed, and published like a frame of a series."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from operandi import provenance
from operandi.errors import ShapeError
from operandi.nodes import STEP_COLUMNS, STEPS, Array, Block, Closed, Container, Product, Rows, Table, result_key, typed_row
from operandi.sinks.tiled import TiledSink
from operandi.stages.axis import Axis, find_axis
from operandi.stages.corrections import correct
from operandi.stages.filters import FILTERS
from operandi.stages.reconstruction import reconstruct

ABSORBANCE = "1"
NO_CHARGE = "charge unknown: a single tomogram has no potentiostat log"


@dataclass(frozen=True, slots=True)
class Processing:
    """How a sinogram becomes a tomogram; part of the result's identity."""

    transmission: bool = False
    """The signal is the transmitted beam: -log(I/I0) is what projections add up to."""
    air: bool = True
    """Subtract what the outermost positions see, which must lie outside the sample."""
    rim_points: int = 2
    """Number of outermost positions on either side."""
    axis_mm: float | None = None
    """The rotation axis on the translation axis; None finds it."""
    filter: str = "ramp"
    """Of the filtered back projection."""


@dataclass(frozen=True, slots=True)
class SingleTomogram:
    """What came out: ``sinogram`` (rotation, translation) corrected, in the order of its angles, and ``volume`` (y, x)."""

    sinogram: xr.DataArray
    volume: xr.DataArray
    axis: Axis
    coverage: float
    processing: Processing
    source: Mapping[str, Any]


def make_tomogram(measured: xr.Dataset, processing: Processing) -> SingleTomogram:
    """Correct, centre and reconstruct a sinogram, whatever the order of its angles.

    Parameters
    ----------
    measured
        From `operandi.sources.sinograms.read_sinogram`.
    processing
        How.

    Raises
    ------
    ShapeError
        There is too little signal for an axis, or translations are not equally spaced.
    """
    if processing.filter not in FILTERS:
        raise ShapeError(f"there is no filter {processing.filter!r}: give one of {', '.join(FILTERS)}")
    corrected = _corrected(measured, processing).sortby("rotation")
    axis = find_axis(corrected) if processing.axis_mm is None else Axis(processing.axis_mm, 0.0)
    volume = reconstruct(corrected, axis=axis, filter=processing.filter)["intensity"]
    coverage = float(np.isfinite(corrected).mean())
    return SingleTomogram(corrected, volume, axis, coverage, processing, dict(measured.attrs) | {"sha256": _digest(measured)})


def _corrected(measured: xr.Dataset, processing: Processing) -> xr.DataArray:
    """The sinogram on one scale: normalised, its logarithm taken where it is a transmission, free of air.

    A cell whose transmission is zero or negative was not measured: NaN.
    """
    values = correct(measured["signal"], monitor=measured.get("monitor"))
    if processing.transmission:
        values = values.copy(data=-np.log(values.where(values > 0).to_numpy()))
    values = correct(values, air="rim" if processing.air else None, rim_points=processing.rim_points)
    return values.assign_attrs(units=ABSORBANCE if processing.transmission else "counts")


def _digest(measured: xr.Dataset) -> str:
    """Hex SHA-256 of everything that was read."""
    digest = hashlib.sha256()
    for name in sorted(map(str, measured.variables)):
        digest.update(name.encode() + np.ascontiguousarray(measured[name].to_numpy(), np.float64).tobytes())
    return digest.hexdigest()


def publish_tomogram(tomogram: SingleTomogram, sink: TiledSink, *, sample: str, drain_s: float = 60.0) -> str:
    """Publish a tomogram as a result of one frame and one channel; the same input and processing give the same key.

    Parameters
    ----------
    sink
        Not open yet.
    sample
        Short name; becomes part of the key.
    drain_s
        How long to wait for a server that is away; what it has not taken then waits in the sink's spool.

    Returns
    -------
    Key of the result.
    """
    key, metadata = describe(tomogram, sample)
    sink.open(key, metadata)
    try:
        for product in products(tomogram):
            sink.apply(product)
    finally:
        sink.close(drain_s)
    return key


def describe(tomogram: SingleTomogram, sample: str) -> tuple[str, dict[str, Any]]:
    """Key and metadata of the result: what was measured, in which file, and how it was processed."""
    source, how = tomogram.source, {name: getattr(tomogram.processing, name) for name in Processing.__dataclass_fields__}
    versions, started = provenance.versions(), _started(source)
    identity = {"processing": how, "source": source["sha256"], "operandi": versions["operandi"]}
    key = result_key(started=started, sample=sample, run_uid=source["sha256"], identity=identity)
    metadata = {
        "sample": {"name": sample},
        "started": started,
        "source": dict(source),
        "processing": how,
        "method": "fbp",
        "axis_mm": tomogram.axis.position,
        "axis_uncertainty_mm": tomogram.axis.uncertainty,
        "versions": versions,
    }
    return key, metadata


def _started(source: Mapping[str, Any]) -> float:
    """When it was measured, UTC epoch s: as the file says, else when the file was last written."""
    if source.get("started") is not None:
        return float(source["started"])
    file = Path(str(source.get("file", "")))
    return file.stat().st_mtime if file.is_file() else 0.0


def products(tomogram: SingleTomogram) -> Iterator[Product]:
    """The tree of a result with one frame of one channel, which stands at q = 0: the direct beam."""
    sinogram, volume = (array.to_numpy().astype(np.float32)[..., None] for array in (tomogram.sinogram, tomogram.volume))
    axis = {"axis_mm": tomogram.axis.position, "axis_uncertainty_mm": tomogram.axis.uncertainty}
    channel = {"q": {"values": [0.0], "units": "1/angstrom"}}
    path, dims = ("sinograms", "0000"), ("rotation", "translation", "q")
    yield Table(STEPS, STEP_COLUMNS, "step")
    yield Container(("sinograms",))
    yield Container(("volumes",))
    metadata = {"units": tomogram.sinogram.attrs["units"], "coords": _coords(tomogram.sinogram) | channel, **axis}
    yield Array(path, dims, sinogram.shape, sinogram.shape, metadata=metadata)
    yield Block(path, (0, 0, 0), sinogram)
    path, dims, shape = ("volumes", "intensity"), ("frame", "y", "x", "q"), volume.shape
    metadata = {"units": tomogram.volume.attrs["units"], "coords": _coords(tomogram.volume) | channel, "method": "fbp", **axis}
    yield Array(path, dims, (0, *shape), (1, *shape), metadata=metadata | {"filter": tomogram.processing.filter})
    yield Block(path, (0, 0, 0, 0), volume[None])
    yield _step(tomogram)
    yield Closed({"exit_status": "success", "reason": ""})


def _coords(array: xr.DataArray) -> dict[str, Any]:
    return {str(dim): {"values": array[dim].values.tolist(), "units": array[dim].attrs["units"]} for dim in array.dims}


def _step(tomogram: SingleTomogram) -> Rows:
    """The row that commits the frame; nothing is known of a cell's charge, nor when each line was measured."""
    missing = f"{100 * (1 - tomogram.coverage):.1f} % of the projections not measured; " if tomogram.coverage < 1 else ""
    known = {"phase": "unknown", "coverage": tomogram.coverage, "quality": missing + NO_CHARGE}
    unknown = {"float64": np.nan, "int64": 0, "str": ""}
    return Rows(STEPS, typed_row(STEP_COLUMNS, {name: unknown[kind] for name, kind in STEP_COLUMNS.items()} | known))
