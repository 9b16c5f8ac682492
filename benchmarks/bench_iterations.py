"""Iterative reconstruction of many channels against a loop over the astra toolbox's CPU methods (strip model, one core).

Run as ``python benchmarks/bench_iterations.py [repeats]``. Every repeat runs ours and the peer in turn; times are medians. astra takes one
channel, and its time is scaled to all: its loop costs the same for each. Accuracy: the error against an analytic phantom, ours and astra's.
"""

import sys
import time
from statistics import median

import numpy as np

from operandi.kernels.projection import CHANNELS
from operandi.stages import engines
from operandi.stages.iterations import Iterations, iterate

SIZES = {"S": (120, 121), "M": (180, 201)}
N_CHANNELS = 4 * CHANNELS
METHODS = (("sirt", 50), ("cgls", 15))
PITCH_MM = 0.05
SPOTS = ((0.3, -0.4, 0.15, 3.0), (-0.25, 0.2, 0.4, 2.0), (0.0, 0.5, 0.08, 1.0))
"""Gaussians: x, y, width as fractions of the half width, height."""


def phantom(n_rotation: int, n_translation: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles in degrees, sinogram (rotation, translation, 1), and the truth (y, x), in closed form."""
    rotation = np.arange(n_rotation) * 180 / n_rotation
    at = (np.arange(n_translation) - (n_translation - 1) / 2) * PITCH_MM
    theta, reach = np.deg2rad(rotation)[:, None], at[-1]
    sinogram, truth = np.zeros((n_rotation, n_translation)), np.zeros((n_translation, n_translation))
    for x, y, width, height in SPOTS:
        x, y, width = x * reach, y * reach, 0.5 * width * reach
        along = at[None] - x * np.cos(theta) - y * np.sin(theta)
        sinogram += height * width * np.sqrt(2 * np.pi) * np.exp(-((along / width) ** 2) / 2)
        truth += height * np.exp(-((at[None] - x) ** 2 + (at[:, None] - y) ** 2) / (2 * width**2))
    return rotation, sinogram[:, :, None].astype(np.float32), truth


def against_astra(size: str, method: str, iterations: int, repeats: int) -> dict:
    """One row."""
    rotation, one, truth = phantom(*SIZES[size])
    n, many = one.shape[1], np.repeat(one, N_CHANNELS, axis=2)
    centre, how = (n - 1) / 2, Iterations(method, iterations, tolerance=0.0)
    scan = engines.Scan(one, rotation, centre, PITCH_MM)
    iterate(many, rotation, centre, PITCH_MM, Iterations(method, 1))  # compiled, or loaded from the cache
    times, found = {"ours": [], "peer": []}, {}
    for _ in range(repeats):
        for name, call in (
            ("ours", lambda: iterate(many, rotation, centre, PITCH_MM, how)[0]),
            ("peer", lambda: engines.volume("astra", scan, method, iterations=iterations)),
        ):
            start = time.perf_counter()
            found[name] = call()[:, :, 0]
            times[name].append(time.perf_counter() - start)
    error = {name: float(np.sqrt(np.mean((v - truth) ** 2) / np.mean(truth**2))) for name, v in found.items()}
    return {
        "name": f"{method} {iterations}",
        "size": [*one.shape[:2], N_CHANNELS],
        "ours_s": round(median(times["ours"]), 3),
        "peer": "astra loop, 1 core",
        "peer_s": round(N_CHANNELS * median(times["peer"]), 1),
        "ratio": round(median(N_CHANNELS * b / a for a, b in zip(times["ours"], times["peer"], strict=True)), 1),
        "accuracy": f"NRMSE to the truth {error['ours']:.5f}, astra {error['peer']:.5f}",
    }


def main(repeats: int = 3) -> list[dict]:
    """All rows."""
    return [against_astra(size, method, iterations, repeats) for size in SIZES for method, iterations in METHODS]


if __name__ == "__main__":
    for row in main(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
