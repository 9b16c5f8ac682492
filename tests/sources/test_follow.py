import numpy as np
import pytest
from eclab_files import eclab, fewer_points, rows_of
from shared import shared_file

from operandi.errors import PotentiostatError
from operandi.sources.potentiostat import Follower, read_potentiostat, to_log
from operandi.stages.charge import Log

COLUMNS = ("time", "voltage", "current", "charge", "step", "cycle")


def follow(follower: Follower, path, content: bytes, cuts) -> Log:
    """What a follower finds of a file that grows from cut to cut."""
    log = Log.empty()
    for cut in [*sorted(cuts), len(content)]:
        path.write_bytes(content[:cut])
        if news := follower.poll():
            assert not news.restarted
            log = news.onto(log)
    return log


def assert_equal(log: Log, other: Log):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(log, name), getattr(other, name))


def noisy_rows(n):
    rng = np.random.default_rng(5)
    t = np.cumsum(rng.uniform(0.1, 10, n))
    return [[1.0, 1.0, 1.0 + i // 50, t[i], rng.uniform(3, 4), rng.normal(0, 30), 0.0, float(i // 80)] for i in range(n)]


@pytest.mark.parametrize(
    "names", ["mode\tox/red\tNs\ttime/s\tEwe/V\tI/mA\tx\thalf cycle\t", "a\tb\tNs\ttime/s\tEwe/V\tdq/mA.h\tx\thalf cycle\t"]
)
@pytest.mark.parametrize("seed", range(4))
def test_a_log_that_grows_in_torn_pieces_gives_the_numbers_of_the_finished_file(tmp_path, names, seed):
    content = eclab(noisy_rows(300), names=names, comma=bool(seed % 2))
    path = tmp_path / "log.mpt"
    cuts = np.random.default_rng(seed).integers(0, len(content), 60)
    found = follow(Follower(path, timezone="Europe/Paris"), path, content, cuts)
    assert_equal(found, to_log(read_potentiostat(path, timezone="Europe/Paris")))


def test_every_byte_may_be_the_last_for_now(tmp_path):
    content = eclab(rows_of(3))
    path = tmp_path / "log.mpt"
    found = follow(Follower(path), path, content, range(len(content)))
    assert_equal(found, to_log(read_potentiostat(path)))


def test_a_table_is_followed_too(tmp_path):
    content = b"time,voltage,current\n" + b"".join(b"%d.5,3.%d,%d\n" % (1704888000 + i, i, i) for i in range(50))
    path = tmp_path / "log.csv"
    found = follow(Follower(path, clock_offset_s=37.0), path, content, range(0, len(content), 7))
    assert_equal(found, to_log(read_potentiostat(path), clock_offset_s=37.0))


def test_a_binary_file_is_read_again_when_it_changes(tmp_path):
    pytest.importorskip("galvani")
    path = tmp_path / "log.mpr"
    path.write_bytes(shared_file("echem_biologic/yadg_gcpl.issue_149.mpr").read_bytes())
    follower = Follower(path, clock_offset_s=1.0)
    news = follower.poll()
    assert news
    assert_equal(news.rows, to_log(read_potentiostat(path), clock_offset_s=1.0))
    assert follower.poll() is None


def test_a_binary_file_that_is_half_written_is_awaited_and_a_damaged_one_told(tmp_path):
    pytest.importorskip("galvani")
    whole = shared_file("echem_biologic/yadg_gcpl.issue_149.mpr").read_bytes()
    follower = Follower(tmp_path / "log.mpr")
    for part in (0, 5, 60, 7000, 12000, len(whole) - 1):
        follower.path.write_bytes(whole[:part])
        assert follower.poll() is None
        assert "half written" in follower.note
    with pytest.raises(PotentiostatError, match="export it as"):
        follower.poll(final=True)
    follower.path.write_bytes(whole)
    news = follower.poll()
    assert news
    assert len(news.rows) == 132
    assert follower.note == ""
    follower.path.write_bytes(b"GIF89a" + whole)
    with pytest.raises(PotentiostatError, match="export it as"):
        follower.poll()


def test_a_binary_file_that_does_not_say_its_start_is_told_at_once(tmp_path):
    pytest.importorskip("galvani")
    follower = Follower(tmp_path / "log.mpr")
    follower.path.write_bytes(shared_file("echem_biologic/yadg_gcpl.pr_182.1.mpr").read_bytes())
    with pytest.raises(PotentiostatError, match="start="):
        follower.poll()


def test_a_file_that_is_not_there_yet_is_awaited(tmp_path):
    follower = Follower(tmp_path / "log.mpt")
    assert follower.poll() is None
    assert "not there" in follower.note
    follower.path.write_bytes(eclab(rows_of(3)))
    news = follower.poll()
    assert news
    assert len(news.rows) == 3
    assert follower.note == ""


def test_nothing_is_read_twice(tmp_path):
    follower = Follower(tmp_path / "log.mpt")
    follower.path.write_bytes(eclab(rows_of(3)))
    assert follower.poll()
    assert follower.poll() is None


def test_beamline_time_is_potentiostat_time_and_the_offset(tmp_path):
    path = tmp_path / "log.mpt"
    path.write_bytes(eclab(rows_of(2)))
    news = Follower(path, timezone="Europe/Paris", clock_offset_s=37.0).poll()
    assert news
    assert news.rows.time[0] == 1704880949.886 + 37.0


@pytest.mark.parametrize("change", ["cut", "replaced"])
def test_a_file_that_is_cut_or_replaced_starts_over_and_says_so(tmp_path, change):
    follower = Follower(tmp_path / "log.mpt")
    follower.path.write_bytes(eclab(rows_of(20)))
    first = follower.poll()
    assert first
    again = eclab(rows_of(5)) if change == "cut" else eclab(rows_of(40, current=-3.0))
    follower.path.write_bytes(again)
    news = follower.poll()
    assert news
    assert news.restarted
    assert_equal(news.onto(first.rows), to_log(read_potentiostat(follower.path)))


def test_zeros_that_a_lagging_share_shows_are_awaited(tmp_path):
    content = eclab(rows_of(20))
    hole = bytearray(content)
    hole[-300:-100] = bytes(200)
    follower = Follower(tmp_path / "log.mpt")
    follower.path.write_bytes(hole)
    first = follower.poll()
    follower.path.write_bytes(content)
    second = follower.poll()
    assert first
    assert second
    assert not second.restarted
    assert_equal(second.onto(first.rows), to_log(read_potentiostat(follower.path)))


def test_a_last_line_without_its_end_waits_until_nothing_more_comes(tmp_path):
    follower = Follower(tmp_path / "log.csv")
    follower.path.write_bytes(b"time,voltage\n1704888000,3.5\n1704888001,3.6")
    news = follower.poll()
    assert news
    assert len(news.rows) == 1
    last = follower.poll(final=True)
    assert last
    assert last.rows.voltage.tolist() == [3.6]


def test_a_line_that_is_no_row_is_refused_and_the_rest_goes_on(tmp_path):
    follower = Follower(tmp_path / "log.mpt")
    rows = rows_of(5)
    follower.path.write_bytes(eclab([*rows[:2], ["garbage"], *rows[2:]]))
    news = follower.poll()
    assert news
    assert len(news.rows) == 5
    assert "line 12: has 1 fields" in follower.refused[0]


def test_a_file_that_is_no_log_is_told_at_once(tmp_path):
    follower = Follower(tmp_path / "log.mpt")
    follower.path.write_bytes(b"hello\nworld\n")
    with pytest.raises(PotentiostatError, match="export it again"):
        follower.poll()


def table_of(dataset) -> bytes:
    """The rows as a table, with all digits."""
    columns = ("time", "voltage", "current")
    rows = zip(*(dataset[name].values.tolist() for name in columns), strict=True)
    return (",".join(columns) + "\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows)).encode()


def growing_text(content: bytes, seconds: np.ndarray, moments: np.ndarray, rng):
    """A text file at given log times: rows come 5 s late, the last is torn, sometimes zeros stand where rows are still on their way."""
    ends = np.flatnonzero(np.frombuffer(content, np.uint8) == 0x0A) + 1
    first = len(ends) - len(seconds)
    for moment in moments:
        row = int(np.searchsorted(seconds, moment - 5.0, "right"))
        whole = int(ends[first + row - 1]) if first + row else 0
        torn = int(rng.integers(0, 40)) if row < len(seconds) else 0
        visible = bytearray(content[: whole + torn])
        if rng.random() < 0.2:
            visible[max(whole - int(rng.integers(1, 3000)), 0) :] = bytes(int(rng.integers(1, 3000)))
        yield bytes(visible)
    yield content


def growing_binary(content: bytes, seconds: np.ndarray, moments: np.ndarray, rng):
    """A .mpr file at given log times, of which each third time only a part is there."""
    for moment in moments:
        row = int(np.searchsorted(seconds, moment - 5.0, "right"))
        whole = fewer_points(content, max(row, 1))
        yield whole[: int(rng.integers(0, len(whole)))] if rng.random() < 0.3 else whole
    yield content


@pytest.mark.parametrize("name", ["bcd.issue_241.mpt", "gcpl.issue_149.mpt", "mb.mpt", "bcd.issue_241.csv", "bcd.issue_241.mpr", "mb.mpr"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_log_replayed_a_thousand_times_faster_gives_exactly_the_charge_of_the_finished_file(tmp_path, name, seed):
    """A poll each second sees the log as it was 1000 s of log time later than at the last, 5 s late, torn, absent at first."""
    pytest.importorskip("galvani")
    source = shared_file(f"echem_biologic/yadg_{name}".replace(".csv", ".mpt"))
    finished = read_potentiostat(source, timezone="Europe/Paris")
    content = table_of(finished) if name.endswith(".csv") else source.read_bytes()
    seconds = finished.time.values - finished.time.values[0]
    rng = np.random.default_rng(seed)
    # a poll a second at most 80 times, so that long logs are seen in larger pieces
    moments = np.linspace(0, seconds[-1], min(80, 2 + int(seconds[-1] / 100))) + rng.uniform(0, 20)
    growing = (growing_binary if name.endswith("mpr") else growing_text)(content, seconds, moments, rng)
    follower, log, restarts = (
        Follower(tmp_path / f"log{source.suffix if 'csv' not in name else '.csv'}", timezone="Europe/Paris"),
        Log.empty(),
        0,
    )
    assert follower.poll() is None
    for visible in growing:
        follower.path.write_bytes(visible)
        if news := follower.poll():
            log, restarts = news.onto(log), restarts + news.restarted
    if news := follower.poll(final=True):
        log = news.onto(log)
    assert follower.refused == ()
    assert_equal(log, to_log(read_potentiostat(follower.path, timezone="Europe/Paris")))
    if not name.endswith(".csv"):
        np.testing.assert_array_equal(log.charge, finished.charge)
