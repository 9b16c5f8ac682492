"""Sets are told by the plan, by a data key, or by the motion itself, whatever goes wrong in between."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operandi.errors import ShapeError
from operandi.experiment import Scan
from operandi.stages import scans
from operandi.stages.motion import AGREEING, Placement, Track, place

LINES, TRANSLATIONS = 10, 9
ORDERS = [
    {"interlaces": 1},
    {"interlaces": 2},
    {"interlaces": 4, "order": "bit-reversed"},
    {"order": "golden"},
    {"order": "golden", "rotation_range_deg": 360.0, "travel": "forward"},
    {"interlaces": 3, "rotation_range_deg": 360.0, "translation_start_mm": 1.0, "translation_stop_mm": -1.0},
    {"interlaces": 1, "inner": "rotation"},
    {"interlaces": 2, "inner": "rotation", "rotation_range_deg": 360.0, "travel": "forward"},
]


def scan_of(**fields) -> Scan:
    plain = {
        "sets": 5, "rotations_per_set": LINES, "translations": TRANSLATIONS, "translation_start_mm": -1.0, "translation_stop_mm": 1.0,
        "exposure_s": 1.0, "sets_by": "motion",
    }  # fmt: skip
    return Scan.model_validate(plain | fields)


@dataclass(frozen=True)
class Measured:
    """Exposures with what the encoders read, and the set and index that they truly have."""

    rotation: np.ndarray
    translation: np.ndarray
    set: np.ndarray
    index: np.ndarray

    def __getitem__(self, chosen) -> "Measured":
        return Measured(self.rotation[chosen], self.translation[chosen], self.set[chosen], self.index[chosen])


def measure(scan: Scan, *, noise: float = 0.1, seed: int = 0) -> Measured:
    """The whole scan; ``noise`` of the encoders in parts of the distance of neighbouring angles, and of the pitch."""
    random, routes = np.random.default_rng(seed), [scans.route(scan, number) for number in range(scan.sets)]
    rotation, translation = (np.concatenate([getattr(r, name) for r in routes]) for name in ("rotation_deg", "translation_mm"))
    cycle = scan.sets if scan.order == "golden" else scan.interlaces
    spacing = scan.rotation_range_deg / scan.rotations_per_set / cycle
    if scan.inner == "rotation" and scan.travel == "forward" and scan.rotation_range_deg == 360:
        rotation = rotation + 360.0 * (np.arange(rotation.size) // scan.rotations_per_set)
    return Measured(
        rotation + np.clip(noise * random.standard_normal(rotation.size), -0.45, 0.45) * spacing,
        translation + np.clip(noise * random.standard_normal(rotation.size), -0.45, 0.45) * 2 / (TRANSLATIONS - 1),
        np.repeat(np.arange(scan.sets), len(routes[0].line)),
        np.concatenate([r.index for r in routes]),
    )


def placed(scan: Scan, measured: Measured, track: Track | None = None) -> Placement:
    return place(scan, track or Track(), measured.rotation, measured.translation, np.arange(1, measured.set.size + 1))[1]


def assert_right(scan: Scan, measured: Measured, *, lost: int = 0) -> None:
    """Every exposure is placed right or not at all, and of those not more than ``lost``."""
    found = placed(scan, measured)
    seen = found.set >= 0
    np.testing.assert_array_equal(found.set[seen], measured.set[seen])
    np.testing.assert_array_equal(found.index[seen], measured.index[seen])
    assert np.count_nonzero(~seen) <= lost, np.flatnonzero(~seen)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_the_motion_of_a_whole_scan_tells_every_place(order):
    scan = scan_of(**order)
    assert_right(scan, measure(scan, noise=0.15))


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_missing_exposures_do_not_mislead(order):
    scan = scan_of(**order)
    measured = measure(scan)
    keep = np.random.default_rng(1).random(measured.set.size) > 0.05
    assert_right(scan, measured[keep])


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_set_that_stops_early_is_followed_by_the_next(order):
    scan = scan_of(**order)
    measured, images = measure(scan), LINES * TRANSLATIONS
    # Without interlaces a set that stops in its first line looks like a pause in the next.
    first = [1] if scan.interlaces > 1 or scan.order == "golden" else []
    for stopped in (*first, int(0.4 * images), int(0.4 * images) + 4, images - 1):
        keep = ~((measured.set == 1) & (np.arange(measured.set.size) % images >= stopped))
        assert_right(scan, measured[keep])


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_what_a_pause_repeats_finds_its_place_again(order):
    scan = scan_of(**order)
    sequence = list(range(LINES * TRANSLATIONS * scan.sets))
    length = scans.images_per_set(scan) // scans.sweeps_per_set(scan)
    for at in (3 * length + 5, 14 * length + 2, 22 * length):
        again = [i for i in sequence if i < at][-(at % length + (length if at % length == 0 else 0)) :]
        position = sequence.index(at)
        sequence[position:position] = again
    assert_right(scan, measure(scan)[np.array(sequence)])


@pytest.mark.parametrize("order", [o for o in ORDERS if o.get("interlaces") != 1], ids=str)
def test_a_set_begun_again_is_the_same_set_where_the_angles_tell(order):
    scan = scan_of(**order)
    images = LINES * TRANSLATIONS
    sequence = np.concatenate([np.arange(images + int(0.4 * images)), np.arange(images, scan.sets * images)])
    assert_right(scan, measure(scan)[sequence], lost=AGREEING - 1)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_stretch_that_never_came_costs_two_exposures_more_at_most(order):
    scan = scan_of(**order)
    images = LINES * TRANSLATIONS
    keep = np.ones(scan.sets * images, bool)
    keep[images // 2 : images // 2 + 3 * max(LINES, TRANSLATIONS) + 4] = False
    assert_right(scan, measure(scan)[keep], lost=AGREEING - 1)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_single_wrong_angle_never_moves_what_follows(order):
    scan = scan_of(**order)
    measured, random = measure(scan), np.random.default_rng(2)
    wrong = np.arange(13, measured.set.size, 37)
    measured.rotation[wrong] = random.uniform(0, scan.rotation_range_deg, wrong.size)
    measured.rotation[wrong[0]] = np.nan
    found = placed(scan, measured)
    rest = np.setdiff1d(np.arange(measured.set.size), wrong)
    good = found.set[rest] == measured.set[rest]
    assert np.count_nonzero(~good) <= (AGREEING - 1) * wrong.size // 4
    assert (found.set[rest][~good] < 0).all()
    np.testing.assert_array_equal(found.index[rest][good], measured.index[rest][good])


@given(st.sampled_from(ORDERS), st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 5))
def test_exposures_are_placed_the_same_one_by_one_and_all_at_once(order, blocks, seed):
    scan, random = scan_of(**order, sets=3), np.random.default_rng(seed)
    measured = measure(scan, seed=seed)
    measured = measured[np.sort(random.permutation(measured.set.size)[:200])]
    measured.rotation[random.permutation(200)[:10]] += 50
    track, parts, first = Track(), [], 0
    for size in [*blocks, 1000]:
        part = measured[slice(first, first + size)]
        track, found = place(scan, track, part.rotation, part.translation, np.arange(part.set.size) + first + 1)
        parts.append(found)
        first += size
    at_once = placed(scan, measured)
    np.testing.assert_array_equal(np.concatenate([p.set for p in parts]), at_once.set)
    np.testing.assert_array_equal(np.concatenate([p.index for p in parts]), at_once.index)


def test_a_rotation_that_runs_through_half_turns_finds_its_lines():
    scan = scan_of(interlaces=2)
    measured = measure(scan)
    on = Measured(measured.rotation + 180.0 * measured.set, measured.translation, measured.set, measured.index)
    assert_right(scan, on)


def test_what_comes_after_the_last_set_is_beyond_the_plan():
    scan = scan_of(interlaces=1, sets=2)
    measured = measure(scan)
    found = placed(scan, measured[np.concatenate([np.arange(180), np.arange(60)])])
    assert (found.set[180:] == -1).all()
    assert (found.index[180:] == -1).all()


def test_positions_off_the_grid_are_not_placed():
    scan = scan_of(interlaces=1)
    measured = measure(scan)
    measured.translation[[4, 40]] = [1.3, np.nan]
    found = placed(scan, measured)
    np.testing.assert_array_equal(found.set[[4, 40]], -3)
    assert (np.delete(found.set, [4, 40]) >= 0).all()


# By the plan and by a key


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_number_of_the_set_tells_every_place_whatever_is_missing(order):
    scan = scan_of(**order, sets_by="key", keys={"set": "pass"})
    measured = measure(scan, noise=0.15)
    measured = measured[np.random.default_rng(4).permutation(measured.set.size)[:300]]
    _, found = place(scan, Track(), measured.rotation, measured.translation, np.zeros(300, int), measured.set.astype(float))
    np.testing.assert_array_equal(found.set, measured.set)
    np.testing.assert_array_equal(found.index, measured.index)


def test_numbers_that_no_set_has_are_not_placed():
    scan = scan_of(sets_by="key", keys={"set": "pass"})
    numbers = np.array([-1, 5, 0.5, np.nan, np.inf, 4])
    _, found = place(scan, Track(), np.zeros(6), np.zeros(6), np.arange(6), numbers)
    np.testing.assert_array_equal(found.set, [-1, -1, -1, -1, -1, 4])
    with pytest.raises(ShapeError, match="keys.set"):
        place(scan, Track(), np.zeros(6), np.zeros(6), np.arange(6))


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_by_the_plan_only_the_number_of_the_exposure_counts(order):
    scan = scan_of(**order, sets_by="plan")
    measured = measure(scan)
    _, found = place(scan, Track(), np.full(450, np.nan), np.full(450, np.nan), np.arange(1, 451))
    np.testing.assert_array_equal(found.set, measured.set)
    np.testing.assert_array_equal(found.index, measured.index)
