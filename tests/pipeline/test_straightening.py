"""Wobble and drift in the fold: projections that lie off the axis are moved back where the experiment asks for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from operandi import pipeline
from operandi.experiment import Experiment
from operandi.nodes import LEDGER, Block, Rows
from operandi.pipeline import Images, Positions, RunEnded
from operandi.stages import scans
from operandi.stages.patterns import Patterns

ROTATIONS, TRANSLATIONS, BINS = 40, 41, 12
PER_SET, PITCH = ROTATIONS * TRANSLATIONS, 0.05
BLOBS = [(0.35, 0.2, 0.22), (-0.4, 0.1, 0.15), (0.05, -0.45, 0.18), (-0.1, 0.5, 0.1), (0.0, 0.0, 0.3)]
"""Centre x, y and radius of each, mm."""


class Given:
    """An integrator that takes the images for patterns: the counts of one row of pixels, one for each bin."""

    q, shape, correlation = 1.0 + np.arange(BINS) * 0.1, (1, BINS), None

    def __call__(self, images: np.ndarray) -> Patterns:
        values = images[:, 0].astype(np.float32)
        return Patterns(values, np.sqrt(np.maximum(values, 1)), np.ones_like(values))


def experiment(wobble: bool, **sections: Any) -> Experiment:
    content = {
        "sample": {"name": "discs"},
        "geometry": {"poni": "none.poni"},
        "integration": {"q_min_inv_angstrom": 0.95, "q_max_inv_angstrom": 2.15, "bins": BINS},
        "scan": {
            "sets": 2, "rotations_per_set": ROTATIONS, "translations": TRANSLATIONS,
            "translation_start_mm": -1.0, "translation_stop_mm": 1.0, "exposure_s": 1.0,
        },
        "corrections": {"monitor": False, "air": "none", "wobble": wobble},
        "windows": [{"phase": "all", "q_min_inv_angstrom": 1.0, "q_max_inv_angstrom": 2.1, "background": "none"}],
    }  # fmt: skip
    return Experiment.model_validate(content | sections)


def displacements(number: int) -> np.ndarray:
    """(line,) mm: wobble of half a step, and a stage that has drifted by one and a half steps at the second set."""
    return np.random.default_rng(70 + number).normal(0, 0.5 * PITCH, ROTATIONS) + 1.5 * PITCH * number


def moves(number: int) -> np.ndarray:
    """(line, 3): what nobody can tell from a move of axis and sample within a set."""
    theta = np.deg2rad(scans.planned_rotations_deg(experiment(True).scan, number))
    return np.stack([np.ones(ROTATIONS), np.cos(theta), np.sin(theta)], axis=1)


def moved_only(number: int) -> np.ndarray:
    """(line,) mm: the move of the sample that is part of `displacements`."""
    basis = moves(number)
    return basis[:, 1:] @ np.linalg.lstsq(basis, displacements(number), rcond=None)[0][1:]


def paths(rotation_deg: np.ndarray, translation_mm: np.ndarray) -> np.ndarray:
    """Integrals over Gaussian blobs: smooth, as a beam as wide as its step makes all edges."""
    theta, total = np.deg2rad(rotation_deg), 0.0
    for x, y, radius in BLOBS:
        off = translation_mm - x * np.cos(theta) - y * np.sin(theta)
        total = total + 2 * radius * np.exp(-((off / radius) ** 2))
    return np.asarray(total)


def published(of: Experiment, by: Callable[[int], np.ndarray] = displacements, bundle: int = TRANSLATIONS) -> list[Any]:
    state, products = pipeline.begin(of, Given())  # pyright: ignore[reportArgumentType]
    products = list(products)
    events: list[Any] = []
    for number in range(of.scan.sets):
        route = scans.route(of.scan, number)
        line = np.arange(PER_SET) // TRANSLATIONS
        off = by(number)[line]
        expected = 1e4 * paths(route.rotation_deg, route.translation_mm - off)[:, None] + np.ones(BINS)
        counts = np.random.default_rng(number).poisson(expected)[:, None]
        seq_num = number * PER_SET + 1 + np.arange(PER_SET)
        for first in range(0, PER_SET, bundle):
            part = slice(first, first + bundle)
            at = Positions(route.rotation_deg[part], route.translation_mm[part], np.full(bundle, 7.0), 1.7e9 + seq_num[part])
            events.append(Images(seq_num[part], counts[part], at))
    for event in [*events, RunEnded("success")]:
        for product in pipeline.step(state, event):
            products.append(Block(product.path, product.offset, product.data.copy()) if isinstance(product, Block) else product)
    return products


def blocks(products: list[Any], *path: str) -> list[np.ndarray]:
    return [p.data for p in products if isinstance(p, Block) and p.path == path]


@pytest.fixture(scope="module")
def straight() -> list[Any]:
    return published(experiment(True))


def test_a_wobbling_and_drifting_scan_gives_nearly_the_map_of_a_steady_one(straight):
    steady, shaken = (published(experiment(False), by) for by in (moved_only, displacements))
    expected, before, after = (blocks(one, "maps", "intensity")[0][0, 0] for one in (steady, shaken, straight))
    off = [np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) for found in (before, after)]
    # 1 % is noise and interpolation: with thirty times fewer counts it is 5 %, the noise of the maps
    assert off[0] > 0.06
    assert off[1] < 0.015


def test_the_offsets_that_are_published_are_those_of_the_scan(straight):
    found = np.concatenate(blocks(straight, "wobble", "offset"))
    true = np.concatenate([displacements(0), displacements(1)])
    # one axis for both sets, so that the drift between them is known; but each has a move of the sample of its own
    basis = np.zeros((2 * ROTATIONS, 5))
    basis[:, 0] = 1
    basis[:ROTATIONS, 1:3], basis[ROTATIONS:, 3:] = moves(0)[:, 1:], moves(1)[:, 1:]
    left = (found - true) - basis @ np.linalg.lstsq(basis, found - true, rcond=None)[0]
    assert np.sqrt(np.mean(left**2)) < 0.15 * PITCH
    assert (np.concatenate(blocks(straight, "wobble", "sigma")) > 0).all()


def test_how_exposures_come_in_changes_no_bit(straight):
    other = published(experiment(True), bundle=82)
    for path in (("maps", "intensity"), ("volumes", "intensity"), ("wobble", "offset"), ("projections", "intensity")):
        for one, two in zip(blocks(straight, *path), blocks(other, *path), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_set_too_small_to_tell_is_used_as_measured_and_the_ledger_says_so():
    scan = experiment(True).scan.model_dump() | {"rotations_per_set": 1, "interlaces": 2}
    of = experiment(True, scan=scan, reconstruction={"axis_mm": 0.0})
    state, products = pipeline.begin(of, Given())  # pyright: ignore[reportArgumentType]
    said = []
    for number in range(2):
        route = scans.route(of.scan, number)
        counts = np.full((TRANSLATIONS, 1, BINS), 5)
        at = Positions(route.rotation_deg, route.translation_mm, np.full(TRANSLATIONS, 7.0), 1.7e9 + np.arange(TRANSLATIONS))
        list(pipeline.step(state, Images(number * TRANSLATIONS + 1 + np.arange(TRANSLATIONS), counts, at)))
    for product in pipeline.step(state, RunEnded("success")):
        if isinstance(product, Rows) and product.path == LEDGER:
            said += [reason for reason in product.columns["reason"] if reason]
    assert sum("its wobble is not known" in reason for reason in said) == 2
    assert products
