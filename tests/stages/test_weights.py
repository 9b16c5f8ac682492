"""Weights of projections when sets have gaps, stop early, or follow no regular order."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operandi.errors import ShapeError
from operandi.experiment import Scan
from operandi.simulate.beamline import fit_cell
from operandi.simulate.phantom import PHASES, SPECIES
from operandi.simulate.projections import line_integrals, truth
from operandi.simulate.schedules import Schedule
from operandi.stages import scans
from operandi.stages.sinograms import usable_projections
from operandi.stages.volumes import angular_weights, combine, combine_variances, partial_variance, partial_volume
from operandi.stages.weights import own_weights_serve, weigh_window

AXIS_MM, CHARGE_MAH = 0.05, 14.0
LINES, TRANSLATIONS = 40, 61  # 160 angles in four sets; to resolve 61 positions takes π/2 · 61 = 96
SHOWN = ("copper", "aluminium", "LiC12", "separator", "casing")


def scan_of(order: str = "sequential", lines: int = LINES) -> Scan:
    return Scan.model_validate({
        "sets": 8, "rotations_per_set": lines, "translations": TRANSLATIONS, "translation_start_mm": -4.2, "translation_stop_mm": 4.2,
        "exposure_s": 0.1, "interlaces": 4, "window_sets": 4, "order": order,
    })  # fmt: skip


SCHEDULE = Schedule(scan_of(), AXIS_MM)
CELL = fit_cell(SCHEDULE)


@cache
def projection(rotation_deg: float) -> np.ndarray:
    lengths = line_integrals(CELL, rotation_deg, SCHEDULE.translations_mm - AXIS_MM, np.full(TRANSLATIONS, CHARGE_MAH))
    return lengths[:, [SPECIES.index(name) for name in SHOWN]].astype(np.float32)


def measure(rotation_deg: np.ndarray) -> np.ndarray:
    return np.stack([projection(float(angle)) for angle in rotation_deg])


@cache
def expected() -> np.ndarray:
    return truth(CELL, np.array([CHARGE_MAH]), SCHEDULE.pitch_mm).maps[[PHASES.index(name) for name in SHOWN]]


def error(volume: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.moveaxis(volume, -1, 0) - expected()) ** 2)))


def volume_of(sinogram: np.ndarray, rotation_deg: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    return partial_volume(sinogram, rotation_deg, SCHEDULE.translations_mm, AXIS_MM, weights=weights)


def damaged_window(order: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Angles and sinograms of four sets of which 5 % of the projections are missing and the third stopped after 40 %."""
    random = np.random.default_rng(3)
    angles = [scans.planned_rotations_deg(scan_of(order), s) for s in range(4)]
    sinograms = [measure(a) for a in angles]
    for number, sinogram in enumerate(sinograms):
        sinogram[random.random(LINES) < 0.05] = np.nan
        if number == 2:
            sinogram[int(0.4 * LINES) :] = np.nan
    return angles, sinograms


@pytest.mark.parametrize("order", ["sequential", "bit-reversed", "golden"])
def test_a_damaged_scan_of_any_order_is_nearly_as_good_as_equidistant_projections(order):
    angles, sinograms = damaged_window(order)
    usable = [usable_projections(s) for s in sinograms]
    weights = weigh_window(angles, usable)
    partials = [volume_of(*of_set) for of_set in zip(sinograms, angles, weights.projections, strict=True)]
    found = error(combine(partials, weights.shares))

    count = int(np.concatenate(usable).sum())
    assert count < 0.84 * 4 * LINES
    equidistant = np.arange(count) * 180.0 / count
    best = error(volume_of(measure(equidistant), equidistant))
    assert found < 1.2 * best
    mean_of_sets = combine([volume_of(s, a) for s, a in zip(sinograms, angles, strict=True)], [int(u.sum()) for u in usable])
    assert found < 0.9 * error(mean_of_sets)


@pytest.mark.parametrize("order", ["sequential", "bit-reversed", "golden"])
def test_the_sum_over_sets_is_one_back_projection_of_all_their_projections(order):
    angles, sinograms = damaged_window(order)
    weights = weigh_window(angles, [usable_projections(s) for s in sinograms])
    partials = [volume_of(*of_set) for of_set in zip(sinograms, angles, weights.projections, strict=True)]
    at_once = volume_of(np.concatenate(sinograms), np.concatenate(angles))
    np.testing.assert_allclose(combine(partials, weights.shares), at_once, atol=2e-5 * np.abs(at_once).max())


def test_the_variance_of_a_window_is_that_of_one_back_projection_too():
    angles, sinograms = damaged_window("golden")
    at = (SCHEDULE.translations_mm, AXIS_MM)
    weights = weigh_window(angles, [usable_projections(s) for s in sinograms])
    partials = [partial_variance(s, a, *at, weights=w) for s, a, w in zip(sinograms, angles, weights.projections, strict=True)]
    at_once = partial_variance(np.concatenate(sinograms), np.concatenate(angles), *at)
    np.testing.assert_allclose(combine_variances(partials, weights.shares), at_once, rtol=1e-3, atol=1e-6 * at_once.max())


def test_complete_interlaced_sets_may_share_their_own_volumes_between_windows():
    everything = [np.ones(LINES, bool)] * 2
    for first in range(3):
        angles = [scans.planned_rotations_deg(scan_of(), s) for s in (first, first + 1)]
        weights = weigh_window(angles, everything)
        np.testing.assert_allclose(weights.shares, 0.5)
        assert all(own_weights_serve(a, u, w) for a, u, w in zip(angles, everything, weights.projections, strict=True))


def test_a_set_beside_an_aborted_one_must_not_use_its_own_volume():
    angles = [scans.planned_rotations_deg(scan_of(), s) for s in (0, 1)]
    usable = [np.ones(LINES, bool), np.arange(LINES) < 10]
    weights = weigh_window(angles, usable)
    assert not any(own_weights_serve(a, u, w) for a, u, w in zip(angles, usable, weights.projections, strict=True))


def test_a_set_without_projections_adds_nothing_and_hides_nothing():
    angles = [scans.planned_rotations_deg(scan_of(), s) for s in (0, 1)]
    weights = weigh_window(angles, [np.ones(LINES, bool), np.zeros(LINES, bool)])
    np.testing.assert_array_equal(weights.shares, [1, 0])
    nothing = np.full((LINES, TRANSLATIONS, len(SHOWN)), np.nan, np.float32)
    alone = volume_of(measure(angles[0]), angles[0])
    both = combine([alone, volume_of(nothing, angles[1], weights.projections[1])], weights.shares)
    np.testing.assert_array_equal(both, alone)


def test_a_window_in_which_nothing_was_measured_is_not_a_number():
    angles = [scans.planned_rotations_deg(scan_of(), 0)]
    nothing = np.full((LINES, TRANSLATIONS, len(SHOWN)), np.nan, np.float32)
    weights = weigh_window(angles, [usable_projections(nothing)])
    assert np.isnan(combine([volume_of(nothing, angles[0], weights.projections[0])], weights.shares)).all()


@given(st.lists(st.lists(st.tuples(st.floats(0, 360), st.booleans()), min_size=1, max_size=6), min_size=1, max_size=5))
def test_sets_times_their_shares_are_the_weights_of_all_projections(sets):
    angles = [np.array([angle for angle, _ in members]) for members in sets]
    usable = [np.array([use for _, use in members]) for members in sets]
    weights = weigh_window(angles, usable)
    together = np.concatenate([w * share for w, share in zip(weights.projections, weights.shares, strict=True)])
    used = np.concatenate(usable)
    np.testing.assert_allclose(together[used], angular_weights(np.concatenate(angles)[used]))
    assert (together[~used] == 0).all()
    if used.any():
        assert weights.shares.sum() == pytest.approx(1)


def test_marks_of_use_must_fit_the_angles():
    with pytest.raises(ShapeError, match="do not fit"):
        weigh_window([np.zeros(3)], [np.ones(2, bool)])
