"""How much each projection of a window counts, when sets have gaps, stop early, or follow no regular order.

The mean of the sets' own tomograms is right only where every set covers the whole range evenly: a set that was aborted after 40 % gives
its last projection the weight of all the angles that it never reached. Here a projection stands for half the gap to its neighbours among
all projections of the window (`angular_weights`), whichever set they are of: what one set lacks, the others fill.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from operandi.errors import ShapeError
from operandi.stages.volumes import angular_weights

_NEGLIGIBLE = 0.02


class WindowWeights(NamedTuple):
    """Weights for `partial_volume` of each set and for `combine` of the sets."""

    projections: tuple[np.ndarray, ...]
    """(rotation,) radians for each set; they sum to π, so that a set stays a tomogram of its own. Unusable projections have 0."""
    shares: np.ndarray
    """(set,) what part of the window each set stands for; they sum to 1. A set without usable projections has 0."""


def weigh_window(rotations_deg: Sequence[np.ndarray], usable: Sequence[np.ndarray]) -> WindowWeights:
    """The weights of the projections of a window, from the gaps between all of them.

    The window's volume is ``combine([partial_volume(…, weights=w) for each set's w], shares)``, and its variance likewise.

    Parameters
    ----------
    rotations_deg : (rotation,) for each set, finite where usable.
    usable : (rotation,) bool for each set, from `usable_projections`.

    Raises
    ------
    ShapeError
        If the arrays do not fit each other.
    """
    if [np.shape(r) for r in rotations_deg] != [np.shape(u) for u in usable]:
        raise ShapeError(f"angles {[np.shape(r) for r in rotations_deg]} do not fit the marks of use {[np.shape(u) for u in usable]}")
    if not rotations_deg:
        return WindowWeights((), np.zeros(0))
    angle, used = np.concatenate(rotations_deg), np.concatenate(usable)
    weights = np.zeros(angle.shape)
    weights[used] = angular_weights(angle[used])
    parts = np.split(weights, np.cumsum([len(r) for r in rotations_deg])[:-1])
    shares = np.array([part.sum() for part in parts]) / np.pi
    return WindowWeights(tuple(part / share if share else part for part, share in zip(parts, shares, strict=True)), shares)


def own_weights_serve(rotation_deg: np.ndarray, usable: np.ndarray, weights: np.ndarray) -> bool:
    """Whether the weights that a set has by itself differ from those in its window by less than 2 %.

    Then its partial volume by itself, which all its windows share, will do: so it is for complete sets that are evenly interlaced.
    """
    own = angular_weights(np.asarray(rotation_deg)[usable])
    return bool(np.allclose(own, np.asarray(weights)[usable], rtol=_NEGLIGIBLE, atol=0))
