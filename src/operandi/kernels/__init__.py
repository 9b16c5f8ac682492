"""Compiled loops over arrays; no science words, no I/O.

numba keeps what it compiled beside the source, or in the user's cache folder. Where neither can be written (installed by another user,
no home), importing a cached function would fail: then a folder of this user under the temporary one is used.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from numba.core import config
from numba.misc.appdirs import AppDirs


def cache_folder(usual: Sequence[Path], temporary: Path) -> Path | None:
    """Where to keep compiled code if none of the ``usual`` folders can be written; None if one can.

    Only a folder that no other user can write is taken: what lies there is run.
    """
    if any(_can_write(folder) for folder in usual):
        return None
    folder = temporary / f"operandi-{os.getuid() if hasattr(os, 'getuid') else os.getlogin()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    stat = folder.stat()
    ours = not hasattr(os, "getuid") or (stat.st_uid == os.getuid() and not stat.st_mode & 0o022)
    return folder if ours else Path(tempfile.mkdtemp(prefix="operandi-", dir=temporary))


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


if not config.CACHE_DIR:  # pyright: ignore[reportAttributeAccessIssue]
    _usual = (Path(__file__).parent / "__pycache__", Path(AppDirs(appname="numba", appauthor=False).user_cache_dir))
    if _chosen := cache_folder(_usual, Path(tempfile.gettempdir())):
        config.CACHE_DIR = str(_chosen)  # pyright: ignore[reportAttributeAccessIssue]
