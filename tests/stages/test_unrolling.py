import numpy as np
import pytest
import tifffile
import xarray as xr
from rolls import PIXEL_MM, Roll, as_map
from scipy import ndimage
from scipy.spatial import KDTree
from shared import shared_file

from operandi import find_centre, follow_winding, unroll
from operandi.errors import ShapeError
from operandi.stages.unrolling import Winding

ROLLS = {
    "bent": Roll(),
    "other hand, more oval": Roll(hand=-1, x=195, oval=0.1, turns=5, tilt=-0.4),
    "noisy": Roll(x=190, bend=(2.2, 0.22, 8.0), turns=5.5),
    "coarse": Roll(n=160, pitch=9, inner=18, x=82, y=77, bend=(0.9, 0.3, 4.0)),
}


@pytest.fixture(scope="module", params=ROLLS)
def followed(request) -> tuple[Roll, xr.DataArray, Winding]:
    roll = ROLLS[request.param]
    map_ = roll.map(noise=0.3 if request.param == "noisy" else 0.02, seed=len(request.param))
    return roll, map_, follow_winding(map_)


def level_of(roll: Roll, winding: Winding) -> float:
    """The depth that the winding's middle follows: any will do, if it is one and the same."""
    share = roll.share(winding.spiral.x, winding.spiral.y)
    return float(np.angle(np.exp(2j * np.pi * share).mean()) / (2 * np.pi) % 1)


def test_turn_arc_and_depth_are_right_to_a_pixel_everywhere(followed):
    roll, map_, winding = followed
    found = winding.coordinates(map_)
    level = level_of(roll, winding)
    theta, x, y, arc = roll.curve(level)
    row, column = np.mgrid[: roll.n, : roll.n].astype(float)
    share = roll.share(column, row) - level
    number = np.round(share)
    at = roll.azimuth(column, row) + 2 * np.pi * number
    # Close to its faces the nearest point of the true curve may be the neighbour's.
    own = (number >= 0) & (np.abs(share - number) < 0.45) & (at > 0.15) & (at < winding.spiral.theta[-1] - 0.15)
    assert np.isfinite(found["arc"].to_numpy()[own]).mean() > 0.99
    own &= np.isfinite(found["arc"].to_numpy())
    distance, nearest = KDTree(np.stack([x, y], axis=1)).query(np.stack([column[own], row[own]], axis=1))
    same = np.abs(theta[nearest] - at[own]) < np.pi
    assert same.mean() > 0.999
    error = found["arc"].to_numpy()[own] / PIXEL_MM - arc[nearest]
    assert np.abs(error - np.median(error))[same].max() < 1
    centre = winding.spiral.windings.centre
    turned = roll.hand * np.arctan2(y[nearest] - centre[1], x[nearest] - centre[0])
    truth = theta[nearest] + (turned - theta[nearest] + np.pi) % (2 * np.pi) - np.pi
    along = (found["turn"].to_numpy()[own] * 2 * np.pi - truth) * np.hypot(x[nearest] - centre[0], y[nearest] - centre[1])
    assert np.abs(along)[same].max() < 1
    assert np.abs(np.abs(found["depth"].to_numpy()[own]) / PIXEL_MM - distance)[same].max() < 1


def test_the_hand_is_that_of_the_roll(followed):
    roll, _, winding = followed
    assert (winding.hand, winding.layers) == (roll.hand, 1)


def test_thickness_is_preserved(followed):
    roll, map_, winding = followed
    straight = unroll(map_, winding=winding)
    values = np.nan_to_num(straight.to_numpy())
    x, y = (straight[name].to_numpy() / PIXEL_MM + (roll.n - 1) / 2 for name in ("x", "y"))
    share = roll.share(x, y)
    inside = ((share % 1) > roll.electrode[0] - 0.1) & ((share % 1) < roll.electrode[1] + 0.03)
    thickness = ndimage.gaussian_filter1d(np.where(inside, values, 0).sum(axis=0), 30)
    rates = [np.gradient(roll.share(*np.meshgrid(np.arange(roll.n), np.arange(roll.n))), axis=k) for k in (0, 1)]
    rate = np.hypot(*rates)
    middle = [a[len(straight["depth"]) // 2] for a in (y, x)]
    true = ndimage.gaussian_filter1d((roll.electrode[1] - roll.electrode[0]) / ndimage.map_coordinates(rate, middle, order=1), 30)
    # Where the azimuth passes 0 the count jumps, and its rate is not known.
    clear = (np.abs((straight["turn"].to_numpy() + 0.5) % 1 - 0.5) > 0.1) & (straight["turn"].to_numpy() < roll.turns - 1)
    clear[:100] = False
    assert np.abs(thickness - true)[clear].mean() < 0.3


def test_positions_are_the_inverse_of_coordinates(followed):
    _, map_, winding = followed
    found = winding.coordinates(map_).stack(voxel=("y", "x")).dropna("voxel")
    x, y = winding.positions(found["arc"].to_numpy(), found["depth"].to_numpy())
    off = np.hypot(x - found["x"].to_numpy(), y - found["y"].to_numpy()) / PIXEL_MM
    # At the very ends the nearest point is the end itself.
    assert np.percentile(off, 99.5) < 0.01


def test_each_place_appears_once(followed):
    _, map_, winding = followed
    ones = xr.ones_like(map_)
    unrolled = np.nansum(unroll(ones, winding=winding)) * PIXEL_MM**2
    voxels = np.isfinite(winding.coordinates(map_)["arc"]).sum() * PIXEL_MM**2
    # What lies outside the middle of a curve is longer than the curve, what lies inside shorter: in the mean they agree.
    assert unrolled == pytest.approx(float(voxels), rel=0.02)


def test_other_maps_are_unrolled_by_the_same_winding():
    roll = ROLLS["coarse"]
    map_ = roll.map(0.02)
    both = xr.concat([map_, 2 * map_], xr.Variable("phase", ["one", "two"]))
    straight = unroll(both, winding=follow_winding(map_))
    assert straight.dims == ("phase", "depth", "arc")
    np.testing.assert_allclose(straight.sel(phase="two"), 2 * straight.sel(phase="one"))


def test_a_map_with_descending_y_is_unrolled_alike():
    roll = ROLLS["coarse"]
    map_ = roll.map(0.02)
    xr.testing.assert_allclose(unroll(map_.isel(y=slice(None, None, -1))), unroll(map_))


def test_nan_holes_stay_holes_and_move_nothing():
    roll = ROLLS["coarse"]
    map_ = roll.map(0.02)
    whole = follow_winding(map_).curve()
    holed_map = map_.copy()
    holed_map[40:46, 60:70] = np.nan
    holed = follow_winding(holed_map)
    assert np.isnan(unroll(holed_map, winding=holed)).sum() > np.isnan(unroll(map_, winding=holed)).sum() + 40
    turn = np.arange(1, 5, 0.01)
    curve = holed.curve()
    off = [np.interp(turn, curve["turn"], curve[name]) - np.interp(turn, whole["turn"], whole[name]) for name in ("x", "y")]
    assert np.hypot(*off).max() < 1 * PIXEL_MM


def test_layers_of_a_battery_are_straight_lines():
    """X-ray CT of a 21700 cell: 33 windings, each with two alike layers, and two uncoated ends with tabs."""
    image = tifffile.imread(shared_file("battery_ct/Battery_21700.tif")).astype(float)
    map_ = as_map(image, 21.1 / 2 / 638)
    winding = follow_winding(map_)
    straight = unroll(map_, winding=winding)
    assert winding.layers == 2
    depth = straight["depth"].to_numpy() / (21.1 / 2 / 638)
    near = np.abs(depth) < 3.5
    dark = -ndimage.uniform_filter1d(np.nan_to_num(straight.to_numpy()), 15, axis=1)[near]
    line = depth[near][1:-1][dark[1:-1].argmax(axis=0)]
    turn = straight["turn"].to_numpy()
    deviations = [np.std(line[turn // 1 == k]) for k in range(int(turn[0]) + 1, int(turn[-1]))]
    assert len(deviations) > 30
    assert max(deviations) < 2
    assert np.median(deviations) < 0.3


def casing(x: float, y: float, n: int = 151, seed: int = 0) -> np.ndarray:
    """A ring of coarse grains: a few bright, many dark, a gap where the tab is; and noise."""
    random = np.random.default_rng(seed)
    axis = np.arange(n, dtype=float)
    column, row = np.meshgrid(axis, axis)
    azimuth = np.arctan2(row - y, column - x)
    radius = np.hypot(column - x, row - y) / (1 + 0.01 * np.cos(2 * azimuth))
    ring = np.exp(-0.5 * ((radius - 62) / 1.5) ** 2) * (
        random.gamma(2, 0.5, 90)[((azimuth + np.pi) / (2 * np.pi) * 90).astype(int) % 90] + 0.3
    )
    return np.where(np.abs(azimuth - 2) < 0.3, 0, ring) + 0.03 * random.standard_normal((n, n))


def test_the_centre_of_a_casing_is_found_with_an_honest_uncertainty():
    misses = []
    for seed in range(10):
        true = 75 + np.random.default_rng(100 + seed).uniform(-6, 6, 2)
        found = find_centre(as_map(casing(*true, seed=seed)))
        assert found.method == "ring"
        assert found.radius is not None
        assert found.radius == pytest.approx(62 * PIXEL_MM, rel=0.01)
        off = np.array([found.x, found.y]) / PIXEL_MM + 75 - true
        misses += list(off / (found.uncertainty / PIXEL_MM))
        assert np.abs(off).max() < 0.3
    assert 0.4 < np.std(misses) < 1.6


def test_the_centre_of_windings_is_where_their_normals_meet():
    roll = Roll(n=300, pitch=15, inner=30, x=153, y=144, oval=0.04, bend=(0.9, 0.25, 2.0))
    silicon, _ = roll.phases(0.02)
    found = find_centre(silicon)
    assert found.method == "normals"
    off = np.array([found.x, found.y]) / PIXEL_MM + (roll.n - 1) / 2 - [roll.x, roll.y]
    assert np.abs(off).max() < 2
    assert 0.05 < found.uncertainty / PIXEL_MM < 2


def test_the_polar_image_has_true_depth_and_angle():
    ring = as_map(casing(75, 75))
    polar = unroll(ring, centre=(0, 0), along="angle")
    assert polar.dims == ("depth", "arc")
    profile = np.nanmean(polar, axis=1)
    assert polar["depth"][int(profile.argmax())] == pytest.approx(62 * PIXEL_MM, abs=PIXEL_MM)
    gap = polar["angle"].to_numpy()[polar.sel(depth=62 * PIXEL_MM, method="nearest").to_numpy() < 0.1]
    assert np.median(gap) == pytest.approx(np.rad2deg(2), abs=6)


def rings(n: int = 200) -> np.ndarray:
    axis = np.arange(n) - (n - 1) / 2
    return 1.0 * (np.hypot(*np.meshgrid(axis, axis)) % 10 < 5)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (rings(), "close on themselves"),
        (np.full((60, 60), np.nan), "empty"),
        (np.ones((60, 60)), "empty"),
        (np.eye(8), "too small"),
        (np.random.default_rng(0).standard_normal((120, 120)), "cannot be followed|can be followed|stand out|nothing repeats|lost"),
        (np.sin(np.arange(120) / 2)[:, None] * np.ones(120), "straight|about the centre|followed"),
    ],
)
def test_a_map_without_windings_says_what_is_wrong(values, says):
    with pytest.raises(ShapeError, match=says):
        follow_winding(as_map(values))


def test_a_map_without_a_casing_says_so():
    with pytest.raises(ShapeError, match="no ring"):
        find_centre(Roll().phases(0.02)[0], method="ring")
    with pytest.raises(ShapeError, match="empty"):
        find_centre(as_map(np.zeros((60, 60))))


def test_bad_calls_are_refused():
    map_ = as_map(casing(75, 75))
    with pytest.raises(ShapeError, match="outside the map"):
        unroll(map_, centre=(9, 0), along="angle")
    with pytest.raises(ShapeError, match="electrode or angle"):
        unroll(map_, along="spiral")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="square and even"):
        find_centre(map_.assign_coords(x=map_["x"] * 2))
    with pytest.raises(ShapeError, match="coordinates"):
        find_centre(map_.drop_vars("x"))
    with pytest.raises(ShapeError, match="select a phase"):
        find_centre(map_.expand_dims("phase"))
    with pytest.raises(ShapeError, match="cannot be followed on pixels"):
        follow_winding(map_, repeat_mm=0.01)
