"""The documentation says what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def make_reference():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_the_experiment_file_is_that_of_the_models():
    # Where it is not: make docs
    assert (ROOT / "docs/reference/experiment.md").read_text(encoding="utf-8") == make_reference().experiment_page()


def test_the_reference_of_the_tables_is_that_of_the_contract():
    assert (ROOT / "docs/reference/tree.md").read_text(encoding="utf-8").endswith(make_reference().tables_page() + "\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_text_exist_with_their_options(page, capsys):
    from operandi.cli import main

    text = page.read_text(encoding="utf-8")
    for command, rest in re.findall(r"operandi ([a-z]+)([^\n`]*)", "\n".join(re.findall(r"```\n(.*?)```", text, re.DOTALL))):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = capsys.readouterr().out
        assert f"operandi {command}" in shown
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in shown
