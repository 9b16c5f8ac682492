"""Reading what an experiment names beside its images: air, transmission, reference patterns."""

from typing import Any, Literal

import numpy as np
import xarray as xr

from operandi.errors import AssetError, OperandiError, ShapeError
from operandi.experiment import Absorption, Decomposition, Experiment, MeasuredAir, ReferencePattern
from operandi.experiment.corrections import AbsorbingLayer
from operandi.pipeline.companions import Companions, Transmission
from operandi.pipeline.voxels import in_range
from operandi.sources.crystals import read_crystal
from operandi.sources.pattern_files import read_pattern
from operandi.sources.sinograms import read_sinogram
from operandi.stages import scans
from operandi.stages.absorption import cylinder_transmission, mixture_attenuation_inv_mm, require_cover
from operandi.stages.air import Air, mean_air, resample
from operandi.stages.corrections import without_dead_time
from operandi.stages.crystals import crystal_named
from operandi.stages.decomposition import decompose, reference_patterns

Fault = tuple[Literal["error", "warning"], str, str]
"""Severity, field and message."""


def load_companions(experiment: Experiment, q: np.ndarray, *, api_key: str | None = None) -> Companions:
    """What the experiment names, on the patterns' points in ``q``, Å⁻¹; ``api_key`` reads earlier results.

    Raises
    ------
    AssetError
        A file cannot be read, or does not fit the patterns.
    NotPublishedError, PublishError
        An earlier result is not there, or the server does not answer.
    """
    named, absorption = _named_air(experiment), experiment.corrections.absorption
    air, transmission, about = None, None, {}
    if named is not None:
        air, about["air"] = load_air(experiment, named, q, api_key=api_key)
    if absorption is not None:
        transmission, about["absorption"] = load_transmission(experiment, absorption)
    references = {} if experiment.decomposition is None else load_references(experiment.decomposition, q)
    return Companions(air, transmission, references, about)


def load_references(how: Decomposition, q: np.ndarray) -> dict[str, np.ndarray]:
    """The reference patterns (q,) by name, each with its highest point within the range at 1. Raises as `load_companions`."""
    patterns, here = {one.name: _load_reference(one, q, how) for one in how.references}, in_range(q, how)
    nothing = xr.DataArray(np.zeros((1, here.sum())), {"q": q[here]}, ("voxel", "q"))
    try:
        decompose(nothing, {name: pattern[here] for name, pattern in patterns.items()}, background=how.background)
    except ShapeError as error:
        raise AssetError(f"decomposition: {error}") from error
    return patterns


def _load_reference(one: ReferencePattern, q: np.ndarray, how: Decomposition) -> np.ndarray:
    try:
        if one.file is not None:
            measured = read_pattern(one.file, q_units=one.q_units)
            intensity = measured["intensity"].to_numpy()
            pattern = resample(q, measured["q"].to_numpy(), intensity, np.zeros_like(intensity))[0].astype(float)
        else:
            crystal = crystal_named(one.crystal or one.name) if one.cif is None else read_crystal(one.cif, name=one.name)
            pattern = reference_patterns(q, [crystal], fwhm_inv_angstrom=how.width_inv_angstrom).to_numpy()[0]
        highest = pattern[in_range(q, how)].max(initial=0.0)
        if not highest > 0:
            raise ShapeError("it is nowhere above 0 in the range: leave it out, or widen the range")
    except ShapeError as error:
        raise AssetError(f"reference {one.name!r}: {error}") from error
    return pattern / highest


def load_transmission(experiment: Experiment, absorption: Absorption) -> tuple[Transmission, dict[str, Any]]:
    """The transmission of the paths through the cell, and where it is from. Raises as `load_companions`."""
    scan, axis = experiment.scan, experiment.reconstruction.axis_mm
    positions, angles = scans.translations_mm(scan), np.concatenate([scans.planned_rotations_deg(scan, n) for n in range(scan.sets)])
    if absorption.file is None:
        assert axis is not None
        layers = [(layer.radius_mm, attenuation_inv_mm(layer)) for layer in absorption.layers]
        values = cylinder_transmission(positions, axis, layers)[None]
        return Transmission(values, angles[:1], positions), {"layers": [list(layer) for layer in layers], "axis_mm": axis}
    datasets = {name: getattr(absorption, name) for name in ("signal", "rotation", "translation")}
    measured = read_sinogram(absorption.file, **datasets)
    found = Transmission(*(measured[name].to_numpy() for name in ("signal", "rotation", "translation")))
    try:
        require_cover("angles", angles, found.rotation_deg)
        require_cover("positions", positions, found.translation_mm)
        if not (np.isfinite(found.values).all() and (found.values > 0).all()):
            raise ShapeError("the transmission holds values that are not positive: normalise it to the beam beside the cell")
    except ShapeError as error:
        raise AssetError(f"{absorption.file}: {error}") from error
    return found, {"file": absorption.file.name, **datasets}


def attenuation_inv_mm(layer: AbsorbingLayer) -> float:
    """Linear attenuation of a layer, as it stands or from its composition."""
    if layer.attenuation_inv_mm is not None:
        return layer.attenuation_inv_mm
    parts = [(part.mass_fraction, part.attenuation_cm2_g) for part in layer.composition]
    return mixture_attenuation_inv_mm(parts, layer.density_g_cm3 or 0.0)


def _named_air(experiment: Experiment) -> MeasuredAir | None:
    return experiment.corrections.measured_air if experiment.corrections.air == "measured" else None


def load_air(experiment: Experiment, named: MeasuredAir, q: np.ndarray, *, api_key: str | None = None) -> tuple[Air, dict[str, Any]]:
    """The pattern of air on the points ``q``, and where it is from. Raises as `load_companions`."""
    if named.file is not None:
        pattern, where = read_pattern(named.file, q_units=named.q_units), str(named.file)
        variance = pattern["sigma"].to_numpy() ** 2
        exact = not np.isfinite(variance).any()
        found = Air(pattern["intensity"].to_numpy(), np.zeros_like(variance) if exact else variance, named.monitor or np.nan)
        measured_q, about = pattern["q"].to_numpy(), {"file": named.file.name, "exact": exact}
    else:
        where = f"result {named.result}"
        measured_q, found = _air_of_result(experiment, str(named.result), api_key)
        about = {"result": named.result}
    try:
        return Air(*resample(q, measured_q, found.intensity, found.variance), found.monitor), about
    except ShapeError as error:
        raise AssetError(f"{where}: {error}") from error


def _air_of_result(experiment: Experiment, key: str, api_key: str | None) -> tuple[np.ndarray, Air]:
    """q and the mean pattern of a result's images."""
    from operandi.client import open as open_catalog

    how = experiment.corrections
    with open_catalog(experiment.publishing.tiled, api_key=api_key) as catalog:
        result = catalog.results[key]
        about = result.metadata
        if "status" not in about:
            raise AssetError(f"result {key} still grows: wait until its run is over, or name another as corrections.measured_air.result")
        patterns = result.patterns.compute()
    counts, variance = patterns["intensity"].to_numpy(), patterns["sigma"].to_numpy() ** 2
    if how.dead_time_s:
        counts, variance = without_dead_time(counts, how.dead_time_s, about["experiment"]["scan"]["exposure_s"], variance=variance)
    assert variance is not None
    try:
        return patterns["q"].to_numpy(), mean_air(counts, variance, patterns["monitor"].to_numpy() if how.monitor else None)
    except ShapeError as error:
        raise AssetError(f"result {key}: {error}") from error


def find_faults(experiment: Experiment) -> list[Fault]:
    """What is wrong, or worth knowing, with what the experiment names: severity, field and message of each."""
    how, named, absorption = experiment.integration, _named_air(experiment), experiment.corrections.absorption
    edges, found = np.linspace(how.q_min_inv_angstrom, how.q_max_inv_angstrom, how.bins + 1), list[Fault]()
    if named is not None:
        field = f"corrections.measured_air.{'file' if named.result is None else 'result'}"
        try:
            _, about = load_air(experiment, named, (edges[1:] + edges[:-1]) / 2)
            if about.get("exact"):
                found.append(("warning", field, "has no errors: the pattern of air is taken as exact"))
        except OperandiError as error:
            found.append(("error", field, str(error)))
    if absorption is not None:
        try:
            load_transmission(experiment, absorption)
        except OperandiError as error:
            found.append(("error", "corrections.absorption.file", str(error)))
    if experiment.decomposition is not None:
        try:
            load_references(experiment.decomposition, (edges[1:] + edges[:-1]) / 2)
        except OperandiError as error:
            found.append(("error", "decomposition.references", str(error)))
    return found
