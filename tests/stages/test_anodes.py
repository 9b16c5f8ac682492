"""The anode of a roll, against the phantom's layers: crystals tell it where everything scatters, silicon where it outshines the rest."""

import numpy as np
import pytest
import xarray as xr

from operandi import follow_winding
from operandi.errors import ShapeError
from operandi.simulate.phantom import Layout, grid_mm, jelly_roll, phase_maps
from operandi.simulate.projections import FINE, to_scan_grid
from operandi.simulate.states import ANODE, COPPER
from operandi.stages.anodes import evened, find_anode, show_layers

N, PITCH_MM, CHARGE_MAH = 61, 0.14, 20.0
PHASES = {"graphite": 0, "LiC12": 1, "LiC6": 2, "NMC lithiated": 3, "NMC delithiated": 4, "aluminium": 5, "copper": 6, "casing": 7}
LAYOUTS = {
    "as built in": Layout(agglomerate=(-1.35, 1.15, 0.8)),
    "turned": Layout(agglomerate=(1.5, -1.0, 0.6), bend=(-2.0, 0.25, 0.14)),
    "sound": Layout(agglomerate=None, bend=None),
}


def measured(layout: Layout, noise: float = 0.02) -> tuple[xr.DataArray, np.ndarray]:
    """Maps (phase, y, x), silicon as small angles see it where all else scatters too; and the share of anode in each voxel."""
    cell = jelly_roll(N * FINE, PITCH_MM / FINE, layout)
    fine = phase_maps(cell, CHARGE_MAH)
    silicon = 8 * fine[-1] + fine[:-1].sum(axis=0)  # of anode 1.4, of a collector 1: layers do not stand out by much
    fractions = to_scan_grid(np.stack([*fine[list(PHASES.values())], silicon]), PITCH_MM)
    fractions = fractions + noise * np.random.default_rng(0).standard_normal(fractions.shape)
    axis = grid_mm(N, PITCH_MM)
    maps = xr.DataArray(fractions, {"phase": [*PHASES, "silicon"], "y": axis, "x": axis}, ("phase", "y", "x"))
    coated = np.isin(cell.host, (ANODE, COPPER)).reshape(N, FINE, N, FINE).mean(axis=(1, 3))
    return maps, coated


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_anode_is_found_by_its_crystals_where_everything_scatters(layout):
    maps, coated = measured(layout)
    found = find_anode(follow_winding(evened(show_layers(maps))), show_layers(maps, (("graphite", "LiC12", "LiC6"),)))
    assert coated[found.values].mean() > 0.8  # voxels at its faces are partly of the separator
    assert found.values[(coated > 0.95) & (np.hypot(found["x"], found["y"]).values < 2.9)].mean() > 0.9  # the outermost end is cut off


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_silicon_tells_it_where_that_outshines_the_rest(layout):
    maps, coated = measured(layout)
    silicon = (maps.sel(phase=["silicon"]) - 1).clip(min=0)
    found = find_anode(follow_winding(evened(show_layers(silicon))), show_layers(silicon))
    assert coated[found.values].mean() > 0.8


def test_what_outshines_the_layers_hides_no_winding():
    maps, _ = measured(LAYOUTS["as built in"])
    layers = show_layers(maps, (("graphite", "LiC12", "LiC6"),))
    spotted = layers.where(np.hypot(layers["x"] + 1.35, layers["y"] - 1.15) > 1.1, 4 * layers)
    with pytest.raises(ShapeError):
        follow_winding(spotted)
    plain, found = (follow_winding(evened(one)).curve() for one in (layers, spotted))
    found = found.interp(arc=plain["arc"])
    assert float(np.hypot(found["x"] - plain["x"], found["y"] - plain["y"]).median()) < PITCH_MM / 2


def test_a_map_without_a_layer_is_refused():
    maps, _ = measured(LAYOUTS["sound"])
    winding = follow_winding(evened(show_layers(maps)))
    noise = maps[0].copy(data=1 + 0.01 * np.random.default_rng(1).standard_normal((N, N)))
    with pytest.raises(ShapeError, match="no layer of the winding stands out"):
        find_anode(winding, noise)
    with pytest.raises(ShapeError, match="too little"):
        find_anode(winding, noise.where(noise > 1e9))
    with pytest.raises(ShapeError, match="no map shows an electrode; there are casing"):
        show_layers(maps.sel(phase=["casing"]))
