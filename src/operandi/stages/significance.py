"""Maps and their sigma to what is significant: a threshold for each map that bounds the share of false discoveries."""

from typing import Literal

import numpy as np
import xarray as xr
from scipy.special import log_ndtr, ndtri

from operandi.errors import ShapeError

Control = Literal["fdr", "fdr-dependent", "voxel"]

_FEWEST = 20
"""Negative voxels that tell how wide noise and streaks are."""


def thresholds(ratio: np.ndarray, rate: float, control: Control = "fdr") -> float:
    """The multiple of sigma from which on values (any shape) of value / sigma are significant; infinite where none is.

    Benjamini and Hochberg 1995 (10.1111/j.2517-6161.1995.tb02031.x): of what is called significant at most the share ``rate`` is expected
    to be noise. It holds for independent voxels and for positively dependent ones; ``fdr-dependent`` (Benjamini and Yekutieli 2001,
    10.1214/aos/1013699998) for any. ``voxel`` bounds the share of empty voxels that are called significant.
    """
    ratio = ratio[np.isfinite(ratio)]
    if not ratio.size:
        return np.inf
    if control == "voxel":
        return float(-ndtri(rate))
    n, rank = ratio.size, np.arange(1, ratio.size + 1)
    allowed = rate / (np.sum(1 / rank) if control == "fdr-dependent" else 1.0)
    ordered = np.sort(ratio)[::-1]
    passing = np.flatnonzero(log_ndtr(-ordered) <= np.log(allowed * rank / n))
    return float(ordered[passing[-1]]) if passing.size else np.inf


def widening(ratio: np.ndarray) -> float:
    """How many times wider than sigma the negative values of value / sigma are, at least 1.

    No phase makes a map negative: what is below 0 is noise, and streaks of too few angles, which go both ways.
    """
    negative = ratio[ratio < 0]
    return max(1.0, float(np.sqrt(np.mean(negative**2)))) if negative.size >= _FEWEST else 1.0


def find_significant(
    maps: xr.Dataset, *, rate: float = 0.05, control: Control = "fdr", at_least: float = 0.0, streaks: bool = True
) -> xr.Dataset:
    """Where maps show more than noise and streaks.

    The test is one-sided and takes the noise as normal. Reflections of other phases (`intruders`) are as significant as the phase.

    Parameters
    ----------
    maps : `intensity` and `sigma` (phase, …) or without phase; each phase, and each frame, has a threshold of its own.
    rate : share of false discoveries among all discoveries (see `thresholds`).
    at_least : no multiple of sigma below this is called significant.
    streaks : whether sigma is widened to what the negative voxels of each map show (`widening`); without, only the noise is heeded.

    Returns
    -------
    Dataset of the maps' dims: `significant` (bool, False where a value or its sigma is not known or sigma is 0), `ratio` (value / sigma,
    NaN there), and `threshold` (phase), the multiple of sigma from which on; infinite where nothing is.

    Raises
    ------
    ShapeError
        If sigma is missing or does not fit, or the rate is no share.
    """
    if "sigma" not in maps or "intensity" not in maps or maps["sigma"].sizes != maps["intensity"].sizes:
        raise ShapeError(
            f"significance needs intensity and sigma of the same dims, there are {', '.join(map(str, maps.data_vars)) or 'none'}"
        )
    if not 0 < rate < 1 or control not in ("fdr", "fdr-dependent", "voxel"):
        raise ShapeError(f"rate is {rate}, control {control!r}: give a share between 0 and 1, and fdr, fdr-dependent or voxel")
    intensity, sigma = maps["intensity"], maps["sigma"].transpose(*maps["intensity"].dims)
    if not np.isfinite(sigma).any():
        raise ShapeError("sigma is NaN everywhere: reconstruct with the sinogram's sigma, then the maps have one")
    values, errors = intensity.to_numpy().astype(float), sigma.to_numpy().astype(float)
    known = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    ratio = np.divide(values, errors, out=np.full(values.shape, np.nan), where=known)
    series = [dim for dim in intensity.dims if dim in ("frame", "phase")]
    labelled = intensity.copy(data=ratio).transpose(*series, ...)
    shape = tuple(labelled.sizes[dim] for dim in series)
    rows = labelled.to_numpy().reshape(int(np.prod(shape, dtype=int)), -1)
    wide = [widening(row) if streaks else 1.0 for row in rows]
    limits = np.array([max(k * thresholds(row / k, rate, control), at_least) for k, row in zip(wide, rows, strict=True)]).reshape(shape)
    threshold = xr.DataArray(limits, {d: intensity.coords[d] for d in series if d in intensity.coords}, series, attrs={"units": "sigma"})
    labelled = labelled.transpose(*intensity.dims).assign_attrs(units="sigma")
    attrs = {"rate": rate, "control": control, "at_least_sigma": at_least, "streaks": int(streaks)}
    return xr.Dataset({"significant": labelled >= threshold, "ratio": labelled, "threshold": threshold}, attrs=attrs)
