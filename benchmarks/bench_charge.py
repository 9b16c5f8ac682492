"""Charge tags and the potentiostat's log: what they cost.

Run with ``python benchmarks/bench_charge.py``. Expect tags for 100 000 images against a log of 10⁶ rows in under 1 s, and
following under 5 % of a core at 100 rows a second.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from operandi.sources.log_events import EventLog
from operandi.sources.potentiostat import Follower, read_potentiostat, to_log
from operandi.stages.charge import Log, at, tag_of_exposures
from operandi.stages.clocks import find_offset

HEAD = b"# start: 2024-01-10 12:00:00+00:00\ntime/s,Ewe/V,I/mA,Ns,cycle number\n"
BEGUN = 1704888000.0
RATE, POLLS, BEFORE = 100, 60, 200_000


def table(count: int, period: float, first: int = 0) -> bytes:
    """Lines of a log with a row every ``period`` s."""
    rows = (
        f"{i * period:.4f},{3.5 + 0.5 * np.sin(i / 9e4):.6f},{30 * np.cos(i / 9e4):.6f},{i // 50000},0\n"
        for i in range(first, first + count)
    )
    return "".join(rows).encode()


def long_log(count: int) -> Log:
    """A log of ``count`` rows, one a second."""
    seconds, none = np.arange(float(count)), np.zeros(count, np.int64)
    return Log(BEGUN + seconds, 3.5 + np.sin(seconds / 9e3), np.cos(seconds / 9e3), seconds / 3600, none, none)


def fastest(call: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of several calls."""
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        took.append(time.perf_counter() - begin)
    return min(took)


def tags() -> list[dict]:
    """Charge, voltage, current, step and cycle of 100 000 exposures, and the tags of their 500 sets, against 10⁶ rows."""
    log, rng = long_log(1_000_000), np.random.default_rng(0)
    moments, dose = np.sort(rng.uniform(BEGUN, log.time[-1], 100_000)), rng.uniform(0.9, 1.1, 100_000)

    def tagged() -> None:
        charge = at(log, moments, gap_s=60.0).charge
        for images in np.split(np.arange(100_000), 500):
            tag_of_exposures(charge[images], dose[images])

    took = fastest(tagged)
    return [{"name": "tags of 100 000 images, log of 10⁶ rows", "ours_s": took, "limit_s": 1.0, "images_per_s": 1e5 / took}]


def following() -> list[dict]:
    """CPU seconds for each second of a log that grows by 100 rows a second, polled once a second, joined to what is known."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        path.write_bytes(HEAD + table(BEFORE, 1 / RATE))
        follower = Follower(path)
        begin = time.process_time()
        news = follower.poll()
        read = time.process_time() - begin
        assert news is not None
        log, cost = news.rows, 0.0
        for poll in range(POLLS):
            with path.open("ab") as file:
                file.write(table(RATE, 1 / RATE, BEFORE + poll * RATE))
            begin = time.process_time()
            news = follower.poll()
            assert news is not None
            log = news.onto(log)
            cost += time.process_time() - begin
        assert len(log) == BEFORE + POLLS * RATE
    share = cost / POLLS
    follows = {"name": f"following {RATE} rows/s behind {BEFORE} rows, CPU s a second", "ours_s": share, "limit_s": 0.05}
    return [follows, {"name": f"reading {BEFORE} rows of a table", "ours_s": read, "rows_per_s": BEFORE / read}]


def streaming() -> list[dict]:
    """CPU seconds for each second of a bluesky stream of 100 events a second, taken one by one."""
    stream, count = EventLog({"voltage": "V", "current": "mA"}), 3000
    begin = time.process_time()
    for i in range(count):
        stream.add([BEGUN + i / RATE], {"voltage": [3.7], "current": [30.0]})
    took = (time.process_time() - begin) * RATE / count
    return [{"name": f"a stream of {RATE} events/s one by one, CPU s a second", "ours_s": took, "limit_s": 0.05}]


def replaying(speed: float = 1000.0, rows: int = 1600, period: float = 5.0, lag: float = 5.0) -> list[dict]:
    """A log written ``speed`` times faster than it was measured, late and torn, while it is followed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        lines = table(rows, period).splitlines(keepends=True)
        writer = threading.Thread(target=_write, args=(path, lines, period / speed, lag / speed))
        follower, log, cost, polls = Follower(path), Log.empty(), 0.0, 0
        begin = time.perf_counter()
        writer.start()
        while writer.is_alive() or not polls:
            before = time.thread_time()
            if news := follower.poll():
                log = news.onto(log)
            cost, polls = cost + time.thread_time() - before, polls + 1
            time.sleep(0.01)
        if news := follower.poll(final=True):
            log = news.onto(log)
        wall = time.perf_counter() - begin
        finished = to_log(read_potentiostat(path))
        exact = bool(np.array_equal(log.charge, finished.charge) and np.array_equal(log.time, finished.time))
    assert exact, "the followed log is not the finished one"
    name = f"{rows} rows replayed at {rows * period / wall:.0f} ×, {polls} polls, charge bit by bit that of the finished file"
    return [{"name": name, "ours_s": wall, "cpu_s": cost, "exact": exact}]


def _write(path: Path, lines: list[bytes], pause: float, lag: float) -> None:
    """Each row late, in two torn pieces."""
    begun = time.monotonic() + lag
    time.sleep(lag)
    with path.open("wb", buffering=0) as file:
        file.write(HEAD[:40])
        file.write(HEAD[40:])
        for i, line in enumerate(lines):
            cut = i % len(line)
            file.write(line[:cut])
            time.sleep(max(begun + i * pause - time.monotonic(), 0.0))
            file.write(line[cut:])


def clocks() -> list[dict]:
    """The offset between the clocks from 10 h of readings."""
    rng = np.random.default_rng(0)
    t = np.arange(0, 36_000, 1.0)
    wave = np.interp(t, np.arange(0, 36_001, 600), rng.normal(size=61))
    took = fastest(lambda: find_offset(t, wave, t + 37, wave + rng.normal(0, 0.01, len(t))), 2)
    return [{"name": "clock offset and drift from 10 h at 1 reading/s", "ours_s": took}]


def main() -> list[dict]:
    """All rows; ``limit_s`` is what must not be passed."""
    return [*tags(), *following(), *streaming(), *replaying(), *clocks()]


if __name__ == "__main__":
    rows = main()
    for row in rows:
        more = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in ("name", "ours_s"))
        print(f"{row['name']:<90} {row['ours_s']:>10.4f} s  {more}")
    sys.exit(any(row["ours_s"] > row.get("limit_s", np.inf) for row in rows))
