"""Peaks and amounts of every voxel as products: declared where asked for, of the volume alone."""

from typing import Any

import numpy as np
import pytest
import xarray as xr
from pydantic import ValidationError

from operandi.companions import find_faults, load_references
from operandi.errors import AssetError
from operandi.experiment import Experiment
from operandi.nodes import Array, Block
from operandi.pipeline import voxels
from operandi.stages.decomposition import decompose
from operandi.stages.peaks import NOT_MEASURED

N, BINS = 21, 300
Q = 1.2 + (np.arange(BINS) + 0.5) * 0.01


class Given:
    """The axis of an integrator."""

    q, correlation = Q, None


def experiment(**sections: Any) -> Experiment:
    content = {
        "sample": {"name": "voxels"},
        "geometry": {"poni": "none.poni"},
        "integration": {"q_min_inv_angstrom": 1.2, "q_max_inv_angstrom": 4.2, "bins": BINS},
        "scan": {
            "sets": 2, "rotations_per_set": 10, "translations": N,
            "translation_start_mm": -1.0, "translation_stop_mm": 1.0, "exposure_s": 1.0,
        },
        "windows": [{"phase": "a", "q_min_inv_angstrom": 1.4, "q_max_inv_angstrom": 1.6}],
        "peaks": [{"name": "graphite", "q_min_inv_angstrom": 1.7, "q_max_inv_angstrom": 2.05}],
        "decomposition": {"references": [{"name": "graphite"}, {"name": "foil", "crystal": "aluminium"}]},
    }  # fmt: skip
    return Experiment.model_validate(content | sections)


def volume() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, x, q) of a graphite line of known position and area on a slope, with noise of 1; one voxel is not measured."""
    rng = np.random.default_rng(4)
    position, area = rng.uniform(1.82, 1.9, (N, N)), rng.uniform(4, 8, (N, N))
    shape = np.exp(-4 * np.log(2) * ((Q - position[..., None]) / 0.06) ** 2) / (0.06 * 1.0645)
    values = area[..., None] * shape + 30 - 4 * Q + rng.normal(size=(N, N, BINS))
    values[3, 5] = np.nan
    return values.astype(np.float32), position, area


def blocks(of: Experiment, values: np.ndarray) -> dict[str, np.ndarray]:
    references = {} if of.decomposition is None else load_references(of.decomposition, Q)
    found = list(voxels.blocks(0, values, Given(), of, references))  # pyright: ignore[reportArgumentType]
    return {"/".join(block.path): block.data[0] for block in found}


def test_position_and_area_of_a_peak_come_back_with_honest_errors_in_every_voxel():
    values, position, area = volume()
    found = blocks(experiment(decomposition=None), values)
    assert found["peaks/reason"][0, 3, 5] == NOT_MEASURED
    assert np.isnan(found["peaks/area"][0, 3, 5])
    for name, true in (("position", position), ("area", area)):
        pull = (found[f"peaks/{name}"][0] - true) / found[f"peaks/{name}_sigma"][0]
        assert np.isfinite(pull).sum() == N * N - 1
        # 440 voxels tell the width of their pulls to 3.4 %; sigma from the scatter of 35 points adds as much
        assert np.nanstd(pull) == pytest.approx(1.0, abs=0.15)
        assert abs(np.nanmean(pull)) < 0.2


def test_amounts_are_those_of_the_whole_volume_and_a_hole_stays_one():
    values, *_ = volume()
    of = experiment(peaks=())
    assert of.decomposition is not None
    found = blocks(of, values)
    whole = decompose(xr.DataArray(values, {"q": Q}, ("y", "x", "q")), load_references(of.decomposition, Q))
    np.testing.assert_allclose(found["amounts/value"], whole["amount"], rtol=1e-6)
    np.testing.assert_allclose(found["amounts/sigma"], whole["sigma"], rtol=1e-6)
    assert np.isnan(found["amounts/residual"][3, 5])
    assert found["amounts/value"].shape == (4, N, N)


def test_only_what_is_asked_for_is_declared_and_every_block_has_its_place():
    of = experiment()
    declared = {one.path: one for one in voxels.tree(of, "counts/mm") if isinstance(one, Array)}
    references = load_references(of.decomposition, Q) if of.decomposition else {}
    for block in voxels.blocks(0, volume()[0], Given(), of, references):  # pyright: ignore[reportArgumentType]
        assert isinstance(block, Block)
        assert block.data.shape[1:] == declared[block.path].shape[1:]
        assert block.data.dtype == declared[block.path].dtype
    assert not list(voxels.tree(experiment(peaks=(), decomposition=None), "counts/mm"))


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([{"name": "kryptonite"}], "there is no crystal"),
        ([{"name": "a", "crystal": "graphite"}, {"name": "b", "crystal": "graphite"}], "depend on each other"),
        ([{"name": "a", "file": "absent.dat"}], "is not there"),
        ([{"name": "a", "cif": "absent.cif"}], "absent.cif"),
    ],
)
def test_references_that_cannot_be_are_told_before_beamtime(references: list[dict], message: str):
    of = experiment(decomposition={"references": references})
    ((severity, field, said),) = find_faults(of)
    assert (severity, field) == ("error", "decomposition.references")
    assert message in said
    assert of.decomposition is not None
    with pytest.raises(AssetError, match=message):
        load_references(of.decomposition, Q)


@pytest.mark.parametrize(
    ("peak", "message"),
    [
        ({"q_max_inv_angstrom": 4.3}, "reaches beyond the q range"),
        ({"q_max_inv_angstrom": 1.75}, "more integration.bins"),
        ({"q_max_inv_angstrom": 1.0}, "above q_min"),
    ],
)
def test_a_peak_that_the_patterns_do_not_hold_is_refused(peak: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        experiment(peaks=[{"name": "a", "q_min_inv_angstrom": 1.7} | peak])
