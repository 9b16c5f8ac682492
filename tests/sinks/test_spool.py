import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operandi.errors import PublishError
from operandi.sinks.spool import Spool


def drained(file: Path) -> list[int]:
    """Everything that waits, by taking it."""
    spool, numbers = Spool(file), []
    while (operation := spool.first(0.0)) is not None:
        numbers.append(operation["n"])
        spool.done()
    spool.close()
    return numbers


def test_operations_come_back_in_order_after_a_restart(tmp_path):
    spool = Spool(tmp_path / "a.spool")
    for n in range(5):
        spool.append({"n": n}, durable=n == 4)
    spool.done()
    spool.done()
    spool.close()
    assert drained(tmp_path / "a.spool") == [2, 3, 4]
    assert drained(tmp_path / "a.spool") == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 200), done=st.integers(0, 8))
def test_a_file_cut_anywhere_loses_only_what_was_cut(tmp_path, cut, done):
    file = tmp_path / "a.spool"
    for path in tmp_path.iterdir():
        path.unlink()
    spool = Spool(file)
    for n in range(8):
        spool.append({"n": n, "text": "x" * n}, durable=False)
    for _ in range(done):
        spool.done()
    spool.close()
    content = file.read_bytes()[: max(0, file.stat().st_size - cut)]
    file.write_bytes(content)
    whole = [json.loads(line)["n"] for line in content[: content.rfind(b"\n") + 1].splitlines()]
    left = drained(file)
    # Where the cut reached into what was done, all of it comes again: operations are idempotent.
    assert left == (whole[done:] if len(whole) >= done else whole)


def test_the_file_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("operandi.sinks.spool.COMPACT_BYTES", 1000)
    spool = Spool(tmp_path / "a.spool")
    for n in range(500):
        spool.append({"n": n}, durable=False)
        spool.done()
    assert spool.file.stat().st_size < 2000
    spool.append({"n": 500}, durable=True)
    spool.close()
    assert drained(tmp_path / "a.spool") == [500]


def test_a_second_process_is_refused(tmp_path):
    spool = Spool(tmp_path / "a.spool")
    with pytest.raises(PublishError, match="another worker"):
        Spool(tmp_path / "a.spool")
    spool.close()
    Spool(tmp_path / "a.spool").close()


def test_a_spool_of_something_else_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "a.spool").write_text("not json\n")
    with pytest.raises(PublishError, match="replay the run"):
        Spool(tmp_path / "a.spool")


WRITER = """
import sys
from operandi.sinks.spool import Spool
spool = Spool(sys.argv[1])
for n in range(100_000):
    spool.append({"n": n}, durable=n % 7 == 0)
    print(n, flush=True)
    if n % 3 == 0:
        spool.done()
"""


@pytest.mark.parametrize("after", [1, 40, 317])
def test_what_was_acknowledged_survives_sigkill(tmp_path, after):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "a.spool")], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    for _ in range(after):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    seen = process.stdout.read().split()
    process.stdout.close()
    process.wait()
    last = int(seen[-1]) if seen else after - 1
    left = drained(tmp_path / "a.spool")
    assert left == list(range(left[0], left[-1] + 1))
    assert left[-1] >= last
    assert left[0] <= last // 3 + 1
