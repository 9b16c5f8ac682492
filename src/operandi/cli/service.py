"""Commands that process and serve runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from operandi import terminal
from operandi.cli.application import ApiKey, ExperimentFile, app, load
from operandi.errors import PublishError

profile = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="How Tiled clients of this machine find the server.")
app.add_typer(profile, name="profile")


@app.command(epilog="Example: operandi run cell-17.yml")
def run(
    experiment: ExperimentFile,
    once: Annotated[bool, typer.Option("--once", help="Return after the first run that is complete.")] = False,
    api_key: ApiKey = None,
) -> None:
    """Follow the experiment's journal, process each run as it is measured, and publish it. Ctrl-C ends it; it goes on where it was."""
    loaded = load(experiment)
    from operandi.worker import run_worker

    with terminal.interruptible() as stop, terminal.status_shown() as show:
        keys = run_worker(loaded, api_key=api_key, on_status=show, stop=stop, once=once)
    for key in keys:
        print(key)


@app.command(epilog="Example: operandi replay 219cc7b4 --experiment cell-17.yml --config other-windows.yml")
def replay(
    uid: Annotated[str, typer.Argument(help="The run: its uid, the beginning of it, or latest.")],
    experiment: Annotated[Path, typer.Option(help="The experiment file: where the journal and the server are.")] = Path("experiment.yml"),
    config: Annotated[Path | None, typer.Option(help="Another experiment file to process by.", show_default=False)] = None,
    journal: Annotated[Path | None, typer.Option(help="Folder of journals, if not the experiment's.", show_default=False)] = None,
    from_tiled: Annotated[bool, typer.Option("--from-tiled", help="Take the run from the Tiled server, not from a journal.")] = False,
    api_key: ApiKey = None,
) -> None:
    """Process a run that is over once more. The same experiment gives the same result; another config makes one beside the first."""
    loaded = load(experiment)
    from operandi.sources import replay as sources
    from operandi.worker import replay as process

    where, named = loaded.publishing, -1 if uid == "latest" else uid
    if config is not None:
        loaded = load(config).model_copy(update={"publishing": where})
    if from_tiled:
        from operandi.client import open as open_catalog

        documents = sources.from_tiled(open_catalog(where.tiled, api_key=api_key).client, named)
    else:
        documents = sources.from_journal(journal or where.journal, named)
    with terminal.interruptible() as stop, terminal.status_shown() as show:
        key = process(loaded, documents, api_key=api_key, on_status=show, stop=stop)
    print(key)


@app.command(epilog="Example: operandi serve data/server --readable data --readable images --api-key secret")
def serve(
    folder: Annotated[Path, typer.Argument(help="Where the catalog lies; made where it is not there.")] = Path("server"),
    config: Annotated[
        Path | None, typer.Option(help="A configuration of Tiled to serve in place of the embedded one.", show_default=False)
    ] = None,
    readable: Annotated[list[Path] | None, typer.Option(help="A further folder whose files it may serve: arrays, images.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    private: Annotated[bool, typer.Option("--private", help="Reading takes the key, too.")] = False,
    api_key: ApiKey = None,
) -> None:
    """Serve results with Tiled: SQLite and files in one folder, nothing else to start."""
    if config is not None:
        _serve_config(config, host, port)
        return
    import secrets

    from operandi.server.embedded import serve as run_server

    key = api_key or secrets.token_hex(16)
    print(f"http://{host}:{port} serves {folder.absolute()}")
    if api_key is None:
        print(f"To write to it, in the worker's shell: export TILED_API_KEY={key}", flush=True)
    run_server(folder, readable or [], api_key=key, public=not private, host=host, port=port)


def _serve_config(config: Path, host: str, port: int) -> None:
    import subprocess

    if not config.exists():
        raise PublishError(f"{config} is not there: give a Tiled configuration, such as tiled_config/embedded.yml")
    command = [sys.executable, "-m", "tiled", "serve", "config", str(config), "--host", host, "--port", str(port)]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command(epilog="Example: operandi demo --json figures.json")
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything goes; made anew.")] = Path("demo"),
    json: Annotated[Path | None, typer.Option(help="Write the figures as JSON.", show_default=False)] = None,
    experiment: Annotated[Path | None, typer.Option(help="Another experiment file to rehearse.", show_default=False)] = None,
    speed: Annotated[float | None, typer.Option(help="1 is real time; omitted: as fast as possible.", min=0.001)] = None,
) -> None:
    """A whole simulated beamtime: measured, processed live, served, read and replayed, in minutes."""
    from operandi.demo import run_demo

    run_demo(folder, json_file=json, experiment_file=experiment, speed=speed, console=terminal.console())


@profile.command("install", epilog="Example: operandi profile install http://beamline-server:8000")
def profile_install(
    uri: Annotated[str, typer.Argument(help="The Tiled server.")] = "http://127.0.0.1:8000",
    name: Annotated[str, typer.Option(help="Name of the profile.")] = "operandi",
) -> None:
    """Let notebooks of this user open the server by name."""
    from operandi.profiles import install_profile

    path = install_profile(uri, name)
    print(f'{path} is written. In Python: import operandi; operandi.open("{name}")')
