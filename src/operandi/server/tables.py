"""Tables of the embedded server in DuckDB, for several readers and a writer at a time."""

import functools
from typing import Any

from sqlalchemy.pool import Pool, QueuePool
from tiled.storage import SQLStorage


def give_each_request_its_connection() -> None:
    """Let requests take connections of their own to DuckDB, in this process.

    Tiled 0.2.20 lets all threads of the server use one ADBC connection, which is not safe: two clients that read a table while the worker
    appends to it end the server by a segmentation fault. Clones of a connection see one database, and may be used side by side. Calling
    it again changes nothing.
    """
    pool = functools.cached_property(_pool)
    pool.__set_name__(SQLStorage, "_connection_pool")
    SQLStorage._connection_pool = pool  # pyright: ignore[reportAttributeAccessIssue]


_TILEDS_OWN = SQLStorage.__dict__["_connection_pool"].func


def _pool(storage: SQLStorage) -> Pool:
    if storage.dialect != "duckdb":
        return _TILEDS_OWN(storage)
    clone: Any = storage._adbc_connection.adbc_clone
    return QueuePool(clone, pool_size=5, max_overflow=10)
