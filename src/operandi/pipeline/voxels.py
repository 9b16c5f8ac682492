"""Peaks of every voxel of a frame, and amounts of reference patterns, from its volume alone."""

from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from operandi.experiment import Decomposition, Experiment, Peak
from operandi.nodes import Array, Block, Container, Product
from operandi.pipeline.tomograms import plane_coords
from operandi.stages.decomposition import decompose
from operandi.stages.patterns import Integrator
from operandi.stages.peaks import NOT_MEASURED, REASONS, fit_peaks

_PEAKS, _AMOUNTS = "peaks", "amounts"
_OF_PEAK = ("position", "position_sigma", "width", "width_sigma", "area", "area_sigma")
_ROWS = 16
"""Rows of voxels that are decomposed at once: few enough that no copy of the volume is held."""


def tree(experiment: Experiment, units: str) -> Iterator[Product]:
    """Declare the arrays that the experiment asks for; ``units`` are those of the volume."""
    n, plane = experiment.scan.translations, plane_coords(experiment.scan)
    if experiment.peaks:
        names = [peak.name for peak in experiment.peaks]
        yield Container((_PEAKS,), {"peaks": [peak.model_dump(mode="json") for peak in experiment.peaks], "reasons": list(REASONS)})
        shape, coords = (len(names), n, n), {"peak": {"values": names}, **plane}
        for name in (*_OF_PEAK, "reason"):
            dtype, fill = ("uint8", NOT_MEASURED) if name == "reason" else ("float32", float("nan"))
            unit = "1" if name == "reason" else f"{units}/angstrom" if name.startswith("area") else "1/angstrom"
            about = {"units": unit, "coords": coords}
            yield Array((_PEAKS, name), ("frame", "peak", "y", "x"), (0, *shape), (1, *shape), dtype, fill, about)
    if experiment.decomposition is not None:
        names = _names(experiment.decomposition)
        yield Container((_AMOUNTS,), experiment.decomposition.model_dump(mode="json"))
        shape, coords = (len(names), n, n), {"reference": {"values": names}, **plane}
        for name in ("value", "sigma"):
            about = {"units": units, "coords": coords}
            yield Array((_AMOUNTS, name), ("frame", "reference", "y", "x"), (0, *shape), (1, *shape), metadata=about)
        yield Array((_AMOUNTS, "residual"), ("frame", "y", "x"), (0, n, n), (1, n, n), metadata={"units": units, "coords": plane})


def blocks(
    frame: int, volume: np.ndarray, integrator: Integrator, experiment: Experiment, references: Mapping[str, np.ndarray]
) -> Iterator[Block]:
    """What the experiment asks for of a volume (y, x, q); ``references`` (q,) by name."""
    if experiment.peaks:
        found = [_peak(volume, integrator, peak) for peak in experiment.peaks]
        for name in (*_OF_PEAK, "reason"):
            values = np.stack([one[name].to_numpy()[0] for one in found])
            yield Block((_PEAKS, name), (frame, 0, 0, 0), values[None].astype("uint8" if name == "reason" else "float32"))
    if experiment.decomposition is not None:
        amounts = _decomposed(volume, integrator, experiment.decomposition, references)
        for name, of in (("value", "amount"), ("sigma", "sigma")):
            yield Block((_AMOUNTS, name), (frame, 0, 0, 0), amounts[of].to_numpy()[None].astype("float32"))
        yield Block((_AMOUNTS, "residual"), (frame, 0, 0), amounts["residual"].to_numpy()[None].astype("float32"))


def in_range(q: np.ndarray, how: Peak | Decomposition) -> np.ndarray:
    """(q,) bool: the points that are looked at."""
    low, high = how.q_min_inv_angstrom, how.q_max_inv_angstrom
    return (q >= (-np.inf if low is None else low)) & (q <= (np.inf if high is None else high))


def _names(how: Decomposition) -> list[str]:
    return [*(one.name for one in how.references), *(f"background {i}" for i in range(how.background))]


def _peak(volume: np.ndarray, integrator: Integrator, peak: Peak) -> xr.Dataset:
    part, correlation = _part(volume, integrator, peak)
    limits = (peak.q_min_inv_angstrom, peak.q_max_inv_angstrom)
    how = {"shape": peak.shape, "width": peak.width_inv_angstrom, "at_least": peak.at_least_sigma}
    return fit_peaks(part, limits, correlation=correlation, **how)


def _decomposed(volume: np.ndarray, integrator: Integrator, how: Decomposition, references: Mapping[str, np.ndarray]) -> xr.Dataset:
    here = in_range(integrator.q, how)
    patterns = {name: pattern[here] for name, pattern in references.items()}
    parts = []
    for first in range(0, len(volume), _ROWS):
        part, correlation = _part(volume[first : first + _ROWS], integrator, how)
        parts.append(decompose(part, patterns, background=how.background, correlation=correlation))
    return xr.concat(parts, "y", data_vars="all", coords="minimal", compat="override", join="override").transpose("reference", "y", "x")


def _part(volume: np.ndarray, integrator: Integrator, how: Peak | Decomposition) -> tuple[xr.DataArray, np.ndarray | None]:
    """The channels that are looked at, and how they are correlated (lag, q)."""
    here = in_range(integrator.q, how)
    correlation = None if integrator.correlation is None else integrator.correlation[:, here]
    return xr.DataArray(volume[..., here], {"q": integrator.q[here]}, ("y", "x", "q")), correlation
