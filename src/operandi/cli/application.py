"""The application that every command joins, and what they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from operandi.experiment import Experiment

app = typer.Typer(
    name="operandi",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Operando scattering tomography: measured, processed live, served and replayed.",
    epilog="Start with **operandi demo**, then **operandi init my-cell.yml**. Every command explains itself: operandi COMMAND --help",
)

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="The experiment file (YAML).")]
ApiKey = Annotated[
    str | None, typer.Option(envvar="TILED_API_KEY", help="Key with which to write to the Tiled server.", show_default=False)
]

options = {"debug": False}


@app.callback()
def before(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and what the libraries log.")] = False,
) -> None:
    """What happens before every command."""
    options["debug"] = debug
    import logging

    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # It warns, once in each process, of every way to use a graphics card that is not installed.
    logging.getLogger("silx.opencl").setLevel(logging.DEBUG if debug else logging.ERROR)


def load(path: Path) -> Experiment:
    """The experiment of a file."""
    from operandi.experiment_file import load_experiment

    return load_experiment(path)
