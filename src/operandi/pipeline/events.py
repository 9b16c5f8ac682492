"""What happens to a run, as the fold takes it: exposures and what is wrong with them, the log and its clock, the end."""

from dataclasses import dataclass

import numpy as np

from operandi.pipeline.sets import Positions
from operandi.stages.charge import Log
from operandi.stages.clocks import ClockOffset


@dataclass(frozen=True, slots=True)
class Images:
    """``n`` detector images (n, y, x) with their ``seq_num`` (n,) and positions."""

    seq_num: np.ndarray
    images: np.ndarray
    positions: Positions


@dataclass(frozen=True, slots=True)
class Refusal:
    """What cannot be used: an exposure, or (``seq_num`` None) a document; and the reason."""

    seq_num: int | None
    reason: str
    status: str = "refused"
    """``missing`` for an exposure that never came."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Exposures ``seq_first`` … ``seq_last`` (both included) that never came, and what is lacking of them."""

    seq_first: int
    seq_last: int
    reason: str


@dataclass(frozen=True, slots=True)
class LogRows:
    """New rows of the potentiostat log, in beamline time; ``restarted``: the log was replaced, and these are all its rows."""

    rows: Log
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class ClockTold:
    """How the potentiostat's time became the beamline's, or why it cannot (yet)."""

    clock: ClockOffset


@dataclass(frozen=True, slots=True)
class LogEnded:
    """No more of the log will come: frames that it does not cover are committed without a charge."""

    reason: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run is over; what is missing now will never come."""

    exit_status: str
    reason: str = ""


Event = Images | Refusal | Gap | LogRows | ClockTold | LogEnded | RunEnded
