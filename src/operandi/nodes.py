"""The published contract: the tree of a result, and the products that fill it.

A result lives under ``<root>/<key>`` of a Tiled server. The pipeline says what to publish with the products of
this module, in order; a sink carries them out. Each is idempotent: a block always lands at the same offset, and
rows carry the column by which a repeated delivery is recognised.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from operandi.errors import ShapeError

PROCESSED, RAW = "processed", "raw"
RESULT_SPEC = "OperandoRun"
STEPS, LEDGER, ECHEM, PROVISIONAL, EVENTS = ("steps",), ("ledger",), ("echem",), ("provisional",), ("events",)
FINISHED, CONVERGENCE, LITHIUM = ("finished",), ("convergence",), ("lithium",)
REGIONS, REGION_TABLE, DEFECTS = ("regions",), ("regions", "table"), ("regions", "defects")
WINDOWS = ("windows",)
WINDOWS_MIMETYPE = "application/x-operandi-windows"
WINDOW_KEYS = "q_min-q_max or q_min-q_max-background: decimal numbers in 1/angstrom, then linear, constant or none; such as 1.82-1.90-none"

NodePath = tuple[str, ...]
BY_ARRIVAL: tuple[NodePath, ...] = (PROVISIONAL, EVENTS)
"""Tables that tell of the run as it came, and so differ between a live run and its replay."""
LAZY: tuple[NodePath, ...] = (WINDOWS,)
"""Containers that the server computes from what is stored."""


@dataclass(frozen=True, slots=True)
class Container:
    """Declare a container node below the result; ``path`` ``()`` is the result itself."""

    path: NodePath
    metadata: Mapping[str, Any] = field(default_factory=dict)
    specs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Array:
    """Declare an array node.

    ``shape`` is the shape at declaration; an axis 0 of length 0 grows with the blocks written. ``chunks`` has one
    length for each dimension; ``fill`` is the value of cells that no block covers.
    """

    path: NodePath
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str = "float32"
    fill: float = float("nan")
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lazy:
    """Declare a container that the server computes when it is asked, by its adapter of this mimetype, from the arrays at ``of``.

    A server without this adapter goes without the container.
    """

    path: NodePath
    mimetype: str
    of: tuple[NodePath, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Declare an appendable table: ``columns`` name → numpy dtype string (``"str"`` for text), ``order`` the column that only grows."""

    path: NodePath
    columns: Mapping[str, str]
    order: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Block:
    """Write ``data`` at ``offset`` of a declared array, growing its first axis where it must."""

    path: NodePath
    offset: tuple[int, ...]
    data: np.ndarray


@dataclass(frozen=True, slots=True)
class Rows:
    """Append rows to a declared table; rows whose ``order`` value is already there are left alone."""

    path: NodePath
    columns: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Closed:
    """Nothing more comes: ``metadata`` completes the result's own."""

    metadata: Mapping[str, Any]


Product = Container | Array | Lazy | Table | Block | Rows | Closed


def typed(kinds: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The ``values`` (row,) of each column of a table in its type; text as objects."""
    return {name: np.array(values[name], object if kind == "str" else kind) for name, kind in kinds.items()}


def typed_row(kinds: Mapping[str, str], row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The columns (1,) of a single row, as `typed`."""
    return typed(kinds, {name: [row[name]] for name in kinds})


STEP_COLUMNS: Mapping[str, str] = {
    "step": "int64",
    "frame": "int64",
    "set_first": "int64",
    "set_last": "int64",
    "t_start": "float64",
    "t_end": "float64",
    "q_start_mah": "float64",
    "q_end_mah": "float64",
    "q_mah": "float64",
    "q_mean_mah": "float64",
    "q_low_mah": "float64",
    "q_high_mah": "float64",
    "voltage": "float64",
    "current": "float64",
    "cycle": "int64",
    "protocol_step": "int64",
    "phase": "str",
    "coverage": "float64",
    "quality": "str",
}
PROVISIONAL_COLUMNS: Mapping[str, str] = {
    "step": "int64",
    "frame": "int64",
    "set_first": "int64",
    "set_last": "int64",
    "t_start": "float64",
    "t_end": "float64",
    "coverage": "float64",
    "reason": "str",
}
EVENT_COLUMNS: Mapping[str, str] = {
    "told": "float64",
    "time": "float64",
    "rule": "str",
    "severity": "str",
    "change": "str",
    "message": "str",
    "value": "float64",
    "limit": "float64",
}
LEDGER_COLUMNS: Mapping[str, str] = {
    "entry": "int64",
    "set": "int64",
    "stream": "str",
    "seq_num": "int64",
    "status": "str",
    "reason": "str",
}
ECHEM_COLUMNS: Mapping[str, str] = {
    "time": "float64",
    "voltage": "float64",
    "current": "float64",
    "charge": "float64",
    "step": "int64",
    "cycle": "int64",
}
FINISHED_COLUMNS: Mapping[str, str] = {
    "frame": "int64",
    "time": "float64",
    "q_mah": "float64",
    "progress": "str",
    "scheme": "str",
    "set_first": "int64",
    "set_last": "int64",
    "one_sided": "float64",
    "reason": "str",
}
CONVERGENCE_COLUMNS: Mapping[str, str] = {
    "entry": "int64",
    "frame": "int64",
    "phase": "str",
    "projections": "int64",
    "resolution_mm": "float64",
    "angular_mm": "float64",
    "resolution_doubled_mm": "float64",
    "projections_needed": "int64",
    "changed": "int64",
    "change_probability": "float64",
    "change_ratio": "float64",
    "drift": "float64",
    "reason": "str",
}
LITHIUM_COLUMNS: Mapping[str, str] = {
    "frame": "int64",
    "charge_mah": "float64",
    "graphite": "float64",
    "graphite_sigma": "float64",
    "oxide": "float64",
    "oxide_sigma": "float64",
    "passed_mah": "float64",
    "graphite_mah": "float64",
    "graphite_sigma_mah": "float64",
    "oxide_mah": "float64",
    "oxide_sigma_mah": "float64",
    "residual_mah": "float64",
    "residual_sigma_mah": "float64",
    "unseen_mah": "float64",
    "unseen_sigma_mah": "float64",
    "reason": "str",
}
REGION_COLUMNS: Mapping[str, str] = {
    "entry": "int64",
    "frame": "int64",
    "region": "str",
    "voxels": "int64",
    "dstar_nm": "float64",
    "sigma_nm": "float64",
    "q_star_inv_angstrom": "float64",
    "slope": "float64",
    "reason": "str",
}
DEFECT_COLUMNS: Mapping[str, str] = {
    "entry": "int64",
    "frame": "int64",
    "number": "int64",
    "kind": "str",
    "centre_x_mm": "float64",
    "centre_y_mm": "float64",
    "radius_mm": "float64",
    "turn": "float64",
    "arc_mm": "float64",
    "depth_mm": "float64",
    "voxels": "int64",
    "area_mm2": "float64",
    "diameter_um": "float64",
    "length_um": "float64",
    "critical": "int64",
    "severity": "float64",
    "bend_radius_mm": "float64",
    "reason": "str",
}


def fingerprint(content: Any) -> str:
    """Hex SHA-256 of JSON-serialisable ``content``, the same whatever the order of its mappings' keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def result_key(*, started: float, sample: str, run_uid: str, identity: Any) -> str:
    """The key of a result, such as ``20261122-1403_cell-17_219cc7b4_5f3a9c01``: when, what, which run, which result.

    ``started`` is the run's start in UTC epoch seconds; ``identity`` is everything that decides the numbers
    (experiment, code version).
    """
    when = datetime.fromtimestamp(started, UTC).strftime("%Y%m%d-%H%M")
    name = "".join(c if c.isalnum() or c in "-." else "-" for c in sample)
    return f"{when}_{name}_{run_uid[:8]}_{fingerprint([run_uid, identity])[:8]}"


def window_key(q_min: float, q_max: float, background: str | None = None) -> str:
    """The key, below ``windows``, of the maps of a window of q, Å⁻¹; without background it has that of the published map, or linear."""
    numbers = (np.format_float_positional(q, trim="-") for q in (q_min, q_max))
    return "-".join((*numbers, background) if background else numbers)


def read_window_key(key: str) -> tuple[float, float, str | None]:
    """q_min, q_max (Å⁻¹) and background, if there is one, of a key such as ``1.82-1.90-constant``.

    Raises
    ------
    ShapeError
        It is none, or q_max is not above q_min.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)(?:-(linear|constant|none))?", key, re.ASCII)
    if found is None:
        raise ShapeError(f"{key!r} is no window: ask for {WINDOW_KEYS}")
    low, high = float(found[1]), float(found[2])
    if not 0 < low < high < np.inf:
        raise ShapeError(f"the window {key!r} must begin above 0 and end above its beginning: give q_min before q_max")
    return low, high, found[3]
