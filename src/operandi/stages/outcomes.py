"""Outcomes: what the documents of a run bring about."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from operandi.stages.references import Reference


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run's start document has come."""

    start: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Exposures:
    """The exposures ``seq_first`` … ``seq_last`` (both included), complete.

    Keys are roles: image, rotation, translation, monitor, time, set. ``values`` has a float64 array (exposure,) for
    each role that came with the events, in the units of the data key; ``references`` says, for each role that
    lies in files, where, in the order of the exposures.
    """

    seq_first: int
    seq_last: int
    values: Mapping[str, np.ndarray]
    references: Mapping[str, tuple[Reference, ...]]

    def __len__(self) -> int:
        return self.seq_last - self.seq_first + 1


@dataclass(frozen=True, slots=True)
class Refused:
    """A document, or a row of a page, that was not admitted.

    ``stream`` is empty where it is not known; ``seq_num`` … ``seq_last`` (included) are the exposures concerned,
    None where the document names none.
    """

    stream: str
    seq_num: int | None
    reason: str
    seq_last: int | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """Exposures ``seq_first`` … ``seq_last`` (both included) that the run counted, but of which the roles ``lacking`` never came."""

    seq_first: int
    seq_last: int
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunStopped:
    """The run's stop document has come; ``num_events`` by stream."""

    exit_status: str
    reason: str
    num_events: Mapping[str, int]


Outcome = RunStarted | Exposures | Refused | Missing | RunStopped
