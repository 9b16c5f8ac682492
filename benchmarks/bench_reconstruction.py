"""Filtered back projection of all channels at once: against the astra toolbox, with errors, and live.

Run as ``python benchmarks/bench_reconstruction.py [repeats]``. Every repeat runs all calls of a row in turn, in one process; times are
medians over repeats, ratios medians of the ratios within each repeat. Peers take a few channels, and their time is scaled to all of them:
their loops cost the same for each. Beside the times there is the processor's time of all threads, which other work on the machine
disturbs less; its ratio is work against work, whatever the number of threads.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from statistics import median
from typing import Any, NamedTuple

import limits
import numpy as np
import xarray as xr

from operandi.errors import MissingBackendError
from operandi.stages import volumes
from operandi.stages.growing import GrowingVolume
from operandi.stages.reconstruction import reconstruct

SIZES = {"S": (120, 121, 1000), "M": (180, 201, 2000), "L": (360, 401, 256)}
CHANNELS_OF_L = 2000
"""L is measured on some of its channels, and its time scaled to all."""
PEER_CHANNELS = {"S": 8, "M": 6, "L": 2}
PITCH_MM = 0.05
Row = dict[str, Any]


def sinogram(n_rotation: int, n_translation: int, n_q: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three Gaussian spots whose strengths vary along q: values, rotation (deg), translation (mm)."""
    rotation = np.arange(n_rotation) * 180 / n_rotation
    translation = (np.arange(n_translation) - (n_translation - 1) / 2) * PITCH_MM
    q, theta, reach = np.linspace(1, 5, n_q), np.deg2rad(rotation)[:, None], translation[-1]
    total = np.zeros((n_rotation, n_translation, n_q), np.float32)
    for x, y, width, at in ((0.3, -0.4, 0.1, 1.8), (-0.25, 0.2, 0.2, 2.7), (0.0, 0.5, 0.05, 4.6)):
        along = translation[None] - reach * (x * np.cos(theta) + y * np.sin(theta))
        profile = np.exp(-((along / (width * reach)) ** 2)).astype(np.float32)
        total += profile[:, :, None] * (0.2 + np.exp(-(((q - at) / 0.3) ** 2))).astype(np.float32)
    return total, rotation, translation


class Took(NamedTuple):
    """Seconds of one call: of the clock, and of the processor in all threads."""

    wall: float
    cpu: float


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[Took]]:
    """What each call took in every repeat, after one that does not count."""
    times: dict[str, list[Took]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start, used = time.perf_counter(), time.process_time()
            call()
            if repeat:
                times[name].append(Took(time.perf_counter() - start, time.process_time() - used))
    return times


def wall(times: list[Took], scale: float = 1.0) -> float:
    """Median, of the clock."""
    return float(f"{scale * median(t.wall for t in times):.3g}")


def ratios(numerator: list[Took], denominator: list[Took], scale: float = 1.0) -> Row:
    """Medians of the ratios within each repeat, by the clock and by the processor."""
    pairs = list(zip(numerator, denominator, strict=True))
    return {
        "ratio": round(scale * median(n.wall / d.wall for n, d in pairs), 2),
        "ratio_cpu": round(scale * median(n.cpu / d.cpu for n, d in pairs), 2),
    }


def by_skimage(part: xr.DataArray) -> np.ndarray:
    """scikit-image's FBP, a loop over channels."""
    iradon = import_module("skimage.transform").iradon
    channels = [iradon(part[:, :, i].to_numpy().T, part["rotation"].to_numpy(), filter_name="ramp") for i in range(part.sizes["q"])]
    return np.stack(channels, axis=-1)[::-1] / PITCH_MM


def by_engine(engine: Any) -> Callable[[xr.DataArray], np.ndarray]:
    """Another engine behind `reconstruct`."""
    return lambda part: reconstruct(part, axis=0.0, engine=engine)["intensity"].to_numpy()


PEERS: dict[str, Callable[[xr.DataArray], np.ndarray]] = {
    "astra loop, 1 core": by_engine("astra"),
    "tomopy gridrec, padded": by_engine("tomopy"),
    "skimage iradon loop": by_skimage,
}


def against_peers(size: str, repeats: int) -> Iterator[Row]:
    """FBP, its share of the machine's arithmetic, and the difference from peers: astra's is that from its strip model."""
    data, rotation, translation = sinogram(*SIZES[size])
    n_q, taken = data.shape[2], PEER_CHANNELS[size]
    few = np.ascontiguousarray(data[:, :, :: n_q // taken][:, :, :taken])
    part = xr.DataArray(few, {"rotation": rotation, "translation": translation}, ("rotation", "translation", "q"))
    one, others, peak = reconstruct(part, axis=0.0)["intensity"].to_numpy(), dict[str, np.ndarray](), list[float]()
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: volumes.partial_volume(data, rotation, translation, 0.0),
        "peak": lambda: peak.append(limits.fma_peak()),
    }
    for name, peer in PEERS.items():
        try:
            others[name] = peer(part)
        except (ImportError, MissingBackendError) as error:
            yield {"name": "fbp", "size": size, "peer": f"missing: {error}"}
        else:
            calls[name] = lambda peer=peer: peer(part)
    times = interleaved(calls, repeats)
    scale, whole = n_q / taken, (CHANNELS_OF_L / n_q if size == "L" else 1.0)
    multiply_adds = data.shape[0] * data.shape[1] ** 2 * n_q * 2.5  # two for each voxel, and the filter's taps
    share = median(2 * multiply_adds / took.wall / most for took, most in zip(times["ours"], peak[1:], strict=True))
    for name, other in others.items():
        yield {
            "name": "fbp" if whole == 1.0 else f"fbp, measured on {n_q} channels, times scaled to {CHANNELS_OF_L}",
            "size": size,
            "ours_s": wall(times["ours"], whole),
            "peer": f"{name}, scaled from {taken} channels",
            "peer_s": wall(times[name], whole * scale),
            **ratios(times[name], times["ours"], scale),
            "accuracy": f"nrmse {np.sqrt(np.mean((one - other) ** 2) / np.mean(other**2)):.5f}",
            "limit": f"{100 * share:.0f} % of the multiply-adds that the machine does",
        }


def around(size: str, repeats: int) -> Iterator[Row]:
    """What goes with a frame, against its reconstruction: errors, one projection more, a block of 8, a slide by an eighth.

    Intensity and variance are timed one by one and added up. Held at once, the second one pays for memory that the process has not used
    before (on hosts that take freed memory back, a third of a second for M), the first one does not.
    """
    data, rotation, translation = sinogram(*SIZES[size])
    weights, n = volumes.angular_weights(rotation), len(rotation)
    grown = GrowingVolume(volumes.Geometry.of(translation, 0.0), n, data.shape[2])
    places = grown.add(data, rotation, weights)
    eighth = np.arange(n // 8) * 8
    at = (rotation, translation, 0.0)

    def change(chosen: np.ndarray) -> Callable[[], object]:
        taken = data[chosen]
        return lambda: places.__setitem__(chosen, grown.slide(places[chosen], taken, rotation[chosen], weights[chosen]))

    def swap(count: int) -> Callable[[], object]:
        """Add ``count`` projections; those that made room for them are taken out beforehand, untimed, by `room`."""
        return lambda: places.__setitem__(slice(0, count), grown.add(data[:count], rotation[:count], weights[:count]))

    def room(count: int) -> Callable[[], object]:
        return lambda: grown.remove(places[:count])

    calls = {
        "volume": lambda: volumes.partial_volume(data, *at),
        "variance": lambda: volumes.partial_variance(data, *at),
        "room for 1": room(1),
        "one projection": swap(1),
        "room for 8": room(8),
        "a block of 8 projections": swap(8),
        "slide by an eighth of the projections": change(eighth),
    }
    times = interleaved(calls, repeats)
    batch = volumes.partial_volume(data, *at)
    off = float(np.abs(grown.volume - batch).max() / np.abs(batch).max())
    both = [Took(one.wall + other.wall, one.cpu + other.cpu) for one, other in zip(times["volume"], times["variance"], strict=True)]
    whole: Row = {"size": size, "peer": "a whole reconstruction", "peer_s": wall(times["volume"])}
    yield {
        "name": "intensity and sigma, against intensity alone", "ours_s": wall(both), **whole,
        **ratios(both, times["volume"]), "accuracy": "exact", "limit": "costs at most 2.5 times",
    }  # fmt: skip
    for name in ("one projection", "a block of 8 projections", "slide by an eighth of the projections"):
        yield {
            "name": name, "ours_s": wall(times[name]), **whole, **ratios(times["volume"], times[name]),
            "accuracy": f"{off:.1e} of the maximum from the batch", "limit": "reading and writing the volume",
        }  # fmt: skip


def main(repeats: int = 3) -> list[Row]:
    """All rows of the reconstruction's table; those of peers only where they are installed."""
    volumes.warm_up()
    rows = [row for size in SIZES for row in against_peers(size, repeats if size != "L" else 1)]
    return [*rows, *around("M", repeats)]


if __name__ == "__main__":
    for row in main(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        print(json.dumps(row))
