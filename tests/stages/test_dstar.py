"""d*, against profiles whose q* is known by construction."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from operandi import fit_dstar
from operandi.errors import ShapeError
from operandi.stages.departures import FOUND, ONE_SLOPE, REASONS, TOO_NOISY
from operandi.stages.dstar import find_departures
from operandi.stages.reconstruction import reconstruct
from operandi.stages.volumes import grid_mm

Q = np.linspace(0.01, 0.2, 191)
"""As a pixel of 172 µm at 6 m and 71 keV makes it."""
TABLE_S1 = (11.8, 10.8, 10.9, 11.6, 14.1, 11.1, 12.9)
"""d* in nm, 10.1039/D4EE00590B, Table S1; where there is none stands a pure power law."""


def knee(d_nm: float | None, slope: float = 3.4, below: float = 1.2, sharpness: float = 60.0, q: np.ndarray = Q) -> np.ndarray:
    """Two power laws that meet at q* = 2π/d*; the change of slope takes about ± 2 / sharpness in ln q."""
    if d_nm is None:
        return (q / 0.053) ** -slope
    r = q / (0.2 * np.pi / d_nm)
    return r**-below * (1 + r**sharpness) ** ((below - slope) / sharpness)


def beaucage(q: np.ndarray, gyration_angstrom: float, slope: float, strength: float) -> np.ndarray:
    """The unified Guinier and power-law profile, G = 1 (Beaucage, J. Appl. Cryst. 28, 717, 1995)."""
    power = strength * (erf(q * gyration_angstrom / np.sqrt(6)) ** 3 / (q * gyration_angstrom)) ** slope
    return np.exp(-((q * gyration_angstrom) ** 2) / 3) + power


def noisy(profile: np.ndarray, relative: float, n: int, seed: int = 0, q: np.ndarray = Q) -> tuple[np.ndarray, np.ndarray]:
    """``n`` spectra with the noise of counts in rings, ``relative`` of the value at 0.1 Å⁻¹ there; and its standard deviation."""
    sigma = relative * np.sqrt(profile * np.interp(0.1, q, profile) * 0.1 / q)
    values = profile + sigma * np.random.default_rng(seed).standard_normal((n, q.size))
    return values, np.broadcast_to(sigma, values.shape)


def spectra(values: np.ndarray, q: np.ndarray = Q) -> xr.DataArray:
    dims = ("y", "x")[2 - (values.ndim - 1) :]
    return xr.DataArray(values, {"q": q}, (*dims, "q"), attrs={"units": "counts/mm"})


def test_the_worked_example_of_the_paper_is_11_8_nm():
    found = fit_dstar(spectra(noisy(knee(0.2 * np.pi / 0.053), 0.02, 1)[0][0]))
    assert float(found["q_star"]) == pytest.approx(0.053, abs=0.0005)
    assert float(found["dstar"]) == pytest.approx(11.8, abs=0.1)
    assert found["dstar"].attrs["units"] == "nm"
    assert found["q_star"].attrs["units"] == "1/angstrom"
    assert str(found["reason"].item()) == ""
    assert float(found["slope"]) == pytest.approx(-3.4, abs=0.05)


@pytest.mark.parametrize("sharpness", [60.0, 8.0])
@pytest.mark.parametrize("slope", [3.0, 4.0])
@pytest.mark.parametrize("given_sigma", [True, False])
def test_knees_sharp_and_smooth_are_found_where_their_power_laws_meet(sharpness, slope, given_sigma):
    for number, d in enumerate(TABLE_S1):
        values, sigma = noisy(knee(d, slope, sharpness=sharpness), 0.1, 400, number)
        found = find_departures(values, sigma if given_sigma else None, Q)
        dstar = 0.2 * np.pi / np.exp(found.log_q_star)
        assert np.mean(found.code == FOUND) > 0.99
        assert np.nanmedian(dstar) == pytest.approx(d, abs=0.3)
        pulls = (found.log_q_star - np.log(0.2 * np.pi / d)) / found.error
        assert 0.6 < np.nanstd(pulls) < 1.35  # a corner that may not be sharper than sharp makes the errors of sharp knees a little large


@pytest.mark.parametrize(("gyration", "slope", "strength"), [(40, 4.0, 4.0), (50, 3.4, 4.0), (45, 4.0, 6.0)])
def test_a_unified_profile_departs_where_it_leaves_its_power_law_whatever_the_noise(gyration, slope, strength):
    q = np.linspace(0.01, 0.35, 341)
    profile = beaucage(q, gyration, slope, strength)
    off = np.abs(np.log(profile / (strength * (q * gyration) ** -slope)))  # its power law is known: that of its high q
    for relative in (0.01, 0.05, 0.1):
        found = find_departures(*noisy(profile, relative, 400, q=q), q)
        q_star = np.exp(np.nanmedian(found.log_q_star))
        assert np.mean(found.code == FOUND) > 0.98
        assert off[q > 1.5 * q_star].max() < 0.1
        assert off[(q < q_star) & (q > q_star / 1.5)].max() > 0.1
        if relative == 0.01:
            first = q_star
        assert 0.2 * np.pi / q_star == pytest.approx(0.2 * np.pi / first, abs=0.15)


@pytest.mark.parametrize("relative", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("given_sigma", [True, False])
def test_pure_power_laws_have_no_dstar(relative, given_sigma):
    for number, slope in enumerate((2.5, 3.0, 3.4, 4.0)):
        values, sigma = noisy(knee(None, slope), relative, 2500, number)
        found = find_departures(values, sigma if given_sigma else None, Q)
        assert np.mean(found.code == FOUND) < 0.01
        assert np.isnan(found.log_q_star[found.code != FOUND]).all()
        assert np.isin(found.code, (ONE_SLOPE, TOO_NOISY, FOUND, 3)).all()


def discs(width: int) -> tuple[np.ndarray, np.ndarray, list[tuple[float, float]]]:
    """Angles, path lengths (rotation, translation, disc) in mm through nine discs in a field of ``width`` mm, and their centres."""
    rotation, at = np.arange(150) * 1.2, np.linspace(-width / 2, width / 2, 150)
    centres = [(0.33 * width * np.cos(a), 0.33 * width * np.sin(a)) for a in 2 * np.pi * np.arange(8) / 8] + [(0.0, 0.0)]
    theta = np.deg2rad(rotation)[:, None]
    along = [at - x * np.cos(theta) - y * np.sin(theta) for x, y in centres]
    return rotation, 2 * np.sqrt(np.clip((0.1 * width) ** 2 - np.stack(along, -1) ** 2, 0, None)), centres


def test_every_number_of_table_s1_comes_out_of_a_map_of_150_by_150_voxels_with_honest_errors():
    """Counts as of 50 ms: 20 000 in the ring of one pixel at 0.1 Å⁻¹ through a disc, 3 % of a voxel there."""
    q = np.linspace(0.01, 0.2, 96)
    rotation, paths, centres = discs(6)
    profiles = np.stack([knee(d, sharpness=20.0, q=q) for d in (*TABLE_S1, None, None)])
    mean = 20000 / 1.2 / np.interp(0.1, q, profiles[-1]) * (paths @ profiles) * (q / 0.1)
    counts = np.random.default_rng(4).poisson(mean) / q
    coords = {"rotation": rotation, "translation": np.linspace(-3, 3, 150), "q": q}
    sinogram = xr.DataArray(counts, coords, ("rotation", "translation", "q"))
    volume = reconstruct(sinogram, axis=0.0, sigma=sinogram.copy(data=np.sqrt(np.maximum(mean, 1)) / q))
    found = fit_dstar(volume)
    at = grid_mm(coords["translation"])
    for d, (x, y) in zip((*TABLE_S1, None, None), centres, strict=True):
        inside = np.hypot(at - x, at[:, None] - y) < 0.5
        dstar, sigma = found["dstar"].values[inside], found["sigma"].values[inside]
        if d is None:
            assert np.mean(found["reason"].values[inside] == "one slope") >= 0.98
            continue
        assert np.isfinite(dstar).mean() > 0.98
        assert np.nanmedian(dstar) == pytest.approx(d, abs=0.3)
        assert 0.6 < np.nanstd((dstar - d) / sigma) < 1.3


# Hostile input


def test_values_that_are_lost_in_noise_are_no_number():
    values, sigma = noisy(knee(11.8), 5.0, 200)
    found = fit_dstar(spectra(values), sigma=spectra(sigma))
    assert np.mean(found["reason"].values == "too noisy") > 0.95
    assert np.isnan(found["dstar"].values[found["reason"].values != ""]).all()


def test_a_break_at_an_end_of_the_range_is_out_of_range_or_not_seen():
    for d, q_range in ((11.8, (0.01, 0.06)), (30.0, (0.0195, 0.2)), (5.0, (0.01, 0.2))):
        found = fit_dstar(spectra(noisy(knee(d), 0.02, 50)[0]), q_range=q_range)
        assert not np.any(np.abs(found["dstar"] - d) > 0.1 * d), (d, found["dstar"].values)
        assert np.isin(found["reason"], ("out of range", "one slope", "")).all()


def test_what_was_not_measured_has_its_reason_and_holes_are_bridged():
    values = noisy(knee(11.8), 0.02, 4)[0]
    values[1] = np.nan
    values[2, ::3] = np.nan
    values[3, 40:] = np.nan
    found = fit_dstar(spectra(values))
    assert found["reason"].values.tolist() == ["", "not measured", "", "too noisy"]
    assert np.isfinite(found["dstar"].values).tolist() == [True, False, True, False]
    assert float(found["dstar"][2]) == pytest.approx(11.8, abs=0.3)
    assert np.isnan(found["slope"].values[1])


@pytest.mark.parametrize("fill", [0.0, -1.0, np.inf, 1.0, 1e-38])
def test_spectra_without_meaning_give_no_number(fill):
    found = fit_dstar(spectra(np.full((3, Q.size), fill)))
    assert np.isnan(found["dstar"]).all()
    assert np.isin(found["reason"], REASONS[1:]).all()


def test_spots_of_single_points_change_little():
    values = noisy(knee(11.8), 0.02, 300)[0]
    spot = np.random.default_rng(1).integers(20, 180, 300)
    values[np.arange(300), spot] *= 20
    found = fit_dstar(spectra(values))
    assert np.nanmedian(found["dstar"]) == pytest.approx(11.8, abs=0.15)
    assert np.mean(np.abs(found["dstar"] - 11.8) < 0.5) > 0.95


@settings(max_examples=25)
@given(st.floats(1e-6, 1e6), st.permutations(["y", "x", "q"]), st.booleans())
def test_neither_scale_nor_order_of_axes_matters(scale, dims, backwards):
    values = spectra(noisy(knee(12.9), 0.05, 6)[0].reshape(2, 3, -1))
    other = (scale * values).transpose(*dims)
    found = fit_dstar(other.isel(q=slice(None, None, -1)) if backwards else other)
    np.testing.assert_allclose(found["dstar"].transpose("y", "x"), fit_dstar(values)["dstar"], rtol=1e-4)


def test_float32_and_single_spectra_and_empty_arrays_are_taken():
    values, _ = noisy(knee(11.8), 0.02, 1)
    assert float(fit_dstar(spectra(values[0].astype(np.float32)))["dstar"]) == pytest.approx(11.8, abs=0.2)
    assert fit_dstar(spectra(values[:0]))["dstar"].shape == (0,)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (spectra(np.ones((2, Q.size))).rename(q="k"), {}, "over q"),
        (spectra(np.ones((2, Q.size))).drop_vars("q"), {}, "over q"),
        (spectra(np.ones((2, 9)), Q[:9]), {}, "more points"),
        (spectra(np.ones((2, Q.size))), {"q_range": (1.0, 2.0)}, "more points.*1 to 2"),
        (spectra(np.ones((2, Q.size))), {"fit": (0.7, 0.2)}, "increasing"),
        (spectra(np.ones((2, Q.size)), np.where(Q > 0.1, np.nan, Q)), {}, "finite"),
        (spectra(np.ones((2, Q.size))), {"sigma": spectra(np.ones((3, Q.size)))}, "sigma"),
    ],
)
def test_calls_that_cannot_be_answered_are_refused(array, options, message):
    with pytest.raises(ShapeError, match=message):
        fit_dstar(array, **options)


def test_a_profile_that_only_rises_above_its_power_law_has_no_d_star():
    q = np.linspace(0.01, 0.2, 191)
    steep = (q / 0.05) ** -3.0 * (1 + (0.025 / q) ** 12) ** (2.0 / 12)  # to q^-5 below 0.025 Å⁻¹: large things, or the beam
    found = find_departures(*noisy(steep, 0.02, 400, q=q), q)
    assert np.mean(found.code == ONE_SLOPE) > 0.95
