"""Frames after their commit: whatever the scan and however it ends, the extras are there or say why not, and never cost the frame."""

from typing import Any

import numpy as np
import pytest

from operandi import pipeline
from operandi.experiment import Experiment
from operandi.nodes import CONVERGENCE, FINISHED, STEPS, Block, Rows
from operandi.pipeline import Images, LogEnded, LogRows, Positions, RunEnded
from operandi.pipeline.completion import moment_of, sets_behind
from operandi.pipeline.phases import PhaseSet, View, course_of
from operandi.stages import scans
from operandi.stages.charge import Log
from operandi.stages.patterns import Patterns

ROTATIONS, TRANSLATIONS, BINS = 6, 11, 40
PER_SET = ROTATIONS * TRANSLATIONS
Q = np.linspace(1.0, 3.0, BINS)


class Given:
    """An integrator that takes the images for patterns: the counts of one row of pixels, one for each bin."""

    q, shape, correlation = Q, (1, BINS), None

    def __call__(self, images: np.ndarray) -> Patterns:
        values = images[:, 0].astype(np.float32)
        return Patterns(values, np.sqrt(np.maximum(values, 1)), np.ones_like(values))


def experiment(potentiostat: bool = False, **scan: Any) -> Experiment:
    content: dict[str, Any] = {
        "sample": {"name": "disc"},
        "geometry": {"poni": "none.poni"},
        "integration": {"q_min_inv_angstrom": 1.0, "q_max_inv_angstrom": 3.0},
        "scan": {
            "sets": 3, "rotations_per_set": ROTATIONS, "translations": TRANSLATIONS,
            "translation_start_mm": -1.0, "translation_stop_mm": 1.0, "exposure_s": 1.0, **scan,
        },
        "reconstruction": {"axis_mm": 0.05},
        "windows": [{"phase": "a", "q_min_inv_angstrom": 1.4, "q_max_inv_angstrom": 1.6}],
        "composites": [],
    }  # fmt: skip
    return Experiment.model_validate(content | ({"potentiostat": {"file": "log.mpt"}} if potentiostat else {}))


def images(of: Experiment, count: int | None = None) -> list[Images]:
    """The first ``count`` exposures of a disc whose line grows, set by set."""
    events, last = [], of.scan.sets * PER_SET if count is None else count
    for number in range(-(-last // PER_SET)):
        route, seq_num = scans.route(of.scan, number), np.arange(number * PER_SET + 1, min((number + 1) * PER_SET, last) + 1)
        rotation, translation = route.rotation_deg[: len(seq_num)], route.translation_mm[: len(seq_num)]
        way = np.sqrt(np.clip(1 - ((translation - 0.05 - 0.2 * np.cos(np.deg2rad(rotation))) / 0.5) ** 2, 0, None))
        mean = 5 + np.outer(way * (1 + seq_num / PER_SET), 100 * np.exp(-(((Q - 1.5) / 0.05) ** 2))) + 20 * way[:, None]
        counts = np.random.default_rng(number).poisson(mean)[:, None]
        events.append(Images(seq_num, counts, Positions(rotation, translation, np.full(len(seq_num), 7.0), 1.7e9 + seq_num)))
    return events


def log_until(end: float) -> Log:
    time = np.arange(1.7e9 - 10, end, 5.0)
    none = np.zeros(len(time), np.int64)
    return Log(time, 3.6 + 1e-4 * (time - 1.7e9), np.full(len(time), 10.0), 0.01 * (time - 1.7e9), none, none)


class Run:
    """What a run published: blocks by path and offset, and rows by table."""

    def __init__(self, of: Experiment, *events: Any) -> None:
        self.blocks: dict[tuple[tuple[str, ...], int], np.ndarray] = {}
        self.rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        self.order: list[tuple[str, ...]] = []
        self.state, _ = pipeline.begin(of, Given())  # pyright: ignore[reportArgumentType]
        for event in events:
            for product in pipeline.step(self.state, event):
                if isinstance(product, Block):
                    self.blocks[product.path, product.offset[0]] = np.array(product.data)
                elif isinstance(product, Rows):
                    names = list(product.columns)
                    rows = zip(*product.columns.values(), strict=True)
                    self.rows.setdefault(product.path, []).extend(dict(zip(names, row, strict=True)) for row in rows)
                    self.order.append(product.path)

    def frames(self, path: tuple[str, ...]) -> list[int]:
        return [int(row["frame"]) for row in self.rows.get(path, [])]


def same_extras(one: Run, other: Run) -> None:
    for key, values in one.blocks.items():
        if key[0][0] in ("projections", "moments", "instants"):
            np.testing.assert_array_equal(values, other.blocks[key], err_msg=str(key))
    for table in (FINISHED, CONVERGENCE):
        assert str(one.rows[table]) == str(other.rows[table])


@pytest.mark.parametrize(
    "scan",
    [
        {},
        {"sets": 5, "interlaces": 4, "window_sets": 4, "order": "bit-reversed"},
        {"order": "golden"},
        {"inner": "rotation"},
        {"sets": 4, "window_sets": 1},
        {"sets": 5, "window_sets": 2, "window_step": 2},
    ],
    ids=["plain", "bit-reversed", "golden", "rotation", "single sets", "steps of two"],
)
def test_every_scan_finishes_every_frame(scan):
    of = experiment(**scan)
    run = Run(of, *images(of), RunEnded("success"))
    assert run.frames(STEPS) == run.frames(FINISHED) == list(range(len(scans.spans(of.scan))))
    assert run.state.finished
    for frame in run.frames(STEPS):
        assert np.isfinite(run.blocks[("moments", "time"), frame]).all()
        assert np.isfinite(run.blocks[("instants", "intensity"), frame]).all()


def test_a_run_of_one_set_has_its_frame_and_says_why_it_has_no_instant():
    of = experiment(sets=1, window_sets=1)
    run = Run(of, *images(of), RunEnded("success"))
    assert run.frames(STEPS) == [0]
    assert "a single set" in run.rows[FINISHED][0]["reason"]
    assert np.isnan(run.blocks[("instants", "intensity"), 0]).all()
    assert np.isfinite(run.blocks[("moments", "time"), 0]).all()
    assert run.rows[CONVERGENCE][0]["changed"] == -1
    assert np.isnan(run.rows[CONVERGENCE][0]["drift"])


def test_a_run_that_is_aborted_finishes_what_it_has():
    of = experiment(sets=6)
    run = Run(of, *images(of, 3 * PER_SET + 20), RunEnded("abort", "beam lost"))
    assert run.frames(FINISHED) == run.frames(STEPS)
    assert run.frames(STEPS)[:2] == [0, 1]
    assert run.state.finished


def test_a_frame_is_provisional_until_the_sets_after_it_are_there_and_covered_by_the_log():
    of = experiment(potentiostat=True, sets=6)
    there = images(of)
    after = there[-1].positions.time[-1] + 100
    run = Run(of, LogRows(log_until(after)), *there[:3])
    assert run.frames(STEPS) == [0, 1]
    assert run.frames(FINISHED) == []
    assert np.isfinite(run.blocks[("instants", "intensity"), 0]).all()
    more = Run(of, LogRows(log_until(after)), *there[:4])
    assert more.frames(FINISHED) == [0]
    lagging = Run(of, LogRows(log_until(there[2].positions.time[-1] + 6)), *there[:4])
    assert lagging.frames(STEPS) == [0, 1]
    assert lagging.frames(FINISHED) == []


def test_when_the_log_comes_changes_nothing_of_what_is_final():
    of = experiment(potentiostat=True, sets=6)
    there = images(of)
    whole = log_until(there[-1].positions.time[-1] + 100)
    half = len(whole) // 2
    first = Run(of, LogRows(whole), *there, RunEnded("success"))
    last = Run(of, *there, RunEnded("success"), LogRows(whole))
    parts = Run(
        of, *there[:3], LogRows(whole.part(-np.inf, whole.time[half - 1])), *there[3:], LogRows(whole.after(half)), RunEnded("success")
    )
    assert first.frames(FINISHED) == [0, 1, 2, 3, 4]
    same_extras(first, last)
    same_extras(first, parts)
    assert {row["progress"] for row in first.rows[FINISHED]} == {"charge"}
    np.testing.assert_allclose([row["q_mah"] for row in first.rows[FINISHED]], [row["q_mah"] for row in first.rows[STEPS]])


def test_a_log_that_ends_early_leaves_the_last_frames_to_the_time():
    of = experiment(potentiostat=True, sets=6)
    there = images(of)
    run = Run(of, LogRows(log_until(there[3].positions.time[-1] + 6)), *there, RunEnded("success"), LogEnded("stopped"))
    assert [row["progress"] for row in run.rows[FINISHED]] == ["charge", "time", "time", "time", "time"]
    assert np.isnan(run.blocks[("moments", "charge"), 4]).all()
    assert np.isfinite(run.blocks[("moments", "charge"), 0]).all()
    assert np.isfinite(run.blocks[("instants", "sigma"), 4]).all()


def test_sets_that_no_frame_needs_are_let_go():
    of = experiment(sets=14)
    run = Run(of, *images(of))
    scan = of.scan
    assert len(run.state.completion.sets) <= len(sets_behind(scan, scans.spans(scan)[10]))


def test_the_moment_of_a_frame_is_the_passage_of_its_middle_charge_nearest_to_its_middle():
    time = np.array([0.0, 10, 20, 30])
    none = np.zeros(4, np.int64)
    log = Log(time, time, time, np.array([0.0, 6.0, 2.0, 8.0]), none, none)
    frame: Any = type("Frame", (), {"t_start": 0.0, "t_end": 30.0})
    found, charge = moment_of(frame, log, by_charge=True)
    assert (found, charge) == (15.0, 4.0)
    assert moment_of(frame, log, by_charge=False) == (15.0, 4.0)


def test_a_projection_that_takes_as_long_as_its_set_has_the_progress_of_its_stretches():
    random = np.random.default_rng(0)
    time = np.broadcast_to(np.arange(11.0), (6, 11))
    sets = [PhaseSet(s, np.arange(6) * 30.0, time + 11 * s, random.random((6, 11, 2)), np.ones((6, 11, 2))) for s in range(3)]
    course = course_of(sets, Log.empty(), View(np.linspace(-1, 1, 11), 0.0))
    assert course.projections.progress.shape == (18, 11)
    np.testing.assert_array_equal(course.projections.progress[0], time[0])
    assert View(np.linspace(-1, 1, 11), 0.0).maps(sets[0].intensity, sets[0].rotation_deg).shape == (2, 11, 11)
