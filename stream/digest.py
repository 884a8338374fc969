"""Hashes: of records, of manifests, and the chain that stands for the whole state.

The state hash is a chain: each step's link covers the link before it and everything the step computed from
state (rows, embeddings, moves, model fingerprints). Two runs that agree on a link agree on every number
that led to it, at a cost that grows with the step, not with the users.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .events import Manifest, OutRecord
from .manifest import encode_manifest
from .ports import State

_AT_ONCE = 128  # records that are hashed in one call: some 100 KB


def content_hash(*parts: bytes) -> str:
    """blake2b-128 over length-prefixed parts, hex."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.hexdigest()


def output_hash(records: Sequence[OutRecord]) -> str:
    """Of everything a step publishes except its manifest, in order."""
    h = hashlib.blake2b(digest_size=16)
    for at in range(0, len(records), _AT_ONCE):
        h.update(b"".join(map(_framed, records[at : at + _AT_ONCE])))  # long enough to let go of the lock
    return h.hexdigest()


def _framed(record: OutRecord) -> bytes:
    """With the length of each part, so that no two outputs look alike."""
    first = [_name(name) + _field(value) for name, value in record.headers[:1]]
    parts = _name(record.topic), _field(record.key), _field(record.value), *first, _shared(record.headers[1:])
    return b"%b\x02" % b"".join(parts)


def _field(value: bytes | None) -> bytes:
    return b"\x00" if value is None else b"\x01%b%b" % (len(value).to_bytes(8, "little"), value)


@lru_cache(maxsize=1024)
def _name(text: str) -> bytes:
    """Of a topic or a header: there are few of them."""
    return _field(text.encode())


@lru_cache(maxsize=64)
def _shared(headers: tuple[tuple[str, bytes], ...]) -> bytes:
    """Of the headers behind the first: most records of a topic and a step have the same."""
    return b"".join([_name(name) + _field(value) for name, value in headers])


class Chain:
    """The state hash of the latest step, and the hash of the latest manifest."""

    def __init__(self, config_hash: str) -> None:
        self.state_hash = content_hash(config_hash.encode())
        self.manifest_hash = ""
        self.step = 0
        self.epoch = 1

    def link(self, *parts: bytes | np.ndarray) -> str:
        """Extend the chain by what a step computed; the new state hash."""
        raw = [p if isinstance(p, bytes) else np.ascontiguousarray(p).tobytes() for p in parts]
        self.state_hash = content_hash(self.state_hash.encode(), *raw)
        return self.state_hash

    def follow(self, manifest: Manifest) -> None:
        """This manifest is the latest."""
        self.state_hash = manifest.state_hash
        self.manifest_hash = content_hash(encode_manifest(manifest))
        self.step = manifest.step
        self.epoch = manifest.epoch

    def snapshot(self) -> State:
        return {name: getattr(self, name) for name in _FIELDS}

    def restore(self, state: State) -> None:
        for name in _FIELDS:
            setattr(self, name, state[name])


_FIELDS = ("state_hash", "manifest_hash", "step", "epoch")
