"""Sets told by the plan, by a key or by the motion, and backlash: from exposures as they were made to what is published."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from analytic import Spot

from operandi import pipeline
from operandi.experiment import Experiment, Scan
from operandi.nodes import LEDGER, STEPS, Array, Block, Product, Rows
from operandi.pipeline import Event, Gap, Images, Positions, Refusal, RunEnded
from operandi.stages import scans
from operandi.stages.patterns import Patterns

SETS, LINES, TRANSLATIONS, PITCH, AXIS = 4, 12, 31, 0.1, 0.03
PER_SET = LINES * TRANSLATIONS
Q = np.linspace(1.0, 3.0, 12)
SAMPLE = (Spot(0.1, -0.1, 1.0, 1.0, True), Spot(0.45, 0.3, 0.2, 3.0, True), Spot(-0.5, -0.2, 0.15, 4.0, True))
Place = tuple[int, int]
"""Set, and which exposure of it in the order of the plan."""


class Given:
    """An integrator that takes images for patterns."""

    q, shape, correlation = Q, (1, len(Q)), None

    def __call__(self, images: np.ndarray) -> Patterns:
        values = images[:, 0].astype(np.float32)
        return Patterns(values, np.sqrt(values), np.ones_like(values))


def experiment(*, axis_mm: float | None = AXIS, **scan: object) -> Experiment:
    return Experiment.model_validate(
        {
            "sample": {"name": "spots"},
            "geometry": {"poni": "none.poni"},
            "integration": {"q_min_inv_angstrom": 1.0, "q_max_inv_angstrom": 3.0},
            "scan": {
                "sets": SETS, "rotations_per_set": LINES, "translations": TRANSLATIONS, "translation_start_mm": -1.5,
                "translation_stop_mm": 1.5, "exposure_s": 1.0, "interlaces": 4, "order": "bit-reversed", "window_sets": 4,
                "keys": {"set": "pass"}, **scan,
            },
            "corrections": {"monitor": False, "air": "none"},
            "reconstruction": {"axis_mm": axis_mm},
            "windows": [{"phase": "a", "q_min_inv_angstrom": 1.5, "q_max_inv_angstrom": 2.5}],
            "composites": [],
        }
    )  # fmt: skip


def everything() -> list[Place]:
    return [(number, order) for number in range(SETS) for order in range(PER_SET)]


def damaged() -> list[Place]:
    """Set 1 stopped after 40 %, and of the others one projection and 3 % of the exposures are missing; a pause repeats half a line."""
    random, places = np.random.default_rng(2), []
    for number in range(SETS):
        keep = random.random(PER_SET) > 0.03
        keep[4 * TRANSLATIONS : 5 * TRANSLATIONS] = number == 0
        keep[int(0.4 * PER_SET) :] &= number != 1
        places += [(number, order) for order in np.flatnonzero(keep).tolist()]
    return places[:100] + places[85:]


def exposures(scan: Scan, places: Sequence[Place], *, backlash: float = 0.0, made_up_for: bool = False) -> Images:
    """Exposures in the order in which they were made. ``made_up_for``: true positions are as planned, and what is read is not."""
    routes = [scans.route(scan, number) for number in range(SETS)]
    number, order = np.array(places).T
    line, rotation, planned = (
        np.array([getattr(routes[n], name)[i] for n, i in places]) for name in ("line", "rotation_deg", "translation_mm")
    )
    slack = np.where(scans.runs_backwards(scan, number, line), backlash, 0.0)
    read, true = (planned - slack, planned) if made_up_for else (planned, planned + slack)
    random = np.random.default_rng(7)
    rotation, read = rotation + 0.003 * random.standard_normal(len(places)), read + 0.0015 * random.standard_normal(len(places))
    way = np.zeros(len(places))
    for beam in (np.arange(5) - 2) / 5 * PITCH:  # as wide as the step
        for spot in SAMPLE:
            across = true + beam - spot.x * np.cos(np.deg2rad(rotation)) - spot.y * np.sin(np.deg2rad(rotation))
            way += replace(spot, x=0.0, y=0.0).project(np.zeros(1), across, AXIS)[0]
    patterns = np.outer(20 * way, 1 + np.arange(len(Q))) + 5.0
    seq_num = np.arange(1, len(places) + 1)
    times = 1.7e9 + seq_num.astype(float)
    return Images(seq_num, patterns[:, None, :], Positions(rotation, read, np.ones(len(places)), times, number.astype(float)))


def part(images: Images, first: int, stop: int) -> Images:
    at = images.positions
    assert at.set is not None
    values = (v[first:stop] for v in (at.rotation, at.translation, at.monitor, at.time, at.set))
    return Images(images.seq_num[first:stop], images.images[first:stop], Positions(*values))


def in_blocks(images: Images, length: int = 29) -> Iterator[Event]:
    for first in range(0, len(images.seq_num), length):
        yield part(images, first, first + length)


class Published:
    """What came out: the cells of arrays, their metadata, and the rows of tables."""

    def __init__(self, given: Experiment, *events: Event) -> None:
        self.arrays: dict[tuple[str, ...], np.ndarray] = {}
        self.metadata: dict[tuple[str, ...], dict] = {}
        self.rows: dict[tuple[str, ...], list[Rows]] = {}
        self.state, products = pipeline.begin(given, Given())  # pyright: ignore[reportArgumentType]
        self.take(products)
        for event in events:
            self.take(pipeline.step(self.state, event))

    def take(self, products: Iterator[Product] | list[Product]) -> None:
        for product in products:
            if isinstance(product, Array):
                self.arrays[product.path] = np.full(product.shape, product.fill, product.dtype)
                self.metadata[product.path] = dict(product.metadata)
            elif isinstance(product, Block):
                self._write(product)
            elif isinstance(product, Rows):
                self.rows.setdefault(product.path, []).append(product)

    def _write(self, block: Block) -> None:
        there, (first, stop) = self.arrays[block.path], (block.offset[0], block.offset[0] + len(block.data))
        if stop > len(there):
            rest = np.full((stop - len(there), *there.shape[1:]), np.nan, there.dtype)
            there = self.arrays[block.path] = np.concatenate([there, rest])
        there[first:stop] = block.data

    def table(self, path: tuple[str, ...], column: str) -> np.ndarray:
        return np.concatenate([rows.columns[column] for rows in self.rows[path]])

    def entries(self, status: str) -> list[int]:
        """The ``seq_num`` of what the ledger gives this status."""
        return self.table(LEDGER, "seq_num")[self.table(LEDGER, "status") == status].tolist()

    @property
    def sinogram(self) -> np.ndarray:
        return self.arrays["sinograms", "0000"]


def same(one: Published, other: Published) -> None:
    assert one.arrays.keys() == other.arrays.keys()
    for path, values in one.arrays.items():
        np.testing.assert_array_equal(values, other.arrays[path], err_msg="/".join(path))
    for column in ("entry", "seq_num", "status"):
        np.testing.assert_array_equal(one.table(LEDGER, column), other.table(LEDGER, column))


WAYS = ("key", "motion")


def test_an_undisturbed_scan_is_the_same_whatever_tells_its_sets():
    published = []
    for way in ("plan", *WAYS):
        given = experiment(sets_by=way)
        published.append(Published(given, *in_blocks(exposures(given.scan, everything())), RunEnded("success")))
        assert published[-1].table(STEPS, "coverage").tolist() == [1.0]
        assert sorted(published[-1].entries("admitted")) == list(range(1, SETS * PER_SET + 1))
    same(published[0], published[1])
    same(published[0], published[2])


@pytest.mark.parametrize("way", WAYS)
def test_a_set_that_is_cut_short_and_exposures_that_are_missing_leave_gaps_at_their_places_only(way):
    given = experiment(sets_by=way)
    published = Published(given, *in_blocks(exposures(given.scan, damaged())), RunEnded("success"))
    expected = np.zeros((SETS, LINES, TRANSLATIONS), bool)
    for number, order in damaged():
        route = scans.route(given.scan, number)
        expected[number, route.line[order], route.column[order]] = True
    rotation = np.array([scans.planned_rotations_deg(given.scan, n) for n in range(SETS)])
    measured = np.isfinite(published.sinogram[..., 0])
    wanted = expected.reshape(-1, TRANSLATIONS)[np.argsort(rotation.ravel())]
    assert not measured[~wanted].any()
    # By the motion, two exposures wait at every leap over what is missing; there are one for each missing line, and the aborted set.
    assert np.count_nonzero(measured != wanted) <= {"key": 0, "motion": 2 * SETS}[way]
    assert published.table(STEPS, "coverage").tolist() == [np.count_nonzero(measured) / measured.size]


@pytest.mark.parametrize("way", WAYS)
def test_every_exposure_is_once_in_the_ledger_under_its_own_number(way):
    given = experiment(sets_by=way)
    images = exposures(given.scan, damaged())
    published = Published(given, *in_blocks(images), RunEnded("success"))
    assert sorted(published.entries("admitted") + published.entries("refused")) == images.seq_num.tolist()
    reasons = dict(zip(published.table(LEDGER, "seq_num").tolist(), published.table(LEDGER, "reason").tolist(), strict=True))
    assert reasons[86] == "repeated as exposure 101, which counts in its place"
    rows = np.flatnonzero(published.table(LEDGER, "status") == "admitted")
    seq_num, entry = published.table(LEDGER, "seq_num")[rows], published.table(LEDGER, "entry")[rows]
    np.testing.assert_array_equal(published.arrays["patterns", "rotation"][entry], images.positions.rotation[seq_num - 1])


@pytest.mark.parametrize("way", WAYS)
def test_how_exposures_are_bundled_changes_nothing(way):
    given = experiment(sets_by=way)
    images = exposures(given.scan, damaged())
    one = Published(given, *in_blocks(images, 1), RunEnded("success"))
    same(one, Published(given, *in_blocks(images, 64), RunEnded("success")))
    same(one, Published(given, images, RunEnded("success")))


@pytest.mark.parametrize("way", WAYS)
def test_an_exposure_that_comes_again_under_its_number_takes_its_former_place(way):
    given = experiment(sets_by=way)
    images = exposures(given.scan, everything())
    wrong = Images(images.seq_num[40:45], 9 * images.images[40:45], part(images, 40, 45).positions)
    events = [part(images, 0, 40), wrong, part(images, 45, 200), part(images, 40, 45), part(images, 200, len(images.seq_num))]
    same(Published(given, images, RunEnded("success")), Published(given, *events, RunEnded("success")))


def test_an_exposure_that_comes_again_after_its_set_was_closed_is_refused():
    given = experiment(sets_by="motion")
    images = exposures(given.scan, everything())
    published = Published(given, images, part(images, 40, 42), RunEnded("success"))
    assert published.entries("refused") == [41, 42]
    same(Published(given, images), Published(given, images, part(images, 40, 42)))


def test_what_was_refused_or_never_came_is_told_without_a_place_where_only_the_motion_tells_it():
    given = experiment(sets_by="motion")
    images = exposures(given.scan, [place for place in everything() if place not in {(0, 10), (0, 11), (0, 12)}])
    images = Images(np.r_[1:11, 14 : len(images.seq_num) + 4], images.images, images.positions)
    events = [part(images, 0, 10), Refusal(11, "cut"), part(images, 10, len(images.seq_num)), Gap(12, 13, "no image came")]
    published = Published(given, *events, RunEnded("success"))
    where = {n: published.table(LEDGER, "seq_num").tolist().index(n) for n in (11, 12, 13)}
    assert [published.table(LEDGER, "status")[i] for i in where.values()] == ["refused", "missing", "missing"]
    assert [published.table(LEDGER, "reason")[i] for i in where.values()] == ["cut", "no image came", "no image came"]
    assert [published.table(LEDGER, "set")[i] for i in where.values()] == [-1, -1, -1]
    assert published.table(STEPS, "coverage")[0] == 1 - 3 / (SETS * PER_SET)


def test_a_key_that_names_no_set_and_a_place_that_is_not_planned_are_told():
    given = experiment(sets_by="key")
    images = exposures(given.scan, everything())
    assert images.positions.set is not None
    images.positions.set[5], images.positions.set[6], images.positions.translation[9] = 7.0, np.nan, 9.0
    published = Published(given, images, RunEnded("success"))
    reasons = dict(zip(published.table(LEDGER, "seq_num").tolist(), published.table(LEDGER, "reason").tolist(), strict=True))
    assert reasons[6] == reasons[7] == "pass names none of the sets 0 to 3"
    assert reasons[10] == "its rotation or translation lies at no planned position"
    assert published.entries("refused") == [6, 7, 10]


# Backlash


@cache
def clean() -> np.ndarray:
    given = experiment()
    return Published(given, *in_blocks(exposures(given.scan, everything())), RunEnded("success")).sinogram


@cache
def clean_frames() -> list[np.ndarray]:
    """The same of three frames of two sets each."""
    given = experiment(window_sets=2)
    published = Published(given, exposures(given.scan, everything()), RunEnded("success"))
    return [published.arrays["sinograms", f"{frame:04d}"] for frame in range(3)]


def deviation(found: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square of the differences, relative to that of the signal above air, where both are measured."""
    both = np.isfinite(found) & np.isfinite(wanted)
    return float(np.sqrt(np.mean((found - wanted)[both] ** 2) / np.mean((wanted - np.nanmin(wanted))[both] ** 2)))


@pytest.mark.parametrize("made_up_for", [False, True])
@pytest.mark.parametrize("steps", [-2.3, -0.6, 0.4, 1.0, 2.4])
def test_lines_that_run_backwards_are_brought_onto_the_grid_whether_true_positions_or_readings_are_off(steps, made_up_for):
    given = experiment(backlash_mm=steps * PITCH)
    images = exposures(given.scan, everything(), backlash=steps * PITCH, made_up_for=made_up_for)
    published = Published(given, *in_blocks(images), RunEnded("success"))
    assert published.entries("refused") == []
    uncovered = 0 if made_up_for else SETS * LINES // 2 * abs(round(steps))
    assert np.count_nonzero(np.isnan(published.sinogram[..., 0])) == uncovered
    wanted = clean()
    assert deviation(published.sinogram, wanted) < (0.01 if made_up_for else 0.04)
    raw = experiment()
    if not made_up_for:
        assert deviation(Published(raw, images, RunEnded("success")).sinogram, wanted) > 3 * deviation(published.sinogram, wanted)
    assert published.metadata["sinograms", "0000"]["backlash_mm"] == steps * PITCH


@pytest.mark.parametrize(("start", "stop"), [(-1.5, 1.5), (1.5, -1.5)])
def test_backwards_is_against_the_first_line_of_the_scan(start, stop):
    ends = {"translation_start_mm": start, "translation_stop_mm": stop}
    given = experiment(backlash_mm=0.13, **ends)
    images = exposures(given.scan, everything(), backlash=0.13)
    assert deviation(Published(given, images, RunEnded("success")).sinogram, clean()) < 0.04


@pytest.mark.parametrize("made_up_for", [False, True])
@pytest.mark.parametrize("steps", [-1.7, 0.4, 2.0])
def test_the_backlash_is_found_in_the_first_frame_and_told_with_its_uncertainty(steps, made_up_for):
    given = experiment(axis_mm=None, backlash_mm="auto", window_sets=2)
    images = exposures(given.scan, everything(), backlash=steps * PITCH, made_up_for=made_up_for)
    published = Published(given, *in_blocks(images), RunEnded("success"))
    told = [published.metadata["sinograms", f"{frame:04d}"] for frame in range(3)]
    assert abs(told[0]["backlash_mm"] - steps * PITCH) < 0.1 * PITCH
    assert 0 < told[0]["backlash_uncertainty_mm"] < 0.1 * PITCH
    assert len({(one["backlash_mm"], one["backlash_uncertainty_mm"], one["axis_mm"]) for one in told}) == 1
    assert abs(told[0]["axis_mm"] - AXIS) < 0.1 * PITCH
    for frame, wanted in enumerate(clean_frames()):
        assert deviation(published.arrays["sinograms", f"{frame:04d}"], wanted) < 0.06


def test_what_is_found_does_not_depend_on_how_exposures_are_bundled_or_on_what_tells_their_sets():
    def of(way: str, blocks: Callable[[Images], Iterator[Event]]) -> Published:
        given = experiment(axis_mm=None, backlash_mm="auto", sets_by=way)
        return Published(given, *blocks(exposures(given.scan, everything(), backlash=0.06)), RunEnded("success"))

    one = of("plan", lambda images: in_blocks(images, 1))
    same(one, of("plan", lambda images: in_blocks(images, 64)))
    same(one, of("key", in_blocks))
    same(one, of("motion", in_blocks))


@pytest.mark.parametrize("way", WAYS)
def test_readings_beyond_the_travel_find_their_sets_and_keep_their_cells(way):
    given = experiment(backlash_mm=0.2, sets_by=way)
    published = Published(given, *in_blocks(exposures(given.scan, everything(), backlash=0.2, made_up_for=True)), RunEnded("success"))
    assert published.entries("refused") == []
    assert published.table(STEPS, "coverage").tolist() == [1.0]
    assert deviation(published.sinogram, clean()) < 0.01


def test_a_missing_cell_stays_one_missing_cell_when_its_line_is_moved():
    given = experiment(backlash_mm=0.04)
    images = exposures(given.scan, everything(), backlash=0.04)
    refused = [Refusal(n, "cut") for n in (1, 45, 46)]
    keep = [i for i in range(len(images.seq_num)) if i + 1 not in (1, 45, 46)]
    events = [part(images, i, i + 1) for i in keep]
    published = Published(given, *refused, *events, RunEnded("success"))
    assert np.count_nonzero(np.isnan(published.sinogram[..., 0])) == 3
    assert published.table(STEPS, "coverage")[0] == 1 - 3 / (SETS * PER_SET)
    sigma = published.arrays["maps", "sigma"]
    assert np.isfinite(sigma).all()


def test_a_backlash_that_cannot_be_found_is_asked_for():
    given = experiment(backlash_mm="auto")
    forward_only = [(n, i) for n, i in everything() if not scans.runs_backwards(given.scan, n, i // TRANSLATIONS)]
    images = exposures(given.scan, forward_only)
    route = [scans.planned_seq_num(given.scan, n)[scans.route(given.scan, n).index] for n in range(SETS)]
    images = Images(np.array([route[n][i] for n, i in forward_only]), images.images, images.positions)
    published = Published(given, images, RunEnded("success"))
    assert STEPS not in published.rows
    (reason,) = [r for r in published.table(LEDGER, "reason") if "frame 0 is not reconstructed" in r]
    assert "give scan.backlash_mm" in reason
