from itertools import pairwise

import numpy as np
import pytest
from analytic import Spot
from hypothesis import given, settings
from hypothesis import strategies as st

from operandi.errors import ShapeError
from operandi.stages.volumes import (
    angular_weights,
    grid_mm,
    partial_variance,
    partial_volume,
    write_partial_volume,
)

PITCH, AXIS = 0.05, 0.113
TRANSLATION = 2.0 + (np.arange(61) - 30) * PITCH
CENTRE = 2.0 + AXIS
ANGLE = np.arange(96) * 180 / 96
SPOTS = (Spot(0.3, -0.4, 0.15, 3.0), Spot(-0.25, 0.2, 0.45, 2.0, disc=True))
SINOGRAM = np.stack([s.project(ANGLE, TRANSLATION, CENTRE) for s in SPOTS], axis=-1)
GRID = grid_mm(TRANSLATION)


def nrmse(volume: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((volume - truth) ** 2) / np.mean(truth**2)))


def test_a_voxel_is_in_the_unit_of_the_sinogram_per_mm():
    volume = partial_volume(SINOGRAM, ANGLE, TRANSLATION, CENTRE)
    gaussian, disc = (s.image(GRID) for s in SPOTS)
    assert np.abs(volume[:, :, 0] - gaussian).max() < 0.02 * gaussian.max()
    inner = Spot(-0.25, 0.2, 0.35, disc=True).image(GRID) > 0
    assert abs(volume[:, :, 1][inner].mean() / 2.0 - 1) < 0.002
    assert np.abs(volume[:, :, 1][inner] / 2.0 - 1).max() < 0.02


def test_x_runs_along_columns_and_y_along_rows():
    volume = partial_volume(SINOGRAM, ANGLE, TRANSLATION, CENTRE)[:, :, 0]
    row, column = np.unravel_index(volume.argmax(), volume.shape)
    assert (GRID[column], GRID[row]) == pytest.approx((0.3, -0.4), abs=PITCH)


@pytest.mark.parametrize("name", ["shepp-logan", "cosine", "hann"])
def test_softer_filters_keep_the_scale(name: str):
    disc = partial_volume(SINOGRAM, ANGLE, TRANSLATION, CENTRE, name)[:, :, 1]
    inner = Spot(-0.25, 0.2, 0.35, disc=True).image(GRID) > 0
    assert abs(disc[inner].mean() / 2.0 - 1) < 0.003


def test_weights_are_the_gaps_modulo_half_a_turn():
    np.testing.assert_allclose(angular_weights(np.array([0, 10, 30, 120])), np.deg2rad([35, 15, 55, 75]))
    np.testing.assert_allclose(angular_weights(np.array([0, 180, 90, 360])), np.deg2rad([30, 30, 90, 30]))
    np.testing.assert_allclose(angular_weights(np.arange(0, 360, 30)), np.full(12, np.pi / 12))
    np.testing.assert_allclose(angular_weights(np.array([77.0])), [np.pi])
    assert angular_weights(np.empty(0)).size == 0


@given(st.lists(st.floats(-720, 720), min_size=1, max_size=30))
def test_weights_are_positive_or_nothing_and_sum_to_half_a_turn(angles: list[float]):
    weights = angular_weights(np.array(angles))
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(np.pi)


def test_a_full_turn_gives_what_half_a_turn_gives():
    angle = np.arange(192) * 360 / 192
    turn = np.stack([s.project(angle, TRANSLATION, CENTRE) for s in SPOTS], axis=-1)
    whole, half = partial_volume(turn, angle, TRANSLATION, CENTRE), partial_volume(SINOGRAM, ANGLE, TRANSLATION, CENTRE)
    assert nrmse(whole[:, :, 0], half[:, :, 0]) < 0.01
    assert nrmse(whole[:, :, 1], half[:, :, 1]) < 0.1  # a disc's edge falls between other samples


def test_the_mean_of_interlaced_sets_is_the_reconstruction_of_their_union():
    sets = [partial_volume(SINOGRAM[s::3], ANGLE[s::3], TRANSLATION, CENTRE) for s in range(3)]
    whole = partial_volume(SINOGRAM, ANGLE, TRANSLATION, CENTRE)
    np.testing.assert_allclose(np.mean(sets, axis=0), whole, atol=2e-6 * np.abs(whole).max())


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(24)))
def test_the_order_of_projections_does_not_change_a_bit(order: list[int]):
    sinogram, angle = SINOGRAM[::4], ANGLE[::4]
    volume = partial_volume(sinogram[order], angle[order], TRANSLATION, CENTRE)
    assert volume.tobytes() == partial_volume(sinogram, angle, TRANSLATION, CENTRE).tobytes()


def test_reconstruction_is_linear():
    first, second = np.random.default_rng(8).normal(size=(2, *SINOGRAM.shape))
    parts = [partial_volume(s, ANGLE, TRANSLATION, CENTRE) for s in (first, second, 2 * first - 3 * second)]
    np.testing.assert_allclose(2 * parts[0] - 3 * parts[1], parts[2], atol=1e-5 * np.abs(parts[2]).max())


def test_translations_may_run_backwards():
    there = partial_volume(SINOGRAM, ANGLE, TRANSLATION, CENTRE)
    back = partial_volume(SINOGRAM[:, ::-1], ANGLE, TRANSLATION[::-1], CENTRE)
    np.testing.assert_allclose(back, there, atol=1e-4)


def test_missing_projections_are_left_out_and_single_cells_filled():
    spoiled = SINOGRAM.copy()
    spoiled[[5, 40, 41]] = np.nan
    spoiled[20, 30] = np.nan
    volume, whole = (partial_volume(s, ANGLE, TRANSLATION, CENTRE) for s in (spoiled, SINOGRAM))
    assert nrmse(volume, whole) < 0.05
    kept = np.delete(np.arange(96), [5, 40, 41])
    filled = SINOGRAM[kept]
    filled[19, 30] = (filled[19, 29] + filled[19, 31]) / 2
    np.testing.assert_allclose(volume, partial_volume(filled, ANGLE[kept], TRANSLATION, CENTRE), atol=1e-5)


def test_a_channel_that_a_projection_lacks_is_nan_and_the_others_are_not():
    spoiled = SINOGRAM.copy()
    spoiled[7, :, 1] = np.nan
    volume = partial_volume(spoiled, ANGLE, TRANSLATION, CENTRE)
    assert np.isnan(volume[:, :, 1]).all()
    np.testing.assert_array_equal(volume[:, :, 0], partial_volume(SINOGRAM, ANGLE, TRANSLATION, CENTRE)[:, :, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_without_a_usable_projection_the_volume_is_nan(value: float):
    assert np.isnan(partial_volume(np.full_like(SINOGRAM, value), ANGLE, TRANSLATION, CENTRE)).all()
    assert np.isnan(partial_volume(SINOGRAM[:0], ANGLE[:0], TRANSLATION, CENTRE)).all()


def test_one_angle_or_one_angle_twice_gives_a_volume():
    once = partial_volume(SINOGRAM[:1], ANGLE[:1], TRANSLATION, CENTRE)
    twice = partial_volume(SINOGRAM[[0, 0]], ANGLE[[0, 0]], TRANSLATION, CENTRE)
    assert np.isfinite(once).all()
    np.testing.assert_allclose(twice, once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ramp", "hann"])
def test_the_variance_is_what_noise_realisations_scatter_by_rim_included(name: str):
    n, angle, translation = 1000, np.arange(20) * 9.0, np.arange(24) * PITCH
    variance = np.random.default_rng(9).uniform(0.1, 3, (20, 24, 1))
    noise = np.random.default_rng(10).normal(size=(20, 24, n)) * np.sqrt(variance)
    centre = 13.3 * PITCH
    scatter = partial_volume(noise, angle, translation, centre, name).var(axis=2)
    ratio = scatter / partial_variance(variance, angle, translation, centre, name)[:, :, 0]
    sampling = np.sqrt(2 / n)
    assert abs(ratio.mean() - 1) < 0.3 * sampling
    assert ratio.std() == pytest.approx(sampling, rel=0.15)
    assert np.abs(ratio - 1).max() < 5 * sampling
    rim = np.concatenate([ratio[0], ratio[-1], ratio[:, 0], ratio[:, -1]])
    assert abs(rim.mean() - 1) < sampling


@pytest.mark.parametrize(
    "wrong",
    [
        {"sinogram": SINOGRAM[:, :, 0]},
        {"sinogram": SINOGRAM[:, :, :0]},
        {"rotation_deg": ANGLE[:-1]},
        {"translation_mm": TRANSLATION[:-1]},
        {"translation_mm": TRANSLATION**2},
        {"translation_mm": np.full(61, np.nan)},
        {"axis_mm": np.nan},
        {"filter": "ram-lak"},
        {"weights": np.ones(3)},
        {"weights": np.full(96, np.nan)},
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict):
    with pytest.raises(ShapeError):
        partial_volume(**{"sinogram": SINOGRAM, "rotation_deg": ANGLE, "translation_mm": TRANSLATION, "axis_mm": CENTRE} | wrong)


def test_more_projections_mean_less_noise():
    variances = [float(partial_variance(np.ones((n, 61, 1)), np.arange(n) * 180 / n, TRANSLATION, CENTRE).mean()) for n in (12, 24, 48)]
    for few, many in pairwise(variances):
        assert few / many == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("n_channels", [64, 100])
def test_slabs_of_channels_are_the_whole_volume_bit_by_bit(n_channels: int):
    data = np.random.default_rng(11).uniform(size=(12, 61, 140)).astype(np.float32)
    at = (ANGLE[::8], TRANSLATION, CENTRE)
    volume = np.empty((61, 61, 140), np.float32)
    for first in range(0, 140, n_channels):
        write_partial_volume(data[..., first : first + n_channels], *at, "ramp", volume, first)
    assert volume.tobytes() == partial_volume(data, *at).tobytes()
    with pytest.raises(ShapeError, match="do not fit a volume"):
        write_partial_volume(data, *at, "ramp", volume, 1)


@pytest.mark.parametrize("dtype", [complex, object, "U8", "datetime64[s]"])
def test_what_is_no_real_number_is_refused_by_its_name(dtype):
    data = np.ones((3, 61, 2)).astype(int).astype(dtype)
    for make in (partial_volume, partial_variance):
        with pytest.raises(ShapeError, match=r"sinogram.*dtype"):
            make(data, ANGLE[:3], TRANSLATION, CENTRE)
    with pytest.raises(ShapeError, match=r"rotations.*dtype"):
        partial_volume(np.ones((3, 61, 2)), np.ones(3).astype(int).astype(dtype), TRANSLATION, CENTRE)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.float64, bool])
def test_any_real_dtype_is_taken(dtype):
    data = (SINOGRAM > 0.3).astype(dtype)
    np.testing.assert_array_equal(
        partial_volume(data, ANGLE, TRANSLATION, CENTRE), partial_volume(data.astype(np.float32), ANGLE, TRANSLATION, CENTRE)
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 60), st.sampled_from([np.nan, np.inf, -np.inf, 3e38])), max_size=20))
def test_spoiled_cells_never_crash_and_never_make_a_silent_zero(cells: list[tuple[int, int, float]]):
    data = np.ones((12, 61, 2), np.float32)
    for rotation, translation, value in cells:
        data[rotation, translation, 0] = value
    with np.errstate(all="ignore"):
        volume = partial_volume(data, ANGLE[::8], TRANSLATION, CENTRE)
    assert not (volume == 0).all(axis=(0, 1)).any()
    assert np.isfinite(volume[:, :, 1]).all()


@pytest.mark.parametrize("turn", [180.0, 360.0])
def test_golden_order_needs_no_other_call(turn: float):
    angle = np.mod(np.arange(144) * 180 * (np.sqrt(5) - 1) / 2, turn)
    data = np.stack([s.project(angle, TRANSLATION, CENTRE) for s in SPOTS], axis=-1)
    volume = partial_volume(data, angle, TRANSLATION, CENTRE)
    gaussian = SPOTS[0].image(GRID)
    assert nrmse(volume[:, :, 0], gaussian) < 0.03
    inner = Spot(-0.25, 0.2, 0.35, disc=True).image(GRID) > 0
    assert abs(volume[:, :, 1][inner].mean() / 2.0 - 1) < 0.003


@pytest.mark.parametrize(
    ("spots", "most"),
    [
        ((Spot(1.5, -2.0, 0.35, 3.0), Spot(-1.25, 1.0, 0.7, 2.0), Spot(0.0, 2.5, 0.18)), 0.0005),
        ((Spot(0, 0, 4.0, 1.0, True), Spot(1.5, -2.0, 0.5, 3.0, True), Spot(-1.25, 1.0, 1.5, -0.5, True)), 0.002),
    ],
)
def test_the_volume_is_that_of_astras_strip_model_within_two_thousandths(spots: tuple[Spot, ...], most: float):
    pytest.importorskip("astra")
    angle, translation = np.arange(180.0), (np.arange(201) - 100) * PITCH
    data = sum(s.project(angle, translation, 0.0) for s in spots)[:, :, None].astype(np.float32)
    assert nrmse(partial_volume(data, angle, translation, 0.0)[:, :, 0], astra_fbp(data, angle) / PITCH) < most


def astra_fbp(data: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(y, x) by the toolbox itself, for a pitch of 1 and the axis in the middle."""
    import astra

    n = data.shape[1]
    volumes, beams = astra.create_vol_geom(n, n), astra.create_proj_geom("parallel", 1.0, n, np.deg2rad(angle))
    projector = astra.create_projector("strip", beams, volumes)
    measured, result = astra.data2d.create("-sino", beams, data[:, :, 0]), astra.data2d.create("-vol", volumes)
    settings = {"ProjectorId": projector, "ProjectionDataId": measured, "ReconstructionDataId": result}
    algorithm = astra.algorithm.create(astra.astra_dict("FBP") | settings | {"option": {"FilterType": "ram-lak"}})
    astra.algorithm.run(algorithm)
    found = astra.data2d.get(result)[::-1].copy()
    astra.algorithm.delete(algorithm)
    astra.data2d.delete([measured, result])
    astra.projector.delete(projector)
    return found


def test_a_part_of_the_channels_is_written_into_a_volume_and_the_others_are_left():
    rng = np.random.default_rng(12)
    data, angle, translation = rng.uniform(0, 1, (9, 21, 70)).astype(np.float32), np.arange(9) * 20.0, np.arange(21) * 0.1
    for spoiled in (False, True):
        data[3, 4, 5] = np.nan if spoiled else 0.5
        volume = np.full((21, 21, 200), 7, np.float32)
        write_partial_volume(data, angle, translation, 1.0, "ramp", volume, 100)
        assert volume[:, :, 100:170].tobytes() == partial_volume(data, angle, translation, 1.0).tobytes()
        assert (np.delete(volume, np.s_[100:170], axis=2) == 7).all()
    with pytest.raises(ShapeError, match="70 channels"):
        write_partial_volume(data, angle, translation, 1.0, "ramp", volume, 131)
