"""A volume that follows the measurement: projections are added as they come, and leave when the window slides.

Filtered back projection is a sum over projections, so that adding or removing some costs what these cost. That needs weights that
stay: each projection comes with the angle for which it stands in the finished frame, known from the plan (`angular_weights` of the
planned angles). Until all have come, the volume is that part of the finished one; divided by ``share`` it is on the final scale.

What is committed is made by `partial_volume`; `GrowingVolume.settle` brings a growing one to the same bits.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from operandi.errors import ShapeError
from operandi.kernels import backprojection as kernel
from operandi.stages.filters import filter_taps, tap_lists
from operandi.stages.volumes import Chain, Geometry, aligned, count_finite, filter_sources, real_array

_PASSES = 128
"""After so many additions and removals each slab of channels has been computed anew: rounding errors of float32 then can't add up."""


_SAME_ANGLE_DEG = 1e-9
_NONE = np.empty(0, np.int64)


@dataclass(slots=True)
class GrowingVolume:
    """Volume (y, x, q) float32 of the projections that are in the window; holds these, too, and nothing else of size.

    Every change is one pass over the volume, of up to ``kernel.BLOCK`` projections at the price of little more than one. Each pass rounds
    once to float32; after ``_PASSES`` passes each slab of channels has been computed anew from the projections, one slab at a time.
    """

    geometry: Geometry
    capacity: int
    """The most projections that a window holds."""
    n_channels: int
    filter: str = "ramp"
    volume: np.ndarray = field(init=False)
    """(y, x, q), in the sinogram's unit per mm: the sum over the projections held, each times its weight."""
    _slab: np.ndarray = field(init=False)
    """Room for a few filtered projections."""
    _values: np.ndarray = field(init=False)
    _rotation: np.ndarray = field(init=False)
    _weights: np.ndarray = field(init=False)
    _held: np.ndarray = field(init=False)
    _passes: int = field(init=False, default=0)
    _refreshed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.capacity < 1 or self.n_channels < 1:
            raise ShapeError(f"a growing volume needs room for projections and channels, got {self.capacity} and {self.n_channels}")
        n = self.geometry.n_samples
        self._taps()
        self._slab = aligned((1, kernel.BLOCK, n + 2, _apart(self.n_channels)))
        self.volume = np.zeros((n, n, self.n_channels), np.float32)
        self._values = np.zeros((self.capacity, n, self.n_channels), np.float32)
        self._rotation, self._weights = np.zeros(self.capacity), np.zeros(self.capacity)
        self._held = np.zeros(self.capacity, bool)

    @property
    def share(self) -> float:
        """What part of the half turn the projections held stand for: 1 for a finished frame."""
        return float(self._weights[self._held].sum() / np.pi)

    def add(self, projections: np.ndarray, rotation_deg: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Add projections; returns the place (projection,) of each, by which `slide` and `remove` know them.

        Parameters
        ----------
        projections : (projection, translation, q), finite: `fill_gaps` first where cells are missing.
        rotation_deg, weights : (projection,); weights in radians, those of the finished frame.

        Raises
        ------
        ShapeError
            If the arrays do not fit, are not finite, or the window has no room for them.
        """
        return self.slide(np.empty(0, np.int64), projections, rotation_deg, weights)

    def remove(self, places: np.ndarray) -> None:
        """Take projections out again.

        Raises
        ------
        ShapeError
            If there is none at a place.
        """
        n = self.geometry.n_samples
        self.slide(places, np.empty((0, n, self.n_channels), np.float32), np.empty(0), np.empty(0))

    def slide(self, places: np.ndarray, projections: np.ndarray, rotation_deg: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Remove the projections at ``places`` and add others, as `remove` and `add` but in a single pass."""
        leaving = self._checked_places(places)
        values, rotation, angular = self._checked(projections, rotation_deg, weights)
        left = np.flatnonzero(~self._held)
        if values.shape[0] > left.size + leaving.size:
            room = left.size + leaving.size
            raise ShapeError(f"the window has room for {room} of {len(values)} projections: remove some, or give a larger capacity")
        self._accumulate(*self._changes(leaving, values, rotation, angular))
        self._held[leaving] = False
        new = np.flatnonzero(~self._held)[: len(values)]
        self._values[new], self._rotation[new], self._weights[new] = values, rotation, angular
        self._held[new] = True
        self._refresh()
        return new

    def settle(self) -> None:
        """Compute the volume anew: then it is, bit by bit, that of `partial_volume` with the same weights."""
        self._recompute(range(-(-self.n_channels // kernel.CHANNELS)))

    def _checked_places(self, places: np.ndarray) -> np.ndarray:
        chosen = np.asarray(places, np.int64).ravel()
        known = chosen[(chosen >= 0) & (chosen < self.capacity)]
        if known.size < chosen.size or not self._held[known].all() or np.unique(known).size < known.size:
            raise ShapeError(f"no projections to remove at the places {chosen.tolist()}: give places that add returned, each once")
        return chosen

    def _checked(self, projections, rotation_deg, weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = np.ascontiguousarray(real_array(projections, np.float32, "projections"))
        rotation, angular = real_array(rotation_deg, float, "rotations"), real_array(weights, float, "weights")
        expected = (rotation.size, self.geometry.n_samples, self.n_channels)
        if values.shape != expected or angular.shape != rotation.shape or rotation.ndim != 1:
            raise ShapeError(f"projections of shape {values.shape}, {angular.size} weights and rotations do not fit: expected {expected}")
        finite = (count_finite(values) == self.n_channels).all(axis=1) if values.size else np.ones(0, bool)
        bad = np.flatnonzero(~(finite & np.isfinite(rotation) & np.isfinite(angular)))
        if bad.size:
            raise ShapeError(f"projections {bad.tolist()} are not finite: fill single cells (fill_gaps), or leave the projection out")
        return values, rotation, angular

    def _changes(
        self, leaving: np.ndarray, values: np.ndarray, rotation: np.ndarray, weights: np.ndarray
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray, np.ndarray]:
        """Projections to add with their angles and weights; one that takes the place of another at its angle comes as their difference."""
        same = np.abs(self._rotation[leaving][:, None] - rotation) <= _SAME_ANGLE_DEG
        before, after = (np.array(part, np.int64) for part in zip(*_pairs(same), strict=True)) if same.any() else (_NONE, _NONE)
        gone, new = np.delete(np.arange(leaving.size), before), np.delete(np.arange(rotation.size), after)
        old = self._values[leaving[before]] * self._weights[leaving[before], None, None].astype(np.float32)
        changed = values[after] * weights[after, None, None].astype(np.float32) - old
        sources = [(self._values, leaving[gone]), (values, new), (changed, np.arange(len(changed)))]
        angles = np.concatenate([self._rotation[leaving[gone]], rotation[new], rotation[after]])
        return sources, angles, np.concatenate([-self._weights[leaving[gone]], weights[new], np.ones(len(changed))])

    def _accumulate(self, sources: list[tuple[np.ndarray, np.ndarray]], rotation: np.ndarray, weights: np.ndarray) -> None:
        if len(rotation) == 0:
            return
        if len(rotation) > kernel.BLOCK:
            chain = Chain.of(self.geometry, rotation, weights, self.filter)
            for first in range(0, self.n_channels, chain.width):
                chain.slab_into(sources, first, self.volume, self._channels(first, chain.width), add=True)
        else:
            self._add_few(sources, rotation, weights.astype(np.float32))
        self._passes += 1

    def _channels(self, first: int, width: int) -> tuple[int, int]:
        return first, min(width, self.n_channels - first)

    def _add_few(self, sources: list[tuple[np.ndarray, np.ndarray]], rotation: np.ndarray, weights: np.ndarray) -> None:
        n, angle, slab = self.geometry.n_samples, np.deg2rad(rotation), self._slab[:, : len(rotation)]
        filter_sources(sources, 0, self._taps(), weights, slab)
        kernel.add_projections(slab, *kernel.beams(np.cos(angle), np.sin(angle), self.geometry.centre, n, n), self.volume)

    def _taps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return tap_lists(filter_taps(self.filter, self.geometry.n_samples, self.geometry.pitch_mm))

    def _refresh(self) -> None:
        """Compute those slabs anew whose turn it is."""
        slabs = -(-self.n_channels // kernel.CHANNELS)
        before, after = (passes * slabs // _PASSES for passes in (self._refreshed, self._passes))
        self._refreshed = self._passes
        self._recompute([turn % slabs for turn in range(before, after)])

    def _recompute(self, slabs: Iterable[int]) -> None:
        held = np.flatnonzero(self._held)
        order = held[np.argsort(self._rotation[held], kind="stable")]
        chain = Chain.of(self.geometry, self._rotation[order], self._weights[order], self.filter, widest=kernel.CHANNELS)
        for slab in slabs:
            first = slab * kernel.CHANNELS
            chain.slab_into([(self._values, order)], first, self.volume, self._channels(first, chain.width), add=False)


def _apart(n_channels: int) -> int:
    """Channels of a slab of all, such that the samples of a projection do not compete for the same places of a cache."""
    width = -(-n_channels // kernel.CHANNELS) * kernel.CHANNELS
    return width + kernel.CHANNELS if width % 1024 == 0 else width


def _pairs(same: np.ndarray) -> list[tuple[int, int]]:
    """Row and column of true cells of which no two share either."""
    pairs, taken = [], set()
    for row, column in np.argwhere(same).tolist():
        if column not in taken and (not pairs or pairs[-1][0] != row):
            pairs.append((row, column))
            taken.add(column)
    return pairs
