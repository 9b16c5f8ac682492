"""What windows really hold, and what follows from it."""

import numpy as np
import pytest
import xarray as xr

from operandi.errors import ShapeError
from operandi.experiment import DEFAULT_WINDOWS, QWindow, Subtraction
from operandi.stages.crystals import CRYSTALS, Crystal, crystal_named
from operandi.stages.maps import screen
from operandi.stages.overlaps import derived_ratio, fit_ratio, intruders, overlaps, own_share
from operandi.stages.reflections import pattern_of

# The traps that the project's science names: map, crystal, reflection, q.
TRAPS = [
    ("NMC lithiated 110", "aluminium", "220", 4.389),
    ("NMC lithiated 110", "α-iron", "200", 4.384),
    ("LiC6", "polyethylene", "200", 1.696),
    ("casing", "LiC6", "300 = graphite's 110", 5.056),
    ("casing", "LiC12", "300 = graphite's 110", 5.076),
    ("copper", "γ-iron", "220", 4.945),
]


@pytest.mark.parametrize(("phase", "crystal", "reflection", "q"), TRAPS)
def test_every_known_trap_of_the_default_windows_is_reported(phase, crystal, reflection, q):
    found = [i for i in intruders() if (i.phase, i.crystal, i.reflection) == (phase, crystal, reflection)]
    assert len(found) == 1
    assert found[0].q_inv_angstrom == pytest.approx(q, abs=0.0015)
    assert found[0].where == "window"
    assert str(found[0]).startswith(f"{crystal} {reflection} at ")


def test_a_phase_does_not_intrude_upon_its_own_map():
    own = {(phase, crystal.name) for crystal in CRYSTALS for phase in crystal.maps}
    assert not own & {(i.phase, i.crystal) for i in intruders()}


def test_a_reflection_in_the_bands_of_the_background_counts_against_the_map():
    found = {(i.phase, i.crystal, i.reflection): i for i in intruders()}
    assert found["graphite", "LiC12", "101"].where == "background"
    assert found["graphite", "LiC12", "101"].share < 0


def test_parallax_lets_more_reflections_in():
    window = [w for w in DEFAULT_WINDOWS if w.phase == "NMC lithiated"]
    near, far = ({(i.crystal, i.reflection) for i in intruders(window, smear_inv_angstrom=s) if i.where == "window"} for s in (0.0, 0.03))
    assert near < far
    assert ("NMC622 at 4.2 V", "113") in far - near


def test_the_overlap_matrix_is_what_the_maps_of_pure_patterns_show():
    q, chosen = np.arange(1.3, 5.3, 0.002), [w for w in DEFAULT_WINDOWS if w.phase != "silicon"]
    table = overlaps(chosen, fwhm_inv_angstrom=0.02)
    for crystal in CRYSTALS:
        maps = screen(xr.DataArray(pattern_of(crystal, q, 0.02), {"q": q}, ("q",)), chosen)["intensity"]
        # Both sum over bins, ours of 0.001 Å⁻¹.
        np.testing.assert_allclose(table["intensity"].sel(crystal=crystal.name), maps, rtol=0.015, atol=2e-4 * float(maps.max()))
    assert float(table["share"].sel(phase="LiC6", crystal="LiC6")) == 1
    assert np.isnan(table["share"].sel(phase="casing")).all()


def test_a_line_at_the_edge_of_its_window_is_told():
    shares = {w.phase: own_share(w) for w in DEFAULT_WINDOWS}
    assert shares["LiC6"] > 0.99
    assert 0.75 < shares["NMC lithiated"] < 0.9  # 113 at 4.578 in the paper's window from 4.57 on: Φ(0.0077 / (0.02 / 2.355)) = 0.82
    assert np.isnan(shares["casing"])


WINDOWS = tuple(
    QWindow(phase=w.phase, q_min_inv_angstrom=w.q_min_inv_angstrom, q_max_inv_angstrom=w.q_max_inv_angstrom, subtract=subtract)
    for w, subtract in ((w, (Subtraction(phase="separator"),) if w.phase == "LiC6" else ()) for w in DEFAULT_WINDOWS[:4])
)
PLAIN = DEFAULT_WINDOWS[:4]


def mixture(polyethylene: float, fwhm: float, seed: int, n: int = 400) -> tuple[xr.Dataset, float]:
    """Noisy patterns of LiC6 of which polyethylene's 200 is the given share of its signal, and the map of the pure LiC6."""
    q = np.arange(1.3, 2.1, 0.004)
    lithium, film = (pattern_of(crystal_named(name), q, fwhm) for name in ("LiC6", "polyethylene"))
    step = 0.004
    pure = float(screen(xr.DataArray(lithium, {"q": q}, ("q",)), PLAIN)["intensity"].sel(phase="LiC6"))
    overlap = float(screen(xr.DataArray(film, {"q": q}, ("q",)), PLAIN)["intensity"].sel(phase="LiC6"))
    mean = lithium + film * polyethylene * pure / overlap + 0.2 * lithium.max() * (1 + 0.3 * (q - 1.7))
    sigma = np.sqrt(mean * lithium.max()) * 0.1
    noisy = mean + sigma * np.random.default_rng(seed).normal(size=(n, q.size))
    assert step == pytest.approx(q[1] - q[0])
    return xr.Dataset({"intensity": (("v", "q"), noisy), "sigma": (("v", "q"), np.broadcast_to(sigma, noisy.shape))}, {"q": q}), pure


@pytest.mark.parametrize("fwhm", [0.014, 0.02, 0.03])
def test_lic6_under_polyethylene_of_half_its_signal_is_recovered_within_5_percent(fwhm):
    data, pure = mixture(0.5, fwhm, seed=int(1000 * fwhm))
    raw, clean = (screen(data, windows).sel(phase="LiC6") for windows in (PLAIN, WINDOWS))
    assert float(raw["intensity"].mean()) == pytest.approx(1.5 * pure, rel=0.03)
    assert float(clean["intensity"].mean()) == pytest.approx(pure, rel=0.05)
    # The noise of the map that is subtracted is in its sigma; 400 voxels tell a standard deviation to 3.5 %.
    assert float(clean["intensity"].std() / clean["sigma"].mean()) == pytest.approx(1, abs=0.12)
    assert (clean["sigma"] > raw["sigma"]).all()


def test_a_ratio_fitted_where_lic6_is_absent_recovers_it_of_a_film_with_texture():
    """The film's 200 is three times what a powder's would be, so that the derived ratio is wrong."""
    data, pure = mixture(0.5, 0.02, seed=1)
    q = data["q"].to_numpy()
    film, texture = pattern_of(crystal_named("polyethylene"), q, 0.02), np.where(np.abs(q - 1.695) < 0.06, 3.0, 1.0)
    amount = np.random.default_rng(2).uniform(0, 1, 300)
    alone = 5 * amount[:, None] * film * texture
    alone = alone + 0.02 * np.random.default_rng(3).normal(size=alone.shape)
    separator = screen(xr.Dataset({"intensity": (("v", "q"), alone), "sigma": (("v", "q"), np.full(alone.shape, 0.02))}, {"q": q}), PLAIN)
    ratio = fit_ratio(separator, "LiC6", "separator")
    derived = derived_ratio(PLAIN, "LiC6", Subtraction(phase="separator"))
    assert ratio.value == pytest.approx(3 * derived, abs=4 * ratio.uncertainty + 0.02)
    own = tuple(
        w.model_copy(update={"subtract": (Subtraction(phase="separator", ratio=ratio.value),)}) if w.phase == "LiC6" else w for w in PLAIN
    )
    textured = data.assign(intensity=data["intensity"] + 0.5 * film * (texture - 1))
    textured = textured.assign(
        intensity=textured["intensity"] - data["intensity"].mean("v") + pattern_of(crystal_named("LiC6"), q, 0.02) + 0.5 * film
    )
    assert float(screen(textured, own)["intensity"].sel(phase="LiC6").mean()) == pytest.approx(pure, rel=0.05)


def test_the_fitted_ratio_has_an_honest_uncertainty():
    random, pulls = np.random.default_rng(0), []
    for _ in range(200):
        true = random.uniform(0, 10, 100)
        maps = np.stack([0.3 * true, true]) + random.normal(size=(2, 100)) * [[0.5], [0.8]]
        sigma = np.broadcast_to([[0.5], [0.8]], maps.shape)
        found = fit_ratio(
            xr.Dataset({"intensity": (("phase", "v"), maps), "sigma": (("phase", "v"), sigma)}, {"phase": ["a", "b"]}), "a", "b"
        )
        pulls.append((found.value - 0.3) / found.uncertainty)
    assert np.mean(pulls) == pytest.approx(0, abs=0.25)
    assert np.std(pulls) == pytest.approx(1, abs=0.2)


def test_aluminium_220_is_taken_out_of_nmc_110_by_aluminium_111():
    q = np.arange(2.5, 4.6, 0.003)
    windows = tuple(w for w in DEFAULT_WINDOWS if w.phase in ("aluminium", "NMC lithiated 110"))
    own = tuple(w.model_copy(update={"subtract": (Subtraction(phase="aluminium"),)}) if "NMC" in w.phase else w for w in windows)
    foil = xr.DataArray(pattern_of(crystal_named("aluminium"), q), {"q": q}, ("q",))
    before, after = (float(screen(foil, w)["intensity"].sel(phase="NMC lithiated 110")) for w in (windows, own))
    assert abs(after) < 0.02 * before


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: intruders(smear_inv_angstrom=-1.0),
        lambda: intruders([]),
        lambda: overlaps(fwhm_inv_angstrom=0.0),
        lambda: derived_ratio(PLAIN, "LiC6", Subtraction(phase="separator", crystal="unobtainium")),
        lambda: derived_ratio(PLAIN, "LiC6", Subtraction(phase="graphite", crystal="aluminium")),
        lambda: screen(mixture(0.5, 0.02, 0, 2)[0], [WINDOWS[1]]),
        lambda: fit_ratio(xr.Dataset({"intensity": ("phase", [1.0])}, {"phase": ["a"]}), "a", "b"),
        lambda: fit_ratio(screen(mixture(0.0, 0.02, 0, 2)[0], PLAIN), "LiC6", "separator"),
    ],
)
def test_what_cannot_be_told_is_refused(wrong):
    with pytest.raises(ShapeError):
        wrong()


def test_a_crystal_without_atoms_is_named_without_a_share():
    found = intruders([PLAIN[1]], [Crystal("bare", (3.70, 3.70, 3.70))])
    assert [(i.crystal, i.reflection) for i in found] == [("bare", "100")]
    assert np.isnan(found[0].share)
    assert np.isnan(overlaps([PLAIN[1]], [Crystal("bare", (3.70, 3.70, 3.70))])["intensity"]).all()
