"""What an experiment names beside its images, and what of it is wrong before beamtime."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from operandi.companions import find_faults, load_companions
from operandi.errors import AssetError, ExperimentError
from operandi.experiment import Experiment
from operandi.experiment_file import identity, parse_experiment
from operandi.pipeline.companions import Companions
from operandi.stages import scans

YAML = """\
sample: {name: cell}
geometry: {poni: a.poni}
integration: {q_min_inv_angstrom: 1.0, q_max_inv_angstrom: 5.2, bins: 100}
scan: {sets: 2, rotations_per_set: 20, translations: 41, translation_start_mm: -2, translation_stop_mm: 2, exposure_s: 0.1}
"""
Q = 1.0 + (np.arange(100) + 0.5) * 0.042


def experiment(folder: Path, absorption: str, more: str = "reconstruction: {axis_mm: 0.0}") -> Experiment:
    return parse_experiment(f"{YAML}{more}\ncorrections: {{absorption: {absorption}}}\n", folder=folder)


def write_sinogram(path: Path, values: np.ndarray, last_deg: float = 180.0) -> None:
    with h5py.File(path, "w") as file:
        file["transmission"], file["rotation"] = values, np.linspace(0, last_deg, len(values))
        file["translation"] = np.linspace(-2, 2, values.shape[1])


def test_a_cylinder_by_its_composition_is_the_one_by_its_attenuation(tmp_path: Path):
    # iron and nickel at 71 keV: 0.7 · 0.81 + 0.3 · 1.00 cm²/g, times 7.9 g/cm³
    parts = "composition: [{mass_fraction: 0.7, attenuation_cm2_g: 0.81}, {mass_fraction: 0.3, attenuation_cm2_g: 1.0}]"
    by_parts = experiment(tmp_path, f"{{layers: [{{radius_mm: 1.5, density_g_cm3: 7.9, {parts}}}]}}")
    plain = experiment(tmp_path, "{layers: [{radius_mm: 1.5, attenuation_inv_mm: 0.68493}]}")
    one, other = (load_companions(each, Q).transmission for each in (by_parts, plain))
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.values, other.values)
    assert one.values.min() == pytest.approx(np.exp(-3.0 * 0.68493), rel=1e-6)


def test_a_transmission_sinogram_counts_by_what_its_file_holds(tmp_path: Path):
    (tmp_path / "a.poni").write_text("poni")
    write_sinogram(tmp_path / "t.h5", np.full((30, 21), 0.8))
    one = experiment(tmp_path, "{file: t.h5}")
    found = load_companions(one, Q)
    assert found.transmission is not None
    np.testing.assert_allclose(found.transmission.at(np.arange(5.0), scans.translations_mm(one.scan)), 0.8)
    assert found.about["absorption"]["file"] == "t.h5"
    before = identity(one)
    write_sinogram(tmp_path / "t.h5", np.full((30, 21), 0.7))
    assert identity(one)["absorption_sha256"] != before["absorption_sha256"]


@pytest.mark.parametrize(
    ("values", "last_deg", "message"),
    [
        (np.full((30, 21), 0.8), 90.0, "angles of the transmission go from 0 to 90"),
        (np.zeros((30, 21)), 180.0, "not positive"),
        (None, 180.0, "is not there"),
    ],
)
def test_a_transmission_that_does_not_fit_is_told_before_beamtime(tmp_path: Path, values: np.ndarray | None, last_deg: float, message: str):
    if values is not None:
        write_sinogram(tmp_path / "t.h5", values, last_deg)
    one = experiment(tmp_path, "{file: t.h5}")
    ((severity, field, said),) = find_faults(one)
    assert (severity, field, message in said) == ("error", "corrections.absorption.file", True)
    with pytest.raises(AssetError, match=message):
        load_companions(one, Q)


@pytest.mark.parametrize(
    ("absorption", "more", "message"),
    [
        ("{}", "", "either the layers of the cell or the file"),
        ("{layers: [{radius_mm: 1}]}", "", "either attenuation_inv_mm, or density"),
        ("{layers: [{radius_mm: 1, attenuation_inv_mm: 0.1}]}", "", "give reconstruction.axis_mm"),
        ("{file: t.h5}, transmission: true", "", "leave absorption out"),
        ("null, stripes_width: 8", "", "odd number"),
    ],
)
def test_absorption_that_says_too_little_or_too_much_is_refused(tmp_path: Path, absorption: str, more: str, message: str):
    with pytest.raises(ExperimentError, match=message):
        experiment(tmp_path, absorption, more)


def test_what_was_not_handed_over_is_never_passed_over(tmp_path: Path):
    with pytest.raises(ValueError, match="no transmission was handed over"):
        Companions().check(experiment(tmp_path, "{layers: [{radius_mm: 1.5, attenuation_inv_mm: 0.1}]}"))
