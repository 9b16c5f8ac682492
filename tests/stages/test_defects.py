import numpy as np
import pytest
import xarray as xr
from rolls import PIXEL_MM, Roll

from operandi import find_regions, follow_winding, match_regions
from operandi.errors import ShapeError
from operandi.stages.defects import AGGLOMERATE, BEND, NORMAL
from operandi.stages.unrolling import Winding

SOUND = Roll(n=240, pitch=14, inner=26, turns=6, x=122, y=117, oval=0.04, bend=(0.9, 0.25, 0.0))
SPOILT = Roll(n=240, pitch=14, inner=26, turns=6, x=122, y=117, oval=0.04, bend=(0.9, 0.25, 4.0), agglomerate=(75, 150, 12))


def electrode(roll: Roll) -> xr.DataArray:
    silicon, graphite = roll.phases()
    return silicon + graphite > 0.5


@pytest.fixture(scope="module")
def sound() -> Winding:
    return follow_winding(SOUND.map(0.05))


@pytest.fixture(scope="module")
def spoilt() -> Winding:
    return follow_winding(SPOILT.map(0.05))


@pytest.fixture(scope="module")
def regions(spoilt) -> xr.Dataset:
    silicon, graphite = SPOILT.phases(0.05)
    return find_regions(spoilt, silicon=silicon, graphite=graphite, layer=electrode(SPOILT))


def test_a_bend_is_found_where_the_winding_departs(regions):
    column, row = np.meshgrid(np.arange(SPOILT.n), np.arange(SPOILT.n))
    off = (SPOILT.azimuth(column, row) - SPOILT.bend[0] + np.pi) % (2 * np.pi) - np.pi
    share = SPOILT.share(column, row)
    middle = (share > 2) & (share < 4)
    bent = regions["region"].to_numpy() == BEND
    inside = regions["region"].to_numpy() > 0
    assert bent[inside & middle & (np.abs(off) < 1.2 * SPOILT.bend[1])].mean() > 0.95
    assert bent[inside & middle & (np.abs(off) > 3 * SPOILT.bend[1])].mean() < 0.02
    deepest = float(regions["departure"].where(regions["region"] == BEND).min()) / PIXEL_MM
    assert deepest == pytest.approx(-SPOILT.bend[2], abs=0.7)


def test_an_agglomerate_is_found_with_its_size(regions):
    x, y, radius = SPOILT.agglomerate
    column, row = np.meshgrid(np.arange(SPOILT.n), np.arange(SPOILT.n))
    true = (np.hypot(column - x, row - y) < radius) & electrode(SPOILT).to_numpy()
    found = regions["region"].to_numpy() == AGGLOMERATE
    assert found.sum() == pytest.approx(true.sum(), rel=0.1)
    assert (found & true).sum() > 0.9 * true.sum()
    table = regions.isel(defect_number=regions["kind"].to_numpy() == "agglomerate")
    assert table["critical"].all()
    assert float(table["area"].sum()) == pytest.approx(true.sum() * PIXEL_MM**2, rel=0.1)
    assert float(table["length"].max()) == pytest.approx(2e3 * radius * PIXEL_MM, rel=0.15)


def test_the_rest_of_the_layer_is_normal_and_beyond_it_nothing(regions):
    layer = electrode(SPOILT).to_numpy()
    assert not regions["region"].to_numpy()[~layer].any()
    assert (regions["region"].to_numpy()[layer] == NORMAL).mean() > 0.6


@pytest.mark.parametrize("seed", range(4))
def test_a_sound_roll_has_no_defects(sound, seed):
    silicon, graphite = SOUND.phases(0.05, seed)
    found = find_regions(sound, silicon=silicon, graphite=graphite)
    assert found.sizes["defect_number"] == 0
    assert set(np.unique(found["region"])) == {0, NORMAL}


def test_d_star_counts_where_the_layer_has_none(sound):
    dstar = xr.full_like(SOUND.map(), np.nan)
    column, row = np.meshgrid(np.arange(SOUND.n), np.arange(SOUND.n))
    spot = np.hypot(column - 75, row - 150) < 6
    dstar.values[spot] = 11.6
    found = find_regions(sound, dstar=dstar)
    assert (found["region"].to_numpy() == AGGLOMERATE)[spot].mean() > 0.9
    assert found.sizes["defect_number"] == 1


def test_d_star_below_that_of_its_layer_makes_an_agglomerate(sound):
    random = np.random.default_rng(0)
    dstar = SOUND.map().copy(data=12.9 + 0.3 * random.standard_normal((SOUND.n, SOUND.n)))
    column, row = np.meshgrid(np.arange(SOUND.n), np.arange(SOUND.n))
    spot = np.hypot(column - 75, row - 150) < 6
    dstar.values[spot] -= 1.3
    found = find_regions(sound, dstar=dstar)
    assert (found["region"].to_numpy() == AGGLOMERATE)[spot].mean() > 0.8
    assert found.sizes["defect_number"] == 1


def test_d_star_alone_makes_no_agglomerate_of_a_bend(spoilt):
    dstar = xr.full_like(SPOILT.map(), np.nan)
    column, row = np.meshgrid(np.arange(SPOILT.n), np.arange(SPOILT.n))
    off = (SPOILT.azimuth(column, row) - SPOILT.bend[0] + np.pi) % (2 * np.pi) - np.pi
    share = SPOILT.share(column, row)
    dstar.values[(np.abs(off) < 0.15) & (share > 2) & (share < 4)] = 10.8
    found = find_regions(spoilt, dstar=dstar)
    assert set(found["kind"].to_numpy()) == {"bend"}


def test_a_single_voxel_says_that_its_size_is_not_known(sound):
    silicon, _ = SOUND.phases(0.01)
    row, column = np.argwhere(
        electrode(SOUND).to_numpy() & (np.abs(SOUND.share(*np.meshgrid(np.arange(240), np.arange(240))) - 3.5) < 0.1)
    )[0]
    silicon[row, column] = 3.0
    found = find_regions(sound, silicon=silicon)
    one = found.sel(defect_number=found["defect"][row, column].item())
    assert one["voxels"].item() == 1
    assert "size is not known" in one["reason"].item()


def test_an_unknown_map_makes_no_defects(sound):
    found = find_regions(sound, silicon=xr.full_like(SOUND.map(), np.nan))
    assert found.sizes["defect_number"] == 0
    assert np.isnan(found["score"]).all()


def test_bad_calls_are_refused(sound):
    map_ = SOUND.map()
    with pytest.raises(ShapeError, match="give silicon"):
        find_regions(sound)
    with pytest.raises(ShapeError, match="region is empty"):
        find_regions(sound, layer=map_ > 1e9)
    with pytest.raises(ShapeError, match="grid"):
        find_regions(sound, silicon=map_, graphite=map_[1:, 1:])
    with pytest.raises(ShapeError, match="dims y and x"):
        find_regions(sound, silicon=map_.expand_dims("phase"))
    with pytest.raises(ShapeError, match="gate"):
        match_regions(xr.Dataset(), xr.Dataset(), gate_mm=0)


def table(turns: list[float], diameters: list[float], kinds: list[str] | None = None) -> xr.Dataset:
    n = len(turns)
    columns = {
        "turn": np.array(turns), "radius": np.full(n, 2.0), "depth": np.zeros(n),
        "diameter": np.array(diameters), "kind": np.array(kinds or ["agglomerate"] * n),
    }  # fmt: skip
    return xr.Dataset({k: ("defect_number", v) for k, v in columns.items()}, {"defect_number": np.arange(1, n + 1)})


def test_defects_are_found_again_after_the_cell_was_turned():
    before = table([1.1, 2.35, 3.6, 4.0], [60, 80, 100, 40])
    after = table([4.125, 1.225, 3.725], [45, 66, 130])
    found = match_regions(before, after)
    assert found.attrs["turns"] == pytest.approx(0.125)
    assert list(zip(found["before"].to_numpy(), found["after"].to_numpy(), strict=True)) == [(1, 2), (3, 3), (4, 1)]
    np.testing.assert_allclose(found["growth"], [6, 30, 5])
    assert found["unmatched_before"].to_numpy().tolist() == [2]
    assert found["unmatched_after"].size == 0


def test_defects_of_another_kind_or_too_far_stay_alone():
    before = table([1.1, 2.0], [60, 80], ["agglomerate", "bend"])
    after = table([1.1, 2.1], [60, 80], ["bend", "bend"])
    found = match_regions(before, after)
    assert found.sizes["pair"] == 0
    assert found["unmatched_before"].size == found["unmatched_after"].size == 2
    assert match_regions(before, table([], [])).sizes["pair"] == 0


def test_a_roll_matched_with_itself_pairs_every_defect(regions):
    found = match_regions(regions, regions)
    np.testing.assert_array_equal(found["before"], found["after"])
    assert found.sizes["pair"] == regions.sizes["defect_number"]
    assert found.attrs["turns"] == 0
