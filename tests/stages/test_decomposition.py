"""Non-negative decompositions against scipy, one voxel after the other."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from operandi.errors import ShapeError
from operandi.stages.crystals import CRYSTALS, Crystal, crystal_named
from operandi.stages.decomposition import decompose, decompose_values, find_references, reference_patterns, solve_nonnegative

Q = np.linspace(1.2, 5.2, 400)
CHOSEN = [crystal_named(name) for name in ("graphite", "LiC12", "LiC6", "polyethylene", "aluminium", "copper")]


def references() -> xr.DataArray:
    patterns = reference_patterns(Q, CHOSEN, fwhm_inv_angstrom=0.03)
    return patterns / patterns.max("q")


def mixtures(n: int, seed: int, noise: float = 0.05) -> tuple[xr.Dataset, np.ndarray]:
    random, patterns = np.random.default_rng(seed), references().to_numpy()
    amounts = random.uniform(0, 2, (n, len(patterns))) * (random.random((n, len(patterns))) < 0.6)
    values = amounts @ patterns + 0.3 + 0.1 * (Q - 1.2)
    values = values + noise * random.normal(size=values.shape)
    return xr.Dataset({"intensity": (("v", "q"), values), "sigma": (("v", "q"), np.full(values.shape, noise))}, {"q": Q}), amounts


def test_every_voxel_is_decomposed_as_scipy_does_it():
    data, _ = mixtures(300, 0, noise=0.5)
    found = decompose(data, references(), background=2)
    matrix = np.stack([*references().to_numpy(), np.linspace(1, 0, Q.size), np.linspace(0, 1, Q.size)], axis=1)
    wanted = np.stack([nnls(matrix, values)[0] for values in data["intensity"].to_numpy()])
    np.testing.assert_allclose(found["amount"].transpose("v", "reference"), wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["residual"], np.sqrt(np.mean((data["intensity"] - wanted @ matrix.T) ** 2, axis=1)), rtol=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 9))
@settings(max_examples=60)
def test_the_answer_is_the_best_that_is_not_negative_whatever_the_references(seed, k):
    random = np.random.default_rng(seed)
    matrix, values = random.normal(size=(12, k)), random.normal(size=(20, 12)) * 10.0 ** random.integers(-6, 7)
    if np.linalg.cond(matrix) > 1e4:
        return
    found = solve_nonnegative(matrix.T @ matrix, values @ matrix)
    wanted = np.stack([nnls(matrix, row)[0] for row in values])
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max(initial=1e-300))


def test_amounts_and_their_errors_are_honest():
    data, amounts = mixtures(1500, 1)
    found = decompose(data, references())
    held = amounts > 0.5
    pulls = ((found["amount"][:6].T - amounts) / found["sigma"][:6].T).to_numpy()[held]
    assert pulls.mean() == pytest.approx(0, abs=0.06)
    assert pulls.std() == pytest.approx(1, abs=0.05)


def test_a_reference_that_is_not_held_has_the_error_of_holding_it():
    patterns, variance = references().to_numpy(), np.full((1, Q.size), 0.04)
    values = patterns[:1] * 3 - patterns[3:4] * 0.2
    amounts, sigma = decompose_values(values, variance, patterns)
    assert amounts[0, 3] == 0
    held = np.append(np.flatnonzero(amounts[0] > 0), 3)
    covariance = np.linalg.inv(patterns[held] @ patterns[held].T) * 0.04
    assert sigma[0, 3] == pytest.approx(np.sqrt(covariance[-1, -1]), rel=1e-9)


def test_errors_heed_channels_that_share_pixels():
    random, patterns = np.random.default_rng(2), references().to_numpy()
    white = random.normal(size=(2000, Q.size + 1))
    values = np.full(6, 3.0) @ patterns + 0.1 * (white[:, :-1] + white[:, 1:]) / np.sqrt(2)
    correlation = np.repeat([[1.0], [0.5]], Q.size, axis=1)
    amounts, sigma = decompose_values(values, np.full(values.shape, 0.01), patterns, correlation)
    np.testing.assert_allclose(amounts.std(axis=0) / sigma.mean(axis=0), 1, atol=0.08)


def test_a_voxel_with_a_hole_is_nan_and_spoils_no_other():
    data, _ = mixtures(5, 3)
    whole = decompose(data, references())
    holed = data.copy(deep=True)
    holed["intensity"][2, 7] = np.nan
    found = decompose(holed, references())
    assert np.isnan(found["amount"][:, 2]).all()
    assert np.isnan(found["residual"][2])
    xr.testing.assert_allclose(found["amount"].isel(v=[0, 1, 3, 4]), whole["amount"].isel(v=[0, 1, 3, 4]))


def test_without_sigma_errors_come_from_the_scatter():
    """200 voxels of the same mixture: their amounts scatter as the errors say, 1 ± 0.1."""
    rng, patterns = np.random.default_rng(8), references()
    mixture = 3 * patterns[0] + 2 * patterns[2] + 5
    data = xr.DataArray(mixture.to_numpy() + 0.4 * rng.normal(size=(200, Q.size)), {"q": Q}, ("v", "q"))
    found = decompose(data, patterns, background=1)
    held = found.isel(reference=[0, 2, -1])
    pull = (held["amount"] - [[3], [2], [5]]) / held["sigma"]
    assert float(pull.std()) == pytest.approx(1.0, abs=0.1)
    assert (found["sigma"] > 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda data: decompose(data, references()[:, :-1]),
        lambda data: decompose(data, {"a": np.ones(3)}),
        lambda data: decompose(data, {"a": np.full(Q.size, np.nan)}),
        lambda data: decompose(data, {}, background=0),
        lambda data: decompose(data, {"a": Q, "b": 2 * Q}, background=0),
        lambda data: decompose(data, {"a": np.zeros(Q.size)}, background=0),
        lambda data: decompose(data.rename(q="energy"), references()),
        lambda data: find_references(data["intensity"], 99),
        lambda data: find_references(data["intensity"] * np.nan, 1),
        lambda data: reference_patterns(Q, [Crystal("bare", (4.0, 4.0, 4.0))]),
        lambda data: reference_patterns(np.linspace(1.0, 1.2, 30), [crystal_named("copper")]),
    ],
)
def test_references_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ShapeError):
        wrong(mixtures(4, 5)[0])


def test_references_are_found_in_data_where_each_phase_lies_alone_somewhere():
    random, patterns = np.random.default_rng(6), references().to_numpy()[[0, 2, 4]]
    amounts = random.dirichlet([0.3] * 3, 300) * 5
    volume = xr.DataArray(np.maximum(amounts @ patterns + 0.01 * random.normal(size=(300, Q.size)), 0), {"q": Q}, ("v", "q"))
    found = find_references(volume, 3)
    likeness = np.corrcoef(np.concatenate([found.to_numpy(), patterns]))[:3, 3:]
    assert (likeness.max(axis=1) > 0.99).all()
    assert sorted(likeness.argmax(axis=1)) == [0, 1, 2]
    assert found.attrs["residual"] < 0.05
    xr.testing.assert_identical(found, find_references(volume, 3))


def test_the_patterns_of_all_crystals_can_be_references():
    patterns = reference_patterns(Q, CRYSTALS)
    assert patterns.sizes == {"reference": len(CRYSTALS), "q": Q.size}
    assert np.linalg.cond(patterns / patterns.max("q")) < 1e3
