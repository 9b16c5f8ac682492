"""What a reader does with tables and arrays once they are here: order, labels, fingerprints."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import xarray as xr
from tiled.client.composite import CompositeClient
from tiled.client.container import Container

from .errors import NotPublishedError
from .nodes import BY_ARRIVAL, LAZY, NodePath

DIGEST_BYTES = 64_000_000


def tidy(table: pd.DataFrame, order: str | None) -> pd.DataFrame:
    """Rows in the order of ``order``, each value of it once: an answer that was lost may have made a row come twice."""
    if order is None:
        return table.reset_index(drop=True)
    return table.drop_duplicates(order).sort_values(order, kind="stable", ignore_index=True)


def container(node: Any) -> Container:
    """The container itself, where Tiled would show it as a dataset."""
    return node.base if isinstance(node, CompositeClient) else node


def plain(value: Any) -> Any:
    """Tiled's read-only views as plain dicts and lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) or type(value).__name__ == "ListView" else value


def read_table(node: Any) -> pd.DataFrame:
    """A table node, in the order of its order column, each row once."""
    return tidy(node.read().compute(), node.metadata.get("order"))


def with_provisional(committed: pd.DataFrame, provisional: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``steps``, then those of ``provisional`` that are not committed; what is not known of these is NaN, -1 or empty."""
    waiting = cast("pd.DataFrame", provisional[~provisional["step"].isin(committed["step"])])
    columns = {
        name: np.concatenate([committed[name].to_numpy(), _or_unknown(waiting, name, committed[name].dtype.kind)])
        for name in committed.columns
    }
    return pd.DataFrame({**columns, "provisional": np.arange(len(committed) + len(waiting)) >= len(committed)})


def _or_unknown(waiting: pd.DataFrame, name: str, kind: str) -> np.ndarray:
    source = "reason" if name == "quality" else name
    if source in waiting:
        return waiting[source].to_numpy()
    return np.array([{"f": np.nan, "i": -1}.get(kind, "")] * len(waiting), {"f": float, "i": int}.get(kind, object))


def coordinates(node: Any) -> dict[str, xr.Variable]:
    """Coordinates of an array node, from its metadata ``coords``: {dim: {"values", "units"}}."""
    return {
        dim: xr.Variable((dim,), np.asarray(coord["values"]), {"units": coord["units"]} if coord.get("units") else {})
        for dim, coord in (plain(node.metadata).get("coords") or {}).items()
    }


def labelled(node: Any, *index: int | slice) -> xr.DataArray:
    """What ``index`` selects of a node, as a labelled array that is asked for when computed."""
    selected = {dim: part for dim, part in zip(node.dims, index, strict=False)}
    coords = {dim: label[selected[dim]] if dim in selected else label for dim, label in coordinates(node).items()}
    dims = [dim for dim in node.dims if not isinstance(selected.get(dim), int)]
    attrs = {key: value for key, value in node.metadata.items() if isinstance(value, str | int | float)}
    return xr.DataArray(node.read(index or None), dims=dims, coords=coords, attrs=attrs)


def told_dstar(published: xr.Dataset, node: Any) -> xr.Dataset:
    """What is published of d* as `operandi.fit_dstar` gives it: with q*, and reasons in words."""
    about = plain(node.metadata)
    reasons = np.array(about["reasons"])[published["reason"].to_numpy()]
    q_star = 0.2 * np.pi / published["value"]
    dataset = published.rename(value="dstar").assign(q_star=q_star.assign_attrs(units="1/angstrom"))
    return dataset.assign(reason=(published["reason"].dims, reasons))


def nearest(positions: np.ndarray, value: float, dim: str) -> int:
    """Index of the position (mm) nearest to ``value``.

    Raises
    ------
    NotPublishedError
        It is further away than one step.
    """
    pitch = abs(positions[1] - positions[0]) if len(positions) > 1 else np.inf
    index = int(np.abs(positions - value).argmin())
    if not abs(positions[index] - value) <= pitch:
        raise NotPublishedError(
            f"{dim} = {value:g} mm lies outside of the volume, which covers {positions.min():g} to {positions.max():g} mm"
        )
    return index


def digests(node: Any, path: NodePath) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of every array and table below ``node``, but for what is computed on request or depends on how the run came in."""
    for key, child in sorted(container(node).items()):
        if (*path, key) in (*BY_ARRIVAL, *LAZY):
            continue
        family = child.structure_family
        if family == "container":
            yield from digests(child, (*path, key))
        elif family == "array":
            yield "/".join((*path, key)), array_digest(child)
        elif family == "table":
            yield "/".join((*path, key)), table_digest(read_table(child))


def array_digest(node: Any) -> str:
    """Hex SHA-256 of an array node: dtype, shape and content in C order, every NaN taken as the same."""
    shape, dtype = tuple(node.shape), np.dtype(node.dtype)
    digest = hashlib.sha256(json.dumps([dtype.str, shape]).encode())
    one = int(np.prod(shape[1:])) * dtype.itemsize
    step = max(1, DIGEST_BYTES // max(1, one))
    for start in range(0, shape[0], step):
        values = np.asarray(node.read((slice(start, min(start + step, shape[0])),)))
        digest.update(_same_nan(np.ascontiguousarray(values)).tobytes())
    return digest.hexdigest()


def table_digest(table: pd.DataFrame) -> str:
    """Hex SHA-256 of a table: names, types and values of its columns, every NaN and every zero taken as the same."""
    digest = hashlib.sha256()
    for name, column in table.items():
        if pd.api.types.is_numeric_dtype(column.dtype):
            values = column.to_numpy()
            values = values + 0.0 if values.dtype.kind == "f" else values  # DuckDB loses the sign of zeros when its file is closed
            digest.update(json.dumps([name, values.dtype.str, len(values)]).encode() + _same_nan(values).tobytes())
        else:
            digest.update(json.dumps([name, "str", column.astype(str).tolist()]).encode())
    return digest.hexdigest()


def _same_nan(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.nan, values).astype(values.dtype) if values.dtype.kind == "f" else values
