"""Rolls whose winding is known at every point: eccentric, oval, bent, with an agglomerate. Pixels; positions (x, y)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xarray as xr

PIXEL_MM = 0.02


@dataclass(frozen=True)
class Roll:
    """Winding k lies where ``count`` is from k to k + 1, minus the turn; its layers are an electrode and a thinner, darker one."""

    n: int = 400
    pitch: float = 20.0
    inner: float = 40.0
    turns: float = 6.0
    x: float = 208.0
    y: float = 190.0
    oval: float = 0.06
    tilt: float = 0.5
    bend: tuple[float, float, float] = (0.9, 0.25, 9.0)
    """Azimuth in the direction of winding (rad), width (rad), depth (px) towards the centre; strongest in the middle windings."""
    hand: int = 1
    electrode: tuple[float, float] = (0.3, 0.65)
    agglomerate: tuple[float, float, float] | None = None
    """x, y, radius."""

    def share(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Windings from the inner end, at positions; jumps by one where the azimuth is 0."""
        radius, azimuth = np.hypot(x - self.x, y - self.y), self.azimuth(x, y)
        even = radius * (1 + self.oval * np.cos(2 * (azimuth - self.tilt)))
        off = (azimuth - self.bend[0] + np.pi) % (2 * np.pi) - np.pi
        middle = (even - self.inner) / (self.turns * self.pitch)
        kink = self.bend[2] * np.exp(-0.5 * (off / self.bend[1]) ** 2) * np.exp(-0.5 * ((middle - 0.55) / 0.25) ** 2)
        return (even + kink - self.inner) / self.pitch - azimuth / (2 * np.pi)

    def azimuth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (self.hand * np.arctan2(y - self.y, x - self.x)) % (2 * np.pi)

    def fine(self, times: int = 3) -> tuple[np.ndarray, np.ndarray]:
        axis = (np.arange(self.n * times) + 0.5) / times - 0.5
        x, y = np.meshgrid(axis, axis)
        return x, y

    def coarse(self, values: np.ndarray, times: int = 3) -> np.ndarray:
        return values.reshape(self.n, times, self.n, times).mean(axis=(1, 3))

    def map(self, noise: float = 0.0, seed: int = 0) -> xr.DataArray:
        """Attenuation: electrode 1, another layer 0.6, casing 4."""
        x, y, share = _drawn(self)
        depth = share % 1
        values = np.where((depth > self.electrode[0]) & (depth < self.electrode[1]), 1.0, 0.0) + 0.6 * ((depth > 0.75) & (depth < 0.9))
        values = np.where((share < 0) | (share > self.turns), 0, values)
        radius = np.hypot(x - (self.n - 1) / 2, y - (self.n - 1) / 2) / self.n
        values = np.where((radius > 0.47) & (radius < 0.49), 4.0, values)
        return as_map(self.coarse(values) + noise * np.random.default_rng(seed).standard_normal((self.n, self.n)))

    def phases(self, noise: float = 0.0, seed: int = 0) -> tuple[xr.DataArray, xr.DataArray]:
        """Silicon (0.2 of the electrode, 0.9 in the agglomerate) and graphite (the rest of it)."""
        x, y, share = _drawn(self)
        electrode = (share > 0) & (share < self.turns) & (share % 1 > self.electrode[0]) & (share % 1 < self.electrode[1])
        within = np.zeros(x.shape, bool)
        if self.agglomerate is not None:
            within = np.hypot(x - self.agglomerate[0], y - self.agglomerate[1]) < self.agglomerate[2]
        silicon = np.where(electrode, np.where(within, 0.9, 0.2), 0.0)
        random = np.random.default_rng(seed)
        shape = (self.n, self.n)
        return tuple(
            as_map(self.coarse(v) + noise * random.standard_normal(shape)) for v in (silicon, np.where(electrode, 1 - silicon, 0.0))
        )  # type: ignore[return-value]

    def curve(self, level: float, per_turn: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The spiral at a depth of the winding: theta from azimuth 0 of the innermost, x, y, arc; by bisection."""
        theta = np.linspace(0, 2 * np.pi * self.turns, int(per_turn * self.turns) + 1)[:-1] + 1e-6
        azimuth = self.hand * theta
        low, high = np.ones(theta.size), np.full(theta.size, float(self.n))
        for _ in range(60):
            middle = (low + high) / 2
            share = self.share(self.x + middle * np.cos(azimuth), self.y + middle * np.sin(azimuth))
            beyond = share + (theta % (2 * np.pi)) / (2 * np.pi) - theta / (2 * np.pi) > level
            low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        x, y = self.x + low * np.cos(azimuth), self.y + low * np.sin(azimuth)
        return theta, x, y, np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])


@lru_cache(maxsize=8)
def _drawn(roll: Roll) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = roll.fine()
    return x, y, roll.share(x, y)


def as_map(values: np.ndarray, pixel_mm: float = PIXEL_MM) -> xr.DataArray:
    axes = {name: (np.arange(n) - (n - 1) / 2) * pixel_mm for name, n in zip("yx", values.shape, strict=True)}
    return xr.DataArray(values, dims=("y", "x"), coords=axes)
