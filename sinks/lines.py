"""A record as a JSON line: {"key", "headers", "value"}, the same record that Kafka would get.

A value that is not JSON (a rejected record's original bytes) stands as text, or as "value_base64" where it
is not UTF-8; so does a key. A JSON value stands last in its line, byte for byte as it was hashed.
"""

from __future__ import annotations

import base64
from typing import Any

import orjson

from ..stream.events import REJECTED, OutRecord


def encode_line(record: OutRecord, **extra: str) -> bytes:
    """One record as a JSON line; `extra` fields come first."""
    body: dict[str, Any] = dict(extra)
    body |= _bytes("key", record.key)
    body["headers"] = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    if record.topic == REJECTED:
        body |= _bytes("value", record.value)
    else:
        body["value"] = None if record.value is None else orjson.Fragment(record.value)
    return orjson.dumps(body) + b"\n"


def decode_line(topic: str, line: bytes) -> OutRecord:
    """The record that `encode_line` was given."""
    body = orjson.loads(line)
    if topic == REJECTED:
        value = _unbytes("value", body)
    else:
        value = None if body["value"] is None else _value_bytes(line)
    headers = tuple((name, text.encode()) for name, text in body["headers"].items())
    return OutRecord(topic, _unbytes("key", body), value, headers)


def _value_bytes(line: bytes) -> bytes:
    """The value exactly as it was written: it is the last field of the line."""
    marker = b',"value":'
    return line[line.index(marker) + len(marker) : -2]


def _bytes(name: str, data: bytes | None) -> dict[str, str | None]:
    if data is None:
        return {name: None}
    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def _unbytes(name: str, body: dict[str, Any]) -> bytes | None:
    if f"{name}_base64" in body:
        return base64.b64decode(body[f"{name}_base64"])
    text = body[name]
    return None if text is None else str(text).encode()
