"""A Tiled server in one folder: SQLite catalog, DuckDB tables, files, streaming; for one beamline, a demonstration, tests.

The same configuration, for ``tiled serve config``, is ``tiled_config/embedded.yml``; a facility's server, with
PostgreSQL and Redis, is ``tiled_config/production.yml``.
"""

import asyncio
import contextlib
import copy
import logging
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from sqlalchemy.ext.asyncio import create_async_engine
from tiled.alembic_utils import UninitializedDatabase, check_database, stamp_head
from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
from tiled.catalog.core import ALL_REVISIONS, REQUIRED_REVISION, initialize_database
from tiled.server.app import build_app_from_config
from tiled.server.logging_config import LOGGING_CONFIG
from tiled.server.settings import get_settings
from tiled.utils import ensure_specified_sql_driver, ensure_uri

from ..errors import PublishError
from ..nodes import WINDOWS_MIMETYPE

LOG = "server.log"
CATALOG = "catalog.db"
TELL_AGAIN = {"BlueskyRun": {"application/json-seq": "operandi.server.exporters:tell_again"}}
"""Lets a client replay a raw run: the server tells its documents again."""
ADAPTERS = {WINDOWS_MIMETYPE: "operandi.server.adapters:WindowsAdapter"}
"""Computes maps of any window of q on request."""


def embedded_config(
    folder: Path, readable: Iterable[Path] = (), *, api_key: str, public: bool = True, host: str = "127.0.0.1", port: int = 8000
) -> dict[str, Any]:
    """Tiled configuration of a server that keeps everything below ``folder``.

    ``readable`` are further folders whose files it may serve: the arrays that the worker writes, the detector's images.
    ``public`` lets anyone who reaches the port read; writing always takes ``api_key``. Tables lie in DuckDB: from SQLite,
    Tiled 0.2.20 cannot read a column that begins with more than 1024 missing values.
    """
    folder = Path(folder).resolve()
    return {
        "catalog": {
            "uri": f"sqlite:///{folder}/{CATALOG}",
            "writable_storage": [ensure_uri(folder / "files"), f"duckdb:///{folder}/tables.duckdb"],
            "readable_storage": [ensure_uri(Path(path).resolve()) for path in readable],
            "adapters_by_mimetype": ADAPTERS,
        },
        "authentication": {"single_user_api_key": api_key, "allow_anonymous_access": public},
        "streaming_cache": {"uri": "memory"},
        "media_types": TELL_AGAIN,
        "expose_raw_assets": False,
        "uvicorn": {"host": host, "port": port, "ws_per_message_deflate": False},
    }


def prepare(folder: Path) -> None:
    """Create the folders and the catalog where they are not there yet.

    Tiled's own ``init_if_not_exists`` starts an interpreter for it, which takes 13 s on two cores.
    """
    folder = Path(folder).resolve()
    (folder / "files").mkdir(parents=True, exist_ok=True)
    uri = ensure_specified_sql_driver(f"sqlite:///{folder}/{CATALOG}")

    async def initialize() -> bool:
        engine = create_async_engine(uri)
        try:
            await check_database(engine, REQUIRED_REVISION, ALL_REVISIONS)
        except UninitializedDatabase:
            await initialize_database(engine)
            return True
        finally:
            await engine.dispose()
        return False

    if asyncio.run(initialize()):
        with _quiet_alembic():
            stamp_head(Path(ALEMBIC_INI_TEMPLATE_PATH), Path(ALEMBIC_DIR), uri)


@contextlib.contextmanager
def _quiet_alembic() -> Iterator[None]:
    """Keep alembic to itself: it replaces the handlers of logging, and Tiled 0.2.20 gives it a setting that it deprecates."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    disabled = {name: logger.disabled for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, was in disabled.items():
            logging.getLogger(name).disabled = was


def serve(
    folder: Path, readable: Iterable[Path] = (), *, api_key: str, public: bool = True, host: str = "127.0.0.1", port: int = 8000
) -> None:
    """Run the server in this thread until it is interrupted."""
    prepare(folder)
    config = embedded_config(folder, readable, api_key=api_key, public=public, host=host, port=port)
    uvicorn.run(_app(config), log_config=_log_config(None), timeout_graceful_shutdown=3, **config["uvicorn"])


def _app(config: dict[str, Any]) -> Any:
    """Tiled's application of a configuration."""
    with warnings.catch_warnings():
        # Tiled 0.2.20 writes down as text the adapters that it has imported, of which pydantic complains.
        warnings.filterwarnings("ignore", "Pydantic serializer warnings", UserWarning)
        return build_app_from_config(copy.deepcopy(config))


def _log_config(file: Path | None) -> dict[str, Any]:
    """Tiled's logging, into ``file`` where one is given."""
    config = copy.deepcopy(LOGGING_CONFIG)
    if file is not None:
        for handler in config["handlers"].values():
            del handler["stream"]
            handler |= {"class": "logging.FileHandler", "filename": str(file)}
    return config


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process: this server runs in one of its threads."""
        yield


@dataclass(slots=True)
class RunningServer:
    """A server in a thread of this process; ``stop()`` it, or use it in a ``with`` statement."""

    folder: Path
    uri: str
    api_key: str = field(repr=False)
    _uvicorn: _Uvicorn = field(repr=False)
    _thread: threading.Thread = field(repr=False)

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return self._uvicorn.config.port

    @property
    def log(self) -> Path:
        """File that it logs to."""
        return self.folder / LOG

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop it and wait until its files are closed; again is allowed."""
        self._uvicorn.should_exit = True
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._uvicorn.force_exit = True
            self._thread.join(timeout_s)

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_server(
    folder: Path,
    readable: Iterable[Path] = (),
    *,
    api_key: str | None = None,
    public: bool = True,
    host: str = "127.0.0.1",
    port: int = 0,
    timeout_s: float = 60.0,
) -> RunningServer:
    """Start a server on ``folder`` in a thread and return when it answers.

    Parameters
    ----------
    folder
        Where catalog, tables and log lie; the same folder again serves the same content.
    readable
        Further folders whose files it may serve.
    api_key
        Key for writing; None makes one.
    port
        0 takes a free one.

    Raises
    ------
    PublishError
        It does not answer within ``timeout_s``; the message ends with the tail of its log.
    """
    folder = Path(folder).resolve()
    key = api_key or secrets.token_hex(16)
    port = port or _free_port(host)
    prepare(folder)
    config = embedded_config(folder, readable, api_key=key, public=public, host=host, port=port)
    get_settings.cache_clear()  # Tiled 0.2.20 keeps one Settings a process: a second server would change the key of the first
    app = _app(config)
    server = _Uvicorn(
        uvicorn.Config(app, log_config=_log_config(folder / LOG), loop="asyncio", timeout_graceful_shutdown=2, **config["uvicorn"])
    )
    thread = threading.Thread(target=server.run, name=f"tiled:{port}", daemon=True)
    thread.start()
    running = RunningServer(folder, f"http://{host}:{port}", key, server, thread)
    try:
        _wait_until_it_answers(running, timeout_s)
    except PublishError:
        running.stop()
        raise
    return running


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _wait_until_it_answers(server: RunningServer, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    with httpx.Client(trust_env=False, timeout=5.0) as client:
        while time.monotonic() < deadline and server._thread.is_alive():
            with contextlib.suppress(httpx.TransportError):
                if client.get(f"{server.uri}/healthz").is_success:
                    return
            time.sleep(0.05)
    why = f"does not answer after {timeout_s:g} s" if server._thread.is_alive() else "ended while it started"
    tail = "\n".join(server.log.read_text(errors="replace").splitlines()[-20:]) if server.log.exists() else "(no log)"
    raise PublishError(f"the Tiled server on {server.uri} (folder {server.folder}) {why}; the end of {server.log}:\n{tail}")
