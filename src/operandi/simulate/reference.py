"""What each phase scatters: intensity over q from 0.01 to 6 Å⁻¹, for one millimetre of the solid phase.

Positions follow from the phases' unit cells (d = 2π/q); strengths are plausible relative powder intensities per volume.
Weak lines that fall into another phase's window are kept on purpose, and NMC 113 lies where crystallography puts it: lithiated
(a 2.868, c 14.22 Å) on the very edge of the paper's window 4.57 – 4.62 Å⁻¹.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from operandi.simulate.phantom import SPECIES

TWO_PI = 2 * np.pi
TABLE_S1: dict[tuple[str, str], dict[str, float | None]] = {
    ("fresh", "charged"): {"normal": 11.8, "bend": 10.8, "agglomerate": 10.9},
    ("fresh", "discharged"): {"normal": None, "bend": 10.8, "agglomerate": 11.6},
    ("aged", "charged"): {"normal": 14.1, "bend": 10.9, "agglomerate": 11.1},
    ("aged", "discharged"): {"normal": 12.9, "bend": 10.9, "agglomerate": 11.6},
}
"""d* in nm of each region of a cell in each state (10.1039/D4EE00590B, Table S1); None where silicon follows one slope."""
NANOSTRUCTURED, KNEE = 0.4, 16.0
"""Amplitude of silicon's power law at 1 Å⁻¹ where small angles are looked at: there it outshines graphite, as in the paper's maps of
intensity; and the sharpness of its knee, which takes about ± 2 / KNEE in ln q, as a spread of sizes makes it."""
BRIGHTNESS = 2.5
"""Counts of a pixel in the middle of the detector for one unit of the strengths below, at the nominal monitor."""


@dataclass(frozen=True, slots=True)
class Peak:
    """A pseudo-Voigt line: position and full width at half maximum in Å⁻¹, height, and Lorentzian share."""

    q: float
    height: float
    width: float = 0.014
    lorentzian: float = 0.05


@dataclass(frozen=True, slots=True)
class Scatterer:
    """Lines on a smooth background; ``power`` (amplitude at 1 Å⁻¹, exponent) and ``q_star`` describe small angles.

    ``q_star`` is where the power law breaks (None: one slope over the whole range).
    """

    peaks: tuple[Peak, ...]
    background: float
    power: tuple[float, float] = (2e-4, 4.0)
    q_star: float | None = None


def cubic(a: float, strengths: dict[tuple[int, int, int], float], width: float = 0.014) -> tuple[Peak, ...]:
    """Lines of a cubic cell of edge ``a`` (Å)."""
    return tuple(Peak(TWO_PI * np.sqrt(h * h + k * k + m * m) / a, s, width) for (h, k, m), s in strengths.items())


def hexagonal(a: float, c: float, strengths: dict[tuple[int, int, int], float], width: float = 0.014) -> tuple[Peak, ...]:
    """Lines of a hexagonal cell (Å)."""
    return tuple(
        Peak(TWO_PI * np.sqrt(4 / 3 * (h * h + h * k + k * k) / a**2 + (m / c) ** 2), s, width) for (h, k, m), s in strengths.items()
    )


def _graphite() -> Scatterer:
    lines = {(0, 0, 2): 100.0, (1, 0, 0): 4, (1, 0, 1): 14, (0, 0, 4): 7, (1, 1, 0): 4, (1, 1, 2): 5}
    return Scatterer(hexagonal(2.461, 6.711, lines, 0.016), 1.5)


def _intercalated(q_first: float, a: float, strength: float) -> Scatterer:
    second, in_plane = 2 * q_first, TWO_PI * 2 / a
    lines = (Peak(q_first, strength, 0.016), Peak(second, 7, 0.016), Peak(in_plane, 2.5), Peak(in_plane / np.sqrt(3), 4))
    return Scatterer(lines, 1.5)


def _oxide(a: float, c: float) -> Scatterer:
    lines = {
        (0, 0, 3): 90.0, (1, 0, 1): 40, (0, 0, 6): 2, (1, 0, 2): 3, (1, 0, 4): 80, (1, 0, 5): 10, (1, 0, 7): 12, (1, 0, 8): 16,
        (1, 1, 0): 60, (1, 1, 3): 60, (0, 2, 1): 3, (2, 0, 4): 8,
    }  # fmt: skip
    return Scatterer(hexagonal(a, c, lines, 0.012), 3.5)


def _aluminium() -> Scatterer:
    return Scatterer(cubic(4.0495, {(1, 1, 1): 110, (2, 0, 0): 50, (2, 2, 0): 28, (3, 1, 1): 24, (2, 2, 2): 7}), 2.0)


def _copper() -> Scatterer:
    return Scatterer(cubic(3.615, {(1, 1, 1): 160, (2, 0, 0): 75, (2, 2, 0): 130, (3, 1, 1): 40}), 5.0)


def _casing() -> Scatterer:
    ferrite = cubic(2.866, {(1, 1, 0): 120, (2, 0, 0): 12, (2, 1, 1): 25})
    austenite = cubic(3.594, {(1, 1, 1): 10, (2, 0, 0): 5, (2, 2, 0): 2.5, (3, 1, 1): 4})
    nickel = cubic(3.5238, {(1, 1, 1): 12, (2, 0, 0): 5})
    return Scatterer((*ferrite, *austenite, *nickel, Peak(5.065, 90, 0.012)), 5.0)


def _polymer() -> Scatterer:
    lines = (Peak(1.527, 24, 0.024), Peak(1.696, 1.2, 0.024), Peak(2.113, 0.6, 0.03), Peak(2.54, 0.8, 0.03))
    return Scatterer((*lines, Peak(1.38, 3, 0.35, 0.0)), 0.8)


def _silicon(exponent: float, d_star_nm: float | None) -> Scatterer:
    lines = (Peak(2.004, 2.0, 0.18, 0.0), Peak(3.272, 1.2, 0.22, 0.0), Peak(3.837, 0.8, 0.22, 0.0))
    q_star = None if d_star_nm is None else TWO_PI / (10 * d_star_nm)
    return Scatterer(lines, 1.2, (0.02, exponent), q_star)


def scatterers() -> dict[str, Scatterer]:
    """Everything that scatters, by the names of ``SPECIES``; d* of silicon as in the fresh cell of 10.1039/D4EE00590B, Table S1."""
    return {
        "graphite": _graphite(),
        "LiC12": _intercalated(1.779, 4.2878 / np.sqrt(3), 110),
        "LiC6": _intercalated(1.695, 4.305 / np.sqrt(3), 120),
        "NMC lithiated": _oxide(2.868, 14.22),
        "NMC delithiated": _oxide(2.823, 14.44),
        "aluminium": _aluminium(),
        "copper": _copper(),
        "casing": _casing(),
        "separator": _polymer(),
        "silicon discharged": _silicon(3.4, None),
        "silicon normal": _silicon(3.4, 11.8),
        "silicon bend": _silicon(3.4, 10.8),
        "silicon agglomerate": _silicon(3.4, 10.9),
        "silicon agglomerate discharged": _silicon(3.4, 11.6),
    }


_BELOW = 1.2
"""Exponent below q*."""


def nanostructured(dstar_nm: Mapping[str, float | None]) -> dict[str, Scatterer]:
    """`scatterers` with silicon as small angles see it, of the given d* in nm for each of ``SILICON_STATES`` (None: one slope)."""
    silicon = {name: replace(_silicon(3.4, d), power=(NANOSTRUCTURED, 3.4)) for name, d in dstar_nm.items()}
    return scatterers() | silicon


def silicon_of(age: str, state: str) -> dict[str, Scatterer]:
    """Everything that scatters in a ``fresh`` or ``aged`` cell that is ``charged`` or ``discharged``, with the d* of `TABLE_S1`.

    Where a cell is full or empty each region holds silicon in one state only: "silicon normal" or "silicon discharged", "silicon bend",
    "silicon agglomerate" or "silicon agglomerate discharged".
    """
    regions = TABLE_S1[age, state]
    names = {"silicon normal": "normal", "silicon discharged": "normal", "silicon bend": "bend"}
    names |= {"silicon agglomerate": "agglomerate", "silicon agglomerate discharged": "agglomerate"}
    return nanostructured({species: regions[region] for species, region in names.items()})


def profile(scatterer: Scatterer, q: np.ndarray) -> np.ndarray:
    """Intensity of a scatterer at ``q`` (any shape, Å⁻¹, above 0)."""
    q = np.maximum(np.asarray(q, float), 1e-4)
    total = scatterer.background * (0.35 + 0.65 * np.exp(-0.5 * (q / 2.2) ** 2))
    total += _small_angles(scatterer, q)
    for peak in scatterer.peaks:
        distance = (q - peak.q) / (peak.width / 2)
        near = np.abs(distance) < 40
        shape = peak.lorentzian / (1 + distance[near] ** 2) + (1 - peak.lorentzian) * np.exp(-np.log(2) * distance[near] ** 2)
        total[near] += peak.height * shape
    return total


def _small_angles(scatterer: Scatterer, q: np.ndarray) -> np.ndarray:
    amplitude, exponent = scatterer.power
    if scatterer.q_star is None:
        return amplitude * q**-exponent
    relative = q / scatterer.q_star
    knee = (1 + relative**-KNEE) ** ((_BELOW - exponent) / KNEE)
    return amplitude * q**-exponent * knee


def air(q: np.ndarray) -> np.ndarray:
    """Scattering of the air between the windows of the beamline, in the same unit."""
    q = np.maximum(np.asarray(q, float), 1e-4)
    return 2.0 * np.exp(-q / 1.1) + 0.6 + 1e-4 * q**-3.0


def profiles(q: np.ndarray, known: Mapping[str, Scatterer] | None = None) -> np.ndarray:
    """Counts of a pixel (pixel, species + 1) at ``q`` (pixel,) for one millimetre; the last column is the air's."""
    known = scatterers() if known is None else known
    return BRIGHTNESS * np.stack([*(profile(known[name], q) for name in SPECIES), air(q)], axis=-1)
