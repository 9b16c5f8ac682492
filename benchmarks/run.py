"""Run every benchmark of this folder, each in a process of its own; names given as arguments choose: ``run.py integration``."""

import subprocess
import sys
from pathlib import Path


def main(wanted: list[str]) -> int:
    """Number of benchmarks that failed."""
    failed = 0
    for script in sorted(Path(__file__).parent.glob("bench_*.py")):
        name = script.stem.removeprefix("bench_")
        if wanted and name not in wanted:
            continue
        print(f"== {name}", flush=True)
        failed += subprocess.run([sys.executable, str(script)], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
