"""Lithium of frames from their projections: what was put in comes back, with honest errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from operandi.check import examine_windows
from operandi.experiment import LITHIUM_PHASES, Experiment
from operandi.nodes import Table
from operandi.pipeline.lithium import Contents, contents_of, row, strengths_of, totals_of, tree
from operandi.pipeline.phases import PhaseSet

STRENGTHS = {"lic12_strength": 1.2, "lic6_strength": 1.4, "delithiated_strength": 1.6}
LINES, CELLS = 12, 20


def experiment(lithium: dict[str, Any] | None = None, **sections: Any) -> Experiment:
    content = {
        "sample": {"name": "lithium"},
        "geometry": {"poni": "none.poni"},
        "integration": {"q_min_inv_angstrom": 1.2, "q_max_inv_angstrom": 5.0, "bins": 1000},
        "scan": {
            "sets": 2, "rotations_per_set": LINES, "translations": CELLS,
            "translation_start_mm": -1.0, "translation_stop_mm": 1.0, "exposure_s": 1.0,
        },
    }  # fmt: skip
    return Experiment.model_validate(content | sections | ({} if lithium is None else {"lithium": STRENGTHS | lithium}))


def measured(of: Experiment, graphite: Sequence[float], oxide: float, *, air: float = 0.0, seed: int | None = None) -> PhaseSet:
    """A set of a cell whose carbon is shared (graphite, LiC12, LiC6), and whose oxide holds so much lithium; with noise if seeded.

    ``air`` is subtracted as the pipeline does it: the mean of the rim, whose error all cells share.
    """
    lithiated = (oxide - 0.35) / 0.65
    amounts: dict[str, float] = dict(zip(LITHIUM_PHASES, (*graphite, lithiated, 1 - lithiated), strict=True))
    strength: dict[str, float] = dict(zip(LITHIUM_PHASES, (1.0, 1.2, 1.4, 1.0, 1.6), strict=True))
    shape, points = np.zeros((LINES, CELLS)), of.corrections.rim_points
    shape[:, points + 2 : -points - 2] = np.random.default_rng(3).uniform(0.5, 1, CELLS - 2 * points - 4)  # the same at all angles
    names = [window.phase for window in of.windows]
    intensity = np.stack([100 * shape * amounts.get(name, 0.5) * strength.get(name, 1.0) for name in names], axis=-1) + air
    variance = np.full(intensity.shape, 25.0)
    if seed is not None:
        intensity = intensity + 5.0 * np.random.default_rng(seed).normal(size=intensity.shape)
    if of.corrections.subtracts_rim:
        rim = np.r_[:points, -points:0]
        intensity = intensity - intensity[:, rim].mean(axis=(0, 1))
        variance = variance + variance[:, rim].mean(axis=(0, 1)) / (2 * points * LINES)
    return PhaseSet(0, np.arange(LINES) * 15.0, np.zeros((LINES, CELLS)), intensity.astype(np.float32), variance.astype(np.float32))


@pytest.mark.parametrize("air", ["rim", "none"])
def test_the_sum_of_a_projection_is_what_the_cell_holds_with_an_honest_error(air):
    """All cells share the error of the air, which the sum of a projection takes up once for each of its cells."""
    of = experiment({}, corrections={"air": air})
    (true, _), runs = totals_of([measured(of, (0.5, 0.3, 0.2), 0.6)], of), 400
    found = [totals_of([measured(of, (0.5, 0.3, 0.2), 0.6, air=40.0 * (air == "rim"), seed=seed)], of) for seed in range(runs)]
    pulls = np.array([(total - true) / np.sqrt(variance) for total, variance in found])
    np.testing.assert_allclose(pulls.mean(axis=0), 0, atol=4 / np.sqrt(runs))
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=4 / np.sqrt(2 * runs))


def test_cells_and_lines_that_were_not_measured_change_nothing():
    of = experiment({}, corrections={"air": "none"})
    whole = measured(of, (0.5, 0.3, 0.2), 0.6)
    torn = measured(of, (0.5, 0.3, 0.2), 0.6)
    for values in (torn.intensity, torn.variance):
        values[4, : CELLS // 2 + 1] = np.nan
        values[7, 1] = np.nan
    one, other = (contents_of([each], 5.0, of) for each in (whole, torn))
    np.testing.assert_allclose(other.lithium, one.lithium, rtol=1e-6)
    np.testing.assert_allclose(one.lithium, (0.35, 0.6), rtol=1e-6)
    nothing = PhaseSet(0, whole.rotation_deg, whole.time, whole.intensity * np.nan, whole.variance * np.nan)
    assert np.isnan(contents_of([nothing], 5.0, of).lithium).all()
    assert not contents_of([nothing], 5.0, of).known


def contents(charge: float, graphite: float, oxide: float, shift: float = 0.0) -> Contents:
    return Contents(charge, np.array([graphite, oxide]), np.array([0.003, 0.002]), np.array([[shift, 0, 0], [0, 0, 2 * shift]]))


def test_the_balance_counts_since_the_first_frame_and_errors_of_strengths_by_their_change():
    of = experiment({"graphite_mah": 30.0, "oxide_mah": 45.0})
    first, now = contents(3.0, 0.1, 0.9, shift=0.01), contents(13.0, 0.4, 0.7, shift=0.03)
    found = {name: values[0] for name, values in row(4, now, first, of).columns.items()}
    assert (found["frame"], found["reason"]) == (4, "")
    lost, gained = 45 * 0.2, 30 * 0.3
    for name, value in {"passed": 10.0, "oxide": lost, "graphite": gained, "residual": lost - gained, "unseen": 10 - gained}.items():
        assert found[f"{name}_mah"] == pytest.approx(value, abs=1e-9)
    counts = np.hypot(np.sqrt(2) * 0.003 * 30, np.sqrt(2) * 0.002 * 45)
    assert found["residual_sigma_mah"] == pytest.approx(np.sqrt(counts**2 + (0.02 * 30) ** 2 + (0.04 * 45) ** 2))
    assert found["graphite_sigma"] == pytest.approx(np.hypot(0.003, 0.03))
    own = {name: values[0] for name, values in row(0, first, first, of).columns.items()}
    assert (own["residual_mah"], own["residual_sigma_mah"]) == (0, 0)


@pytest.mark.parametrize(
    ("lithium", "now", "first", "reason"),
    [
        ({"graphite_mah": 30.0}, contents(np.nan, 0.4, 0.7), None, "the charge is unknown"),
        ({}, contents(13.0, 0.4, 0.7), contents(3.0, 0.1, 0.9), "lithium.graphite_mah is not given"),
        ({"graphite_mah": 30.0}, contents(13.0, np.nan, 0.7), contents(3.0, 0.1, 0.9), "no graphite stands above its noise"),
    ],
)
def test_what_is_not_known_is_nan_with_its_reason(lithium, now, first, reason):
    found = row(4, now, first, experiment({"oxide_mah": 45.0} | lithium)).columns
    assert reason in found["reason"][0]
    assert np.isnan(found["residual_mah"][0])
    assert found["oxide"][0] == 0.7


def test_the_balance_is_there_where_its_windows_are_and_says_what_lacks():
    assert experiment().lithium is not None
    (table,) = tree(experiment({"graphite_mah": 30.0}))
    assert isinstance(table, Table)
    assert table.metadata["strengths"]["LiC6"] == 1.4
    assert any("slice stands for the cell" in one for one in table.metadata["assumptions"])
    few = [{"phase": "graphite", "q_min_inv_angstrom": 1.82, "q_max_inv_angstrom": 1.9}]
    assert experiment(windows=few).lithium is None
    assert not list(tree(experiment(windows=few)))
    with pytest.raises(ValidationError, match="LiC12, LiC6, NMC lithiated, NMC delithiated are missing"):
        experiment({}, windows=few)
    with pytest.raises(ValidationError, match="delithiated_content must be below"):
        experiment({"lithiated_content": 0.3})


def test_strengths_heed_what_windows_hold_of_lines_that_wide():
    of = experiment()
    assert of.lithium is not None
    narrow, wide = (strengths_of(of, of.lithium.model_copy(update={"line_width_inv_angstrom": width})) for width in (0.004, 0.02))
    whole = strengths_of(of, of.lithium)
    assert narrow["LiC6"] == pytest.approx(whole["LiC6"], rel=0.03)  # of the same crystals
    assert wide["NMC delithiated"] > 2 * narrow["NMC delithiated"]  # 113 of the lithiated one lies at the edge of its window


def test_a_window_that_takes_its_own_line_for_background_is_found_before_the_beam_is_on():
    (fault,) = [one for one in examine_windows(experiment({"line_width_inv_angstrom": 0.04}), None) if one.field.startswith("lithium")]
    assert fault.severity == "error"
    assert "window of 'NMC lithiated' takes more of its lines" in fault.message
