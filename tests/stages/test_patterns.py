"""Integration equals pyFAI's, in intensity, errors and empty bins, and refuses what does not fit."""

import numpy as np
import pyFAI
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyFAI.calibrant import get_calibrant
from pyFAI.detectors import Detector, Pilatus100k
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from shared import shared_file

from operandi.errors import GeometryError, ShapeError
from operandi.sources.assets import load_image, load_mask
from operandi.stages.patterns import Averaging, build_integrator, integrate, spottiness, warm_up

SHAPE = (61, 53)
Q_RANGE = (0.3, 3.0)


def calibration(detector=None) -> AzimuthalIntegrator:
    detector = detector or Detector(200e-6, 200e-6, max_shape=SHAPE)
    return AzimuthalIntegrator(dist=0.025, poni1=0.001, poni2=0.005, rot1=0.1, rot2=-0.05, wavelength=1e-10, detector=detector)


def photons(n=3, seed=0, dtype=np.int32) -> np.ndarray:
    return np.random.default_rng(seed).poisson(20, (n, *SHAPE)).astype(dtype)


def by_pyfai(image, n_q=40, method="full", **options):
    options = {"radial_range": Q_RANGE, "polarization_factor": 0.99, **options}
    ai = options.pop("ai", None) or calibration()
    return ai.integrate1d(image, n_q, unit="q_A^-1", method=(method, "csr", "cython"), error_model="poisson", **options)


def assert_equals_pyfai(intensity, sigma, reference):
    filled = reference.count > 0
    np.testing.assert_array_equal(np.isfinite(intensity), filled)
    np.testing.assert_array_equal(np.isfinite(sigma), filled)
    np.testing.assert_allclose(intensity[filled], reference.intensity[filled], rtol=1e-5)
    np.testing.assert_allclose(sigma[filled], reference.sigma[filled], rtol=1e-5)


def spotted(n=2) -> np.ndarray:
    """Images in which one pixel of fifty is thirty times as bright."""
    images = photons(n)
    images[np.random.default_rng(9).random(images.shape) < 0.02] *= 30
    return images


@pytest.mark.parametrize("method", ["no", "bbox", "full"])
@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.uint32, np.float32])
def test_patterns_equal_pyfai_for_every_splitting_and_type(method, dtype):
    images = photons(dtype=dtype)
    mask = np.zeros(SHAPE, bool)
    mask[10:20, :30] = True
    patterns = integrate(images, calibration(), mask=mask, q_range=Q_RANGE, n_q=40, method=method)
    for i, image in enumerate(images):
        reference = by_pyfai(image, method=method, mask=mask)
        np.testing.assert_allclose(patterns.q, reference.radial, rtol=1e-12)
        assert_equals_pyfai(patterns.intensity[i].values, patterns.sigma[i].values, reference)


@pytest.mark.parametrize("method", ["no", "bbox", "full"])
def test_many_images_equal_each_image_alone_bit_by_bit(method):
    images = photons(37)
    integrator = build_integrator(calibration(), shape=SHAPE, q_range=Q_RANGE, n_q=40, method=method)
    together = integrator(images)
    alone = [integrator(image) for image in images]
    np.testing.assert_array_equal(together.intensity, np.concatenate([p.intensity for p in alone]))
    np.testing.assert_array_equal(together.sigma, np.concatenate([p.sigma for p in alone]))


@pytest.mark.parametrize("method", ["no", "full"])
def test_dark_and_flat_are_applied_as_by_pyfai(method):
    rng = np.random.default_rng(1)
    dark, flat = rng.uniform(0, 9, SHAPE), rng.uniform(0.5, 1.5, SHAPE)
    flat[5, 5], flat[6, 6] = 0, np.nan
    patterns = integrate(photons(1), calibration(), q_range=Q_RANGE, n_q=40, dark=dark, flat=flat, method=method)
    reference = by_pyfai(photons(1)[0], dark=dark, flat=flat, method=method)
    assert_equals_pyfai(patterns.intensity[0].values, patterns.sigma[0].values, reference)


def test_without_range_and_polarization_the_axis_is_that_of_pyfai():
    patterns = integrate(photons(1), calibration(), n_q=30, polarization=None)
    reference = by_pyfai(photons(1)[0], 30, radial_range=None, polarization_factor=None)
    np.testing.assert_allclose(patterns.q, reference.radial, rtol=1e-12)
    assert_equals_pyfai(patterns.intensity[0].values, patterns.sigma[0].values, reference)


def test_bin_centres_can_be_asked_for():
    q = np.linspace(0.5, 2.5, 21)
    patterns = integrate(photons(1), calibration(), q=q)
    np.testing.assert_allclose(patterns.q, q, rtol=1e-6)
    assert patterns.q.attrs["units"] == "1/angstrom"


def test_a_mask_left_out_is_the_one_of_the_detector():
    ai = calibration(Pilatus100k())
    image = np.random.default_rng(2).poisson(9, ai.detector.shape).astype(np.int32)
    image[3, 4:40], image[7, 8:30] = -1, -2
    patterns = integrate(image, ai, q_range=(0.5, 4), n_q=50)
    reference = by_pyfai(image, 50, ai=ai, radial_range=(0.5, 4))
    assert_equals_pyfai(patterns.intensity[0].values, patterns.sigma[0].values, reference)
    unsigned = integrate(image.astype(np.uint32), ai, q_range=(0.5, 4), n_q=50)
    np.testing.assert_array_equal(unsigned.intensity, patterns.intensity)


@settings(max_examples=25, deadline=None)
@given(
    pixels=st.lists(st.tuples(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1)), max_size=40),
    value=st.sampled_from([-1, -7, 2**31 - 1]),
    method=st.sampled_from(["no", "full"]),
)
def test_masking_a_pixel_equals_giving_it_an_invalid_value(pixels, value, method):
    image = photons(1)[0]
    mask = np.zeros(SHAPE, bool)
    for pixel in pixels:
        mask[pixel] = True
    options = {"q_range": Q_RANGE, "n_q": 40, "method": method, "dummy": 2**31 - 1}
    masked = integrate(image, calibration(), mask=mask, **options)
    image[mask] = value
    invalid = integrate(image, calibration(), **options)
    for name in ("intensity", "sigma"):
        np.testing.assert_allclose(invalid[name], masked[name], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_counts_are_left_out(value):
    image = photons(1, dtype=np.float32)[0]
    mask = np.zeros(SHAPE, bool)
    mask[20:24, 20:24] = True
    masked = integrate(image, calibration(), mask=mask, q_range=Q_RANGE, n_q=40)
    image[mask] = value
    np.testing.assert_allclose(integrate(image, calibration(), q_range=Q_RANGE, n_q=40).intensity, masked.intensity, rtol=1e-6)


def test_an_image_without_a_valid_pixel_is_nan_and_its_neighbours_are_not():
    images = photons(3)
    images[1] = -1
    patterns = integrate(images, calibration(), q_range=Q_RANGE, n_q=40)
    assert np.isnan(patterns.intensity[1]).all()
    assert np.isnan(patterns.sigma[1]).all()
    assert np.isfinite(patterns.intensity[[0, 2]]).all()


def test_a_mask_of_every_pixel_gives_nan():
    patterns = integrate(photons(1), calibration(), mask=np.ones(SHAPE, bool), q_range=Q_RANGE, n_q=40)
    assert np.isnan(patterns.intensity).all()
    assert patterns.sizes == {"image": 1, "q": 40}


def test_the_monitor_divides_and_a_dead_one_gives_nan():
    images = photons(4)
    plain = integrate(images, calibration(), q_range=Q_RANGE, n_q=40)
    scaled = integrate(images, calibration(), q_range=Q_RANGE, n_q=40, monitor=np.array([2.0, 0.0, -1.0, np.nan]))
    np.testing.assert_allclose(scaled.intensity[0], plain.intensity[0] / 2, rtol=1e-6)
    np.testing.assert_allclose(scaled.sigma[0], plain.sigma[0] / 2, rtol=1e-6)
    assert np.isnan(scaled.intensity[1:]).all()


def test_images_with_a_dimension_of_one_in_the_middle_are_accepted():
    integrator = build_integrator(calibration(), shape=SHAPE, q_range=Q_RANGE, n_q=40)
    images = photons(2)
    np.testing.assert_array_equal(integrator(images[:, None]).intensity, integrator(images).intensity)


def test_a_calibration_that_is_not_there_is_named(tmp_path):
    with pytest.raises(GeometryError, match=r"absent\.poni"):
        integrate(photons(1), tmp_path / "absent.poni")


@pytest.mark.parametrize("content", ["", "Detector: Nonsense\nDistance: 1\n", "\x00\x01", "poni_version: 2.1\nDetector: Pilatus2M\n"])
def test_a_calibration_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "broken.poni"
    path.write_text(content)
    with pytest.raises(GeometryError, match=r"broken\.poni"):
        integrate(photons(1), path)


@pytest.mark.parametrize("name", ["mask", "dark", "flat"])
def test_a_correction_of_another_shape_names_both_shapes(name):
    with pytest.raises(GeometryError, match=rf"{name}.*\(5, 5\).*\(61, 53\)"):
        integrate(photons(1), calibration(), **{name: np.zeros((5, 5))})


@pytest.mark.parametrize("name", ["mask", "dark", "flat"])
@pytest.mark.parametrize("values", [np.full(SHAPE, "a"), np.zeros(SHAPE, complex)])
def test_a_correction_that_is_no_number_is_named(name, values):
    with pytest.raises(GeometryError, match=rf"{name} is of dtype"):
        integrate(photons(1), calibration(), **{name: values})


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8), np.int32),
        np.zeros((0, *SHAPE), np.int32),
        np.zeros(SHAPE, complex),
        np.full(SHAPE, "a"),
        np.zeros(SHAPE, bool),
        np.zeros(SHAPE, object),
        np.zeros(7),
        np.zeros((1, 2, *SHAPE)),
    ],
)
def test_images_that_are_none_are_refused(images):
    with pytest.raises(GeometryError):
        integrate(images, calibration())


@pytest.mark.parametrize(
    "options",
    [
        {"method": "some"},
        {"averaging": "mode"},
        {"averaging": "median", "method": "full"},
        {"n_q": 0},
        {"q_range": (3, 1)},
        {"q_range": (0, np.nan)},
        {"q": [3.0, 2.0, 1.0]},
        {"q": [1.0]},
        {"q": [1.0, np.nan, 2.0]},
        {"q": ["a", "b"]},
        {"q_range": ("a", "b")},
        {"monitor": ["a", "b"]},
        {"monitor": [1j, 1j]},
        {"q": [1.0, 1.1, 1.5]},
        {"monitor": [1.0, 2.0, 3.0]},
    ],
)
def test_nonsense_in_the_call_is_refused(options):
    with pytest.raises(ShapeError):
        integrate(photons(2), calibration(), **options)


def test_real_ceria_equals_pyfai_and_has_its_peaks_where_they_belong():
    poni = str(shared_file("xrd_frames/CeO2.poni"))
    image = load_image(shared_file("xrd_frames/CeO2.cbf"))
    mask = load_mask(shared_file("xrd_frames/mask.edf"))
    ai = pyFAI.load(poni)
    patterns = integrate(image, poni, mask=mask, q_range=(1.5, 8.5), n_q=2000)
    intensity, q = patterns.intensity[0].values, patterns.q.values
    reference = by_pyfai(image, 2000, ai=ai, mask=mask, radial_range=(1.5, 8.5))
    assert_equals_pyfai(intensity, patterns.sigma[0].values, reference)
    expected = 2 * np.pi / np.array(get_calibrant("CeO2").dspacing[:12])
    for position in expected:
        near = np.abs(q - position) < 0.03
        peak = np.clip(intensity[near] - np.percentile(intensity[near], 30), 0, None)
        assert np.average(q[near], weights=peak**2) == pytest.approx(position, abs=0.002)


@pytest.mark.parametrize("method", ["no", "full"])
def test_negative_floats_count_as_in_pyfai(method):
    image = photons(1, dtype=np.float32)[0] - 18
    assert (image < 0).sum() > 100
    patterns = integrate(image, calibration(), q_range=Q_RANGE, n_q=40, method=method)
    assert_equals_pyfai(patterns.intensity[0].values, patterns.sigma[0].values, by_pyfai(image, method=method))


def test_a_float_image_holds_the_detectors_dummy_as_in_pyfai():
    ai = calibration(Pilatus100k())
    image = np.random.default_rng(2).poisson(9, ai.detector.shape).astype(np.float32)
    image[3, 4:40], image[9, 4:40], image[7, 8:30] = -1, -20, -2
    patterns = integrate(image, ai, q_range=(0.5, 4), n_q=50)
    assert_equals_pyfai(patterns.intensity[0].values, patterns.sigma[0].values, by_pyfai(image, 50, ai=ai, radial_range=(0.5, 4)))


@pytest.mark.parametrize("averaging", ["mean", "clipped", "median"])
def test_the_weight_is_pyfais_normalisation_and_zero_in_empty_bins(averaging):
    image = photons(1)[0]
    mask = np.zeros(SHAPE, bool)
    mask[:, :20] = True
    options = {"mask": mask, "q_range": (0.3, 4.0), "n_q": 40, "method": "no"}
    patterns = integrate(image, calibration(), averaging=averaging, monitor=2.0, **options)
    reference = by_pyfai(image, method="no", mask=mask, radial_range=(0.3, 4.0), normalization_factor=2.0)
    np.testing.assert_allclose(patterns.weight[0], reference.sum_normalization, rtol=1e-5)
    assert (patterns.weight.values[np.isnan(patterns.intensity.values)] == 0).all()
    assert np.isnan(patterns.intensity.values).any()


@pytest.mark.parametrize("error_model", ["azimuthal", "poisson", "hybrid"])
@pytest.mark.parametrize("clip_sigma", [3.0, 5.0])
@pytest.mark.parametrize("dark", [None, np.full(SHAPE, 1.5)])
def test_clipped_means_equal_pyfais_sigma_clipping(error_model, clip_sigma, dark):
    images = spotted()
    patterns = integrate(images, calibration(), q_range=Q_RANGE, n_q=40, averaging=Averaging("clipped", error_model, clip_sigma), dark=dark)
    # pyFAI's two implementations agree in what they keep; its Python one has the exact azimuthal variance, but does not know "hybrid"
    implementation = "cython" if error_model == "hybrid" else "python"
    for i, image in enumerate(images):
        reference = calibration().sigma_clip_ng(
            image, 40, unit="q_A^-1", radial_range=Q_RANGE, polarization_factor=0.99, method=("no", "csr", implementation),
            error_model=error_model, thres=clip_sigma, max_iter=5, dark=dark,
        )  # fmt: skip
        filled = reference.count > 0
        np.testing.assert_array_equal(np.isfinite(patterns.intensity[i]), filled)
        np.testing.assert_allclose(patterns.intensity[i][filled], reference.intensity[filled], rtol=1e-5)
        np.testing.assert_allclose(patterns.sigma[i][filled], reference.sem[filled], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_medians_equal_pyfais(dtype):
    images = spotted().astype(dtype)
    patterns = integrate(images, calibration(), q_range=Q_RANGE, n_q=40, averaging="median")
    for i, image in enumerate(images):
        reference = calibration().medfilt1d_ng(
            image, 40, unit="q_A^-1", radial_range=Q_RANGE, polarization_factor=0.99, method=("no", "csr", "cython"), error_model="poisson"
        )
        np.testing.assert_allclose(patterns.intensity[i], reference.intensity, rtol=1e-5)


def test_the_sigma_of_a_median_is_its_scatter():
    images = np.random.default_rng(4).poisson(400, (300, *SHAPE)).astype(np.int32)
    patterns = integrate(images, calibration(), q_range=(0.8, 2.4), n_q=8, averaging="median")
    scatter = patterns.intensity.values.std(axis=0)
    np.testing.assert_allclose(patterns.sigma.values.mean(axis=0), scatter, rtol=0.15)  # 300 draws know a scatter to 4 %


def test_spottiness_is_the_share_of_the_intensity_in_spots():
    smooth, spots = photons(1, seed=3), spotted(1)
    options = {"q_range": Q_RANGE, "n_q": 40, "averaging": "clipped"}
    assert abs(integrate(smooth, calibration(), **options).spottiness.item()) < 0.005
    share = 1 - photons(1).sum() / spots.sum()
    assert integrate(spots, calibration(), **options).spottiness.item() == pytest.approx(share, abs=0.03)


def test_spottiness_of_nothing_is_unknown():
    nothing = np.full((1, 3), np.nan)
    assert np.isnan(spottiness(nothing, nothing, np.zeros((1, 3)))).all()


@pytest.mark.parametrize("averaging", ["mean", "clipped", "median"])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_an_invalid_image_or_monitor_gives_nan_with_weight_zero(averaging, dtype):
    images = photons(4, dtype=dtype)
    images[1] = -1 if dtype == np.int32 else np.nan
    patterns = integrate(images, calibration(), q_range=Q_RANGE, n_q=40, averaging=averaging, monitor=[1.0, 1.0, 0.0, np.nan])
    assert np.isfinite(patterns.intensity[0]).all()
    assert np.isnan(patterns.intensity[1:]).all()
    assert np.isnan(patterns.sigma[1:]).all()
    assert (patterns.weight[1:] == 0).all()


@pytest.mark.parametrize("averaging", ["clipped", "median"])
def test_a_mask_of_every_pixel_gives_nan_for_every_average(averaging):
    patterns = integrate(photons(1), calibration(), mask=np.ones(SHAPE, bool), q_range=Q_RANGE, n_q=40, averaging=averaging)
    assert np.isnan(patterns.intensity).all()
    assert (patterns.weight == 0).all()


def test_warming_up_compiles_for_the_type_of_the_images():
    integrator = build_integrator(calibration(), shape=SHAPE, q_range=Q_RANGE, n_q=40)
    warm_up(integrator, np.int32)
