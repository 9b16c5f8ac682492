import numpy as np
import pytest

from operandi.errors import ShapeError
from operandi.stages.absorption import cylinder_transmission, forward_bias, mixture_attenuation_inv_mm, without_absorption

TRANSLATION = np.linspace(-5, 5, 101)


def test_a_can_with_its_filling_transmits_what_the_path_through_each_says():
    found = cylinder_transmission(TRANSLATION, 0.2, [(4.0, 0.5), (3.7, 0.08)])
    at = np.argmin(np.abs(TRANSLATION - 0.2))
    assert found[at] == pytest.approx(np.exp(-0.5 * 0.6 - 0.08 * 7.4))
    assert (found[np.abs(TRANSLATION - 0.2) >= 4] == 1).all()
    line = np.linspace(-5, 5, 200_001)  # the same by adding up along the beam, 1 mm off the axis
    radius = np.hypot(line, 1.0)
    path = np.where(radius < 3.7, 0.08, np.where(radius < 4.0, 0.5, 0.0)).mean() * 10
    assert cylinder_transmission(np.array([1.2]), 0.2, [(3.7, 0.08), (4.0, 0.5)])[0] == pytest.approx(np.exp(-path), rel=1e-4)


def test_a_composition_attenuates_as_the_sum_of_its_parts():
    # Water of H and O at 60 keV (NIST XCOM: 0.3260 and 0.1907 cm²/g): 0.2059 cm²/g.
    assert mixture_attenuation_inv_mm([(0.1119, 0.3260), (0.8881, 0.1907)], 1.0) == pytest.approx(0.02059, rel=1e-3)


def test_dividing_by_the_transmission_gives_back_the_sinogram_with_its_sigma():
    true = np.random.default_rng(0).uniform(1, 2, (6, 101, 3)).astype(np.float32)
    transmission = cylinder_transmission(TRANSLATION, 0, [(4.0, 0.2)])
    values, variance = without_absorption(true * transmission[:, None], transmission, variance=true)
    np.testing.assert_allclose(values, true, rtol=1e-6)
    np.testing.assert_allclose(variance, true / transmission[:, None] ** 2, rtol=1e-5)
    spoiled = np.tile(transmission, (6, 1))
    spoiled[2, 7:10] = 0, np.nan, 1.5
    assert np.isnan(without_absorption(true, spoiled)[0][2, 7:10]).all()


def test_the_forward_approximation_is_as_good_as_rays_followed_one_by_one_say():
    assert forward_bias(4.0, 0.1, 0.0) < 1e-12
    assert forward_bias(4.0, 0.1, 8.0) < 0.01  # 71 keV, q of 5 Å⁻¹: what the docstring's user relies on
    assert forward_bias(4.0, 0.1, 30.0) > 0.03
    rng, radius, attenuation, angle = np.random.default_rng(1), 4.0, 0.1, np.deg2rad(30)
    worst = 0.0
    for off in np.linspace(0, 0.95, 20) * radius:
        half = np.sqrt(radius**2 - off**2)
        z, azimuth = rng.uniform(-half, half, 20_000), rng.uniform(0, 2 * np.pi, 20_000)
        direction = np.array([np.cos(angle) + 0 * azimuth, np.sin(angle) * np.cos(azimuth)])
        low, high = np.zeros_like(z), np.full_like(z, 4 * radius)
        for _ in range(40):  # where each ray leaves, by bisection
            middle = (low + high) / 2
            inside = np.hypot(z + middle * direction[0], off + middle * direction[1]) < radius
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        worst = max(worst, abs(np.exp(-attenuation * (z + half + low)).mean() / np.exp(-2 * attenuation * half) - 1))
    assert forward_bias(4.0, 0.1, 30.0) == pytest.approx(worst, abs=0.004)


@pytest.mark.parametrize(
    "call",
    [
        lambda: cylinder_transmission(TRANSLATION, 0, []),
        lambda: cylinder_transmission(TRANSLATION, 0, [(-1.0, 0.1)]),
        lambda: cylinder_transmission(TRANSLATION, 0, [(1.0, np.nan)]),
        lambda: mixture_attenuation_inv_mm([(0.5, 0.2)], 1.0),
        lambda: mixture_attenuation_inv_mm([], 1.0),
        lambda: without_absorption(np.ones((3, 4, 1), np.float32), np.ones(3)),
    ],
)
def test_what_cannot_be_is_refused(call):
    with pytest.raises(ShapeError):
        call()
