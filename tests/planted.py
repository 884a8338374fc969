"""User ids planted in every corner of an input, and a search for them in whatever was written."""

from __future__ import annotations

import base64
import gzip
import random
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

T0_MS = 1_700_000_000_000
_KINDS = ("view", "purchase", "play", "search")
_ODD = (
    "Ünal:7@example.org",
    "王小明-secret",
    "anon:planted-liar",
    "user:planted-liar",
    'quo"te\\d planted',
    "p1_planted",
)


def ids(users: int) -> list[str]:
    """No id is part of a word that Shoal writes by itself."""
    return [f"planted-{i:03d}-{random.Random(i).randbytes(4).hex()}" for i in range(users)] + list(_ODD)


def lines(users: Sequence[str], steps: int = 6) -> Iterator[bytes]:
    """Events of every user, half of them anonymous ones, and records that are rejected, each with an id in it."""
    count = 0
    for step in range(steps):
        for i, user in enumerate(users):
            who = "anonymous_id" if i % 2 else "user_id"
            body: dict[str, Any] = {
                "event_id": f"e{count}",
                who: user,
                "type": _KINDS[(i + step // 3) % 4],
                "event_time": T0_MS + 60_000 * count,
                "items": [{"id": f"item-{i % 4}", "category": [f"kind {i % 4}"]}],
            }
            count += 1
            yield orjson.dumps(body)
            if i % 7 == 0:
                yield from rejected(user, count)


def rejected(user: str, count: int) -> list[bytes]:
    """The same user in records of every reason that can hold an id."""
    body = {"event_id": f"r{count}", "user_id": user, "type": "view", "event_time": T0_MS}
    whole = orjson.dumps(body)
    return [
        whole[:-1] + b',"a":',  # json
        whole[:-1] + b',"x":NaN}',  # number
        whole[:-1] + b',"x":' + b"[" * 12 + b"]" * 12 + b"}",  # depth
        orjson.dumps(body | {"text": user + "x" * 70_000}),  # size
        orjson.dumps(body | {"items": user}),  # schema
        orjson.dumps(body | {"items": [{"id": 7, user: user}]}),  # schema, the id as a field's name
        orjson.dumps({name: value for name, value in body.items() if name != "event_time"}),  # schema
        orjson.dumps(body | {"event_time": user}),  # time
        orjson.dumps(body | {"event_time": 4711_0815}),  # time
        orjson.dumps(body | {"user_id": user + "\x07" + "x" * 200}),  # user_id
        whole[:-2] + b'\xff"}',  # encoding
        whole[:-1] + b',"type":{"' + user.encode() + b'":1}}',
    ]


def forms(user: str) -> dict[str, bytes]:
    """How an id could look in bytes: as it is, escaped, in other encodings."""
    text = user.encode()
    return {
        "plain": text,
        "json": orjson.dumps(user)[1:-1],
        "escaped": user.encode("ascii", "backslashreplace"),
        "utf-16": user.encode("utf-16-le"),
        "utf-16-be": user.encode("utf-16-be"),
        "utf-32": user.encode("utf-32-le"),
        "hex": text.hex().encode(),
        "HEX": text.hex().upper().encode(),
        **{
            f"base64+{skip}": base64.b64encode(b" " * skip + text)[4 if skip else 0 : -4] for skip in range(3)
        },
        "url": user.encode() if user.isalnum() else "".join(f"%{b:02X}" for b in text).encode(),
    }


def opened(content: bytes) -> Iterator[bytes]:
    """The bytes, and what they hold where they are compressed, text in base64 or shuffled numbers."""
    yield content
    for magic, opens in ((b"\x1f\x8b", gzip.decompress), (b"\x78", zlib.decompress)):
        at = content.find(magic)
        if 0 <= at < 64:
            try:
                yield opens(content[at:])
            except (OSError, zlib.error, EOFError):
                continue


def found(content: bytes, users: Sequence[str]) -> list[str]:
    """Which ids stand in these bytes, and how."""
    out = []
    for layer in opened(content):
        for user in users:
            out += [f"{user!r} as {form}" for form, needle in forms(user).items() if needle in layer]
    return out


def found_in(folder: Path, users: Sequence[str]) -> list[str]:
    """Over every file under the folder, its name included."""
    out = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        out += [
            f"{path.name}: {one}" for one in found(path.name.encode() + b"\\n" + path.read_bytes(), users)
        ]
    return out
