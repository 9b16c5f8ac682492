"""What the journal costs the RunEngine: the time of the callback for each document of a step scan.

Run as ``python benchmarks/bench_journal.py``.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bluesky import Msg, RunEngine

from operandi.sources.journal import Journal, read, runs


class Motor:
    """A device with three numbers, as a step scan reads them."""

    parent, name = None, "stage"

    def describe(self) -> dict:
        return {key: {"source": "bench", "dtype": "number", "shape": []} for key in ("rotation", "translation", "monitor")}

    def read(self) -> dict:
        return {key: {"value": np.float64(time.time()), "timestamp": time.time()} for key in self.describe()}

    def describe_configuration(self) -> dict:
        return {}

    def read_configuration(self) -> dict:
        return {}


def plan(count: int) -> Iterator[Msg]:
    """A step scan of ``count`` events."""
    stage = Motor()
    yield Msg("open_run")
    for _ in range(count):
        yield Msg("create", name="primary")
        yield Msg("read", stage)
        yield Msg("save")
    yield Msg("close_run")


def main(count: int = 5000) -> list[dict[str, Any]]:
    """Time of the journal's callback for each document of a step scan of ``count`` events, and whether it kept them all."""
    took = []
    with tempfile.TemporaryDirectory() as folder, Journal(folder) as journal:

        def timed(name: str, doc: dict) -> None:
            begin = time.perf_counter()
            journal(name, doc)
            took.append(time.perf_counter() - begin)

        engine = RunEngine({}, context_managers=[])
        engine.subscribe(timed)
        begin = time.perf_counter()
        engine(plan(count))
        wall = time.perf_counter() - begin
        size = Path(runs(folder)[0].path).stat().st_size
        written = sum(1 for _ in read(runs(folder)[0].path))
    p50, p99 = np.percentile(np.array(took) * 1e6, [50, 99])
    row = {
        "name": "journal, a document",
        "size": [len(took)],
        "p50_us": round(float(p50), 1),
        "p99_us": round(float(p99), 1),
        "most_us": round(max(took) * 1e6),
        "limit_us": 1000,
        "share_of_run": round(sum(took) / wall, 3),
        "bytes": round(size / written),
        "lost": len(took) - written,
    }
    return [row]


if __name__ == "__main__":
    for line in main():
        print(json.dumps(line))
