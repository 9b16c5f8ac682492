"""bluesky plans of an interlaced scan: one run, line after line, set after set, in the order that the experiment names."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from ophyd_async.core import DetectorTrigger, TriggerInfo

from operandi.experiment import Experiment
from operandi.simulate.devices import TIMEOUT_S, Devices


def scan_metadata(experiment: Experiment, plan_name: str) -> dict[str, Any]:
    """Metadata of the run: what is measured, and how the scan is laid out."""
    return {
        "plan_name": plan_name,
        "sample": experiment.sample.name,
        "operandi": {"description": experiment.sample.description, "scan": experiment.scan.model_dump(mode="json"), "simulated": True},
    }


def interlaced_scan(
    devices: Devices, experiment: Experiment, *, speed: float | None = None, on_line: Callable[[float], None] | None = None
):
    """Fly through every line of the scan; documents follow line by line.

    ``speed`` is virtual seconds for each real one (None: as fast as images are made). ``on_line`` is called with the
    virtual UTC epoch s at which each line ends, once its images are written and before its documents go out.
    """
    schedule = devices.acquisition.exposures.schedule
    detectors = [devices.detector, devices.encoders]
    trigger = TriggerInfo(
        trigger=DetectorTrigger.EXTERNAL_EDGE,
        livetime=experiment.scan.exposure_s,
        number_of_events=schedule.images,
        exposure_timeout=TIMEOUT_S,
    )
    stream = experiment.scan.stream

    @bpp.stage_decorator([*detectors, devices.travel])
    @bpp.run_decorator(md=scan_metadata(experiment, "interlaced_scan"))
    def scan():
        for detector in detectors:
            yield from bps.prepare(detector, trigger, wait=True)
            yield from bps.abs_set(detector.events_to_kickoff, schedule.images_per_line, wait=True)
        yield from bps.declare_stream(*detectors, name=stream, collect=True)
        pace = _Pace(schedule.line_duration_s, speed)
        for number in range(schedule.lines):
            yield from bps.checkpoint()
            line = schedule.line(number)
            yield from bps.mv(devices.rotation, line.rotation_deg, devices.translation, float(line.translations_mm[0]))
            yield from bps.prepare(devices.travel, line, wait=True)
            yield from bps.kickoff_all(*detectors, devices.travel, wait=True)
            yield from bps.complete_all(*detectors, devices.travel, wait=True)
            yield from pace.wait(number)
            _tell(on_line, devices, number)
            yield from bps.collect(*detectors, name=stream, return_payload=False)

    return (yield from scan())


def step_scan(devices: Devices, experiment: Experiment, *, speed: float | None = None, on_line: Callable[[float], None] | None = None):
    """Stop at every point: one event each, with rotation, translation, monitor and time; images come as stream_datum."""
    schedule = devices.acquisition.exposures.schedule
    trigger = TriggerInfo(exposure_timeout=TIMEOUT_S)

    @bpp.stage_decorator([devices.detector])
    @bpp.run_decorator(md=scan_metadata(experiment, "step_scan"))
    def scan():
        yield from bps.prepare(devices.detector, trigger, wait=True)
        pace = _Pace(schedule.line_duration_s, speed)
        for number in range(schedule.lines):
            yield from bps.checkpoint()
            line = schedule.line(number)
            for rotation, translation in zip(line.rotations_deg, line.translations_mm, strict=True):
                yield from bps.mv(devices.rotation, float(rotation), devices.translation, float(translation))
                yield from bps.trigger(devices.detector, wait=True)
                yield from bps.create(experiment.scan.stream)
                for device in (devices.detector, *devices.readings):
                    yield from bps.read(device)
                yield from bps.save()
            yield from pace.wait(number)
            _tell(on_line, devices, number)

    return (yield from scan())


def _tell(on_line: Callable[[float], None] | None, devices: Devices, number: int) -> None:
    if on_line is not None:
        exposures = devices.acquisition.exposures
        on_line(exposures.first_image_s + (number + 1) * exposures.schedule.line_duration_s)


class _Pace:
    """Keeps lines to real time × speed."""

    def __init__(self, line_s: float, speed: float | None):
        self._line_s, self._speed = line_s, speed
        self._started = time.monotonic()

    def wait(self, number: int):
        if self._speed is not None:
            due = self._started + (number + 1) * self._line_s / self._speed
            yield from bps.sleep(max(0.0, due - time.monotonic()))
        else:
            yield from bps.null()
