"""BioLogic's binary files (.mpr), through galvani or yadg: each fails on files that the other reads."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from operandi.errors import MissingBackendError, PotentiostatError
from operandi.sources.log_columns import Accumulator, Layout, assign_columns, averages, limits, tell_current
from operandi.sources.log_headers import Header, Start, resolve_start
from operandi.stages.charge import Log

# whatever a reverse-engineered format makes its readers trip over
_FAULTS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError, OSError, EOFError)
_FAULTS = (*_FAULTS, NameError, StopIteration, SyntaxError, struct.error, MemoryError, BufferError)
_OLE_ZERO = datetime(1899, 12, 30)
_TECHNIQUES: Mapping[int, str] = {4: "GCPL", 6: "CV", 11: "OCV", 25: "CP", 29: "PEIS", 30: "GEIS", 127: "MB", 136: "BCD"}
LARGEST_FILE = 1 << 31
_MAGIC = b"BIO-LOGIC MODULAR FILE"


@dataclass(frozen=True, slots=True)
class Table:
    """What a backend read: header of a column, EC-Lab's way, → values, and the naive local start."""

    columns: Mapping[str, NDArray]
    started: datetime | None
    attrs: Mapping[str, str] = field(default_factory=dict)


def _galvani(path: Path) -> Table:
    from galvani import BioLogic

    file = BioLogic.MPRfile(io.BytesIO(path.read_bytes()))
    names = file.data.dtype.names or ()
    columns = {name: file.data[name] for name in names}
    if "flags" in columns:
        columns["mode"] = columns.pop("flags") & 0x03
    started = getattr(file, "timestamp", None)
    started = started and _to_milliseconds(started)
    number = next((m["data"][0] for m in file.modules if m["shortname"] == b"VMP Set   " and m["data"]), -1)
    return Table(columns, started, {"backend": "galvani", "technique": _TECHNIQUES.get(number, ""), "instrument": "BioLogic"})


def _yadg(path: Path) -> Table:
    from yadg.extractors.eclab import mpr

    logging.getLogger("yadg").setLevel(logging.CRITICAL)
    read = mpr.extract(path, timezone="UTC", locale="en_US", encoding="latin-1")
    data = read.to_dataset() if hasattr(read, "to_dataset") else read
    columns = {}
    for name in map(str, data.data_vars):
        unit = data[name].attrs.get("units")
        if data[name].ndim == 1 and not name.endswith("_uncertainty") and data[name].dtype.kind in "iufb":
            columns[f"{name}/{unit.replace('·', '.')}" if unit else name] = data[name].values
    said = data.attrs.get("original_metadata", {})
    ole = said.get("log", {}).get("ole_timestamp") if "fulldate" not in data.attrs else None
    started = _to_milliseconds(_OLE_ZERO + timedelta(days=float(ole))) if ole and 20000 < float(ole) < 80000 else None
    technique, serial = said.get("settings", {}).get("technique", ""), said.get("log", {}).get("device_sn", "")
    return Table(columns, started, {"backend": "yadg", "technique": str(technique), "instrument": f"BioLogic (SN {serial})"})


_BACKENDS: Mapping[str, Callable[[Path], Table]] = {"galvani": _galvani, "yadg": _yadg}


@dataclass(frozen=True, slots=True)
class Recorded:
    """The columns of a .mpr file that matter, whole and within physical limits."""

    layout: Layout
    elapsed: NDArray[np.float64]
    columns: Mapping[str, NDArray[np.float64]]
    started: datetime | None
    attrs: Mapping[str, str]


def read_binary(path: Path, *, timezone: str, start: Start | None) -> tuple[Log, dict[str, str]]:
    """Rows and attributes of a .mpr file; errors as of `read_columns` and `rows_of`."""
    return rows_of(read_columns(path), path, timezone, start)


def read_columns(path: Path) -> Recorded:
    """What is in a .mpr file, by the first backend whose numbers are whole and within physical limits.

    Raises
    ------
    MissingBackendError
        Neither galvani nor yadg is installed.
    PotentiostatError
        Neither can read it: it is no such file, damaged, or half written.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise PotentiostatError(f"{path}: over {LARGEST_FILE >> 30} GiB: is it a potentiostat's file?")
    reasons: list[str] = []
    absent = 0
    for name, backend in _BACKENDS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _checked(backend(path), path)
        except ImportError:
            absent += 1
        except FileNotFoundError:
            raise
        except PotentiostatError as error:
            reasons.append(f"{name}: {error}")
        except _FAULTS as error:
            reasons.append(f"{name}: {type(error).__name__} {str(error)[:200]}")
    raise _explanation(path, absent, reasons)


def rows_of(recorded: Recorded, path: Path, timezone: str, start: Start | None) -> tuple[Log, dict[str, str]]:
    """Rows and attributes of what was recorded.

    Raises
    ------
    PotentiostatError
        It does not say when it was started, and no ``start`` is given.
    """
    layout, attrs = recorded.layout, dict(recorded.attrs)
    zero = resolve_start(Header(layout, 0, recorded.started), timezone, start, str(path))
    technique = attrs.get("technique", "")
    attrs |= {"column_" + role: name for role, name in layout.names.items()} | {"current": tell_current(layout, technique)}
    attrs |= {"started": recorded.started.isoformat(" ")} if recorded.started else {}
    return Accumulator(str(path), averages(layout, technique)).rows(recorded.elapsed, recorded.columns, zero), attrs


def is_begun(path: Path) -> bool:
    """Whether a file begins as .mpr files do, as far as it is there; a share that lags may show zeros at first."""
    with path.open("rb") as file:
        head = file.read(len(_MAGIC)).rstrip(b"\0")
    return _MAGIC.startswith(head)


def _explanation(path: Path, absent: int, reasons: list[str]) -> PotentiostatError | MissingBackendError:
    if absent == len(_BACKENDS):
        return MissingBackendError(f"{path}: .mpr files need galvani or yadg: pip install 'operandi[potentiostat]', or export it as .mpt")
    said = "; ".join(reasons)
    return PotentiostatError(f"{path}: no reader of .mpr files understands it ({said}): export it as .mpt from EC-Lab")


def _checked(table: Table, path: Path) -> Recorded:
    """The columns that matter, if all their values are within physical limits and the time goes on."""
    layout = assign_columns(list(table.columns), str(path))
    values = list(table.columns.values())
    columns = {role: np.asarray(values[index], np.float64) * scale for role, (index, scale) in layout.places.items()}
    elapsed = columns.pop("time")
    beyond = limits(columns, elapsed)
    beyond += [(int(i) + 1, "the time goes back") for i in np.flatnonzero(np.diff(elapsed) < 0)]
    if beyond:
        raise PotentiostatError(f"row {beyond[0][0]}: {beyond[0][1]}")
    return Recorded(layout, elapsed, columns, table.started, table.attrs)


def _to_milliseconds(moment: datetime) -> datetime:
    """OLE days carry microseconds at best, EC-Lab's text milliseconds: the same start from either."""
    return moment.replace(microsecond=0) + timedelta(milliseconds=round(moment.microsecond / 1000))
