"""Reading what an experiment names beside its images: the pattern of air, from a file or from an earlier result."""

from typing import Any, Literal

import numpy as np

from operandi.errors import AssetError, OperandiError, ShapeError
from operandi.experiment import Experiment, MeasuredAir
from operandi.pipeline.companions import Companions
from operandi.sources.pattern_files import read_pattern
from operandi.stages.air import Air, mean_air, resample
from operandi.stages.corrections import without_dead_time


def load_companions(experiment: Experiment, q: np.ndarray, *, api_key: str | None = None) -> Companions:
    """What the experiment names, on the patterns' points in ``q``, Å⁻¹; ``api_key`` reads earlier results.

    Raises
    ------
    AssetError
        A file cannot be read, or does not fit the patterns.
    NotPublishedError, PublishError
        An earlier result is not there, or the server does not answer.
    """
    named = _named_air(experiment)
    if named is None:
        return Companions()
    air, about = load_air(experiment, named, q, api_key=api_key)
    return Companions(air, {"air": about})


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


def find_faults(experiment: Experiment) -> list[tuple[Literal["error", "warning"], str, str]]:
    """What is wrong, or worth knowing, with what the experiment names: severity, field and message of each."""
    how, named = experiment.integration, _named_air(experiment)
    edges = np.linspace(how.q_min_inv_angstrom, how.q_max_inv_angstrom, how.bins + 1)
    if named is None:
        return []
    field = f"corrections.measured_air.{'file' if named.result is None else 'result'}"
    try:
        _, about = load_air(experiment, named, (edges[1:] + edges[:-1]) / 2)
    except OperandiError as error:
        return [("error", field, str(error))]
    return [("warning", field, "has no errors: the pattern of air is taken as exact")] if about.get("exact") else []
