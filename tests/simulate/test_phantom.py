"""A cell holds no more than its volume, and charging moves lithium one way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import shared_file

from operandi.errors import ShapeError
from operandi.simulate.phantom import CAPACITY_MAH, CASING, PHASES, Layout, cell_from_image, jelly_roll, layer, phase_maps

CELL = jelly_roll(203, 0.042)


def phase(charge_mah: float, name: str) -> np.ndarray:
    return phase_maps(CELL, charge_mah)[PHASES.index(name)]


@settings(deadline=None, max_examples=30)
@given(st.floats(-5, 40))
def test_fractions_lie_between_zero_and_one_and_add_up_to_at_most_one(charge_mah):
    maps = phase_maps(CELL, charge_mah)
    assert maps.min() >= 0
    assert maps.sum(axis=0).max() <= 1 + 1e-6


@settings(deadline=None, max_examples=30)
@given(st.floats(0, CAPACITY_MAH), st.floats(0, CAPACITY_MAH))
def test_charging_never_makes_graphite_or_lithiated_oxide(a, b):
    low, high = min(a, b), max(a, b)
    for name in ("graphite", "NMC lithiated"):
        assert (phase(high, name) <= phase(low, name) + 1e-6).all()
    for name in ("LiC6", "NMC delithiated"):
        assert (phase(high, name) >= phase(low, name) - 1e-6).all()


def test_an_empty_cell_is_graphite_and_a_full_one_lic6():
    anode = layer(CELL, "graphite")
    assert phase(0.0, "LiC12")[anode].max() == 0
    assert phase(0.0, "LiC6")[anode].max() == 0
    np.testing.assert_allclose(phase(0.0, "graphite")[anode], phase(CAPACITY_MAH, "LiC6")[anode], rtol=1e-6)


def test_lic6_appears_about_half_way():
    anode = layer(CELL, "LiC6")
    assert phase(0.4 * CAPACITY_MAH, "LiC6")[anode].mean() < 0.01
    assert phase(0.6 * CAPACITY_MAH, "LiC6")[anode].mean() > 0.05


def test_passive_parts_do_not_change_with_charge():
    for name in ("aluminium", "copper", "casing", "separator", "silicon"):
        np.testing.assert_allclose(phase(0.0, name), phase(17.0, name), atol=1e-6)


def test_the_reaction_is_further_inside_than_outside():
    lithiated = phase(14.0, "LiC12") + 2 * phase(14.0, "LiC6")
    y, x = np.mgrid[-101:102, -101:102]
    anode, radius = layer(CELL, "LiC6"), np.hypot(x, y) * 0.042
    assert lithiated[anode & (radius < 1.5)].mean() > lithiated[anode & (radius > 2.8)].mean()


def test_the_agglomerate_holds_more_silicon_than_the_rest():
    silicon = phase(0.0, "silicon")
    plain = phase_maps(jelly_roll(203, 0.042, Layout(agglomerate=None)), 0.0)[PHASES.index("silicon")]
    assert silicon.max() > 3 * plain.max()


def test_the_cell_lies_inside_its_casing():
    y, x = np.mgrid[-101:102, -101:102]
    radius = np.hypot(x, y) * 0.042
    assert radius[CELL.host == CASING].min() > 3.5
    assert radius[CELL.host != 0].max() <= 3.8


def test_a_cell_can_be_made_from_the_image_of_a_real_one():
    cell = cell_from_image(shared_file("battery_ct/Battery_21700.tif"), n=301, pitch_mm=0.028)
    y, x = np.mgrid[-150:151, -150:151]
    radius = np.hypot(x, y) * 0.028
    assert abs(radius[cell.host == CASING].mean() - 3.75) < 0.1
    wound = (radius > 1.0) & (radius < 3.5)
    assert {1, 2, 3, 4, 6} <= set(np.unique(cell.host[wound]))
    assert (cell.host[radius > 3.95] == 0).all()


def test_an_image_that_is_no_slice_is_refused(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 40, 40), np.uint8))
    with pytest.raises(ShapeError, match="one slice"):
        cell_from_image(tmp_path / "stack.tif", n=21, pitch_mm=0.4)
