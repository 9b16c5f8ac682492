"""The guardian: what an operator must know at once, told from log rows, exposures and temperatures while they come.

A pure fold, row by row, so the events do not depend on how rows are cut into blocks. What the log alone says (charge, current,
voltage) does not depend on when exposures come, nor the other way round; only the two silences compare streams: a replay gives them in
the order of the data's time. All times are UTC epoch s on the beamline's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import copysign, inf, isfinite, nan
from statistics import median
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operandi.experiment import Guardian
from operandi.stages.charge import Log

_IN_A_ROW = 2
"""Rows or exposures that must agree, where one alone may be a glitch."""
_LEG_REST_S = 60.0
"""After a rest of this length current may flow either way: the next leg of a protocol whose log names no steps."""
_DIRECTION_MAH = 0.005
"""Charge that shows in which direction a leg goes, where the rules name no accident."""
_HELD_S, _HELD_V = 60.0, 0.005
"""A voltage that kept within this band for this time, while current flowed, was held."""
_ENOUGH_FLUX, _FLUX_MEMORY = 10, 101
_BACK = 0.8
"""A condition ends when its value is back below this share of its limit."""
_VOLTAGE_BACK_V, _TEMPERATURE_BACK_C = 0.01, 0.5


@dataclass(frozen=True, slots=True)
class Exposures:
    """Starts of exposures (n,) and the incident flux (n,) in any unit; NaN where there is no monitor."""

    time: NDArray[np.float64]
    monitor: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Temperatures:
    """Temperature of the cell (n,), °C, and when it was read (n,)."""

    time: NDArray[np.float64]
    celsius: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Clock:
    """The wall clock says ``now``; only a live run has one."""

    now: float


@dataclass(frozen=True, slots=True)
class RunOver:
    """No exposure is expected after ``time``."""

    time: float


Observation = Log | Exposures | Temperatures | Clock | RunOver


@dataclass(frozen=True, slots=True)
class Event:
    """A condition begins or ends. ``value`` and ``limit`` have the rule's unit; at its end ``value`` is the worst that was met."""

    time: float
    rule: str
    severity: Literal["alarm", "warning"]
    change: Literal["begins", "ends"]
    message: str
    value: float
    limit: float

    @property
    def said(self) -> str:
        """When, what, and what to do."""
        return f"{_moment(self.time)}: {self.message}"


@dataclass(frozen=True, slots=True)
class _Kind:
    severity: Literal["alarm", "warning"]
    unit: str
    what: str
    remedy: str


_REVERSED = "stop the wrong technique and bring the charge back; frames of this time hold both, see their range of charge"
KINDS: Mapping[str, _Kind] = {
    "accidental_discharge": _Kind("alarm", "mAh", "charge goes back by {value} while the cell should charge", _REVERSED),
    "accidental_charge": _Kind("alarm", "mAh", "charge goes up by {value} while the cell should discharge", _REVERSED),
    "wrong_current": _Kind("alarm", "mA", "current of {value} against the direction expected", "look at the technique that is running"),
    "rest_drop": _Kind("warning", "V", "the resting cell is {value} below its hold", "the cell discharges itself: look for a short"),
    "self_discharge": _Kind("warning", "mV/h", "the resting cell falls by {value}", "hold its voltage, or measure at once"),
    "voltage_low": _Kind("alarm", "V", "voltage of {value}", "stop the discharge, and look at the leads of the cell"),
    "voltage_high": _Kind("alarm", "V", "voltage of {value}", "stop the charge, and look at the leads of the cell"),
    "temperature_low": _Kind("alarm", "°C", "temperature of {value}", "look at the cooling"),
    "temperature_high": _Kind("alarm", "°C", "temperature of {value}", "open the circuit, and look at the cell"),
    "log_silent": _Kind("warning", "s", "no row of the potentiostat's log for {value}", "see whether EC-Lab writes and the share is there"),
    "detector_silent": _Kind("warning", "s", "no exposure for {value}", "look at the plan and the detector"),
    "beam_lost": _Kind("warning", "of its median", "incident flux is {value}", "look at the shutter and the ring; repeat the lines since"),
}  # fmt: skip
"""Severity, unit and text of every rule."""


class _Ongoing(NamedTuple):
    since: float
    worst: float


class _Leg(NamedTuple):
    """Current in one direction (+1 charges, -1 discharges, 0 not known yet): where its charge began and how far it came, mAh."""

    step: int | None = None
    direction: int = 0
    start_mah: float = nan
    furthest_mah: float = nan
    wrong_rows: int = 0
    resting_since: float = nan


class _Rest(NamedTuple):
    """The hold that may precede a rest, the rest, and the mean voltage of its parts as (part, rows, sum of time, sum of voltage)."""

    anchor_time: float = nan
    anchor_v: float = nan
    last_time: float = nan
    last_v: float = nan
    since: float = nan
    hold_v: float = nan
    part: tuple[int, int, float, float] | None = None
    before: tuple[int, float, float] | None = None


class State(NamedTuple):
    """What the guardian remembers; `State()` is the beginning."""

    active: Mapping[str, _Ongoing] = MappingProxyType({})
    leg: _Leg = _Leg()
    rest: _Rest = _Rest()
    flux: tuple[float, ...] = ()
    dim_exposures: int = 0
    log_time: float = -inf
    exposure_first: float = nan
    exposure_time: float = -inf
    clock: float = -inf
    over: bool = False


class _Desk:
    """The conditions that are on, and the events of one call."""

    def __init__(self, active: Mapping[str, _Ongoing]):
        self.active = dict(active)
        self.events: list[Event] = []

    def judge(self, rule: str, time: float, value: float, limit: float, *, met: bool, over: bool, low: bool = False) -> None:
        """Begin the condition where it is met, end it where it is over, and keep the worst value between."""
        ongoing = self.active.get(rule)
        if ongoing is None:
            if met:
                self.active[rule] = _Ongoing(time, value)
                self._tell(rule, time, "begins", value, limit)
        elif over:
            del self.active[rule]
            self._tell(rule, time, "ends", ongoing.worst, limit, ongoing.since)
        elif (value < ongoing.worst) if low else (value > ongoing.worst):
            self.active[rule] = _Ongoing(ongoing.since, value)

    def above(self, rule: str, time: float, value: float, limit: float | None, back: float | None = None) -> None:
        """A condition that is met above ``limit`` and over ``back`` below it; None is a fifth of the limit."""
        if limit is not None and isfinite(value):
            self.judge(rule, time, value, limit, met=value > limit, over=value < (_BACK * limit if back is None else limit - back))

    def below(self, rule: str, time: float, value: float, limit: float | None, back: float) -> None:
        """A condition that is met below ``limit`` and over above ``limit + back``."""
        if limit is not None and isfinite(value):
            self.judge(rule, time, value, limit, met=value < limit, over=value > limit + back, low=True)

    def end(self, rule: str, time: float, limit: float | None) -> None:
        """A condition that cannot go on."""
        if rule in self.active and limit is not None:
            self.judge(rule, time, nan, limit, met=False, over=True)

    def _tell(self, rule: str, time: float, change: Literal["begins", "ends"], value: float, limit: float, since: float = nan) -> None:
        kind = KINDS[rule]
        what = kind.what.format(value=f"{value:.3g} {kind.unit}")
        if change == "begins":
            message = f"{what} (limit {limit:g} {kind.unit}); {kind.remedy}"
        else:
            message = f"over after {time - since:.0f} s: {what} at worst"
        self.events.append(Event(time, rule, kind.severity, change, message, value, limit))


def _moment(time: float) -> str:
    known = 0 <= time < 253402300800  # the year 10000, where datetime ends
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC" if known else f"{time:g} s"


def watch(state: State, observation: Observation, rules: Guardian) -> tuple[State, list[Event]]:
    """Fold one observation into the state, and say which conditions began and ended, in order.

    Rows of a log that is given again (older than the newest) are left out: they were told. A late log is judged when it comes, its
    events at its own times.

    Parameters
    ----------
    observation
        Any number of rows of the log, of exposures or of temperatures, each in the order of time; the wall clock; the end of the run.
    """
    desk = _Desk(state.active)
    match observation:
        case Log():
            columns = (observation.time, observation.voltage, observation.current, observation.charge, observation.step)
            for row in zip(*(column.tolist() for column in columns), strict=True):
                state = _take_row(state, row, rules, desk)
        case Exposures():
            for time, monitor in zip(observation.time.tolist(), observation.monitor.tolist(), strict=True):
                state = _take_exposure(state, time, monitor, rules, desk)
        case Temperatures():
            for time, celsius in zip(observation.time.tolist(), observation.celsius.tolist(), strict=True):
                desk.below("temperature_low", time, celsius, rules.temperature_min_c, _TEMPERATURE_BACK_C)
                desk.above("temperature_high", time, celsius, rules.temperature_max_c, _TEMPERATURE_BACK_C)
        case Clock():
            state = state._replace(clock=max(state.clock, observation.now))
            _judge_silence(state, state.clock, rules, desk)
        case RunOver():
            desk.end("detector_silent", observation.time, rules.detector_silent_s)
            desk.end("log_silent", observation.time, rules.log_silent_s)
            state = state._replace(over=True)
    return state._replace(active=desk.active), desk.events


def _take_row(state: State, row: tuple[float, float, float, float, int], rules: Guardian, desk: _Desk) -> State:
    time, voltage, current, charge, step = row
    if not time >= state.log_time:
        return state
    current = current if isfinite(current) else 0.0  # an open circuit's current is often not recorded
    state = state._replace(
        log_time=time,
        leg=_follow_leg(state.leg, time, current, charge, step, rules, desk),
        rest=_follow_rest(state.rest, time, voltage, current, rules, desk),
    )
    desk.below("voltage_low", time, voltage, rules.voltage_min_v, _VOLTAGE_BACK_V)
    desk.above("voltage_high", time, voltage, rules.voltage_max_v, _VOLTAGE_BACK_V)
    _judge_silence(state, time, rules, desk)
    return state


def _take_exposure(state: State, time: float, monitor: float, rules: Guardian, desk: _Desk) -> State:
    if not isfinite(time):
        return state
    first = state.exposure_first if isfinite(state.exposure_first) else time
    state = state._replace(exposure_first=first, exposure_time=max(state.exposure_time, time))
    _judge_silence(state, time, rules, desk)
    return _judge_flux(state, time, monitor, rules, desk)


def _judge_silence(state: State, time: float, rules: Guardian, desk: _Desk) -> None:
    """What came last of each stream, against the newest of all; nothing is missed before the first exposure or after the run."""
    if state.over or not isfinite(state.exposure_first):
        return
    log_time = max(state.log_time, state.exposure_first) if isfinite(state.log_time) else state.exposure_first
    desk.above("log_silent", time, max(state.exposure_time, state.clock) - log_time, rules.log_silent_s)
    desk.above("detector_silent", time, max(state.log_time, state.clock) - state.exposure_time, rules.detector_silent_s)


def _judge_flux(state: State, time: float, monitor: float, rules: Guardian, desk: _Desk) -> State:
    if rules.beam_fraction is None or not isfinite(monitor):
        return state
    usual = median(state.flux) if len(state.flux) >= _ENOUGH_FLUX else nan
    share = monitor / usual if isfinite(usual) else 1.0
    if share < rules.beam_fraction:
        dim = state.dim_exposures + 1
        desk.judge("beam_lost", time, share, rules.beam_fraction, met=dim >= _IN_A_ROW, over=False, low=True)
        return state._replace(dim_exposures=dim)
    back = min(1.2 * rules.beam_fraction, 0.5 * (1 + rules.beam_fraction))
    desk.judge("beam_lost", time, share, rules.beam_fraction, met=False, over=share >= back, low=True)
    # a lost beam must not become the usual one
    flux = (*state.flux, monitor)[-_FLUX_MEMORY:] if monitor > 0 else state.flux
    return state._replace(flux=flux, dim_exposures=0)


def _follow_leg(leg: _Leg, time: float, current: float, charge: float, step: int, rules: Guardian, desk: _Desk) -> _Leg:
    """The leg with one more row, and whether charge or current go against it."""
    if rules.expected == "any":
        return leg
    resting = abs(current) < rules.rest_ma
    rested = not resting and time - leg.resting_since >= _LEG_REST_S
    if rules.expected == "protocol" and (step != leg.step or rested):
        for rule in ("accidental_discharge", "accidental_charge"):
            desk.end(rule, time, rules.accident_mah)
        desk.end("wrong_current", time, rules.wrong_current_ma)
        leg = _Leg(step=step)
    since = nan if not resting else leg.resting_since if isfinite(leg.resting_since) else time
    leg = _with_charge(leg._replace(resting_since=since), charge, rules)
    if leg.direction == 0:
        return leg
    name = "accidental_discharge" if leg.direction > 0 else "accidental_charge"
    desk.above(name, time, leg.direction * (leg.furthest_mah - charge), rules.accident_mah)
    if rules.wrong_current_ma is None:
        return leg
    against = -leg.direction * current
    rows = leg.wrong_rows + 1 if against > rules.wrong_current_ma else 0
    limit = rules.wrong_current_ma
    desk.judge("wrong_current", time, against, limit, met=rows >= _IN_A_ROW, over=against < _BACK * limit)
    return leg._replace(wrong_rows=rows)


def _with_charge(leg: _Leg, charge: float, rules: Guardian) -> _Leg:
    """The leg's direction, as soon as it is known, and the furthest charge along it."""
    direction = {"charge": 1, "discharge": -1}.get(rules.expected, leg.direction)
    if not isfinite(charge):
        return leg._replace(direction=direction)
    start = leg.start_mah if isfinite(leg.start_mah) else charge
    if direction == 0 and abs(charge - start) > (rules.accident_mah or _DIRECTION_MAH):
        direction = int(copysign(1, charge - start))
    furthest = charge if direction == 0 or not isfinite(leg.furthest_mah) else leg.furthest_mah
    furthest = direction * max(direction * furthest, direction * charge) if direction else charge
    return leg._replace(direction=direction, start_mah=start, furthest_mah=furthest)


def _follow_rest(rest: _Rest, time: float, voltage: float, current: float, rules: Guardian, desk: _Desk) -> _Rest:
    """The hold or the rest with one more row, and whether the voltage falls more than it may."""
    if not isfinite(voltage):
        return rest
    if abs(current) >= rules.rest_ma:
        desk.end("rest_drop", time, rules.rest_drop_v)
        desk.end("self_discharge", time, rules.self_discharge_mv_h)
        kept = abs(voltage - rest.anchor_v) <= _HELD_V
        anchor = (rest.anchor_time, rest.anchor_v) if kept else (time, voltage)
        return _Rest(*anchor, last_time=time, last_v=voltage)
    if not isfinite(rest.last_time):
        return rest  # no current has flowed yet
    if not isfinite(rest.since):
        held = rest.last_time - rest.anchor_time >= _HELD_S
        rest = rest._replace(since=time, hold_v=rest.last_v if held else nan)
    desk.above("rest_drop", time, rest.hold_v - voltage, rules.rest_drop_v)
    return _follow_rate(rest, time, voltage, rules, desk)


def _follow_rate(rest: _Rest, time: float, voltage: float, rules: Guardian, desk: _Desk) -> _Rest:
    """Means of the voltage over parts of the rest; the rate between two that follow each other is judged when the later is whole."""
    number = int((time - rest.since - rules.relaxation_s) // rules.self_discharge_window_s)
    if number < 0:
        return rest
    if rest.part is None or rest.part[0] == number:
        _, rows, times, volts = rest.part or (number, 0, 0.0, 0.0)
        return rest._replace(part=(number, rows + 1, times + (time - rest.since), volts + voltage))
    whole, rows, times, volts = rest.part
    mean = (whole, times / rows, volts / rows)
    if rest.before is not None and rest.before[0] == whole - 1:
        fall = 3.6e6 * (rest.before[2] - mean[2]) / (mean[1] - rest.before[1])
        desk.above("self_discharge", time, fall, rules.self_discharge_mv_h)
    return rest._replace(part=(number, 1, time - rest.since, voltage), before=mean)
