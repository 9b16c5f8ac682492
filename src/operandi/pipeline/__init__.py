"""From measurements to nodes: a pure fold of events into products."""

from operandi.pipeline.companions import Companions
from operandi.pipeline.events import ClockTold, Event, Gap, Images, LogEnded, LogRows, Refusal, RunEnded
from operandi.pipeline.fold import State, begin, step
from operandi.pipeline.sets import Positions

__all__ = [
    "ClockTold",
    "Companions",
    "Event",
    "Gap",
    "Images",
    "LogEnded",
    "LogRows",
    "Positions",
    "Refusal",
    "RunEnded",
    "State",
    "begin",
    "step",
]
