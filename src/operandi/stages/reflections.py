"""Crystals to the lines of their powder patterns: which reflections there are, where, and how strong.

The mean intensity of a powder over the sphere of one q, integrated over the line in q, is ∝ Σ |F|² / (V q)² for one volume of the phase
(Warren, X-ray Diffraction, 1969, chapter 4): the Lorentz factor in q is 1/q², whatever the wavelength. Polarization and solid angle
are taken out by the integration. Texture is not known: a rolled foil or a drawn film has other ratios.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.stages.crystals import Crystal, crystal_named

FWHM_INV_ANGSTROM = 0.02
"""Width of a line where nobody says another."""
_SAME_Q = 1e-5
_EXTINCT = 1e-6
_MOST = 2_000_000


@dataclass(frozen=True, slots=True)
class Lines:
    """Powder lines in increasing order of q (line,), Å⁻¹; ``hkl`` (line, 3) names each by one of its reflections.

    ``multiplicity`` counts them, and ``intensity`` is the area of the line for one volume of the phase, in electrons² / Å⁴; NaN for a
    crystal without atoms.
    """

    hkl: np.ndarray
    q: np.ndarray
    multiplicity: np.ndarray
    intensity: np.ndarray

    @property
    def names(self) -> list[str]:
        """Such as ``113``; numbers above 9 or below 0 are set apart."""
        return ["".join(map(str, hkl)) if all(0 <= i < 10 for i in hkl) else " ".join(map(str, hkl)) for hkl in self.hkl.tolist()]


def lines_of(crystal: Crystal, q_min: float, q_max: float) -> Lines:
    """The lines of a crystal in ``[q_min, q_max]``, Å⁻¹; extinct ones are left out where the atoms are known.

    Raises
    ------
    ShapeError
        If the range is empty, the cell is none, or holds more reflections than any powder pattern shows.
    """
    if not (0 <= q_min < q_max < np.inf):
        raise ShapeError(f"q must go from a lower to a higher finite value, got {q_min} to {q_max} Å⁻¹")
    hkl, q = _lattice(crystal, q_min, q_max)
    strength = _structure_factors(crystal, hkl, q) / (crystal.volume * q) ** 2
    starts = np.flatnonzero(np.diff(q, prepend=-1.0) > _SAME_Q)
    group = np.searchsorted(starts, np.arange(q.size), side="right") - 1
    intensity, there = np.bincount(group, strength, starts.size), strength > _EXTINCT * np.nanmax(strength, initial=0.0)
    count = np.bincount(group, there if crystal.atoms else None, starts.size).astype(int)
    kept = np.flatnonzero(count)
    of_line = [np.flatnonzero((group == k) & (there if crystal.atoms else True)) for k in kept]
    names = np.array([max(hkl[i].tolist(), key=_preference) for i in of_line], int).reshape(-1, 3)
    return Lines(names, q[starts[kept]], count[kept], intensity[kept])


def _preference(hkl: list[int]) -> tuple[bool, list[int]]:
    return min(hkl) >= 0, hkl


def _lattice(crystal: Crystal, q_min: float, q_max: float) -> tuple[np.ndarray, np.ndarray]:
    """Every hkl in the range, and its q, in increasing order of q; the origin is none of them."""
    reach = [int(length * q_max / (2 * np.pi)) for length in crystal.lengths]
    if np.prod([2.0 * n + 1 for n in reach]) > _MOST:
        raise ShapeError(f"{crystal.name} has a cell of {crystal.lengths} Å, too large for a powder pattern up to {q_max:g} Å⁻¹")
    axes = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    hkl = np.stack([axis.ravel() for axis in axes], axis=-1)
    q = np.linalg.norm(hkl @ crystal.reciprocal, axis=1)
    order = np.argsort(q, kind="stable")
    order = order[(q[order] >= max(q_min, _SAME_Q)) & (q[order] <= q_max)]
    return hkl[order], q[order]


def _structure_factors(crystal: Crystal, hkl: np.ndarray, q: np.ndarray) -> np.ndarray:
    """|F|² of each hkl, electrons²; NaN without atoms."""
    if not crystal.atoms:
        return np.full(q.shape, np.nan)
    squared = (q / (4 * np.pi)) ** 2
    total = np.zeros(q.shape, complex)
    for factor in dict.fromkeys(atom.form_factor for atom in crystal.atoms):
        a, b = np.array(factor[0:4]), np.array(factor[4:8])
        atomic = np.exp(-np.multiply.outer(squared, b)) @ a + factor[8]
        for atom in (one for one in crystal.atoms if one.form_factor == factor):
            wave = np.exp(2j * np.pi * (hkl @ np.array(atom.position)))
            total += atom.occupancy * atomic * np.exp(-atom.b_iso * squared) * wave
    return np.abs(total) ** 2


def pattern_of(crystal: Crystal, q: np.ndarray, fwhm_inv_angstrom: float | np.ndarray = FWHM_INV_ANGSTROM) -> np.ndarray:
    """The powder pattern (q,) of one volume of a crystal: Gaussian lines of that width, on no background.

    Raises
    ------
    ShapeError
        If the crystal has no atoms, or the width is none.
    """
    q, fwhm = np.asarray(q, float), float(np.max(fwhm_inv_angstrom))
    if not crystal.atoms:
        raise ShapeError(f"{crystal.name} has no atoms, so its intensities are not known: give a CIF with atom sites")
    if not 0 < fwhm < np.inf:
        raise ShapeError(f"a line needs a width above 0, got {fwhm} Å⁻¹")
    lines, sigma = lines_of(crystal, max(float(q.min()) - 3 * fwhm, 0.0), float(q.max()) + 3 * fwhm), fwhm / np.sqrt(8 * np.log(2))
    shapes = np.exp(-0.5 * ((q[:, None] - lines.q) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return shapes @ lines.intensity


def reflections(crystal: Crystal | str, q_min: float = 0.5, q_max: float = 6.0) -> xr.Dataset:
    """The reflections of a phase between two q.

    Parameters
    ----------
    crystal : one of `CRYSTALS` by its name or by that of a default window, or any other, such as `read_crystal` gives.
    q_min, q_max : Å⁻¹, both included.

    Returns
    -------
    Dataset over `reflection` (the hkl, as text): `q` Å⁻¹, `d` Å, `multiplicity`, and `intensity`, the area of the powder line over q for
    one volume of the phase (electrons²/Å⁴; NaN where no atoms are known). Reflections of the same q are one line.

    Raises
    ------
    ShapeError
        If there is no such crystal, or the range is empty.
    """
    known = crystal_named(crystal) if isinstance(crystal, str) else crystal
    lines = lines_of(known, q_min, q_max)
    columns = {
        "q": (lines.q, "1/angstrom"),
        "d": (2 * np.pi / lines.q, "angstrom"),
        "multiplicity": (lines.multiplicity, "1"),
        "intensity": (lines.intensity, "electron**2/angstrom**4"),
    }
    attrs = {"crystal": known.name, "source": known.source, "lengths_angstrom": list(known.lengths), "angles_deg": list(known.angles)}
    variables = {name: ("reflection", values, {"units": units}) for name, (values, units) in columns.items()}
    return xr.Dataset(variables, {"reflection": lines.names}, attrs)
