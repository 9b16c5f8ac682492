"""Open results by whatever names them: a Tiled profile, a server's address, or a folder in which a demo or a server kept its catalog."""

import atexit
from pathlib import Path

from operandi import client
from operandi.server.embedded import CATALOG, start_server

SERVER = "server"


def open(where: str | Path = client.PROFILE, *, api_key: str | None = None) -> client.Catalog:  # noqa: A001 - the name that users call
    """Connect to results.

    Parameters
    ----------
    where
        Name of a Tiled profile, URI of a server, or a folder with a catalog in its subfolder ``server``, such as ``demo``: that is
        served from this process, at an address of its own, until Python ends.
    api_key
        Key of a reader, where the server wants one.

    Raises
    ------
    PublishError
        The server does not answer, or wants an API key.
    NotPublishedError
        There is no such profile and no such folder.
    """
    folder = Path(where) / SERVER
    if "://" in str(where) or not (folder / CATALOG).exists():
        return client.open(str(where), api_key=api_key)
    server = start_server(folder, [Path(where)], api_key=api_key)
    atexit.register(server.stop)
    return client.open(server.uri, api_key=server.api_key)
