"""When a cell had a given charge: once, several times where the charge goes back, or never."""

import numpy as np
from numpy.typing import NDArray

from operandi.stages.charge import Log, longest_gap


def passages(log: Log, charge_mah: float, start: float, end: float, *, gap_s: float | None = None) -> NDArray[np.float64]:
    """The times, UTC epoch s and increasing, at which the charge passes ``charge_mah`` within ``[start, end]``; linear between rows.

    A stretch at exactly this charge, such as a rest, counts once, when it is reached. Between rows further apart than ``gap_s`` (None:
    `longest_gap`) nothing is known.
    """
    if not len(log):
        return np.empty(0)
    gap_s = longest_gap(log.time) if gap_s is None else gap_s
    above = log.charge - charge_mah
    known = np.diff(log.time) <= gap_s
    side = np.sign(above)
    crosses = known & (side[:-1] * side[1:] < 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = above[:-1] / (above[:-1] - above[1:])
    reached = above == 0
    reached[1:] &= above[:-1] != 0
    times = np.concatenate([log.time[reached], (log.time[:-1] + share * np.diff(log.time))[crosses]])
    return np.sort(times[(times >= start) & (times <= end)])
