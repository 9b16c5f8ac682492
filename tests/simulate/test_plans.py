"""The plans measure in the order that the experiment names."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from operandi.experiment import Experiment
from operandi.simulate.beamline import rehearse
from operandi.simulate.exposures import ROTATION_NOISE_DEG, TRANSLATION_NOISE_MM
from operandi.stages import scans

PONI = """poni_version: 2
Detector: Detector
Detector_config: {"pixel1": 0.000172, "pixel2": 0.000172, "max_shape": [20, 300]}
Distance: 0.3
Poni1: 0.0017
Poni2: 0.001
Rot1: 0.0
Rot2: 0.0
Rot3: 0.0
Wavelength: 1.74625623831e-11
"""


def experiment_of(folder: Path, **scan) -> Experiment:
    (folder / "small.poni").write_text(PONI)
    return Experiment.model_validate({
        "sample": {"name": "tiny"},
        "geometry": {"poni": folder / "small.poni"},
        "integration": {"q_min_inv_angstrom": 0.6, "q_max_inv_angstrom": 5.3},
        "scan": {
            "sets": 3, "rotations_per_set": 3, "translations": 5, "translation_start_mm": -4.2, "translation_stop_mm": 4.2,
            "exposure_s": 1.0, "keys": {"set": "pass"}, **scan,
        },
    })  # fmt: skip


@pytest.mark.parametrize("step", [False, True], ids=["fly", "step"])
@pytest.mark.parametrize(
    "scan",
    [
        {"order": "bit-reversed", "interlaces": 3},
        {"order": "golden", "rotation_range_deg": 360.0, "travel": "forward"},
        {"inner": "rotation", "translation_start_mm": 4.2, "translation_stop_mm": -4.2},
        {"inner": "rotation", "rotation_range_deg": 360.0, "travel": "forward"},
    ],
    ids=["bit-reversed", "golden", "rotation", "continuous"],
)
def test_a_run_engine_measures_in_every_order(tmp_path, scan, step):
    experiment = experiment_of(tmp_path, **scan)
    documents = []
    done = rehearse(experiment, folder=tmp_path / "raw", step=step, subscribers=[lambda *d: documents.append(d)])
    routes = [scans.route(experiment.scan, number) for number in range(3)]
    with h5py.File(done.position_file) as file:
        measured = {name: file[f"/entry/data/{name}"][:] for name in ("rotation", "translation", "pass")}
    turned = measured["rotation"] - np.concatenate([r.rotation_deg for r in routes])
    off = measured["translation"] - np.concatenate([r.translation_mm for r in routes])
    assert np.abs(np.mod(turned + 180, 360) - 180).max() < 6 * ROTATION_NOISE_DEG
    assert np.abs(off).max() < 6 * TRANSLATION_NOISE_MM
    np.testing.assert_array_equal(measured["pass"], np.repeat([0, 1, 2], 15))
    assert documents[-1][1]["exit_status"] == "success"
    assert done.images == 45
    if step:
        events = [d["data"] for n, d in documents if n == "event"]
        np.testing.assert_array_equal([e["rotation"] for e in events], measured["rotation"])
        np.testing.assert_array_equal([e["pass"] for e in events], measured["pass"])


def test_the_same_cell_casts_the_same_shadow_whichever_motor_is_inside(tmp_path):
    images = []
    for inner in ("translation", "rotation"):
        folder = tmp_path / inner
        folder.mkdir()
        experiment = experiment_of(folder, inner=inner, sets=1, window_sets=1, travel="forward", rotations_per_set=4)
        done = rehearse(experiment, folder=folder)
        route = scans.route(experiment.scan, 0)
        with h5py.File(done.image_file) as file:
            total = file["/entry/data/data"][:].clip(0).sum(axis=(1, 2)).astype(float)
        sinogram = np.empty((4, 5))
        sinogram[route.line, route.column] = total
        images.append(sinogram)
    # The cell reacts while it is scanned, and photons are counted.
    np.testing.assert_allclose(images[0], images[1], rtol=0.1)
