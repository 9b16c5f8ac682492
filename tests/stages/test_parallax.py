import numpy as np
import pytest

from operandi.errors import ShapeError
from operandi.stages.parallax import find_overlaps, smear

ID31 = {"radius_mm": 4.0, "distance_mm": 550.0, "wavelength_angstrom": 0.1746}


def test_the_smear_is_what_geometry_says_of_the_nearest_and_farthest_voxel():
    lower, upper = smear(np.array([4.6]), **ID31)
    two_theta = 2 * np.arcsin(4.6 * 0.1746 / (4 * np.pi))
    for moved, distance in ((lower, 546.0), (upper, 554.0)):
        ring_mm = distance * np.tan(two_theta)
        assert moved == pytest.approx(4 * np.pi / 0.1746 * np.sin(np.arctan(ring_mm / 550) / 2), rel=1e-12)
    # The rule of thumb: ± q R / L, here ± 0.033 Å⁻¹.
    np.testing.assert_allclose([upper - 4.6, 4.6 - lower], 4.6 * 4 / 550, rtol=0.03)


def test_windows_that_parallax_joins_are_named_with_how_far_it_reaches():
    windows = [
        ("graphite", 1.82, 1.90),
        ("casing", 5.05, 5.08),
        ("copper", 4.85, 4.95),
        ("NMC lithiated", 4.57, 4.62),
        ("delithiated", 4.62, 4.67),
    ]
    named = {(o.phase, o.into): o.reach_inv_angstrom for o in find_overlaps(windows, **ID31)}
    assert set(named) == {("NMC lithiated", "delithiated"), ("delithiated", "NMC lithiated")}
    assert named["NMC lithiated", "delithiated"] == pytest.approx(4.62 * 4 / 550, rel=0.03)
    nearer = {(o.phase, o.into) for o in find_overlaps(windows, **ID31 | {"distance_mm": 180.0})}
    assert {("casing", "copper"), ("copper", "casing")} < nearer
    assert not find_overlaps(windows, **ID31 | {"radius_mm": 0.0})


def test_windows_that_share_q_anyhow_are_not_blamed_on_parallax():
    assert not find_overlaps([("a", 1.0, 1.2), ("b", 1.1, 1.3)], **ID31)


@pytest.mark.parametrize("wrong", [{"radius_mm": 600.0}, {"radius_mm": -1.0}, {"radius_mm": np.nan}, {"wavelength_angstrom": 3.0}])
def test_what_cannot_be_is_refused(wrong: dict):
    with pytest.raises(ShapeError):
        smear(np.array([4.6]), **ID31 | wrong)
