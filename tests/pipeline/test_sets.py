from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from operandi.experiment import Absorption, Corrections, Scan
from operandi.experiment.corrections import AbsorbingLayer
from operandi.pipeline.companions import Companions, Transmission
from operandi.pipeline.correcting import Chain
from operandi.pipeline.sets import Positions, SetBuffer, close
from operandi.stages import scans
from operandi.stages.absorption import cylinder_transmission
from operandi.stages.maps import Screening
from operandi.stages.outliers import without_stripes
from operandi.stages.patterns import Patterns

SCAN = Scan(sets=2, rotations_per_set=30, translations=21, translation_start_mm=-1, translation_stop_mm=1, exposure_s=0.5, travel="forward")
N_Q = 4
SCREENING = Screening(np.ones((1, N_Q)), np.ones((1, N_Q)))


def closed(
    intensity: np.ndarray,
    flux: np.ndarray,
    corrections: Corrections,
    reference: float = 100.0,
    companions: Companions = Companions(),  # noqa: B008 - frozen
):
    """The set of an intensity (rotation, translation, q) and a monitor (rotation, translation)."""
    buffer = SetBuffer.empty(0, SCAN.rotations_per_set, SCAN.translations, N_Q)
    route, n = scans.route(SCAN, 0), intensity[..., 0].size
    values = intensity.reshape(n, N_Q).astype(np.float32)
    positions = Positions(route.rotation_deg, route.translation_mm, flux.ravel(), np.arange(n) * 0.5)
    buffer.admit(np.arange(n), Patterns(values, np.sqrt(values), np.ones_like(values)), positions)
    return close(buffer, SCAN, Chain(corrections, SCAN, reference, companions), SCREENING)


def object_and_flux() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    smooth = 100 * np.exp(-(np.linspace(-2, 2, 21) ** 2))
    true = np.tile(smooth[None, :, None], (30, 1, N_Q)) * rng.uniform(0.99, 1.01, (30, 21, N_Q))
    return true, 100 * np.linspace(1, 0.7, 630).reshape(30, 21)


def test_a_monitor_behind_the_sample_takes_out_flux_and_absorption_and_leaves_the_rim():
    true, flux = object_and_flux()
    behind = flux * np.exp(-true[..., 0] / 200)
    found = closed(true * behind[..., None] / 100, behind, Corrections(transmission=True))
    np.testing.assert_allclose(found.intensity, true, rtol=1e-5)
    with_air = closed(true * behind[..., None] / 100, behind, Corrections())
    assert np.abs(with_air.intensity - true).min() > 0.5  # the rim's signal is gone there


def test_dead_time_is_undone_before_all_else():
    true, flux = object_and_flux()
    counts = true * flux[..., None] / 100
    seen = counts / (1 + counts * 1e-4 / SCAN.exposure_s)
    found = closed(seen, flux, Corrections(dead_time_s=1e-4, air="none"))
    np.testing.assert_allclose(found.intensity, true, rtol=1e-5)
    assert np.abs(closed(seen, flux, Corrections(air="none")).intensity / true - 1).max() > 0.01


def test_a_grain_in_one_projection_is_taken_out_where_the_experiment_asks_for_it():
    true, flux = object_and_flux()
    spoiled = true.copy()
    spoiled[12, 9:12, 1] += 300
    constant = np.full_like(flux, 100)
    left = closed(spoiled, constant, Corrections(air="none")).intensity
    found = closed(spoiled, constant, Corrections(air="none", spots_sigma=8))
    np.testing.assert_allclose(left, spoiled, rtol=1e-5)
    np.testing.assert_allclose(found.intensity[12, 9:12, 1], true[12, 9:12, 1], rtol=0.06)  # the median is flatter than the peak
    others = np.ones(true.shape, bool)
    others[12, 9:12, 1] = False
    np.testing.assert_allclose(found.intensity[others], true[others], rtol=1e-5)
    assert found.measured == 630


def test_transmission_without_a_monitor_is_refused():
    with pytest.raises(ValidationError, match="make monitor true"):
        Corrections(transmission=True, monitor=False)


def test_what_the_cell_absorbs_is_undone_before_the_air_is_subtracted():
    """Air scatters before and behind the cell, and is weakened with all else; beside the cell nothing is."""
    true, flux = object_and_flux()
    true[:, [0, 1, -2, -1]] = 0
    translation = scans.translations_mm(SCAN)
    survives = cylinder_transmission(translation, 0.0, [(0.75, 0.8)])
    assert survives.min() < 0.35
    beside = Transmission(survives[None], np.zeros(1), translation)
    seen = (true + 40) * survives[None, :, None] * flux[..., None] / 100
    how = Corrections(absorption=Absorption(layers=(AbsorbingLayer(radius_mm=0.75, attenuation_inv_mm=0.8),)))
    np.testing.assert_allclose(closed(seen, flux, how, companions=Companions(None, beside)).intensity, true, atol=1e-3)
    assert np.abs(closed(seen, flux, Corrections()).intensity - true).max() > 30


def test_a_measured_transmission_is_taken_at_the_angles_and_positions_of_the_set():
    true, flux = object_and_flux()
    angles, positions = np.arange(0, 180, 3.0)[::-1], np.linspace(-1.1, 1.1, 45)
    of = lambda rotation, translation: 0.6 + 0.001 * rotation[:, None] + 0.1 * translation[None]  # noqa: E731 - bilinear, so exact
    beside = Transmission(of(angles, positions), angles, positions)
    route = scans.route(SCAN, 0)
    survives = of(route.rotation_deg[:: SCAN.translations], scans.translations_mm(SCAN))
    how = Corrections(air="none", absorption=Absorption(file=Path("transmission.h5")))
    found = closed(true * survives[..., None] * flux[..., None] / 100, flux, how, companions=Companions(None, beside))
    np.testing.assert_allclose(found.intensity, true, rtol=1e-4)


def test_an_offset_at_one_position_is_taken_out_where_the_experiment_asks_for_it():
    # a lump off the axis: what turns with the axis looks like a stripe itself
    rotation, translation = np.deg2rad(np.arange(30) * 6.0)[:, None], scans.translations_mm(SCAN)[None]
    true = np.repeat(100 * np.exp(-(((translation - 0.5 * np.cos(rotation)) / 0.3) ** 2))[..., None], N_Q, axis=2) + 50
    striped = true.copy()
    striped[:, 6] += 15
    constant = np.full((30, 21), 100.0)
    found = closed(striped, constant, Corrections(air="none", stripes_width=7)).intensity
    before, after = (np.abs((values - true)[:, 6].mean()) for values in (striped, found))
    assert (before, after < 2.0) == (15.0, True)
    np.testing.assert_allclose(found, without_stripes(striped.astype(np.float32), width=7), rtol=1e-5)
