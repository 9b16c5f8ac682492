"""What this machine can do at most, and what it is: the measure of every other figure.

Run as ``python benchmarks/limits.py``. Both limits are taken with all of numba's threads (``NUMBA_NUM_THREADS``).
"""

import json
import os
import platform
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit, prange

PACKAGES = ("operandi", "numpy", "numba", "scipy", "pyFAI", "h5py", "hdf5plugin", "zarr", "tiled", "bluesky", "astra-toolbox", "tomopy")
TRIAD_FLOATS = 1 << 26
"""256 MiB for each of the three arrays: far over any cache."""
LANES, CHAIN, PASSES = 128, 16, 50_000
REPEATS = 20


@njit(parallel=True, fastmath=True)
def _triad(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    for i in prange(len(a)):
        a[i] = b[i] + np.float32(3) * c[i]


@njit(parallel=True, fastmath=True)
def _multiply_add(values: np.ndarray, passes: int, x: np.float32, y: np.float32) -> None:
    """``CHAIN`` multiply-adds on each value of (part, 4, lane) while it is in a register.

    Lanes fill the vector units; four rows at a time keep them busy, since each multiply-add waits for the one before.
    """
    for part in prange(len(values)):
        row0, row1, row2, row3 = values[part, 0], values[part, 1], values[part, 2], values[part, 3]
        for _ in range(passes):
            for i in range(LANES):
                v0, v1, v2, v3 = row0[i], row1[i], row2[i], row3[i]
                for _ in range(CHAIN):
                    v0, v1, v2, v3 = v0 * x + y, v1 * x + y, v2 * x + y, v3 * x + y
                row0[i], row1[i], row2[i], row3[i] = v0, v1, v2, v3


def _fastest_s(call: Any, *arguments: Any) -> float:
    """Seconds of the fastest of several calls, after one that compiles: a limit is what was reached undisturbed."""
    took = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        call(*arguments)
        took.append(time.perf_counter() - begin)
    return min(took[1:])


def memory_bandwidth() -> float:
    """Bytes per second of ``a = b + 3 c`` (STREAM's triad) on arrays far over the cache, counted as STREAM does: two read, one written."""
    a, b, c = (np.full(TRIAD_FLOATS, value, np.float32) for value in (0, 1, 2))
    return 3 * a.nbytes / _fastest_s(_triad, a, b, c)


def fma_peak() -> float:
    """Floating-point operations per second in single precision, a multiply-add counted as two."""
    values = np.ones((numba.get_num_threads(), 4, LANES), np.float32)
    operations = 2 * values.size * CHAIN * PASSES
    return operations / _fastest_s(_multiply_add, values, PASSES, np.float32(0.5), np.float32(0.25))


def machine() -> dict[str, Any]:
    """Processor, cores, threads, memory in GB, Python, versions of the libraries that count, and the date."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "numba_threads": numba.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def main() -> list[dict[str, Any]]:
    """Both limits as rows of the benchmarks' table."""
    return [
        {"name": "memory bandwidth, triad", "gb_per_s": round(memory_bandwidth() / 1e9, 1)},
        {"name": "multiply-add, single precision", "gflop_per_s": round(fma_peak() / 1e9, 1)},
    ]


if __name__ == "__main__":
    print(json.dumps({"machine": machine(), "rows": main()}, indent=1))
