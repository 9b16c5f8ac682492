"""Real measurements that lie beside the project, where they are at hand."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared_file(name: str) -> Path:
    """Path of a real measurement; skips the test where it is not at hand."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"real measurement {name} is not at hand beside the project")
    return path
