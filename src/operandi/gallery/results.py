"""Which results are meant by what somebody types."""

from __future__ import annotations

from operandi.client import Catalog, Result
from operandi.errors import NotPublishedError, ShapeError
from operandi.gallery.material import Material

LATEST = "latest"
_MOST_NAMED = 8


def find_result(catalog: Catalog, name: str) -> Result:
    """The result whose key, or one of whose parts (date, sample, run, result), begins with ``name``; ``latest`` is the last one.

    Raises
    ------
    NotPublishedError
        There is none, or more than one.
    """
    if name == LATEST:
        return catalog.latest()
    keys = list(catalog.results)
    if name in keys:
        return catalog.results[name]
    found = [key for key in keys if name and any(part.startswith(name) for part in (key, *key.split("_")))]
    if len(found) == 1:
        return catalog.results[found[0]]
    shown = ", ".join((found or keys)[-_MOST_NAMED:]) or "none is published yet"
    several = f"{len(found)} results begin with {name!r}, give more of the key" if found else f"no result is called {name!r}; there are"
    raise NotPublishedError(f"{several}: {shown}")


def find_states(catalog: Catalog, states: list[str]) -> dict[str, Material]:
    """Name → one frame of a result, from ``name=RESULT``, or ``name=RESULT/FRAME``; without a frame it is the last.

    Raises
    ------
    ShapeError
        A state is not written like this, or is there twice.
    NotPublishedError
        A result or a frame is not there.
    """
    found: dict[str, Material] = {}
    for text in states:
        name, _, where = text.partition("=")
        key, _, frame = where.partition("/")
        name = name.strip()
        if not name or not key or (frame and not frame.isdecimal()) or name in found:
            raise ShapeError(f'--state {text!r}: give a name of its own and a result, perhaps with a frame: "fresh, charged=KEY/8"')
        result = find_result(catalog, key.strip())
        number = int(frame) if frame else Material(result).numbers[-1]
        found[name] = Material(result, [number])
    return found
