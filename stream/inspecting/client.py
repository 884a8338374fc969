"""Asking a running engine over HTTP, for `shoal inspect --url`."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import orjson

from ..ports import ConfigError, InputError

WITHIN_S = 10.0
_BYTES_MAX = 16 << 20

Value = dict[str, Any]


def ask(url: str, *path: str) -> Value | None:
    """The answer of /v1/PATH; None where the engine knows of no such thing. Raises ConfigError, InputError."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"--url {url}: wanted the address of an engine, as http://127.0.0.1:9108")
    where = "/".join(["", "v1", *(quote(part, safe="") for part in path)])
    try:
        with urlopen(Request(url.rstrip("/") + where), timeout=WITHIN_S) as answer:
            return _parsed(url, answer.read(_BYTES_MAX))
    except HTTPError as error:
        problem = _problem(error)
        if error.code == 404 and problem.get("code", "").startswith("unknown_"):
            return None
        raise InputError(f"--url {url}: {error.code}: {problem.get('detail', error.reason)}") from None
    except (URLError, http.client.HTTPException, OSError) as error:
        why = getattr(error, "reason", None) or error
        raise InputError(
            f"--url {url}: no answer ({why}); does an engine run there, with http.port?"
        ) from None


def _parsed(url: str, body: bytes) -> Value:
    try:
        value = orjson.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"--url {url}: what answers there is no shoal engine")
    return value


def _problem(error: HTTPError) -> Value:
    try:
        value = orjson.loads(error.read(1 << 16))
    except (ValueError, OSError):
        return {}
    return value if isinstance(value, dict) else {}
