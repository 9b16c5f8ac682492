"""Filtered back projection of all channels at once: against the astra toolbox, with errors, and live.

Run as ``python benchmarks/bench_reconstruction.py [repeats]``. Every repeat runs all calls of a row in turn, in one process; times are
medians over repeats, ratios medians of the ratios within each repeat. astra takes a few channels on one core, and its time is scaled to
all of them: its loop costs the same for each.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

import numpy as np

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


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, for every repeat, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(numerator: list[float], denominator: list[float], scale: float = 1.0) -> float:
    """Median of the ratios within each repeat."""
    return round(scale * median(n / d for n, d in zip(numerator, denominator, strict=True)), 2)


def against_astra(size: str, repeats: int) -> Row:
    """FBP, its share of the machine's arithmetic, and the difference from astra's strip model."""
    import astra  # noqa: F401
    import limits
    import xarray as xr

    data, rotation, translation = sinogram(*SIZES[size])
    n_q = data.shape[2]
    part = xr.DataArray(
        np.ascontiguousarray(data[:, :, :: n_q // PEER_CHANNELS[size]][:, :, : PEER_CHANNELS[size]]),
        {"rotation": rotation, "translation": translation},
        ("rotation", "translation", "q"),
    )
    peer = lambda: reconstruct(part, axis=0.0, engine="astra")["intensity"].to_numpy()  # noqa: E731
    peak: list[float] = []
    times = interleaved(
        {
            "ours": lambda: volumes.partial_volume(data, rotation, translation, 0.0),
            "peer": peer,
            "peak": lambda: peak.append(limits.fma_peak()),
        },
        repeats,
    )
    scale, whole = n_q / part.sizes["q"], (CHANNELS_OF_L / n_q if size == "L" else 1.0)
    updates = data.shape[0] * data.shape[1] ** 2 * n_q + data.shape[0] * data.shape[1] ** 2 * n_q // 4
    one, other = reconstruct(part, axis=0.0)["intensity"].to_numpy(), peer()
    share = median(4 * updates / took / most for took, most in zip(times["ours"], peak[1:], strict=True))
    return {
        "name": "fbp" if whole == 1.0 else f"fbp, measured on {n_q} channels, times scaled to {CHANNELS_OF_L}",
        "size": size,
        "ours_s": round(whole * median(times["ours"]), 3),
        "peer": f"astra loop, 1 core, scaled from {part.sizes['q']} channels",
        "peer_s": round(whole * scale * median(times["peer"]), 1),
        "ratio": ratio(times["peer"], times["ours"], scale),
        "accuracy": f"nrmse {np.sqrt(np.mean((one - other) ** 2) / np.mean(other**2)):.5f}",
        "limit": f"{100 * share:.0f} % of the multiply-adds that the machine does",
    }


def around(size: str, repeats: int) -> Iterator[Row]:
    """What goes with a frame, against its reconstruction: errors, one projection more, a block of 8, a slide by an eighth."""
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
        "intensity and sigma, against intensity alone": lambda: (volumes.partial_volume(data, *at), volumes.partial_variance(data, *at)),
        "room for 1": room(1),
        "one projection": swap(1),
        "room for 8": room(8),
        "a block of 8 projections": swap(8),
        "slide by an eighth of the projections": change(eighth),
    }
    times = interleaved(calls, repeats)
    batch = volumes.partial_volume(data, *at)
    off = float(np.abs(grown.volume - batch).max() / np.abs(batch).max())
    for name in calls:
        if not name.startswith(("volume", "room")):
            sigma = name.startswith("intensity")
            yield {
                "name": name,
                "size": size,
                "ours_s": round(median(times[name]), 4),
                "peer": "a whole reconstruction",
                "peer_s": round(median(times["volume"]), 3),
                "ratio": ratio(times[name], times["volume"]) if sigma else ratio(times["volume"], times[name]),
                "accuracy": "exact" if sigma else f"{off:.1e} of the maximum from the batch",
                "limit": "costs at most 2.5 times" if sigma else "reading and writing the volume",
            }


def main(repeats: int = 3) -> list[Row]:
    """All rows of the reconstruction's table; those against astra only where it is installed."""
    volumes.warm_up()
    rows: list[Row] = []
    for size in SIZES:
        try:
            rows.append(against_astra(size, repeats if size != "L" else 1))
        except (ImportError, MissingBackendError) as error:
            rows.append({"name": "fbp", "size": size, "peer": f"missing: {error}"})
    return [*rows, *around("M", repeats)]


if __name__ == "__main__":
    for row in main(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        print(json.dumps(row))
