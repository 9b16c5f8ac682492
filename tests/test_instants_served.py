"""The cell at one moment, end to end: a reacting cell is measured, its instants are served, and a client asks for any other."""

import numpy as np
import pytest
from beamtimes import Beamtime, documents, measure, prepare

from operandi.client import Result
from operandi.errors import NotPublishedError
from operandi.simulate.potentiostat import LIMIT_V, ChargeCurve
from operandi.worker import replay

SCAN = {"sets": 5, "rotations_per_set": 10, "translations": 17, "exposure_s": 720 / (10 * 17)}
SET_S, FRAME = 720.0, 1
REACTING = ["graphite", "LiC12", "LiC6", "NMC lithiated", "NMC delithiated"]
FULL_MAH, FIRST_MAH, LAST_MAH = 28.54, 14.0, 28.0


def charged(first_mah: float, last_mah: float, sets: int) -> ChargeCurve:
    """From the one charge to the other at a constant current, in so many sets; empty long before, and full long after."""
    end, rate = sets * SET_S, (last_mah - first_mah) / (sets * SET_S)
    elapsed, charge = np.array([-7200.0, -3600.0, 0.0, end, end + 3600, end + 7200]), np.array([0.0, 0, 0, 0, 0, FULL_MAH])
    charge[1:5] = first_mah, first_mah, last_mah, last_mah
    return ChargeCurve(elapsed, charge, np.array([0, 0, rate, rate, 0, 0]), np.full(6, LIMIT_V))


@pytest.fixture(scope="module")
def beamtime(service) -> Beamtime:
    return measure(prepare(service.storage / "instants", service.uri, **SCAN), echem=charged(FIRST_MAH, LAST_MAH, 5))


@pytest.fixture(scope="module")
def result(service, catalog, beamtime) -> Result:
    key = replay(beamtime.experiment, documents(beamtime), api_key=service.api_key)
    return catalog.results[key]


@pytest.fixture(scope="module")
def truth(service, catalog, result) -> np.ndarray:
    """Maps (phase, y, x) of the same cell that stands still at the charge of the frame, measured in two sets."""
    still = float(result.steps["q_mah"][FRAME])
    frozen = measure(prepare(service.storage / "frozen", service.uri, **{**SCAN, "sets": 2}), echem=charged(still, still, 2))
    key = replay(frozen.experiment, documents(frozen), api_key=service.api_key)
    return catalog.results[key].maps["intensity"].sel(phase=REACTING).to_numpy()[0]


def test_every_frame_has_its_moments_its_instant_and_its_convergence(result):
    steps, finished = result.steps, result.table(("finished",))
    assert finished["frame"].tolist() == steps["frame"].tolist() == [0, 1, 2, 3]
    assert finished["set_last"].tolist() == [3, 4, 4, 4]
    assert set(finished["progress"]) == {"charge"}
    np.testing.assert_allclose(finished["q_mah"], steps["q_mah"])
    moments, instants = result.moments, result.instants
    assert not instants["provisional"].any()
    assert not moments["provisional"].any()
    for frame, row in steps.iterrows():
        time, charge = (moments[name].sel(frame=frame) for name in ("time", "charge"))
        assert (time >= row["t_start"]).all()
        assert (time <= row["t_end"]).all()
        assert float(charge.min()) >= row["q_low_mah"] - 0.01
        assert float(charge.max()) <= row["q_high_mah"] + 0.01
        assert float(moments["spread"].sel(frame=frame).min()) > 0
    assert instants["intensity"].attrs["units"] == "counts/mm/angstrom"
    assert np.isfinite(instants["sigma"]).all()
    assert moments["time"].attrs["units"] == "s"


def test_projections_hold_all_that_maps_need(result):
    projections = result.projections
    assert dict(projections.sizes) == {"projection": 50, "translation": 17, "phase": 9}
    assert np.isfinite(projections["intensity"]).all()
    assert (projections["time"].diff("projection").mean("translation") > 0).all()


def test_the_instant_is_closer_to_the_cell_at_that_charge_than_the_sliding_window(result, truth):
    sliding, instant = (part["intensity"].sel(frame=FRAME, phase=REACTING).to_numpy() for part in (result.maps, result.instants))
    assert np.sqrt(np.mean((instant - truth) ** 2)) < 0.7 * np.sqrt(np.mean((sliding - truth) ** 2))


def test_a_client_makes_the_instant_of_any_charge_and_time(result):
    q = float(result.steps["q_mah"][FRAME])
    there = result.instants.sel(frame=FRAME)
    asked = result.at_charge(q)
    np.testing.assert_allclose(asked["intensity"], there["intensity"], atol=1e-5 * float(there["intensity"].max()))
    np.testing.assert_allclose(asked["sigma"], there["sigma"], rtol=1e-4)
    assert asked.attrs["charge_mah"] == pytest.approx(q, abs=1e-6)
    assert asked.attrs["sets"] == [0, 1, 2, 3, 4]
    assert not asked.attrs["provisional"]
    by_time = result.at_time(asked.attrs["time"])
    np.testing.assert_allclose(by_time["intensity"], asked["intensity"], atol=1e-3 * float(there["intensity"].max()))
    between = result.at_charge(q + 1.0, scheme="linear")
    assert between.attrs["scheme"] == "linear"
    assert float(between["intensity"].sel(phase="NMC delithiated").sum()) > float(asked["intensity"].sel(phase="NMC delithiated").sum())


def test_a_moment_that_was_not_measured_is_refused_with_the_range(result):
    with pytest.raises(NotPublishedError, match=r"nothing is measured at 40 mAh; the projections cover 14\.\d\d to 27\.\d\d mAh"):
        result.at_charge(40)
    with pytest.raises(NotPublishedError, match=r"passes 20 mAh 1 time\(s\): passage is from 0 to 0"):
        result.at_charge(20, passage=1)
    with pytest.raises(NotPublishedError, match="the projections cover"):
        result.at_time(0.0)
    with pytest.raises(NotPublishedError, match="give one of charge_mah and time"):
        result.instant()


def test_convergence_tells_that_the_cell_changed_too_fast_and_which_phases_did_not(result):
    table = result.convergence
    assert len(table) == 4 * 9
    assert table[table["phase"].isin(["LiC12", "NMC delithiated"])]["changed"].all()
    separator = table[table["phase"] == "separator"]
    assert (separator["change_probability"] > 1e-6).all()
    assert (table["projections"] == 20).all()
    assert np.isfinite(table["resolution_mm"]).any()


def test_what_live_and_replay_are_compared_by_covers_all_of_it(result):
    paths = {f"{tree}/{name}" for tree in ("projections", "instants") for name in ("intensity", "sigma")}
    assert paths | {"moments/time", "moments/charge", "projections/time", "finished", "convergence"} <= set(result.digest())
