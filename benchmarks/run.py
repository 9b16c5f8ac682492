"""Run the benchmarks of this folder, each in a process of its own, and print their tables.

Every ``bench_*.py`` has ``main() -> list[dict]``: rows with ``name`` and any of ``size``, ``ours_s``, ``peer``, ``peer_s``, ``ratio``,
``accuracy``, ``limit`` and figures of their own.

    python benchmarks/run.py                     all of them
    python benchmarks/run.py worker journal      only these
    python benchmarks/run.py --json FILE         rows and the machine's description go to FILE (build/benchmarks.json if not given)
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "build" / "benchmarks.json"
FIRST = ("name", "size")


def names() -> list[str]:
    """What there is to run: the machine's limits first, since the others are measured against them."""
    return ["limits", *sorted(script.stem.removeprefix("bench_") for script in HERE.glob("bench_*.py"))]


def run(name: str) -> list[dict[str, Any]] | None:
    """The rows of one benchmark, from a process of its own; None where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        done = subprocess.run([sys.executable, str(HERE / "run.py"), "--only", name, "--json", str(file)], check=False)
        return json.loads(file.read_text()) if done.returncode == 0 else None


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of one benchmark, measured in this process."""
    sys.path.insert(0, str(HERE))
    return importlib.import_module(name if name == "limits" else f"bench_{name}").main()


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as text: a column for each key that any row has."""
    keys = [*FIRST, *dict.fromkeys(key for row in rows for key in row if key not in FIRST)]
    keys = [key for key in keys if any(key in row for row in rows)]
    cells = [keys, *([_text(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " × ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Number of benchmarks that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which to run, of {', '.join(names())}; all if none is given")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="where rows and the machine's description go")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.only:
        wanted.json.write_text(json.dumps(rows_of(wanted.only)))
        return 0
    if unknown := sorted(set(wanted.names) - set(names())):
        parser.error(f"there is no benchmark {', '.join(unknown)}; choose from {', '.join(names())}")
    from limits import machine

    found: dict[str, Any] = {"machine": machine(), "benchmarks": {}}
    print(json.dumps(found["machine"]))
    failed = 0
    for name in wanted.names or names():
        print(f"\n== {name}", flush=True)
        rows = run(name)
        if rows is None:
            failed += 1
            continue
        print(table(rows))
        found["benchmarks"][name] = rows
        wanted.json.parent.mkdir(parents=True, exist_ok=True)
        wanted.json.write_text(json.dumps(found, indent=1))
    print(f"\nwritten to {wanted.json}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
