import io

import numpy as np
import pytest
import xarray as xr

from operandi.errors import ShapeError
from operandi.figures import maps, style

X = np.linspace(-4, 4, 9)


def plane(values, phase=None):
    values = np.broadcast_to(values, (9, 9)).astype(float)
    coords = {"y": X, "x": X} | ({} if phase is None else {"phase": phase})
    return xr.DataArray(values, coords, ("y", "x"), attrs={"units": "counts/mm 1/angstrom"})


def drawn(figure):
    """The panels, without the colour bars."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def save(figure):
    figure.savefig(file := io.BytesIO(), format="png", dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")


def test_maps_side_by_side_share_one_scale_and_show_their_values():
    parts = [plane(np.arange(9.0)), plane(2 * np.arange(9.0))]
    figure = maps.draw_maps(parts, ["5.74 mAh", "10.72 mAh"], label="LiC6 (counts)")
    panels = drawn(figure)
    assert [panel.get_title() for panel in panels] == ["5.74 mAh", "10.72 mAh"]
    for panel, part in zip(panels, parts, strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), part)
    assert panels[0].images[0].get_clim() == panels[1].images[0].get_clim()
    bar = next(axes for axes in figure.axes if axes.get_label() == "<colorbar>")
    assert bar.get_ylabel() == "LiC6 (counts)"
    save(figure)


def test_a_map_lies_where_its_coordinates_say_whatever_their_order():
    flipped = plane(np.arange(9.0)[:, None]).isel(y=slice(None, None, -1))
    image = drawn(maps.draw_maps([flipped], ["a"], label=""))[0].images[0]
    assert list(image.get_extent()) == [-4.5, 4.5, -4.5, 4.5]
    assert image.origin == "lower"
    np.testing.assert_array_equal(image.get_array()[:, 0], np.arange(9.0))


def test_what_was_not_measured_is_grey_and_does_not_count_for_the_scale():
    part = plane(np.where(np.arange(9) == 3, np.nan, 1.0))
    image = drawn(maps.draw_maps([part], ["a"], label=""))[0].images[0]
    assert image.get_array().mask[:, 3].all()
    assert image.get_array().mask.sum() == 9
    np.testing.assert_allclose(image.cmap.get_bad()[:3], float(style.NOT_MEASURED), atol=0.01)
    save(maps.draw_maps([plane(np.nan)], ["nothing"], label="", sigma=[plane(np.nan)]))


def test_the_scale_bar_is_as_long_as_it_says():
    panel = drawn(maps.draw_maps([plane(1.0)], ["a"], label=""))[0]
    (bar,) = [line for line in panel.lines if line.get_gid() == "scale bar"]
    assert np.ptp(bar.get_xdata()) == 2.0
    assert "2 mm" in [text.get_text() for text in panel.texts]
    small = plane(1.0).assign_coords(x=X / 100, y=X / 100)
    assert "20 µm" in [text.get_text() for text in drawn(maps.draw_maps([small], ["a"], label=""))[0].texts]


def test_the_scale_reaches_beyond_the_noise_and_a_phase_that_is_not_there_is_told():
    rng = np.random.default_rng(1)
    noise, sigma = plane(rng.normal(0, 1, (9, 9))), plane(1.0)
    assert drawn(maps.draw_maps([noise], ["a"], label="", sigma=[sigma]))[0].images[0].get_clim() == (0.0, 5.0)
    both = xr.concat([noise.assign_coords(phase="noise"), plane(50.0, "there")], "phase", coords="minimal", compat="override")
    figure = maps.draw_phases(both, sigma=xr.full_like(both, 1.0), quantity="Intensity")
    assert [panel.get_title() for panel in drawn(figure)] == ["noise (none above 5σ)", "there"]
    assert figure.get_suptitle() == "Intensity (counts mm⁻¹ Å⁻¹)"


def test_pictures_have_a_legend_of_the_colours_used():
    pictures = [xr.DataArray(np.full((9, 9, 3), n, np.uint8), {"y": X, "x": X}, ("y", "x", "rgb")) for n in (10, 200)]
    legend = maps.legend_of({"red": ("graphite", "LiC12"), "green": (), "blue": ("LiC6",)}, "safe")
    figure = maps.draw_composites(pictures, ["a", "b"], legend=legend)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["graphite + LiC12", "LiC6"]
    assert [panel.images[0].get_array()[0, 0, 0] for panel in drawn(figure)] == [10, 200]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 11])
def test_any_number_of_maps_is_drawn(count):
    save(maps.draw_maps([plane(float(n)) for n in range(count)], [f"{n}" for n in range(count)], label=""))


def test_maps_without_titles_are_refused():
    with pytest.raises(ShapeError, match="title"):
        maps.draw_maps([plane(1.0)], [], label="")
    with pytest.raises(ShapeError, match="at least one"):
        maps.draw_composites([], [], legend=[])


@pytest.mark.parametrize(
    ("units", "text"),
    [("counts/mm 1/angstrom", "counts mm⁻¹ Å⁻¹"), ("1", ""), ("nm", "nm"), ("counts/mm2", "counts mm⁻²"), ("deg", "°")],
)
def test_units_are_written_as_people_write_them(units, text):
    assert style.unit_text(units) == text
