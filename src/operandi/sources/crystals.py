"""Crystals from CIFs, read by gemmi (10.21105/joss.04200)."""

import math
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from operandi.errors import AssetError, MissingBackendError
from operandi.stages.crystals import Atom, Crystal

_B_ISO = 0.5
"""Å², of atoms for which the CIF tells no displacement."""


def read_crystal(path: str | PathLike[str], *, name: str | None = None, maps: tuple[str, ...] = ()) -> Crystal:
    """The crystal of a CIF: its first block with a unit cell.

    Scattering factors are those of neutral atoms (International Tables C, 6.1.1.4); ions count as neutral. Anisotropic displacements
    count by their mean.

    Parameters
    ----------
    name : in place of the file's name.
    maps : names of the windows that are meant to show it.

    Raises
    ------
    AssetError
        If the file cannot be read, is no CIF, or holds no unit cell. Where it has a cell but no usable atom sites, the crystal has no
        atoms: positions of lines are known, their intensities not.
    MissingBackendError
        If gemmi is not installed.
    """
    path = Path(path)
    structure = _structure(path)
    cell = structure.cell
    lengths, angles = (cell.a, cell.b, cell.c), (cell.alpha, cell.beta, cell.gamma)
    crystal = Crystal(name or path.stem, lengths, angles, _atoms(structure), f"{path.name}, {structure.name}", maps)
    return crystal if all(math.isfinite(x) for atom in crystal.atoms for x in atom.position) else replace(crystal, atoms=())


def _structure(path: Path) -> Any:
    try:
        from gemmi import cif, make_small_structure_from_block
    except ImportError as error:
        raise MissingBackendError("CIFs are read by gemmi, which is not installed: pip install 'operandi[crystals]'") from error
    try:
        document = cif.read_string(path.read_bytes().decode("utf-8", "replace"))
    except OSError as error:
        raise AssetError(f"{path}: {error.strerror or error}; give the path of a CIF") from error
    except (ValueError, RuntimeError) as error:
        raise AssetError(f"{path} is not read as a CIF ({error}); export the structure again") from error
    for block in document:
        try:
            structure = make_small_structure_from_block(block)
        except (ValueError, RuntimeError) as error:
            raise AssetError(f"{path}: block {block.name!r} describes no structure ({error}); export it again") from error
        cell = structure.cell
        if min(cell.a, cell.b, cell.c) > 0 and cell.volume > 1e-3 and (cell.a, cell.b, cell.c) != (1, 1, 1):
            return structure
    raise AssetError(f"{path} holds no unit cell; give a CIF with _cell_length_a and so on")


def _atoms(structure: Any) -> tuple[Atom, ...]:
    """Every atom of the unit cell; none if a site's element is not known."""
    atoms = []
    for site in structure.get_all_unit_cell_sites():
        coefficients = site.element.it92
        if coefficients is None or site.occ <= 0:
            return ()
        factor = (*coefficients.a, *coefficients.b, coefficients.c)
        at = site.fract
        atoms.append(Atom(factor, (at.x % 1, at.y % 1, at.z % 1), float(site.occ), _displacement(site)))
    return tuple(atoms)


def _displacement(site: Any) -> float:
    """Isotropic B, Å²."""
    mean = site.aniso.trace() / 3 if site.aniso.nonzero() else site.u_iso
    return 8 * math.pi**2 * mean if 0 < mean < 1 else _B_ISO
