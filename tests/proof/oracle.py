"""The oracle: an uninterrupted run over the same manifests, and an auditor who trusts nobody.

What a read_committed subscriber sees of the topics is all that is looked at, besides the input. From the
manifests alone the steps are computed once more by a pipeline that never stopped and never read a snapshot;
every topic must hold its records, byte for byte, in the same order per partition, and nothing else. The
auditor then reads the topics as a stranger would: members are the fold of changes, sequences have no gap,
no ce_id comes twice; and as subscribers do, whose mirrors must be the pipeline's own table. Whatever differs
raises Divergence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import orjson

from shoal.stream.digest import content_hash
from shoal.stream.epochs import opening_steps
from shoal.stream.events import (
    CATALOG,
    CHANGES,
    LINEAGE,
    MANIFEST,
    MEMBERS,
    REJECTED,
    Manifest,
    Output,
    OutRecord,
    Range,
    Records,
    Step,
)
from shoal.stream.manifest import decode_manifest, encode_manifest
from shoal.stream.packing import digest, pack
from shoal.stream.pipeline import Pipeline
from shoal.stream.ports import Published
from shoal.stream.sources import join

from .client import columns
from .log import FakeKafka, Stored
from .mirroring import check_mirrors

OUTPUTS = (CHANGES, MEMBERS, CATALOG, LINEAGE, REJECTED)
Place = tuple[str, int]  # topic, partition
Seen = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]  # key, value, headers


class Divergence(AssertionError):
    """What subscribers see is not what an uninterrupted run over the same steps would have written."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Divergence(message)


def committed_manifests(kafka: FakeKafka) -> list[Manifest]:
    (part,) = kafka.topic(MANIFEST)
    return [decode_manifest(stored.value or b"") for stored in part.read(0, len(part))]


def positions(manifests: list[Manifest]) -> dict[int, int]:
    """Where the next step begins to read."""
    found: dict[int, int] = {}
    for manifest in manifests:
        found = {} if manifest.opening and manifest.ranges else found
        found |= {r.partition: r.end for r in manifest.ranges}
    return found


def check_offsets(kafka: FakeKafka) -> None:
    """At any time: the group's offsets are where the last committed manifest ends."""
    recorded = positions(committed_manifests(kafka))
    require(
        kafka.group.offsets == recorded,
        f"the group's offsets are {kafka.group.offsets}, the manifests end at {recorded}",
    )


def check(kafka: FakeKafka, input_topic: str, pipeline: Pipeline) -> list[Manifest]:
    """Everything, at the end of a run. `pipeline` is fresh; it ends in the state that must have been reached."""
    manifests = committed_manifests(kafka)
    check_offsets(kafka)
    check_chain(manifests)
    check_tiling(manifests, kafka, input_topic)
    compare(_visible(kafka), Uninterrupted(kafka, input_topic, pipeline).run(manifests))
    audit(kafka)
    differing = check_mirrors(kafka, pipeline)
    require(not differing, differing)
    return manifests


def check_state(pipeline: Pipeline, expected: Pipeline) -> None:
    """The engine that worked last holds the state of a run that was never interrupted, to the byte."""
    ours, theirs = pipeline.snapshot(), expected.snapshot()
    for name, state in ours.items():
        require(digest(pack(state)) == digest(pack(theirs[name])), f"the state of {name} differs")


def check_chain(manifests: list[Manifest]) -> None:
    previous = ""
    for number, manifest in enumerate(manifests, 1):
        require(manifest.step == number, f"manifest {number} is of step {manifest.step}")
        require(manifest.previous_hash == previous, f"step {number} does not follow the manifest before it")
        previous = content_hash(encode_manifest(manifest))


def check_tiling(manifests: list[Manifest], kafka: FakeKafka, input_topic: str) -> None:
    """Every offset of the input in exactly one step of its epoch, up to its end."""
    at: dict[int, int] = {}
    for manifest in manifests:
        if manifest.opening and manifest.ranges:
            at = {r.partition: r.start for r in manifest.ranges}
        for r in manifest.ranges:
            expected = at.get(r.partition, 0)
            require(r.start == expected, f"step {manifest.step}: {r} does not start at {expected}")
            at[r.partition] = r.end
    for partition, part in enumerate(kafka.topic(input_topic)):
        end = at.get(partition, 0)
        left = list(part.read(end, len(part)))
        require(not left, f"partition {partition}: {len(left)} records from {end} on are in no step")


# --- the run that was never interrupted -----------------------------------------------------------------------


class Uninterrupted:
    """Computes the steps of given manifests, one after the other, and what they publish."""

    def __init__(self, kafka: FakeKafka, input_topic: str, pipeline: Pipeline) -> None:
        self._kafka = kafka
        self._input = kafka.topic(input_topic)
        self._pipeline = pipeline
        self._empty = pipeline.snapshot()
        self._published: list[OutRecord] = []
        self._opening: Iterator[Output] = iter(())

    def run(self, manifests: list[Manifest]) -> dict[Place, list[Seen]]:
        last = None
        for manifest in manifests:
            output = self._opened(manifest, last) if manifest.opening else self._computed(manifest)
            require(
                output.manifest == manifest,
                f"step {manifest.step}: committed {manifest}, an uninterrupted run has {output.manifest}",
            )
            self._published += output.records
            last = manifest
        return self._placed()

    def _computed(self, manifest: Manifest) -> Output:
        records = self._records(manifest.ranges)
        require(len(records) == manifest.counts.records, f"step {manifest.step}: records are missing")
        return self._pipeline.step(
            Step(
                manifest.step, manifest.ranges, records, manifest.as_of_ms, manifest.closing, manifest.source
            )
        )

    def _opened(self, manifest: Manifest, last: Manifest | None) -> Output:
        assert last is not None, "nothing to end"
        if manifest.ranges:
            self._pipeline.restore(self._empty)
            self._opening = opening_steps(
                self._pipeline, last, manifest.ranges, manifest.source, self._published_of
            )
        return next(self._opening)

    def _published_of(self, topic: str) -> list[Published]:
        return [Published(record, 0, 0) for record in self._published if record.topic == topic]

    def _records(self, ranges: tuple[Range, ...]) -> Records:
        parts = [columns(r.partition, self._input[r.partition].read(r.start, r.end)) for r in ranges]
        return join(parts)

    def _placed(self) -> dict[Place, list[Seen]]:
        places: dict[Place, list[Seen]] = defaultdict(list)
        for r in self._published:
            partition = 0 if r.key is None else self._kafka.partition_of(r.topic, r.key)
            places[r.topic, partition].append((r.key, r.value, r.headers))
        return places


def _visible(kafka: FakeKafka) -> dict[Place, list[Seen]]:
    return {
        (topic, number): [(s.key, s.value, tuple(s.headers)) for s in part.read(0, len(part))]
        for topic in OUTPUTS
        for number, part in enumerate(kafka.topic(topic))
    }


def compare(visible: dict[Place, list[Seen]], expected: dict[Place, list[Seen]]) -> None:
    for place, seen in visible.items():
        wanted = expected.get(place, [])
        for number, (got, want) in enumerate(zip(seen, wanted, strict=False)):
            require(got == want, f"{place} record {number}: {got}, an uninterrupted run has {want}")
        require(len(seen) == len(wanted), f"{place}: {len(seen)} records, wanted {len(wanted)}")


# --- the auditor ------------------------------------------------------------------------------------------------


def audit(kafka: FakeKafka) -> None:
    """What any subscriber may count on, from the topics alone."""
    seen = {topic: list(_read(kafka, topic)) for topic in OUTPUTS}
    for topic in (CHANGES, MEMBERS, CATALOG, LINEAGE):
        ids = [dict(stored.headers)["ce_id"] for stored in seen[topic]]
        require(len(ids) == len(set(ids)), f"{topic}: a ce_id comes twice")
    folded = _fold_changes(seen[CHANGES])
    members = {s.key: _segment(s) for s in seen[MEMBERS]}
    members = {key: segment for key, segment in members.items() if segment is not None}
    require(members == folded, f"members are {members}, folding the changes gives {folded}")
    catalog = {int(s.key or b"0"): s.value for s in seen[CATALOG]}
    unknown = {segment for segment in members.values() if catalog.get(segment) is None}
    require(not unknown, f"segments {unknown} have members and no catalog entry")


def _read(kafka: FakeKafka, topic: str) -> Iterator[Stored]:
    for part in kafka.topic(topic):
        yield from part.read(0, len(part))


def _segment(stored: Stored) -> Any:
    return None if stored.value is None else orjson.loads(stored.value)["segment_id"]


def _fold_changes(changes: list[Stored]) -> dict[bytes | None, int]:
    """Where everybody is. Each change starts where the one before ended, one sequence number later."""
    at: dict[bytes | None, int] = {}
    sequences: dict[bytes | None, int] = {}
    for stored in changes:
        change, key = orjson.loads(stored.value or b""), stored.key
        before = change["from"] and change["from"]["segment_id"]
        require(before == at.pop(key, None), f"{key!r} leaves {before}, where it is not")
        sequence = change["position"]["sequence"]
        expected = sequences[key] + 1 if before is not None else sequence
        require(
            sequence == expected and sequence > sequences.get(key, 0),
            f"{key!r}: {sequence} after {sequences}",
        )
        sequences[key] = sequence
        if change["to"]:
            at[key] = change["to"]["segment_id"]
    return at
