"""What the journal costs the RunEngine: the time of the callback for each document of a step scan.

Run with ``python benchmarks/bench_journal.py [documents]``. Expect p99 below 1 ms.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

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


def main(count: int) -> None:
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
    print(f"{len(took)} documents in {wall:.1f} s, {written} in the journal ({size / written:.0f} bytes each), {journal.faults} faults")
    print(f"journal, µs a document: p50 {p50:.0f}, p99 {p99:.0f}, most {max(took) * 1e6:.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
