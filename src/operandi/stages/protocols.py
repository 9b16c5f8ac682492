"""Steps and cycles of a protocol, recognised from voltage and current where the log does not say them.

Each row depends only on the rows before it: a log that grows gives the numbers of the finished one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FALLEN, _RISEN, _NEAR_V = 0.97, 0.99, 2e-3
_ROWS = 3


@dataclass(slots=True)
class StepFinder:
    """Numbers the steps (rest, constant current, constant voltage; each sign of its own) and the cycles, from 0.

    A current up to ``rest_ma``, or a thousandth of the largest so far, is none. Constant voltage begins with the third row whose current is
    3 % below the step's, while the voltage stays within 2 mV of its extreme; so the current must be steady to a percent. A cycle ends,
    as EC-Lab counts, where the current changes its sign for the second time.
    """

    rest_ma: float = 1e-3
    step: int = 0
    half_cycle: int = 0
    _begun: bool = False
    _sign: int = 0
    _last_sign: int = 0
    _held: bool = False
    _low_rows: int = 0
    _largest: float = 0.0
    _full: float = 0.0
    _before: float = 0.0
    _extreme: float = -np.inf

    def number(self, voltage: NDArray[np.float64], current: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Step and cycle of the rows that follow those of the last call; NaN counts as no current."""
        steps, cycles = np.empty(len(current), np.int64), np.empty(len(current), np.int64)
        for i, (volt, milliamp) in enumerate(zip(voltage.tolist(), np.nan_to_num(current).tolist(), strict=True)):
            self._take(volt, milliamp)
            steps[i], cycles[i] = self.step, self.half_cycle // 2
        return steps, cycles

    def _take(self, voltage: float, current: float) -> None:
        strength = abs(current)
        self._largest = max(self._largest, strength)
        sign = 0 if strength <= max(self.rest_ma, 1e-3 * self._largest) else (1 if current > 0 else -1)
        if sign != self._sign or not self._begun:
            self._enter(sign)
        if sign:
            self._hold(sign * voltage, strength)

    def _enter(self, sign: int) -> None:
        self.step += self._begun
        if sign and self._last_sign and sign != self._last_sign:
            self.half_cycle += 1
        self._last_sign = sign or self._last_sign
        self._begun, self._sign, self._held, self._low_rows = True, sign, False, 0
        self._full, self._before, self._extreme = 0.0, 0.0, -np.inf

    def _hold(self, height: float, strength: float) -> None:
        """Constant current or voltage; a current of one row only is no step's current."""
        self._full, self._before = max(self._full, min(strength, self._before)), strength
        self._extreme = max(self._extreme, height)
        near = height > self._extreme - _NEAR_V * max(1.0, abs(self._extreme))
        self._low_rows = self._low_rows + 1 if near and strength < _FALLEN * self._full else 0
        if (not self._held and self._low_rows >= _ROWS) or (self._held and strength > _RISEN * self._full):
            self._held = not self._held
            self.step += 1
