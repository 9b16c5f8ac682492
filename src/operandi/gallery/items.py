"""One figure of a gallery: its name, what it shows, and how it is drawn when it is its turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from operandi.stages.composites import Over, PaletteName

Scheme = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Item:
    """One figure. ``name`` is that of its files; ``draw`` reads what it needs, and raises an OperandiError where there is nothing to draw.

    ``frames`` says which frames of the results it shows; ``table`` gives the numbers behind it as CSV, where a table is what one wants.
    """

    name: str
    caption: str
    draw: Callable[[], Figure]
    frames: str = ""
    table: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """How composites are coloured and scaled: see `operandi.composite`. ``schemes`` are further ones: name → colour → phases."""

    palettes: tuple[PaletteName, ...] = ("paper", "safe")
    over: Over = "series"
    percentiles: tuple[float, float] = (1.0, 99.5)
    gamma: float = 1.0
    schemes: Mapping[str, Scheme] = field(default_factory=dict)
