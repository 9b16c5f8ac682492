import numpy as np
import pytest
from pydantic import ValidationError

from operandi.experiment import Corrections, Scan
from operandi.pipeline.companions import Companions
from operandi.pipeline.correcting import Chain
from operandi.pipeline.sets import Positions, SetBuffer, close
from operandi.stages import scans
from operandi.stages.maps import Screening
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
    return close(buffer, SCAN, Chain(corrections, SCAN.exposure_s, reference, companions), SCREENING)


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
