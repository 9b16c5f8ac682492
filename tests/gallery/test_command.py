"""`operandi figures`, from a server to files."""

import csv
import html
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from rolls_published import ANODE, SMALL, WIDE, describe, roll

from operandi.cli import main
from operandi.sinks.tiled import TiledSink

WIDE_KEY, SMALL_KEY = "20261122-1403_cell-17_aaaa1111_5f3a9c01", "20261123-0911_cell-17_bbbb2222_77777777"


@pytest.fixture(scope="module")
def published(service, tmp_path_factory) -> str:
    """Address of a server with a result at wide and one at small angles; the second has no log."""
    for key, windows, q, charges, composites in (
        (WIDE_KEY, WIDE, np.linspace(1.5, 2.1, 120), (4.0, 14.0, 26.0), [ANODE]),
        (SMALL_KEY, SMALL, np.linspace(0.01, 0.2, 150), (0.0, 28.0), []),
    ):
        with TiledSink(service.uri, api_key=service.api_key, storage=service.storage, state=tmp_path_factory.mktemp("state")) as sink:
            sink.open(key, describe(windows, composites))
            for product in roll(windows, q, charges, log=key == WIDE_KEY):
                sink.apply(product)
            assert sink.drain(60)
    return service.uri


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["figures", *(str(a) for a in arguments)])
    return int(ended.value.code or 0)


def test_every_figure_tells_its_result_in_its_files_and_is_made_again_the_same(published, tmp_path, capsys):
    only = ["--only=composite-anode*", "--only=map-LiC6", "--only=frame-2-composite-anode", "--only=electrochemistry"]
    assert run("aaaa1111", "--profile", published, "--folder", tmp_path / "a", *only, "--palette", "paper") == 0
    drawn = {file.name for file in (tmp_path / "a").iterdir()}
    assert {"composite-anode.png", "composite-anode.pdf", "map-LiC6.png", "frame-2-composite-anode.pdf", "index.html"} <= drawn
    told = Image.open(tmp_path / "a" / "map-LiC6.png").text
    assert told["Source"] == WIDE_KEY
    assert "from q = 1.66 to 1.73 Å⁻¹" in told["Description"]
    pdf = (tmp_path / "a" / "map-LiC6.pdf").read_bytes()
    assert WIDE_KEY.encode() in pdf
    assert b"/FontFile2" in pdf
    assert b"CreationDate" not in pdf
    _, command, *again = shlex.split(told["Comment"])
    assert command == "figures"
    assert run(*again, "--profile", published, "--folder", tmp_path / "b") == 0
    for name in ("map-LiC6.png", "map-LiC6.pdf"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not (tmp_path / "b" / "electrochemistry.png").exists()
    out = capsys.readouterr().out
    assert "not drawn: composite-anode-instants: " in out  # this result has none
    assert "4 of 5 figures" in out


def test_the_page_shows_each_figure_and_what_could_not_be_drawn(published, tmp_path):
    assert run(WIDE_KEY, "--profile", published, "--folder", tmp_path, "--only", "dstar*", "--only", "windows", "--format", "png") == 0
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for link in re.findall(r'(?:href|src)="([^"]+)"', page):
        assert (tmp_path / link).exists(), link
    assert "windows.png" in page
    assert "begin at q = 1.5 Å⁻¹: nothing was measured at small angles" in html.unescape(page)
    assert not list(tmp_path.glob("*.pdf"))


def test_small_angles_give_d_star_its_regions_and_the_table(published, tmp_path):
    only = [f"--only={name}" for name in ("dstar", "dstar-slope", "regions", "profiles", "dstar-table", "unrolled-map-silicon", "winding")]
    assert run(SMALL_KEY, "--profile", published, "--folder", tmp_path, "--format", "png", *only) == 0
    assert {file.stem for file in tmp_path.glob("*.png")} == {option[7:] for option in only}
    lines = [line for line in (tmp_path / "dstar-table.csv").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    charged = {row["region"]: float(row["dstar_nm"]) for row in rows if row["state"] == "frame 1"}
    # the simulated cell is the fresh one of 10.1039/D4EE00590B, Table S1, whose numbers are to come back within 0.5 nm
    for region, nm in {"normal": 11.8, "bend": 10.8, "agglomerate": 10.9}.items():
        assert charged[region] == pytest.approx(nm, abs=0.5), region
    discharged = {row["region"]: row for row in rows if row["state"] == "frame 0"}
    assert discharged["normal"]["reason"] == "one slope"
    assert np.isnan(float(discharged["normal"]["dstar_nm"]))
    for region, nm in {"bend": 10.8, "agglomerate": 11.6}.items():
        assert float(discharged[region]["dstar_nm"]) == pytest.approx(nm, abs=0.5), region
    assert SMALL_KEY in (tmp_path / "dstar-table.csv").read_text(encoding="utf-8")


def test_states_are_compared_on_one_scale_with_each_key_in_the_files(published, tmp_path, capsys):
    states = [f"--state=discharged={WIDE_KEY}/0", "--state=charged=aaaa1111"]
    assert (
        run(*states, "--profile", published, "--folder", tmp_path, "--only", "states-map-LiC6", "--only", "states-composite-anode-safe")
        == 0
    )
    told = Image.open(tmp_path / "states-map-LiC6.png").text
    assert told["Source"] == f"discharged: {WIDE_KEY}; charged: {WIDE_KEY}"
    assert f"--state=charged={WIDE_KEY}/2" in shlex.split(told["Comment"])
    assert "2 of 2 figures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name one RESULT"),
        (["nonsense"], "no result is called 'nonsense'"),
        (["2026112"], "results begin with '2026112'"),
        ([WIDE_KEY, "--only", "nonsense-*"], "no figure is called 'nonsense-*'"),
        ([WIDE_KEY, "--frame", "7"], "frame 7 is not committed"),
        (["--state", "charged"], "give a name of its own and a result"),
        (["--state", f"a={WIDE_KEY}", "--state", f"a={WIDE_KEY}"], "give a name of its own and a result"),
        ([WIDE_KEY, "--composite", "metals"], "give a name and up to three colours"),
        ([WIDE_KEY, "--folder", "/proc/nowhere", "--only", "windows"], "cannot be written"),
    ],
)
def test_a_wrong_question_is_answered_in_one_message(published, tmp_path, arguments, expected, capsys):
    assert run("--profile", published, "--folder", tmp_path, *arguments) == 1
    told = capsys.readouterr().err
    assert expected in told
    assert "Traceback" not in told


def test_a_composite_of_unknown_phases_is_not_drawn_but_told(published, tmp_path, capsys):
    wanted = ["--composite", "odd/name=LiC6,unobtainium", "--only", "composite-odd-name", "--palette", "paper"]
    assert run(WIDE_KEY, "--profile", published, "--folder", tmp_path, *wanted) == 0
    assert "not drawn: composite-odd-name: green shows 'unobtainium'" in capsys.readouterr().out
