"""Reconstruction of all channels at once against a loop over the astra toolbox's CPU methods.

Run as ``python benchmarks/bench_reconstruction.py [S|M] [repeats]``; every repeat runs ours and the peer in turn, medians are over repeats.
astra takes a few channels, and its time is scaled to all: its loop costs the same for each.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median

import numpy as np
import xarray as xr

from operandi.stages import volumes
from operandi.stages.maps import apply_weights, window_weights
from operandi.stages.reconstruction import reconstruct

SIZES = {"S": (120, 121, 1000), "M": (180, 201, 2000)}
PITCH_MM = 0.05


def sinogram(n_rotation: int, n_translation: int, n_q: int) -> xr.DataArray:
    """Three Gaussian spots whose strengths vary along q."""
    rotation = np.arange(n_rotation) * 180 / n_rotation
    translation = (np.arange(n_translation) - (n_translation - 1) / 2) * PITCH_MM
    q, theta, reach = np.linspace(1, 5, n_q), np.deg2rad(rotation)[:, None], translation[-1]
    total = np.zeros((n_rotation, n_translation, n_q), np.float32)
    for x, y, width, at in ((0.3, -0.4, 0.1, 1.8), (-0.25, 0.2, 0.2, 2.7), (0.0, 0.5, 0.05, 4.6)):
        along = translation[None] - reach * (x * np.cos(theta) + y * np.sin(theta))
        profile = np.exp(-((along / (width * reach)) ** 2)).astype(np.float32)
        total += profile[:, :, None] * (0.2 + np.exp(-(((q - at) / 0.3) ** 2))).astype(np.float32)
    return xr.DataArray(total, {"rotation": rotation, "translation": translation, "q": q}, ("rotation", "translation", "q"))


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


def against_astra(data: xr.DataArray, method: str, iterations: int, channels: int, peer_channels: int, repeats: int) -> dict[str, object]:
    """One row: a method on some channels, astra's time scaled to as many, and how the results differ."""
    ours, peer = data[..., :channels], data[..., :: data.sizes["q"] // peer_channels][..., :peer_channels]

    def by(engine: str, part: xr.DataArray) -> np.ndarray:
        found = reconstruct(part, axis=0.0, method=method, engine=engine, iterations=iterations)  # type: ignore[arg-type]
        return found["intensity"].to_numpy()

    times = interleaved({"ours": lambda: by("native", ours), "peer": lambda: by("astra", peer)}, repeats)
    scale = channels / peer_channels
    one, other = by("native", peer), by("astra", peer)
    return {
        "name": f"{method} {iterations} iterations" if method != "fbp" else "fbp",
        "size": [*data.shape[:2], channels],
        "ours_s": round(median(times["ours"]), 3),
        "peer": "astra loop, 1 core",
        "peer_s": round(scale * median(times["peer"]), 2),
        "ratio": round(median(scale * theirs / ours for ours, theirs in zip(times["ours"], times["peer"], strict=True)), 1),
        "nrmse": round(float(np.sqrt(np.mean((one - other) ** 2) / np.mean(other**2))), 5),
    }


def around_fbp(data: xr.DataArray, repeats: int) -> Iterator[dict[str, object]]:
    """What goes with a frame, as a share of its volume: variance, the mean of two sets, maps."""
    values, at = data.to_numpy(), (data["rotation"].to_numpy(), data["translation"].to_numpy(), 0.0)
    volume = volumes.partial_volume(values, *at)
    windows = {f"window {i}": (1.2 + 0.08 * i, 1.26 + 0.08 * i) for i in range(40)}
    weights = window_weights(data["q"].to_numpy(), windows)
    calls = {
        "volume": lambda: volumes.partial_volume(values, *at),
        "variance": lambda: volumes.partial_variance(values, *at),
        "mean of two sets": lambda: volumes.combine([volume, volume], [1, 1]),
        "40 maps with background": lambda: apply_weights(volume, weights),
    }
    times = interleaved(calls, repeats)
    for name, took in times.items():
        shares = [t / whole for t, whole in zip(took, times["volume"], strict=True)]
        yield {"name": name, "size": list(data.shape), "ours_s": round(median(took), 3), "per_volume": round(median(shares), 2)}


def bench(size: str = "S", repeats: int = 3) -> list[dict[str, object]]:
    """All rows of the reconstruction's table."""
    data = sinogram(*SIZES[size])
    return [
        against_astra(data, "fbp", 0, data.sizes["q"], 10, repeats),
        against_astra(data, "sirt", 10, 128, 2, 1),
        against_astra(data, "cgls", 5, 128, 2, 1),
        *around_fbp(data, repeats),
    ]


if __name__ == "__main__":
    for line in bench(sys.argv[1] if len(sys.argv) > 1 else "S", int(sys.argv[2]) if len(sys.argv) > 2 else 3):
        print(json.dumps(line))
