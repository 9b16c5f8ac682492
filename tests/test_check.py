"""What `operandi check` finds before beamtime."""

from pathlib import Path

import numpy as np
import pytest
from shared import shared_file

from operandi.check import Finding, Report, check, examine_scan, examine_windows, honesty, rows
from operandi.experiment import Experiment
from operandi.experiment_file import parse_experiment
from operandi.plans import duration, plan_of, size

# A Pilatus 100K at 0.1 m and 71 keV sees 0 to about 14 Å⁻¹; small enough for a test of milliseconds.
PONI = """\
poni_version: 2.1
Detector: Pilatus100k
Detector_config: {"orientation": 3}
Distance: 0.1
Poni1: 0.016
Poni2: 0.0
Rot1: 0.0
Rot2: 0.0
Rot3: 0.0
Wavelength: 1.746e-11
"""
SHAPE = (195, 487)

YAML = """\
sample: {name: cell}
geometry: {poni: a.poni, mask: mask.npy}
integration: {q_min_inv_angstrom: 1.0, q_max_inv_angstrom: 5.2, bins: 1050}
scan:
  sets: 10
  rotations_per_set: 50
  translations: 60
  translation_start_mm: -0.3
  translation_stop_mm: 0.3
  exposure_s: 0.1
windows:
  - {phase: graphite, q_min_inv_angstrom: 1.78, q_max_inv_angstrom: 1.94}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.poni").write_text(PONI)
    np.save(tmp_path / "mask.npy", np.zeros(SHAPE, np.uint8))
    return tmp_path


def experiment(folder: Path | str = ".", *changes: tuple[str, str], more: str = "") -> Experiment:
    text = YAML
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_experiment(text + more, folder=folder)


def fields(findings: tuple[Finding, ...] | list[Finding], severity: str) -> list[str]:
    return [f.field for f in findings if f.severity == severity]


def only_error(report: Report) -> Finding:
    assert len(report.errors) == 1, report.findings
    return report.errors[0]


def test_the_plan_counts_images_frames_and_time():
    plan = plan_of(experiment(), (195, 487), images_per_s=100)
    assert (plan.images_per_set, plan.images, plan.frames) == (3000, 30000, 9)
    assert (plan.set_s, plan.frame_s, plan.duration_s) == (300, 600, 3000)
    assert plan.window_rotations == 100
    assert plan.crowther_rotations == 95
    assert plan.raw_bytes == 30000 * 195 * 487 * 4
    assert plan.processing_s > 300


def test_the_size_of_results_is_that_of_their_arrays():
    plan = plan_of(experiment(), (10, 10))
    patterns, scalars = 30000 * 1050 * 2 * 4, 30000 * 5 * 8
    sinogram, volume, maps = 100 * 60 * 1050 * 4, 60 * 60 * 1050 * 4, 60 * 60 * 2 * 4
    assert plan.result_bytes == patterns + scalars + 9 * (sinogram + volume + maps)


def test_a_good_experiment_has_no_finding(folder: Path):
    report = check(experiment(folder))
    assert report.findings == ()
    table = dict(rows(report))
    assert table["detector"].startswith("195 × 487 pixels")
    assert table["images"].startswith("30,000 = 10 sets × 50 rotations × 60 positions")
    assert table["potentiostat"].startswith("none")


def test_a_missing_calibration_is_an_error(folder: Path):
    (folder / "a.poni").unlink()
    found = only_error(check(experiment(folder)))
    assert found.field == "geometry.poni"
    assert "not there" in found.message


def test_a_file_that_is_no_calibration_is_an_error(folder: Path):
    (folder / "a.poni").write_text("not a calibration")
    assert only_error(check(experiment(folder))).field == "geometry.poni"


def test_a_mask_of_another_shape_is_an_error_with_both_shapes(folder: Path):
    np.save(folder / "mask.npy", np.zeros((487, 195), np.uint8))
    found = only_error(check(experiment(folder)))
    assert found.field == "geometry.mask"
    assert "487 × 195" in found.message
    assert "195 × 487" in found.message


def test_a_mask_that_is_not_there_is_an_error(folder: Path):
    (folder / "mask.npy").unlink()
    assert only_error(check(experiment(folder))).field == "geometry.mask"


def test_an_inverted_mask_is_noticed(folder: Path):
    np.save(folder / "mask.npy", np.ones(SHAPE, np.uint8))
    assert "geometry.mask" in fields(check(experiment(folder)).findings, "warning")


def test_a_q_range_beyond_the_detector_is_an_error(folder: Path):
    assert only_error(check(experiment(folder, ("5.2", "40")))).field == "integration.q_max_inv_angstrom"


def test_golden_angles_all_differ_and_need_no_whole_number_of_interlaces():
    golden = ("  exposure_s", "  order: golden\n  exposure_s")
    assert plan_of(experiment(".", golden, ("sets: 10", "sets: 10\n  window_sets: 3")), (1, 1)).window_rotations == 150
    assert plan_of(experiment(".", golden, ("sets: 10", "sets: 10\n  rotation_range_deg: 360")), (1, 1)).window_rotations == 100
    assert examine_scan(experiment(".", golden, ("sets: 10", "sets: 10\n  window_sets: 3"))) == []


def test_golden_angles_must_be_half_as_many_again_as_evenly_spaced_ones():
    # π/2 · 60 positions are 95 angles: the 100 of two sets are enough evenly spaced, but not in golden order.
    assert examine_scan(experiment()) == []
    (found,) = examine_scan(experiment(".", ("  exposure_s", "  order: golden\n  exposure_s")))
    assert (found.severity, found.field) == ("warning", "scan.rotations_per_set")
    assert "100 angles" in found.message
    assert "143 (1.5 · π/2 for each)" in found.message


def test_windows_must_lie_inside_the_integrated_range():
    found = examine_windows(experiment(".", ("5.2", "1.85")), None)
    assert fields(found, "error") == ["windows, graphite"]


def test_windows_must_leave_room_for_their_background():
    found = examine_windows(experiment(".", ("5.2", "1.95")), None)
    assert fields(found, "error") == ["windows, graphite"]
    assert "no room for its linear background" in found[0].message


def test_windows_without_enough_bins_say_how_many_are_needed():
    few, too_few = (examine_windows(experiment(".", ("bins: 1050", f"bins: {n}")), None)[0] for n in (100, 20))
    assert (few.severity, too_few.severity) == ("warning", "error")
    assert "132" in few.message


def test_windows_narrower_than_two_pixels_are_noticed(folder: Path):
    # One pixel of 172 µm at 0.1 m is 0.06 Å⁻¹ wide.
    found = check(experiment(folder, ("1.94", "1.84"))).findings
    assert fields(found, "warning") == ["windows, graphite"]


def test_a_window_that_only_masked_pixels_see_is_an_error(folder: Path):
    row, column = np.indices(SHAPE)
    radius = np.hypot(row - 93, column)
    np.save(folder / "mask.npy", (radius > 25) & (radius < 40))
    assert only_error(check(experiment(folder))).message == "no unmasked pixel of the detector sees it"


def test_parallax_of_a_wide_cell_is_noticed(folder: Path):
    wide = experiment(folder, ("-0.3", "-30"), ("0.3", "30"), ("-30", "-30"))
    found = [f for f in check(wide).findings if "parallax" in f.message]
    assert [f.severity for f in found] == ["warning"]
    assert "graphite" in found[0].message
    two = "{phase: graphite, q_min_inv_angstrom: 1.78, q_max_inv_angstrom: 1.94}"
    both = two + "\n  - {phase: LiC12, q_min_inv_angstrom: 1.72, q_max_inv_angstrom: 1.77}"
    _, carried = [
        f
        for f in check(experiment(folder, ("-0.3", "-30"), ("0.3", "30"), ("-30", "-30"), (two, both))).findings
        if "parallax" in f.message
    ]
    assert "graphite into LiC12" in carried.message
    assert "LiC12 into graphite" in carried.message


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("rotations_per_set: 50", "rotations_per_set: 40", "scan.rotations_per_set"),
        ("rotations_per_set: 50", "rotations_per_set: 50\n  rotation_range_deg: 150", "scan.rotation_range_deg"),
        ("rotations_per_set: 50", "rotations_per_set: 100\n  rotation_range_deg: 270", "scan.rotation_range_deg"),
        ("sets: 10", "sets: 10\n  window_sets: 3", "scan.window_sets"),
        ("sets: 10", "sets: 10\n  window_step: 3", "scan.window_step"),
    ],
)
def test_a_plan_that_gives_worse_tomograms_is_noticed(old, new, field):
    assert fields(examine_scan(experiment(".", (old, new))), "warning") == [field]


def test_a_full_turn_needs_twice_the_rotations():
    half, full = (plan_of(experiment(".", ("sets: 10", f"sets: 10\n  rotation_range_deg: {r}")), (1, 1)) for r in (180, 360))
    assert full.window_rotations * 2 == half.window_rotations


def test_an_axis_outside_the_travel_and_a_rim_without_a_cell_are_errors():
    few = experiment(".", ("rotations_per_set: 50", "rotations_per_set: 4"), more="corrections: {spots_sigma: 8}\n")
    assert "corrections.spots_sigma" in fields(examine_scan(few), "error")
    more = "reconstruction: {axis_mm: 0.5}\ncorrections: {rim_points: 30}\n"
    assert fields(examine_scan(experiment(more=more)), "error") == ["corrections.rim_points", "reconstruction.axis_mm"]


def test_a_log_that_is_not_there_yet_is_waited_for(folder: Path):
    report = check(experiment(folder, more="potentiostat: {file: later.mpt}\n"))
    assert report.findings == ()
    assert "not there yet" in report.log


def test_a_log_in_a_folder_that_is_not_there_is_noticed(folder: Path):
    assert fields(check(experiment(folder, more="potentiostat: {file: share/later.mpt}\n")).findings, "warning") == ["potentiostat.file"]


def test_a_log_that_cannot_be_read_is_an_error(folder: Path):
    (folder / "log.mpt").write_text("not a log\n")
    assert only_error(check(experiment(folder, more="potentiostat: {file: log.mpt}\n"))).field == "potentiostat.file"


def test_a_clock_offset_of_hours_hints_at_the_time_zone(folder: Path):
    report = check(experiment(folder, more="potentiostat: {file: later.mpt, clock_offset_s: 3600}\n"))
    assert fields(report.findings, "warning") == ["potentiostat.clock_offset_s"]


def test_a_machine_that_is_too_slow_is_noticed(folder: Path):
    assert "fall behind" in check(experiment(folder), images_per_s=5).warnings[0].message


def test_results_that_do_not_fit_the_disk_are_an_error(folder: Path):
    huge = experiment(folder, ("translations: 60", "translations: 20000"), ("sets: 10", "sets: 100000"))
    assert "publishing.storage" in fields(check(huge).findings, "error")


def test_the_real_detector_is_described():
    poni, mask = shared_file("xrd_frames/CeO2.poni"), shared_file("xrd_frames/mask.edf")
    report = check(experiment(".", ("a.poni", str(poni)), ("mask.npy", str(mask))))
    assert not report.errors
    assert report.detector is not None
    assert report.detector.q.shape == (1679, 1475)
    assert report.detector.reach[0] < 0.6
    assert report.detector.reach[1] > 12
    assert report.detector.pixel_inv_angstrom(1.0) == pytest.approx(0.0114, rel=0.02)


def test_sizes_and_durations_are_written_for_people():
    assert [size(n) for n in (0, 999, 12_345, 3.2e12, 5e18)] == ["0 B", "999 B", "12.3 kB", "3.2 TB", "5,000 PB"]
    assert [duration(s) for s in (0.5, 720, 7500)] == ["0.5 s", "12 min", "2 h 5 min"]


TRAPS = """\
  - {phase: NMC lithiated 110, q_min_inv_angstrom: 4.37, q_max_inv_angstrom: 4.41}
  - {phase: separator, q_min_inv_angstrom: 1.50, q_max_inv_angstrom: 1.56}
  - {phase: LiC6, q_min_inv_angstrom: 1.66, q_max_inv_angstrom: 1.73, subtract: [{phase: separator}]}
"""


def test_the_reflections_of_other_phases_are_told_for_every_window(folder):
    told = dict(honesty(check(experiment(folder, more=TRAPS))))
    assert list(told) == ["graphite", "NMC lithiated 110", "separator", "LiC6"]
    assert "aluminium 220 at 4.389" in told["NMC lithiated 110"]
    assert "α-iron 200 at 4.384" in told["NMC lithiated 110"]
    assert "polyethylene 200 at 1.695" in told["LiC6"]
    assert "0.367 (derived) × separator is subtracted" in told["LiC6"]
    assert told["separator"].startswith("nothing else")


def test_a_line_that_its_window_cuts_and_what_parallax_lets_in_are_told(folder):
    more = "  - {phase: NMC lithiated, q_min_inv_angstrom: 4.57, q_max_inv_angstrom: 4.62}\n"
    wide = (("translation_start_mm: -0.3", "translation_start_mm: -1.5"), ("translation_stop_mm: 0.3", "translation_stop_mm: 1.5"))
    told = dict(honesty(check(experiment(folder, *wide, more=more))))["NMC lithiated"]
    assert told.startswith("only 83% of its own line; LiC12 114 at 4.609")
    assert "by parallax also" in told
    assert "NMC622 at 4.2 V 113" in told.split("by parallax also")[1]


def test_a_ratio_that_cannot_be_derived_is_an_error_of_its_window(folder):
    report = check(
        experiment(
            folder,
            more="  - {phase: odd, q_min_inv_angstrom: 2.3, q_max_inv_angstrom: 2.4, subtract: [{phase: graphite, crystal: nothing}]}\n",
        )
    )
    assert [(f.field, "nothing" in f.message) for f in report.errors] == [("windows, odd", True)]
    assert "unknown × graphite" in dict(honesty(report))["odd"]


def test_measured_air_that_is_missing_too_short_or_without_errors_is_told(folder: Path):
    more = "corrections: {air: measured, measured_air: {file: air.dat, monitor: 1e6}}\n".replace("1e6", "1.0e+6")
    absent = only_error(check(experiment(folder, more=more)))
    assert (absent.field, "is not there" in absent.message) == ("corrections.measured_air.file", True)
    (folder / "air.dat").write_text("# 1/angstrom\n1.0 5 1\n4.0 6 1\n")
    assert "measure it over all of that" in only_error(check(experiment(folder, more=more))).message
    (folder / "air.dat").write_text("# 1/angstrom\n0.9 5\n5.3 6\n")
    report = check(experiment(folder, more=more))
    assert not report.errors
    assert any("taken as exact" in f.message for f in report.warnings)
