"""Maps and composites, and those of an experiment file that names none."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from operandi.experiment.sections import Positive, Section


class Subtraction(Section):
    """What another phase puts into a window: its own map, times a ratio."""

    phase: Annotated[str, Field(min_length=1)]
    """Map of the other phase, as it is before anything is subtracted from it."""
    ratio: Annotated[float, Field(ge=0)] | Literal["derived"] = "derived"
    """What it puts into this window for each unit of its own map; derived: from its crystal structure, for a powder without texture."""
    crystal: Annotated[str, Field(min_length=1)] | None = None
    """Crystal to derive the ratio from; null: the one that its map is meant to show."""

    @field_validator("ratio", mode="before")
    @classmethod
    def _number_or_derived(cls, value: Any) -> Any:
        if value != "derived" and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(f"is {value!r}; write a number from 0 on, or derived")
        return value


class QWindow(Section):
    """A map: the intensity of each voxel's pattern between two q, above its background."""

    phase: Annotated[str, Field(min_length=1)]
    """Name of the map; each only once."""
    q_min_inv_angstrom: Positive
    """Lower edge of the window."""
    q_max_inv_angstrom: Positive
    """Upper edge of the window."""
    background: Literal["linear", "constant", "none"] = "linear"
    """What is subtracted under the peak: a line through both sides of the window, their mean, or nothing."""
    subtract: tuple[Subtraction, ...] = ()
    """What other phases put into the window, to be subtracted; `operandi check` names their reflections."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.q_max_inv_angstrom <= self.q_min_inv_angstrom:
            raise ValueError("q_max_inv_angstrom must be above q_min_inv_angstrom")
        return self


class Composite(Section):
    """Maps in false colour; each colour shows one phase or the sum of several."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the composite; each only once."""
    red: tuple[str, ...] = ()
    """Phases shown in red."""
    green: tuple[str, ...] = ()
    """Phases shown in green."""
    blue: tuple[str, ...] = ()
    """Phases shown in blue."""


# The windows of Lübke et al. (10.1039/D4EE00590B, supporting information) where they state one; those of LiC6, LiC12, delithiated
# NMC and both NMC 110 come from the lattice constants.
DEFAULT_WINDOWS: tuple[QWindow, ...] = tuple(
    QWindow(phase=phase, q_min_inv_angstrom=q_min, q_max_inv_angstrom=q_max)
    for phase, q_min, q_max in (
        ("separator", 1.50, 1.56),
        ("LiC6", 1.66, 1.73),
        ("LiC12", 1.75, 1.80),
        ("graphite", 1.82, 1.90),
        ("aluminium", 2.66, 2.72),
        ("NMC lithiated 110", 4.37, 4.41),
        ("NMC delithiated 110", 4.43, 4.47),
        ("NMC lithiated", 4.57, 4.62),
        ("NMC delithiated", 4.62, 4.67),
        ("copper", 4.85, 4.95),
        ("casing", 5.05, 5.08),
    )
) + (QWindow(phase="silicon", q_min_inv_angstrom=0.025, q_max_inv_angstrom=0.1, background="none"),)
"""The maps of an experiment file that names none, as far as its q range holds them."""

DEFAULT_COMPOSITES: tuple[Composite, ...] = (
    Composite(name="cathode", red=("NMC delithiated",), green=("NMC lithiated",)),
    Composite(name="anode", red=("graphite",), green=("LiC6",), blue=("LiC12",)),
)
"""The composites of an experiment file that names none, as far as it has their maps."""


def windows_in_range(validated: dict[str, Any]) -> tuple[QWindow, ...]:
    """The default windows that the patterns hold, with the bands on both sides from which a background is taken."""
    integration = validated.get("integration")
    if integration is None:
        return ()
    low, high = integration.q_min_inv_angstrom, integration.q_max_inv_angstrom
    two_bins = 2 * (high - low) / integration.bins
    fitting = []
    for window in DEFAULT_WINDOWS:
        width = window.q_max_inv_angstrom - window.q_min_inv_angstrom
        band = 0.0 if window.background == "none" else max(width / 3, two_bins)
        if low <= window.q_min_inv_angstrom - band and window.q_max_inv_angstrom + band <= high:
            fitting.append(window)
    return tuple(fitting)


def composites_of_windows(validated: dict[str, Any]) -> tuple[Composite, ...]:
    phases = {window.phase for window in validated.get("windows", ())}
    return tuple(c for c in DEFAULT_COMPOSITES if phases.issuperset((*c.red, *c.green, *c.blue)))
