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
from xxhash import xxh3_128_digest

from .events import Manifest, OutRecord
from .manifest import encode_manifest
from .ports import State


def content_hash(*parts: bytes) -> str:
    """blake2b-128 over length-prefixed parts, hex."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.hexdigest()


def output_hash(records: Sequence[OutRecord]) -> str:
    """Of everything a step publishes except its manifest, in order.

    Column by column: what is the same in many records (topic, names of headers, headers behind the first) as one
    text, keys, values, first headers; of each the lengths (-1: there is none), then the bytes; before all, how many
    records there are, so that no two outputs look alike.
    """
    h = hashlib.blake2b(len(records).to_bytes(8, "little"), digest_size=16)
    for column in zip(*map(_parts, records), strict=True):
        h.update(np.array([-1 if part is None else len(part) for part in column], np.int64).data)
        h.update(b"".join([part for part in column if part is not None]))
    return h.hexdigest()


def _parts(record: OutRecord) -> tuple[bytes, bytes | None, bytes | None, bytes | None]:
    name, first = record.headers[0] if record.headers else (None, None)
    return _kind(record.topic, name, record.headers[1:]), record.key, record.value, first


@lru_cache(maxsize=256)
def _kind(topic: str, name: str | None, headers: tuple[tuple[str, bytes], ...]) -> bytes:
    """A few for each topic and step."""
    return repr((topic, name, headers)).encode()


class Chain:
    """The state hash of the latest step, and the hash of the latest manifest."""

    def __init__(self, config_hash: str) -> None:
        self.state_hash = content_hash(config_hash.encode())
        self.manifest_hash = ""
        self.step = 0
        self.epoch = 1

    def link(self, *parts: bytes | np.ndarray) -> str:
        """Extend the chain by what a step computed; the new state hash. Arrays, some MB a step, go in as their xxh3."""
        raw = [p if isinstance(p, bytes) else xxh3_128_digest(np.ascontiguousarray(p).data) for p in parts]
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
