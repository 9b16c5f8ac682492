"""Crystals: unit cells with the atoms in them, and the phases that a cell of graphite, NMC622 and silicon is made of."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from operandi.errors import ShapeError

FormFactor = tuple[float, ...]
"""a1 … a4, b1 … b4, c of an element's scattering factor, f = Σ a exp(-b (sin θ / λ)²) + c."""

# International Tables for Crystallography, volume C (1992), table 6.1.1.4; neutral atoms.
FORM_FACTORS: dict[str, FormFactor] = {
    "H": (0.493002, 0.322912, 0.140191, 0.04081, 10.5109, 26.1257, 3.14236, 57.7997, 0.003038),
    "Li": (1.1282, 0.7508, 0.6175, 0.4653, 3.9546, 1.0524, 85.3905, 168.261, 0.0377),
    "C": (2.31, 1.02, 1.5886, 0.865, 20.8439, 10.2075, 0.5687, 51.6512, 0.2156),
    "O": (3.0485, 2.2868, 1.5463, 0.867, 13.2771, 5.7011, 0.3239, 32.9089, 0.2508),
    "Al": (6.4202, 1.9002, 1.5936, 1.9646, 3.0387, 0.7426, 31.5472, 85.0886, 1.1151),
    "Si": (6.2915, 3.0353, 1.9891, 1.541, 2.4386, 32.3337, 0.6785, 81.6937, 1.1407),
    "Mn": (11.2819, 7.3573, 3.0193, 2.2441, 5.3409, 0.3432, 17.8674, 83.7543, 1.0896),
    "Fe": (11.7695, 7.3573, 3.5222, 2.3045, 4.7611, 0.3072, 15.3535, 76.8805, 1.0369),
    "Co": (12.2841, 7.3409, 4.0034, 2.3488, 4.2791, 0.2784, 13.5359, 71.1692, 1.0118),
    "Ni": (12.8376, 7.292, 4.4438, 2.38, 3.8785, 0.2565, 12.1763, 66.3421, 1.0341),
    "Cu": (13.338, 7.1676, 5.6158, 1.6735, 3.5828, 0.247, 11.3966, 64.8126, 1.191),
}


@dataclass(frozen=True, slots=True)
class Atom:
    """One site of a unit cell: fractional coordinates, share of cells in which it is there, isotropic B in Å²."""

    form_factor: FormFactor
    position: tuple[float, float, float]
    occupancy: float = 1.0
    b_iso: float = 0.5


@dataclass(frozen=True, slots=True)
class Crystal:
    """A phase: lattice constants (Å) and angles (degrees), and every atom of the cell.

    Without ``atoms`` the positions of its lines are known, but no intensity. ``maps`` names the default windows that are meant to show it,
    and ``also`` other names of its lines: LiC6's and LiC12's 300 are the 110 of graphite's smaller cell.
    """

    name: str
    lengths: tuple[float, float, float]
    angles: tuple[float, float, float] = (90.0, 90.0, 90.0)
    atoms: tuple[Atom, ...] = ()
    source: str = ""
    maps: tuple[str, ...] = ()
    also: tuple[tuple[str, str], ...] = ()

    @property
    def reciprocal(self) -> np.ndarray:
        """(3, 3) the reciprocal lattice vectors as rows, with 2π, Å⁻¹.

        Raises
        ------
        ShapeError
            If lengths and angles make no cell.
        """
        a, b, c = self.lengths
        angles = np.deg2rad(self.angles)
        (cos_a, cos_b, cos_g), sin_g = np.cos(angles), np.sin(angles[2])
        if not (np.isfinite([*self.lengths, *self.angles]).all() and min(a, b, c) > 0 and sin_g > 1e-6):
            raise ShapeError(f"{self.name}: lengths {self.lengths} Å and angles {self.angles}° are no unit cell")
        along = (cos_a - cos_b * cos_g) / sin_g
        height = 1 - cos_b**2 - along**2
        if height <= 1e-9:
            raise ShapeError(f"{self.name}: lengths {self.lengths} Å and angles {self.angles}° are no unit cell")
        direct = np.array([[a, 0, 0], [b * cos_g, b * sin_g, 0], [c * cos_b, c * along, c * np.sqrt(height)]])
        return 2 * np.pi * np.linalg.inv(direct).T

    @property
    def volume(self) -> float:
        """Of the unit cell, Å³."""
        return float((2 * np.pi) ** 3 / np.linalg.det(self.reciprocal))


FACES = ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))
BODY = ((0, 0, 0), (0.5, 0.5, 0.5))
RHOMBOHEDRAL = ((0, 0, 0), (2 / 3, 1 / 3, 1 / 3), (1 / 3, 2 / 3, 2 / 3))
_HEXAGONAL = (90.0, 90.0, 120.0)


def _sites(element: str, positions, lattice=((0, 0, 0),), *, b_iso: float = 0.5, occupancy: float = 1.0) -> tuple[Atom, ...]:
    """The atoms of one element at ``positions``, repeated by the translations of a centred lattice."""
    places = [tuple(float(x) for x in (np.array(at) + shift) % 1) for at, shift in product(positions, lattice)]
    return tuple(Atom(FORM_FACTORS[element], (x, y, z), occupancy, b_iso) for x, y, z in places)


def _cubic(name: str, a: float, element: str, lattice, source: str, *, basis=((0, 0, 0),), **more) -> Crystal:
    return Crystal(name, (a, a, a), (90.0, 90.0, 90.0), _sites(element, basis, lattice), source, **more)


def _oxide(name: str, a: float, c: float, lithium: float, oxygen: float, maps: tuple[str, ...]) -> Crystal:
    """LiNi0.6Mn0.2Co0.2O2, R-3m in hexagonal axes: metal on 3a, lithium on 3b, oxygen on 6c at z."""
    metals = (("Ni", 0.6), ("Mn", 0.2), ("Co", 0.2))
    atoms = [atom for metal, share in metals for atom in _sites(metal, [(0, 0, 0)], RHOMBOHEDRAL, occupancy=share)]
    atoms += _sites("Li", [(0, 0, 0.5)], RHOMBOHEDRAL, occupancy=lithium, b_iso=1.0)
    atoms += _sites("O", [(0, 0, oxygen), (0, 0, -oxygen)], RHOMBOHEDRAL, b_iso=0.8)
    source = "layered oxide R-3m; a and c of the project's reference table (crystallography of NMC622, pristine and at 4.2 V)"
    return Crystal(name, (a, a, c), _HEXAGONAL, tuple(atoms), source, maps)


def _carbon(name: str, c: float, a: float, layers: tuple[float, ...], source: str) -> Crystal:
    """Lithium at the origin of a √3 × √3 cell of graphite, whose sheets lie above each other (P6/mmm)."""
    sheet = [(1 / 3, 0), (0, 1 / 3), (2 / 3, 0), (0, 2 / 3), (1 / 3, 1 / 3), (2 / 3, 2 / 3)]
    atoms = _sites("Li", [(0, 0, 0)], b_iso=1.5) + _sites("C", [(x, y, z) for z in layers for x, y in sheet], b_iso=0.6)
    return Crystal(name, (a, a, c), _HEXAGONAL, atoms, source, (name,), (("300", "graphite's 110"), ("110", "graphite's 100")))


def _polyethylene() -> Crystal:
    """Pnam; carbon and hydrogen on 4c at z = 1/4, with the four operations of the group on that plane."""
    atoms = []
    for element, x, y in (("C", 0.038, 0.065), ("H", 0.186, 0.061), ("H", 0.011, 0.274)):
        places = [(x, y, 0.25), (-x, -y, 0.75), (0.5 - x, 0.5 + y, 0.75), (0.5 + x, 0.5 - y, 0.25)]
        atoms += _sites(element, places, b_iso=5.0)
    source = "cell: Swan 1962, J. Polym. Sci. 56, 403; atoms: Bunn 1939, Trans. Faraday Soc. 35, 482"
    return Crystal("polyethylene", (7.414, 4.942, 2.547), (90.0, 90.0, 90.0), tuple(atoms), source, ("separator",))


CRYSTALS: tuple[Crystal, ...] = (
    _polyethylene(),
    _carbon("LiC6", 3.706, 4.305, (0.5,), "P6/mmm; Guérard & Hérold 1975, Carbon 13, 337"),
    _carbon("LiC12", 7.065, 4.288, (0.25, 0.75), "P6/mmm; Guérard & Hérold 1975, Carbon 13, 337"),
    Crystal(
        "graphite", (2.464, 2.464, 6.711), _HEXAGONAL,
        _sites("C", [(0, 0, 0.25), (0, 0, 0.75), (1 / 3, 2 / 3, 0.25), (2 / 3, 1 / 3, 0.75)], b_iso=0.6),
        "P6₃/mmc; Trucano & Chen 1975, Nature 258, 136", ("graphite",),
    ),
    _cubic("aluminium", 4.0495, "Al", FACES, "Fm-3m; Straumanis & Woodward 1971, Acta Cryst. A 27, 549", maps=("aluminium",)),
    _oxide("NMC622 lithiated", 2.868, 14.22, 1.0, 0.2585, ("NMC lithiated", "NMC lithiated 110")),
    _oxide("NMC622 at 4.2 V", 2.823, 14.44, 0.35, 0.264, ("NMC delithiated", "NMC delithiated 110")),
    _cubic("copper", 3.615, "Cu", FACES, "Fm-3m; Straumanis & Yu 1969, Acta Cryst. A 25, 676", maps=("copper",)),
    _cubic("α-iron", 2.8665, "Fe", BODY, "Im-3m; Basinski, Hume-Rothery & Sutton 1955, Proc. R. Soc. A 229, 459"),
    _cubic("γ-iron", 3.594, "Fe", FACES, "Fm-3m; austenitic steel, a of the project's reference table (220 at 4.945 Å⁻¹)"),
    _cubic(
        "silicon", 5.4307, "Si", FACES, "Fd-3m; Wyckoff 1963, Crystal Structures", basis=((0, 0, 0), (0.25, 0.25, 0.25)),
    ),
)  # fmt: skip
"""The phases of a cylindrical cell; see each one's ``source``. Lattice constants at room temperature."""


def crystal_named(name: str, crystals: tuple[Crystal, ...] = CRYSTALS) -> Crystal:
    """The crystal of that name, or the first that a default window of that name is meant to show.

    Raises
    ------
    ShapeError
        If there is none.
    """
    for found in crystals:
        if found.name == name or name in found.maps:
            return found
    raise ShapeError(f"there is no crystal {name!r}; there are {', '.join(c.name for c in crystals)}: give one, or a CIF")
