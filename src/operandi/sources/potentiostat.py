"""Read a potentiostat's log: one Dataset whatever the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from operandi.errors import PotentiostatError
from operandi.sources.follow import Follower, NewRows, TextLog
from operandi.sources.log_binaries import read_binary
from operandi.sources.log_columns import MEAN_CURRENT, tell_current
from operandi.sources.log_headers import Start
from operandi.stages.charge import Log, increments

__all__ = ["Follower", "NewRows", "integrated_charge", "join_techniques", "read_potentiostat", "to_dataset", "to_log"]

UNITS = {"voltage": "V", "current": "mA", "charge": "mAh", "step": "1", "cycle": "1"}


def read_potentiostat(
    path: str | Path,
    *,
    timezone: str = "UTC",
    start: Start | None = None,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Read a potentiostat's log.

    Parameters
    ----------
    path
        BioLogic .mpt or .mpr, or a table (.csv, .txt, .tsv) with a line of column names.
    timezone
        Time zone of the computer that wrote it.
    start
        When the file's clock stood at 0, for a file that does not say it (or says it wrongly): UTC epoch seconds, or a date, local to
        ``timezone`` unless it states its offset. A file whose column of time is absolute needs none.
    columns, units
        For tables: role → header of its column, role → its unit; roles are time, voltage, current, charge, step, cycle. Headers such
        as ``Ewe/V`` or ``voltage (mV)`` need neither; without any unit numbers are in the units of the result.

    Returns
    -------
    xarray.Dataset
        Over ``time`` (potentiostat time, UTC epoch s): ``voltage`` V, ``current`` mA, ``charge`` mAh (signed, from the start, restarts
        of the file's counters undone), ``step`` and ``cycle``. NaN: not recorded.

    Raises
    ------
    PotentiostatError
        The file cannot be read or its numbers not be trusted.
    MissingBackendError
        A .mpr file where neither galvani nor yadg is installed.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".mpr":
            log, attrs = read_binary(path, timezone=timezone, start=start)
        else:
            log, attrs = _read_text(path, timezone, start, columns, units)
    except OSError as error:
        raise PotentiostatError(f"{path}: cannot be read: {error.strerror or error}: is the path right, and the share mounted?") from error
    if not len(log):
        raise PotentiostatError(f"{path}: has no row (yet): wait for the first, or give the right file")
    return to_dataset(log, {"file": str(path), "timezone": timezone, **attrs})


def _read_text(path: Path, timezone: str, start: Start | None, columns, units) -> tuple[Log, dict[str, str]]:
    text = TextLog(path, timezone, start, columns, units)
    with path.open("rb") as file:
        log = text.read(file, final=True)
    if text.refused:
        more = f" ({text.refused - 1} more such lines)" if text.refused > 1 else ""
        raise PotentiostatError(f"{text.reasons[0]}{more}: repair or export the file again")
    if text.header is None:
        return log, {}
    layout, attrs = text.header.layout, dict(text.header.attrs)
    attrs["current"] = tell_current(layout, attrs.get("technique", ""))
    return log, attrs | {"column_" + role: name for role, name in layout.names.items()}


def join_techniques(datasets: Iterable[xr.Dataset]) -> xr.Dataset:
    """One log of linked techniques, of which each wrote a file of its own (01_OCV, 02_GCPL …), in the order of their time.

    Each technique's charge goes on where the one before it ended; ``step`` counts on, so that no two techniques share one.

    Raises
    ------
    PotentiostatError
        There is none, or two overlap in time: they are no linked techniques of one channel.
    """
    parts = sorted((part for part in datasets if part.sizes["time"]), key=lambda part: float(part["time"][0]))
    if not parts:
        raise PotentiostatError("no log to join: give the Datasets of at least one file")
    logs: list[Log] = []
    charge, step = 0.0, 0
    for part in parts:
        rows = to_log(part)
        if logs and rows.time[0] < logs[-1].time[-1]:
            raise PotentiostatError(
                f"{part.attrs.get('file', 'a log')}: begins before the one before it ends: join one channel's techniques"
            )
        logs.append(replace(rows, charge=rows.charge + charge, step=rows.step + step))
        known = logs[-1].charge[np.isfinite(logs[-1].charge)]
        charge, step = float(known[-1]) if len(known) else charge, int(logs[-1].step.max()) + 1
    attrs = {
        name: ", ".join(dict.fromkeys(str(part.attrs.get(name, "")) for part in parts))
        for name in ("file", "technique", "instrument", "current")
    }
    return to_dataset(Log.joined(logs), {"timezone": str(parts[0].attrs.get("timezone", "UTC")), **attrs})


def to_dataset(log: Log, attrs: Mapping[str, str] | None = None) -> xr.Dataset:
    """The rows of a log as the Dataset that `read_potentiostat` gives."""
    time = xr.Variable("time", log.time, {"units": "s", "long_name": "UTC seconds since 1970"})
    data = {name: xr.Variable("time", getattr(log, name), {"units": unit}) for name, unit in UNITS.items()}
    return xr.Dataset(data, {"time": time}, {"technique": "", "instrument": "", "units": "V, mA, mAh, s", **(attrs or {})})


def to_log(dataset: xr.Dataset, *, clock_offset_s: float = 0.0) -> Log:
    """The rows of such a Dataset, in beamline time."""
    return Log(dataset["time"].values + clock_offset_s, *(dataset[name].values for name in UNITS))


def integrated_charge(dataset: xr.Dataset) -> xr.DataArray:
    """The charge by the current alone, mAh from the first row: what the file's own counter can be checked against.

    Current that is NaN counts as none. Impedance rows do not agree with the counter: their current is the sample or the mean of an
    oscillation for a part of the time only.
    """
    time, current = dataset["time"].values, np.nan_to_num(dataset["current"].values)
    changed = np.diff(dataset["step"].values) != 0
    passed = increments(time, current, changed, averaged=dataset.attrs.get("current") == MEAN_CURRENT)
    return dataset["charge"].copy(data=np.concatenate([np.zeros(min(len(time), 1)), np.cumsum(passed)]))
