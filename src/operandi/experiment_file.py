"""Reading the experiment file: every fault at once, each with its line and its remedy."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from operandi.errors import ExperimentError, GeometryError
from operandi.experiment import Experiment

Location = tuple[int | str, ...]
Fault = tuple[int, str]
SectionT = TypeVar("SectionT", bound=BaseModel)


def load_experiment(path: str | Path) -> Experiment:
    """The experiment described by a YAML file; its relative paths are taken from the folder of that file.

    Raises ExperimentError with one line ``file:line: field: what; remedy`` for every fault.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExperimentError(
            f"{path}: {error.strerror or error}; give the path of an experiment file, or make one with: operandi init {path}"
        ) from error
    return parse_experiment(content, name=str(path), folder=path.absolute().parent)


def parse_experiment(content: bytes | str, *, name: str = "experiment", folder: str | Path = ".") -> Experiment:
    """The experiment described by YAML ``content``, for callers that have no file.

    ``name`` stands in the messages; relative paths are taken from ``folder``. Raises ExperimentError as `load_experiment` does.
    """
    root = _compose(content, name)
    faults = list(_duplicates(root))
    experiment = None
    try:
        experiment = Experiment.model_validate(_construct(root, name))
    except ValidationError as error:
        faults += [_fault(root, detail) for detail in error.errors() if detail["type"] != "default_factory_not_called"]
    if faults or experiment is None:
        raise ExperimentError("\n".join(f"{name}:{line}: {message}" for line, message in sorted(faults)))
    return _resolved(experiment, Path(folder).absolute())


def example_yaml() -> str:
    """The commented example that a new experiment file starts from."""
    return resources.files("operandi").joinpath("example.yml").read_text(encoding="utf-8")


def identity(experiment: Experiment) -> dict[str, Any]:
    """Everything of the experiment that decides numbers, ready for JSON.

    Without publishing, guardian, description and paths: of each file that is named the content counts, as ``poni_sha256``, ``mask_sha256``
    and so on (of ``file.h5::/dataset`` the whole file). Of the potentiostat's log only the name counts, because it grows. Raises
    GeometryError where a file cannot be read.
    """
    content = experiment.model_dump(mode="json", exclude={"publishing": True, "guardian": True, "sample": {"description"}})
    if experiment.potentiostat is not None and experiment.potentiostat.file is not None:
        content["potentiostat"]["file"] = experiment.potentiostat.file.name
    for location, path in _files(experiment):
        if location[0] not in ("publishing", "potentiostat"):
            holder: Any = content
            for step in location[:-1]:
                holder = holder[step]
            del holder[location[-1]]
            named = [str(step) for step in location if step != "file"]
            content[f"{'_'.join(named[-1 - named[-1].isdigit() :])}_sha256"] = _digest(path, _dotted(location))
    return content


def _files(section: BaseModel, location: Location = ()) -> Iterator[tuple[Location, Path]]:
    """Every path in a section and those below it, with its place."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Path):
            yield (*location, name), value
        elif isinstance(value, BaseModel):
            yield from _files(value, (*location, name))
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from _files(item, (*location, name, index))


def _digest(path: Path, field: str) -> str:
    try:
        return hashlib.sha256(Path(str(path).partition("::")[0]).read_bytes()).hexdigest()
    except OSError as error:
        raise GeometryError(
            f"{path}: {error.strerror or error} ({field}); correct the path in the experiment file or restore the file"
        ) from error


# From bytes to a tree of nodes that know their lines


def _compose(content: bytes | str, name: str) -> yaml.Node:
    text = content if isinstance(content, str) else _decode(content, name)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise ExperimentError(f"{name}:{_line_of(error)}: not YAML: {_syntax(error, text)}") from error
    except RecursionError as error:
        raise ExperimentError(f"{name}:1: is nested too deeply; start from the example: operandi init FILE") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ExperimentError(f"{name}:{line}: holds the control character #x{error.character:04x}; is it really a text file?") from error
    if root is None:
        raise ExperimentError(f"{name}:1: is empty; start from the example: operandi init FILE")
    if not isinstance(root, yaml.MappingNode):
        raise ExperimentError(
            f"{name}:{root.start_mark.line + 1}: is a {root.id}, not fields with values; start from the example: operandi init FILE"
        )
    return root


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ExperimentError(
            f"{name}:{line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file in the encoding UTF-8"
        ) from error


def _construct(root: yaml.Node, name: str) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise ExperimentError(f"{name}:{_line_of(error)}: {error.problem}; write plain values, lists and fields only") from error
    except (ValueError, LookupError, ArithmeticError, AttributeError, TypeError) as error:
        # PyYAML lets these through for values such as 2026-13-45 or !!bool maybe.
        raise ExperimentError(f"{name}:1: a value looks like a date or a number, but is none ({error}); put it in quotes") from error
    finally:
        loader.dispose()


def _line_of(error: yaml.MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else 1


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    lines = text.splitlines() or [""]
    line = lines[min(_line_of(error), len(lines)) - 1]
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in str(error.problem):
        return "a tab where only spaces may stand; indent with spaces"
    problem = error.problem or error.context or "cannot be read"
    return f"{problem}; look at the indentation, colons and quotes of this line and the one before"


def _duplicates(root: yaml.Node) -> Iterator[Fault]:
    visited: set[int] = set()
    waiting: list[tuple[Location, yaml.Node]] = [((), root)]
    while waiting:
        location, node = waiting.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [((*location, index), child) for index, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # an unhashable key: the constructor refuses it
            field, line = (*location, key.value), key.start_mark.line + 1
            if key.value in lines:
                yield line, f"{_dotted(field)}: stands already in line {lines[key.value]}; keep one of the two"
            lines.setdefault(key.value, line)
            waiting.append((field, value))


def _locate(root: yaml.Node, location: Location) -> int:
    """Line of the last node on the way to ``location`` that is there; of a field, the line of its name."""
    node, line = root, root.start_mark.line
    for step in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line
            continue
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((key, value) for key, value in pairs if isinstance(key, yaml.ScalarNode) and key.value == str(step)), None)
        if found is None:
            break
        line, node = found[0].start_mark.line, found[1]
    return line + 1


# From pydantic's words to ours


def _fault(root: yaml.Node, detail: ErrorDetails) -> Fault:
    location = detail["loc"]
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        message = _unknown_key(location)
    elif kind == "missing":
        message = f"is missing; add it{_meaning(location)}"
    elif kind in ("model_type", "model_attributes_type"):
        message = f"needs fields of its own, one to a line and indented; they are: {', '.join(_section(location).model_fields)}"
    elif kind == "invalid_key":
        message = "is a number or the like where the name of a field stands; write a name"
    elif kind == "path_type":
        message = f"should be a path, not {given!r}; correct it{_meaning(location)}"
    elif kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
    else:
        what = detail["msg"][0].lower() + detail["msg"][1:]
        shown = "nothing" if given is None else repr(given)
        message = f"{what}, not {shown[:60]}; correct it{_hint(detail)}{_meaning(location)}"
    return _locate(root, location), f"{_dotted(location)}: {message}"


def _hint(detail: ErrorDetails) -> str:
    if detail["type"] == "string_type":
        return " by putting it in quotes"
    if detail["type"] == "literal_error":
        choices = [part.strip(" '") for part in detail.get("ctx", {}).get("expected", "").replace(" or ", ", ").split(",")]
        near = difflib.get_close_matches(str(detail["input"]), choices, n=1, cutoff=0.5)
        return f" to {near[0]!r}" if near else ""
    return ""


def _meaning(location: Location) -> str:
    field = _section(location[:-1]).model_fields.get(str(location[-1])) if location else None
    return f" ({' '.join(field.description.split()).rstrip('.')})" if field is not None and field.description else ""


def _unknown_key(location: Location) -> str:
    key, section = str(location[-1]), _section(location[:-1])
    homes = [_dotted(path) for path, model in sections() if key in model.model_fields and model is not section]
    near = difflib.get_close_matches(key, section.model_fields, n=1, cutoff=0.6)
    if near:
        return f"is not known; did you mean {near[0]!r}?"
    if homes:
        return f"does not belong here; move it to {' or '.join(homes)}"
    elsewhere = {field: _dotted((*path, field)) for path, model in sections() for field in model.model_fields}
    near = difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.75)
    if near:
        return f"is not known; did you mean {elsewhere[near[0]]!r}?"
    return f"is not known; the fields here are: {', '.join(section.model_fields)}"


def sections() -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Every section of the file with its place in it, from the top; a list's items stand under the list's name."""
    waiting: list[tuple[tuple[str, ...], type[BaseModel]]] = [((), Experiment)]
    while waiting:
        path, model = waiting.pop(0)
        yield path, model
        for name, field in model.model_fields.items():
            if (child := _model_of(field.annotation)) is not None:
                waiting.append(((*path, name), child))


def _section(location: Location) -> type[BaseModel]:
    """The model that describes ``location``, or its nearest parent that is described by one."""
    wanted = tuple(step for step in location if isinstance(step, str))
    known = dict(sections())
    while wanted not in known:
        wanted = wanted[:-1]
    return known[wanted]


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_of(part)) is not None), None)


def _dotted(location: Location) -> str:
    text = ""
    for step in location:
        text += f"[{step + 1}]" if isinstance(step, int) else f".{step}" if text else step
    return text or "experiment"


def _resolved(section: SectionT, folder: Path) -> SectionT:
    """A copy of ``section`` in which every relative path is taken from ``folder``."""
    update: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            update[name] = _resolved(value, folder)
        elif isinstance(value, tuple):
            update[name] = tuple(_resolved(item, folder) if isinstance(item, BaseModel) else item for item in value)
        elif isinstance(value, Path):
            update[name] = folder / value.expanduser()
    return section.model_copy(update=update)
