"""Feed damaged logs to the readers: bytes flipped, pieces cut out, doubled, or joined from two files.

Only `PotentiostatError` may come out, in little memory and time. Case ``i`` of a seed is always the same, so that a finding can be
repeated with ``--first i --n 1``::

    python benchmarks/fuzz_potentiostat.py --n 100000 --seed 0 --logs ../shared/data/echem_biologic
"""

from __future__ import annotations

import argparse
import importlib
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from operandi.errors import PotentiostatError
from operandi.sources.potentiostat import Follower, read_potentiostat

ROWS, BATCH, PATIENCE_S = 24, 250, 30
_DATA_HEADERS = (1007, 406, 405, 100)
_TABLES = {
    "plain.csv": b"# start: 2024-01-10 12:00:00+00:00\ntime/s,Ewe/V,I/mA,(Q-Qo)/mA.h,cycle number\n"
    + b"".join(b"%d.5,3.%03d,1.25,0.%04d,%d\n" % (5 * i, i, i, i // 10) for i in range(ROWS)),
    "comma.csv": b"time;voltage;current\n" + b"".join(b"17048880%02d,5;3,%03d;%d,5\n" % (i, i, i) for i in range(ROWS)),
    "dates.csv": b"time\tvoltage\n" + b"".join(b"2024-10-27 02:%02d:00\t3.%03d\n" % (2 * i, i) for i in range(ROWS)),
}


@dataclass(slots=True)
class Outcome:
    """What became of a batch of cases. ``wrong``: what should not have happened, each with the number of its case."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    peak_mb: float = 0.0


class Hung(BaseException):
    """A reader that does not come back; no reader's own ``except`` may take it."""


def originals(folder: Path | None) -> dict[str, bytes]:
    """Name → content of whole logs: our own tables and the files of ``folder``, all cut to a few dozen rows."""
    found = dict(_TABLES)
    for path in sorted(folder.iterdir()) if folder else ():
        if path.suffix in (".mpr", ".mpt", ".csv"):
            content = path.read_bytes()
            found[path.name] = _fewer_points(content) if path.suffix == ".mpr" else _fewer_lines(content)
    return found


def _fewer_lines(content: bytes) -> bytes:
    head = int(content.split(b"\n", 2)[1].split(b":")[1]) if content.startswith(b"EC-Lab") else 1
    return b"\n".join(content.split(b"\n")[: head + ROWS]) + b"\n"


def _fewer_points(content: bytes) -> bytes:
    """A .mpr file with fewer points in its data module, else the same; see yadg's notes on the format for the layout."""
    module = content.find(b"MODULEVMP data")
    long = content[module + 41 : module + 45] == b"\xff\xff\xff\xff"
    place = module + (45 if long else 41)
    (length,) = struct.unpack_from("<I", content, place)
    data = module + (65 if long else 57)
    points = struct.unpack_from("<I", content, data)[0]
    header = next((h for h in _DATA_HEADERS if points > ROWS and (length - h) % points == 0), None)
    if header is None:
        return content
    kept = header + (length - header) // points * ROWS
    small = struct.pack("<I", ROWS) + content[data + 4 : data + kept]
    return content[:place] + struct.pack("<I", kept) + content[place + 4 : data] + small + content[data + length :]


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """``content`` with one to three damages; ``other`` is what it may be joined with."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        i, j = sorted(rng.integers(0, len(data) + 1, 2).tolist())
        piece = slice(i, min(j, i + int(rng.integers(1, 400))))
        match rng.integers(0, 7):
            case 0 | 1 if data:
                for k in rng.integers(0, len(data), int(rng.integers(1, 9))).tolist():
                    data[k] ^= 1 << int(rng.integers(0, 8))
            case 2:
                del data[piece]
            case 3:
                data[i:i] = data[piece]
            case 4:
                del data[i:]
            case 5:
                data[piece] = rng.bytes(int(rng.integers(0, 20)))
            case _:
                data[i:] = other[int(rng.integers(0, len(other))) :]
    return bytes(data)


def batch(first: int, count: int, seed: int, folder: Path | None) -> Outcome:
    """Cases ``first`` to ``first + count``."""
    # their import takes seconds, which are no case's
    for backend in ("galvani.BioLogic", "yadg.extractors.eclab.mpr"):
        importlib.import_module(backend)
    signal.signal(signal.SIGPROF, _hang)
    logs, outcome = originals(folder), Outcome()
    with tempfile.TemporaryDirectory() as place:
        for number in range(first, first + count):
            begun = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, PATIENCE_S)
            try:
                outcome.counts[_case(number, seed, logs, Path(place))] += 1
            # what is sought is any exception at all
            except (Exception, Hung) as error:
                at = traceback.extract_tb(error.__traceback__)[-1]
                outcome.wrong.append(f"case {number}: {type(error).__name__} {error} ({at.filename}:{at.lineno})")
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            outcome.slowest = max(outcome.slowest, (time.process_time() - begun, number))
    outcome.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return outcome


def _hang(*_: object) -> None:
    raise Hung(f"did not come back within {PATIENCE_S} s of CPU time")


def _case(number: int, seed: int, logs: Mapping[str, bytes], place: Path) -> str:
    rng = np.random.default_rng([seed, number])
    names = list(logs)
    name, other = (names[i] for i in rng.integers(0, len(names), 2).tolist())
    path = place / f"log{Path(name).suffix}"
    path.write_bytes(mutated(logs[name], logs[other], rng))
    start = [None, 0.0, "2024-01-10 11:02:29"][int(rng.integers(0, 3))]
    kind = f"{path.suffix} {'followed' if number % 4 == 0 else 'read'}"
    try:
        if number % 4 == 0:
            news = Follower(path, timezone="Europe/Paris", start=start).poll(final=bool(rng.integers(2)))
            voltage = news.rows.voltage if news else np.empty(0)
        else:
            voltage = read_potentiostat(path, timezone="Europe/Paris", start=start)["voltage"].values
    except PotentiostatError:
        return f"{kind}: refused"
    assert not len(voltage) or not np.nanmax(np.abs(voltage), initial=0.0) > 20, "a voltage beyond every limit was given out"
    return f"{kind}: gave rows" if len(voltage) else f"{kind}: waits"


def run(n: int, *, first: int = 0, seed: int = 0, jobs: int = 2, folder: Path | None = None) -> Outcome:
    """All cases on ``jobs`` processes; progress goes to stderr."""
    total, done, begun = Outcome(), 0, time.monotonic()
    starts = range(first, first + n, BATCH)
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(batch, start, min(BATCH, first + n - start), seed, folder) for start in starts]
        for future in waiting:
            part = future.result()
            total.counts += part.counts
            total.wrong += part.wrong
            sys.stderr.writelines(f"\n{line}\n" for line in part.wrong)
            total.slowest, total.peak_mb = max(total.slowest, part.slowest), max(total.peak_mb, part.peak_mb)
            done += part.counts.total() + len(part.wrong)
            sys.stderr.write(f"\r{done} of {n}, {len(total.wrong)} wrong, {done / (time.monotonic() - begun):.0f} a second ")
    sys.stderr.write("\n")
    return total


def _report(outcome: Outcome) -> Iterator[str]:
    for name, count in sorted(outcome.counts.items()):
        yield f"{name:<24}{count:>8}"
    yield f"{'anything else':<24}{len(outcome.wrong):>8}"
    seconds, case = outcome.slowest
    yield f"slowest case {seconds:.2f} s of CPU time (case {case}); peak memory of a process {outcome.peak_mb:.0f} MB"
    yield from outcome.wrong[:50]


def main() -> int:
    parser = argparse.ArgumentParser(description="Feed damaged potentiostat logs to the readers.")
    parser.add_argument("--n", type=int, default=100_000, help="number of cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--logs", type=Path, help="folder of real .mpr, .mpt and .csv files; without it only tables are damaged")
    given = parser.parse_args()
    outcome = run(given.n, first=given.first, seed=given.seed, jobs=given.jobs, folder=given.logs)
    sys.stdout.write("\n".join(_report(outcome)) + "\n")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
