"""The guardian of one run: what it watches as it comes, and the rows of ``events`` that it makes.

Four watches that share nothing: over the log, by the potentiostat's own time, so that it makes no difference when the offset of its clock
is found; over the flux, by the time of the exposures; over temperature, by the time of its readings; and over silence. Silence is, live,
that nothing came to this worker: neither a lagging share nor a simulation that runs faster than time looks like it. In replay there is no
such time: the data's own tells, at the end.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from operandi.errors import ShapeError
from operandi.experiment import Experiment
from operandi.nodes import EVENT_COLUMNS, EVENTS, Rows, typed
from operandi.stages.charge import Log
from operandi.stages.clocks import ClockOffset
from operandi.stages.guardian import Clock, Event, Exposures, Observation, RunOver, State, Temperatures, watch

LEAD_S = 600.0
"""Of what happened before the first exposure, this much is told: a log may hold the days before the run."""
_APART_S = 1e-6
_ZERO_C = {"": 0.0, "c": 0.0, "degc": 0.0, "celsius": 0.0, "k": 273.15, "kelvin": 273.15}
"""0 °C in each unit of temperature, written small, without blanks and degree signs."""


class Watch:
    """Watches one run; every method gives the events that are to be told now. ``now`` is the wall clock, UTC epoch s.

    ``live``: the run is under way; else it is replayed.
    """

    def __init__(self, experiment: Experiment, *, live: bool) -> None:
        silence = experiment.guardian
        if experiment.potentiostat is None:
            silence = silence.model_copy(update={"log_silent_s": None})
        self._silence_rules = silence
        self._rules = silence.model_copy(update={"log_silent_s": None, "detector_silent_s": None})
        self._live = live
        self._log, self._flux, self._heat, self._silence = State(), State(), State(), State()
        self._past: list[Event] | None = []
        self._first = np.nan
        self._times: list[np.ndarray] = []
        self._told = 0.0
        self.on: dict[str, Event] = {}
        """The conditions that go on, by their rule."""

    def rows(self, rows: Log, clock: ClockOffset, now: float) -> list[Event]:
        """New rows of the log, in potentiostat time."""
        if not len(rows):
            return []
        self._log, events = watch(self._log, rows, self._rules)
        events = [_on_beamline(event, clock) for event in events]
        if self._past is not None:
            self._past += events
            events = []
        if self._live:
            events += self._came(_silent_rows(np.array([now])))
        return self._noted(events)

    def exposures(self, time: np.ndarray, monitor: np.ndarray, now: float) -> list[Event]:
        """New exposures: their starts (n,) and the flux (n,)."""
        events = []
        if not np.isfinite(self._first):
            self._first = float(time[0])
            events = [event for event in self._past or [] if not event.time < self._first - LEAD_S]
        self._past = None
        self._flux, lost = watch(self._flux, Exposures(time, monitor), self._rules)
        events += lost
        if self._live:
            events += self._came(Exposures(np.array([now]), np.array([np.nan])))
        else:
            self._times.append(time)
        return self._noted(events)

    def temperatures(self, time: np.ndarray, values: np.ndarray, unit: str) -> list[Event]:
        """New readings of temperature (n,), and when they were read (n,), beamline time.

        Raises
        ------
        ShapeError
            The unit is neither °C nor K.
        """
        plain = unit.lower().replace(" ", "").replace("°", "").replace("_", "").replace("degrees", "").replace("degree", "")
        if plain not in _ZERO_C:
            raise ShapeError(
                f"{self._rules.temperature_key} has the unit {unit!r}: the guardian knows °C and K; give a data key in one of them"
            )
        known = np.isfinite(values)
        self._heat, events = watch(self._heat, Temperatures(time[known], values[known] - _ZERO_C[plain]), self._rules)
        return self._noted(events)

    def idle(self, now: float) -> list[Event]:
        """Nothing came, and nothing waits to be taken."""
        return self._noted(self._came(Clock(now))) if self._live else []

    def over(self, now: float) -> list[Event]:
        """The run is over: no exposure is missed any more."""
        events, self._past = self._past or [], None
        return self._noted(events + (self._came(RunOver(now)) if self._live else []))

    def silences(self, log_time: np.ndarray) -> list[Event]:
        """The silences of a run that was replayed and is over, by its log (row,) in beamline time; live they were told before."""
        exposed = np.sort(np.concatenate([np.empty(0), *self._times]))
        exposed = exposed[np.isfinite(exposed)]
        if not len(exposed):
            return []
        rows = log_time[(log_time >= exposed[0]) & (log_time <= exposed[-1])]
        time, is_row = np.concatenate([exposed, rows]), np.arange(len(exposed) + len(rows)) >= len(exposed)
        order = np.argsort(time, kind="stable")
        time, is_row = time[order], is_row[order]
        edges = [0, *(np.flatnonzero(np.diff(is_row)) + 1).tolist(), len(time)]
        events: list[Event] = []
        for first, stop in zip(edges[:-1], edges[1:], strict=True):
            part = time[first:stop]
            events += self._came(_silent_rows(part) if is_row[first] else Exposures(part, np.full(len(part), np.nan)))
        return self._noted(events + self._came(RunOver(float(exposed[-1]))))

    def table_rows(self, events: list[Event], now: float) -> Rows:
        """The rows of ``events`` in the result, each told at a moment of its own."""
        begun = max(now, self._told + _APART_S)
        told = begun + _APART_S * np.arange(len(events))
        self._told = float(told[-1])
        columns = {"told": told} | {name: [getattr(event, name) for event in events] for name in EVENT_COLUMNS if name != "told"}
        return Rows(EVENTS, typed(EVENT_COLUMNS, columns))

    def _came(self, observation: Observation) -> list[Event]:
        self._silence, events = watch(self._silence, observation, self._silence_rules)
        return events

    def _noted(self, events: list[Event]) -> list[Event]:
        for event in events:
            if event.change == "begins":
                self.on[event.rule] = event
            else:
                self.on.pop(event.rule, None)
        return events


def summary(events: Iterable[Event]) -> str:
    """The conditions that go on, in one line."""
    return "; ".join(event.said for event in events)


def _silent_rows(time: np.ndarray) -> Log:
    """Rows that say nothing but when they came."""
    nothing, number = np.full(len(time), np.nan), np.zeros(len(time), np.int64)
    return Log(time, nothing, nothing, nothing, number, number)


def _on_beamline(event: Event, clock: ClockOffset) -> Event:
    if clock.reason:
        return replace(event, message=f"{event.message} (time by the potentiostat's clock)")
    return replace(event, time=float(clock.to_beamline(event.time)))
