"""What made a result: the metadata that a reader needs to tell, and to make it again."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from operandi.experiment import Experiment
from operandi.experiment_file import identity
from operandi.nodes import RAW, fingerprint, result_key

PACKAGES = ("operandi", "pyFAI", "numpy", "numba", "scipy", "tiled", "bluesky", "zarr", "h5py")


def versions() -> dict[str, str]:
    """Versions of operandi and of what computes for it."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def result_of(experiment: Experiment, start: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Key and metadata of the result that ``experiment`` makes of the run with this start document."""
    decides = {"experiment": identity(experiment), "operandi": versions()["operandi"]}
    key = result_key(started=float(start["time"]), sample=experiment.sample.name, run_uid=start["uid"], identity=decides)
    metadata = {
        "run_uid": start["uid"],
        "raw": f"{RAW}/{start['uid']}",
        "started": float(start["time"]),
        "scan_id": start.get("scan_id"),
        "plan_name": start.get("plan_name"),
        "sample": experiment.sample.model_dump(mode="json"),
        "experiment": experiment.model_dump(mode="json", exclude={"publishing"}),
        "identity": fingerprint(decides),
        "inputs": {k: v for k, v in decides["experiment"].items() if k.endswith("_sha256")},
        "poni": experiment.geometry.poni.read_text(errors="replace"),
        "versions": versions(),
    }
    return key, metadata


def utc(moment: float) -> str:
    """A moment in UTC epoch s for people, such as ``2026-11-22 14:03:07 UTC``."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
