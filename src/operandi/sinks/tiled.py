"""Publish the products of a run to a Tiled server, whatever the server does meanwhile.

Blocks go to disk at once. What only the server can do (create a node, take note of a grown array, append rows) waits in a
spool and is carried out by a thread, in order; so a row of ``steps`` appears only after the data that it announces.
"""

import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from tiled.client.base import BaseClient
from tiled.utils import safe_json_dump

from .. import tasks
from ..errors import PublishError, ShapeError
from ..nodes import PROCESSED, RESULT_SPEC, Array, Block, Closed, Container, Lazy, NodePath, Product, Rows, Table
from .arrays import ArrayStore
from .spool import Operation, Spool
from .wire import Layout, ServerAwayError, ServerFaultError, Wire, schema

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
FAULTS_BEFORE_GIVING_UP = 10


class TiledSink:
    """Where a worker publishes its results, one after the other.

    Parameters
    ----------
    target
        URI of the server, or a Tiled client of the node below which ``root`` goes.
    api_key
        Key that may write; not needed with a client that has one.
    storage
        Folder for the arrays, ``<storage>/<root>/<key>/…``; the server must be able to read it.
    state
        Folder for what the server has not taken yet.
    """

    def __init__(self, target: str | BaseClient, *, api_key: str | None = None, storage: Path, state: Path, root: str = PROCESSED) -> None:
        self._target, self._api_key = target, api_key
        self._storage, self._state, self._root = Path(storage).resolve(), Path(state).resolve(), root
        self._open: _Publication | None = None

    def open(self, key: str, metadata: Mapping[str, Any]) -> None:
        """Begin, or resume, the result ``key``. Does not wait for the server.

        Raises
        ------
        PublishError
            Another result is open, or another process publishes this one.
        """
        if self._open is not None:
            raise PublishError(f"result {self._open.key} is still open: close it before {key}")
        self._open = _Publication(Wire(self._target, api_key=self._api_key), self._root, key, self._storage, self._state)
        self._open.apply(Container((), dict(metadata), (RESULT_SPEC,)))

    def apply(self, product: Product) -> None:
        """Publish one product. Never waits for the server.

        Raises
        ------
        PublishError
            The server refused something earlier; what it did not take is kept in the spool.
        ShapeError
            The product does not fit what was declared.
        """
        self._result().apply(product)

    @property
    def backlog(self) -> int:
        """Number of operations that the server has not taken yet."""
        publication = self._open  # another thread may ask while this one closes it
        return 0 if publication is None else publication.backlog

    @property
    def retries(self) -> int:
        """Number of attempts at the open result that found the server away."""
        return 0 if self._open is None else self._open.retries

    def drain(self, timeout_s: float) -> bool:
        """Wait until the server has taken everything; False where it has not after ``timeout_s``.

        Raises
        ------
        PublishError
            The server refused.
        """
        return self._result().drain(timeout_s)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Drain, then end; False where operations are left for the next time. Closing again is allowed."""
        if self._open is None:
            return True
        publication, self._open = self._open, None
        return publication.close(timeout_s)

    def _result(self) -> "_Publication":
        if self._open is None:
            raise PublishError("no result is open: call open(key, metadata) first")
        return self._open

    def __enter__(self) -> "TiledSink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class _Registered:
    """An array as the server knows it."""

    layout: Layout
    source: Mapping[str, Any]
    shape: tuple[int, ...]


class _Publication:
    """One open result: the caller's side writes and spools, the thread's side carries out."""

    def __init__(self, wire: Wire, root: str, key: str, storage: Path, state: Path) -> None:
        self.key = key
        self.retries = 0
        self._wire, self._at = wire, (*_keys(root), key)
        self._store = ArrayStore(storage.joinpath(*self._at))
        self._store.location(())
        self._spool = Spool(state / f"{key}.spool")
        self._arrays: dict[NodePath, Array] = {}
        self._announced: dict[NodePath, tuple[int, ...]] = {}
        self._tables: dict[NodePath, Table] = {}
        self._containers: set[NodePath] = set()
        # The thread's own:
        self._registered: dict[NodePath, _Registered] = {}
        self._highest: dict[NodePath, Any] = {}
        self._stopping = threading.Event()
        self._work = tasks.start(self._carry_out_all, f"publish:{key}")

    # The caller's side ----------------------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        return len(self._spool)

    def apply(self, product: Product) -> None:
        self._raise_fault()
        match product:
            case Container():
                self._parents(product.path)
                self._containers.add(product.path)
                self._spool.append(
                    {"do": "container", "path": product.path, "metadata": _plain(product.metadata), "specs": list(product.specs)},
                    durable=False,
                )
            case Array():
                self._parents(product.path)
                self._store.create(product)
                self._arrays[product.path] = product
                self._announced.pop(product.path, None)
                self._announce(product.path, self._store.shape(product.path))
            case Lazy():
                self._parents(product.path)
                metadata = _plain({**product.metadata, "result": self.key})
                operation = {"do": "lazy", "path": product.path, "mimetype": product.mimetype, "of": product.of, "metadata": metadata}
                self._spool.append(operation, durable=False)
            case Block():
                self._announce(product.path, self._store.write(product))
            case Table():
                self._declare(product)
            case Rows():
                self._rows(product)
            case Closed():
                self._store.sync()
                self._spool.append({"do": "metadata", "path": (), "metadata": _plain(product.metadata)}, durable=True)

    def _parents(self, path: NodePath) -> None:
        """Declare the containers above ``path`` that nobody declared."""
        for depth in range(1, len(path)):
            if path[:depth] not in self._containers:
                self.apply(Container(path[:depth]))

    def _announce(self, path: NodePath, shape: tuple[int, ...]) -> None:
        """Have the server told of an array's shape, where it is a new one; one without extent is not registered yet."""
        if 0 in shape or self._announced.get(path) == shape:
            return
        operation: Operation = {"do": "shape", "path": path}
        if path not in self._announced:
            array = self._arrays.get(path)
            if array is None:
                raise ShapeError(f"array {'/'.join(path)} was not declared: send nodes.Array before its blocks")
            operation |= {"dims": array.dims, "chunks": array.chunks, "dtype": array.dtype, "metadata": _plain(array.metadata)}
        self._spool.append(operation, durable=False)
        self._announced[path] = shape

    def _declare(self, table: Table) -> None:
        if table.order not in table.columns:
            raise ShapeError(f"table {'/'.join(table.path)}: its order column {table.order!r} is not among {list(table.columns)}")
        self._parents(table.path)
        self._tables[table.path] = table
        metadata = {"order": table.order, **_plain(table.metadata)}
        self._spool.append(
            {"do": "table", "path": table.path, "columns": dict(table.columns), "order": table.order, "metadata": metadata}, durable=False
        )

    def _rows(self, rows: Rows) -> None:
        name = "/".join(rows.path)
        table = self._tables.get(rows.path)
        if table is None:
            raise ShapeError(f"table {name} was not declared: send nodes.Table before its rows")
        lengths = {len(values) for values in rows.columns.values()}
        if set(rows.columns) != set(table.columns) or len(lengths) != 1:
            raise ShapeError(f"table {name}: columns {list(rows.columns)} of lengths {sorted(lengths)} do not fit {list(table.columns)}")
        order = np.asarray(rows.columns[table.order], dtype=table.columns[table.order])
        if np.any(~(np.diff(order) > 0)) or not np.all(np.isfinite(order)):
            raise ShapeError(f"table {name}: the values of {table.order!r} must grow from row to row: {order[:5]}…")
        if len(order):
            self._store.sync()  # what a row announces is on the disk before the row can be anywhere
            values = {column: [kind, _listed(rows.columns[column], kind)] for column, kind in table.columns.items()}
            self._spool.append({"do": "rows", "path": rows.path, "order": table.order, "columns": values}, durable=True)

    def drain(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not self._work.done():
            if self._spool.wait_until_empty(min(0.2, max(0.0, deadline - time.monotonic()))):
                return True
            if time.monotonic() >= deadline:
                return False
        self._raise_fault()
        return not self._spool

    def close(self, timeout_s: float) -> bool:
        try:
            return self.drain(timeout_s)
        finally:
            self._stopping.set()
            wait([self._work])
            self._store.close()
            self._spool.close()
            self._wire.close()

    def _raise_fault(self) -> None:
        if self._work.done():
            self._work.result()

    # The thread's side ----------------------------------------------------------------------------------------------

    def _carry_out_all(self) -> None:
        """Carry out what waits, oldest first, until told to stop; ends with PublishError where the server refuses."""
        failures = faults = 0
        while not self._stopping.is_set():
            operation = self._spool.first(timeout_s=0.2)
            if operation is None:
                continue
            try:
                self._carry_out(operation)
            except ServerAwayError as error:
                failures, faults, self.retries = failures + 1, faults + isinstance(error, ServerFaultError), self.retries + 1
                self._highest.clear()  # it may have been carried out all the same
                if faults >= FAULTS_BEFORE_GIVING_UP:
                    raise PublishError(
                        f"result {self.key}: the server failed {faults} times at the same operation; see its log, then start the worker "
                        f"again; {self.backlog} operations wait in {self._spool.file}; it said: {error}"
                    ) from error
                longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(failures, 20))
                self._stopping.wait(longest * random.uniform(0.5, 1.0))
            else:
                failures = faults = 0
                self._spool.done()

    def _carry_out(self, operation: Operation) -> None:
        path = tuple(operation["path"])
        at = (*self._at, *path)
        match operation["do"]:
            case "container":
                if not path:
                    for depth in range(1, len(self._at)):
                        self._wire.container(self._at[:depth], {})
                self._wire.container(at, operation["metadata"], operation["specs"])
            case "shape":
                self._shape(path, at, operation)
            case "table":
                self._wire.table(at, operation["columns"], operation["order"], operation["metadata"])
            case "lazy":
                locations = [self._store.location(tuple(of)) for of in operation["of"]]
                self._wire.lazy(at, operation["mimetype"], locations, operation["metadata"])
            case "rows":
                self._append(path, at, operation)
            case "metadata":
                self._wire.update_metadata(at, operation["metadata"])

    def _shape(self, path: NodePath, at: NodePath, operation: Operation) -> None:
        """Tell the server the array's shape on disk, which may have grown since: then what follows finds it done."""
        shape = self._store.shape(path)
        there = self._registered.get(path)
        if "dims" in operation:
            layout = Layout(tuple(operation["dims"]), tuple(operation["chunks"]), operation["dtype"])
            source = self._wire.array(at, self._store.location(path), layout, shape, operation["metadata"])
            self._registered[path] = _Registered(layout, source, shape)
        elif there is None:
            self._registered[path] = self._rediscover(path, at)
            self._shape(path, at, operation)
        elif there.shape != shape:
            there.source = self._wire.reshape(at, there.source, there.layout, shape)
            there.shape = shape

    def _rediscover(self, path: NodePath, at: NodePath) -> _Registered:
        """An array that an earlier process registered."""
        found = self._wire.describe(at)
        if found is None:
            raise PublishError(f"array {'/'.join(at)} is no longer on the server; start the worker again to publish it anew")
        source = found["data_sources"][0]
        structure = source["structure"]
        chunks = [lengths[0] for lengths in structure["chunks"]]
        layout = Layout(tuple(structure["dims"]), tuple(chunks), _dtype(structure["data_type"]))
        return _Registered(layout, source, tuple(structure["shape"]))

    def _append(self, path: NodePath, at: NodePath, operation: Operation) -> None:
        """Append the rows that are not there yet, told by the order column."""
        order, columns = operation["order"], operation["columns"]
        if path not in self._highest:
            there = self._wire.column(at, order)
            if there is None:
                raise PublishError(f"table {'/'.join(at)} is no longer on the server; start the worker again to publish it anew")
            self._highest[path] = there.max() if len(there) else -np.inf
        new = [i for i, value in enumerate(columns[order][1]) if value > self._highest[path]]
        if new:
            types = schema({name: kind for name, (kind, _) in columns.items()})
            arrays = [pa.array([values[i] for i in new], types.field(name).type) for name, (_, values) in columns.items()]
            self._wire.append(at, pa.Table.from_arrays(arrays, schema=types))
            self._highest[path] = columns[order][1][new[-1]]


def _keys(root: str) -> tuple[str, ...]:
    return tuple(key for key in root.split("/") if key)


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as JSON will give it back: lists for tuples and arrays, None for NaN, text for dates."""
    return orjson.loads(safe_json_dump(metadata))


def _listed(values: Any, kind: str) -> list:
    return [str(value) for value in values] if kind == "str" else np.asarray(values, dtype=kind).tolist()


def _dtype(data_type: Mapping[str, Any]) -> str:
    return {"little": "<", "big": ">"}.get(data_type["endianness"], "|") + f"{data_type['kind']}{data_type['itemsize']}"
