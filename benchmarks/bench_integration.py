"""Integration against pyFAI: a Pilatus 2M, from memory and from a compressed file.

Run as ``python benchmarks/bench_integration.py``; every repeat runs ours and the peers in turn, medians are over repeats.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from pyFAI.detectors import Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator

from operandi.sources.assets import AssetReader
from operandi.stages.patterns import Integrator, build_integrator

SHAPE, Q_RANGE, THREADS = (1679, 1475), (0.4, 8.0), 2
IMAGE_BYTES = SHAPE[0] * SHAPE[1] * 4
DATASET = "entry/data/data"


def calibration() -> AzimuthalIntegrator:
    """The geometry of ID31's WAXS-CT: 71 keV, 0.544 m, beam in the middle of a Pilatus3 X CdTe 2M."""
    detector = Detector(172e-6, 172e-6, max_shape=SHAPE)
    return AzimuthalIntegrator(dist=0.544, poni1=0.1444, poni2=0.1268, wavelength=1.746e-11, detector=detector)


@cache
def images(n: int, seed: int = 0) -> np.ndarray:
    """Photon counts (image, row, column) int32: rings on a falling background, under Poisson noise."""
    q = calibration().array_from_unit(SHAPE, "center", "q_A^-1", scale=True)
    rings = sum(40 * np.exp(-(((q - centre) / 0.02) ** 2)) for centre in (1.8, 2.0, 2.7, 3.3, 4.6, 4.9))
    rng = np.random.default_rng(seed)
    some = rng.poisson(20 * np.exp(-q / 2) + rings, (min(n, 4), *SHAPE)).astype(np.int32)
    return np.concatenate([some] * (-(-n // len(some))))[:n]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds per image of every repeat, on the clock and of all cores together."""

    wall_s: list[float]
    cpu_s: list[float]


def interleaved(calls: dict[str, tuple[Callable[[], object], int]], repeats: int) -> dict[str, Times]:
    """Times of each call; a call comes with the number of images that it takes."""
    times = {name: Times([], []) for name in calls}
    for call, _ in calls.values():
        call()
    for _ in range(repeats):
        for name, (call, n_images) in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times[name].wall_s.append((time.perf_counter() - wall) / n_images)
            times[name].cpu_s.append((time.process_time() - cpu) / n_images)
    return times


Peer = Callable[[Callable[[int], np.ndarray], int], None]


@cache
def by_pyfai(call: str, method: str, n_q: int, algorithm: str, error_model: str = "poisson") -> Peer:
    """Integrate images 0 … n - 1 with a method of pyFAI's integrator in a pool of threads, one integrator each.

    Both are made ready one after the other: numexpr, which pyFAI uses for that, crashes in two threads at once (pyFAI 2026.9.0).
    """
    calls = [getattr(calibration(), call) for _ in range(THREADS)]

    def integrate(thread: int, image: np.ndarray) -> None:
        calls[thread](
            image, n_q, unit="q_A^-1", radial_range=Q_RANGE, method=(method, algorithm, "cython"), error_model=error_model,
            polarization_factor=0.99, correctSolidAngle=True,
        )  # fmt: skip

    def share(job: tuple[int, Callable[[int], np.ndarray], int]) -> None:
        thread, image, n = job
        for i in range(thread, n, THREADS):
            integrate(thread, image(i))

    def run(image: Callable[[int], np.ndarray], n: int) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(share, [(thread, image, n) for thread in range(THREADS)]))

    for thread in range(THREADS):
        integrate(thread, np.ones(SHAPE, np.int32))
    return run


@cache
def by_us(method: str, n_q: int) -> Integrator:
    """Our integrator."""
    return build_integrator(calibration(), shape=SHAPE, q_range=Q_RANGE, n_q=n_q, method=method)


def row(name: str, times: dict[str, Times], peer: str, bandwidth: float | None) -> dict[str, Any]:
    """One line of the table: medians per image, the median of the ratios within each repeat, and the fraction of the limit.

    The limit is the memory bandwidth: each image has to be read once.
    """
    ours, theirs = times["ours"], times[peer]
    return {
        "name": f"integration, {name}",
        "size": f"{SHAPE[0]} x {SHAPE[1]} int32",
        "ours_s": median(ours.wall_s),
        "ours_cpu_s": median(ours.cpu_s),
        "peer": peer,
        "peer_s": median(theirs.wall_s),
        "peer_cpu_s": median(theirs.cpu_s),
        "ratio": median(b / a for a, b in zip(ours.wall_s, theirs.wall_s, strict=True)),
        "ratio_cpu": median(b / a for a, b in zip(ours.cpu_s, theirs.cpu_s, strict=True)),
        "limit": None if bandwidth is None else {"name": "memory bandwidth", "fraction": IMAGE_BYTES / median(ours.wall_s) / bandwidth},
    }


def bandwidth_of_memory() -> float | None:
    """Bytes per second, by ``limits.py`` beside this file; None without it."""
    try:
        from limits import memory_bandwidth
    except ImportError:
        return None
    return memory_bandwidth()


def bench_memory(bandwidth: float | None, repeats: int, n_images: int = 64) -> Iterator[dict[str, Any]]:
    """Patterns of images in memory, per splitting and number of bins."""
    block = images(n_images)
    for method, n_q, algorithms in (
        ("full", 1000, ("csr", "csc")),
        ("no", 1000, ("csr", "csc")),
        ("full", 2000, ("csr",)),
        ("no", 2000, ("csc",)),
    ):
        integrator = by_us(method, n_q)
        calls: dict[str, tuple[Callable[[], object], int]] = {"ours": (lambda integrator=integrator: integrator(block), n_images)}
        for algorithm in algorithms:
            peer = by_pyfai("integrate1d", method, n_q, algorithm)
            calls[f"pyFAI {algorithm}, pool of 2"] = (lambda peer=peer: peer(block.__getitem__, 4), 4)
        times = interleaved(calls, repeats)
        for peer in list(calls)[1:]:
            yield row(f"memory, {method}, {n_q} bins", times, peer, bandwidth)


def bench_file(folder: Path, bandwidth: float | None, repeats: int, n_images: int = 64) -> Iterator[dict[str, Any]]:
    """Patterns of a bitshuffle-LZ4 file, one image a chunk."""
    path = folder / "images.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(DATASET, data=images(n_images), chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle())
    with AssetReader(threads=THREADS) as reader, h5py.File(path) as file:
        stored = file[DATASET]
        assert isinstance(stored, h5py.Dataset)
        memory = np.empty((32, *SHAPE), np.int32)
        for n_q in (1000, 2000):
            integrator, peer = by_us("full", n_q), by_pyfai("integrate1d", "full", n_q, "csr")

            def ours(integrator=integrator) -> None:
                for start in range(0, n_images, 32):
                    integrator(reader.read_block(path, DATASET, start, min(start + 32, n_images), out=memory))

            calls: dict[str, tuple[Callable[[], object], int]] = {
                "ours": (ours, n_images),
                "h5py + pyFAI csr, pool of 2": (lambda peer=peer: peer(stored.__getitem__, 4), 4),
                "our reading alone": (lambda: reader.read_block(path, DATASET, 0, 32, out=memory), 32),
            }
            times = interleaved(calls, repeats)
            for other in list(calls)[1:]:
                yield row(f"bitshuffle-LZ4 file, full, {n_q} bins", times, other, bandwidth)


def bench_robust(bandwidth: float | None, repeats: int, n_images: int = 4) -> Iterator[dict[str, Any]]:
    """Sigma clipping and medians against pyFAI's own."""
    block = images(n_images)
    for averaging, call, error_model in (("clipped", "sigma_clip_ng", "azimuthal"), ("median", "medfilt1d_ng", "poisson")):
        integrator = build_integrator(calibration(), shape=SHAPE, q_range=Q_RANGE, averaging=averaging)
        peer = by_pyfai(call, "no", 1000, "csr", error_model)
        calls: dict[str, tuple[Callable[[], object], int]] = {
            "ours": (lambda integrator=integrator: integrator(block), n_images),
            f"pyFAI {call}, pool of 2": (lambda peer=peer: peer(block.__getitem__, THREADS), THREADS),
        }
        yield row(f"memory, {averaging}, 1000 bins", interleaved(calls, repeats), f"pyFAI {call}, pool of 2", bandwidth)


def rows(repeats: int) -> Iterator[dict[str, Any]]:
    """The rows of the table, one after the other."""
    bandwidth = bandwidth_of_memory()
    yield from bench_memory(bandwidth, repeats)
    with tempfile.TemporaryDirectory() as folder:
        yield from bench_file(Path(folder), bandwidth, repeats)
    yield from bench_robust(bandwidth, min(repeats, 3))


def main(repeats: int = 5) -> list[dict[str, Any]]:
    """All rows of the integration's table."""
    return list(rows(repeats))


if __name__ == "__main__":
    for line in rows(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        limit = f"{line['limit']['fraction']:4.0%} of {line['limit']['name']}" if line["limit"] else ""
        ours = f"{1e3 * line['ours_s']:7.3f} ms (cpu {1e3 * line['ours_cpu_s']:7.3f})"
        peer = f"{line['peer']:30} {1e3 * line['peer_s']:7.2f} ms (cpu {1e3 * line['peer_cpu_s']:7.2f})"
        print(f"{line['name']:48} {ours}   {peer}  x {line['ratio']:5.1f} (cpu {line['ratio_cpu']:5.1f}) {limit}", flush=True)
