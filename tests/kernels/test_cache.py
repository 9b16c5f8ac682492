"""Compiled code finds a folder wherever the package is installed."""

import os
import stat
import subprocess
import sys

from operandi.kernels import cache_folder


def unwritable(tmp_path):
    """A folder that nobody can make, root included: its parent is a file."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


def test_the_usual_folder_is_kept_where_it_can_be_written(tmp_path):
    assert cache_folder([unwritable(tmp_path), tmp_path / "usual"], tmp_path) is None


def test_without_a_usual_folder_one_of_the_user_alone_is_made_and_found_again(tmp_path):
    folder = cache_folder([unwritable(tmp_path)], tmp_path)
    assert folder is not None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert cache_folder([tmp_path / "file" / "cache"], tmp_path) == folder


def test_a_folder_that_others_can_write_is_not_trusted(tmp_path):
    first = cache_folder([unwritable(tmp_path)], tmp_path)
    assert first is not None
    first.chmod(0o777)
    assert cache_folder([tmp_path / "file" / "cache"], tmp_path) != first


def test_kernels_are_imported_without_a_folder_to_keep_them_in(tmp_path):
    code = (
        "import pathlib, tempfile, operandi, sys\n"
        "mkdir = pathlib.Path.mkdir\n"
        "def refuse(self, *a, **k):\n"
        "    if 'operandi-' in self.name: return mkdir(self, *a, **k)\n"
        "    raise PermissionError(str(self))\n"
        "pathlib.Path.mkdir = refuse\n"
        "import operandi.kernels.lanes as lanes\n"
        "print(lanes.sum_patches._cache.cache_path)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert out.startswith(str(tmp_path))
