import itertools

import numpy as np
import pytest
import xarray as xr

from operandi.errors import ShapeError
from operandi.experiment import DEFAULT_COMPOSITES
from operandi.stages.composites import NXCT, PALETTES, composite, composite_arrays, composite_limits

MAPS = xr.DataArray(
    np.stack([np.arange(16.0).reshape(4, 4), np.full((4, 4), 7.0), np.full((4, 4), np.nan)]),
    {"phase": ["a", "b", "c"]},
    ("phase", "y", "x"),
)


def test_a_composite_runs_from_black_at_the_lower_to_full_at_the_upper_limit():
    picture = composite(MAPS, red="a", limits={"red": (0, 15)})
    assert picture.dims == ("y", "x", "rgb")
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[..., 0], np.rint(MAPS[0] * 17))
    assert not picture[..., 1:].any()
    brighter = composite(MAPS, red="a", limits={"red": (0, 15)}, gamma=2.0)
    assert (brighter >= picture).all()


def test_a_colour_may_show_the_sum_of_several_phases():
    picture = composite(MAPS, green=("a", "b"), limits={"green": (7, 22)})
    np.testing.assert_array_equal(picture[..., 1], np.rint(MAPS[0] * 17))


def test_one_scale_holds_over_a_series():
    series = xr.concat([MAPS, 2 * MAPS], "frame")
    limits = composite_limits(series, red="a", percentiles=(0, 100))
    assert limits == {"red": (0, 30)}
    assert composite(MAPS, red="a", limits=limits)[..., 0].max() == 128
    assert composite(series, red="a", limits=limits).dims == ("frame", "y", "x", "rgb")


def test_what_is_nan_or_without_range_is_black():
    assert not composite(MAPS, red="b", blue="c").any()


def test_layers_share_one_scale():
    picture = composite_arrays([np.array([[0.0, 1]]), np.array([[2.0, 4]]), np.array([[-1, np.nan]])], 2.0)
    np.testing.assert_array_equal(picture, [[[0, 255, 0], [128, 255, 0]]])


@pytest.mark.parametrize(
    "wrong",
    [
        {"red": "d"},
        {},
        {"red": "a", "percentiles": (5, 5)},
        {"red": "a", "gamma": 0},
        {"red": "a", "limits": {"red": (0, np.nan)}},
        {"red": "a", "palette": "pink"},
        {"red": "a", "palette": {"red": (1, 2, 3)}},
        {"red": "a", "over": "voxel"},
    ],
)
def test_composites_that_cannot_be_are_refused(wrong: dict):
    with pytest.raises(ShapeError):
        composite(MAPS, **wrong)


def test_each_frame_may_have_a_scale_of_its_own():
    series = xr.concat([MAPS, 2 * MAPS], "frame")
    own = composite(series, red="a", over="frame", percentiles=(0, 100))
    np.testing.assert_array_equal(own[0], own[1])
    assert own.attrs["red_limits"] == [[0, 15], [0, 30]]
    assert own.dims == ("frame", "y", "x", "rgb")
    together = composite(series, red="a", percentiles=(0, 100))
    np.testing.assert_allclose(together[1, ..., 0], 2.0 * together[0, ..., 0], atol=1)


def test_a_phase_that_is_only_noise_stays_dark():
    noise = xr.DataArray(np.random.default_rng(3).normal(0, 2, (1, 40, 40)), {"phase": ["a"]}, ("phase", "y", "x"))
    bright = composite(noise, red="a")
    dark = composite(xr.Dataset({"intensity": noise, "sigma": xr.full_like(noise, 2.0)}), red="a")
    assert dark.attrs["red_limits"] == [0.0, 10.0]
    assert np.median(bright[..., 0]) > 100
    assert np.median(dark[..., 0]) < 5
    # 99 % of the noise is below 2.33 standard deviations, full colour is 5
    assert np.percentile(dark[..., 0], 99) < 255 * 2.6 / 5


def test_a_mixture_too_bright_for_the_screen_keeps_its_hue():
    full = xr.DataArray(np.ones((3, 1, 1)), {"phase": ["a", "b", "c"]}, ("phase", "y", "x"))
    limits = dict.fromkeys(("red", "green", "blue"), (0.0, 1.0))
    assert composite(full, "a", "b", limits=limits, palette="safe").values.ravel().tolist() == [255, 255, 255]
    # orange and grey: (1.65, 1.25, 0.65), of which the brightest is 1
    assert composite(full, "a", blue="c", limits=limits, palette="safe").values.ravel().tolist() == [255, 193, 100]
    own = composite(full, "a", limits=limits, palette={"red": (0.2, 0.4, 0.6)})
    assert own.values.ravel().tolist() == [51, 102, 153]


def test_the_papers_schemes_show_their_phases_in_their_colours():
    schemes = {one.name: one for one in (*DEFAULT_COMPOSITES, NXCT)}
    names = ["NMC delithiated", "NMC lithiated", "graphite", "LiC6", "LiC12", "X-ray attenuation", "neutron attenuation"]
    expected = {
        ("cathode", "NMC delithiated"): (255, 0, 0), ("cathode", "NMC lithiated"): (0, 255, 0),
        ("anode", "graphite"): (255, 0, 0), ("anode", "LiC6"): (0, 255, 0), ("anode", "LiC12"): (0, 0, 255),
        ("nxct", "X-ray attenuation"): (255, 0, 0), ("nxct", "neutron attenuation"): (0, 255, 255),
    }  # fmt: skip
    for (scheme, phase), colour in expected.items():
        one = schemes[scheme]
        maps = xr.DataArray((np.array(names) == phase).astype(float)[:, None, None], {"phase": names}, ("phase", "y", "x"))
        limits = dict.fromkeys(("red", "green", "blue"), (0.0, 1.0))
        assert tuple(composite(maps, one.red, one.green, one.blue, limits=limits).values.ravel()) == colour, (scheme, phase)


# Machado, Oliveira, Fernandes, IEEE Trans. Vis. Comput. Graph. 15, 1291 (2009), severity 1.0, on linear RGB
SEEN_BY = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(srgb: np.ndarray, seen_by: str) -> np.ndarray:
    """CIE L*a*b* (D65) of colours as somebody sees them."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4) @ np.transpose(SEEN_BY[seen_by])
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.clip(linear, 0, 1) @ to_xyz.T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def nearest_colours(palette: str, one: str, other: str, seen_by: str) -> float:
    """The smallest difference (CIE 1976) of two phases of any brightness above a third."""
    brightness = np.linspace(1 / 3, 1, 40)
    maps = xr.DataArray(np.stack([brightness, 0 * brightness]), {"phase": ["there", "not"]}, ("phase", "x"))
    limits = {one: (0.0, 1.0), other: (0.0, 1.0)}
    first = composite(maps, **{one: "there", other: "not"}, limits=limits, palette=palette) / 255
    second = composite(maps, **{one: "not", other: "there"}, limits=limits, palette=palette) / 255
    difference = lab(first.to_numpy(), seen_by)[:, None] - lab(second.to_numpy(), seen_by)[None]
    return float(np.linalg.norm(difference, axis=-1).min())


@pytest.mark.parametrize("seen_by", SEEN_BY)
@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(("red", "green", "blue"), 2)])
def test_whoever_looks_tells_the_phases_of_the_safe_palette_apart(one, other, seen_by):
    # 2.3 is just noticeable; 10 is seen at a glance
    assert nearest_colours("safe", one, other, seen_by) > 10


def test_red_and_green_are_one_colour_to_many():
    assert nearest_colours("paper", "red", "green", "deuteranopia") < 5
    assert nearest_colours("paper", "red", "green", "protanopia") < 5
    assert set(PALETTES) == {"paper", "safe"}
