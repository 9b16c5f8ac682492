"""The cell at any one moment, as a reader makes it of a result's projections: no volume need be moved."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from operandi.errors import NotPublishedError
from operandi.pipeline.completion import HISTORY
from operandi.pipeline.phases import LOG_GAP_S, Course, PhaseSet, View, course_of, instant_maps
from operandi.stages import charge
from operandi.stages.instants import Scheme
from operandi.stages.passages import passages
from operandi.stages.volumes import grid_mm


@dataclass(frozen=True, slots=True)
class Asked:
    """The moment that somebody wants: a charge in mAh, passed for the ``passage``-th time (from 0; -1 is the last), or a time, epoch s."""

    charge_mah: float | None = None
    time: float | None = None
    passage: int = 0
    scheme: Scheme = "model"


def instant_dataset(asked: Asked, projections: xr.Dataset, echem: pd.DataFrame, about: Mapping[str, Any], axis_mm: float) -> xr.Dataset:
    """Maps (phase, y, x) of one moment, ``intensity`` and ``sigma``, with what they were made of in their attributes.

    Parameters
    ----------
    projections : of all sets that there are: intensity, sigma (projection, translation, phase), rotation (projection,), time
        (projection, translation).
    echem : the log's table.
    about : the metadata of the result.

    Raises
    ------
    NotPublishedError
        Nothing is measured at that moment, or it cannot be told from what is there.
    """
    scan, log = about["experiment"]["scan"], _log(echem)
    sets = _sets(projections, scan["rotations_per_set"])
    time = _time(asked, sets, log)
    behind = _behind(sets, time, scan, log if asked.charge_mah is not None else None)
    translation = np.asarray(projections["translation"])
    view = View(translation, axis_mm, about["experiment"]["reconstruction"]["filter"])
    course = course_of(behind, log, view, learned=asked.scheme == "model")
    if asked.scheme == "model" and course.model is None:
        raise NotPublishedError(f"sets {[one.number for one in behind]} do not tell of one moment (yet): {course.reason}")
    moment = float(charge.at(log, time, gap_s=LOG_GAP_S).charge) if course.by_charge else time
    if course.by_charge and asked.charge_mah is not None:
        moment = asked.charge_mah
    made = instant_maps(course, moment, view, asked.scheme)
    grid, units = grid_mm(translation), {"units": "counts/mm/angstrom"}
    place = {axis: (axis, grid, {"units": "mm"}) for axis in ("y", "x")}
    return xr.Dataset(
        {name: (("phase", "y", "x"), getattr(made, name), units) for name in ("intensity", "sigma")},
        {"phase": projections["phase"].to_numpy(), **place},
        {
            **projections.attrs,
            **_told(course, time, log),
            "scheme": asked.scheme,
            "sets": [one.number for one in behind],
            "provisional": bool(made.instant.provisional and about.get("status", "growing") == "growing"),
            "one_sided": float(made.instant.one_sided.mean()),
            "axis_mm": axis_mm,
        },
    )


def _told(course: Course, time: float, log: charge.Log) -> dict[str, Any]:
    return {
        "time": time,
        "time_utc": str(np.datetime64(round(time * 1000), "ms")),
        "charge_mah": float(charge.at(log, time, gap_s=LOG_GAP_S).charge),
        "progress": "charge" if course.by_charge else "time",
    }


def _log(echem: pd.DataFrame) -> charge.Log:
    return charge.Log(*(echem[f.name].to_numpy() for f in fields(charge.Log)))


def _sets(projections: xr.Dataset, per_set: int) -> list[PhaseSet]:
    """The sets of which something is measured."""
    names = ("rotation", "time", "intensity", "sigma")
    rotation, time, intensity, sigma = (projections[name].to_numpy() for name in names)
    sets = []
    for number in range(len(rotation) // per_set):
        here = slice(number * per_set, (number + 1) * per_set)
        if np.isfinite(time[here]).any():
            sets.append(PhaseSet(number, rotation[here], time[here], intensity[here], sigma[here] ** 2))
    if not sets:
        raise NotPublishedError("no set of projections is published yet")
    return sets


def _time(asked: Asked, sets: list[PhaseSet], log: charge.Log) -> float:
    """When it was."""
    start, end = min(float(np.nanmin(one.time)) for one in sets), max(one.ends for one in sets)
    if (asked.charge_mah is None) == (asked.time is None):
        raise NotPublishedError("a moment is a charge or a time: give one of charge_mah and time")
    if asked.time is not None:
        if not start <= asked.time <= end:
            utc = " to ".join(str(np.datetime64(round(t), "s")) for t in (start, end))
            raise NotPublishedError(
                f"nothing is measured at {asked.time:.3f} s; the projections cover {start:.3f} to {end:.3f} s ({utc} UTC)"
            )
        return asked.time
    known = charge.at(log, np.concatenate([one.time.ravel() for one in sets]), gap_s=LOG_GAP_S).charge
    known = known[np.isfinite(known)]
    if not known.size:
        raise NotPublishedError("the charge of the projections is not known (yet): ask for a time, at_time")
    times = passages(log, float(asked.charge_mah or 0.0), start, end, gap_s=LOG_GAP_S)
    if not len(times):
        raise NotPublishedError(
            f"nothing is measured at {asked.charge_mah:g} mAh; the projections cover {known.min():.2f} to {known.max():.2f} mAh"
        )
    if not -len(times) <= asked.passage < len(times):
        raise NotPublishedError(f"the charge passes {asked.charge_mah:g} mAh {len(times)} time(s): passage is from 0 to {len(times) - 1}")
    return float(times[asked.passage])


def _behind(sets: list[PhaseSet], time: float, scan: Mapping[str, Any], log: charge.Log | None) -> list[PhaseSet]:
    """The sets about a moment that tell of it: as many as the service takes; those that the log covers, where there is one."""
    away = [max(float(np.nanmin(one.time)) - time, time - one.ends, 0.0) for one in sets]
    middle = sets[int(np.argmin(away))].number
    first, last = middle - HISTORY * scan["interlaces"], middle + scan["window_sets"] - 1 + scan["interlaces"]
    return [one for one in sets if first <= one.number <= last and (log is None or log.covers(one.ends))]
