"""The simulated log says what the paper's potentiostat said, as EC-Lab writes it."""

from dataclasses import replace

import numpy as np
import pytest
import yadg.extractors.eclab.mpt as eclab

from operandi.errors import PotentiostatError
from operandi.simulate.potentiostat import (
    OPEN_ROWS,
    SET_BOUNDARIES_MAH,
    PotentiostatLog,
    discharged_by_accident,
    paper_curve,
    recorded_curve,
)

CURVE = paper_curve(7200.0)
T0 = 1.7638e9


def written(path, until_s=7500.0, **options):
    log = PotentiostatLog(path, CURVE, first_image_s=T0, **options)
    for elapsed in np.arange(0, until_s + 1, 18.0):
        log.advance(T0 + elapsed)
    log.close()


def read(path, timezone="UTC"):
    return eclab.extract_from_path(path, encoding="windows-1252", locale="en_GB", timezone=timezone).ds


def test_yadg_reads_the_charge_at_the_boundaries_of_the_sets(tmp_path):
    written(tmp_path / "log.mpt", timezone="Europe/Paris", clock_offset_s=37.0)
    log = read(tmp_path / "log.mpt", "Europe/Paris")
    elapsed = log["uts"].values + 37.0 - T0
    found = np.interp(np.arange(11) * 720.0, elapsed, log["(Q-Qo)"].values)
    np.testing.assert_allclose(found, SET_BOUNDARIES_MAH, atol=1e-3)


def test_the_first_set_has_constant_current_and_the_rest_constant_voltage(tmp_path):
    written(tmp_path / "log.mpt")
    log = read(tmp_path / "log.mpt")
    elapsed = log["uts"].values - T0
    first = (elapsed >= 0) & (elapsed < 720)
    np.testing.assert_allclose(log["<I>"].values[first], 30.4, rtol=1e-6)
    later = (elapsed >= 720) & (elapsed < 7200)
    np.testing.assert_allclose(log["Ewe"].values[later], 4.2, atol=1e-6)
    assert (np.diff(log["<I>"].values[later]) < 1e-3).mean() > 0.9


def test_the_circuit_is_open_before_the_first_image_and_after_the_last(tmp_path):
    written(tmp_path / "log.mpt")
    log = read(tmp_path / "log.mpt")
    elapsed = log["uts"].values - T0
    assert elapsed[0] == pytest.approx(-5.0 * OPEN_ROWS)
    outside = (elapsed < 0) | (elapsed >= 7200)
    assert (log["<I>"].values[outside] == 0).all()
    assert (log["mode"].values[outside] == 3).all()


def test_current_is_the_derivative_of_charge():
    t = np.linspace(100, 7100, 400)
    slope = (CURVE.charge(t + 0.5) - CURVE.charge(t - 0.5)) * 3600
    np.testing.assert_allclose(CURVE.current(t), slope, atol=1e-3)


def test_the_log_grows_with_virtual_time_and_only_by_whole_rows(tmp_path):
    path = tmp_path / "log.mpt"
    log = PotentiostatLog(path, CURVE, first_image_s=T0)
    log.advance(T0 + 12.0)
    before = path.read_bytes()
    log.advance(T0 + 14.0)
    assert path.read_bytes() == before
    log.advance(T0 + 15.0)
    after = path.read_bytes()
    log.close()
    assert after.startswith(before)
    assert after[len(before) :].count(b"\r\n") == 1
    assert after.endswith(b"\r\n")


def test_the_header_gives_local_time_of_a_clock_that_is_behind(tmp_path):
    written(tmp_path / "log.mpt", until_s=0.0, timezone="Europe/Paris", clock_offset_s=37.0)
    content = (tmp_path / "log.mpt").read_bytes()
    assert b"Acquisition started on : 11/22/2025 09:" in content
    assert "cm²".encode("latin-1") in content


def test_another_number_of_sets_scales_the_curve_in_time():
    assert float(paper_curve(100.0).charge(50.0)) == pytest.approx(20.28)


def test_a_recorded_curve_passes_through_its_rows():
    curve = recorded_curve(np.array([0.0, 10, 20]), np.array([0.0, 2, 1]), np.array([3.0, 4, 3.5]), np.array([700.0, 0, -700]))
    np.testing.assert_allclose(curve.charge(np.array([-5.0, 0, 10, 20, 99])), [0, 0, 2, 1, 1], atol=1e-12)


@pytest.mark.parametrize("time", [[0.0, 0, 1], [0.0, np.nan, 1], [0.0, 1]])
def test_a_recorded_curve_with_gaps_is_refused(time):
    columns = [np.zeros(3)] * 3
    with pytest.raises(PotentiostatError):
        recorded_curve(np.array(time), *columns)


def test_a_log_that_was_measured_is_never_replaced(tmp_path):
    (tmp_path / "log.mpt").write_bytes(b"EC-Lab ASCII FILE\r\nmeasured")
    with pytest.raises(PotentiostatError, match="not simulated"):
        PotentiostatLog(tmp_path / "log.mpt", CURVE, first_image_s=T0)


def test_a_simulated_log_makes_room_for_the_next(tmp_path):
    written(tmp_path / "log.mpt", until_s=100)
    written(tmp_path / "log.mpt", until_s=0)
    assert read(tmp_path / "log.mpt")["uts"].size == OPEN_ROWS + 1


@pytest.mark.parametrize("start_s", [300.0, 3600.0, 3610.5])
def test_an_accident_takes_charge_away_and_gives_it_back_and_all_later_charge_comes_later(start_s):
    curve = discharged_by_accident(CURVE, start_s=start_s, discharge_s=120.0, current_ma=30.4)
    begin, end = curve.accident_s
    assert (begin, end) == (start_s, pytest.approx(start_s + 240, abs=0.05))
    assert float(curve.charge(start_s + 120)) == pytest.approx(float(CURVE.charge(start_s)) - 30.4 * 120 / 3600, abs=1e-3)
    elapsed = np.linspace(0, 7200, 200)
    np.testing.assert_allclose(curve.charge(elapsed + (end - begin) * (elapsed > start_s)), CURVE.charge(elapsed), atol=2e-3)


def test_in_an_accident_current_is_still_the_derivative_of_charge():
    curve = discharged_by_accident(CURVE, start_s=3600.0, discharge_s=120.0, current_ma=30.4)
    elapsed = np.linspace(3500, 4000, 5001)
    passed = np.cumsum(np.diff(elapsed, prepend=elapsed[0]) * curve.current(elapsed - 0.05)) / 3600
    np.testing.assert_allclose(curve.charge(elapsed) - curve.charge(elapsed[0]), passed, atol=2e-3)
    assert curve.current(3660.0) == pytest.approx(-30.4)
    assert curve.current(3780.0) == pytest.approx(30.4)


@pytest.mark.parametrize("wrong", [{"start_s": 0.0}, {"start_s": 7200.0}, {"discharge_s": 0.0}, {"current_ma": -30.0}])
def test_an_accident_that_cannot_be_is_refused(wrong):
    with pytest.raises(PotentiostatError, match="no accident"):
        discharged_by_accident(CURVE, **{"start_s": 3600.0, "discharge_s": 120.0, "current_ma": 30.4, **wrong})


def test_a_log_with_an_accident_says_oxidation_turned_into_reduction_within_one_step(tmp_path):
    curve = discharged_by_accident(CURVE, start_s=3600.0, discharge_s=120.0, current_ma=30.4)
    log = PotentiostatLog(tmp_path / "log.mpt", curve, first_image_s=T0)
    log.advance(T0 + 7600)
    log.close()
    read_back = read(tmp_path / "log.mpt")
    elapsed = read_back["uts"].values - T0
    accident = (elapsed > 3600) & (elapsed < 3720)
    np.testing.assert_allclose(read_back["<I>"].values[accident], -30.4, rtol=1e-6)
    assert (read_back["Ns"].values[accident] == 2).all()
    assert (read_back["mode"].values[accident] == 1).all()
    assert (np.diff(read_back["(Q-Qo)"].values[accident]) < 0).all()


def test_a_cell_may_discharge_itself_once_the_current_is_removed():
    leaking = replace(CURVE, self_discharge_v_h=0.05)
    assert leaking.voltage(7200 + 3600.0) == pytest.approx(CURVE.voltage(7200 + 3600.0) - 0.05)
    assert leaking.voltage(7200.0) == CURVE.voltage(7200.0)
