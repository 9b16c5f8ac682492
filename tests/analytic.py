"""Objects whose projections are known in closed form."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Spot:
    """A Gaussian of standard deviation ``width``, or a disc of that radius; lengths in mm from the axis."""

    x: float
    y: float
    width: float
    height: float = 1.0
    disc: bool = False

    def project(self, rotation_deg: np.ndarray, translation_mm: np.ndarray, axis_mm: float) -> np.ndarray:
        """(rotation, translation) line integrals."""
        theta = np.deg2rad(rotation_deg)[:, None]
        u = translation_mm[None] - axis_mm - self.x * np.cos(theta) - self.y * np.sin(theta)
        if self.disc:
            return 2 * self.height * np.sqrt(np.clip(self.width**2 - u**2, 0, None))
        return self.height * self.width * np.sqrt(2 * np.pi) * np.exp(-(u**2) / (2 * self.width**2))

    def image(self, grid_mm: np.ndarray) -> np.ndarray:
        """(y, x) density."""
        square = (grid_mm[None] - self.x) ** 2 + (grid_mm[:, None] - self.y) ** 2
        return self.height * (square < self.width**2 if self.disc else np.exp(-square / (2 * self.width**2)))
