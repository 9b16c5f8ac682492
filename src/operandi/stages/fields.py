"""Fields of documents, read without trust."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np

from operandi.errors import DocumentError


class Unfit(DocumentError):
    """A document that is not admitted, and the exposures it would have concerned."""

    def __init__(self, reason: str, seq_first: int | None = None, seq_last: int | None = None, stream: str = ""):
        super().__init__(reason if len(reason) <= 400 else reason[:400] + " …")
        self.seq_first, self.seq_last, self.stream = seq_first, seq_last, stream


def is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def said(doc: Any) -> str:
    """What an unknown document says of itself, for a message."""
    if not isinstance(doc, Mapping):
        return f": {type(doc).__name__}"
    return f": {doc['reason']}" if "reason" in doc else ""


def text(doc: Mapping[str, Any], field: str, name: str) -> str:
    value = doc.get(field)
    if not isinstance(value, str) or not value:
        raise Unfit(f"the {name} has no {field}")
    return value


def number(value: Any, key: str, seq_num: int) -> float:
    """A finite number; lists and arrays of one element count as their element."""
    for _ in range(3):
        value = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise Unfit(f"{key!r} is {type(value).__name__}, not a number", seq_num)
    try:
        converted = float(value)
    except OverflowError:
        converted = math.inf
    if not math.isfinite(converted):
        raise Unfit(f"{key!r} is not finite", seq_num)
    return converted


def span(
    doc: Mapping[str, Any], field: str, least: int, most: int, seq_nums: tuple[int | None, int | None] = (None, None)
) -> tuple[int, int]:
    """``[start, stop)`` of the seq_nums or indices of a stream_datum."""
    given = doc.get(field)
    if isinstance(given, Mapping):
        start, stop = given.get("start"), given.get("stop")
        if is_whole(start) and is_whole(stop) and least <= start < stop <= most:
            return int(start), int(stop)
    raise Unfit(f"the {field} of the stream_datum are {given!r}, not start < stop from {least} to {most}", *seq_nums)


def in_files(data_keys: Mapping[str, Any], key: str | None) -> bool:
    return key is not None and bool(data_keys[key].get("external"))


def streamed(data_keys: Mapping[str, Any], key: str) -> bool:
    return str(data_keys[key].get("external") or "").startswith("STREAM")


def columns_of(page: Mapping[str, Any], names: tuple[str, ...], nested: str) -> tuple[int, Mapping[str, Any]]:
    """Number of rows of a page, and its nested columns; refuses columns of unequal length."""
    columns = page.get(nested)
    if not isinstance(columns, Mapping):
        raise Unfit(f"the page has no {nested}")
    lists = [*(page.get(name) for name in names), *columns.values()]
    lengths = {len(column) if isinstance(column, list | tuple | np.ndarray) else -1 for column in lists}
    if len(lengths) != 1 or -1 in lengths:
        raise Unfit(f"the page's columns ({', '.join(names)}, {nested}) are no lists of equal length")
    return lengths.pop(), columns


def event_rows(page: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    length, data = columns_of(page, ("seq_num", "time"), "data")
    for i in range(length):
        yield {"seq_num": page["seq_num"][i], "time": page["time"][i], "data": {key: column[i] for key, column in data.items()}}


def datum_rows(page: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    length, arguments = columns_of(page, ("datum_id",), "datum_kwargs")
    for i in range(length):
        yield {
            "datum_id": page["datum_id"][i],
            "resource": page.get("resource"),
            "datum_kwargs": {key: column[i] for key, column in arguments.items()},
        }


def same(a: Any, b: Any) -> bool:
    """Equal in content; arrays, and values that are not equal to themselves, included."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return False
    return bool(a is b or a == b or (a != a and b != b))
