"""Numbers that a run records beside its images: a stream's data keys over time, from events or from files."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from operandi.errors import AssetError
from operandi.sources.assets import AssetReader, path_of
from operandi.stages import documents
from operandi.stages.documents import Admission
from operandi.stages.references import Reference

RETRY_S = 0.25


@dataclass(frozen=True, slots=True)
class Signal:
    """Numbers of one stream: ``time`` (n,) UTC epoch s, ``columns`` role → (n,), ``units`` role → unit as the data key states it.

    With a ``fault`` there are none: why the stream cannot be read.
    """

    purpose: str
    time: np.ndarray = field(default_factory=lambda: np.empty(0))
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""


class Signals:
    """The signals of a stream, from the documents of its run, in the order of ``seq_num``; a call for each document.

    Parameters
    ----------
    purpose
        What every `Signal` is marked with.
    stream, keys
        Name of the stream, and role → data key.
    time_key
        Data key of the times, UTC epoch s; None takes those of the events.
    patience_s
        How long a file may lag behind the document that announces it.
    """

    def __init__(self, purpose: str, stream: str, keys: Mapping[str, str], *, time_key: str | None = None, patience_s: float = 0.0) -> None:
        self.purpose, self.stream = purpose, stream
        self._keys, self._patience_s = dict(keys), patience_s
        self._admission = Admission(stream, {**self._keys, "time": time_key})
        self._reader = AssetReader(threads=1)
        self._units: dict[str, str] = {}
        self._described = False

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def signals(self, name: str, doc: Mapping[str, Any]) -> Iterator[Signal]:
        """What one document completes; what is wrong with the stream is told, with single events it is not."""
        if name == "descriptor" and doc.get("name") == self.stream and isinstance(keys := doc.get("data_keys"), Mapping):
            self._described = True
            given = {role: keys.get(key) for role, key in self._keys.items()}
            self._units |= {r: str(about["units"]) for r, about in given.items() if isinstance(about, Mapping) and about.get("units")}
        outcomes = self._admission.admit(name, doc)
        found = [self._read(outcome) for outcome in outcomes if isinstance(outcome, documents.Exposures)]
        yield from (signal for signal in found if signal.fault)
        if read := [signal for signal in found if not signal.fault]:
            columns = {role: np.concatenate([signal.columns[role] for signal in read]) for role in self._keys}
            yield Signal(self.purpose, np.concatenate([signal.time for signal in read]), columns, dict(self._units))
        for outcome in outcomes:
            match outcome:
                case documents.Refused(seq_num=None, stream=self.stream, reason=reason):
                    yield Signal(self.purpose, fault=reason.partition(". Correct scan.keys")[0])
                case documents.RunStopped() if not self._described:
                    yield Signal(self.purpose, fault=f"the run has no stream {self.stream!r}")

    def _read(self, found: documents.Exposures) -> Signal:
        try:
            columns = {role: self._values(found, role) for role in (*self._keys, "time")}
        except AssetError as error:
            return Signal(self.purpose, fault=str(error))
        moments = columns.pop("time")
        known = np.isfinite(moments)
        return Signal(self.purpose, moments[known], {role: values[known] for role, values in columns.items()})

    def _values(self, found: documents.Exposures, role: str) -> np.ndarray:
        if role in found.values:
            return found.values[role]
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                values = np.concatenate([self._load(reference) for reference in found.references[role]])
                break
            except AssetError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(RETRY_S)
        if values.size != len(found):
            raise AssetError(f"{self._keys.get(role, role)} has {values.size} values for {len(found)} events: it must be one number each")
        return np.asarray(values, np.float64).reshape(-1)

    def _load(self, reference: Reference) -> np.ndarray:
        parts = [self._reader.read_block(path_of(uri), reference.dataset, start, stop) for uri, start, stop in reference.parts()]
        return np.concatenate(parts)
