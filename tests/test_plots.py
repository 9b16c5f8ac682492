import io

import numpy as np
import pytest
from shared import shared_file

from operandi.plots import draw_echem, summary
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


def test_every_other_step_is_shaded_and_all_are_named():
    panel = draw_echem(dataset()).axes[0]
    assert [text.get_text() for text in panel.texts] == ["0", "1", "2", "3"]
    (shading,) = panel.collections
    assert len(shading.get_paths()) in (1, 2)


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
