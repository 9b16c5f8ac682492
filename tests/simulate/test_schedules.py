"""The schedule is the scan's geometry, told line by line."""

import numpy as np
import pytest

from operandi.experiment import Scan
from operandi.simulate.schedules import Schedule
from operandi.stages import scans

SCHEDULE = Schedule(
    Scan(sets=3, rotations_per_set=4, translations=5, translation_start_mm=-1, translation_stop_mm=1, exposure_s=0.5)
)  # fmt: skip


def test_the_angles_of_one_set_fall_between_those_of_the_set_before():
    angles = [SCHEDULE.line(k).rotation_deg for k in range(12)]
    np.testing.assert_allclose(angles, [0, 45, 90, 135, 22.5, 67.5, 112.5, 157.5, 0, 45, 90, 135])


def test_every_other_line_runs_backwards():
    np.testing.assert_allclose(SCHEDULE.line(0).translations_mm, [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(SCHEDULE.line(1).translations_mm, [1, 0.5, 0, -0.5, -1])


def test_images_follow_each_other_without_a_gap():
    elapsed = np.concatenate([SCHEDULE.line(k).elapsed_s for k in range(SCHEDULE.lines)])
    np.testing.assert_allclose(elapsed, 0.5 * np.arange(SCHEDULE.images))
    assert SCHEDULE.duration_s == 0.5 * SCHEDULE.images


def test_windows_slide_by_one_set():
    assert SCHEDULE.windows() == [range(2), range(1, 3)]


@pytest.mark.parametrize("travel", ["alternating", "forward"])
@pytest.mark.parametrize("start_mm", [-1.0, 1.0])
@pytest.mark.parametrize(("order", "inner"), [("sequential", "rotation"), ("bit-reversed", "translation"), ("golden", "translation")])
def test_the_schedule_measures_what_the_plan_says_in_its_order(order, inner, travel, start_mm):
    fields = {"order": order, "inner": inner, "travel": travel, "translation_start_mm": start_mm, "translation_stop_mm": -start_mm}
    schedule = Schedule(Scan.model_validate(SCHEDULE.scan.model_dump() | fields))
    for number in range(3):
        route = scans.route(schedule.scan, number)
        lines = [schedule.line(number * schedule.lines_per_set + i) for i in range(schedule.lines_per_set)]
        np.testing.assert_allclose(np.concatenate([line.rotations_deg for line in lines]), route.rotation_deg)
        np.testing.assert_allclose(np.concatenate([line.translations_mm for line in lines]), route.translation_mm)
        elapsed = schedule.elapsed_s(number)[route.line, route.column]
        np.testing.assert_allclose(np.concatenate([line.elapsed_s for line in lines]), elapsed)
    assert schedule.images == 3 * 4 * 5


def test_a_rotation_that_runs_through_never_turns_back():
    fields = {"inner": "rotation", "travel": "forward", "rotation_range_deg": 360.0}
    schedule = Schedule(Scan.model_validate(SCHEDULE.scan.model_dump() | fields))
    angles = np.concatenate([schedule.line(k).rotations_deg for k in range(schedule.lines)])
    assert (np.diff(angles) > 0).all()
    np.testing.assert_allclose(np.mod(angles[:8], 360), np.tile([0, 90, 180, 270], 2))
