"""The command line: what each command says and leaves behind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from operandi.cli import main

PONI = """\
poni_version: 2.1
Detector: Pilatus100k
Detector_config: {"orientation": 3}
Distance: 0.1
Poni1: 0.016
Poni2: 0.0
Rot1: 0.0
Rot2: 0.0
Rot3: 0.0
Wavelength: 1.746e-11
"""
CSV = """\
time (s),voltage (V),current (mA),charge (mAh)
0,3.0,10,0
3600,3.5,10,10
7200,4.0,10,20
"""


def run(*arguments: object) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    code = ended.value.code
    return 0 if code is None else int(code)


@pytest.fixture
def geometry(tmp_path: Path) -> list[str]:
    (tmp_path / "a.poni").write_text(PONI)
    np.save(tmp_path / "image.npy", np.full((195, 487), 10, np.int32))
    return [str(tmp_path / "image.npy"), "--poni", str(tmp_path / "a.poni")]


def test_help_answers_without_loading_anything_heavy():
    done = subprocess.run([sys.executable, "-m", "operandi", "--help"], capture_output=True, text=True, check=True)
    for command in ("check", "init", "integrate", "echem", "tomogram", "rehearse", "run", "replay", "serve", "demo", "figures", "profile"):
        assert command in done.stdout


@pytest.mark.parametrize(
    "command", ["check", "init", "integrate", "echem", "tomogram", "rehearse", "run", "replay", "serve", "demo", "figures"]
)
def test_every_command_has_an_example(command, capsys):
    assert run(command, "--help") == 0
    assert f"Example: operandi {command}" in " ".join(capsys.readouterr().out.split())


def test_init_writes_an_example_that_check_accepts_once_its_files_are_there(tmp_path, capsys):
    file = tmp_path / "cell.yml"
    assert run("init", file) == 0
    (tmp_path / "detector.poni").write_text(PONI)
    np.save(tmp_path / "mask.npy", np.zeros((195, 487), np.uint8))
    file.write_text(file.read_text(encoding="utf-8").replace("mask.edf", "mask.npy"), encoding="utf-8")
    assert run("check", file) == 0
    out = capsys.readouterr().out
    assert "80,000 = 10 sets" in out
    assert "anode" in out


def test_init_leaves_a_file_that_is_there(tmp_path, capsys):
    file = tmp_path / "cell.yml"
    file.write_text("mine")
    assert run("init", file) == 1
    assert file.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert run("init", file, "--force") == 0
    assert file.read_text(encoding="utf-8") != "mine"


def test_check_of_a_file_with_typos_tells_all_of_them_and_exits_1(tmp_path, capsys):
    file = tmp_path / "cell.yml"
    run("init", file)
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("sets: 10 ", "set: 10 ", 1).replace("bins: 1050", "bins: many"), encoding="utf-8")
    assert run("check", file) == 1
    told = capsys.readouterr().err
    assert "did you mean 'sets'?" in told
    assert "integration.bins" in told
    assert "Traceback" not in told


def test_check_exits_1_where_something_must_be_corrected(tmp_path, capsys):
    file = tmp_path / "cell.yml"
    run("init", file)
    assert run("check", file) == 1
    shown = capsys.readouterr()
    assert "geometry.poni" in shown.out
    assert "1 error" in shown.err


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert run("--debug", "check", tmp_path / "none.yml") == 1
    assert "Traceback" in capsys.readouterr().err
    assert run("check", tmp_path / "none.yml") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_integrate_saves_text_hdf5_and_a_picture(tmp_path, geometry, capsys):
    import h5py

    image, *options = geometry
    files = [image, image]
    assert run("integrate", *files, *options, "--bins", 50, "--q-max", 4, "--output", tmp_path / "p.csv", "--plot", tmp_path / "p.png") == 0
    table = np.genfromtxt(tmp_path / "p.csv", delimiter=",", names=True, skip_header=5)
    assert table.dtype.names == ("q", "intensity", "sigma", "intensity_2", "sigma_2")
    assert len(table) == 50
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert run("integrate", image, *options, "--bins", 50, "--q-max", 4, "--output", tmp_path / "p.h5") == 0
    with h5py.File(tmp_path / "p.h5") as file:
        data = file["entry/patterns"]
        assert data.attrs["signal"] == "intensity"
        np.testing.assert_allclose(data["intensity"][0], table["intensity"], rtol=1e-5)
    assert "50 points" in capsys.readouterr().out


def test_integrate_refuses_images_of_different_shapes(tmp_path, geometry, capsys):
    np.save(tmp_path / "other.npy", np.zeros((10, 10), np.int32))
    image, *options = geometry
    assert run("integrate", image, tmp_path / "other.npy", *options) == 1
    assert "other.npy has shape (10, 10)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--poni", "none.poni"], "none.poni is not there"),
        (["--mask", "none.edf"], "none.edf"),
        (["--calibrant", "CeO3"], "give one of"),
        (["--method", "half"], "no, bbox, full"),
        (["--plot", "nowhere/p.png"], "nowhere/p.png cannot be written"),
        (["--output", "nowhere/p.csv"], "nowhere/p.csv cannot be written"),
    ],
)
def test_integrate_with_a_wrong_option_is_one_message(geometry, options, expected, capsys):
    assert run("integrate", *geometry, "--bins", 50, *options) == 1
    told = capsys.readouterr().err
    assert expected in told
    assert told.count("\n") == 1


def test_echem_tells_and_saves_the_rows_of_a_log(tmp_path, capsys):
    (tmp_path / "log.csv").write_text(CSV)
    assert (
        run(
            "echem",
            tmp_path / "log.csv",
            "--start",
            "2026-11-22T14:03:00",
            "--output",
            tmp_path / "rows.csv",
            "--plot",
            tmp_path / "log.png",
        )
        == 0
    )
    assert "20 mAh" in capsys.readouterr().out
    assert (tmp_path / "rows.csv").read_text().splitlines()[0] == "time,voltage,current,charge,step,cycle"
    assert (tmp_path / "log.png").exists()
    assert run("echem", tmp_path / "log.csv", tmp_path / "log.csv", "--plot", tmp_path / "log.png") == 1


def test_echem_draws_each_log_beside_its_summary(tmp_path, capsys):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(CSV)
    logs = (tmp_path / "a.csv", tmp_path / "b.csv", "--start", "2026-11-22T14:03:00", "--folder", tmp_path / "pictures")
    assert run("echem", *logs, "--no-plot") == 0
    assert not (tmp_path / "pictures").exists()
    assert run("echem", *logs) == 0
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == ["a.csv.png", "b.csv.png"]
    assert capsys.readouterr().out.count("picture: ") == 2


def test_profile_install_writes_a_profile_that_tiled_finds(tmp_path, monkeypatch, capsys):
    import tiled.profiles

    monkeypatch.setattr(tiled.profiles, "paths", [tmp_path])
    assert run("profile", "install", "http://127.0.0.1:8123", "--name", "cell") == 0
    assert yaml.safe_load((tmp_path / "cell.yml").read_text()) == {"cell": {"uri": "http://127.0.0.1:8123"}}
    assert 'operandi.open("cell")' in capsys.readouterr().out


def test_replay_of_a_run_that_is_not_there_says_what_is(tmp_path, capsys):
    file = tmp_path / "cell.yml"
    run("init", file)
    assert run("replay", "219cc7b4", "--experiment", file) == 1
    assert "219cc7b4" in capsys.readouterr().err


def test_serve_of_a_configuration_that_is_not_there_says_so(tmp_path, capsys):
    assert run("serve", "--config", tmp_path / "none.yml") == 1
    assert "none.yml is not there" in capsys.readouterr().err
