"""References: where in which file the exposures of a run lie, from the documents that describe assets."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from operandi.errors import DocumentError

HDF5 = "application/x-hdf5"
TIFF = "multipart/related;type=image/tiff"
UNKNOWN_FORMAT = "application/octet-stream"

_LEGACY_DATASETS = {"XSP": "/entry/instrument/detector/data", "XSP3": "/entry/instrument/detector/data"}


@dataclass(frozen=True, slots=True)
class Reference:
    """Consecutive items of one file, or of one numbered series of files: ``[start, stop)``.

    ``start`` and ``stop`` count along the first axis of ``dataset``; with a ``template`` they are the numbers of
    the files ``uri + template.format(number)``. Each exposure has ``per_exposure`` items of ``shape`` (a number
    has the shape ``()``), one after the other; ``dataset`` is None where a file has only one.
    """

    uri: str
    dataset: str | None
    start: int
    stop: int
    mimetype: str
    shape: tuple[int, ...]
    per_exposure: int = 1
    template: str | None = None
    swmr: bool = False

    def parts(self) -> Iterator[tuple[str, int, int | None]]:
        """``(uri, start, stop)`` of each file, in order; a file of a numbered series is taken whole, ``(uri, 0, None)``."""
        if self.template is None:
            yield self.uri, self.start, self.stop
            return
        for number in range(self.start, self.stop):
            name = self.template.format(number)
            yield self.uri + (name.lstrip("/") if self.uri.endswith("/") else name), 0, None


def locate(resource: Mapping[str, Any], data_key: Mapping[str, Any], datum_kwargs: Mapping[str, Any] | None = None) -> Reference:
    """Where a stream_resource (or a legacy resource, with the keyword arguments of a datum) keeps a data key.

    Returns an empty reference, ``start`` = ``stop`` = 0. Raises DocumentError where the documents do not say.
    """
    legacy = "mimetype" not in resource
    given = resource.get("resource_kwargs" if legacy else "parameters") or {}
    if not isinstance(given, Mapping):
        raise DocumentError(f"the parameters of resource {resource.get('uid')!r} are no mapping")
    parameters = {**given, **(datum_kwargs or {})}
    mimetype = _legacy_mimetype(str(resource.get("spec"))) if legacy else str(resource["mimetype"])
    items, shape = _items(data_key, parameters)
    template = parameters.get("template")
    if template is not None:
        items = max(items // _images_a_file(items, shape, parameters), 1)
        template = _new_style(str(template), str(parameters.get("filename", "")))
    return Reference(
        uri=_legacy_uri(resource) if legacy else _uri(resource),
        dataset=_dataset(parameters, mimetype, str(resource.get("spec"))),
        start=0,
        stop=0,
        mimetype=mimetype,
        shape=shape,
        per_exposure=items,
        template=template,
        swmr=bool(parameters.get("swmr", False)),
    )


def datum_index(datum_kwargs: Mapping[str, Any], seq_num: int, per_exposure: int) -> int:
    """Number of the exposure in its resource that a legacy datum points to, counted from 0.

    As in bluesky-tiled-plugins: ``indices``, else ``point_number``, else ``frame`` (the last image of the datum),
    else the event's seq_num. Raises DocumentError for anything but whole numbers from 0.
    """
    index: Any = seq_num - 1
    if isinstance(indices := datum_kwargs.get("indices"), Mapping):
        index = indices.get("start")
    elif (point := datum_kwargs.get("point_number")) is not None:
        index = point
    elif (frame := datum_kwargs.get("frame")) is not None:
        index = (frame + 1) // per_exposure - 1 if isinstance(frame, int) else frame
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise DocumentError(f"the datum's arguments {dict(datum_kwargs)} name no image")
    return index


def _items(data_key: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
    """Items of the dataset's first axis for each exposure, and the shape of one; a leading 1 is no axis of its own."""
    given = data_key.get("shape")
    if not isinstance(given, list | tuple):
        raise DocumentError(f"the data key says no shape, but {given!r}")
    shape = tuple(1 if length is None else length for length in given)
    if any(isinstance(length, bool) or not isinstance(length, int) or length < 1 for length in shape):
        raise DocumentError(f"the data key has the shape {given!r}: lengths must be whole numbers from 1")
    items, item = (shape[0], shape[1:]) if len(shape) in (1, 3) else (1, shape)
    if isinstance(multiplier := parameters.get("multiplier", parameters.get("frame_per_point")), int) and items == 1:
        items = max(multiplier, 1)
    if parameters.get("join_method") == "stack" and items > 1:
        return 1, (items, *item)
    return items, item


def _images_a_file(items: int, shape: tuple[int, ...], parameters: Mapping[str, Any]) -> int:
    if isinstance(files := parameters.get("files_per_datum"), int) and files > 0:
        return max(items // files, 1)
    chunk = parameters.get("chunk_shape")
    if not isinstance(chunk, list | tuple) or not chunk or not isinstance(chunk[0], int) or chunk[0] < 1:
        return 1 if parameters.get("multiplier") or parameters.get("frame_per_point") else items
    whole = parameters.get("join_method") == "concat" or tuple(chunk[1:]) == shape
    return min(chunk[0], items) if whole else items


def _new_style(template: str, filename: str) -> str:
    """``%s%s_%06d.tif`` as ``name_{:06d}.tif``; a template in the new style is left alone."""
    named = template.replace("%s", filename, 1).replace("%s", "")
    return re.sub(r"%([-+ 0]*)(\d*)(?:\.(\d+))?d", _field, named)


def _field(match: re.Match[str]) -> str:
    flags, width, precision = match.groups()
    digits = max(int(width or 0), int(precision or 0))
    zero = "0" if "0" in flags or precision else ""
    return f"{{:{zero}{digits or ''}d}}"


def _dataset(parameters: Mapping[str, Any], mimetype: str, spec: str) -> str | None:
    if mimetype != HDF5:
        return None
    return str(parameters.get("dataset") or parameters.get("path") or _LEGACY_DATASETS.get(spec, "/entry/data/data"))


def _uri(resource: Mapping[str, Any]) -> str:
    uri = resource.get("uri")
    if not isinstance(uri, str) or not uri:
        raise DocumentError(f"stream_resource {resource.get('uid')!r} has no uri")
    return uri


def _legacy_uri(resource: Mapping[str, Any]) -> str:
    root, path = resource.get("root") or "", resource.get("resource_path") or ""
    if not isinstance(root, str) or not isinstance(path, str):
        raise DocumentError(f"resource {resource.get('uid')!r} has no path")
    joined = "/".join(part for part in (root.rstrip("/"), path.lstrip("/")) if part)
    return "file://localhost/" + quote(joined.lstrip("/"))


def _legacy_mimetype(spec: str) -> str:
    if "HDF5" in spec or spec in _LEGACY_DATASETS or spec == "PANDA":
        return HDF5
    return TIFF if "TIFF" in spec else UNKNOWN_FORMAT
