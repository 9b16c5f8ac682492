"""The files of a gallery: every figure in every form, a thumbnail, tables as CSV, and a page that shows them all."""

from __future__ import annotations

import fnmatch
import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.figure import Figure

from operandi.errors import OperandiError, PublishError, ShapeError
from operandi.figures import style
from operandi.gallery.items import Item

Form = str
"""What a figure is written as: png or pdf."""

THUMBNAILS, INDEX = "thumbnails", "index.html"
_THUMBNAIL_DPI, _LONGEST_NAME = 60, 100
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #222 }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1.2rem }}
figure {{ margin: 0; padding: .7rem; border: 1px solid #ddd; border-radius: .4rem }}
img {{ width: 100%; height: 15rem; object-fit: contain; background: #fff }}
figcaption {{ font-size: .85rem }} code {{ font-size: .85em; overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
<p>{made}</p>
<main>
{figures}
</main>
{missing}
</html>
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a figure: its files below the folder, or the reason why there is none."""

    item: Item
    files: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Binder:
    """Where and how figures are written. ``results`` name what they show; ``command(name)`` is what makes a figure again."""

    folder: Path
    results: tuple[str, ...]
    version: str
    command: Callable[[str], str]
    forms: tuple[Form, ...] = ("png", "pdf")


def chosen(items: Iterable[Item], only: Sequence[str]) -> list[Item]:
    """Items whose name fits one of the patterns (``map-*``), all where there is no pattern; names become fit for files, each its own.

    Raises
    ------
    ShapeError
        A pattern fits none.
    """
    named: dict[str, Item] = {}
    for item in items:
        stem = re.sub(r"[^\w.+-]+", "-", item.name).strip("-.")[:_LONGEST_NAME] or "figure"
        name = next(n for n in (stem, *(f"{stem}-{k}" for k in range(2, len(named) + 3))) if n not in named)
        named[name] = replace(item, name=name)
    for pattern in only:
        if not fnmatch.filter(named, pattern):
            raise ShapeError(f"no figure is called {pattern!r}; there are {', '.join(named)}")
    return [item for name, item in named.items() if not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)]


def write_gallery(items: Sequence[Item], binder: Binder, on_done: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
    """Draw and write every item, then the page that shows them; what cannot be drawn has its reason there.

    Raises
    ------
    PublishError
        The folder cannot be written.
    """
    outcomes = []
    try:
        (binder.folder / THUMBNAILS).mkdir(parents=True, exist_ok=True)
        for item in items:
            outcomes.append(_write_item(item, binder))
            on_done(outcomes[-1])
        (binder.folder / INDEX).write_text(page(outcomes, binder), encoding="utf-8")
    except OSError as error:
        raise PublishError(f"{error.filename or binder.folder} cannot be written ({error.strerror}): give another --folder") from error
    return outcomes


def _write_item(item: Item, binder: Binder) -> Outcome:
    try:
        figure = item.draw()
        table = item.table() if item.table is not None else None
    except OperandiError as error:
        return Outcome(item, reason=str(error))
    source = style.Source(item.name, binder.results, item.frames, binder.version, binder.command(item.name), item.caption)
    style.stamp(figure, source)
    _settle(figure)
    files = [_save(figure, binder.folder / f"{item.name}.{form}", source, form) for form in binder.forms]
    _save(figure, binder.folder / THUMBNAILS / f"{item.name}.png", source, "png", dpi=_THUMBNAIL_DPI)
    if table is not None:
        comments = "".join(f"# {line}\n" for line in (*source.lines().splitlines(), source.command))
        (binder.folder / f"{item.name}.csv").write_text(comments + table, encoding="utf-8")
        files.append(f"{item.name}.csv")
    return Outcome(item, tuple(files))


def _settle(figure: Figure) -> None:
    """Lay the figure out once for all of its files: that takes longer than drawing it."""
    with mpl.rc_context(style.STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def _save(figure: Figure, path: Path, source: style.Source, form: Form, *, dpi: int | str = "figure") -> str:
    with mpl.rc_context(style.STYLE):
        figure.savefig(path, format=form, dpi=style.STYLE["savefig.dpi"] if dpi == "figure" else dpi, metadata=style.metadata(source, form))
    return path.name


def page(outcomes: Sequence[Outcome], binder: Binder) -> str:
    """The page of a gallery, HTML."""
    title = "Figures of " + ", ".join(binder.results)
    made = f"<code>{html.escape(binder.command(''))}</code> with operandi {html.escape(binder.version)}"
    figures = "\n".join(_card(one) for one in outcomes if one.files)
    reasons = "".join(f"<li><b>{html.escape(one.item.name)}</b>: {html.escape(one.reason)}</li>" for one in outcomes if not one.files)
    missing = f"<h2>Not drawn</h2><ul>{reasons}</ul>" if reasons else ""
    return _PAGE.format(title=html.escape(title), made=made, figures=figures, missing=missing)


def _card(outcome: Outcome) -> str:
    name, caption = html.escape(outcome.item.name), html.escape(outcome.item.caption)
    links = " · ".join(f'<a href="{quote(file)}">{file.rsplit(".", 1)[-1].upper()}</a>' for file in outcome.files)
    image = f'<a href="{quote(outcome.files[0])}"><img loading="lazy" alt="{name}" src="{THUMBNAILS}/{quote(outcome.item.name)}.png"></a>'
    return f'<figure id="{name}">{image}<figcaption><b>{name}</b> {links}<br>{caption}</figcaption></figure>'
