"""What holds for the project as a whole."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import operandi

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "src" / "operandi").rglob("*.py"))


def test_every_public_name_is_there():
    for name in operandi.__all__:
        assert getattr(operandi, name) is not None
    assert set(operandi.__all__) <= set(dir(operandi))
    assert sorted(operandi._HOMES) == operandi.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        operandi.nonsense  # noqa: B018


@pytest.mark.parametrize("statement", ["import operandi", "import operandi.cli"])
def test_importing_stays_light(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "tiled", "bluesky", "numba", "pyFAI", "matplotlib", "pydantic"} & set(loaded)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_modules_and_functions_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno <= 90, node.name


def test_only_the_runner_catches_everything():
    """A thread's task may hand on whatever it raises, since somebody raises it again."""
    broad = {path.name for path in MODULES if re.search(r"except( Exception\b| BaseException\b|:)", path.read_text(encoding="utf-8"))}
    assert broad <= {"runner.py", "tasks.py"}


def test_pins_are_plain_lines_and_cover_every_dependency():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==[A-Za-z0-9.+!]+", line) for line in lines)
    pinned = {canonical(line) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"], *(d for extra in extras for d in extra)]
    assert {canonical(d) for d in wanted} - {"operandi"} <= pinned


def canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]).lower()
