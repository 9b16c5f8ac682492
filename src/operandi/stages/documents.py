"""Documents in: the join of one run's documents into exposures, by (stream, seq_num)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from operandi.errors import DocumentError
from operandi.experiment import Scan
from operandi.stages.columns import Column, grown, stretches
from operandi.stages.fields import Unfit, datum_rows, event_rows, in_files, is_whole, number, said, same, span, streamed, text
from operandi.stages.outcomes import Exposures, Missing, Outcome, Refused, RunStarted, RunStopped
from operandi.stages.references import Reference, datum_index, locate
from operandi.stages.routes import set_key

MOST = 1 << 24
"""Highest seq_num that is believed."""

Document = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Descriptor:
    stream: str
    data_keys: Mapping[str, Any]
    reason: str | None = None
    """Why its events are refused, if they are."""


class Admission:
    """The fold of one run's documents into exposures: no I/O, no clock, the same outcomes for the same documents.

    Exposures are released in the order of their seq_nums. A gap holds what lies behind it until the stop
    document has come; then it is ``Missing``. What is released, taken together, does not depend on the order of
    delivery, as long as a descriptor or resource comes before what refers to it and the stop comes last. Of a
    repeated seq_num the last wins: if it changes anything, it is released again, on its own. The same
    document delivered twice changes nothing.

    Parameters
    ----------
    stream
        Name of the stream that carries the exposures; others are ignored.
    keys
        Role → data key. The role ``time`` may have the key None: the time of the event. The role ``image`` must
        lie in files.
    most
        A higher seq_num is refused.
    """

    def __init__(self, stream: str, keys: Mapping[str, str | None], *, most: int = MOST):
        self.stream, self.keys, self.most = stream, dict(keys), most
        self.uid: str | None = None
        self.stopped = False
        self._seen: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._descriptors: dict[str, _Descriptor] = {}
        self._columns: dict[str, Column] = {}
        self._refused = np.zeros(64, bool)
        self._next = 1
        self._sources: list[Reference] = []
        self._source_numbers: dict[Reference, int] = {}
        self._datums: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._awaited: dict[str, list[tuple[int, str, str]]] = {}

    @classmethod
    def of(cls, scan: Scan) -> "Admission":
        """The admission that an experiment's scan asks for."""
        keys = scan.keys
        optional = {role: key for role, key in (("monitor", keys.monitor), ("set", set_key(scan))) if key is not None}
        return cls(
            scan.stream, {"image": keys.image, "rotation": keys.rotation, "translation": keys.translation, "time": keys.time, **optional}
        )

    def admit(self, name: str, doc: Mapping[str, Any]) -> tuple[Outcome, ...]:
        """What one document brings about; malformed documents become ``Refused``, never an exception."""
        take = {
            "start": self._start,
            "descriptor": self._describe,
            "event": lambda doc: self._rows(doc, [doc]),
            "event_page": lambda doc: self._rows(doc, event_rows(doc)),
            "stream_resource": self._resource,
            "resource": self._resource,
            "stream_datum": self._stream_datum,
            "datum": lambda doc: self._datum_rows([doc]),
            "datum_page": lambda doc: self._datum_rows(datum_rows(doc)),
            "stop": self._stop,
        }.get(name if isinstance(name, str) else "")
        try:
            if take is None or not isinstance(doc, Mapping):
                raise Unfit(f"{name!r} is no document of event-model{said(doc)}")
            if name != "start" and self.uid is None:
                raise Unfit(f"a {name} came before the run's start")
            if self.stopped and not self._again(name, doc):
                raise Unfit(f"a {name} came after the run's stop")
            return tuple(take(doc))
        except Unfit as fault:
            return self._refuse(fault)

    # -- one method a kind of document ------------------------------------------------------------------------

    def _start(self, doc: Mapping[str, Any]) -> Iterable[Outcome]:
        if self._again("start", doc):
            return ()
        if self.uid is not None:
            raise Unfit(f"start of run {doc.get('uid')!r} within run {self.uid}")
        self.uid = text(doc, "uid", "start")
        self._seen["start", self.uid] = doc
        return (RunStarted(doc),)

    def _describe(self, doc: Mapping[str, Any]) -> Iterable[Outcome]:
        if self._again("descriptor", doc):
            return ()
        self._of_this_run(doc)
        uid, stream, data_keys = text(doc, "uid", "descriptor"), doc.get("name"), doc.get("data_keys")
        if uid in self._descriptors:
            raise Unfit(f"descriptor {uid} came before with other content", stream=self._descriptors[uid].stream)
        if not isinstance(stream, str) or not isinstance(data_keys, Mapping):
            raise Unfit(f"descriptor {uid} has no name or no data_keys")
        self._seen["descriptor", uid] = doc
        if stream != self.stream:
            self._descriptors[uid] = _Descriptor(stream, {})
            return ()
        reason = self._unusable(data_keys)
        self._descriptors[uid] = _Descriptor(stream, data_keys, reason)
        if reason:
            raise Unfit(f"descriptor {uid} of stream {stream!r}: {reason}", stream=stream)
        for role, key in self.keys.items():
            self._columns.setdefault(role, Column(in_files(data_keys, key)))
            self._columns[role].grow(len(self._refused))
        return ()

    def _unusable(self, data_keys: Mapping[str, Any]) -> str | None:
        named = {role: key for role, key in self.keys.items() if key is not None}
        for role, key in named.items():
            if not isinstance(data_keys.get(key), Mapping):
                return f"there is no data key {key!r} for the {role}; there are {', '.join(map(str, data_keys))}. Correct scan.keys"
            column = self._columns.get(role)
            if column is not None and column.in_files != in_files(data_keys, key):
                return f"the data key {key!r} moves between events and files within the run"
        if "image" in named and not in_files(data_keys, named["image"]):
            return f"the images of {named['image']!r} lie in the events; they must lie in files"
        if len(named) < len(self.keys) and all(streamed(data_keys, key) for key in named.values()):
            return "all data keys are streamed, so there may be no event to take the time of: name a data key in scan.keys.time"
        return None

    def _rows(self, page: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Iterator[Outcome]:
        descriptor = self._descriptor_of(page)
        if descriptor is None:
            return
        for row in rows:
            try:
                seq_num = self._seq_num(row)
                cells = self._cells(row, seq_num, descriptor, page["descriptor"])
            except Unfit as fault:
                fault.stream = self.stream
                yield from self._refuse(fault)
            else:
                yield from self._put(seq_num, cells)

    def _cells(self, row: Mapping[str, Any], seq_num: int, descriptor: _Descriptor, uid: str) -> dict[str, np.ndarray]:
        data = row.get("data")
        if descriptor.reason or not isinstance(data, Mapping):
            raise Unfit(f"its descriptor was refused: {descriptor.reason}" if descriptor.reason else "the event has no data", seq_num)
        cells = {}
        for role, key in self.keys.items():
            if key is not None and key not in data and in_files(descriptor.data_keys, key):
                continue  # a stream_datum brings it
            if key is not None and key not in data:
                raise Unfit(f"the event lacks {key!r}", seq_num)
            value = row.get("time") if key is None else data[key]
            if not self._columns[role].in_files:
                cells[role] = np.array([number(value, key or "time", seq_num)])
            elif not isinstance(value, str):
                raise Unfit(f"{key!r} of the event is {type(value).__name__}, not the id of a datum", seq_num)
            elif value in self._datums:
                cells[role] = self._legacy_cell(value, role, seq_num, uid)
            else:
                self._awaited.setdefault(value, []).append((seq_num, role, uid))
        return cells

    def _resource(self, doc: Mapping[str, Any]) -> Iterable[Outcome]:
        name = "resource" if "spec" in doc and "mimetype" not in doc else "stream_resource"
        if self._again(name, doc):
            return ()
        if doc.get("run_start"):
            self._of_this_run(doc)
        uid = text(doc, "uid", name)
        if (name, uid) in self._seen:
            raise Unfit(f"{name} {uid} came before with other content")
        self._seen[name, uid] = doc
        return ()

    def _stream_datum(self, doc: Mapping[str, Any]) -> Iterable[Outcome]:
        descriptor = self._descriptor_of(doc)
        if descriptor is None:
            return ()
        first, stop = span(doc, "seq_nums", 1, self.most + 1)
        if descriptor.reason:
            raise Unfit(f"its descriptor was refused: {descriptor.reason}", first, stop - 1, self.stream)
        resource = self._seen.get(("stream_resource", str(doc.get("stream_resource"))))
        if resource is None:
            raise Unfit(f"the stream_resource {doc.get('stream_resource')!r} is not known", first, stop - 1, self.stream)
        roles = [role for role, key in self.keys.items() if key is not None and key == resource.get("data_key")]
        index, end = span(doc, "indices", 0, 1 << 48, (first, stop - 1))
        if end - index != stop - first:
            raise Unfit(f"{end - index} indices for {stop - first} seq_nums", first, stop - 1, self.stream)
        return [outcome for role in roles for outcome in self._refer(role, resource, descriptor, (first, stop), index)]

    def _refer(
        self, role: str, resource: Mapping[str, Any], descriptor: _Descriptor, seq_nums: tuple[int, int], index: int
    ) -> list[Exposures]:
        (first, stop), key = seq_nums, resource["data_key"]
        if not self._columns[role].in_files:
            raise Unfit(f"{key!r} comes with the events, but here from a file too", first, stop - 1, self.stream)
        try:
            source = self._source(locate(resource, descriptor.data_keys[key]))
        except DocumentError as fault:
            raise Unfit(str(fault), first, stop - 1, self.stream) from fault
        cells = np.empty((stop - first, 2), np.int64)
        cells[:, 0], cells[:, 1] = source, np.arange(index, index + stop - first)
        return self._put(first, {role: cells})

    def _datum_rows(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Outcome]:
        for row in rows:
            datum, resource, arguments = row.get("datum_id"), row.get("resource"), row.get("datum_kwargs") or {}
            try:
                if not isinstance(datum, str) or not isinstance(arguments, Mapping):
                    raise Unfit("a datum without datum_id or with datum_kwargs that are no mapping")
                if ("resource", str(resource)) not in self._seen:
                    raise Unfit(f"the resource {resource!r} of datum {datum!r} is not known")
                self._datums[datum] = (str(resource), arguments)
                for seq_num, role, uid in self._awaited.pop(datum, ()):
                    yield from self._put(seq_num, {role: self._legacy_cell(datum, role, seq_num, uid)})
            except Unfit as fault:
                yield from self._refuse(fault)

    def _legacy_cell(self, datum: str, role: str, seq_num: int, descriptor: str) -> np.ndarray:
        resource, arguments = self._datums[datum]
        indices = {key: arguments[key] for key in ("indices", "point_number", "frame") if key in arguments}
        others = {key: value for key, value in arguments.items() if key not in indices}
        try:
            source = locate(self._seen["resource", resource], self._descriptors[descriptor].data_keys[str(self.keys[role])], others)
            index = datum_index(indices, seq_num, source.per_exposure)
        except DocumentError as fault:
            raise Unfit(str(fault), seq_num, stream=self.stream) from fault
        return np.array([[self._source(source), index]], np.int64)

    def _stop(self, doc: Mapping[str, Any]) -> Iterable[Outcome]:
        if self._again("stop", doc):
            return ()
        self._of_this_run(doc)
        given = doc.get("num_events")
        counts = {str(k): v for k, v in given.items() if is_whole(v) and 0 <= v <= self.most} if isinstance(given, Mapping) else {}
        self.stopped = True
        self._seen["stop", str(doc.get("uid"))] = doc
        stopped = RunStopped(str(doc.get("exit_status", "unknown")), str(doc.get("reason") or ""), counts)
        return (*self._flush(counts.get(self.stream, 0)), stopped)

    # -- the join ---------------------------------------------------------------------------------------------

    def _put(self, first: int, cells: Mapping[str, np.ndarray]) -> list[Exposures]:
        """Store cells of some roles from seq_num ``first``; release what that completes."""
        if not cells:
            return []
        stop = first + max(map(len, cells.values()))
        self._reserve(stop)
        changed = np.zeros(stop - first, bool)
        for role, rows in cells.items():
            changed |= self._columns[role].put(first, rows)
        before = max(min(self._next, stop) - first, 0)
        if not before:
            return self._advance()
        again = changed[:before] & self._complete(first, first + before)
        return [*self._released(first, again), *self._advance()]

    def _advance(self) -> list[Exposures]:
        first, stop = self._next, min(column.top for column in self._columns.values())
        settled = first < stop and (self._refused[first] or all(column.have[first] for column in self._columns.values()))
        if not settled:
            return []
        complete = self._complete(first, stop)
        ready = complete | self._refused[first:stop]
        length = len(ready) if ready.all() else int(np.argmin(ready))
        self._next = first + length
        return self._released(first, complete[:length])

    def _flush(self, counted: int) -> list[Exposures | Missing]:
        for role in self.keys:
            self._columns.setdefault(role, Column(False))
        first, stop = self._next, max(counted + 1, *(column.top for column in self._columns.values()))
        self._reserve(stop)
        for column in self._columns.values():
            column.grow(len(self._refused))
        self._next = max(first, stop)
        complete = self._complete(first, stop)
        lacking = np.zeros(len(complete), np.int64)
        for bit, column in enumerate(self._columns.values()):
            lacking |= ~column.have[first:stop] << np.int64(bit)
        lacking[self._refused[first:stop]] = 0
        return sorted((*self._released(first, complete), *self._missing(first, lacking)), key=lambda outcome: outcome.seq_first)

    def _missing(self, first: int, lacking: np.ndarray) -> Iterator[Missing]:
        """Stretches of exposures that lack the same roles; ``lacking`` has a bit for each role."""
        edges = np.flatnonzero(np.diff(lacking, prepend=-1, append=-1))
        for a, b in zip(edges[:-1], edges[1:], strict=True):
            if lacking[a]:
                roles = tuple(role for bit, role in enumerate(self._columns) if lacking[a] >> bit & 1)
                yield Missing(first + int(a), first + int(b) - 1, roles)

    def _released(self, first: int, which: np.ndarray) -> list[Exposures]:
        return [self._exposures(first + a, first + b) for a, b in stretches(which)]

    def _exposures(self, first: int, stop: int) -> Exposures:
        values = {role: column.data[first:stop].copy() for role, column in self._columns.items() if not column.in_files}
        references = {role: self._references(column.data[first:stop]) for role, column in self._columns.items() if column.in_files}
        return Exposures(first, stop - 1, values, references)

    def _references(self, cells: np.ndarray) -> tuple[Reference, ...]:
        breaks = (cells[1:, 0] != cells[:-1, 0]) | (cells[1:, 1] != cells[:-1, 1] + 1)
        edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(cells)]
        references = []
        for a, b in zip(edges[:-1], edges[1:], strict=True):
            source = self._sources[cells[a, 0]]
            each = source.per_exposure
            references.append(replace(source, start=int(cells[a, 1]) * each, stop=(int(cells[b - 1, 1]) + 1) * each))
        return tuple(references)

    def _complete(self, first: int, stop: int) -> np.ndarray:
        complete = np.ones(max(stop - first, 0), bool)
        for column in self._columns.values():
            complete &= column.have[first:stop]
        return complete

    def _refuse(self, fault: Unfit) -> tuple[Outcome, ...]:
        refused = Refused(fault.stream, fault.seq_first, str(fault), fault.seq_last)
        if fault.stream != self.stream or fault.seq_first is None:
            return (refused,)
        stop = (fault.seq_last or fault.seq_first) + 1
        self._reserve(stop)
        self._refused[fault.seq_first : stop] = True
        return (refused, *(self._advance() if self._columns else ()))

    # -- the door ---------------------------------------------------------------------------------------------

    def _reserve(self, stop: int) -> None:
        if stop > len(self._refused):
            size = max(stop, 2 * len(self._refused))
            self._refused = grown(self._refused, size)
            for column in self._columns.values():
                column.grow(size)

    def _source(self, source: Reference) -> int:
        if source not in self._source_numbers:
            self._source_numbers[source] = len(self._sources)
            self._sources.append(source)
        return self._source_numbers[source]

    def _again(self, name: str, doc: Mapping[str, Any]) -> bool:
        seen = self._seen.get((name, str(doc.get("uid"))))
        try:
            return seen is not None and same(seen, doc)
        except RecursionError:
            return False

    def _of_this_run(self, doc: Mapping[str, Any]) -> None:
        if doc.get("run_start") != self.uid:
            raise Unfit(f"a document of run {doc.get('run_start')!r} within run {self.uid}")

    def _descriptor_of(self, doc: Mapping[str, Any]) -> _Descriptor | None:
        """The descriptor of a document of our stream, None for another stream."""
        uid = doc.get("descriptor")
        descriptor = self._descriptors.get(uid) if isinstance(uid, str) else None
        if descriptor is None:
            seq_num = doc.get("seq_num")
            raise Unfit(f"the descriptor {uid!r} is not known", seq_num if is_whole(seq_num) else None)
        return descriptor if descriptor.stream == self.stream else None

    def _seq_num(self, row: Mapping[str, Any]) -> int:
        seq_num = row.get("seq_num")
        if not is_whole(seq_num) or not 1 <= seq_num <= self.most:
            raise Unfit(f"the seq_num is {seq_num!r}, not a whole number from 1 to {self.most}")
        return int(seq_num)
