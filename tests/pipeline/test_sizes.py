"""d* in the fold: made of the published volume alone, after the maps, where the experiment asks for it."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from operandi import fit_dstar, pipeline
from operandi.experiment import Experiment
from operandi.nodes import DEFECTS, PROVISIONAL, REGION_TABLE, STEPS, Array, Block, Container, Rows, Table
from operandi.pipeline import Images, Positions, RunEnded
from operandi.stages import scans
from operandi.stages.patterns import Patterns

ROTATIONS, TRANSLATIONS, BINS = 12, 15, 95
PER_SET = ROTATIONS * TRANSLATIONS
Q = 0.01 + (np.arange(BINS) + 0.5) * 0.002


class Given:
    """An integrator that takes the images for patterns: the counts of one row of pixels, one for each bin."""

    q, shape, correlation = Q, (1, BINS), None

    def __call__(self, images: np.ndarray) -> Patterns:
        values = images[:, 0].astype(np.float32)
        return Patterns(values, np.sqrt(np.maximum(values, 1)), np.ones_like(values))


def experiment(**sections: Any) -> Experiment:
    content = {
        "sample": {"name": "disc"},
        "geometry": {"poni": "none.poni"},
        "integration": {"q_min_inv_angstrom": 0.01, "q_max_inv_angstrom": 0.2, "bins": BINS},
        "scan": {
            "sets": 2, "rotations_per_set": ROTATIONS, "translations": TRANSLATIONS, "window_sets": 1, "interlaces": 1,
            "translation_start_mm": -1.0, "translation_stop_mm": 1.0, "exposure_s": 1.0,
        },
        "reconstruction": {"axis_mm": 0.0},
        "windows": [{"phase": "silicon", "q_min_inv_angstrom": 0.03, "q_max_inv_angstrom": 0.1, "background": "none"}],
        "composites": [],
    }  # fmt: skip
    return Experiment.model_validate(content | sections)


def exposures(of: Experiment, bundle: int = 45) -> list[Images]:
    """Each set line by line: a disc whose silicon has a d* of 11.8 nm in the first set and none in the second."""
    events = []
    r = Q / 0.0532
    profiles = [4e3 * r**-1.2 * (1 + r**20) ** (-2.2 / 20), 4e3 * r**-3.4]
    for number in range(of.scan.sets):
        route = scans.route(of.scan, number)
        way = np.sqrt(np.clip(1 - (route.translation_mm / 0.7) ** 2, 0, None))
        counts = np.random.default_rng(number).poisson(np.outer(way, profiles[number]) + 1)[:, None]
        seq_num = number * PER_SET + 1 + np.arange(PER_SET)
        for first in range(0, PER_SET, bundle):
            part = slice(first, first + bundle)
            at = Positions(route.rotation_deg[part], route.translation_mm[part], np.full(bundle, 7.0), 1.7e9 + seq_num[part])
            events.append(Images(seq_num[part], counts[part], at))
    return events


def published(of: Experiment, bundle: int = 45) -> list[Any]:
    state, products = pipeline.begin(of, Given())  # pyright: ignore[reportArgumentType]
    products = list(products)
    for event in [*exposures(of, bundle), RunEnded("success")]:
        for product in pipeline.step(state, event):
            products.append(Block(product.path, product.offset, product.data.copy()) if isinstance(product, Block) else product)
    return products


@pytest.fixture(scope="module")
def products() -> list[Any]:
    return published(experiment())


def block(products: list[Any], path: tuple[str, ...], frame: int) -> np.ndarray:
    (one,) = [p.data[0] for p in products if isinstance(p, Block) and p.path == path and p.offset[0] == frame]
    return one


def test_what_is_published_is_fit_dstar_of_the_published_volume(products):
    (about,) = [p.metadata for p in products if isinstance(p, Container) and p.path == ("dstar",)]
    for frame in range(2):
        volume = xr.DataArray(block(products, ("volumes", "intensity"), frame), {"q": Q}, ("y", "x", "q"))
        expected = fit_dstar(volume)
        np.testing.assert_array_equal(block(products, ("dstar", "value"), frame), expected["dstar"].values.astype(np.float32))
        np.testing.assert_array_equal(block(products, ("dstar", "sigma"), frame), expected["sigma"].values.astype(np.float32))
        reasons = np.array(about["reasons"])[block(products, ("dstar", "reason"), frame)]
        np.testing.assert_array_equal(reasons, expected["reason"])


def test_how_exposures_come_in_changes_no_bit(products):
    other = published(experiment(), bundle=12)
    for name in ("value", "sigma", "slope", "reason"):
        for frame in range(2):
            np.testing.assert_array_equal(block(products, ("dstar", name), frame), block(other, ("dstar", name), frame))


def test_a_frame_with_a_knee_shows_it_and_one_without_says_why_not(products):
    middle = (slice(5, 10), slice(5, 10))
    assert np.nanmedian(block(products, ("dstar", "value"), 0)[middle]) == pytest.approx(11.8, abs=0.3)
    assert np.isnan(block(products, ("dstar", "value"), 1)[middle]).mean() > 0.9


def test_it_comes_after_the_maps_and_before_the_commit(products):
    paths = [getattr(p, "path", None) for p in products if not isinstance(p, Array | Container | Table)]
    order = [paths.index(path) for path in (("maps", "intensity"), PROVISIONAL, ("volumes", "intensity"), ("dstar", "value"), STEPS)]
    assert order == sorted(order)


def test_an_experiment_without_small_angles_or_with_null_has_no_such_nodes():
    wide = experiment(
        integration={"q_min_inv_angstrom": 1.0, "q_max_inv_angstrom": 3.0, "bins": BINS},
        windows=[{"phase": "a", "q_min_inv_angstrom": 1.4, "q_max_inv_angstrom": 1.6}],
    )
    assert wide.dstar is None
    products = published(experiment(dstar=None))
    assert not [p for p in products if getattr(p, "path", ("",))[:1] == ("dstar",)]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"q_min_inv_angstrom": 0.005}, "beyond the q range"),
        ({"q_min_inv_angstrom": 0.15}, "2.5 times"),
        ({"q_min_inv_angstrom": 0.02, "q_max_inv_angstrom": 0.06}, "integration.bins"),
        ({"fit_from": 0.8}, "above fit_from"),
    ],
)
def test_a_range_that_cannot_tell_is_refused_with_the_remedy(section, message):
    with pytest.raises(ValueError, match=message):
        experiment(dstar=section)


def test_where_no_winding_can_be_followed_the_table_of_regions_says_why(products):
    rows = [p.columns for p in products if isinstance(p, Rows) and p.path == REGION_TABLE]
    assert np.concatenate([one["entry"] for one in rows]).tolist() == list(range(6))
    assert rows[1]["frame"].tolist() == [1, 1, 1]
    for one in rows:
        assert one["region"].tolist() == ["normal", "bend", "agglomerate"]
        assert one["voxels"].tolist() == [0, 0, 0]
        assert all("15 × 15 voxels is too small" in reason for reason in one["reason"])
        assert np.isnan(one["dstar_nm"]).all()
    assert not block(products, ("regions", "label"), 0).any()
    assert np.isnan(block(products, ("regions", "score"), 1)).all()
    assert not [p for p in products if isinstance(p, Rows) and p.path == DEFECTS]


def test_regions_are_not_declared_where_no_d_star_is_asked_for():
    assert not [p for p in published(experiment(dstar=None)) if getattr(p, "path", ("",))[:1] == ("regions",)]
