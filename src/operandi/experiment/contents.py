"""What is looked for in the pattern of every voxel: peaks, and amounts of reference patterns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from operandi.experiment.measurements import Integration
from operandi.experiment.sections import Positive, Section

PEAK_POINTS = 7
"""Points that a peak on a straight background needs."""


class Peak(Section):
    """One line of which every voxel tells position, width and area."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the peak; each only once."""
    q_min_inv_angstrom: Positive
    """Lower edge of the range that is fitted: the peak, wherever it may lie, with background on both sides."""
    q_max_inv_angstrom: Positive
    """Upper edge of the range."""
    shape: Literal["gaussian", "pseudo-voigt"] = "gaussian"
    """Shape of the line, on a straight background."""
    width_inv_angstrom: Positive | None = None
    """Expected full width at half maximum; null: an eighth of the range."""
    at_least_sigma: Positive = 5.0
    """A peak whose area is below so many of its standard deviations is none."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.q_max_inv_angstrom <= self.q_min_inv_angstrom:
            raise ValueError("q_max_inv_angstrom must be above q_min_inv_angstrom")
        return self

    def fault(self, how: Integration) -> str:
        """Why the patterns do not hold it, or nothing."""
        low, high = self.q_min_inv_angstrom, self.q_max_inv_angstrom
        points = (high - low) / (how.q_max_inv_angstrom - how.q_min_inv_angstrom) * how.bins
        if not how.q_min_inv_angstrom <= low < high <= how.q_max_inv_angstrom:
            return f"peak {self.name!r} reaches beyond the q range of integration: widen that, or narrow the peak's range"
        if points < PEAK_POINTS + 1:
            return f"peak {self.name!r} has only {points:.1f} points in q: widen its range, or give more integration.bins"
        return ""


class ReferencePattern(Section):
    """One of the patterns that voxels are taken to be made of."""

    name: Annotated[str, Field(min_length=1)]
    """Name of its map; each only once. Without crystal, cif and file: that of a built-in crystal."""
    crystal: Annotated[str, Field(min_length=1)] | None = None
    """Name of a built-in crystal, such as graphite or LiC6."""
    cif: Path | None = None
    """CIF of a crystal, whose powder pattern is the reference."""
    file: Path | None = None
    """Measured pattern, as for measured_air."""
    q_units: Literal["1/angstrom", "1/nm"] | None = None
    """Unit of the file's q; null: as the file says."""

    @model_validator(mode="after")
    def _one_source(self):
        if sum(source is not None for source in (self.crystal, self.cif, self.file)) > 1:
            raise ValueError("names more than one of crystal, cif and file: give one of them")
        return self


class Decomposition(Section):
    """Each voxel's pattern as a sum of reference patterns, none negative; each scaled to 1 at its highest point."""

    references: Annotated[tuple[ReferencePattern, ...], Field(min_length=1)]
    """The patterns."""
    q_min_inv_angstrom: Positive | None = None
    """Lower edge of what is looked at; null: all of the pattern."""
    q_max_inv_angstrom: Positive | None = None
    """Upper edge of what is looked at; null: all of the pattern."""
    background: Annotated[int, Field(ge=0)] = 2
    """So many hat functions over the range are patterns too: 1 a constant, 2 any straight line above 0, 0 none."""
    width_inv_angstrom: Positive = 0.02
    """Full width at half maximum of the lines of crystals."""

    @model_validator(mode="after")
    def _distinct(self):
        names = [reference.name for reference in self.references]
        if twice := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"references name {', '.join(sorted(twice))} twice: give each a name of its own")
        return self


LITHIUM_PHASES = ("graphite", "LiC12", "LiC6", "NMC lithiated", "NMC delithiated")
"""The maps that tell lithium in both electrodes."""


class Lithium(Section):
    """Lithium in graphite and NMC622 of every frame, against the charge that has passed."""

    graphite_mah: Positive | None = None
    """Charge that takes all graphite of the cell from C6 to LiC6: 372 mAh for each gram of it. Null: what follows from it is NaN."""
    oxide_mah: Positive | None = None
    """Charge for one lithium in each formula unit of the oxide in the cell: 276.5 mAh for each gram of NMC622. Null: likewise."""
    line_width_inv_angstrom: Positive | None = None
    """Full width at half maximum of the lines, of which each window holds a part that follows from it; null: as if all held all of them."""
    lic12_strength: Positive | None = None
    """What the map of LiC12 gives for as much carbon, relative to that of graphite; null: by the crystals."""
    lic6_strength: Positive | None = None
    """What the map of LiC6 gives, likewise."""
    delithiated_strength: Positive | None = None
    """What the map of the delithiated oxide gives for as much oxide, relative to the lithiated one; null: by the crystals where the width
    of the lines is given, else 1."""
    strength_error: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Relative standard deviation of each of these strengths, derived or given; it counts in sigma."""
    lithiated_content: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Lithium in the formula unit of the oxide that counts as lithiated."""
    delithiated_content: Annotated[float, Field(ge=0, le=1)] = 0.35
    """Lithium in that which counts as delithiated."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.delithiated_content >= self.lithiated_content:
            raise ValueError("delithiated_content must be below lithiated_content")
        return self


def lithium_of_windows(validated: dict[str, Any]) -> Lithium | None:
    """The default, where there are windows of all that it needs."""
    phases = {window.phase for window in validated.get("windows", ())}
    return Lithium() if phases.issuperset(LITHIUM_PHASES) else None
