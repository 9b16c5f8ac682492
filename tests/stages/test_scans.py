"""Orders of angles, places of exposures, and windows by time and charge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operandi.experiment import Scan
from operandi.stages import scans

PAPER_MAH = np.array([0, 6.08, 11.49, 15.36, 18.14, 20.28, 22.21, 23.93, 25.59, 27.28, 28.54])


def scan_of(**fields) -> Scan:
    plain = {
        "sets": 5,
        "rotations_per_set": 4,
        "translations": 3,
        "translation_start_mm": -1.0,
        "translation_stop_mm": 1.0,
        "exposure_s": 1.0,
    }
    return Scan.model_validate(plain | fields)


orders = st.builds(
    scan_of,
    sets=st.integers(1, 6),
    rotations_per_set=st.integers(1, 9),
    translations=st.integers(2, 7),
    interlaces=st.integers(1, 5),
    window_sets=st.just(1),
    order=st.sampled_from(["sequential", "bit-reversed"]),
    inner=st.sampled_from(["translation", "rotation"]),
    travel=st.sampled_from(["alternating", "forward"]),
    translation_start_mm=st.sampled_from([-1.0, 2.0]),
    rotation_range_deg=st.sampled_from([180.0, 360.0]),
)


@pytest.mark.parametrize(
    ("order", "interlaces", "expected"),
    [
        ("sequential", 4, [0, 0.25, 0.5, 0.75]),
        ("bit-reversed", 4, [0, 0.5, 0.25, 0.75]),
        ("bit-reversed", 8, [0, 4 / 8, 2 / 8, 6 / 8, 1 / 8, 5 / 8, 3 / 8, 7 / 8]),
        ("bit-reversed", 3, [0, 2 / 3, 1 / 3]),
        ("bit-reversed", 1, [0]),
    ],
)
def test_sets_are_turned_in_the_order_that_the_scan_names(order, interlaces, expected):
    np.testing.assert_allclose(scans.interlace_fractions(scan_of(order=order, interlaces=interlaces)), expected)


@given(st.integers(1, 40))
def test_bit_reversed_turns_are_evenly_spaced_for_any_number_of_interlaces(interlaces):
    fractions = scans.interlace_fractions(scan_of(order="bit-reversed", interlaces=interlaces))
    np.testing.assert_allclose(np.sort(fractions), np.arange(interlaces) / interlaces)


@given(st.integers(1, 6))
def test_every_bit_reversed_set_falls_into_a_widest_gap(power):
    fractions = scans.interlace_fractions(scan_of(order="bit-reversed", interlaces=2**power))
    for n in range(1, len(fractions)):
        gaps = np.diff(np.append(np.sort(fractions[:n]), 1.0))
        before = np.sort(fractions[:n])[np.searchsorted(np.sort(fractions[:n]), fractions[n]) - 1]
        widest = np.sort(fractions[:n])[gaps == gaps.max()]
        assert before in widest
        assert fractions[n] - before == gaps.max() / 2


@pytest.mark.parametrize("range_deg", [180.0, 360.0])
def test_golden_lines_go_on_from_set_to_set_by_the_golden_part_of_the_range(range_deg):
    scan = scan_of(order="golden", rotation_range_deg=range_deg, rotation_start_deg=10.0)
    angles = np.concatenate([scans.planned_rotations_deg(scan, s) for s in range(5)])
    np.testing.assert_allclose(np.mod(np.diff(angles), range_deg), range_deg * 2 / (1 + np.sqrt(5)))
    assert (angles >= 10).all()
    assert (angles < 10 + range_deg).all()


def test_all_interlaces_together_are_equidistant():
    scan = scan_of(order="bit-reversed", interlaces=5, rotation_range_deg=360.0)
    angles = np.sort(np.concatenate([scans.planned_rotations_deg(scan, s) for s in range(5)]))
    np.testing.assert_allclose(angles, np.arange(20) * 18.0)


def test_a_translation_as_the_inner_loop_goes_back_and_forth_line_by_line():
    route = scans.route(scan_of(rotations_per_set=3), 1)  # 3 lines in set 0: the first of set 1 runs backwards
    np.testing.assert_array_equal(route.line, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(route.column, [2, 1, 0, 0, 1, 2, 2, 1, 0])
    np.testing.assert_allclose(route.rotation_deg, np.repeat([30.0, 90.0, 150.0], 3))
    np.testing.assert_array_equal(route.index, np.arange(9))


def test_a_rotation_as_the_inner_loop_goes_back_and_forth_position_by_position():
    route = scans.route(scan_of(rotations_per_set=2, inner="rotation", translation_start_mm=1.0, translation_stop_mm=-1.0), 0)
    np.testing.assert_array_equal(route.line, [0, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(route.column, [2, 2, 1, 1, 0, 0])
    np.testing.assert_array_equal(route.index, [0, 3, 4, 1, 2, 5])
    np.testing.assert_allclose(route.translation_mm, [1, 1, 0, 0, -1, -1])


@given(orders)
def test_every_cell_of_every_set_is_planned_exactly_once(scan):
    for number in range(scan.sets):
        route = scans.route(scan, number)
        assert set(zip(route.line, route.column, strict=True)) == {
            (line, column) for line in range(scan.rotations_per_set) for column in range(scan.translations)
        }
        np.testing.assert_array_equal(np.sort(route.index), np.arange(scans.images_per_set(scan)))
        np.testing.assert_array_equal(route.index // scan.translations, route.line)
        np.testing.assert_array_equal(scans.column(scan, route.translation_mm), route.column)
        np.testing.assert_array_equal(scans.index_of(scan, np.full(len(route.line), number), route.line, route.column), route.index)


@given(orders)
def test_seq_num_and_index_lead_to_each_other(scan):
    seq_num = np.arange(1, scan.sets * scans.images_per_set(scan) + 1)
    number, index = scans.set_and_index(scan, seq_num)
    planned = np.stack([scans.planned_seq_num(scan, s) for s in range(scan.sets)])
    np.testing.assert_array_equal(planned[number, index], seq_num)
    np.testing.assert_array_equal(scans.set_and_line(scan, seq_num)[1], index // scan.translations)


def test_what_lies_beyond_the_plan_belongs_to_no_set():
    number, index = scans.set_and_index(scan_of(), np.array([0, 1, 60, 61]))
    np.testing.assert_array_equal(number, [-1, 0, 4, -1])
    np.testing.assert_array_equal(index, [-1, 0, 11, -1])


# Measured angles


def test_the_angle_of_a_line_is_the_mean_of_what_was_measured_and_else_the_planned_one():
    scan = scan_of(rotations_per_set=3)
    found = scans.line_rotations_deg(scan, 0, np.array([0, 0, 2]), np.array([0.1, 0.3, 119.0]))
    np.testing.assert_allclose(found, [0.2, 60, 119.0])


def test_a_rotation_that_runs_through_gives_the_same_angle_turn_after_turn():
    scan = scan_of(rotations_per_set=3, inner="rotation", rotation_range_deg=360.0, travel="forward")
    line = np.tile([0, 1, 2], 3)
    found = scans.line_rotations_deg(scan, 0, line, np.arange(9) * 120.0 + 0.5)
    np.testing.assert_allclose(np.mod(found, 360), [0.5, 120.5, 240.5])


def test_a_line_that_was_measured_half_a_turn_on_keeps_its_angle():
    found = scans.line_rotations_deg(scan_of(), 0, np.array([1, 1]), np.array([225.0, 225.2]))
    assert np.mod(found[1], 360) == pytest.approx(225.1)


# Windows


def test_a_window_asked_for_by_time_is_made_of_the_sets_that_were_measured_then():
    start, end = np.arange(6) * 720.0, np.arange(1, 7) * 720.0 - 1
    assert scans.span_by_time(start, end, 800, 2000) == scans.Span(0, 1, 2)
    assert scans.span_by_time(start, end, 900, 901) == scans.Span(0, 1, 1)
    assert scans.span_by_time(start, end, 719.2, 719.8) is None
    assert scans.span_by_time(start, end, 1e9, 2e9) is None


def test_a_set_without_exposures_is_in_a_window_only_between_others():
    start, end = np.array([0.0, np.nan, 20.0]), np.array([9.0, np.nan, 29.0])
    assert scans.span_by_time(start, end, 5, 25) == scans.Span(0, 0, 2)
    assert scans.span_by_time(start[:2], end[:2], 5, 25) == scans.Span(0, 0, 0)


def test_a_window_asked_for_by_charge_is_made_of_the_sets_that_passed_through_it():
    assert scans.spans_by_charge(PAPER_MAH[:-1], PAPER_MAH[1:], 15.4, 20.2) == (scans.Span(0, 3, 4),)


def test_a_charge_that_goes_back_passes_through_a_window_more_than_once():
    lowest, highest = np.array([0, 5, 8, 4, 4, 9]), np.array([5, 10, 10, 8, 9, 14])
    assert scans.spans_by_charge(lowest, highest, 9.5, 9.8) == (scans.Span(0, 1, 2), scans.Span(1, 5, 5))
    assert scans.spans_by_charge(lowest, highest, 20, 30) == ()
    assert scans.spans_by_charge(np.array([0, np.nan, 0.0]), np.array([1, np.nan, 1.0]), 0, 1) == (scans.Span(0, 0, 0), scans.Span(1, 2, 2))


def test_windows_of_equal_charge_grow_as_the_current_falls():
    found = scans.spans_of_width(PAPER_MAH[:-1], PAPER_MAH[1:], 6.0)
    assert [len(span.sets) for span in found] == [1, 1, 2, 3, 3, 3, 4]
    assert [span.frame for span in found] == list(range(7))


def test_windows_of_the_time_of_two_sets_are_those_of_the_scan():
    start, end = np.arange(10) * 720.0, np.arange(1, 11) * 720.0 - 0.3
    assert scans.spans_of_width(start, end, 1440) == scans.spans(scan_of(sets=10))
    assert scans.spans_of_width(start, end, 1440, step=2) == scans.spans(scan_of(sets=10, window_step=2))


charges = st.lists(st.floats(-50, 50), min_size=2, max_size=20)


@given(charges, st.floats(0.01, 60))
def test_no_other_window_from_the_same_set_is_closer_to_the_width_whatever_the_charge_does(boundaries, width):
    edges = np.array(boundaries)
    lowest, highest = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
    for span in scans.spans_of_width(lowest, highest, width):
        widths = [np.ptp(edges[span.set_first : last + 2]) for last in range(span.set_first, len(lowest))]
        assert abs(widths[len(span.sets) - 1] - width) <= min(abs(w - width) for w in widths) + 1e-9
