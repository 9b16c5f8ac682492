"""What the detector counts is what an integration gives back, and noise is Poisson's."""

from dataclasses import replace

import numpy as np
import pyFAI
import pytest
from scipy import stats

from operandi.errors import GeometryError
from operandi.experiment import Experiment
from operandi.simulate.beamline import demo_file
from operandi.simulate.detectors import DEAD, GAP, HOT, Response, expected_image, image, monitor_counts, response
from operandi.simulate.phantom import SPECIES
from operandi.simulate.reference import profiles, scatterers


def experiment(**geometry) -> Experiment:
    paths = {"poni": demo_file("demo.poni"), "mask": demo_file("demo_mask.npy"), **geometry}
    return Experiment.model_validate(
        {
            "sample": {"name": "x"},
            "geometry": paths,
            "integration": {"q_min_inv_angstrom": 0.9, "q_max_inv_angstrom": 5.2},
            "scan": {"sets": 2, "rotations_per_set": 2, "translations": 3,
                     "translation_start_mm": 0, "translation_stop_mm": 1, "exposure_s": 1},
        }
    )  # fmt: skip


RESPONSE = response(experiment())
LENGTHS = np.linspace(0.2, 1.0, len(SPECIES))


def integrated(counts: np.ndarray, poni, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    result = pyFAI.load(str(poni)).integrate1d(
        counts, 900, unit="q_A^-1", radial_range=(0.9, 5.2), mask=mask, polarization_factor=0.99, method=("no", "histogram", "cython")
    )
    return result.radial, result.intensity


def test_integrating_an_expected_image_gives_the_pattern_that_was_put_in():
    counts = expected_image(RESPONSE, LENGTHS, 1.0e6)
    calibration = pyFAI.load(str(demo_file("demo.poni")))
    mask = np.load(demo_file("demo_mask.npy")).astype(bool)
    _, found = integrated(counts, demo_file("demo.poni"), mask)
    # The same pixels in the same bins: the mean of the pattern at the centres of the pixels, with all corrections undone.
    q = calibration.array_from_unit(RESPONSE.shape, unit="q_A^-1")[~mask]
    put_in = profiles(q.astype(float)) @ np.append(LENGTHS, 1.0)
    weight = (calibration.solidAngleArray() * calibration.polarization(factor=0.99))[~mask]
    edges = np.linspace(0.9, 5.2, 901)
    total, _ = np.histogram(q, edges, weights=put_in * weight)
    norm, _ = np.histogram(q, edges, weights=weight)
    filled = norm > 0
    np.testing.assert_allclose(np.median(found[filled] / (total[filled] / norm[filled])), 1, atol=1e-3)
    assert np.corrcoef(found[filled], total[filled] / norm[filled])[0, 1] > 0.9999


def test_the_monitor_scales_every_pixel():
    np.testing.assert_allclose(expected_image(RESPONSE, LENGTHS, 0.9e6), 0.9 * expected_image(RESPONSE, LENGTHS, 1.0e6), rtol=1e-5)


def test_without_a_cell_only_air_scatters():
    nothing = np.zeros(len(SPECIES))
    assert expected_image(RESPONSE, nothing, 1e6).min() > 0
    assert expected_image(replace(RESPONSE, air_mm=0.0), nothing, 1e6).max() == 0


def flat(expected: float, pixels: int = 200_000) -> Response:
    return Response(
        table=np.full((2, len(SPECIES) + 1), expected, np.float32),
        position=np.zeros(pixels, np.float32),
        weight=np.ones(pixels, np.float32),
        flags=np.zeros(pixels, np.int32),
        shape=(1, pixels),
    )


@pytest.mark.parametrize("expected", [0.02, 0.7, 3.3, 11.1, 15.99, 16.01, 47.0, 800.0])
def test_counts_are_poissons(expected):
    counts = image(flat(expected), np.zeros(len(SPECIES)), 1e6, seed=1, number=7)
    n = counts.size
    assert abs(counts.mean() - expected) < 4 * np.sqrt(expected / n)
    # Above 16 the rounding of a continuous number adds 1/12 to the variance.
    assert abs(counts.var() / expected - 1) < 4 * np.sqrt((2 + 1 / expected) / n) + 1 / 12 / max(expected, 16) + 1e-3
    assert abs(stats.skew(counts, axis=None) - expected**-0.5) < 0.03 + 0.05 * expected**-0.5


def test_an_image_depends_on_seed_and_number_alone():
    first = image(RESPONSE, LENGTHS, 1e6, seed=5, number=11)
    image(RESPONSE, LENGTHS, 1e6, seed=5, number=12)
    np.testing.assert_array_equal(first, image(RESPONSE, LENGTHS, 1e6, seed=5, number=11))
    assert (first != image(RESPONSE, LENGTHS, 1e6, seed=5, number=12)).any()
    assert (first != image(RESPONSE, LENGTHS, 1e6, seed=6, number=11)).any()


def test_masked_pixels_show_gaps_dead_and_hot_pixels():
    counts = image(RESPONSE, LENGTHS, 1e6, seed=0, number=0)
    mask = np.load(demo_file("demo_mask.npy")).astype(bool)
    assert counts.dtype == np.int32
    assert counts.shape == (100, 960)
    assert set(np.unique(counts[mask])) == {GAP, DEAD, HOT}
    assert counts[~mask].min() >= 0


def test_the_monitor_drifts_by_about_a_tenth():
    counts = monitor_counts(np.linspace(0, 7200, 500), 7200.0)
    assert 0.05 < np.ptp(counts) / counts.mean() < 0.12


def test_discharged_silicon_has_one_slope_and_charged_silicon_departs_at_its_domain_size():
    q = np.geomspace(0.012, 0.3, 60)
    names = list(SPECIES)
    slope = np.diff(
        np.log(profiles(q)[:, names.index("silicon discharged")] - 2.5 * scatterers()["silicon discharged"].background)
    ) / np.diff(np.log(q))
    assert np.ptp(slope[q[1:] < 0.1]) < 0.1
    charged = profiles(q)[:, names.index("silicon normal")]
    slope = np.diff(np.log(charged - 2.5 * scatterers()["silicon normal"].background)) / np.diff(np.log(q))
    assert slope[q[1:] < 0.04].min() > -1.6
    assert slope[(q[1:] > 0.06) & (q[1:] < 0.1)].max() < -3.0


def test_a_mask_of_another_shape_is_refused(tmp_path):
    np.save(tmp_path / "other.npy", np.zeros((3, 3)))
    with pytest.raises(GeometryError, match="shape"):
        response(experiment(mask=tmp_path / "other.npy"))


def test_a_calibration_that_is_none_is_refused(tmp_path):
    (tmp_path / "no.poni").write_text("not a calibration")
    with pytest.raises(GeometryError, match="no.poni"):
        response(experiment(poni=tmp_path / "no.poni"))
