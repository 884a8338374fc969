"""Starting over without lying about the past: an epoch ends, another begins, in one line of manifests.

With `--fresh-state` the state is empty, but steps, ids of segments and ids of lineage records go on, so
nothing that was ever published gets another meaning. The steps that open an epoch read no input. They
publish, before anything new:

    lineage   the death of every segment of the epoch before
    catalog   a tombstone for each of them
    changes   `left`, reason `lineage`, for every user who was in one; members: its tombstone

What they publish is a function of what is published already, not of the state that was given up: it can be
told in parts, and after a crash in the middle the rest is told by the next process.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson

from .changes import cloud_headers
from .digest import content_hash, output_hash
from .events import CATALOG, CHANGES, LINEAGE, MEMBERS, Counts, Manifest, Output, OutRecord, Range
from .lineage import Lineage
from .manifest import encode_manifest
from .membership import LEFT
from .pipeline import Pipeline
from .ports import Published
from .privacy.ledger import SPENT
from .segment_values import lineage_value
from .values import INPUT_TOPIC

FAREWELLS_MAX = 20_000
"""Users per opening step: a transaction that is over in seconds."""

Value = dict[str, Any]
Reading = Callable[[str], Iterable[Published]]  # committed records of a topic (contract name)


def opening_steps(
    pipeline: Pipeline, last: Manifest, starts: tuple[Range, ...], source: str, published: Reading
) -> Iterator[Output]:
    """The steps that begin an epoch after `last`; without `starts` the rest of them, where `last` is one of them.

    `starts` are empty ranges: where the new epoch begins to read. Each output must be committed before the
    next is asked for. The pipeline must be fresh; it follows.
    """
    first_id = last.next_segment_id
    opening = Opening(pipeline, last)
    floor = pipeline.membership.floor
    parts = _parts(_fold(published(MEMBERS), first_id).values(), 0 if floor is None else floor.least)
    if starts:
        records = (*opening.deaths(_fold(published(CATALOG), first_id)), *opening.left(next(parts, ())))
        yield opening.step(records, starts, source, last.epoch + 1)
    for part in parts:
        yield opening.step(opening.left(part), (), source, opening.last.epoch)


def _parts(members: Iterable[Value], floor: int) -> Iterator[Sequence[Value]]:
    """Who is told together: FAREWELLS_MAX at a time, and, with a floor, the last of a segment with those before."""
    rest = deque(sorted(members, key=lambda member: member["segment_id"]) if floor else members)
    sizes = Counter(member["segment_id"] for member in rest)
    while rest:
        part: list[Value] = []
        while rest and (len(part) < FAREWELLS_MAX or 0 < sizes[rest[0]["segment_id"]] < floor):
            sizes[rest[0]["segment_id"]] -= 1
            part.append(rest.popleft())
        yield part


def _fold(published: Iterable[Published], first_id: int) -> dict[bytes, dict[str, Any]]:
    """Compacted: the newest value of every key that speaks of a segment before `first_id`."""
    found: dict[bytes, dict[str, Any]] = {}
    for record in (found.record for found in published):
        assert record.key is not None, f"a record of {record.topic} without a key"
        found.pop(record.key, None)
        value = None if record.value is None else orjson.loads(record.value)
        if value is not None and value["segment_id"] < first_id:
            found[record.key] = value
    return dict(sorted(found.items()))


class Opening:
    """Makes opening steps, each on top of the one before."""

    def __init__(self, pipeline: Pipeline, last: Manifest) -> None:
        self.last = last
        self._pipeline = pipeline
        self._next_lineage_id = last.next_lineage_id
        self._source = f"shoal/{pipeline.config_hash[:12]}"

    def deaths(self, catalog: dict[bytes, dict[str, Any]]) -> Iterator[OutRecord]:
        segments = sorted(catalog.values(), key=lambda profile: profile["segment_id"])
        for profile in segments:
            fact = Lineage(
                self._next_lineage_id, "death", profile["segment_id"], max(0, self.last.watermark_ms)
            )
            self._next_lineage_id += 1
            key = str(fact.lineage_id).encode()
            value = orjson.dumps(lineage_value(fact, profile["name"], None))
            yield OutRecord(LINEAGE, key, value, self._headers(key, "lineage", "/lineage"))
        for profile in segments:
            key = str(profile["segment_id"]).encode()
            ce_id = b"%b:%d" % (key, self.last.step + 1)
            yield OutRecord(CATALOG, key, None, self._headers(ce_id, "catalog", "/catalog"))

    def left(self, farewells: Iterable[Value]) -> tuple[OutRecord, ...]:
        """Farewells, with the tombstones that follow from them."""
        return tuple(record for member in farewells for record in self._left(member))

    def _left(self, member: dict[str, Any]) -> Iterator[OutRecord]:
        sequence = member["sequence"] + 1
        key = member["user"]["key"].encode()
        ce_id = b"%b:%d" % (key, sequence)
        change = {
            "user": member["user"],
            "transition": LEFT,
            "from": {name: member[name] for name in ("segment_id", "name", "since")},
            "to": None,
            "reason": {"kind": "lineage", "user_shift": 0.0, "model_shift": 0.0},
            "confidence": None,
            "explanation": None,
            "lifecycle": None,
            "model": {**self._pipeline.versions(), "config": self._pipeline.config_hash},
            "position": {"topic": INPUT_TOPIC, "partition": None, "offset": None, "sequence": sequence},
            "times": {"event_time": None, "decided_time": max(0, self.last.watermark_ms)},
        }
        yield OutRecord(CHANGES, key, orjson.dumps(change), self._headers(ce_id, "change", ""))
        yield OutRecord(MEMBERS, key, None, self._headers(ce_id, "member", "/members"))

    def step(
        self, records: tuple[OutRecord, ...], starts: tuple[Range, ...], source: str, epoch: int
    ) -> Output:
        last = self.last
        hashed = output_hash(records)
        manifest = Manifest(
            step=last.step + 1,
            epoch=epoch,
            opening=True,
            source=source,
            ranges=starts,
            as_of_ms=None,
            closing=False,
            config_hash=self._pipeline.config_hash,
            versions=self._pipeline.recorded_versions()
            | {k: v for k, v in last.versions.items() if k == SPENT},
            watermark_ms=last.watermark_ms,
            counts=Counts(),
            next_segment_id=last.next_segment_id,
            next_lineage_id=self._next_lineage_id,
            previous_hash=content_hash(encode_manifest(last)),
            output_hash=hashed,
            state_hash=content_hash(last.state_hash.encode(), hashed.encode()),
        )
        self._pipeline.begin_epoch(manifest)
        self.last = manifest
        return Output(manifest.step, records, manifest, Counts(), {})

    def _headers(self, ce_id: bytes, kind: str, path: str) -> tuple[tuple[str, bytes], ...]:
        shared = cloud_headers(self._source + path, kind, max(0, self.last.watermark_ms))
        return (("ce_id", ce_id), *shared)
