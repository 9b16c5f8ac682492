"""Line integrals follow the scan's geometry, and lead back to the cell."""

import numpy as np
import pytest

from operandi.experiment import Scan
from operandi.simulate.beamline import fit_cell
from operandi.simulate.phantom import PHASES, SPECIES, Cell, layer, species_maps
from operandi.simulate.projections import FINE, line_integrals, simulated_line_integrals, to_scan_grid, truth
from operandi.simulate.schedules import Schedule

SCAN = Scan(sets=2, rotations_per_set=40, translations=61, translation_start_mm=-4.2, translation_stop_mm=4.2, exposure_s=0.3)
SCHEDULE = Schedule(SCAN, 0.11)


def point_cell(x_mm: float, y_mm: float) -> Cell:
    n, pitch = 61 * FINE, 0.14 / FINE
    host = np.zeros((n, n), np.int8)
    host[round(y_mm / pitch + (n - 1) / 2), round(x_mm / pitch + (n - 1) / 2)] = 3
    return Cell(host, np.zeros((n, n), np.int8), np.zeros((n, n), np.float32), pitch)


@pytest.mark.parametrize("rotation_deg", [0.0, 30.0, 90.0, 135.0, 180.0])
def test_a_point_is_seen_where_x_cos_plus_y_sin_says(rotation_deg):
    x, y = 1.4, 2.1
    offsets = SCHEDULE.translations_mm - SCHEDULE.axis_mm
    seen = line_integrals(point_cell(x, y), rotation_deg, offsets, np.zeros(61))[:, SPECIES.index("aluminium")]
    angle = np.deg2rad(rotation_deg)
    expected = x * np.cos(angle) + y * np.sin(angle)
    assert abs((seen * offsets).sum() / seen.sum() - expected) < 0.08


def test_no_material_is_lost_on_the_way():
    cell = fit_cell(SCHEDULE)
    area = species_maps(cell, 10.0).sum(axis=(1, 2)) * cell.pitch_mm**2
    for rotation_deg in (0.0, 17.0, 90.0):
        lengths = line_integrals(cell, rotation_deg, SCHEDULE.translations_mm - SCHEDULE.axis_mm, np.full(61, 10.0))
        np.testing.assert_allclose(lengths.sum(axis=0) * SCHEDULE.pitch_mm, area, rtol=1e-6)


def test_the_rim_of_the_scan_sees_only_air():
    lengths = line_integrals(fit_cell(SCHEDULE), 45.0, SCHEDULE.translations_mm - SCHEDULE.axis_mm, np.zeros(61))
    assert lengths[[0, 1, -2, -1]].max() == 0


def test_columns_are_in_order_of_translation_whatever_the_travel():
    backwards = Schedule(SCAN.model_copy(update={"travel": "forward"}), 0.11)
    cell = fit_cell(SCHEDULE)
    still = [simulated_line_integrals(cell, s, lambda t: np.full(t.shape, 5.0), range(1))[:4] for s in (SCHEDULE, backwards)]
    np.testing.assert_array_equal(*still)


def test_the_truth_keeps_the_amount_of_every_phase():
    cell = fit_cell(SCHEDULE)
    result = truth(cell, np.array([12.0]), SCHEDULE.pitch_mm)
    fine = species_maps(cell, 12.0)
    area = result.maps[PHASES.index("copper")].sum() * SCHEDULE.pitch_mm**2
    assert area == pytest.approx(fine[SPECIES.index("copper")].sum() * cell.pitch_mm**2, rel=1e-4)


def test_voxels_of_the_truth_are_centred_on_those_of_the_scan():
    n = 5 * FINE
    fine = np.zeros((n, n), np.float32)
    fine[n // 2, n // 2 + FINE] = 1
    assert np.unravel_index(to_scan_grid(fine, 1.0).argmax(), (5, 5)) == (2, 3)


def test_a_phase_is_present_where_it_fills_a_tenth_of_its_layer():
    cell = fit_cell(SCHEDULE)
    assert dict(zip(PHASES, truth(cell, np.array([1.0]), 0.14).present, strict=True)) == {
        "graphite": True, "LiC12": False, "LiC6": False, "NMC lithiated": True, "NMC delithiated": False, "aluminium": True,
        "copper": True, "casing": True, "separator": True, "silicon": True,
    }  # fmt: skip


def filtered_back_projection(sinogram, angles_deg, offsets_mm):
    pitch, n = offsets_mm[1] - offsets_mm[0], offsets_mm.size
    k = np.arange(-128, 128)
    kernel = np.where(k == 0, 0.25, np.where(k % 2 == 0, 0.0, -1 / (np.pi * np.where(k == 0, 1, k)) ** 2))
    response = np.fft.fft(np.fft.ifftshift(kernel)).real
    filtered = np.fft.ifft(np.fft.fft(sinogram, 256, axis=1) * response, axis=1).real[:, :n] / pitch
    axis = (np.arange(n) - (n - 1) / 2) * pitch
    x, y = np.meshgrid(axis, axis)
    return np.pi / len(angles_deg) * sum(
        np.interp(x * np.cos(a) + y * np.sin(a), offsets_mm, row) for a, row in zip(np.deg2rad(angles_deg), filtered, strict=True)
    )  # fmt: skip


def test_a_plain_reconstruction_of_two_sets_gives_the_truth_back():
    cell = fit_cell(SCHEDULE)
    sinogram = simulated_line_integrals(cell, SCHEDULE, lambda t: np.full(t.shape, 14.0), range(2))
    angles = [SCHEDULE.line(i).rotation_deg for i in range(80)]
    order = np.argsort(angles)
    expected = truth(cell, np.array([14.0]), SCHEDULE.pitch_mm)
    for name in ("LiC12", "NMC lithiated", "NMC delithiated", "aluminium", "copper", "casing", "separator"):
        found = filtered_back_projection(
            sinogram[order, :, SPECIES.index(name)], np.array(angles)[order], SCHEDULE.translations_mm - SCHEDULE.axis_mm
        )
        assert layer(cell, name).any()
        # What is missing to 1 is the width of the beam and 80 angles for 61 positions.
        assert np.corrcoef(found.ravel(), expected.maps[PHASES.index(name)].ravel())[0, 1] > 0.95
