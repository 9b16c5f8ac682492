"""What the commands show on the terminal, as rich renderables."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from operandi.errors import PublishError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from operandi.check import Finding, Report
    from operandi.runner import Status
    from operandi.stages.calibrants import Reflection


def table_of(rows: Sequence[tuple[str, str]], title: str) -> Table:
    """Two columns: what, and how much."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def report_view(report: Report) -> RenderableType:
    """The plan of an experiment and what its windows hold, then what is worth knowing, then what must be corrected."""
    from operandi.check import honesty, rows

    parts: list[RenderableType] = [table_of(rows(report), report.experiment.sample.name)]
    parts.append(table_of(honesty(report), "what the windows hold beside their own phase (share at equal volumes)"))
    parts += [_finding(f, "yellow") for f in report.warnings]
    parts += [_finding(f, "bold red") for f in report.errors]
    if not report.findings:
        parts.append(Text("Nothing is wrong.", style="green"))
    return Group(*parts)


def _finding(finding: Finding, style: str) -> Text:
    return Text.assemble((f"{finding.severity}: ", style), (f"{finding.field}: ", "bold"), finding.message)


def reflections_view(reflections: Sequence[Reflection], calibrant: str) -> Table:
    """Where a calibrant's reflections were found, and where they should be."""
    table = Table(title=f"{calibrant}, reflections in Å⁻¹", title_justify="left")
    for title in ("", "expected", "found", "difference"):
        table.add_column(title, justify="right")
    for number, r in enumerate(reflections, 1):
        found, difference = ("none", "") if math.isnan(r.found) else (f"{r.found:.4f}", f"{r.difference:+.4f}")
        table.add_row(str(number), f"{r.expected:.4f}", found, difference)
    return table


def status_view(status: Status) -> RenderableType:
    """Where a run's processing stands."""
    if not status.key:
        return Text(status.message, style="dim")
    cell = ", ".join(
        f"{value:.4g} {unit}"
        for value, unit in ((status.voltage, "V"), (status.current, "mA"), (status.charge, "mAh"))
        if not math.isnan(value)
    )
    rows = [
        ("images", f"{status.images:,} of {status.planned:,}, {status.images_per_s:.0f} a second, {status.refused:,} refused"),
        ("frames", f"{status.frames} of {status.frames_planned}; now set {status.set + 1}"),
        ("cell", cell or "unknown"),
        ("guardian", status.guardian or "nothing is wrong"),
        ("waiting for Tiled", f"{status.unpublished:,} operations" if status.unpublished else "nothing"),
    ]
    bar = ProgressBar(total=max(status.planned, 1), completed=min(status.images, status.planned), width=60)
    table = table_of(rows, status.key)
    table.add_row("", bar)
    return Group(table, Text(status.message, style="dim")) if status.message else table


def console() -> Console:
    """The terminal."""
    return Console()


def save(figure: Figure, path: Path) -> None:
    """Save a matplotlib figure and say where. Raises PublishError where it cannot be written."""
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise PublishError(
            f"{path} cannot be written ({error}): give a path that ends in .png, .pdf or .svg, in a folder that can"
        ) from error
    print(f"picture: {path}")


@contextmanager
def status_shown() -> Iterator[Callable[[Status], None]]:
    """A function that shows the status it is given, in place."""
    shown = console()
    with Live(console=shown, refresh_per_second=4) as live:
        yield lambda status: live.update(status_view(status))
    if not shown.is_terminal:
        shown.print()


@contextmanager
def progress(what: str) -> Iterator[Callable[[str, int], None]]:
    """A function that advances a progress bar by one of so many, naming what is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task(what, total=None, note="")
        yield lambda note, total: bar.update(task, advance=1, total=total, note=note)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that is set by Ctrl-C and by SIGTERM, so that what is begun is finished in order."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
