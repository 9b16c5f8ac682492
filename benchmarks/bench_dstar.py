"""d*: power laws of many spectra against scipy's curve_fit in a loop, and d* of a whole map.

Run as ``python benchmarks/bench_dstar.py [repeats]``. Times are medians. The loop fits some of the spectra, and its time is scaled to all:
each costs the same. Of the map half of the voxels have a knee. Accuracy: the largest difference of the slopes, and the median error of d*.
"""

import sys
import time
from statistics import median

import numpy as np
import xarray as xr
from scipy.optimize import curve_fit

from operandi import fit_dstar
from operandi.stages.profiles import fit_power_law

SPECTRA, POINTS, IN_LOOP = 160_000, 100, 400
MAP, CHANNELS = 200, 1000
KNEE_NM = 11.8


def spectra(n: int, points: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """q (point,) and spectra (n, point) with 3 % of noise, float32: power laws of several slopes."""
    rng, q = np.random.default_rng(seed), np.linspace(0.01, 0.2, points)
    slope = rng.uniform(2.5, 4, (n, 1)).astype(np.float32)
    noise = rng.standard_normal((n, points), np.float32)
    return q, (np.float32(q / 0.05) ** -slope) * (1 + np.float32(0.03) * noise)


def power_laws(repeats: int) -> dict:
    """One row."""
    q, values = spectra(SPECTRA, POINTS)
    x = np.log(q)
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    slopes = np.empty(IN_LOOP)
    for _ in range(repeats):
        start = time.perf_counter()
        _, ours = fit_power_law(q, values)
        times["ours"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(IN_LOOP):
            slopes[i] = curve_fit(lambda x, a, p: a + p * x, x, np.log(values[i]), p0=(0.0, -3.0))[0][1]
        times["peer"].append((time.perf_counter() - start) * SPECTRA / IN_LOOP)
    return {
        "name": "power laws",
        "size": [SPECTRA, POINTS],
        "ours_s": round(median(times["ours"]), 3),
        "peer": "scipy curve_fit loop",
        "peer_s": round(median(times["peer"]), 1),
        "ratio": round(median(b / a for a, b in zip(times["ours"], times["peer"], strict=True))),
        "accuracy": f"slopes differ by {np.abs(ours[:IN_LOOP] - slopes).max():.1e} at most",
    }


def whole_map(repeats: int) -> dict:
    """One row."""
    q, values = spectra(MAP * MAP, CHANNELS)
    r = np.float32(q / (0.2 * np.pi / KNEE_NM))
    values[::2] *= (1 + r**-12) ** (-2.2 / 12)
    volume = xr.DataArray(values.reshape(MAP, MAP, CHANNELS), {"q": q}, ("y", "x", "q"))
    fit_dstar(volume[:1])  # compiled, or loaded from the cache
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = fit_dstar(volume)
        times.append(time.perf_counter() - start)
    dstar = found["dstar"].values.ravel()
    return {
        "name": "d* of a map",
        "size": [MAP, MAP, CHANNELS],
        "ours_s": round(median(times), 2),
        "limit": "2 s",
        "accuracy": f"median {np.nanmedian(dstar[::2]):.2f} nm of {KNEE_NM}; none for {np.isnan(dstar[1::2]).mean():.2%} of power laws",
    }


def main(repeats: int = 5) -> list[dict]:
    """All rows."""
    return [power_laws(repeats), whole_map(repeats)]


if __name__ == "__main__":
    for row in main(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
