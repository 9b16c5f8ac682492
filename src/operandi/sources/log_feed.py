"""The potentiostat's log of a run as events for the pipeline: from a file or a stream, on the clock of the beamline once that is known."""

import logging
import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from operandi.errors import MissingBackendError, PotentiostatError
from operandi.experiment import Experiment, Potentiostat
from operandi.pipeline import ClockTold, Event, LogRows
from operandi.sources.follow import Follower, NewRows
from operandi.sources.log_events import ROLES, EventLog
from operandi.sources.signals import Signal, Signals
from operandi.stages.charge import Log
from operandi.stages.clocks import ClockOffset, find_offset, marked_offset, unknown

log = logging.getLogger(__name__)

POLL_S, DAMAGED_POLL_S = 0.5, 10.0
CUT_S = 60.0
"""A match takes the log up to a whole multiple of this from its begin, so that it does not depend on how far the log goes on."""
_COUNTED = ("step", "cycle")


def signals_of(experiment: Experiment, *, patience_s: float = 0.0) -> list[Signals]:
    """What of a run's streams the potentiostat's section and the guardian's ask for."""
    rules, scan = experiment.guardian, experiment.scan
    found = _log_signals(experiment, patience_s)
    if rules.temperature_key is not None:
        stream = rules.temperature_stream or scan.stream
        time_key = scan.keys.time if stream == scan.stream else None
        found.append(Signals("temperature", stream, {"reading": rules.temperature_key}, time_key=time_key, patience_s=patience_s))
    return found


def _log_signals(experiment: Experiment, patience_s: float) -> list[Signals]:
    given, scan = experiment.potentiostat, experiment.scan
    if given is None:
        return []
    if given.stream is not None:
        keys = {role: key for role in ROLES if (key := getattr(given.keys, role)) is not None}
        return [Signals("log", given.stream, keys, time_key=given.keys.time, patience_s=patience_s)]
    if given.clock_key is None or not isinstance(given.clock_offset_s, str):
        return []
    stream = given.clock_stream or scan.stream
    time_key = given.clock_time_key or (scan.keys.time if stream == scan.stream else None)
    return [Signals("clock", stream, {"reading": given.clock_key}, time_key=time_key, patience_s=patience_s)]


def _follower(file: Path, given: Potentiostat) -> Follower:
    columns, units = ({str(role): text for role, text in declared.items()} or None for declared in (given.columns, given.units))
    return Follower(file, timezone=given.timezone, start=given.start, columns=columns, units=units)


class LogFeed:
    """The log of one run; a file is polled no more often than every `POLL_S`.

    A log that is damaged costs a warning, and the charge while it is: it is read anew when it is well again. Live and replay agree on
    the offset that is found: a marker tells it by the first rows that show the current, a match by the log up to the last reading of
    the run, however far the log goes on.
    """

    def __init__(self, experiment: Experiment) -> None:
        given = self._given = experiment.potentiostat
        self._make = None if given is None or given.file is None else partial(_follower, given.file, given)
        self._follower = self._make() if self._make else None
        self._events: EventLog | None = None
        self._readings, self._streamed = list[Signal](), list[Log]()
        self._held, self._fresh = Log.empty(), list[Log]()
        self._replaced, self._anew, self._run_over = False, False, False
        self._next = 0.0
        self.fault = ""
        """What is wrong with the log now."""
        self.clock = self._first_clock()
        self._unsettled, self._untold = True, given is not None

    @property
    def grows(self) -> bool:
        """Whether rows may still come after the run: not where the run itself brings them."""
        return self._follower is not None

    def poll(self, *, final: bool = False) -> list[Event]:
        """What the log has gained; ``final``: nothing more will come."""
        if time.monotonic() < self._next and not final:
            return []
        self._next = time.monotonic() + POLL_S
        if self._follower is None:
            rows, self._streamed = Log.joined(self._streamed), []
            return self._grown(NewRows(rows) if len(rows) else None, final=final)
        try:
            news = self._follower.poll(final=final)
        except (PotentiostatError, MissingBackendError) as error:
            self._damaged(str(error))
            return self._grown(None, final=final)
        if news is not None:
            self.fault = ""
            news, self._anew = replace(news, restarted=news.restarted or self._anew), False
        return self._grown(news, final=final)

    def take(self, signal: Signal) -> None:
        """A reading of the run, rows of the log or what tells its clock, for the next poll: many small ones cost too much one by one."""
        if signal.fault:
            self._warn_once(signal.fault)
        elif signal.purpose == "clock":
            self._readings.append(signal)
            self._unsettled = True
        else:
            try:
                news = self._event_log(signal).add(signal.time, signal.columns)
            except PotentiostatError as error:
                self._warn_once(str(error))
                return
            self._streamed += [] if news is None else [news.rows]

    def run_over(self) -> None:
        """No reading of the run comes any more."""
        self._run_over = self._unsettled = True

    def take_fresh(self) -> Log:
        """The rows that came since this was last asked, in potentiostat time; in what order logs were replaced does not show."""
        fresh, self._fresh = Log.joined(self._fresh), []
        return fresh

    def _damaged(self, what: str) -> None:
        self._warn_once(what)
        assert self._make is not None
        # what it had read but not given is lost with it, so all of it is read again
        self._follower, self._anew = self._make(), True
        self._next = time.monotonic() + DAMAGED_POLL_S

    def _warn_once(self, what: str) -> None:
        if not self.fault:
            log.warning("the potentiostat's log cannot be read, and the run goes on without charge: %s", what)
        self.fault = what

    def _event_log(self, signal: Signal) -> EventLog:
        assert self._given is not None
        if self._events is None:
            declared = {str(role): unit for role, unit in self._given.units.items()}
            units = {role: "" if role in _COUNTED else declared.get(role) or signal.units.get(role, "") for role in signal.columns}
            if lacking := [role for role, unit in units.items() if not unit and role not in _COUNTED]:
                raise PotentiostatError(
                    f"stream {self._given.stream}: the data key of {lacking[0]} states no unit: give it in potentiostat.units, and replay"
                )
            self._events = EventLog(units, where=f"stream {self._given.stream}", rest_ma=self._given.rest_ma)
        return self._events

    def _grown(self, news: NewRows | None, *, final: bool = False) -> list[Event]:
        if news is not None:
            self._fresh.append(news.rows)
            self._held = news.onto(self._held)
            self._unsettled = True
            if news.restarted:
                self._replaced, self.clock = True, self._first_clock()
        events: list[Event] = []
        if self.clock.reason and (self._unsettled or final):
            self._settle(final=final)
        if self._untold:
            self._untold = False
            events.append(ClockTold(self.clock))
        if not self.clock.reason and (len(self._held) or self._replaced):
            events.append(LogRows(replace(self._held, time=self.clock.to_beamline(self._held.time)), self._replaced))
            self._held, self._replaced = Log.empty(), False
        return events

    # The clock

    def _first_clock(self) -> ClockOffset:
        offset = self._given.clock_offset_s if self._given is not None else 0.0
        return unknown("it is still to be found") if isinstance(offset, str) else ClockOffset(offset, math.nan, 0.0)

    def _settle(self, *, final: bool) -> None:
        """Find the offset, as far as it can be known now."""
        assert self._given is not None
        self._unsettled = False
        time_s = np.concatenate([np.empty(0), *(signal.time for signal in self._readings)])
        values = np.concatenate([np.empty(0), *(signal.columns["reading"] for signal in self._readings)])
        self._readings = [Signal("clock", time_s, {"reading": values})]
        find = _by_marker if self._given.clock_offset_s == "marker" else _by_match
        found = find(self._given, self._held, time_s, values, over=self._run_over, final=final)
        if not found.reason and abs(found.offset_s) > self._given.clock_search_s:
            found = unknown(f"an offset of {found.offset_s:.0f} s is beyond clock_search_s: look at timezone, or give the right log")
        if found.reason != self.clock.reason or not found.reason:
            self.clock, self._untold = found, True


def _by_marker(given: Potentiostat, held: Log, time_s: np.ndarray, values: np.ndarray, *, over: bool, final: bool) -> ClockOffset:
    above = values > given.marker_level
    if not above.any():
        return unknown(f"{given.clock_key} has not been above marker_level, {given.marker_level:g} (yet)")
    if above[0]:
        return unknown(f"{given.clock_key} was above marker_level, {given.marker_level:g}, from the first reading on")
    start_s = float(time_s[np.argmax(above)])
    started = marked_offset(held.time, held.current, start_s, rest_ma=given.rest_ma)
    falls = np.flatnonzero(above[:-1] & ~above[1:])
    if started.reason or not given.marker_falls:
        return started
    if not over:
        return unknown("marker_falls is set, so it is found at the run's end")
    if not len(falls):
        return started
    stop_s = float(time_s[falls[-1] + 1])
    last = stop_s - started.offset_s + CUT_S
    if held.time[-1] < last and not final:
        return unknown("the log does not reach the end of the marker yet")
    rows = held.part(-np.inf, last)
    return marked_offset(rows.time, rows.current, start_s, stop_s=stop_s, rest_ma=given.rest_ma)


def _by_match(given: Potentiostat, held: Log, time_s: np.ndarray, values: np.ndarray, *, over: bool, final: bool) -> ClockOffset:
    """The offset by the shortest log, of whole `CUT_S` from its begin, that reaches the last reading; by all of it where none does."""
    if not over:
        return unknown("it is found at the run's end, from all readings")

    def by(rows: Log) -> ClockOffset:
        return find_offset(rows.time, getattr(rows, str(given.clock_offset_s)), time_s, values, search_s=given.clock_search_s)

    whole = by(held)
    if whole.reason:
        return whole
    begun, last = float(held.time[0]), float(time_s.max())
    # two cuts early, for a shorter log says a slightly different offset
    number = max(int((last - whole.offset_s - begun) // CUT_S) - 2, 1)
    while begun + number * CUT_S <= held.time[-1]:
        rows = held.part(-np.inf, begun + number * CUT_S)
        found = by(rows)
        if not found.reason and found.to_beamline(rows.time[-1]) >= last:
            return found
        number += 1
    return whole if final else unknown("the log does not reach the last reading of the run yet")
