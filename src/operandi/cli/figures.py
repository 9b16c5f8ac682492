"""The command that writes all figures of a result."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from operandi import terminal
from operandi.cli.application import app
from operandi.errors import ShapeError

if TYPE_CHECKING:
    from operandi.gallery.items import Look
    from operandi.gallery.pages import Outcome


LOOK = "How composites look"


class Form(StrEnum):
    """What a figure can be written as."""

    PNG = "png"
    PDF = "pdf"


@app.command(
    epilog='Example: operandi figures latest --profile demo --only "composite-*" --palette safe\n\n'
    'Example: operandi figures --state "fresh, charged=20261122-1403_cell-17_219cc7b4_5f3a9c01" --state "aged, charged=cell-23/8"'
)
def figures(
    result: Annotated[
        str | None, typer.Argument(metavar="RESULT", help="A key, or how it or one of its parts begins; latest.", show_default=False)
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RESULT[/FRAME]", help="In place of RESULT, once for each state: compare them.", show_default=False),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the files go; index.html shows them.")] = Path("figures"),
    format: Annotated[list[Form] | None, typer.Option(help="Once for each; omitted: both.", show_default=False)] = None,  # noqa: A002
    profile: Annotated[str, typer.Option(help="Where results are: a Tiled profile, an address, or the folder of a demo.")] = "operandi",
    only: Annotated[list[str] | None, typer.Option(help='Only figures of such names: "map-*"; repeatable.', show_default=False)] = None,
    frame: Annotated[list[int] | None, typer.Option(help="Only this frame; repeatable.", min=0, show_default=False)] = None,
    palette: Annotated[
        Literal["paper", "safe", "both"],
        typer.Option(help="Red, green, blue as in the paper; colours that nobody confuses; both.", rich_help_panel=LOOK),
    ] = "both",
    scale: Annotated[
        Literal["series", "frame"], typer.Option(help="One scale for the series, or one for each frame.", rich_help_panel=LOOK)
    ] = "series",
    percentiles: Annotated[
        tuple[float, float], typer.Option(help="What is black and what is full, percent of the voxels.", rich_help_panel=LOOK)
    ] = (1, 99.5),
    gamma: Annotated[float, typer.Option(help="Above 1 brightens what is faint.", rich_help_panel=LOOK)] = 1.0,
    composite: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=RED,GREEN,BLUE",
            help="A further composite, phases of a colour joined by +; repeatable: metals=copper,aluminium",
            show_default=False,
            rich_help_panel=LOOK,
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="TILED_API_KEY", help="Key of a reader, where the server wants one.", show_default=False)
    ] = None,
) -> None:
    """Write every figure of a result as PNG and PDF, each with the result's key in it, and a page that shows them all.

    What cannot be drawn, such as d* where nothing was measured at small angles, is told with the reason.
    """
    if (result is None) == (not state):
        raise ShapeError('name one RESULT (latest is the last), or states to compare: --state "fresh, charged=KEY"')
    from operandi.gallery import pages, results, series, states
    from operandi.gallery.items import Look as Wanted
    from operandi.gallery.material import Material
    from operandi.opening import open as open_catalog
    from operandi.provenance import versions

    look = Wanted(("paper", "safe") if palette == "both" else (palette,), scale, percentiles, gamma, dict(map(_scheme, composite or ())))
    catalog = open_catalog(profile, api_key=api_key)
    if state:
        compared = results.find_states(catalog, state)
        items, named = states.items_of(compared, look), tuple(f"{name}: {one.key}" for name, one in compared.items())
        again = [f"--state={name}={one.key}/{one.numbers[0]}" for name, one in compared.items()]
    else:
        material = Material(results.find_result(catalog, str(result)), frame)
        items, named, again = series.items_of(material, look), (material.key,), [material.key, *(f"--frame={n}" for n in frame or ())]
    again += [f"--composite={text}" for text in composite or ()] + _not_default(look)
    command = partial(_command, again)
    forms = tuple(dict.fromkeys(form.value for form in format or Form))
    with terminal.progress("figures") as show:
        chosen = pages.chosen(items, only or ())
        binder = pages.Binder(folder, named, versions()["operandi"], command, forms)
        outcomes = pages.write_gallery(chosen, binder, lambda done: show(done.item.name, len(chosen)))
    _tell(outcomes, folder)


def _command(again: list[str], name: str) -> str:
    """The command that makes the figure of this name again, or all."""
    return shlex.join(["operandi", "figures", *again, *([f"--only={name}"] if name else [])])


def _not_default(look: Look) -> list[str]:
    """Options that make this look, where it is not the usual one."""
    low, high = look.percentiles
    options = [f"--palette={look.palettes[0]}"] if len(look.palettes) == 1 else []
    options += [f"--scale={look.over}"] if look.over != "series" else []
    options += ["--percentiles", f"{low:g}", f"{high:g}"] if (low, high) != (1, 99.5) else []
    return options + ([f"--gamma={look.gamma:g}"] if look.gamma != 1 else [])


def _scheme(text: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Name and colours of a composite, from ``name=red,green,blue``, phases of a colour joined by ``+``."""
    name, equals, colours = text.partition("=")
    phases = [tuple(phase.strip() for phase in colour.split("+") if phase.strip()) for colour in colours.split(",")]
    if not name.strip() or not equals or len(phases) > 3 or not any(phases):
        raise ShapeError(f"--composite {text!r}: give a name and up to three colours, such as metals=copper,aluminium,casing+separator")
    return name.strip(), dict(zip(("red", "green", "blue"), [*phases, (), ()], strict=False))


def _tell(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Where the figures are, and why some are not."""
    for one in outcomes:
        if not one.files:
            print(f"not drawn: {one.item.name}: {one.reason}")
    drawn = sum(bool(one.files) for one in outcomes)
    print(f"{drawn} of {len(outcomes)} figures: {folder / 'index.html'}")
