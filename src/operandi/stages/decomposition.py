"""Patterns as sums of reference patterns, none negative, in every voxel; and reference patterns from the data themselves.

All voxels share one Gram matrix, so that a voxel costs a few products, whatever the number of channels, and the solution of a small system.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.kernels.nonnegative import solve_rows
from operandi.stages.crystals import CRYSTALS, Crystal
from operandi.stages.maps import correlated
from operandi.stages.reflections import FWHM_INV_ANGSTROM, pattern_of

_TOLERANCE = 1e-12
_ROWS = 4096
References = xr.DataArray | Mapping[str, np.ndarray]


def solve_nonnegative(gram: np.ndarray, products: np.ndarray) -> np.ndarray:
    """The x ≥ 0 (row, reference) that minimise ‖A x - y‖ for each row, from AᵀA (reference, reference) and Aᵀy (row, reference).

    Raises
    ------
    ShapeError
        If the references depend on each other, so that there is no one answer.
    """
    scale = np.sqrt(np.diagonal(gram))
    if not (np.isfinite(gram).all() and (scale > 0).all()) or np.linalg.cond(gram / np.outer(scale, scale)) > 1e12:
        raise ShapeError("the reference patterns are empty, not finite, or depend on each other: leave out those that others make up")
    x = np.empty(products.shape)
    solve_rows(gram / np.outer(scale, scale), np.ascontiguousarray(products / scale), _TOLERANCE, x)
    return x / scale


def decompose_values(
    values: np.ndarray, variance: np.ndarray | None, references: np.ndarray, correlation: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Amounts (row, reference) of values (row, q) in references (reference, q), and their standard deviations.

    These are those of the least squares among the references that a row holds; one that it does not hold has 0, and the error with which
    it would be held beside the others. Without variance (row, q) they are NaN. ``correlation`` (lag, q) is that of the channels.
    """
    references = np.asarray(references, float)
    gram = references @ references.T
    amounts = solve_nonnegative(gram, values @ references.T)
    if variance is None:
        return amounts, np.full(amounts.shape, np.nan)
    return amounts, amount_errors(amounts, variance, references, correlation)


def amount_errors(amounts: np.ndarray, variance: np.ndarray, references: np.ndarray, correlation: np.ndarray | None = None) -> np.ndarray:
    """The standard deviations that `decompose_values` gives its amounts; ``variance`` (row, q), or (row, 1) for all channels alike."""
    gram, sigma = references @ references.T, np.empty(amounts.shape)
    for first in range(0, len(amounts), _ROWS):
        rows = slice(first, first + _ROWS)
        sigma[rows] = _errors(gram, references, amounts[rows] > 0, variance[rows], correlation)
    return sigma


def _errors(gram: np.ndarray, references: np.ndarray, held: np.ndarray, variance: np.ndarray, correlation: np.ndarray | None) -> np.ndarray:
    k = len(gram)
    one, other = np.triu_indices(k)
    spread = references if correlation is None else correlated(references, correlation)
    shared = (references[one] * spread[other] + references[other] * spread[one]) / 2
    products = np.empty((len(held), k, k))  # of the noise with each two references
    alike = variance.shape[1] == 1
    products[:, one, other] = products[:, other, one] = variance * shared.sum(axis=1) if alike else variance @ shared.T
    both = held[:, :, None] & held[:, None, :]
    inverse = np.where(both, np.linalg.inv(np.where(both, gram, np.eye(k))), 0.0)
    # A reference that is not held would be estimated by what of it the held ones do not make up.
    rest = np.eye(k) - gram @ inverse
    own = np.einsum("rij,ij->ri", rest, gram)
    estimate = np.where(held[:, :, None], inverse, rest / np.where(held, 1.0, own)[:, :, None])
    return np.sqrt(np.sum(estimate @ products * estimate, axis=2).clip(0))


def decompose(
    volume: xr.Dataset | xr.DataArray,
    references: References,
    *,
    background: int = 2,
    correlation: np.ndarray | None = None,
) -> xr.Dataset:
    """Each voxel's pattern as a sum of reference patterns, none negative.

    Parameters
    ----------
    volume : dims …, q: the intensity, or a Dataset of `intensity` and perhaps `sigma`.
    references : (reference, q) on the volume's q, such as `reference_patterns` or `find_references` give; or name → (q,). They are scaled
        as they come: amounts are multiples of them.
    background : so many hat functions over the range of q, evenly spaced, are references too (`background 0` …): 1 a constant, 2 any
        straight line above 0, 0 none.
    correlation : (lag,) or (lag, q) of channels; None takes ``channel_correlation`` of sigma's attributes.

    Returns
    -------
    Dataset (reference, …): `amount`, its `sigma` (where the volume has none, from the scatter about the sum, all channels alike), and
    `residual` (…), the root mean square of what is left. NaN throughout for a voxel with a channel that is not measured.

    Raises
    ------
    ShapeError
        If references do not fit the volume's q, are not finite or depend on each other.
    """
    dataset = volume if isinstance(volume, xr.Dataset) else volume.rename("intensity").to_dataset()
    if "q" not in dataset.coords or "intensity" not in dataset:
        raise ShapeError(f"the volume needs intensity over the dimension q with its coordinate; it has {dict(dataset.sizes)}")
    intensity, q = dataset["intensity"].transpose(..., "q"), dataset["q"].to_numpy().astype(float)
    names, patterns = _references(references, q, background)
    values = intensity.to_numpy().reshape(-1, q.size).astype(float)
    measured = np.isfinite(values).all(axis=1)
    variance = None
    if "sigma" in dataset:
        variance = dataset["sigma"].transpose(*intensity.dims).to_numpy().reshape(values.shape)[measured].astype(float) ** 2
        correlation = dataset["sigma"].attrs.get("channel_correlation") if correlation is None else correlation
    if correlation is not None:
        correlation = np.asarray(correlation, float)
        correlation = correlation if correlation.ndim == 2 else np.repeat(correlation[:, None], q.size, axis=1)
    amounts, sigma = np.full((2, len(values), len(names)), np.nan)
    amounts[measured], sigma[measured] = decompose_values(values[measured], variance, patterns, correlation)
    residual = np.sqrt(np.mean((values - amounts @ patterns) ** 2, axis=1))
    if variance is None:
        scatter = np.square(residual[measured, None]) * q.size / max(q.size - len(names), 1)
        sigma[measured] = amount_errors(amounts[measured], scatter, patterns, correlation)
    shape, dims = intensity.shape[:-1], intensity.dims[:-1]
    coords = {name: c for name, c in intensity.coords.items() if "q" not in c.dims}
    variables = {
        "amount": (("reference", *dims), amounts.T.reshape(-1, *shape), {"units": "1"}),
        "sigma": (("reference", *dims), sigma.T.reshape(-1, *shape), {"units": "1"}),
        "residual": (dims, residual.reshape(shape), {"units": intensity.attrs.get("units", "1")}),
    }
    attrs = {"method": "non-negative least squares, all channels alike", "q_min_inv_angstrom": q[0], "q_max_inv_angstrom": q[-1]}
    return xr.Dataset(variables, coords | {"reference": names}, attrs)


def _references(references: References, q: np.ndarray, background: int) -> tuple[list[str], np.ndarray]:
    if isinstance(references, xr.DataArray):
        if set(references.dims) != {"reference", "q"} or references.sizes["q"] != q.size or not np.allclose(references["q"], q):
            raise ShapeError(
                f"references over {dict(references.sizes)} do not lie on the volume's {q.size} points in q: give (reference, q)"
            )
        references = {str(name): references.sel(reference=name).to_numpy() for name in references["reference"].to_numpy()}
    if wrong := [name for name, pattern in references.items() if np.shape(pattern) != q.shape or not np.isfinite(pattern).all()]:
        raise ShapeError(f"the references {', '.join(wrong)} are no finite patterns of {q.size} points")
    if background < 0 or not (references or background):
        raise ShapeError("there is no reference pattern: give at least one")
    knots = np.linspace(q[0], q[-1], max(background, 2))
    hats = [np.interp(q, knots, row) for row in np.eye(background)] if background > 1 else [np.ones(q.size)] * background
    names = [*references, *(f"background {i}" for i in range(background))]
    return names, np.array([*references.values(), *hats], float)


def reference_patterns(
    q: np.ndarray, crystals: Sequence[Crystal] = CRYSTALS, *, fwhm_inv_angstrom: float = FWHM_INV_ANGSTROM
) -> xr.DataArray:
    """Powder patterns (reference, q) of crystals, each for one volume of the phase, electrons²/Å³; see `reflections`.

    Raises
    ------
    ShapeError
        If a crystal has no atoms, or none of its lines lies in the range.
    """
    q = np.asarray(q, float)
    patterns = np.stack([pattern_of(crystal, q, fwhm_inv_angstrom) for crystal in crystals])
    if empty := [c.name for c, pattern in zip(crystals, patterns, strict=True) if not pattern.any()]:
        raise ShapeError(f"{', '.join(empty)} has no line between {q[0]:g} and {q[-1]:g} Å⁻¹: leave it out, or widen the range")
    coords = {"reference": [c.name for c in crystals], "q": ("q", q, {"units": "1/angstrom"})}
    return xr.DataArray(patterns, coords, ("reference", "q"), "pattern", {"units": "electron**2/angstrom**3"})


def find_references(volume: xr.DataArray, number: int, *, rounds: int = 200, tolerance: float = 1e-5) -> xr.DataArray:
    """Reference patterns (reference, q) from the data: their non-negative matrix factorisation.

    Begins with the voxels that are least like each other (successive projections, Araújo et al. 2001, 10.1016/S0169-7439(01)00119-8), then
    improves amounts and patterns in turn (hierarchical alternating least squares, Cichocki & Phan 2009, 10.1587/transfun.E92.A.708). The
    same data give the same references. Phases that never lie alone are not told apart: compare with `reference_patterns`.

    Parameters
    ----------
    volume : dims …, q; voxels with NaN are left out.
    number : of references.
    rounds, tolerance : at most so many, until the residual falls by less than this share.

    Returns
    -------
    Each with its highest point at 1; ``residual`` in the attributes is the share of the data's norm that is left.

    Raises
    ------
    ShapeError
        If there are fewer voxels or points than references.
    """
    values = volume.transpose(..., "q").to_numpy().reshape(-1, volume.sizes["q"]).astype(float)
    values = values[np.isfinite(values).all(axis=1)]
    if not 1 <= number <= min(values.shape):
        raise ShapeError(f"{number} references cannot be found in {len(values)} measured voxels of {values.shape[1]} points")
    patterns, norm, before = _unlike(values, number), np.linalg.norm(values), np.inf
    left = norm
    for _ in range(rounds):
        amounts = solve_nonnegative(patterns @ patterns.T + 1e-9 * np.eye(number), values @ patterns.T)
        gram, products = amounts.T @ amounts, amounts.T @ values
        for k in range(number):
            if gram[k, k] > 0:
                patterns[k] = np.maximum(patterns[k] + (products[k] - gram[k] @ patterns) / gram[k, k], 0)
        patterns /= np.maximum(patterns.max(axis=1, keepdims=True), np.finfo(float).tiny)
        left = np.linalg.norm(values - solve_nonnegative(patterns @ patterns.T + 1e-9 * np.eye(number), values @ patterns.T) @ patterns)
        if before - left <= tolerance * before:
            break
        before = left
    coords = {"reference": [f"reference {i}" for i in range(number)], "q": volume["q"]}
    return xr.DataArray(patterns, coords, ("reference", "q"), "pattern", {"units": "1", "residual": float(left / norm) if norm else 0.0})


def _unlike(values: np.ndarray, number: int) -> np.ndarray:
    """The patterns (number, q) of the voxels that stand out most from what those before them make up, their negative points 0."""
    rest, chosen = values - 0.0, []
    for _ in range(number):
        strongest = int(np.argmax(np.sum(rest**2, axis=1)))
        chosen.append(np.maximum(values[strongest], 0))
        direction = rest[strongest] / max(np.linalg.norm(rest[strongest]), np.finfo(float).tiny)
        rest = rest - np.outer(rest @ direction, direction)
    patterns = np.array(chosen)
    return patterns / np.maximum(patterns.max(axis=1, keepdims=True), np.finfo(float).tiny)
