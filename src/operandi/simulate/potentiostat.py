"""The charge of the cell as a function of time, and the log that a BioLogic potentiostat writes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from operandi.errors import PotentiostatError

SET_BOUNDARIES_MAH = (0.0, 6.08, 11.49, 15.36, 18.14, 20.28, 22.21, 23.93, 25.59, 27.28, 28.54)
"""Charge at the boundaries of the ten sets of Lübke et al. (10.1039/D4EE00590B, supporting information)."""
LIMIT_V, REST_V = 4.2, 3.42
ROW_S = 5.0
"""Time between two rows of the log."""
OPEN_ROWS = 60
"""Rows of open circuit before the first image, and after the last."""

_SIMULATED = "simulated by operandi"
_OPEN, _CURRENT, _VOLTAGE = 3, 1, 2


@dataclass(frozen=True, slots=True)
class ChargeCurve:
    """Charge of the cell at increasing times (knot,), seconds after the first image, with a cubic in between.

    ``rate_mah_s`` is its slope at the knots; before the first and after the last knot the circuit is open. ``voltage_v``
    at the knots is interpolated linearly; ``constant_current_s`` is when the voltage limit takes over. ``accident_s`` are the
    start and end of an accidental discharge with its recharge, both at constant current. ``self_discharge_v_h`` is the fall of the
    voltage after the last knot, beside its relaxation.
    """

    elapsed_s: np.ndarray
    charge_mah: np.ndarray
    rate_mah_s: np.ndarray
    voltage_v: np.ndarray
    constant_current_s: float = 0.0
    accident_s: tuple[float, float] | None = None
    self_discharge_v_h: float = 0.0

    def charge(self, elapsed_s: np.ndarray | float) -> np.ndarray:
        """Charge in mAh, at any times."""
        return self._evaluate(elapsed_s, 0)

    def current(self, elapsed_s: np.ndarray | float) -> np.ndarray:
        """Current in mA: the derivative of the charge, nil while the circuit is open."""
        t = np.asarray(elapsed_s, float)
        return np.where((t >= self.elapsed_s[0]) & (t < self.elapsed_s[-1]), 3600 * self._evaluate(t, 1), 0.0)

    def voltage(self, elapsed_s: np.ndarray | float) -> np.ndarray:
        """Voltage of the working electrode in V; it relaxes by 40 mV after the last knot."""
        t = np.asarray(elapsed_s, float)
        after = np.maximum(t - self.elapsed_s[-1], 0)
        relaxed = 0.04 * (1 - np.exp(-after / 240)) + self.self_discharge_v_h * after / 3600
        return np.interp(t, self.elapsed_s, self.voltage_v) - relaxed

    def _evaluate(self, elapsed_s: np.ndarray | float, derivative: int) -> np.ndarray:
        from scipy.interpolate import CubicHermiteSpline

        t = np.clip(np.asarray(elapsed_s, float), self.elapsed_s[0], self.elapsed_s[-1])
        return CubicHermiteSpline(self.elapsed_s, self.charge_mah, self.rate_mah_s)(t, derivative)


def paper_curve(duration_s: float) -> ChargeCurve:
    """The paper's charge, 28.54 mAh in ``duration_s``: constant current for a tenth of it, then constant 4.2 V.

    With ten sets it passes exactly through their boundaries; otherwise it is the same curve, scaled in time.
    """
    from scipy.interpolate import PchipInterpolator

    knots = np.linspace(0, duration_s, len(SET_BOUNDARIES_MAH))
    charge = np.array(SET_BOUNDARIES_MAH)
    rate = np.array(PchipInterpolator(knots, charge)(knots, 1))
    rate[:2] = charge[1] / knots[1]
    rising = np.linspace(0, 1, 25)
    voltage_t = np.concatenate([rising * knots[1], knots[2:]])
    voltage = np.concatenate([3.62 + 0.5 * rising + 0.08 * rising**6, np.full(knots.size - 2, LIMIT_V)])
    dense = np.unique(np.concatenate([voltage_t, knots]))
    curve = ChargeCurve(knots, charge, rate, np.interp(knots, voltage_t, voltage), float(knots[1]))
    # The voltage needs more knots than the charge; at those the cubic reproduces itself.
    return ChargeCurve(
        dense, curve.charge(dense), np.asarray(curve._evaluate(dense, 1)), np.interp(dense, voltage_t, voltage), float(knots[1])
    )


_SWITCH_S = 0.01
"""Time in which the current turns round."""


def discharged_by_accident(curve: ChargeCurve, *, start_s: float, discharge_s: float, current_ma: float) -> ChargeCurve:
    """The same charge with an accidental discharge in its middle, ``discharge_s`` from ``start_s`` on at ``current_ma``.

    As much is recharged at the same current; all that follows comes later by the time of both, so the charge ends later.

    Raises
    ------
    PotentiostatError
        ``start_s`` does not lie within the charge, or the discharge has no length or no current.
    """
    first, last = float(curve.elapsed_s[0]), float(curve.elapsed_s[-1])
    if not (first < start_s < last and discharge_s > 2 * _SWITCH_S and current_ma > 0):
        raise PotentiostatError(
            f"no accident can begin at {start_s:g} s, last {discharge_s:g} s and take {current_ma:g} mA in a charge from {first:g} to "
            f"{last:g} s: place it within, with a length and a current above 0"
        )
    turns = start_s + np.array([0.0, _SWITCH_S, discharge_s, discharge_s + _SWITCH_S])
    rate = np.array([float(curve.current(start_s)), -current_ma, -current_ma, current_ma]) / 3600
    charge = float(curve.charge(start_s)) + np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(turns))])
    # the recharge is as long as it takes, and its current turns into the one that was interrupted
    rest_mah = charge[0] - charge[-1] - 0.5 * (rate[-1] + rate[0]) * _SWITCH_S
    recharged = turns[-1] + rest_mah / rate[-1]
    turns, charge = np.append(turns, [recharged, recharged + _SWITCH_S]), np.append(charge, [charge[-1] + rest_mah, charge[0]])
    rate = np.append(rate, rate[[-1, 0]])
    later = curve.elapsed_s > start_s
    delay = turns[-1] - start_s
    volts = float(curve.voltage(start_s)) - np.array([0.0, 0.06, 0.12, 0.02, 0.0, 0.0])
    limit = curve.constant_current_s
    return replace(
        curve,
        elapsed_s=np.concatenate([curve.elapsed_s[curve.elapsed_s < start_s], turns, curve.elapsed_s[later] + delay]),
        charge_mah=np.concatenate([curve.charge_mah[curve.elapsed_s < start_s], charge, curve.charge_mah[later]]),
        rate_mah_s=np.concatenate([curve.rate_mah_s[curve.elapsed_s < start_s], rate, curve.rate_mah_s[later]]),
        voltage_v=np.concatenate([curve.voltage_v[curve.elapsed_s < start_s], volts, curve.voltage_v[later]]),
        constant_current_s=limit + delay if limit > start_s else limit,
        accident_s=(start_s, float(turns[-1])),
    )


def recorded_curve(elapsed_s: np.ndarray, charge_mah: np.ndarray, voltage_v: np.ndarray, current_ma: np.ndarray) -> ChargeCurve:
    """The charge of a real log (row,): seconds after the first image, mAh, V and mA.

    Raises
    ------
    PotentiostatError
        The arrays differ in length, are shorter than two rows, are not finite, or time does not increase.
    """
    columns = [np.asarray(column, float) for column in (elapsed_s, charge_mah, voltage_v, current_ma)]
    if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1 or columns[0].size < 2:
        raise PotentiostatError(f"time, charge, voltage and current have shapes {[c.shape for c in columns]}: give equal columns of rows")
    if not all(np.isfinite(column).all() for column in columns) or (np.diff(columns[0]) <= 0).any():
        raise PotentiostatError("the log to rehearse with has gaps, or its time does not increase: give clean rows")
    return ChargeCurve(columns[0], columns[1], columns[3] / 3600, columns[2])


class PotentiostatLog:
    """An EC-Lab ASCII log that grows row by row as virtual time advances.

    Time in the log is that of a computer in ``timezone`` whose clock needs ``clock_offset_s`` added, when the log begins, to get the
    beamline's, and ``drift_ppm`` millionths of the time since. ``first_image_s`` is the UTC epoch of the first image, on the beamline's
    clock.

    Raises
    ------
    PotentiostatError
        At ``path`` lies a log that was not simulated.
    """

    def __init__(
        self,
        path: Path,
        curve: ChargeCurve,
        *,
        first_image_s: float,
        timezone: str = "UTC",
        clock_offset_s: float = 0.0,
        drift_ppm: float = 0.0,
        row_s: float = ROW_S,
    ):
        self.path = path
        self._curve = curve
        self._row_s, self._pace = row_s, 1 + 1e-6 * drift_ppm
        self._started_s = first_image_s - OPEN_ROWS * row_s * self._pace
        self._next_row = 0
        _refuse_to_replace(path)
        started = datetime.fromtimestamp(self._started_s - clock_offset_s, UTC).astimezone(ZoneInfo(timezone))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._file.write(header(started).encode("latin-1"))
        self._file.flush()

    def advance(self, now_s: float) -> None:
        """Write the rows up to ``now_s``, UTC epoch on the beamline's clock."""
        last = int(np.floor((now_s - self._started_s) / (self._row_s * self._pace) + 1e-6))
        if last >= self._next_row:
            numbers = np.arange(self._next_row, last + 1)
            self._file.write(rows(self._curve, numbers, self._row_s, self._pace).encode("latin-1"))
            self._file.flush()
            self._next_row = last + 1

    def close(self) -> None:
        """Write no more."""
        self._file.close()


def _refuse_to_replace(path: Path) -> None:
    if path.exists():
        with path.open("rb") as file:
            if _SIMULATED.encode() not in file.read(4096):
                raise PotentiostatError(f"{path} exists and was not simulated: name another potentiostat.file to rehearse with")


def header(started: datetime) -> str:
    """The header of a log whose acquisition started at ``started``, local time, up to the names of the columns."""
    stamp = started.strftime("%m/%d/%Y %H:%M:%S.") + f"{started.microsecond // 1000:03d}"
    settings = [
        "Run on channel : 1 (SN 15265)", "User : ", "Electrode connection : standard", "Potential control : Ewe",
        "Ewe ctrl range : min = 2.50 V, max = 4.50 V", "Ewe,I filtering : 50 kHz", "Safety Limits :", "\tDo not start on E overload",
        "Channel : Floating", f"Acquisition started on : {stamp}", f"Technique started on : {stamp}", "Loaded Setting File :  NONE",
        "Device : SP-300 (SN 1854)", "EC-Lab for windows v11.50 (software)", "Internet server v11.50 (firmware)",
        "Electrode material : silicon-graphite | NMC622", "Initial state : discharged", "Electrolyte : ",
        f"Comments : {_SIMULATED}",
        "Cable : standard", "Electrode surface area : 0.000 cm²", "Characteristic mass : 0.001 g",
        "Cycle Definition : Charge/Discharge alternance",
    ]  # fmt: skip
    table = {
        "Ns": ("0", "1", "2", "3"), "Set I/C": ("I", "I", "I", "I"), "Is": ("0.000", "30.400", "0.000", "0.000"),
        "unit Is": ("mA",) * 4, "EM (V)": ("0.000", "4.200", "4.200", "0.000"),
        "E range min (V)": ("2.500",) * 4, "E range max (V)": ("4.500",) * 4,
    }  # fmt: skip
    body = ["", "Galvanostatic Cycling with Potential Limitation", "", *settings]
    body += [name.ljust(20) + "".join(value.ljust(20) for value in values) for name, values in table.items()]
    body += ["", "\t".join(COLUMNS) + "\t"]
    lines = ["EC-Lab ASCII FILE", f"Nb header lines : {len(body) + 2:<28d}", *body]
    return "\r\n".join(lines) + "\r\n"


COLUMNS = (
    "mode", "ox/red", "error", "control changes", "Ns changes", "counter inc.", "Ns", "time/s", "control/V/mA", "Ewe/V", "<I>/mA",
    "(Q-Qo)/mA.h", "cycle number",
)  # fmt: skip


def rows(curve: ChargeCurve, numbers: np.ndarray, row_s: float = ROW_S, pace: float = 1.0) -> str:
    """Rows of a log, counted from 0, each ``row_s`` after the one before; the first image comes with row ``OPEN_ROWS``.

    One second of the log's clock takes ``pace`` seconds.
    """
    time = np.asarray(numbers, float) * row_s
    elapsed = (np.asarray(numbers, float) - OPEN_ROWS) * row_s * pace
    charge, current, voltage = curve.charge(elapsed), curve.current(elapsed), curve.voltage(elapsed)
    voltage = np.where(elapsed < curve.elapsed_s[0], REST_V, voltage)
    step, mode = _protocol(curve, elapsed)
    changes = np.diff(np.concatenate([[step[0]], step])) != 0
    control = np.where(mode == _VOLTAGE, LIMIT_V, np.where(mode == _CURRENT, current, 0.0))
    return "".join(
        f"{mode[i]}\t{int(current[i] > 0)}\t0\t{int(changes[i])}\t{int(changes[i])}\t0\t{step[i]}\t{time[i]:.15E}\t{control[i]:.7E}\t"
        f"{voltage[i]:.7E}\t{current[i]:.15E}\t{charge[i]:.15E}\t0.000000000000000E+00\r\n"
        for i in range(time.size)
    )


def _protocol(curve: ChargeCurve, elapsed_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Step of the protocol and EC-Lab mode: open circuit, constant current, constant voltage, open circuit.

    An accident happens within its step, at constant current.
    """
    start, limit, stop = curve.elapsed_s[0], curve.constant_current_s, curve.elapsed_s[-1]
    step = np.select([elapsed_s < start, elapsed_s < limit, elapsed_s < stop], [0, 1, 2], 3)
    mode = np.array([_OPEN, _CURRENT, _VOLTAGE, _OPEN])[step]
    if curve.accident_s is not None:
        begin, end = curve.accident_s
        mode = np.where((elapsed_s >= begin) & (elapsed_s < end), _CURRENT, mode)
    return step, mode
