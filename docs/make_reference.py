"""Writes the pages of the reference that follow from the code: ``python docs/make_reference.py``."""

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from operandi import nodes
from operandi.experiment import DEFAULT_COMPOSITES, DEFAULT_WINDOWS
from operandi.experiment_file import example_yaml, sections

FOLDER = Path(__file__).parent / "reference"
NAMES = {float: "number", int: "whole number", str: "text", bool: "true or false", Path: "path", SecretStr: "text"}
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def experiment_page() -> str:
    """The reference of the experiment file, in Markdown."""
    parts = [
        "# The experiment file",
        "*Written from the models by `make docs`; do not edit.*",
        "One YAML file describes an experiment, from the detector to the published maps. Units stand in the names. Relative paths are "
        "taken from the folder of the file. Unknown keys are refused. `operandi init FILE` writes the example below, `operandi check FILE` "
        "looks at the file and at everything that it names.",
    ]
    for path, model in sections():
        parts.append(f"## `{'.'.join(path)}`" if path else "## Sections")
        parts.append(_about(model))
        parts.append(_table(model))
    parts += [
        "## Default windows",
        "An experiment without `windows` has those of these that lie inside its q range.",
        _rows(["phase", "Å⁻¹", "background"], [_window(w) for w in DEFAULT_WINDOWS]),
        "## Default composites",
        "An experiment without `composites` has those of these whose phases have windows.",
        _rows(["name", "red", "green", "blue"], [_composite(c) for c in DEFAULT_COMPOSITES]),
        "## Example",
        f"```yaml\n{example_yaml()}```",
    ]
    return "\n\n".join(parts) + "\n"


def tables_page() -> str:
    """The columns of a result's tables, in Markdown, to stand inside the reference of the tree."""
    tables = {
        "steps": nodes.STEP_COLUMNS,
        "provisional": nodes.PROVISIONAL_COLUMNS,
        "events": nodes.EVENT_COLUMNS,
        "ledger": nodes.LEDGER_COLUMNS,
        "echem": nodes.ECHEM_COLUMNS,
        "finished": nodes.FINISHED_COLUMNS,
        "convergence": nodes.CONVERGENCE_COLUMNS,
        "lithium": nodes.LITHIUM_COLUMNS,
        "regions/table": nodes.REGION_COLUMNS,
        "regions/defects": nodes.DEFECT_COLUMNS,
    }
    parts = []
    for name, columns in tables.items():
        parts += [f"### `{name}`", _rows(["column", "type"], [[f"`{column}`", kind] for column, kind in columns.items()])]
    return "\n\n".join(parts)


def _composite(composite: Any) -> list[str]:
    colours = (composite.red, composite.green, composite.blue)
    return [f"`{composite.name}`", *(", ".join(phases) or "–" for phases in colours)]


def _window(window: Any) -> list[str]:
    return [f"`{window.phase}`", f"{window.q_min_inv_angstrom:g} – {window.q_max_inv_angstrom:g}", window.background]


def _about(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip()


def _table(model: type[BaseModel]) -> str:
    rows = []
    for name, field in model.model_fields.items():
        rows.append([f"`{name}`", _type(field.annotation, field.metadata), _default(field), _meaning(field)])
    return _rows(["field", "value", "default", "meaning"], rows)


def _meaning(field: FieldInfo) -> str:
    inner = field.annotation
    model = next((part for part in (inner, *get_args(inner)) if isinstance(part, type) and issubclass(part, BaseModel)), None)
    return (field.description or (_about(model) if model else "")).replace("\n", " ").replace("|", "\\|")


def _type(annotation: Any, metadata: list[Any]) -> str:
    limits = [f"{sign} {value:g}" for item in metadata for name, sign in BOUNDS.items() if (value := getattr(item, name, None)) is not None]
    if any(isinstance(item, annotated_types.MinLen) for item in metadata):
        limits.append("not empty")
    text = _name(annotation)
    return f"{text}, {' and '.join(limits)}" if limits else text


def _name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join("`null`" if part is type(None) else _name(part) for part in arguments)
    if origin is dict:
        return f"{_name(arguments[1])} for each of {_name(arguments[0]).replace(' or ', ', ')}"
    if origin is tuple:
        return f"list of {_name(arguments[0])}"
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0], [c for m in annotation.__metadata__ for c in getattr(m, "metadata", [m])])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return NAMES[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default_factory is not None:
        return "see below"
    if isinstance(field.default, BaseModel):
        return "–"
    value = field.default
    if value in ("", (), {}):
        return "none"
    return f"`{'null' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


def _rows(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def write(folder: Path = FOLDER) -> None:
    """Write the page of the experiment file, and the tables into the page of the tree."""
    (folder / "experiment.md").write_text(experiment_page(), encoding="utf-8")
    tree = folder / "tree.md"
    before, _ = tree.read_text(encoding="utf-8").split(MARK)
    tree.write_text(f"{before}{MARK}\n\n{tables_page()}\n", encoding="utf-8")


MARK = "<!-- what follows is written by `make docs` -->"

if __name__ == "__main__":
    write()
