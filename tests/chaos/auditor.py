"""An audit of the topics by somebody who knows the contract and nothing of the engine.

Judged at once, record by record, so that a divergence is booked under what was being done just then:

    manifests   steps 1, 2, 3 ...; each names the hash of the one before; ranges tile every input partition;
                counts add up
    changes     ce_id is unique and is user key:sequence; a stay's sequences have no gap, a later stay starts higher;
                `from` is where the user was
    lineage     ids 1, 2, 3 ...; a segment is born once
    rejects     one for each input record at most

Judged at the end, when nothing moves any more:

    members     what folding the changes gives, and the same sequence
    coverage    every input offset is in exactly one range; every event was accepted once, however often it was sent
    rejects     exactly the planted bad records, with their own bytes, for the reason for which they are bad
    offsets     the group's committed offsets are the ends of the last ranges
    log         what was seen live is what the topics hold: nothing was ever visible and then not
    bytes       what the oracle, which was never interrupted, would have published (`compare`)
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MANIFEST, CHANGES, MEMBERS = "shoal.manifest", "segment.changes", "segment.members"
CATALOG, LINEAGE, REJECTED = "segment.catalog", "segment.lineage", "behavior.rejected"
OUTPUTS = (LINEAGE, CATALOG, CHANGES, MEMBERS, REJECTED, MANIFEST)

Place = tuple[int, int]  # partition, offset of an input record
Log = tuple[str, int]  # topic, partition


class Seen(NamedTuple):
    """A record as a subscriber gets it."""

    topic: str  # contract name
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    def digest(self) -> str:
        """Of everything a subscriber gets but the offset, which depends on aborted transactions."""
        h = hashlib.blake2b(digest_size=16)
        for part in (
            self.key,
            self.value,
            *(p for name, value in self.headers for p in (name.encode(), value)),
        ):
            h.update(b"-" if part is None else b"+%d:%b" % (len(part), part))
        return h.hexdigest()


@dataclass(frozen=True)
class Divergence:
    what: str  # one word of the theory above
    detail: str
    during: str  # what was being done to the engines


@dataclass
class User:
    """What the changes say about one user."""

    sequence: int = 0
    segment_id: int | None = None


@dataclass
class Auditor:
    """`see` every record, then `settle`. What was found is in `divergences`."""

    divergences: list[Divergence] = field(default_factory=list)
    during: str = "start"
    step: int = 0
    ends: dict[int, int] = field(default_factory=dict)  # input partition -> end of the last range
    counted: Counter[str] = field(default_factory=Counter)  # records, accepted, duplicates, late, by reason
    logs: dict[Log, list[tuple[int, str]]] = field(default_factory=dict)  # offset and digest, as seen live
    users: dict[bytes, User] = field(default_factory=dict)
    members: dict[bytes, Any] = field(default_factory=dict)
    rejects: dict[Place, Seen] = field(default_factory=dict)
    _manifest_hash: str = ""
    _ids: set[tuple[str, bytes]] = field(default_factory=set)  # topic and ce_id
    _born: set[int] = field(default_factory=set)
    _spoken_of: set[int] = field(default_factory=set)
    _lineage_id: int = 0

    def fail(self, what: str, detail: str, during: str = "") -> None:
        self.divergences.append(Divergence(what, detail, during or self.during))

    def expect(self, what: str, where: str, got: object, wanted: object) -> None:
        if got != wanted:
            self.fail(what, f"{where}: got {got!r}, wanted {wanted!r}")

    # --- record by record ---------------------------------------------------------------------------------------

    def see(self, seen: Seen) -> None:
        self.logs.setdefault((seen.topic, seen.partition), []).append((seen.offset, seen.digest()))
        match seen.topic:
            case "shoal.manifest":
                self._see_manifest(seen.value or b"")
            case "segment.changes":
                self._see_change(seen)
            case "segment.members":
                self._see_once(seen)
                self.members[seen.key or b""] = json.loads(seen.value) if seen.value else None
            case "segment.lineage":
                self._see_lineage(seen)
            case "behavior.rejected":
                self._see_reject(seen)
            case _:
                self._see_once(seen)

    def _see_manifest(self, value: bytes) -> None:
        body = json.loads(value)
        where = f"manifest of step {body['step']}"
        self.expect("manifests", f"{where}, step", body["step"], self.step + 1)
        self.expect(
            "manifests", f"{where}, hash of the one before", body["previous_hash"], self._manifest_hash
        )
        self.step = body["step"]
        self._manifest_hash = hashlib.blake2b(
            len(value).to_bytes(8, "little") + value, digest_size=16
        ).hexdigest()
        for partition, start, end in body["ranges"]:
            self.expect("manifests", f"{where}, partition {partition}", start, self.ends.get(partition, 0))
            self.ends[partition] = end
        self._count(where, body["counts"])

    def _count(self, where: str, counts: Mapping[str, Any]) -> None:
        parts = {name: counts[name] for name in ("accepted", "duplicates", "late")} | counts["rejected"]
        self.expect("manifests", f"{where}, counts", counts["records"], sum(parts.values()))
        self.counted.update({"records": counts["records"], **parts})

    def _see_once(self, seen: Seen) -> bytes:
        """The record's ce_id, which no record of the topic had before."""
        ce_id = dict(seen.headers).get("ce_id", b"")
        if (seen.topic, ce_id) in self._ids:
            self.fail(_word(seen.topic), f"{_place(seen)}: ce_id {ce_id!r} was there before")
        self._ids.add((seen.topic, ce_id))
        return ce_id

    def _see_change(self, seen: Seen) -> None:
        ce_id, key, change = self._see_once(seen), seen.key or b"", json.loads(seen.value or b"")
        sequence, transition = change["position"]["sequence"], change["transition"]
        self.expect("changes", f"{_place(seen)}, ce_id", ce_id, key + b":%d" % sequence)
        user = self.users.setdefault(key, User())
        came_from = change["from"] and change["from"]["segment_id"]
        self.expect("changes", f"{_place(seen)}, {transition} from", came_from, user.segment_id)
        if transition == "assigned":
            if sequence <= user.sequence:
                self.fail(
                    "changes", f"{_place(seen)}: a new stay starts at {sequence}, not above {user.sequence}"
                )
        else:
            self.expect("changes", f"{_place(seen)}, sequence", sequence, user.sequence + 1)
        user.sequence = sequence
        user.segment_id = change["to"] and change["to"]["segment_id"]
        if user.segment_id is not None:
            self._spoken_of.add(user.segment_id)

    def _see_lineage(self, seen: Seen) -> None:
        self._see_once(seen)
        body = json.loads(seen.value or b"")
        if body["kind"] in ("birth", "split"):  # the two ways for an id to begin
            if body["segment_id"] in self._born:
                self.fail("lineage", f"{_place(seen)}: segment {body['segment_id']} is born again")
            self._born.add(body["segment_id"])
        self._lineage_id = max(self._lineage_id, body["lineage_id"])

    def _see_reject(self, seen: Seen) -> None:
        headers = dict(seen.headers)
        place = (int(headers["partition"]), int(headers["offset"]))
        if place in self.rejects:
            self.fail("rejects", f"{_place(seen)}: input {place} was rejected before")
        self.rejects[place] = seen

    # --- at the end ---------------------------------------------------------------------------------------------

    def settle(self, inputs: Iterable[Seen], committed: Mapping[int, int], planted: str) -> None:
        """`inputs`: the whole input; `planted`: the header by which a bad one is known; `committed`: the
        group's offsets by partition."""
        self._settle_members()
        self._settle_inputs(inputs, planted)
        self.expect("offsets", "committed by the group", dict(committed), self.ends)
        self.expect("lineage", "segments without a birth", self._spoken_of - self._born, set())
        lineage = {ce_id for topic, ce_id in self._ids if topic == LINEAGE}
        self.expect("lineage", "ids", len(lineage), self._lineage_id)

    def _settle_members(self) -> None:
        folded = {
            key: (user.segment_id, user.sequence) for key, user in self.users.items() if user.segment_id
        }
        members = {k: (m["segment_id"], m["sequence"]) for k, m in self.members.items() if m is not None}
        for key in sorted({key for key, _ in folded.items() ^ members.items()})[:3]:
            self.expect("members", f"key {key!r} (segment, sequence)", members.get(key), folded.get(key))

    def _settle_inputs(self, inputs: Iterable[Seen], planted: str) -> None:
        lengths: Counter[int] = Counter()
        bad: Counter[str] = Counter()
        events: set[str] = set()
        for record in inputs:
            self.expect(
                "coverage", f"input partition {record.partition}", record.offset, lengths[record.partition]
            )
            lengths[record.partition] += 1
            reason = dict(record.headers).get(planted, b"").decode()
            if reason:
                bad[reason] += 1
            else:
                events.add(json.loads(record.value or b"")["event_id"])
            self._settle_reject(record, reason)
        self.expect("coverage", "ends of the last ranges", self.ends, dict(lengths))
        self.expect("coverage", "records counted", self.counted["records"], lengths.total())
        self.expect("coverage", "events counted as accepted", self.counted["accepted"], len(events))
        counted = {reason: self.counted[reason] for reason in bad}
        self.expect("rejects", "counted by reason", counted, dict(bad))
        self.expect("rejects", "published", len(self.rejects), bad.total())

    def _settle_reject(self, record: Seen, reason: str) -> None:
        found = self.rejects.get((record.partition, record.offset))
        got = None if found is None else (dict(found.headers)["reason"].decode(), found.key, found.value)
        wanted = (reason, record.key, record.value) if reason else None
        self.expect("rejects", f"input partition {record.partition}, offset {record.offset}", got, wanted)

    def compare_log(self, published: Iterable[Seen]) -> None:
        """What the topics hold now is what was seen while it was published."""
        logs: dict[Log, list[tuple[int, str]]] = {}
        for seen in published:
            logs.setdefault((seen.topic, seen.partition), []).append((seen.offset, seen.digest()))
        for log in sorted({*logs, *self.logs}):
            live, now = self.logs.get(log, []), logs.get(log, [])
            if live != now:
                at = next((i for i, (a, b) in enumerate(zip(live, now, strict=False)) if a != b), "the end")
                self.fail(
                    "log", f"{log}: {len(live)} records seen live, {len(now)} now; first difference at {at}"
                )

    def compare(self, expected: Mapping[Log, list[tuple[str, int]]], names: Mapping[int, str]) -> None:
        """Against digests and steps of what an uninterrupted run publishes. `names`: what was done at a step."""
        for log in sorted({*expected, *self.logs}):
            seen = [digest for _, digest in self.logs.get(log, [])]
            wanted = expected.get(log, [])
            if seen == [digest for digest, _ in wanted]:
                continue
            at = next((i for i, (a, (b, _)) in enumerate(zip(seen, wanted, strict=False)) if a != b), -1)
            step = wanted[at][1] if wanted else 0
            detail = f"{log}: {len(seen)} records, the oracle has {len(wanted)}; first difference at record "
            self.fail("bytes", f"{detail}{at} (step {step})", names.get(step, ""))


def _word(topic: str) -> str:
    return topic.partition(".")[2]


def _place(seen: Seen) -> str:
    return f"{seen.topic} partition {seen.partition} offset {seen.offset}"
