import numpy as np
import pytest

from operandi.errors import ShapeError
from operandi.stages.growing import GrowingVolume
from operandi.stages.volumes import Geometry, angular_weights, partial_volume

N_ANGLES, TRANSLATION, AXIS = 24, np.arange(19) * 0.1, 0.93
ANGLE = np.arange(N_ANGLES) * 180 / N_ANGLES
WEIGHTS = angular_weights(ANGLE)
GEOMETRY = Geometry.of(TRANSLATION, AXIS)


def sinogram(seed: int, n: int = N_ANGLES, n_channels: int = 70) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (n, 19, n_channels)).astype(np.float32)


def assert_same(grown: np.ndarray, batch: np.ndarray) -> None:
    assert np.abs(grown - batch).max() <= 1e-6 * np.abs(batch).max()


@pytest.mark.parametrize("block", [1, 5, 8, 12])
@pytest.mark.parametrize("name", ["ramp", "hann"])
def test_a_frame_grown_in_any_order_is_the_batch_one(block: int, name: str):
    data, grown = sinogram(1), GrowingVolume(GEOMETRY, N_ANGLES, 70, name)
    order = np.random.default_rng(2).permutation(N_ANGLES)
    for first in range(0, N_ANGLES, block):
        new = order[first : first + block]
        grown.add(data[new], ANGLE[new], WEIGHTS[new])
    assert grown.share == pytest.approx(1)
    batch = partial_volume(data, ANGLE, TRANSLATION, AXIS, name)
    assert_same(grown.volume, batch)
    grown.settle()
    assert grown.volume.tobytes() == batch.tobytes()


def test_a_growing_frame_is_the_part_of_the_plan_that_has_come():
    data, grown = sinogram(3), GrowingVolume(GEOMETRY, N_ANGLES, 70)
    grown.add(data[::2], ANGLE[::2], WEIGHTS[::2])
    assert grown.share == pytest.approx(0.5)
    assert_same(grown.volume / grown.share, partial_volume(data[::2], ANGLE[::2], TRANSLATION, AXIS))


@pytest.mark.parametrize("step", [3, 6])
def test_hundreds_of_slides_leave_what_the_last_window_gives(step: int):
    data, grown = sinogram(4, n_channels=65), GrowingVolume(GEOMETRY, N_ANGLES, 65)
    places = grown.add(data, ANGLE, WEIGHTS)
    rng = np.random.default_rng(5)
    for slide in range(400):
        moved = (slide * step + np.arange(step)) % N_ANGLES
        data[moved] = rng.uniform(0, 1, (step, 19, 65))
        places[moved] = grown.slide(places[moved], data[moved], ANGLE[moved], WEIGHTS[moved])
    assert grown.share == pytest.approx(1)
    assert_same(grown.volume, partial_volume(data, ANGLE, TRANSLATION, AXIS))


@pytest.mark.parametrize("n_new", [4, 20])
def test_projections_that_come_at_the_angles_of_those_that_leave_and_at_others_give_what_is_left(n_new: int):
    angles = np.append(ANGLE, ANGLE[: n_new // 2] + 0.3)
    data, weights = sinogram(8, len(angles)), angular_weights(angles)
    grown = GrowingVolume(GEOMETRY, 2 * len(angles), 70)
    places = grown.add(data, angles, weights)
    come = np.append(angles[: n_new // 2], angles[: n_new // 2] + 0.1)  # half of them replace others, and all weigh something else
    new, heavier = sinogram(9, len(come)), 1.5 * weights[: len(come)]
    grown.slide(places[:n_new], new, come, heavier)
    left = (np.append(data[n_new:], new, axis=0), np.append(angles[n_new:], come), np.append(weights[n_new:], heavier))
    assert_same(grown.volume, partial_volume(left[0], left[1], TRANSLATION, AXIS, weights=left[2]))


def test_what_is_removed_is_gone():
    data, grown = sinogram(6), GrowingVolume(GEOMETRY, N_ANGLES, 70)
    places = grown.add(data, ANGLE, WEIGHTS)
    grown.remove(places[4:])
    assert_same(grown.volume, partial_volume(data[:4], ANGLE[:4], TRANSLATION, AXIS, weights=WEIGHTS[:4]))
    assert grown.share == pytest.approx(4 / N_ANGLES)


def test_what_does_not_fit_is_refused_and_changes_nothing():
    data, grown = sinogram(7), GrowingVolume(GEOMETRY, N_ANGLES, 70)
    places = grown.add(data[:20], ANGLE[:20], WEIGHTS[:20])
    before = grown.volume.copy()
    spoiled = data[:1].copy()
    spoiled[0, 3, 5] = np.inf
    for values, angle in ((data[:5], ANGLE[:5]), (spoiled, ANGLE[:1]), (data[:1, :, :3], ANGLE[:1]), (data[:1] * 1j, ANGLE[:1])):
        with pytest.raises(ShapeError):
            grown.add(values, angle, WEIGHTS[: len(angle)])
    for wrong in ([places[0], places[0]], [23], [-1], [99]):
        with pytest.raises(ShapeError, match="places"):
            grown.remove(np.array(wrong))
    np.testing.assert_array_equal(grown.volume, before)
    with pytest.raises(ShapeError):
        GrowingVolume(GEOMETRY, 0, 70)
    with pytest.raises(ShapeError, match="increase"):
        Geometry.of(TRANSLATION[::-1], AXIS)
    with pytest.raises(ShapeError, match="filter"):
        GrowingVolume(GEOMETRY, 3, 70, "ram-lak")
