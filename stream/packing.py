"""The file format of a snapshot: nested dicts of arrays and JSON as one safetensors file. No pickle.

    8 bytes    length of the header
    header     JSON: type, shape and place of every array; under `__metadata__` the version of the format and
               the tree, which refers to the arrays by name
    arrays     one after the other, those with the widest numbers first: each stands where its type wants it

Written and read here rather than by the safetensors package (which can read these files, see the tests): it
builds the file in memory and copies every array, and a snapshot is written beside an engine that needs the
memory. Here the parts of the file are the arrays themselves, and what is read are views of the file's bytes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from .ports import State

FORMAT = 4
"""Of the file, and of the states in it: the layout that the parts of the pipeline give to `snapshot()`."""

Array = NDArray[Any]

_TYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_TEXTS_MIN = 32  # a longer list of texts is stored as one array


def pack(tree: State) -> list[memoryview]:
    """Nested dicts of arrays, bytes, scalars, None and lists as the parts of one file, in order.

    The parts are the tree's own memory where they can be: do not change it before they are written.
    """
    arrays: list[Array] = []
    plain = _flatten(tree, arrays)
    header: dict[str, Any] = {
        "__metadata__": {"format": str(FORMAT), "tree": orjson.dumps(plain).decode()},
    }
    order = sorted(range(len(arrays)), key=lambda i: -arrays[i].itemsize)
    at = 0
    for i in order:
        array = arrays[i]
        place = [at, at + array.nbytes]
        header[str(i)] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": place}
        at += array.nbytes
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return [memoryview(head), *(arrays[i].reshape(-1).view(np.uint8).data for i in order)]


def read_format(data: memoryview) -> int:
    """The version that a file says it has. Raises ValueError where it is not one of ours."""
    return int(_header(data)["__metadata__"]["format"])


def unpack(data: memoryview | bytes) -> State:
    """What `pack` was given. Raises ValueError or KeyError where the bytes are not a snapshot's.

    Arrays are views of `data` that cannot be written to: who keeps one copies it.
    """
    data = memoryview(data).toreadonly()
    header = _header(data)
    tree = orjson.loads(header.pop("__metadata__")["tree"])
    body = data[8 + int.from_bytes(data[:8], "little") :]
    state: State = _unflatten(tree, {name: _view(body, place) for name, place in header.items()})
    return state


def digest(parts: Iterable[memoryview | bytes]) -> str:
    """xxh3-128, hex: guards against damage, not against people, and reads as fast as memory does."""
    h = xxhash.xxh3_128()
    for part in parts:
        h.update(part)
    return str(h.hexdigest())


def _header(data: memoryview) -> dict[str, Any]:
    header: dict[str, Any] = orjson.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


def _view(body: memoryview, place: dict[str, Any]) -> Array:
    start, end = place["data_offsets"]
    return np.frombuffer(body[start:end], _TYPES[place["dtype"]]).reshape(place["shape"])


def _flatten(value: Any, arrays: list[Array]) -> Any:
    """JSON for `value`, its arrays put aside under the names the JSON refers to."""
    if isinstance(value, dict):
        return {"d": {key: _flatten(inner, arrays) for key, inner in value.items()}}
    if isinstance(value, np.ndarray):
        assert value.dtype in _NAMES, f"state holds an array of type {value.dtype}"
        return {"a": _put(arrays, value)}
    if isinstance(value, bytes):
        return {"b": _put(arrays, np.frombuffer(value, np.uint8))}
    if (
        isinstance(value, (list, tuple))
        and len(value) > _TEXTS_MIN
        and all(isinstance(v, str) for v in value)
    ):
        return _flatten_texts(value, arrays)
    if isinstance(value, (list, tuple)):
        return {"l": [_flatten(inner, arrays) for inner in value]}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        return {"i": str(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"f": repr(value)}
    assert value is None or isinstance(value, (bool, int, float, str)), f"state holds a {type(value)}"
    return {"v": value}


def _flatten_texts(texts: Iterable[str], arrays: list[Array]) -> Any:
    """One text with a mark between them that occurs in none: the quickest to take apart again."""
    whole = "".join(texts)
    mark = next(chr(code) for code in range(10, sys.maxunicode) if chr(code) not in whole)
    joined = mark.join(texts).encode("utf-8", "surrogatepass")
    return {"m": [_put(arrays, np.frombuffer(joined, np.uint8)), ord(mark)]}


def _put(arrays: list[Array], value: Array) -> str:
    arrays.append(np.ascontiguousarray(value).reshape(value.shape))  # as a contiguous array 0-d becomes 1-d
    return str(len(arrays) - 1)


def _unflatten(node: dict[str, Any], arrays: dict[str, Array]) -> Any:
    match node:
        case {"d": body}:
            return {key: _unflatten(inner, arrays) for key, inner in body.items()}
        case {"a": name}:
            return arrays[name]
        case {"b": name}:
            return arrays[name].tobytes()
        case {"m": [name, mark]}:
            return arrays[name].tobytes().decode("utf-8", "surrogatepass").split(chr(mark))
        case {"l": body}:
            return [_unflatten(inner, arrays) for inner in body]
        case {"i": body}:
            return int(body)
        case {"f": body}:
            return float(body)
        case {"v": body}:
            return body
    raise ValueError(f"unknown node {sorted(node)}")
