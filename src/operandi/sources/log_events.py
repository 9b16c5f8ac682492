"""A potentiostat that bluesky reads: the events of a stream as rows of a log."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from operandi.errors import PotentiostatError
from operandi.sources.follow import NewRows
from operandi.sources.log_columns import Accumulator, limits, scale_of
from operandi.stages.charge import Log
from operandi.stages.protocols import StepFinder

ROLES = ("voltage", "current", "charge", "step", "cycle")


class EventLog:
    """Makes rows of a log from events as they come; how many come at once makes no difference.

    Parameters
    ----------
    units
        Role → unit of its readings, for each role that the stream has: voltage (V, mV), current (A, mA, uA, nA; positive charges the
        cell), charge (mAh, Ah, uAh, C, mC), step and cycle (""). A voltage and one of current or charge must be there. Without a charge
        the current is integrated; steps and cycles that are not there are recognised.
    where
        What messages call the stream.
    rest_ma
        Currents up to this are none: the noise of the reading.
    """

    def __init__(self, units: Mapping[str, str], *, where: str = "the potentiostat's stream", rest_ma: float = 1e-3):
        unknown = sorted(set(units) - set(ROLES))
        if unknown or "voltage" not in units or not {"current", "charge"} & set(units):
            said = f"it has {', '.join(sorted(units)) or 'none'}"
            raise PotentiostatError(f"{where}: declare voltage, and current or charge, of {', '.join(ROLES)}: {said}")
        self._where = where
        self._scales = {role: scale_of(role, role, unit or None, where) for role, unit in units.items()}
        self._rows = Accumulator(where, found=StepFinder(rest_ma))
        self.refused = 0
        """Events that were no rows."""
        self.reasons: list[str] = []
        """Why, for the first hundred."""

    def add(self, times: ArrayLike, columns: Mapping[str, ArrayLike]) -> NewRows | None:
        """Take events in the order in which they came; None where none of them is a row.

        Parameters
        ----------
        times
            UTC epoch s (event,), by the clock of the beamline.
        columns
            Role → its readings (event,); NaN: not read.

        Raises
        ------
        PotentiostatError
            Columns other than those declared, or of another length than the times.
        """
        time = np.atleast_1d(np.asarray(times, np.float64))
        values = {role: np.atleast_1d(np.asarray(column, np.float64)) for role, column in columns.items()}
        if set(values) != set(self._scales) or any(column.shape != time.shape or time.ndim != 1 for column in values.values()):
            shapes = {"times": time.shape} | {role: column.shape for role, column in values.items()}
            raise PotentiostatError(f"{self._where}: give one reading of {', '.join(self._scales)} for each time, not {shapes}")
        values = {role: column * self._scales[role] for role, column in values.items()}
        keep = self._kept(time, values)
        rows = self._rows.rows(time[keep], {role: column[keep] for role, column in values.items()}, 0.0)
        return NewRows(rows) if len(rows) else None

    def _kept(self, time: NDArray[np.float64], values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
        """Events within physical limits that are not before the one that came before them."""
        keep = np.ones(len(time), bool)
        for i, reason in limits(values, time):
            self._refuse(keep, i, time[i], reason)
        latest = np.maximum.accumulate(np.concatenate([[self._rows.last.get("elapsed", -np.inf)], np.where(keep, time, -np.inf)]))
        for i in np.flatnonzero(keep & (time < latest[:-1])).tolist():
            self._refuse(keep, i, time[i], f"is before {latest[i]:.3f} s, which came earlier")
        return keep

    def _refuse(self, keep: NDArray[np.bool_], i: int, time: float, reason: str) -> None:
        self.refused += bool(keep[i])
        keep[i] = False
        if len(self.reasons) < 100:
            self.reasons.append(f"{self._where}, event at {time:.3f} s: {reason}")


def log_of_events(times: ArrayLike, columns: Mapping[str, ArrayLike], units: Mapping[str, str], *, rest_ma: float = 1e-3) -> Log:
    """The rows of a stream whose events are all there; parameters and errors as of `EventLog`.

    `operandi.sources.potentiostat.to_dataset` makes the same Dataset of it that a file gives.

    Raises
    ------
    PotentiostatError
        An event is no row: its reading is beyond physical limits, or its time before that of another.
    """
    events = EventLog(units, rest_ma=rest_ma)
    news = events.add(times, columns)
    if events.refused:
        raise PotentiostatError(
            f"{events.reasons[0]} ({events.refused} such events): check the units, or use EventLog, which leaves them out"
        )
    return news.rows if news else Log.empty()
