"""What the cell does as a whole tells of the moments between two repetitions of an angle."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from reacting import NOISE, OTHER_CELLS, SET_S, Experiment, measure, quadrant_difference, taken

from operandi.simulate.projections import line_integrals
from operandi.stages.instants import Projections, instant_sinogram
from operandi.stages.temporal import TemporalModel, learn
from operandi.stages.trends import _project, _rings, with_trend
from operandi.stages.volumes import grid_mm, partial_volume

LAYOUTS = {"the built-in cell": None, **OTHER_CELLS}


@functools.cache
def experiment(layout: str = "the built-in cell") -> Experiment:
    return measure(layout=LAYOUTS[layout])


def off(cell: Experiment, projections: Projections, model: TemporalModel, time_s: float) -> np.ndarray:
    """How far the frame of one moment is off the cell stopped then."""
    instant = instant_sinogram(projections, float(cell.curve.charge(time_s)), "model", model)
    return partial_volume(instant.intensity, instant.rotation_deg, cell.translation_mm, 0.0) - cell.frozen(time_s)


@pytest.mark.parametrize(
    ("layout", "share"), [("the built-in cell", 0.85), ("more turns, further apart", 0.85), ("fewer turns, closer together", 0.7)]
)
def test_the_first_frame_is_nearer_to_the_truth_and_no_more_lopsided(layout, share):
    cell = experiment(layout)
    projections, model = taken(cell, NOISE, seed=3, sets=4)
    charge = float(cell.curve.charge(2 * SET_S)) / 2
    seconds = np.linspace(0, 2 * SET_S, 2001)
    middle = float(np.interp(charge, cell.curve.charge(seconds), seconds))
    alone = off(cell, projections, model, middle)
    whole = off(cell, projections, with_trend(projections, model, cell.translation_mm, 0.0), middle)
    assert np.sqrt(np.mean(whole**2)) < share * np.sqrt(np.mean(alone**2))
    assert np.linalg.norm(quadrant_difference(whole)) < 1.1 * np.linalg.norm(quadrant_difference(alone))


def test_a_cell_that_stands_still_stays_as_it_is():
    cell = experiment()
    projections, _ = taken(cell, NOISE, seed=3, sets=4)
    charge = np.full(cell.translation_mm.size, 9.0)
    lines = np.stack([line_integrals(cell.cell, angle, cell.translation_mm, charge) for angle in projections.rotation_deg])
    still = lines[..., : projections.intensity.shape[2]]
    sigma = 1e-3 * still.max()
    noisy = still + sigma * np.random.default_rng(0).standard_normal(still.shape)
    projections = replace(projections, intensity=noisy, variance=np.full(still.shape, sigma**2))
    model = learn(noisy, projections.variance, projections.rotation_deg, projections.progress)
    instant = instant_sinogram(projections, 7.0, "model", with_trend(projections, model, cell.translation_mm, 0.0))
    expected = still[: len(instant.rotation_deg)][np.argsort(projections.rotation_deg[: len(instant.rotation_deg)])]
    assert np.sqrt(np.mean((instant.intensity - expected) ** 2)) < 1.1 * np.sqrt(instant.variance.mean())


def test_a_trend_is_left_out_where_it_cannot_be_told():
    cell = experiment()
    projections, model = taken(cell, NOISE, seed=3, sets=4)
    torn = projections.intensity.copy()
    torn[3, 5] = np.nan
    wide = np.repeat(projections.progress[:, None], len(cell.translation_mm), axis=1)
    pooled = learn(projections.intensity, projections.variance, projections.rotation_deg, projections.progress, pooled=True)
    place = cell.translation_mm, 0.0
    assert with_trend(replace(projections, intensity=torn), model, *place) is model
    assert with_trend(replace(projections, progress=wide), model, *place) is model
    assert with_trend(projections, pooled, *place) is pooled
    resting = replace(projections, progress=np.full_like(projections.progress, 3.0))
    assert with_trend(resting, model, *place) is model


@pytest.mark.parametrize("axis_mm", [0.0, 0.11])
def test_what_is_projected_reconstructs_to_itself(axis_mm):
    translation = np.linspace(4.2, -4.2, 61)
    grid = grid_mm(translation)
    x, y = np.meshgrid(grid, grid)
    map_ = np.exp(-((x - 1.0) ** 2 + (y + 0.7) ** 2) / 0.8) + 0.5 * np.exp(-((x + 1.5) ** 2 + y**2) / 0.5)
    angles = np.arange(0, 180, 1.5)
    sinogram = _project(map_[..., None], angles, translation, axis_mm)
    np.testing.assert_allclose(sinogram.sum(axis=1)[:, 0], map_.sum() * abs(grid[1] - grid[0]), rtol=1e-4)
    back = partial_volume(sinogram, angles, translation, axis_mm)[..., 0]
    inside = np.hypot(x, y) < 3.8
    assert np.abs(back - map_)[inside].max() < 0.04  # of 1: the cells blur by their own width, twice


def test_rings_are_the_whole():
    translation = np.linspace(-2, 2, 21)
    map_ = np.random.default_rng(0).random((21, 21, 3))
    within = np.hypot(*np.meshgrid(translation, translation)) <= 2
    np.testing.assert_allclose(_rings(map_, translation).sum(axis=-1)[within], map_[within])
