import io

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from operandi.errors import NotPublishedError, ShapeError
from operandi.figures import profiles, saxs, scans, series, unrolled
from operandi.figures.echem import draw_cycling
from operandi.figures.maps import legend_of

Q = np.linspace(1.5, 5.0, 200)
PATTERNS = xr.DataArray(np.outer([1.0, 2.0, 3.0], Q), {"q": Q}, ("frame", "q"), attrs={"units": "counts/mm"})
WINDOWS = {"copper": (4.85, 4.95), "LiC6": (1.66, 1.73), "silicon": (0.025, 0.1)}
T_START = 1e9 + 720 * np.arange(3)
STEPS = pd.DataFrame({"frame": [0, 1, 2], "t_start": T_START, "t_end": T_START + 1440, "q_mah": [5.74, 10.72, np.nan]})
TIME = 1e9 + np.linspace(-600, 2880, 30)
ECHEM = pd.DataFrame({"time": TIME, "voltage": np.linspace(3, 4, 30), "current": np.full(30, 20.0), "charge": np.linspace(0, 15, 30)})


def save(figure):
    figure.savefig(file := io.BytesIO(), format="pdf")
    assert file.getvalue().startswith(b"%PDF")


def test_patterns_are_drawn_with_the_windows_that_they_hold_shaded_and_named():
    figure = profiles.draw_mean_patterns(PATTERNS, ["a", "b", "c"], WINDOWS, charge_mah=np.array([1.0, 2.0, 3.0]))
    axes, bar = figure.axes
    assert axes.get_xlabel() == "q (Å⁻¹)"
    assert axes.get_ylabel() == "Mean intensity (counts mm⁻¹)"
    assert bar.get_ylabel() == "Charge (mAh)"
    np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], PATTERNS)
    assert [text.get_text() for text in axes.texts] == ["LiC6", "copper"]
    assert sorted(patch.get_x() for patch in axes.patches) == [1.66, 4.85]
    save(figure)


def test_states_have_a_legend_in_place_of_the_charge():
    figure = profiles.draw_mean_patterns(PATTERNS, ["fresh", "aged", "dead"], WINDOWS, charge_mah=np.array([1.0, np.nan, 3.0]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fresh", "aged", "dead"]


def test_each_window_has_a_panel_that_reaches_beyond_it():
    figure = profiles.draw_windows(PATTERNS, ["a", "b", "c"], WINDOWS)
    assert [axes.get_title() for axes in figure.axes] == ["LiC6", "copper"]
    assert figure.axes[0].get_xlim() == pytest.approx((1.66 - 1.5 * 0.07, 1.73 + 1.5 * 0.07))
    save(figure)


def test_patterns_without_any_window_are_told():
    with pytest.raises(ShapeError, match="no window lies within the patterns"):
        profiles.draw_mean_patterns(PATTERNS, ["a", "b", "c"], {"silicon": (0.025, 0.1)})


REGIONS = ["normal", "bend"]
FOUND = xr.Dataset(
    {name: ("region", values) for name, values in {"dstar": [11.8, np.nan], "sigma": [0.2, np.nan], "q_star": [0.0532, np.nan],
     "slope": [-4.0, -2.0], "reason": ["", "one slope"]}.items()}, {"region": REGIONS})  # fmt: skip
SMALL_Q = np.geomspace(0.02, 0.2, 60)


def law(q, q_star, slope):
    return np.where(q > q_star, (q / q_star) ** slope, (q / q_star) ** -1.0)


def test_the_power_law_is_drawn_on_the_profile_and_q_star_where_it_was_found():
    intensity = np.stack([law(SMALL_Q, 0.0532, -4.0), 0.1 * SMALL_Q**-2.0])
    states = {"charged": xr.Dataset({"intensity": (("region", "q"), intensity)}, {"region": REGIONS, "q": SMALL_Q})}
    (axes,) = saxs.draw_departures(states, {"charged": FOUND}).axes
    points, line, star, _, single = axes.lines
    np.testing.assert_allclose(points.get_ydata(), intensity[0])
    above = line.get_xdata() > 0.0532
    np.testing.assert_allclose(line.get_ydata()[above], law(line.get_xdata()[above], 0.0532, -4.0), rtol=1e-6)
    assert star.get_xdata()[0] == 0.0532
    np.testing.assert_allclose(single.get_ydata(), 0.1 * single.get_xdata() ** -2.0, rtol=1e-6)
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["normal: d* = 11.8 ± 0.2 nm", "bend: no d* (one slope)"]
    with pytest.raises(ShapeError, match="of each state"):
        saxs.draw_departures(states, {})


def test_a_profile_that_is_all_nan_or_negative_is_drawn_without_a_line():
    values = np.stack([np.full(60, np.nan), -np.ones(60)])
    states = {"charged": xr.Dataset({"intensity": (("region", "q"), values)}, {"region": REGIONS, "q": SMALL_Q})}
    save(saxs.draw_departures(states, {"charged": FOUND}))


def test_the_table_tells_none_with_its_reason():
    table = xr.concat([FOUND, FOUND], "state").assign_coords(state=["charged", "discharged"])
    (axes,) = saxs.draw_table(table).axes
    cells = {place: cell.get_text().get_text() for place, cell in axes.tables[0].get_celld().items()}
    assert cells[0, 0] == "normal, nm"
    assert (cells[1, -1], cells[2, -1]) == ("charged", "discharged")
    assert (cells[1, 0], cells[2, 1]) == ("11.8 ± 0.2", "none (one slope)")


def test_the_cell_is_drawn_over_time_with_its_frames():
    figure = draw_cycling(ECHEM, STEPS)
    assert [axes.get_ylabel() for axes in figure.axes] == ["Frames", "Voltage (V)", "Current (mA)", "Charge (mAh)"]
    charge = figure.axes[3]
    np.testing.assert_allclose(charge.lines[0].get_xdata(), (TIME - 1e9) / 3600)
    np.testing.assert_allclose(charge.lines[1].get_xydata(), [[0.2, 5.74], [0.4, 10.72]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "1", "2"]
    # frames 0 and 1 overlap, 0 and 2 do not
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [0, 1, 0]
    save(figure)
    with pytest.raises(NotPublishedError, match="no potentiostat log"):
        draw_cycling(ECHEM.iloc[:0], STEPS)


@pytest.mark.parametrize("frames", [1, 3, 40])
@pytest.mark.parametrize("log", [ECHEM, ECHEM.iloc[:0]], ids=["log", "no log"])
def test_the_overview_shows_a_series_of_any_length_with_and_without_a_log(frames, log):
    x = np.arange(5.0)
    pictures = xr.DataArray(np.zeros((frames, 5, 5, 3), np.uint8), {"y": x, "x": x}, ("frame", "y", "x", "rgb"))
    legends = {"anode": legend_of({"red": ["graphite"]}), "cathode": legend_of({"red": ["NMC delithiated"]})}
    titles = [f"{n} mAh" for n in range(frames)]
    figure = series.draw_overview(dict.fromkeys(legends, pictures), titles, legends=legends, echem=log, steps=STEPS)
    shown = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert (shown[0], shown[-1], len(shown)) == ("0 mAh", titles[-1], min(frames, 12))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["graphite / NMC delithiated"]
    save(figure)


def test_an_unrolled_electrode_has_millimetres_on_both_axes_and_tells_that_depth_is_stretched():
    values = np.random.default_rng(0).random((7, 600))
    electrode = xr.DataArray(values, {"depth": np.linspace(-0.3, 0.3, 7), "arc": np.linspace(0, 60, 600)}, ("depth", "arc"))
    figure = unrolled.draw_unrolled([electrode, 2 * electrode], ["fresh", "aged"], label="LiC6")
    panels = figure.axes[:2]
    assert panels[1].get_xlabel() == "Arc length (mm)"
    assert figure.get_supylabel() == "Depth (mm), 6.3 × as long"
    np.testing.assert_array_equal(panels[1].images[0].get_array(), 2 * values)
    save(figure)


def test_sinograms_are_drawn_in_the_order_of_their_angles():
    values = np.arange(24.0).reshape(2, 3, 4)
    coords = {"phase": ["a", "b"], "rotation": [90.0, 0.0, 45.0], "translation": [-1.0, 0.0, 1.0, 2.0]}
    sinograms = xr.DataArray(values, coords, ("phase", "rotation", "translation"))
    figure = scans.draw_sinograms(sinograms, axis_mm=0.4)
    mesh = figure.axes[0].collections[0]
    np.testing.assert_array_equal(mesh.get_array(), values[0][[1, 2, 0]])
    assert figure.axes[0].lines[0].get_xdata() == [0.4, 0.4]
    save(figure)


def test_the_resolution_of_what_is_known_is_drawn_and_else_the_reason_told():
    table = pd.DataFrame({"frame": [0, 1, 0, 1], "phase": ["Al", "Al", "Cu", "Cu"], "resolution_mm": [0.1, 0.2, np.nan, 0.3],
                          "angular_mm": 0.4, "reason": ["", "", "too few projections", ""]})  # fmt: skip
    (axes,) = scans.draw_resolution(table, {0: "5.74 mAh", 1: "10.72 mAh"}).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [100, 200])
    assert axes.get_ylabel() == "Resolution (µm)"
    with pytest.raises(NotPublishedError, match="too few projections"):
        scans.draw_resolution(table.iloc[2:3], {0: "5.74 mAh"})
