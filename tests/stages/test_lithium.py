"""Lithium in both electrodes, against numbers put in."""

import numpy as np
import pytest
import xarray as xr

from operandi.errors import ShapeError
from operandi.stages.lithium import (
    NMC622,
    balance_lithium,
    carbon_strengths,
    lattice_of_oxide,
    lithium_in_graphite,
    lithium_in_oxide,
    lithium_of_lattice,
    lithium_of_spacing,
)
from operandi.stages.peaks import fit_peaks
from operandi.stages.reflections import reflections


def fit(q: np.ndarray, sigma: float) -> xr.Dataset:
    return xr.Dataset({"position": (("peak", "v"), [q]), "position_sigma": (("peak", "v"), np.full((1, len(q)), sigma))})


def test_110_and_113_of_a_known_cell_give_its_lattice_constants_with_honest_errors():
    lines, random = reflections("NMC622 lithiated"), np.random.default_rng(0)
    q_110, q_113 = (float(lines["q"].sel(reflection=hkl)) for hkl in ("110", "113"))
    found = lattice_of_oxide(fit(q_110 + 0.001 * random.normal(size=4000), 0.001), fit(q_113 + 0.001 * random.normal(size=4000), 0.001))
    for name, true in (("a", 2.868), ("c", 14.22)):
        pulls = (found[name] - true) / found[f"{name}_sigma"]
        assert float(pulls.mean()) == pytest.approx(0, abs=0.06)
        assert float(pulls.std()) == pytest.approx(1, abs=0.05)


def test_peaks_lead_to_lithium_from_end_to_end():
    """Patterns of an oxide half-way between the two of the table: fitted, indexed, turned into lithium."""
    q, a, c = np.arange(4.2, 4.8, 0.003), (2.868 + 2.823) / 2, 14.33
    q_110, q_113 = 4 * np.pi / a, np.sqrt((4 * np.pi / a) ** 2 + (6 * np.pi / c) ** 2)
    values = sum(60 * np.exp(-4 * np.log(2) * ((q - at) / 0.014) ** 2) for at in (q_110, q_113)) + 20
    random = np.random.default_rng(1)
    volume = xr.DataArray(values + random.normal(size=(50, q.size)), {"q": q}, ("v", "q"))
    cell = lattice_of_oxide(fit_peaks(volume, (4.3, 4.52)), fit_peaks(volume, (4.52, 4.72)))
    found = lithium_of_lattice(cell["a"], cell["a_sigma"])
    np.testing.assert_allclose(cell["a"], a, atol=5e-4)
    np.testing.assert_allclose(cell["c"], c, atol=0.03)
    assert float(found["lithium"].mean()) == pytest.approx((1 + 0.35) / 2, abs=0.005)
    assert float(found["lithium"].std() / found["sigma"].mean()) == pytest.approx(1, abs=0.4)
    assert found.attrs["source"] == NMC622.source


def test_a_lattice_constant_beyond_the_relation_is_its_end_or_not_known():
    a = xr.DataArray([2.8229, 2.8685, 2.9, np.nan], dims="v")
    assert lithium_of_lattice(a)["lithium"].values.tolist()[:2] == [0.35, 1.0]
    assert np.isnan(lithium_of_lattice(a)["lithium"].values[2:]).all()


def test_the_layer_line_tells_the_stage():
    q = xr.DataArray([2 * np.pi / 3.356, 2 * np.pi / 3.533, 2 * np.pi / 3.706, 2.1], dims="v")
    found = lithium_of_spacing(q, 0 * q + 0.001)
    np.testing.assert_allclose(found["lithium"][:3], [0, 0.5, 1], atol=1e-12)
    assert np.isnan(found["lithium"][3])
    assert (found["sigma"][:3] > 0).all()


def carbon_maps(shares: np.ndarray, strengths: dict[str, float], noise: float, seed: int = 0) -> xr.Dataset:
    """Maps (phase, v) of graphite, LiC12, LiC6 with shares (v, phase) of the carbon."""
    values = (shares * np.array(list(strengths.values()))).T
    noisy = values + noise * np.random.default_rng(seed).normal(size=values.shape)
    return xr.Dataset(
        {"intensity": (("phase", "v"), noisy), "sigma": (("phase", "v"), np.full(values.shape, noise))}, {"phase": list(strengths)}
    )


def test_lithium_in_graphite_is_the_mean_of_its_stages_with_an_honest_error():
    strengths = {"graphite": 1.0, "LiC12": 1.1, "LiC6": 1.2}
    shares = np.random.default_rng(1).dirichlet([1, 1, 1], 4000)
    found = lithium_in_graphite(carbon_maps(shares, strengths, 0.02), strengths)
    pulls = (found["lithium"] - shares @ [0, 0.5, 1]) / found["sigma"]
    assert float(pulls.mean()) == pytest.approx(0, abs=0.06)
    assert float(pulls.std()) == pytest.approx(1, abs=0.05)


def test_the_strengths_of_the_crystals_are_near_one_for_the_carbon_alone():
    strengths = carbon_strengths()
    assert strengths["graphite"] == 1
    assert all(0.9 < value < 1.15 for value in strengths.values())


def test_where_there_is_no_carbon_or_oxide_there_is_no_lithium():
    maps = carbon_maps(np.zeros((3, 3)), {"graphite": 1.0, "LiC12": 1.0, "LiC6": 1.0}, 0.02)
    assert np.isnan(lithium_in_graphite(maps)["lithium"]).all()
    oxide = xr.Dataset({"intensity": (("phase", "v"), [[0.0, 1], [0, np.nan]]), "sigma": (("phase", "v"), np.full((2, 2), 0.1))})
    assert np.isnan(lithium_in_oxide(oxide.assign_coords(phase=["NMC lithiated", "NMC delithiated"]))["lithium"]).all()


def test_lithium_in_the_oxide_is_told_by_the_ratio_of_its_maps():
    share = np.random.default_rng(2).uniform(0.1, 0.9, 4000)
    values = np.stack([share, 1.7 * (1 - share)]) + 0.02 * np.random.default_rng(3).normal(size=(2, 4000))
    maps = xr.Dataset({"intensity": (("phase", "v"), values), "sigma": (("phase", "v"), np.full(values.shape, 0.02))})
    found = lithium_in_oxide(maps.assign_coords(phase=["NMC lithiated", "NMC delithiated"]), strength=1.7, contents=(0.95, 0.3))
    pulls = (found["lithium"] - (0.3 + 0.65 * share)) / found["sigma"]
    assert float(pulls.std()) == pytest.approx(1, abs=0.05)


def test_the_balance_finds_what_is_stuck():
    """A tenth of all that leaves the oxide goes elsewhere than into the graphite."""
    charge = xr.DataArray([0.0, 10, 20, 28], dims="frame")
    oxide = xr.Dataset({"lithium": 1 - charge / 45, "sigma": 0 * charge + 0.002})
    graphite = xr.Dataset({"lithium": 0.9 * charge / 30, "sigma": 0 * charge + 0.003})
    found = balance_lithium(charge + 7, graphite, oxide, graphite_mah=30, oxide_mah=45)
    np.testing.assert_allclose(found["residual"], 0.1 * charge, atol=1e-9)
    np.testing.assert_allclose(found["unseen"], 0.1 * charge, atol=1e-9)
    np.testing.assert_allclose(found["oxide_error"], 0, atol=1e-9)
    np.testing.assert_allclose(found["residual_sigma"][1:], np.hypot(np.sqrt(2) * 0.09, np.sqrt(2) * 0.09))
    assert float(found["residual_sigma"][0]) == 0
    assert found["residual"].attrs["units"] == "mAh"
    assert len(found.attrs["assumptions"]) >= 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda one, many: lithium_in_graphite(one),
        lambda one, many: lithium_in_graphite(many, {"graphite": 0.0, "LiC12": 1.0, "LiC6": 1.0}),
        lambda one, many: lithium_in_oxide(many),
        lambda one, many: lattice_of_oxide(fit(np.ones(3), 0.1), fit(np.ones(4), 0.1)),
        lambda one, many: lattice_of_oxide(one, one),
        lambda one, many: balance_lithium(xr.DataArray([0.0], dims="frame"), many, many, graphite_mah=1, oxide_mah=1),
    ],
)
def test_what_does_not_belong_together_is_refused(wrong):
    many = carbon_maps(np.ones((3, 3)), {"graphite": 1.0, "LiC12": 1.0, "LiC6": 1.0}, 0.1)
    with pytest.raises(ShapeError):
        wrong(many.isel(phase=[0]), many)


def test_capacities_must_be_above_nothing():
    charge = xr.DataArray([0.0, 1], dims="frame")
    part = xr.Dataset({"lithium": charge, "sigma": charge})
    with pytest.raises(ShapeError, match="capacities"):
        balance_lithium(charge, part, part, graphite_mah=0, oxide_mah=1)
