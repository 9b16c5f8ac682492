"""What the charge makes of each point of a cell: compiled loops over its hosts.

One module, for numba's cache does not notice when a constant or function of another module changes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

EMPTY, ANODE, CATHODE, ALUMINIUM, COPPER, CASING, POLYMER = range(7)
NORMAL, BEND, AGGLOMERATE = range(3)
N_SPECIES = 14

_GRAPHITE_GONE = 0.55
_LIC6_BEGINS = 0.52
_CARBON, _SILICON, _OXIDE, _FILLED = 0.60, 0.10, 0.65, 0.90
_CARBON_IN_AGGLOMERATE, _SILICON_IN_AGGLOMERATE = 0.30, 0.40


@njit(cache=True, nogil=True)
def fractions(host: int, region: int, lag: float, state: float, out: np.ndarray) -> None:
    """Fill ``out`` (species,) with the volume fractions of one point at ``state`` of charge (0 empty … 1 full)."""
    out[:] = 0.0
    s = min(max(state, 0.0), 1.0)
    s += 2 * lag * s * (1 - s)
    if host == ANODE:
        carbon, silicon = _CARBON, _SILICON
        if region == AGGLOMERATE:
            carbon, silicon = _CARBON_IN_AGGLOMERATE, _SILICON_IN_AGGLOMERATE
        graphite = max(0.0, 1 - s / _GRAPHITE_GONE)
        full = max(0.0, (s - _LIC6_BEGINS) / (1 - _LIC6_BEGINS))
        out[0] = carbon * graphite
        out[2] = carbon * full
        out[1] = carbon - out[0] - out[2]
        if region == BEND:
            out[11] = silicon
        elif region == AGGLOMERATE:
            out[12], out[13] = silicon * s, silicon * (1 - s)
        else:
            out[9], out[10] = silicon * (1 - s), silicon * s
    elif host == CATHODE:
        out[3], out[4] = _OXIDE * (1 - s), _OXIDE * s
    elif host == ALUMINIUM:
        out[5] = 1.0
    elif host == COPPER:
        out[6] = 1.0
    elif host == CASING:
        out[7] = 1.0
    elif host == POLYMER:
        out[8] = _FILLED


@njit(cache=True, nogil=True)
def map_species(host: np.ndarray, region: np.ndarray, lag: np.ndarray, state: float) -> np.ndarray:
    """Fractions (species, y, x) of a whole cell."""
    rows, columns = host.shape
    maps = np.zeros((N_SPECIES, rows, columns), np.float32)
    point = np.zeros(N_SPECIES)
    for i in range(rows):
        for j in range(columns):
            if host[i, j] != EMPTY:
                fractions(host[i, j], region[i, j], lag[i, j], state, point)
                for k in range(N_SPECIES):
                    maps[k, i, j] = point[k]
    return maps


@njit(cache=True, nogil=True)
def project(host, region, lag, pitch, cosine, sine, first, width, states, out):
    """Add to ``out`` (translation, species) the path lengths of one line, each translation at its own state of charge."""
    columns_n, species_n = out.shape[0], N_SPECIES
    n = host.shape[0]
    half = (n - 1) / 2
    footprint = pitch * (abs(cosine) + abs(sine)) / width
    point = np.zeros(species_n)
    for i in range(n):
        y = (i - half) * pitch
        for j in range(n):
            if host[i, j] == EMPTY:
                continue
            centre = ((j - half) * pitch * cosine + y * sine - first) / width
            low = centre - footprint / 2 + 0.5
            column = int(np.floor(low))
            share = min(1.0, (column + 1 - low) / footprint)
            for step in range(2):
                weight = share if step == 0 else 1 - share
                at = column + step
                if weight <= 0 or at < 0 or at >= columns_n:
                    continue
                fractions(host[i, j], region[i, j], lag[i, j], states[at], point)
                for k in range(species_n):
                    out[at, k] += weight * point[k]
    for at in range(columns_n):
        for k in range(species_n):
            out[at, k] *= pitch * pitch / width
