"""One real Tiled server for the whole session: starting one takes seconds."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from operandi.client import Catalog

# How long an example takes says nothing on a machine that does other things too.
settings.register_profile("operandi", deadline=None)
settings.load_profile("operandi")


def pytest_collection_finish() -> None:
    """Leave what imports made to itself: pyFAI collects garbage whenever it loads a calibration, half a second each time otherwise."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, slots=True)
class Service:
    """A running server, and folders that it may read."""

    uri: str
    api_key: str
    storage: Path


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A real Tiled server; results and runs of all tests share it, so give each its own key."""
    from operandi.server.embedded import start_server

    folder, storage = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("storage")
    with start_server(folder, [storage, tmp_path_factory.getbasetemp()]) as server:
        yield Service(server.uri, server.api_key, storage)


@pytest.fixture(scope="session")
def catalog(service: Service) -> Iterator["Catalog"]:
    """The server as any client sees it."""
    from operandi import client

    with client.open(service.uri) as catalog:
        yield catalog
