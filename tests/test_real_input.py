"""Real measurements through the service: a detector's own frame, a battery's own slice and a calibration of ID31's."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fabio
import numpy as np
import pandas as pd
import pytest
import yaml
from beamtimes import Beamtime
from shared import shared_file

from operandi.cli import main
from operandi.client import Result
from operandi.simulate.devices import Acquisition, make_devices, position_units
from operandi.simulate.exposures import Exposures
from operandi.simulate.files import ImageFile, PositionFile
from operandi.simulate.plans import interlaced_scan
from operandi.simulate.schedules import Line, Schedule
from operandi.sources import replay as sources
from operandi.sources.journal import Journal
from operandi.stages.calibrants import find_reflections
from operandi.worker import replay

RESIDUAL_INV_ANGSTROM = 0.002
"""The calibration's own; half a pixel would be 0.006 Å⁻¹."""


def run(*arguments: object) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


def prepare(folder: Path, uri: str, *, scan: dict, **sections: dict) -> Beamtime:
    """An experiment with the real calibration and mask of a Pilatus 2M at 71 keV."""
    folder.mkdir(parents=True)
    content = {
        "sample": {"name": folder.name},
        "geometry": {name: str(shared_file(f"xrd_frames/{file}")) for name, file in (("poni", "CeO2.poni"), ("mask", "mask.edf"))},
        "integration": {"q_min_inv_angstrom": 0.9, "q_max_inv_angstrom": 7.4, "bins": 1500},
        "scan": {"sets": 1, "window_sets": 1, "interlaces": 1, "translation_start_mm": -4.2, "translation_stop_mm": 4.2, **scan},
        "publishing": {"tiled": uri, "storage": "data", "journal": "journal", "state": "state"},
        **sections,
    }
    file = folder / "experiment.yml"
    file.write_text(yaml.safe_dump(content))
    return Beamtime(file)


@dataclass(frozen=True, slots=True)
class OneFrame(Exposures):
    """Exposures of a beamline whose detector shows the same real frame every time."""

    frame: np.ndarray | None = None

    def images(self, line: Line, pool: ThreadPoolExecutor, ahead: int = 4):
        del pool, ahead
        assert self.frame is not None
        return (self.frame for _ in line.elapsed_s)


def measure_frame(beamtime: Beamtime, frame: np.ndarray) -> str:
    """Have a RunEngine fly through the scan with ``frame`` on the detector; the run's uid."""
    from bluesky import RunEngine

    experiment, folder = beamtime.experiment, beamtime.file.parent / "images"
    nothing: dict = dict.fromkeys(("cell", "curve", "response"))
    exposures = OneFrame(Schedule(experiment.scan), **nothing, first_image_s=1_795_356_180.0, frame=frame)
    keys = experiment.scan.keys
    acquisition = Acquisition(
        exposures, ImageFile(folder / "images.h5", frame.shape), PositionFile(folder / "positions.h5", position_units(keys)), keys
    )
    engine = RunEngine({}, call_returns_result=True, context_managers=[])
    with Journal(experiment.publishing.journal) as journal:
        engine.subscribe(journal)
        try:
            return engine(interlaced_scan(make_devices(acquisition), experiment)).run_start_uids[0]
        finally:
            acquisition.close()


def test_a_run_of_real_detector_frames_gives_patterns_with_the_calibrants_reflections(service, catalog):
    frame = fabio.open(str(shared_file("xrd_frames/CeO2.cbf"))).data
    # Each image is the same powder, so nothing tells the axis, and the rim shows no air.
    beamtime = prepare(
        service.storage / "CeO2",
        service.uri,
        scan={"rotations_per_set": 3, "translations": 8, "exposure_s": 1.0},
        corrections={"air": "none"},
        reconstruction={"axis_mm": 0.0},
    )
    uid = measure_frame(beamtime, frame)
    key = replay(beamtime.experiment, sources.from_journal(beamtime.experiment.publishing.journal, uid), api_key=service.api_key)
    result = catalog.results[key]
    assert result.steps["quality"].str.startswith("charge unknown").all()
    assert (result.ledger["status"] == "admitted").sum() == 24
    patterns = result.patterns.compute()
    assert patterns.sizes["image"] == 24
    for pattern in patterns["intensity"].values:
        differences = [r.difference for r in find_reflections(patterns["q"].values, pattern, "CeO2")]
        assert len(differences) == 12
        assert np.abs(differences).max() < RESIDUAL_INV_ANGSTROM


def test_a_rehearsal_with_a_real_cell_and_a_real_calibration_is_published(service, catalog, monkeypatch, capsys):
    beamtime = prepare(
        service.storage / "real-cell", service.uri, scan={"rotations_per_set": 4, "translations": 15, "exposure_s": 12.0},
        potentiostat={"file": "cell.mpt", "timezone": "Europe/Paris", "clock_offset_s": 37.0},
    )  # fmt: skip
    assert run("rehearse", beamtime.file, "--cell", shared_file("battery_ct/Battery_21700.tif")) == 0
    assert "60 images" in capsys.readouterr().out
    monkeypatch.setenv("TILED_API_KEY", service.api_key)
    assert run("replay", "latest", "--experiment", beamtime.file) == 0
    result: Result = catalog.results[capsys.readouterr().out.split()[-1]]
    assert result.steps["quality"].tolist() == ["complete"]
    assert result.metadata["sample"]["name"] == "real-cell"
    maps = result.maps["intensity"][0]
    assert np.isfinite(maps).all()
    # A can of 2.8 mm in radius, with the cathode inside.
    radius = np.hypot(*np.meshgrid(maps["x"], maps["y"]))
    within, can = (radius > 0.6) & (radius < 2.2), (radius > 2.4) & (radius < 3.2)
    casing, cathode = maps.sel(phase="casing").values, maps.sel(phase=["NMC lithiated", "NMC delithiated"]).sum("phase").values
    assert casing[can].mean() > 2 * casing[within].mean()
    assert cathode[within].mean() > 3 * cathode[radius > 3.2].mean()


def test_integrate_of_the_real_frame_saves_the_pattern_and_draws_it(tmp_path, capsys):
    image, poni, mask = (shared_file(f"xrd_frames/{name}") for name in ("CeO2.cbf", "CeO2.poni", "mask.edf"))
    picture, table = tmp_path / "CeO2.png", tmp_path / "CeO2.csv"
    assert run("integrate", image, "--poni", poni, "--mask", mask, "--calibrant", "CeO2", "--plot", picture, "--output", table) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(rows) == 12
    assert max(abs(float(columns[4])) for columns in rows) < RESIDUAL_INV_ANGSTROM
    assert picture.read_bytes().startswith(b"\x89PNG")
    saved = pd.read_csv(table, comment="#")
    differences = [r.difference for r in find_reflections(saved["q"].to_numpy(), saved["intensity"].to_numpy(), "CeO2")]
    assert np.abs(differences).max() < RESIDUAL_INV_ANGSTROM


CENTRE_PX, WOBBLE_PX = 45.4, 1.15
"""Of the scan below, by a sine fit to the centres of mass: they scatter about it by the wobble, since the stage does."""


def test_a_measured_transmission_becomes_a_published_tomogram_of_one_channel(service, catalog, tmp_path, capsys):
    file, entry = shared_file("pencilbeam_ct/I18_mm_stxm_xrf_xrd.nxs"), "entry1/stxm_entry"
    datasets = {"signal": "data/data", "monitor": "monitor/data", "rotation": "data/theta", "translation": "data/x"}
    options = [part for name, path in datasets.items() for part in (f"--{name}", f"{entry}/{path}")]
    publishing = ["--tiled", service.uri, "--storage", service.storage, "--state", tmp_path, "--api-key", service.api_key]
    picture = tmp_path / "slice.png"
    command = ["tomogram", file, *options, "--row", 3, "--transmission", "--plot", picture, *publishing, "--sample", "catalyst"]
    assert run(*command) == 0
    key = capsys.readouterr().out.split()[-1]
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = catalog.results[key]
    sinogram, volume = result.sinogram(0), result.frame(0).volume["intensity"]
    # Two angles were measured before all others; the tomogram does not mind, and shows them in their place.
    assert sinogram.shape == (52, 101, 1)
    assert (np.diff(sinogram["rotation"]) > 0).all()
    pitch = float(sinogram["translation"][1] - sinogram["translation"][0])
    found_px = (result.metadata["axis_mm"] - float(sinogram["translation"][0])) / pitch
    assert found_px == pytest.approx(CENTRE_PX, abs=WOBBLE_PX)
    assert opposite_centres_px(sinogram) == pytest.approx(found_px, abs=0.5)
    slice_ = volume.squeeze("q").compute()
    assert slice_.sizes == {"y": 101, "x": 101}
    distance = np.hypot(*np.meshgrid(slice_["x"], slice_["y"]))
    # A grain in a capillary: absorption in the middle, none between grain and wall, on the right.
    assert slice_.values[distance < 0.02].mean() > 3.0
    assert abs(float(slice_.sel(x=slice(0.03, 0.045), y=slice(-0.03, 0.0)).mean())) < 0.5
    assert result.steps["quality"].str.contains("no potentiostat log").all()
    assert run(*command) == 0
    assert capsys.readouterr().out.split()[-1] == key


def opposite_centres_px(sinogram) -> float:
    """Where opposite projections mirror each other best, the median over all pairs; knows nothing of moments."""
    values, angles, at = sinogram.values[..., 0], sinogram["rotation"].values, np.arange(sinogram.sizes["translation"])
    pairs = [(i, j) for i in range(len(angles)) for j in range(i + 1, len(angles)) if abs(abs(angles[j] - angles[i]) - 180) < 4]
    trials = np.arange(at[-1] / 2 - 10, at[-1] / 2 + 10, 0.1)
    mirrored = [[np.nanmean((values[i] - np.interp(2 * c - at, at, values[j], np.nan, np.nan)) ** 2) for c in trials] for i, j in pairs]
    return float(np.median(trials[np.argmin(mirrored, axis=1)]))
