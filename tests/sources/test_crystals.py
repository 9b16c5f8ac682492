"""CIFs of other people, and what is none."""

import numpy as np
import pytest
from shared import shared_file

from operandi.errors import AssetError
from operandi.sources.crystals import read_crystal
from operandi.stages.reflections import reflections

pytest.importorskip("gemmi")

ROCK_SALT = """\
data_salt
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
"""
SITES = """\
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 Na 0 0 0
Cl1 Cl 0.5 0.5 0.5
"""


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("DD_Aluminium.cif", "aluminium"), ("DD_Copper.cif", "copper"), ("midas_alpha_fe.cif", "α-iron"), ("DD_Silicon.cif", "silicon"),
        ("pyobjcryst_Si.cif", "silicon"), ("DD_Graphite.cif", "graphite"),
    ],
)  # fmt: skip
def test_published_crystals_are_those_of_the_table(file, name):
    found, own = reflections(read_crystal(shared_file(f"cif/{file}")), 1.0, 5.3), reflections(name, 1.0, 5.3)
    assert found["reflection"].values.tolist() == own["reflection"].values.tolist()
    np.testing.assert_allclose(found["q"], own["q"], rtol=5e-4)
    # Displacements differ: up to exp(-0.3 · q² / 8π²) in the worst line.
    np.testing.assert_allclose(found["intensity"], own["intensity"], rtol=0.12)


def test_a_cif_with_sites_gives_every_atom_and_without_them_none(tmp_path):
    (tmp_path / "salt.cif").write_text(ROCK_SALT + SITES)
    salt = read_crystal(tmp_path / "salt.cif", maps=("salt",))
    assert (salt.name, len(salt.atoms), salt.maps) == ("salt", 8, ("salt",))
    assert (
        reflections(salt, 1.0, 3.5)["reflection"].values.tolist()
        == ["111", "200", "220", "311"][: reflections(salt, 1.0, 3.5).sizes["reflection"]]
    )
    (tmp_path / "cell.cif").write_text(ROCK_SALT)
    cell = read_crystal(tmp_path / "cell.cif", name="only a cell")
    assert (cell.name, cell.atoms) == ("only a cell", ())
    assert np.isnan(reflections(cell, 1.0, 2.0)["intensity"]).all()


@pytest.mark.parametrize("content", [b"", b"no cif", b"data_x\n_cell_length_a abc\n", b"data_x\nloop_\n_a\n", b"\xff\x00\x01", b"data_x\n"])
def test_what_is_no_structure_is_refused_by_name(tmp_path, content):
    (tmp_path / "bad.cif").write_bytes(content)
    with pytest.raises(AssetError, match="bad.cif"):
        read_crystal(tmp_path / "bad.cif")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(AssetError, match="none.cif"):
        read_crystal(tmp_path / "none.cif")
