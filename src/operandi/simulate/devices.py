"""The beamline's devices: a detector and encoders that write HDF5 files, and a stage that flies through a line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    FlyableLogic,
    StandardDetector,
    StandardFlyable,
    StreamResourceDataProvider,
    StreamResourceInfo,
    soft_signal_r_and_setter,
    soft_signal_rw,
)

from operandi.errors import OperandiError
from operandi.experiment import Keys
from operandi.simulate.exposures import Exposures
from operandi.simulate.files import IMAGES, ImageFile, PositionFile, position_dataset
from operandi.simulate.schedules import Line

MIMETYPE = "application/x-hdf5"
TIMEOUT_S = 600.0


def file_uri(path: Path) -> str:
    """The URI of a file as bluesky's writers and readers want it."""
    return "file://localhost" + quote(path.absolute().as_posix())


class Acquisition:
    """What the devices share: the files, how much is written, and the exposures themselves.

    ``on_image`` is called with the number of images written and the number planned, after each.
    """

    def __init__(self, exposures: Exposures, images: ImageFile, positions: PositionFile, keys: Keys, on_image: Callable | None = None):
        self.exposures = exposures
        self.image_file, self.position_file = images, positions
        self.keys = keys
        self.written, self.set_written = soft_signal_r_and_setter(int, initial_value=0)
        self.recorded = {name: soft_signal_r_and_setter(float, name=name, units=unit) for name, unit in position_units(keys).items()}
        self._on_image = on_image
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="exposure")
        self._line: Line | None = None
        self._lengths: np.ndarray | None = None
        self._next = 0

    async def expose_line(self, line: Line) -> None:
        """Take every image of a line and write it, the positions with it; then tell how many are there."""
        await asyncio.to_thread(self._write_line, line)
        self.set_written(self._next)

    async def expose_point(self) -> None:
        """Take the next image of the schedule, and show its positions on the signals ``recorded``."""
        positions = await asyncio.to_thread(self._write_point)
        for name, value in positions.items():
            self.recorded[name][1](value)
        self.set_written(self._next)

    def close(self) -> None:
        """Write no more."""
        self._pool.shutdown()
        self.image_file.close()
        self.position_file.close()

    def _write_line(self, line: Line) -> None:
        if line.number * line.elapsed_s.size != self._next:
            raise OperandiError(
                f"line {line.number} comes after {self._next} images, out of turn: a line once begun cannot be taken again; "
                "abort this run and start another (a pause between lines is safe)"
            )
        self.position_file.write(self._next, self._positions(line))
        self.position_file.flush()
        for image in self.exposures.images(line, self._pool):
            self._write(image)
        self.image_file.flush()

    def _write_point(self) -> dict[str, float]:
        number, index = divmod(self._next, self.exposures.schedule.images_per_line)
        if self._line is None or self._lengths is None or self._line.number != number:
            self._line = self.exposures.schedule.line(number)
            self._lengths = self.exposures.lengths(self._line)
        positions = {name: values[index : index + 1] for name, values in self._positions(self._line).items()}
        self.position_file.write(self._next, positions)
        self.position_file.flush()
        self._write(self.exposures.image(self._line, index, self._lengths[index]))
        self.image_file.flush()
        return {name: float(values[0]) for name, values in positions.items()}

    def _write(self, image: np.ndarray) -> None:
        self.image_file.write(self._next, image)
        self._next += 1
        if self._on_image is not None:
            self._on_image(self._next, self.exposures.schedule.images)

    def _positions(self, line: Line) -> dict[str, np.ndarray]:
        recorded = self.exposures.record(line)
        columns = {
            self.keys.rotation: recorded.rotation_deg,
            self.keys.translation: recorded.translation_mm,
            self.keys.monitor: recorded.monitor,
            self.keys.time: recorded.time_s,
            self.keys.set: np.full(line.elapsed_s.shape, float(line.set)),
        }
        return {name: values for name, values in columns.items() if name is not None}


def position_units(keys: Keys) -> dict[str, str]:
    """Units of the data keys that are recorded besides the images."""
    units = {keys.rotation: "deg", keys.translation: "mm", keys.monitor: "counts", keys.time: "s", keys.set: ""}
    return {name: unit for name, unit in units.items() if name is not None}


class Triggered(DetectorTriggerLogic):
    """A detector that takes its triggers from the stage, or exposes by itself in a step scan."""

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        """One exposure each time."""

    async def prepare_edge(self, num: int, livetime: float) -> None:
        """One exposure for each trigger of the stage."""


@dataclass
class ByStage(DetectorAcquireLogic):
    """Wait for the stage's triggers; ``exposes`` where this detector starts the exposure of a step scan."""

    acquisition: Acquisition
    flying: bool
    exposes: bool = True

    async def start_acquiring(self) -> None:
        """Take one image in a step scan; in a fly scan just be armed."""
        if self.exposes and not self.flying:
            await self.acquisition.expose_point()

    async def wait_for_idle(self) -> None:
        """Idle as soon as everything is written."""

    async def ensure_stopped(self) -> None:
        """Nothing runs between lines."""


@dataclass
class Written(DetectorDataLogic):
    """Documents for the datasets of one file."""

    acquisition: Acquisition
    path: Path
    resources: Sequence[StreamResourceInfo] = field(default_factory=list)

    async def prepare_unbounded(self, datakey_name: str) -> StreamResourceDataProvider:
        """Announce the datasets; data follow as they are written and flushed."""
        return StreamResourceDataProvider(file_uri(self.path), self.resources, MIMETYPE, self.acquisition.written)


@dataclass
class Travel(FlyableLogic[Line, Line]):
    """Fly the inner motor through one line, triggering an exposure at each position."""

    acquisition: Acquisition

    async def on_prepare(self, value: Line) -> Line:
        """Go to the start of the line."""
        return value

    async def on_kickoff(self, ctx: Line) -> Line:
        """Start to move."""
        return ctx

    async def on_complete(self, ctx: Line) -> None:
        """Reach the end of the line: everything is exposed and written."""
        await self.acquisition.expose_line(ctx)


@dataclass
class Devices:
    """The devices that a plan drives."""

    detector: StandardDetector
    encoders: StandardDetector
    travel: StandardFlyable
    rotation: object
    translation: object
    acquisition: Acquisition

    @property
    def readings(self) -> list:
        """What is read beside the image at each point of a step scan."""
        return [signal for signal, _ in self.acquisition.recorded.values()]


def make_devices(acquisition: Acquisition, *, flying: bool = True) -> Devices:
    """The devices around an acquisition, for a fly scan or for a step scan."""
    keys, shape = acquisition.keys, acquisition.image_file.shape
    image = StreamResourceInfo(
        data_key=keys.image, shape=shape, chunk_shape=(1, *shape), dtype_numpy="<i4", parameters={"dataset": IMAGES, "swmr": True}
    )
    columns = [
        StreamResourceInfo(
            data_key=name, shape=(), chunk_shape=(1024,), dtype_numpy="<f8", parameters={"dataset": position_dataset(name), "swmr": True}
        )
        for name in position_units(keys)
    ]
    detector = StandardDetector(name=keys.image)
    detector.add_detector_logics(Triggered(), ByStage(acquisition, flying), Written(acquisition, acquisition.image_file.path, [image]))
    encoders = StandardDetector(name="encoders")
    encoders.add_detector_logics(
        Triggered(), ByStage(acquisition, flying, exposes=False), Written(acquisition, acquisition.position_file.path, columns)
    )
    return Devices(
        detector=detector,
        encoders=encoders,
        travel=Travel(acquisition).with_device("travel"),
        rotation=soft_signal_rw(float, name="rotation_setpoint", units="deg"),
        translation=soft_signal_rw(float, name="translation_setpoint", units="mm"),
        acquisition=acquisition,
    )
