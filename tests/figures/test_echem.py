import io

import numpy as np
import pytest
from shared import shared_file

from operandi.figures.echem import draw_echem, summary
from operandi.sources.potentiostat import read_potentiostat, to_dataset
from operandi.stages.charge import Log


def dataset(n=200):
    time = np.linspace(1704888000.0, 1704888000.0 + 10 * (n - 1), n)
    step = np.arange(n) // 50
    current = np.where(step % 2 == 1, 36.0, 0.0)
    charge = np.concatenate([[0.0], np.cumsum(current[1:] * 10 / 3600)])
    log = Log(time, 3.0 + charge / 10, current, charge, step, np.zeros(n, np.int64))
    return to_dataset(log, {"file": "/data/cell_01.mpt", "technique": "GCPL", "timezone": "Europe/Paris"})


def test_the_picture_has_a_panel_for_voltage_current_and_charge():
    figure = draw_echem(dataset())
    assert [panel.get_ylabel() for panel in figure.axes] == ["Voltage (V)", "Current (mA)", "Charge (mAh)"]
    np.testing.assert_array_equal(figure.axes[2].lines[0].get_ydata(), dataset().charge)
    figure.savefig(file := io.BytesIO(), format="png", dpi=50)
    assert file.getvalue().startswith(b"\x89PNG")


def test_phases_are_shaded_with_a_legend_and_steps_numbered():
    figure = draw_echem(dataset())
    panel = figure.axes[0]
    assert [text.get_text() for text in panel.texts] == ["0", "1", "2", "3"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["rest", "charge CC"]
    rest, charge, edges = panel.collections
    assert len(rest.get_paths()) == len(charge.get_paths()) == 2
    # 50 rows of 10 s each, in minutes
    np.testing.assert_allclose([segment[0][0] for segment in edges.get_segments()], [500 / 60, 1000 / 60, 1500 / 60])


@pytest.mark.parametrize(("every_s", "unit"), [(0.1, "Seconds"), (10, "Minutes"), (600, "Hours"), (7200, "Days")])
def test_times_are_in_the_unit_that_reads_best(every_s, unit):
    data = dataset()
    data = data.assign_coords(time=data.time.values[0] + every_s * np.arange(200))
    assert draw_echem(data).axes[2].get_xlabel() == f"{unit} since 2024-01-10 13:00:00 (Europe/Paris)"


def test_tiny_currents_are_drawn_in_microamperes():
    data = dataset()
    figure = draw_echem(data.assign(current=data.current * 1e-5, charge=data.charge * 1e-5))
    assert [panel.get_ylabel() for panel in figure.axes] == ["Voltage (V)", "Current (µA)", "Charge (µAh)"]
    assert figure.axes[1].lines[0].get_ydata().max() == pytest.approx(0.36)


def test_the_summary_says_when_how_long_and_how_much():
    text = "\n".join(summary(dataset()))
    assert "cell_01.mpt" in text
    assert "2024-01-10 13:00:00+01:00" in text
    assert "0:33:10" in text
    assert "10 mAh in, 0 mAh out" in text
    assert len([line for line in text.splitlines() if "charge CC" in line]) == 2


@pytest.mark.parametrize("rows", [1, 2])
def test_the_shortest_logs_are_drawn_and_told(rows):
    short = dataset(rows)
    draw_echem(short)
    assert any("rows" in line for line in summary(short))


def test_a_real_measurement_is_drawn_and_told():
    log = read_potentiostat(shared_file("echem_biologic/yadg_bcd.issue_241.mpt"), timezone="Europe/Paris")
    draw_echem(log).savefig(io.BytesIO(), format="png", dpi=50)
    assert sum("CC" in line for line in summary(log)) >= 2


def test_where_the_log_is_silent_nothing_is_drawn_or_shaded():
    whole = dataset()
    torn = whole.isel(time=np.r_[:60, 140:200])
    panel = draw_echem(torn).axes[0]
    minutes, volts = panel.lines[0].get_data()
    assert np.flatnonzero(np.isnan(minutes)).tolist() == np.flatnonzero(np.isnan(volts)).tolist() == [60]
    shaded = np.concatenate([path.get_extents().intervalx for kind in panel.collections[:2] for path in kind.get_paths()]).reshape(-1, 2)
    assert not ((shaded[:, 0] < 15) & (shaded[:, 1] > 15)).any()  # rows 60 to 140 are the minutes 10 to 23


def test_the_columns_of_the_steps_stay_in_line_whatever_the_phases_are_called():
    whole = dataset()
    flipped = whole.assign(current=whole.current.where(np.arange(len(whole.time)) % 2 == 0, -whole.current))
    table = summary(flipped)[-5:]
    assert len({len(line) for line in table}) == 1
