"""The schedule is the scan's geometry, told line by line."""

import numpy as np

from operandi.experiment import Scan
from operandi.simulate.schedules import Schedule

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
