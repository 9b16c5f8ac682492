"""One tomogram of a result, as anyone reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from .reading import coordinates, labelled, nearest, told_dstar

if TYPE_CHECKING:
    from .client import Result


class Frame:
    """One tomogram of a result; ``row`` is its row of ``steps``."""

    def __init__(self, result: Result, row: Mapping[str, Any]) -> None:
        self.result = result
        self.row = dict(row)

    @property
    def number(self) -> int:
        """Number of the frame, from 0."""
        return int(self.row["frame"])

    @property
    def q_mah(self) -> float:
        """The frame's tag: the middle of its range of charge, mAh."""
        return float(self.row["q_mah"])

    @property
    def maps(self) -> xr.Dataset:
        """Maps (phase, y, x): ``intensity``, ``sigma``."""
        return self._read("maps")

    @property
    def composites(self) -> xr.DataArray:
        """Maps in false colour (composite, y, x, rgb), 0 to 255."""
        return self._read("composites")["rgb"].assign_attrs(self._about())

    @property
    def dstar(self) -> xr.Dataset:
        """d* (y, x): ``dstar`` and its ``sigma``, nm, ``q_star``, the ``slope`` above it, and the ``reason`` where there is none."""
        return told_dstar(self._read("dstar"), self.result._node(("dstar",)))

    @property
    def regions(self) -> xr.Dataset:
        """Regions (y, x) and their mean profiles (region, q); see `Result.regions`."""
        return self._read("regions")

    @property
    def volume(self) -> xr.Dataset:
        """Volume (y, x, q)."""
        return self._read("volumes")

    @property
    def sinogram(self) -> xr.DataArray:
        """Sinogram (rotation, translation, q)."""
        return self.result.sinogram(self.number)

    def spectrum(self, y: float, x: float) -> xr.DataArray:
        """The pattern (q) of the voxel nearest to ``y``, ``x`` (mm from the rotation axis).

        Raises
        ------
        NotPublishedError
            The position lies outside of the volume.
        """
        node = self.result._node(("volumes", "intensity"))
        coords = coordinates(node)
        index = (nearest(np.asarray(coords[dim]), value, dim) for dim, value in (("y", y), ("x", x)))
        return labelled(node, self.number, *index).compute().assign_attrs(self._about())

    def _read(self, name: str) -> xr.Dataset:
        arrays = self.result._arrays(name)
        return xr.Dataset({key: labelled(node, self.number).compute() for key, node in arrays.items()}, attrs=self._about())

    def _about(self) -> dict[str, Any]:
        return {**self.result._about(), "frame": self.number, "q_mah": self.q_mah}

    def __repr__(self) -> str:
        return f"<operandi Frame {self.number} of {self.result.key}: {self.q_mah:.2f} mAh, {self.row['phase']}, {self.row['quality']}>"
