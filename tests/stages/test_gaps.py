"""Gaps between angles are filled with what the projections around them tell."""

import numpy as np
import pytest

from operandi.simulate.phantom import Layout, jelly_roll
from operandi.simulate.projections import line_integrals
from operandi.stages.gaps import plan_fill
from operandi.stages.volumes import partial_volume

N, PITCH, AXIS_MM = 61, 0.14, 0.09
TRANSLATION = (np.arange(N) - (N - 1) / 2) * PITCH
EVEN = np.arange(96) * 180 / 96
LAYOUTS = (Layout(), Layout(bend=None, agglomerate=(1.0, -1.2, 0.4), turns=3.0), Layout(turns=2.0, anode_mm=0.2, agglomerate=None))


def sinogram(layout: Layout, rotation_deg: np.ndarray) -> np.ndarray:
    """Path lengths of a few species (rotation, translation, species)."""
    cell = jelly_roll(N * 5, PITCH / 5, layout)
    return np.stack([line_integrals(cell, a, TRANSLATION - AXIS_MM, np.full(N, 14.0))[:, [1, 3, 6, 7]] for a in rotation_deg]).astype(
        np.float32
    )


def volume(values: np.ndarray, rotation_deg: np.ndarray) -> np.ndarray:
    return partial_volume(values, rotation_deg, TRANSLATION, AXIS_MM)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
def test_a_quarter_of_the_projections_that_is_missing_costs_much_less_when_gaps_are_filled(layout, seed):
    whole = sinogram(LAYOUTS[layout], EVEN)
    kept = np.random.default_rng(seed).random(EVEN.size) > 0.25
    fill = plan_fill(whole[kept], EVEN[kept], TRANSLATION, AXIS_MM)
    assert fill is not None
    expected = volume(whole, EVEN)
    lost, left = (
        np.sqrt(np.mean((v - expected) ** 2)) for v in (volume(whole[kept], EVEN[kept]), volume(fill.fill(whole[kept]), fill.rotation_deg))
    )
    assert left < 0.6 * lost


def test_what_is_round_and_wide_is_filled_wherever_the_gap_is_and_the_axis():
    for first in (0, 40, 90):
        for axis_mm in (-0.4, 0.13):
            profile = np.exp(-0.5 * ((TRANSLATION - axis_mm) / 0.6) ** 2)
            kept = np.roll(np.arange(EVEN.size) > 4, first)
            fill = plan_fill(np.ones((kept.sum(), N, 1)), EVEN[kept], TRANSLATION, axis_mm)
            assert fill is not None
            np.testing.assert_allclose(np.sort(np.mod(fill.rotation_deg + 1e-9, 180)), EVEN, atol=1e-6)
            filled = fill.fill(np.broadcast_to(profile[:, None], (kept.sum(), N, 1)))
            np.testing.assert_allclose(filled[kept.sum() :, :, 0], np.broadcast_to(profile, (5, N)), atol=0.02)


def test_a_projection_from_the_other_side_and_a_reversed_travel_tell_the_same():
    whole = sinogram(LAYOUTS[0], EVEN)
    kept = np.arange(EVEN.size) % 12 > 2
    values, angles = whole[kept], EVEN[kept].copy()
    plain = plan_fill(values, angles, TRANSLATION, 0.0)
    turned, beyond = values.copy(), angles.copy()
    turned[::3], beyond[::3] = values[::3, ::-1], angles[::3] + 180  # the translations are symmetric about an axis at 0
    other = plan_fill(turned, beyond, TRANSLATION, 0.0)
    back = plan_fill(values[:, ::-1], angles, TRANSLATION[::-1], 0.0)
    assert plain is not None
    assert other is not None
    assert back is not None
    inserted = plain.fill(values)[kept.sum() :]
    np.testing.assert_allclose(other.fill(turned)[kept.sum() :], inserted, atol=1e-3 * inserted.max())
    np.testing.assert_allclose(back.fill(values[:, ::-1])[kept.sum() :, ::-1], inserted, atol=1e-3 * inserted.max())


def test_projections_and_cells_that_are_missing_and_channels_that_are_lost():
    whole = sinogram(LAYOUTS[0], EVEN)
    whole[10:14] = np.nan
    whole[50, 20] = np.nan
    whole[60, :, 2] = np.nan
    fill = plan_fill(whole, EVEN, TRANSLATION, AXIS_MM)
    assert fill is not None
    assert fill.used.size == EVEN.size - 4
    filled = fill.fill(whole)
    assert np.isfinite(filled[..., [0, 1, 3]]).all()
    assert np.isnan(filled[..., 2]).all()


def test_few_or_even_angles_leave_nothing_to_fill():
    for angles in (EVEN, np.arange(7) * 180 / 7, np.array([3.0]), np.array([0.0, 90.0]), np.empty(0), np.full(5, 20.0)):
        assert plan_fill(np.ones((angles.size, N, 1)), angles, TRANSLATION, AXIS_MM) is None
