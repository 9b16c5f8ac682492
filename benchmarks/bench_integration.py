"""Integration against pyFAI: a Pilatus 2M, from memory and from a compressed file.

Run as ``python benchmarks/bench_integration.py``; every repeat runs ours and the peers in turn, medians are over repeats.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from pyFAI.detectors import Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator

from operandi.sources.assets import AssetReader
from operandi.stages.patterns import build_integrator, warm_up

SHAPE, Q_RANGE, THREADS = (1679, 1475), (0.4, 8.0), 2
IMAGE_BYTES = SHAPE[0] * SHAPE[1] * 4
DATASET = "entry/data/data"


def calibration() -> AzimuthalIntegrator:
    """The geometry of ID31's WAXS-CT: 71 keV, 0.544 m, beam in the middle of a Pilatus3 X CdTe 2M."""
    detector = Detector(172e-6, 172e-6, max_shape=SHAPE)
    return AzimuthalIntegrator(dist=0.544, poni1=0.1444, poni2=0.1268, wavelength=1.746e-11, detector=detector)


def images(n: int, seed: int = 0) -> np.ndarray:
    """Photon counts (image, row, column) int32: rings on a falling background, under Poisson noise."""
    q = calibration().array_from_unit(SHAPE, "center", "q_A^-1", scale=True)
    rings = sum(40 * np.exp(-(((q - centre) / 0.02) ** 2)) for centre in (1.8, 2.0, 2.7, 3.3, 4.6, 4.9))
    rng = np.random.default_rng(seed)
    some = rng.poisson(20 * np.exp(-q / 2) + rings, (min(n, 4), *SHAPE)).astype(np.int32)
    return np.concatenate([some] * (-(-n // len(some))))[:n]


def interleaved(calls: dict[str, tuple[Callable[[], object], int]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds per image of each call, for every repeat; a call comes with the number of images that it takes."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call, _ in calls.values():
        call()
    for _ in range(repeats):
        for name, (call, n_images) in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) / n_images * 1e3)
    return times


def by_pyfai(method: str, n_q: int, algorithm: str) -> Callable[[Callable[[int], np.ndarray], int], None]:
    """Integrate images 0 … n - 1 with pyFAI in a pool of threads, one integrator each."""
    integrators = [calibration() for _ in range(THREADS)]

    def share(job: tuple[int, Callable[[int], np.ndarray], int]) -> None:
        thread, image, n = job
        for i in range(thread, n, THREADS):
            integrators[thread].integrate1d(
                image(i), n_q, unit="q_A^-1", radial_range=Q_RANGE, method=(method, algorithm, "cython"), error_model="poisson",
                polarization_factor=0.99, correctSolidAngle=True,
            )  # fmt: skip

    def run(image: Callable[[int], np.ndarray], n: int) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(share, [(thread, image, n) for thread in range(THREADS)]))

    return run


def row(name: str, times: dict[str, list[float]], peer: str, bandwidth: float | None) -> dict[str, Any]:
    """One line of the table: medians per image, the median of the ratios within each repeat, and the fraction of the limit.

    The limit is the memory bandwidth: each image has to be read once.
    """
    ours_s = median(times["ours"]) / 1e3
    return {
        "name": f"integration, {name}",
        "size": f"{SHAPE[0]} x {SHAPE[1]} int32",
        "ours_s": ours_s,
        "peer": peer,
        "peer_s": median(times[peer]) / 1e3,
        "ratio": median(theirs / ours for ours, theirs in zip(times["ours"], times[peer], strict=True)),
        "limit": None if bandwidth is None else {"name": "memory bandwidth", "fraction": IMAGE_BYTES / ours_s / bandwidth},
    }


def bandwidth_of_memory() -> float | None:
    """Bytes per second, by ``limits.py`` beside this file; None without it."""
    try:
        from limits import memory_bandwidth
    except ImportError:
        return None
    return memory_bandwidth()


def bench_memory(bandwidth: float | None, n_images: int = 64, repeats: int = 5) -> Iterator[dict[str, Any]]:
    """Patterns of images in memory, per splitting and number of bins."""
    block = images(n_images)
    for method, n_q in (("full", 1000), ("full", 2000), ("no", 1000), ("no", 2000)):
        integrator = build_integrator(calibration(), shape=SHAPE, q_range=Q_RANGE, n_q=n_q, method=method)
        same, best = by_pyfai(method, n_q, "csr"), by_pyfai(method, n_q, "csc")
        calls: dict[str, tuple[Callable[[], object], int]] = {
            "ours": (lambda integrator=integrator: integrator(block), n_images),
            "pyFAI csr, pool of 2": (lambda same=same: same(block.__getitem__, 4), 4),
            "pyFAI csc, pool of 2": (lambda best=best: best(block.__getitem__, 4), 4),
        }
        times = interleaved(calls, repeats)
        for peer in calls:
            if peer != "ours":
                yield row(f"memory, {method}, {n_q} bins", times, peer, bandwidth)


def bench_file(folder: Path, bandwidth: float | None, n_images: int = 64, repeats: int = 5) -> Iterator[dict[str, Any]]:
    """Patterns of a bitshuffle-LZ4 file, one image a chunk."""
    path = folder / "images.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(DATASET, data=images(n_images), chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle())
    with AssetReader(threads=THREADS) as reader, h5py.File(path) as file:
        stored = file[DATASET]
        assert isinstance(stored, h5py.Dataset)
        memory = np.empty((32, *SHAPE), np.int32)
        for n_q in (1000, 2000):
            integrator = build_integrator(calibration(), shape=SHAPE, q_range=Q_RANGE, n_q=n_q)
            peer = by_pyfai("full", n_q, "csr")

            def ours(integrator=integrator) -> None:
                for start in range(0, n_images, 32):
                    integrator(reader.read_block(path, DATASET, start, min(start + 32, n_images), out=memory))

            calls: dict[str, tuple[Callable[[], object], int]] = {
                "ours": (ours, n_images),
                "h5py + pyFAI csr, pool of 2": (lambda peer=peer: peer(stored.__getitem__, 4), 4),
                "reading alone": (lambda: reader.read_block(path, DATASET, 0, 32, out=memory), 32),
            }
            times = interleaved(calls, repeats)
            yield row(f"bitshuffle-LZ4 file, full, {n_q} bins", times, "h5py + pyFAI csr, pool of 2", bandwidth)
            yield row(f"bitshuffle-LZ4 file, full, {n_q} bins", times, "reading alone", bandwidth)


def bench_robust(bandwidth: float | None, n_images: int = 8, repeats: int = 3) -> Iterator[dict[str, Any]]:
    """Sigma clipping and medians against pyFAI's own."""
    block, calibrations = images(n_images), [calibration() for _ in range(THREADS)]
    for averaging, call in (("clipped", "sigma_clip_ng"), ("median", "medfilt1d_ng")):
        integrator = build_integrator(calibration(), shape=SHAPE, q_range=Q_RANGE, averaging=averaging)

        def share(thread: int, call: str = call) -> None:
            getattr(calibrations[thread], call)(
                block[thread], 1000, unit="q_A^-1", radial_range=Q_RANGE, method=("no", "csr", "cython"), error_model="azimuthal",
                polarization_factor=0.99,
            )  # fmt: skip

        def peer(share: Callable[[int], None] = share) -> None:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(share, range(THREADS)))

        calls: dict[str, tuple[Callable[[], object], int]] = {
            "ours": (lambda integrator=integrator: integrator(block), n_images),
            f"pyFAI {call}, pool of 2": (peer, THREADS),
        }
        yield row(f"memory, {averaging}, 1000 bins", interleaved(calls, repeats), f"pyFAI {call}, pool of 2", bandwidth)


def main(repeats: int = 5) -> list[dict[str, Any]]:
    """All rows of the integration's table."""
    bandwidth = bandwidth_of_memory()
    warm_up(build_integrator(calibration(), shape=SHAPE, q_range=Q_RANGE, method="no"))
    with tempfile.TemporaryDirectory() as folder:
        rows = [*bench_memory(bandwidth, repeats=repeats), *bench_file(Path(folder), bandwidth, repeats=repeats)]
    return [*rows, *bench_robust(bandwidth)]


if __name__ == "__main__":
    for line in main(*map(int, sys.argv[1:])):
        limit = f"{line['limit']['fraction']:6.0%} of {line['limit']['name']}" if line["limit"] else ""
        peer = f"{line['peer']:32} {1e3 * line['peer_s']:8.2f} ms"
        print(f"{line['name']:48} {1e3 * line['ours_s']:8.3f} ms   {peer}  x {line['ratio']:6.1f} {limit}")
