"""What is fitted in every voxel, against a loop over the voxels with scipy: non-negative decompositions and peaks.

Run as ``python benchmarks/bench_voxels.py [repeats]``. Every repeat runs ours and the peer in turn; times are medians. The peer takes some
voxels, and its time is scaled to all: its loop costs the same for each. Patterns are those of a cell, its carbons, oxides,
metals and polyethylene, up to four of them in a voxel, on a sloping background.
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import xarray as xr
from scipy.optimize import curve_fit, nnls

from operandi.stages.crystals import CRYSTALS
from operandi.stages.decomposition import decompose_values, reference_patterns, solve_nonnegative
from operandi.stages.peaks import fit_peaks

VOXELS, CHANNELS = 150 * 150, 1000
SOME = 300
PHASES = 8


def mixtures() -> tuple[np.ndarray, np.ndarray]:
    """Patterns (voxel, q) and the references (reference, q) behind them, the last two of the background."""
    random, q = np.random.default_rng(0), np.linspace(1.2, 5.3, CHANNELS)
    patterns = reference_patterns(q, CRYSTALS[:PHASES]).to_numpy()
    references = np.concatenate(
        [patterns / patterns.max(axis=1, keepdims=True), [np.linspace(1, 0, CHANNELS), np.linspace(0, 1, CHANNELS)]]
    )
    held = np.zeros((VOXELS, PHASES), bool)
    for row in held:
        row[random.choice(PHASES, random.integers(0, 5), replace=False)] = True
    amounts = np.concatenate([random.uniform(0.1, 2, held.shape) * held, random.uniform(0.1, 0.5, (VOXELS, 2))], axis=1)
    return amounts @ references + 0.05 * random.normal(size=(VOXELS, CHANNELS)), references


def in_turn(ours: Callable[[], object], peer: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Median seconds of both, and the median ratio."""
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for call, taken in zip((ours, peer), times, strict=True):
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
    return median(times[0]), median(times[1]), median(b / a for a, b in zip(*times, strict=True))


def decompositions(repeats: int) -> list[dict]:
    """Amounts alone as scipy gives them, and with their errors, which it does not give."""
    values, references = mixtures()
    matrix, variance = references.T.copy(), np.full(values.shape, 0.0025)
    amounts = lambda: solve_nonnegative(references @ references.T, values @ matrix)  # noqa: E731
    loop = lambda: np.stack([nnls(matrix, row)[0] for row in values[:SOME]])  # noqa: E731
    difference = float(np.abs(amounts()[:SOME] - loop()).max())
    rows = []
    for name, call in (("decomposition", amounts), ("decomposition with errors", lambda: decompose_values(values, variance, references))):
        ours, peer, ratio = in_turn(call, loop, repeats)
        rows.append(_row(name, ours, peer, ratio, "scipy nnls loop", f"largest difference {difference:.1e}"))
    return rows


def peaks(repeats: int) -> list[dict]:
    """One peak in 64 channels of each voxel; scipy begins at the true values."""
    random, q = np.random.default_rng(1), np.linspace(1.64, 1.92, 64)
    area, at, width = random.uniform(1, 5, VOXELS), random.uniform(1.69, 1.87, VOXELS), random.uniform(0.014, 0.03, VOXELS)

    def model(q, area, at, width, base, slope):
        return area * 0.9394 / width * np.exp(-4 * np.log(2) * ((q - at) / width) ** 2) + base + slope * (q - 1.78)

    clean = np.stack([model(q, *one, 30.0, 5.0) for one in zip(area, at, width, strict=True)])
    sigma = np.sqrt(clean)
    values = clean + sigma * random.normal(size=clean.shape)
    volume = xr.Dataset({"intensity": (("v", "q"), values), "sigma": (("v", "q"), sigma)}, {"q": q})

    def loop():
        for v in range(SOME):
            curve_fit(model, q, values[v], [area[v], at[v], width[v], 30.0, 5.0], sigma=sigma[v], absolute_sigma=True)

    found = {}
    ours, peer, ratio = in_turn(lambda: found.update(fit=fit_peaks(volume, (1.6, 1.95))), loop, repeats)
    pulls = (found["fit"]["position"][0] - at) / found["fit"]["position_sigma"][0]
    return [_row("one peak", ours, peer, ratio, "scipy curve_fit loop", f"pulls of the position {float(pulls.std()):.2f} wide", q.size)]


def _row(name: str, ours: float, peer: float, ratio: float, against: str, accuracy: str, channels: int = CHANNELS) -> dict:
    scale = VOXELS / SOME
    return {
        "name": name, "size": [VOXELS, channels], "ours_s": round(ours, 3), "peer": against, "peer_s": round(peer * scale, 2),
        "ratio": round(ratio * scale, 1), "accuracy": accuracy,
    }  # fmt: skip


def main(repeats: int = 3) -> list[dict]:
    """All rows."""
    return [*decompositions(repeats), *peaks(repeats)]


if __name__ == "__main__":
    for row in main(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
