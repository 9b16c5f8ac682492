"""What is done to a sinogram before it is reconstructed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from operandi.experiment.sections import Count, Positive, Section


class MeasuredAir(Section):
    """The pattern of the beam without the sample, from a file or from an earlier result."""

    file: Path | None = None
    """Patterns that `operandi integrate` wrote (.csv, .h5), or text with the columns q, intensity and perhaps sigma (.dat, .xy); of several
    patterns the mean. Counts of a pixel, free of dead time."""
    result: Annotated[str, Field(min_length=1)] | None = None
    """In place of a file: the key of an earlier result on the same server, of a run that saw only air."""
    monitor: Positive | None = None
    """Flux behind the file's pattern, as keys.monitor counts it for one image; a result has its own."""
    q_units: Literal["1/angstrom", "1/nm"] | None = None
    """Unit of the file's q; null: as the file says."""

    @model_validator(mode="after")
    def _one_source(self):
        if (self.file is None) == (self.result is None):
            raise ValueError("names both file and result, or neither: give one of them")
        if self.result is not None and not (self.monitor is None and self.q_units is None):
            raise ValueError("monitor and q_units go with a file: a result has its own; leave them out")
        return self


class MassFraction(Section):
    """One part of a composition."""

    mass_fraction: Annotated[float, Field(gt=0, le=1)]
    """Its share of the mass."""
    attenuation_cm2_g: Annotated[float, Field(ge=0)]
    """Its mass attenuation at the energy of the beam, as NIST's XCOM tabulates it."""


class AbsorbingLayer(Section):
    """A shell of the cell; the innermost is a full cylinder."""

    radius_mm: Positive
    """Outer radius."""
    attenuation_inv_mm: Annotated[float, Field(ge=0)] | None = None
    """Linear attenuation; null: that of density and composition."""
    density_g_cm3: Positive | None = None
    """Density, voids included."""
    composition: tuple[MassFraction, ...] = ()
    """Its parts; their shares add up to 1."""

    @model_validator(mode="after")
    def _one_way(self):
        by_parts = self.density_g_cm3 is not None and bool(self.composition)
        if by_parts == (self.attenuation_inv_mm is not None):
            raise ValueError("needs either attenuation_inv_mm, or density_g_cm3 with a composition")
        if by_parts and abs(sum(part.mass_fraction for part in self.composition) - 1) > 0.01:
            raise ValueError("the mass fractions of its composition must add up to 1")
        return self


class Absorption(Section):
    """What of the beam the cell itself takes away: cylinders about the rotation axis, or a sinogram of its transmission."""

    layers: tuple[AbsorbingLayer, ...] = ()
    """The cell from what it is made of, about reconstruction.axis_mm."""
    file: Path | None = None
    """In place of layers: HDF5 or NeXus file of a transmission sinogram, 1 where nothing is in the beam, over the travel of the scan."""
    signal: Annotated[str, Field(min_length=1)] = "transmission"
    """Its dataset (rotation, translation)."""
    rotation: Annotated[str, Field(min_length=1)] = "rotation"
    """Its dataset of the angles, deg unless its units say otherwise."""
    translation: Annotated[str, Field(min_length=1)] = "translation"
    """Its dataset of the positions, mm unless its units say otherwise."""

    @model_validator(mode="after")
    def _one_source(self):
        if (self.file is None) != bool(self.layers):
            raise ValueError("needs either the layers of the cell or the file of a transmission sinogram")
        return self


class Corrections(Section):
    """What is done to a sinogram before reconstruction."""

    monitor: bool = True
    """Divide by the incident flux."""
    monitor_reference: Positive | None = None
    """Flux to which all patterns are scaled, to compare runs; null: the median of the first set."""
    air: Literal["rim", "measured", "none"] = "rim"
    """Rim: subtract the mean pattern of the outermost positions, which must lie outside the cell; measured: that of measured_air."""
    rim_points: Count = 2
    """Number of positions at either end of the translation that see only air."""
    measured_air: MeasuredAir | None = None
    """The pattern that air: measured subtracts; of no meaning otherwise."""
    transmission: bool = False
    """The monitor stands behind the sample, as in SAXS: dividing by it corrects flux and transmission at once, and of air nothing is
    subtracted but what was measured, by the same monitor."""
    dead_time_s: Annotated[float, Field(ge=0)] = 0.0
    """Time after a photon in which a pixel of the detector counts no other."""
    spots_sigma: Positive | None = None
    """Cells that single grains light up, so many standard deviations above their neighbours at other rotations, are replaced by these; 8
    is a good number, null leaves all as measured."""

    stripes_width: Annotated[int, Field(ge=3)] | None = None
    """Offsets that are the same at all angles of a set and narrower than half of so many positions (odd, such as 9) are taken out, which
    would become rings. Not for cells that turn about their own centre: their windings look the same. Null leaves all as measured."""
    wobble: bool = False
    """Find how far each projection lies off the rotation axis, by wobble and drift of sample or stage, and move it back; needs some tens of
    lines in a set."""
    absorption: Absorption | None = None
    """Divide by the transmission of each path through the cell, before air is subtracted; null for cells that absorb little."""

    @property
    def subtracts_rim(self) -> bool:
        """Whether the outermost positions count as air."""
        return self.air == "rim" and not self.transmission

    @model_validator(mode="after")
    def _transmission_needs_a_monitor(self):
        if self.monitor_reference is not None and not self.monitor:
            raise ValueError("monitor_reference scales by the monitor: make monitor true, or leave it out")
        if self.transmission and self.absorption is not None:
            raise ValueError("transmission takes out what the cell absorbs already: leave absorption out")
        if self.transmission and not self.monitor:
            raise ValueError("transmission divides by the monitor, which stands behind the sample: make monitor true")
        return self

    @model_validator(mode="after")
    def _odd_stripes(self):
        if self.stripes_width is not None and self.stripes_width % 2 == 0:
            raise ValueError(f"stripes_width is {self.stripes_width}: make it an odd number")
        return self

    @model_validator(mode="after")
    def _air_is_named(self):
        named = self.measured_air
        if self.air != "measured":
            return self
        if named is None:
            raise ValueError("air is measured, but measured_air names no pattern: give its file, or the result of an earlier run")
        if named.file is not None and self.monitor == (named.monitor is None):
            if self.monitor:
                raise ValueError("patterns are divided by the monitor, so measured_air.monitor must say the flux behind its file: give it")
            raise ValueError("monitor is false, so that measured_air is subtracted as it is: leave its monitor out")
        return self
