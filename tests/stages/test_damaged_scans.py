"""Scans with gaps, repeats and a set that stopped early: from exposures in the order of the motion to a tomogram."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from operandi.experiment import Scan
from operandi.simulate.beamline import fit_cell
from operandi.simulate.phantom import PHASES, SPECIES
from operandi.simulate.projections import line_integrals, truth
from operandi.simulate.schedules import Schedule
from operandi.stages import scans
from operandi.stages.gaps import plan_fill
from operandi.stages.motion import Track, place
from operandi.stages.sinograms import assemble, usable_projections
from operandi.stages.volumes import partial_volume

AXIS_MM, CHARGE_MAH = 0.05, 14.0
SETS, LINES, TRANSLATIONS = 4, 40, 61  # 160 angles; to resolve 61 positions takes π/2 · 61 = 96
SHOWN = ("copper", "aluminium", "LiC12", "separator", "casing")
ORDERS = ("sequential", "bit-reversed", "golden")


def scan_of(order: str = "sequential", lines: int = LINES) -> Scan:
    return Scan.model_validate({
        "sets": SETS, "rotations_per_set": lines, "translations": TRANSLATIONS, "translation_start_mm": -4.2, "translation_stop_mm": 4.2,
        "exposure_s": 0.1, "interlaces": 4, "window_sets": 4, "order": order, "sets_by": "motion",
    })  # fmt: skip


SCHEDULE = Schedule(scan_of(), AXIS_MM)
CELL = fit_cell(SCHEDULE)


@cache
def projection(rotation_deg: float) -> np.ndarray:
    lengths = line_integrals(CELL, rotation_deg, SCHEDULE.translations_mm - AXIS_MM, np.full(TRANSLATIONS, CHARGE_MAH))
    return lengths[:, [SPECIES.index(name) for name in SHOWN]].astype(np.float32)


@cache
def expected() -> np.ndarray:
    return truth(CELL, np.array([CHARGE_MAH]), SCHEDULE.pitch_mm).maps[[PHASES.index(name) for name in SHOWN]]


def error(volume: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.moveaxis(volume, -1, 0) - expected()) ** 2)))


def volume_of(sinogram: np.ndarray, rotation_deg: np.ndarray) -> np.ndarray:
    return partial_volume(sinogram, rotation_deg, SCHEDULE.translations_mm, AXIS_MM)


@dataclass(frozen=True)
class Exposed:
    """Exposures in the order in which they were made, each array (n, …), and the place of each in the plan, (set, index)."""

    rotation_deg: np.ndarray
    translation_mm: np.ndarray
    pattern: np.ndarray
    planned: np.ndarray


def expose(scan: Scan, seed: int = 3) -> Exposed:
    """Of four sets 5 % of the projections are missing, the third stopped after 40 %, a pause repeats some, and single ones are lost."""
    lines = scan.rotations_per_set
    random, images, sequence = np.random.default_rng(seed), lines * TRANSLATIONS, []
    routes = [scans.route(scan, number) for number in range(SETS)]
    for number, route in enumerate(routes):
        keep = (random.random(lines) > 0.05)[route.line] & (random.random(images) > 0.003)
        if number == 2:
            keep[int(0.4 * images) :] = False
        sequence += [(number, order) for order in np.flatnonzero(keep)]
    sequence[700:700] = [place for place in sequence[:700] if place >= (0, sequence[699][1] // TRANSLATIONS * TRANSLATIONS)]
    chosen = np.array(sequence)
    line, column, index, rotation, translation = (
        np.stack([getattr(route, name) for route in routes])[chosen[:, 0], chosen[:, 1]]
        for name in ("line", "column", "index", "rotation_deg", "translation_mm")
    )
    shadows = np.stack([[projection(float(angle)) for angle in scans.planned_rotations_deg(scan, number)] for number in range(SETS)])
    return Exposed(
        rotation + 0.003 * random.standard_normal(len(chosen)),
        translation + 0.0015 * random.standard_normal(len(chosen)),
        shadows[chosen[:, 0], line, column],
        np.stack([chosen[:, 0], index], axis=1),
    )


def sinograms_of(scan: Scan, exposed: Exposed) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Angles, sinogram and coverage of each set, with every exposure placed by its motion."""
    _, found = place(scan, Track(), exposed.rotation_deg, exposed.translation_mm, np.zeros(len(exposed.rotation_deg), int))
    angles, values, coverage = [], [], []
    for number in range(SETS):
        here = np.flatnonzero(found.set == number)
        line, column = found.index[here] // TRANSLATIONS, scans.column(scan, exposed.translation_mm[here])
        sinogram = assemble(exposed.pattern[here], line, column, scan.rotations_per_set, TRANSLATIONS)
        angles.append(scans.line_rotations_deg(scan, number, line, exposed.rotation_deg[here]))
        values.append(sinogram.values)
        coverage.append(sinogram.coverage)
    return angles, values, coverage


def test_without_wide_gaps_nothing_is_inserted():
    for order in ORDERS:
        angles = np.concatenate([scans.planned_rotations_deg(scan_of(order), number) for number in range(SETS)])
        assert plan_fill(np.ones((len(angles), TRANSLATIONS, 1)), angles, SCHEDULE.translations_mm, AXIS_MM) is None


@pytest.mark.parametrize("lines", [LINES, 24], ids=["with sampling to spare", "at the limit of sampling"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_damaged_scan_of_any_order_is_nearly_as_good_as_equidistant_projections(order, lines):
    scan = scan_of(order, lines)
    angles, sinograms, _ = sinograms_of(scan, expose(scan))
    sinogram, rotation = np.concatenate(sinograms), np.concatenate(angles)
    fill = plan_fill(sinogram, rotation, SCHEDULE.translations_mm, AXIS_MM)
    assert fill is not None
    found = error(volume_of(fill.fill(sinogram), fill.rotation_deg))

    counts = [int(usable_projections(s).sum()) for s in sinograms]
    assert counts[2] <= 0.4 * lines + 1
    equidistant = np.arange(sum(counts)) * 180.0 / sum(counts)
    best = error(volume_of(np.stack([projection(float(a)) for a in equidistant]), equidistant))
    assert found < 1.2 * best
    assert found < error(volume_of(sinogram, rotation))
    # Why a window is one back projection: the mean of its sets' own tomograms gives one that stopped early too much.
    mean_of_sets = np.average([volume_of(s, a) for s, a in zip(sinograms, angles, strict=True)], axis=0, weights=counts)
    assert found < 0.9 * error(mean_of_sets)


@pytest.mark.parametrize("order", ORDERS)
def test_what_was_not_measured_has_no_coverage_and_no_value(order):
    scan = scan_of(order)
    exposed = expose(scan)
    _, sinograms, coverage = sinograms_of(scan, exposed)
    measured = np.zeros((SETS, LINES * TRANSLATIONS), bool)
    measured[exposed.planned[:, 0], exposed.planned[:, 1]] = True
    for number in range(SETS):
        index = scans.route(scan, number)
        planned = np.zeros((LINES, TRANSLATIONS), bool)
        planned[index.line, index.column] = measured[number][index.index]
        assert not coverage[number][~planned].any()
        assert np.count_nonzero(coverage[number] != planned) <= 2 * LINES  # two exposures wait at every leap over a missing line
        np.testing.assert_array_equal(np.isnan(sinograms[number]).all(axis=-1), coverage[number] == 0)
        assert coverage[number].max() == 1


def test_an_exposure_that_was_repeated_counts_once_and_the_last_time():
    scan = scan_of()
    exposed = expose(scan)
    cell = exposed.planned @ [LINES * TRANSLATIONS, 1]
    cells, first, count = np.unique(cell, return_index=True, return_counts=True)
    assert (count.max(), np.count_nonzero(count > 1)) == (2, 32)
    exposed.pattern[first[count > 1]] *= 7.0  # what came before the pause is wrong, its repetition right
    _, sinograms, coverage = sinograms_of(scan, exposed)
    (line,) = set(cells[count > 1] // TRANSLATIONS)
    covered = coverage[0][line] == 1
    assert np.count_nonzero(covered) > TRANSLATIONS - 5
    np.testing.assert_array_equal(sinograms[0][line][covered], projection(float(scans.planned_rotations_deg(scan, 0)[line]))[covered])
