"""What is made of sinograms and volumes: reconstruction, d*."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from operandi.experiment.measurements import Integration
from operandi.experiment.sections import Positive, Section


class Reconstruction(Section):
    """How sinograms become volumes."""

    method: Literal["fbp"] = "fbp"
    """Filtered back projection, every point in q by itself."""
    filter: Literal["ramp", "shepp-logan", "cosine", "hann"] = "ramp"
    """Filter of the projections; all but the ramp trade sharpness for less noise."""
    axis_mm: float | None = None
    """Position of the rotation axis on the translation axis; null finds it in the first frame."""


class Dstar(Section):
    """d* of every voxel: where its small-angle profile leaves the power law that it follows at high q."""

    q_min_inv_angstrom: Positive = 0.01
    """Lowest q that is looked at; leave out what the beam stop shadows."""
    q_max_inv_angstrom: Positive = 0.2
    """Highest q that is looked at; leave out where the background is no longer small."""
    fit_from: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the points in between, counted from high q, where the fit of the power law begins."""
    fit_to: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of the points where it ends."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.q_max_inv_angstrom < 2.5 * self.q_min_inv_angstrom:
            raise ValueError("q_max_inv_angstrom must be at least 2.5 times q_min_inv_angstrom, for a power law and what lies below it")
        if self.fit_to <= self.fit_from:
            raise ValueError("fit_to must be above fit_from")
        return self

    def points(self, integration: Integration) -> float:
        """How many points of the patterns lie in its range."""
        width = (integration.q_max_inv_angstrom - integration.q_min_inv_angstrom) / integration.bins
        return (self.q_max_inv_angstrom - self.q_min_inv_angstrom) / width

    def fits(self, integration: Integration) -> bool:
        """Whether the patterns hold its range."""
        return integration.q_min_inv_angstrom <= self.q_min_inv_angstrom and self.q_max_inv_angstrom <= integration.q_max_inv_angstrom


LEAST_POINTS = 40
"""Points that d* needs."""


def dstar_in_range(validated: dict[str, Any]) -> Dstar | None:
    """The default, where the patterns hold small angles finely enough."""
    integration = validated.get("integration")
    if integration is None or integration.q_min_inv_angstrom > 0.03 or integration.q_max_inv_angstrom < 0.1:
        return None
    low, high = max(integration.q_min_inv_angstrom, 0.01), min(integration.q_max_inv_angstrom, 0.2)
    section = Dstar(q_min_inv_angstrom=low, q_max_inv_angstrom=high)
    return section if section.points(integration) >= LEAST_POINTS else None
