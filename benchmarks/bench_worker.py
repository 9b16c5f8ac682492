"""The worker end to end: from files to the published tree on a real Tiled server, which runs in a process of its own.

Run as ``python benchmarks/bench_worker.py [--large]``. Images are simulated once (two dozen distinct ones: an off-centre disc of
crystalline material in air, Poisson noise) and stand in the file as often as a set needs them, as compressed chunks; every set reads the
same file. So reading finds the file in the system's cache, as it does behind a detector that has just written it.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import hdf5plugin
import numpy as np
from pyFAI.detectors import Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator

from operandi import client
from operandi.experiment import Experiment
from operandi.experiment_file import load_experiment
from operandi.server.embedded import start_server
from operandi.simulate.schedules import Schedule
from operandi.sources.journal import Journal
from operandi.worker import STATUS_FILE, replay, run_worker

DATASET = "entry/data/data"
WORKER = [sys.executable, __file__, "--worker"]
PATIENCE_S = 300.0
PILATUS = (1679, 1475)
LEVELS, NOISES = 8, 3
RINGS = (1.53, 1.695, 1.779, 1.86, 2.687, 4.382, 4.595, 4.64, 4.916, 5.06)
NO_LOG_KEYS = {"rotation": "rotation", "translation": "translation", "monitor": "monitor", "time": "exposure_start"}
WINDOWS = [
    {"phase": "graphite", "q_min_inv_angstrom": 1.82, "q_max_inv_angstrom": 1.90},
    {"phase": "LiC12", "q_min_inv_angstrom": 1.75, "q_max_inv_angstrom": 1.80},
    {"phase": "LiC6", "q_min_inv_angstrom": 1.66, "q_max_inv_angstrom": 1.73},
    {"phase": "NMC lithiated", "q_min_inv_angstrom": 4.57, "q_max_inv_angstrom": 4.62},
    {"phase": "NMC delithiated", "q_min_inv_angstrom": 4.62, "q_max_inv_angstrom": 4.67},
    {"phase": "aluminium", "q_min_inv_angstrom": 2.66, "q_max_inv_angstrom": 2.72},
    {"phase": "copper", "q_min_inv_angstrom": 4.85, "q_max_inv_angstrom": 4.95},
    {"phase": "casing", "q_min_inv_angstrom": 5.05, "q_max_inv_angstrom": 5.08},
    {"phase": "separator", "q_min_inv_angstrom": 1.50, "q_max_inv_angstrom": 1.56},
]
COMPOSITES = [
    {"name": "cathode", "red": ["NMC delithiated"], "green": ["NMC lithiated"]},
    {"name": "anode", "red": ["graphite"], "green": ["LiC6"], "blue": ["LiC12"]},
]


@dataclass(frozen=True, slots=True)
class Size:
    """What is measured, and with what detector."""

    sets: int
    rotations_per_set: int
    translations: int
    bins: int
    shape: tuple[int, int] = PILATUS
    pixel_m: float = 172e-6

    @property
    def images_per_set(self) -> int:
        """Number of images of one set."""
        return self.rotations_per_set * self.translations

    @property
    def frames(self) -> int:
        """Number of frames, each of two sets, one set after the other."""
        return self.sets - 1


PILATUS_RUN = Size(sets=5, rotations_per_set=8, translations=61, bins=1000)
M = Size(sets=2, rotations_per_set=90, translations=201, bins=2000, shape=(4, 1500), pixel_m=250e-6)
L = Size(sets=3, rotations_per_set=180, translations=401, bins=2000, shape=(4, 1500), pixel_m=250e-6)


def calibration(size: Size) -> AzimuthalIntegrator:
    """ID31's WAXS-CT (71 keV, 0.544 m): the whole Pilatus3 X CdTe 2M, or a narrow strip from the beam outwards."""
    rows, columns = size.shape
    poni = (0.1444, 0.1268) if size.shape == PILATUS else (rows / 2 * size.pixel_m, -0.01)
    detector = Detector(size.pixel_m, size.pixel_m, max_shape=size.shape)
    return AzimuthalIntegrator(dist=0.544, poni1=poni[0], poni2=poni[1], wavelength=1.746e-11, detector=detector)


def write_experiment(folder: Path, size: Size, uri: str) -> Experiment:
    """The experiment file of a run, and its calibration."""
    calibration(size).save(str(folder / "bench.poni"))
    half = 0.05 * (size.translations - 1) / 2
    content = {
        "sample": {"name": "bench"},
        "geometry": {"poni": str(folder / "bench.poni")},
        "integration": {"q_min_inv_angstrom": 0.9, "q_max_inv_angstrom": 5.3, "bins": size.bins, "splitting": "full", "polarization": 0.99},
        "scan": {
            "sets": size.sets,
            "rotations_per_set": size.rotations_per_set,
            "interlaces": 2,
            "translations": size.translations,
            "translation_start_mm": -half,
            "translation_stop_mm": half,
            "exposure_s": 0.004,
        },
        "windows": WINDOWS,
        "composites": COMPOSITES,
        "publishing": {"tiled": uri, "storage": "data", "journal": "journal", "state": "state"},
    }
    file = folder / "experiment.yml"
    file.write_text(json.dumps(content))  # JSON is YAML
    return load_experiment(file)


def distinct_images(size: Size) -> np.ndarray:
    """Counts (level · noise, row, column) int32: rings as strong as the beam's way through the disc, on air, with Poisson noise."""
    q = calibration(size).array_from_unit(size.shape, "center", "q_A^-1", scale=True)
    rings = sum(30 * np.exp(-(((q - centre) / 0.02) ** 2)) for centre in RINGS)
    rng = np.random.default_rng(0)
    levels = [rng.poisson(10 * np.exp(-q / 2) + level / (LEVELS - 1) * rings, (NOISES, *size.shape)) for level in range(LEVELS)]
    return np.concatenate(levels).astype(np.int32)


def chunks_of(images: np.ndarray, folder: Path) -> list[bytes]:
    """Each image as bitshuffle-LZ4 compresses it."""
    with h5py.File(folder / "pool.h5", "w") as file:
        made = file.create_dataset(DATASET, data=images, chunks=(1, *images.shape[1:]), **hdf5plugin.Bitshuffle())
        return [made.id.read_direct_chunk((i, 0, 0))[1] for i in range(len(images))]


def write_images(path: Path, size: Size, experiment: Experiment) -> int:
    """The images of one set, bitshuffle-LZ4; the number of bytes of the file."""
    schedule, pool = Schedule(experiment.scan), chunks_of(distinct_images(size), path.parent)
    rng = np.random.default_rng(1)
    radius = 0.6 * schedule.translations_mm.max()
    with h5py.File(path, "w") as file:
        made = file.create_dataset(
            DATASET, (size.images_per_set, *size.shape), np.int32, chunks=(1, *size.shape), **hdf5plugin.Bitshuffle()
        )
        for number in range(size.rotations_per_set):
            line = schedule.line(number)
            centre = 0.2 * radius * np.cos(np.deg2rad(line.rotation_deg) - 1)
            way = np.sqrt(np.clip(1 - ((line.translations_mm - centre) / radius) ** 2, 0, None))
            levels = np.rint(way * (LEVELS - 1)).astype(int)
            for i, level in enumerate(levels):
                made.id.write_direct_chunk((number * size.translations + i, 0, 0), pool[level * NOISES + rng.integers(NOISES)])
    return path.stat().st_size


def documents(experiment: Experiment, size: Size, images: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a RunEngine emits: a descriptor, then for each line an event_page with positions and a stream_datum for its images."""
    schedule, began, uid = Schedule(experiment.scan), float(int(time.time())), f"bench-{time.time_ns():x}"
    yield "start", {"uid": uid, "time": began, "plan_name": "bench"}
    keys: dict[str, Any] = {key: {"source": "bench", "dtype": "number", "shape": []} for key in NO_LOG_KEYS.values()}
    keys["pilatus"] = {
        "source": "bench", "dtype": "array", "dtype_numpy": "<i4", "shape": [1, *size.shape], "external": "STREAM:"
    }  # fmt: skip
    yield "descriptor", {"uid": f"{uid}-d", "run_start": uid, "name": "primary", "time": began, "data_keys": keys}
    for number in range(size.sets):
        yield "stream_resource", {
            "uid": f"{uid}-{number}", "run_start": uid, "data_key": "pilatus", "mimetype": "application/x-hdf5",
            "uri": "file://localhost" + quote(str(images)),
            "parameters": {"dataset": f"/{DATASET}", "chunk_shape": [1, *size.shape]},
        }  # fmt: skip
    for number in range(schedule.lines):
        yield from _line(schedule, number, uid, began)
    counts = {"primary": schedule.images}
    yield "stop", {"uid": f"{uid}-s", "run_start": uid, "time": time.time(), "exit_status": "success", "num_events": counts}


def _line(schedule: Schedule, number: int, uid: str, began: float) -> Iterator[tuple[str, dict[str, Any]]]:
    line, n = schedule.line(number), schedule.scan.translations
    first, moments = number * n + 1, (began + line.elapsed_s).tolist()
    data = {
        "rotation": [line.rotation_deg] * n,
        "translation": line.translations_mm.tolist(),
        "monitor": [1e6] * n,
        "exposure_start": moments,
    }
    yield "event_page", {
        "descriptor": f"{uid}-d", "uid": [f"{uid}-e{first + i}" for i in range(n)], "seq_num": list(range(first, first + n)),
        "time": moments, "data": data, "timestamps": {key: moments for key in data}, "filled": {},
    }  # fmt: skip
    at = (number % schedule.lines_per_set) * n
    yield "stream_datum", {
        "uid": f"{uid}-{line.set}/{number}", "stream_resource": f"{uid}-{line.set}", "descriptor": f"{uid}-d",
        "seq_nums": {"start": first, "stop": first + n}, "indices": {"start": at, "stop": at + n},
    }  # fmt: skip


def _serve(folder: Path, pipe: Any) -> None:
    with start_server(folder / "server", [folder]) as server:
        pipe.send((server.uri, server.api_key))
        pipe.recv()


class Server:
    """A Tiled server in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(folder, theirs), daemon=True)
        self._process.start()
        self.uri, self.api_key = self._pipe.recv()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join(20)


def bench_images(folder: Path, size: Size = PILATUS_RUN, repeats: int = 2) -> dict[str, Any]:
    """Images per second from the file to the published tree, by `replay`; the start of the server and of the worker do not count."""
    with Server(folder) as server:
        experiment = write_experiment(folder, size, server.uri)
        n_bytes = write_images(folder / "images.h5", size, experiment)
        rates = []
        for repeat in range(repeats + 1):
            began: list[float] = []
            replay(
                experiment,
                list(documents(experiment, size, folder / "images.h5")),
                api_key=server.api_key,
                root=f"bench-{repeat}",
                on_status=lambda status, began=began: began.append(time.perf_counter()),
            )
            rates.append(size.sets * size.images_per_set / (time.perf_counter() - began[0]))
    rate = float(np.median(rates[1:]))
    return {
        "name": "worker, file to published tree",
        "size": [size.sets * size.images_per_set, *size.shape, size.bins],
        "images_per_s": round(rate, 1),
        "limit": 100,
        "mb_per_image": round(n_bytes / size.images_per_set / 1e6, 2),
        "accuracy": f"{LEVELS * NOISES} distinct images, repeated; file in the system's cache",
    }


def bench_delay(folder: Path, size: Size = M) -> dict[str, Any]:
    """Seconds from the last document of a finished window until a client has read its maps; the worker had kept up before that."""
    found = follow(folder, size)
    return {
        "name": "last image of a window to its maps at a client",
        "size": [size.sets * size.rotations_per_set, size.translations, size.bins],
        "delay_s": found["delay_s"],
        "limit_s": 3.0,
        "worker_cpu_s": found["cpu_s"],
    }


def bench_memory(folder: Path, size: Size = L) -> dict[str, Any]:
    """Peak memory of a worker's process that makes two frames, each of two sets, against the float32 volume of one."""
    found = follow(folder, size)
    volume = 4 * size.translations**2 * size.bins / 1e9
    return {
        "name": "peak memory of a worker, one frame's volume",
        "size": [size.sets * size.rotations_per_set, size.translations, size.bins],
        "peak_gb": found["peak_gb"],
        "volume_gb": round(volume, 2),
        "ratio": round(found["peak_gb"] / volume, 2),
        "limit": 2.5,
        "before_the_run_gb": found["before_gb"],
        "delay_s": found["delay_s"],
    }


def follow(folder: Path, size: Size) -> dict[str, Any]:
    """Let a worker in a process of its own follow a journal; hold back the last line of the run until all before it is integrated."""
    with Server(folder) as server:
        experiment = write_experiment(folder, size, server.uri)
        write_images(folder / "images.h5", size, experiment)
        every = list(documents(experiment, size, folder / "images.h5"))
        late = 3  # the last line's event_page and stream_datum, and the stop
        with worker_process(folder, server) as worker, Journal(experiment.publishing.journal) as journal:
            state = experiment.publishing.state
            _await(worker, lambda: bool(_status(state)))
            before = memory_gb(worker.pid)
            for name, doc in every[:-late]:
                journal(name, doc)
            _await(worker, lambda: _status(state).get("images", 0) == (size.sets * size.rotations_per_set - 1) * size.translations)
            time.sleep(1.0)
            with client.open(server.uri) as catalog:
                result, busy = catalog.latest(), cpu_s(worker.pid)
                began = time.perf_counter()
                for name, doc in every[-late:-1]:
                    journal(name, doc)
                delay = _until_readable(result, size.frames - 1, began)
            busy = cpu_s(worker.pid) - busy
            journal(*every[-1])
            _await(worker, lambda: bool(_status(state).get("finished")))
            peak = memory_gb(worker.pid)
    return {"delay_s": round(delay, 2), "cpu_s": round(busy, 2), "peak_gb": round(peak, 2), "before_gb": round(before, 2)}


@contextmanager
def worker_process(folder: Path, server: Server) -> Iterator[subprocess.Popen]:
    """A worker that follows the journal of the experiment in ``folder``."""
    with subprocess.Popen([*WORKER, str(folder / "experiment.yml"), server.api_key]) as process:
        try:
            yield process
        finally:
            process.terminate()


def _status(state: Path) -> dict[str, Any]:
    """What the worker last said of itself; nothing before it is ready for a run."""
    file = state / STATUS_FILE
    return json.loads(file.read_text()) if file.exists() else {}


def _await(worker: subprocess.Popen, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if worker.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError(f"the worker ended, or did not come so far within {PATIENCE_S:g} s")
        time.sleep(0.05)


def _until_readable(result: client.Result, frame: int, began: float) -> float:
    while time.perf_counter() - began < PATIENCE_S:
        if len(result.steps) > frame:
            np.asarray(result.frame(frame).maps["intensity"])
            return time.perf_counter() - began
        time.sleep(0.05)
    raise TimeoutError(f"the maps are not there after {PATIENCE_S:g} s")


def memory_gb(pid: int) -> float:
    """The most memory that a process ever held (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e9


def cpu_s(pid: int) -> float:
    """Processor time that a process has taken (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(large: bool = False) -> list[dict[str, Any]]:
    """All rows of the worker's table; ``large`` adds the peak memory with L, which takes minutes."""
    rows = []
    for bench in (bench_images, bench_delay, *([bench_memory] if large else [])):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(bench(Path(folder)))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="also the peak memory with L (401 × 401 × 2000)")
    parser.add_argument("--worker", nargs=2, metavar=("EXPERIMENT", "KEY"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        run_worker(load_experiment(chosen.worker[0]), api_key=chosen.worker[1])
    else:
        for row in main(chosen.large):
            print(json.dumps(row))
