"""Documents of one run in, events for the pipeline out: joined, read from their files, or refused with the reason."""

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from operandi.errors import AssetError
from operandi.experiment import Scan
from operandi.pipeline import Event, Gap, Images, Positions, Refusal, RunEnded
from operandi.sources.assets import AssetReader, path_of
from operandi.stages import documents
from operandi.stages.references import Reference

log = logging.getLogger(__name__)

LANES = 16
"""Images that the integration takes side by side: blocks of whole multiples cost least."""
BLOCK_BYTES = 64 << 20
MOST_IMAGES = 64
QUEUED_BLOCKS = 1
"""Blocks that may wait between reading and processing."""
BUFFERS = QUEUED_BLOCKS + 2
"""One more is being filled or waits for a place in the queue, one is processed."""
RETRY_S = 0.25


def block_images(shape: tuple[int, int]) -> int:
    """How many images of ``shape`` are read and processed at once."""
    fitting = BLOCK_BYTES // (4 * shape[0] * shape[1]) // LANES * LANES
    return min(max(fitting, LANES), MOST_IMAGES)


class Intake:
    """One run's documents as events.

    Parameters
    ----------
    scan
        Names the stream and the data keys.
    shape
        (rows, columns) that every image must have; others are refused.
    patience_s
        How long a file may lag behind the document that announces it (a network share); 0 in replay.

    The images of an event lie in memory that is used again: they are valid until ``QUEUED_BLOCKS`` + 1 further events were drawn.
    """

    def __init__(self, scan: Scan, shape: tuple[int, int], *, patience_s: float = 0.0) -> None:
        self._shape, self._patience_s = shape, patience_s
        self._admission = documents.Admission.of(scan)
        self._reader = AssetReader()
        self._block_images = block_images(shape)
        self._buffers: deque[np.ndarray | None] = deque([None] * BUFFERS)
        self._told = False

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def events(self, name: str, doc: Mapping[str, Any]) -> Iterator[Event]:
        """The events that one document completes."""
        for outcome in self._admission.admit(name, doc):
            match outcome:
                case documents.Exposures():
                    for first in range(0, len(outcome), self._block_images):
                        yield from self._read(part(outcome, first, first + self._block_images))
                case documents.Refused(seq_num=None, reason=reason):
                    yield Refusal(None, reason)
                case documents.Refused(seq_num=int(first), seq_last=last, reason=reason):
                    yield from (Refusal(n, reason) for n in range(first, (last or first) + 1))
                case documents.Missing():
                    yield Gap(outcome.seq_first, outcome.seq_last, f"no {', '.join(outcome.lacking)} came")
                case documents.RunStopped():
                    yield RunEnded(outcome.exit_status, outcome.reason)

    def _read(self, block: documents.Exposures) -> Iterator[Event]:
        """Read a block; where it fails, one by one, so that a single wrong image costs only itself."""
        try:
            yield self._images(block, self._patience_s)
        except AssetError as error:
            if len(block) == 1:
                yield Refusal(block.seq_first, str(error))
                return
            # Once a run: a missing file would repeat it line by line, and every exposure stands in the ledger with its reason.
            log.log(logging.DEBUG if self._told else logging.WARNING, "refusing from exposure %d on: %s", block.seq_first, error)
            self._told = True
            for i in range(len(block)):
                yield from self._read_one(part(block, i, i + 1))

    def _read_one(self, block: documents.Exposures) -> Iterator[Event]:
        try:
            yield self._images(block, 0.0)
        except AssetError as error:
            yield Refusal(block.seq_first, str(error))

    def _images(self, block: documents.Exposures, patience_s: float) -> Images:
        images = self._values(block, "image", patience_s)
        if images.shape[1:] not in (self._shape, (1, *self._shape)) or len(images) != len(block):
            raise AssetError(
                f"the image of seq_num {block.seq_first} has the shape {images.shape[1:]} ({len(images)} for {len(block)} exposures), "
                f"but the geometry is for {self._shape}: give the poni and mask of this detector, and replay"
            )
        scalars = {role: self._scalars(block, role, patience_s) for role in (*self._admission.keys, "monitor") if role != "image"}
        return Images(np.arange(block.seq_first, block.seq_last + 1), images.reshape(-1, *self._shape), Positions(**scalars))

    def _scalars(self, block: documents.Exposures, role: str, patience_s: float) -> np.ndarray:
        if role not in block.values and role not in block.references:
            return np.full(len(block), np.nan)
        values = np.asarray(self._values(block, role, patience_s), np.float64)
        if values.size != len(block):
            raise AssetError(f"{role} of seq_num {block.seq_first} … {block.seq_last} has {values.size} values for {len(block)} exposures")
        if role in ("rotation", "translation", "time") and not np.isfinite(values).all():
            raise AssetError(f"{role} of seq_num {block.seq_first} … {block.seq_last} is not finite")
        return values.reshape(-1)

    def _values(self, block: documents.Exposures, role: str, patience_s: float) -> np.ndarray:
        if role in block.values:
            return block.values[role]
        deadline = time.monotonic() + patience_s
        while True:
            try:
                references = block.references[role]
                return self._load_images(references) if role == "image" else np.concatenate([self._load(r) for r in references])
            except AssetError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(RETRY_S)

    def _load(self, reference: Reference, out: np.ndarray | None = None) -> np.ndarray:
        parts = [self._reader.read_block(path_of(uri), reference.dataset, start, stop, out=out) for uri, start, stop in reference.parts()]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _load_images(self, references: tuple[Reference, ...]) -> np.ndarray:
        """Images, in one of the buffers that take turns: fresh memory costs more time than decoding."""
        if len(references) != 1:
            return np.concatenate([self._load(reference) for reference in references])
        self._buffers.rotate()
        images = self._load(references[0], self._buffers[0])
        if self._buffers[0] is None or not np.shares_memory(images, self._buffers[0]):
            self._buffers[0] = np.empty((self._block_images, *images.shape[1:]), images.dtype)
        return images


def part(exposures: documents.Exposures, first: int, stop: int) -> documents.Exposures:
    """Exposures number ``[first, stop)`` of ``exposures``, counted from 0."""
    stop = min(stop, len(exposures))
    return documents.Exposures(
        exposures.seq_first + first,
        exposures.seq_first + stop - 1,
        {role: values[first:stop] for role, values in exposures.values.items()},
        {role: tuple(_cut(references, first, stop)) for role, references in exposures.references.items()},
    )


def _cut(references: tuple[Reference, ...], first: int, stop: int) -> Iterator[Reference]:
    at = 0
    for reference in references:
        count = (reference.stop - reference.start) // reference.per_exposure
        low, high = max(first - at, 0), min(stop - at, count)
        if low < high:
            start = reference.start + low * reference.per_exposure
            yield replace(reference, start=start, stop=start + (high - low) * reference.per_exposure)
        at += count
