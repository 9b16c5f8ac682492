"""The few requests that publishing needs, each idempotent or guarded, with its failures told apart.

The Tiled client retries for 45 s before it says anything and does not resend rows; a worker wants to know at once whether the
server is away (wait, try again) or refuses (stop, tell the operator). So this speaks Tiled's HTTP directly.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import orjson
import pyarrow as pa
from tiled.client.base import BaseClient
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.data_source import Asset, DataSource, Management
from tiled.structures.table import TableStructure
from tiled.utils import ensure_uri, path_from_uri, safe_json_dump

from ..errors import PublishError

ARROW = "application/vnd.apache.arrow.file"
TIMEOUT = httpx.Timeout(60.0, connect=5.0)
# Proxies answer these for a server that is away; 429 is a server that asks to wait.
AWAY_STATUS = {408, 429, 502, 503, 504}

NodeKeys = tuple[str, ...]


class ServerAwayError(PublishError):
    """Nobody answered, or only a proxy: it is not known whether the request was carried out."""


class ServerFaultError(ServerAwayError):
    """The server answered with a fault of its own (500): perhaps passing, perhaps not."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What an array is, apart from its shape."""

    dims: tuple[str, ...]
    chunks: tuple[int, ...]
    dtype: str

    def structure(self, shape: Sequence[int]) -> ArrayStructure:
        """Tiled's structure of such an array of ``shape``."""
        lengths = tuple((c,) * (n // c) + ((n % c,) if n % c else ()) for n, c in zip(shape, self.chunks, strict=True))
        data_type = BuiltinDtype.from_numpy_dtype(np.dtype(self.dtype))
        return ArrayStructure(data_type=data_type, chunks=lengths, shape=tuple(shape), dims=self.dims, resizable=False)


class Wire:
    """A Tiled server, seen by a writer.

    Parameters
    ----------
    target
        URI of the server, or a Tiled client of the node below which everything goes.
    api_key
        Key that may write; not needed with a client that has one.
    """

    def __init__(self, target: str | BaseClient, *, api_key: str | None = None) -> None:
        if isinstance(target, str):
            self._api = target.split("?")[0].rstrip("/")
            if not self._api.endswith("/api/v1"):
                self._api += "/api/v1"
            headers = {"Authorization": f"Apikey {api_key}"} if api_key else {}
            self._http, self._prefix, self._ours = httpx.Client(headers=headers, timeout=TIMEOUT), (), True
        else:
            self._api, self._http, self._ours = str(target.context.api_uri).rstrip("/"), target.context.http_client, False
            self._prefix = tuple(part for part in target.path_parts if part)

    def close(self) -> None:
        """Close the connections, where they are ours."""
        if self._ours:
            self._http.close()

    # Requests -------------------------------------------------------------------------------------------------------

    def _request(self, method: str, route: str, path: NodeKeys, allowed: Sequence[int] = (), **options: Any) -> httpx.Response:
        """Send one request; ``allowed`` are further status codes that the caller handles."""
        url = f"{self._api}/{route}/{'/'.join(quote(key, safe='') for key in (*self._prefix, *path))}"
        try:
            response = self._http.request(method, url, **options)
        except httpx.TransportError as error:
            raise ServerAwayError(f"{method} {url}: {type(error).__name__} {error}") from error
        if response.is_success or response.status_code in allowed:
            return response
        said = f"{method} {url}: {response.status_code} {response.text[:500]}"
        if response.status_code in AWAY_STATUS:
            raise ServerAwayError(said)
        if response.status_code >= 500:
            raise ServerFaultError(said)
        remedy = {
            401: "give an API key that may write",
            403: "give an API key that may write",
            404: "the node was removed from the server, or its catalog is another one: start the worker again to publish anew",
            415: "the server knows no adapter for this mimetype: compare its configuration with tiled_config/",
        }.get(response.status_code, "the server and this version of operandi do not fit together")
        raise PublishError(f"the Tiled server refused: {said}; {remedy}")

    def _json(self, method: str, route: str, path: NodeKeys, body: Any, allowed: Sequence[int] = ()) -> httpx.Response:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        return self._request(method, route, path, allowed, content=safe_json_dump(body), headers=headers)

    def describe(self, path: NodeKeys) -> dict[str, Any] | None:
        """Attributes of the node at ``path``, data sources included; None where there is none."""
        headers = {"Accept": "application/json"}
        response = self._request("GET", "metadata", path, (404,), params={"include_data_sources": "true"}, headers=headers)
        return None if response.status_code == 404 else response.json()["data"]["attributes"]

    def _create(
        self, path: NodeKeys, family: str, metadata: Mapping, specs: Sequence[str], source: DataSource | None, *allowed: int
    ) -> dict[str, Any] | None:
        """Create a node; None where there is one of that name, or for another status code that is ``allowed``."""
        body = {
            "id": path[-1],
            "structure_family": family,
            "metadata": metadata,
            "specs": [{"name": name, "version": None} for name in specs],
            "data_sources": [] if source is None else [asdict(source)],
        }
        route = "register" if source is not None and source.assets else "metadata"
        response = self._json("POST", route, path[:-1], body, (409, *allowed))
        return None if response.status_code in (409, *allowed) else response.json()

    def _found(self, path: NodeKeys, family: str, metadata: Mapping) -> dict[str, Any]:
        """The node that is there instead of the one to be created, brought to the same metadata."""
        found = self.describe(path)
        if found is None or found["structure_family"] != family:
            what = "nothing readable" if found is None else f"a node of family {found['structure_family']}"
            raise PublishError(f"{'/'.join(path)}: {what} is on the server where a {family} is to be published; remove or rename it")
        wanted = orjson.loads(safe_json_dump(metadata))
        if any(found["metadata"].get(key) != value for key, value in wanted.items() if value is not None):
            self.update_metadata(path, metadata)
        return found

    # Nodes ----------------------------------------------------------------------------------------------------------

    def container(self, path: NodeKeys, metadata: Mapping[str, Any], specs: Sequence[str] = ()) -> None:
        """Have a container at ``path`` with at least this metadata."""
        if self._create(path, "container", metadata, specs, None) is None:
            self._found(path, "container", metadata)

    def update_metadata(self, path: NodeKeys, metadata: Mapping[str, Any]) -> None:
        """Merge ``metadata`` into the node's (RFC 7386: None removes a key)."""
        self._json("PATCH", "metadata", path, {"content-type": "application/merge-patch+json", "metadata": metadata, "specs": None})

    def array(self, path: NodeKeys, location: Path, layout: Layout, shape: Sequence[int], metadata: Mapping) -> dict[str, Any]:
        """Have the zarr array at ``location`` registered at ``path`` with ``shape``; gives its data source, for ``reshape``.

        Raises
        ------
        PublishError
            Another array, or one of another dtype, is registered there; or a URI cannot name the location.
        """
        asset = _asset(location, "data_uri", 0)
        source = DataSource(
            structure_family="array",  # pyright: ignore[reportArgumentType]
            structure=layout.structure(shape),
            mimetype="application/x-zarr",
            assets=[asset],
            management=Management.external,
        )
        created = self._create(path, "array", metadata, (), source)
        if created is not None:
            return created["data_sources"][0] | {"structure": asdict(source.structure)}
        there = self._found(path, "array", metadata)["data_sources"][0]
        structure, kind = there["structure"], asdict(source.structure)["data_type"]
        uris = [a["data_uri"] for a in there["assets"]]
        same_type = all(structure["data_type"][key] == kind[key] for key in ("kind", "itemsize"))
        if uris != [asset.data_uri] or not same_type or len(structure["shape"]) != len(shape):
            raise PublishError(
                f"{'/'.join(path)}: another array is registered there ({uris}, shape {structure['shape']}), not {asset.data_uri}; "
                "publish with the storage folder of before, or remove the result from the server"
            )
        if tuple(structure["shape"]) != tuple(shape):
            return self.reshape(path, there, layout, shape)
        return there

    def reshape(self, path: NodeKeys, source: Mapping[str, Any], layout: Layout, shape: Sequence[int]) -> dict[str, Any]:
        """Tell the server that a registered array has another shape now; gives the new data source."""
        grown = {**source, "structure": asdict(layout.structure(shape))}
        self._json("PUT", "data_source", path, {"data_source": grown})
        return grown

    def lazy(self, path: NodeKeys, mimetype: str, locations: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Have a container that the server computes from the arrays at ``locations``, where it has an adapter for ``mimetype``."""
        source = DataSource(
            structure_family="container",  # pyright: ignore[reportArgumentType]
            structure=None,
            mimetype=mimetype,
            assets=[_asset(location, "data_uris", num) for num, location in enumerate(locations)],
            management=Management.external,
        )
        if self._create(path, "container", metadata, (), source, 415) is None and self.describe(path) is not None:
            self._found(path, "container", metadata)

    # Tables ---------------------------------------------------------------------------------------------------------

    def table(self, path: NodeKeys, columns: Mapping[str, str], order: str, metadata: Mapping[str, Any]) -> None:
        """Have an appendable table at ``path``, read in the order of ``order``.

        Raises
        ------
        PublishError
            A table with other columns is there.
        """
        source = DataSource(
            structure_family="table",  # pyright: ignore[reportArgumentType]
            structure=TableStructure.from_schema(schema(columns), 1),
            mimetype="application/x-tiled-sql-table",
            parameters={"order_by_args": [{"column": order, "direction": "asc"}]},
        )
        if self._create(path, "table", metadata, (), source) is None:
            found = self._found(path, "table", metadata)["structure"]["columns"]
            if list(found) != list(columns):
                raise PublishError(f"{'/'.join(path)}: a table with columns {list(found)} is there, not {list(columns)}; remove it")

    def column(self, path: NodeKeys, name: str) -> np.ndarray | None:
        """One column of a table, in the order of the table; None where there is no such table."""
        response = self._request("GET", "table/full", path, (404,), params={"column": name}, headers={"Accept": ARROW})
        if response.status_code == 404:
            return None
        return pa.ipc.open_file(io.BytesIO(response.content)).read_all().column(name).to_numpy()

    def append(self, path: NodeKeys, rows: pa.Table) -> None:
        """Append rows. Not idempotent: look what is there first, and again after ``ServerAwayError``."""
        body = io.BytesIO()
        with pa.ipc.new_file(body, rows.schema) as writer:
            writer.write_table(rows)
        self._request("PATCH", "table/partition", path, params={"partition": 0}, content=body.getvalue(), headers={"Content-Type": ARROW})


def _asset(location: Path, parameter: str, num: int) -> Asset:
    """A zarr array on disk, as the server finds it."""
    if path_from_uri(ensure_uri(location)) != location:  # Tiled 0.2.20 neither quotes nor unquotes
        raise PublishError(f"{location} holds one of the characters ? # ; which no URI of Tiled can carry: choose another storage folder")
    return Asset(data_uri=ensure_uri(location), is_directory=True, parameter=parameter, num=num)


def schema(columns: Mapping[str, str]) -> pa.Schema:
    """Arrow schema of ``columns``: name → numpy dtype string, or "str"."""
    return pa.schema([(name, pa.string() if kind == "str" else pa.from_numpy_dtype(np.dtype(kind))) for name, kind in columns.items()])
