"""What a step says to the outside: lineage, catalog, farewells, changes and members, rejects, as records.

Keys of users (`user_key`): the user id as it came; `anon:` + the anonymous id for anonymous users; and, so
that no two users ever share a key, `user:` + the user id where that id itself begins with `anon:` or `user:`.

Headers follow the CloudEvents 1.0 Kafka binding, binary mode. `ce_id` is `user key:sequence`, so a reader
that meets a record twice can tell; `ce_source` is `shoal/` + the configuration's hash, with `/members` and
so on behind it, since source and id together must name one event. `ce_time` is stream time.

Records are built in `end`, when the catalog has learned the step: the names that a change uses are those in
the catalog record before it. What has to be read earlier (names of users that are about to be forgotten,
why a user moved, versions of the models that decided) is read when the pipeline says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import orjson

from .attribution import KINDS, Attribution, Verdict
from .catalog import Catalog, Profile
from .churn import Churn, Turnover
from .clock import Clock
from .counterfactual import Counterfactuals, Rows
from .digest import Chain
from .events import (
    CATALOG,
    CHANGES,
    CONTROL,
    I32,
    I64,
    LINEAGE,
    MEMBERS,
    REJECTED,
    Events,
    OutRecord,
    Reject,
    Scored,
    Step,
    control_partition,
)
from .exemplars import pseudonym
from .lifecycle import Lifecycle
from .lineage import FOLD, Lineage
from .lineage import KINDS as FACTS
from .membership import Membership, Moves
from .ports import Publisher, Segmenter
from .privacy.ledger import Ledger
from .privacy.ledger import Told as Size
from .privacy.pseudonyms import Pseudonyms, without_values
from .privacy.published import fact as published_fact
from .privacy.published import nameless, profiles
from .segment_values import UNTOLD, lineage_value, noisy_value, profile_value
from .users import Users
from .values import NULL, Otherwise, Told, Value, causes, change_texts, rfc3339, user_key

Headers = tuple[tuple[str, bytes], ...]
REJECT_BYTES_MAX = 3 << 20
"""Key and value of a reject together; a larger one is cut, or it could never be written and the engine never
get past it."""
_REJECT_KEY_BYTES_MAX = 1 << 16  # a longer key is left out
_JSON = ("content-type", b"application/json")
_WITHHELD = (("withheld", b"privacy"),)


class Speaker(Protocol):
    """What the narrator reads of the pipeline it speaks for."""

    config_hash: str
    pseudonyms: Pseudonyms | None
    ledger: Ledger | None
    chain: Chain
    clock: Clock
    users: Users
    membership: Membership
    churn: Churn
    attribution: Attribution
    catalog: Catalog
    counterfactuals: Counterfactuals
    lifecycle: Lifecycle
    publisher: Publisher
    segmenter: Segmenter

    @property
    def features(self) -> Rows: ...

    def versions(self) -> dict[str, str | int]: ...


class Narrator:
    """One step's records. Keeps nothing from one step to the next, so it has no snapshot."""

    def __init__(self, pipeline: Speaker) -> None:
        self._pipeline = pipeline
        self._source = f"shoal/{pipeline.config_hash[:12]}"
        self._begin(None)

    def begin(self, step: Step) -> None:
        """A new step: forget the one before."""
        self._begin(step)

    def _begin(self, step: Step | None) -> None:
        self._step = step
        self._lineage: list[tuple[Lineage, str | None]] = []  # with the name before
        self._profiles: list[Profile] = []
        self._sizes: dict[int, Size] = {}  # by segment id, where sizes are noisy
        self._turnover: Sequence[Turnover] = ()
        self._given_up: list[int] = []  # segment ids
        self._unpublished: frozenset[int] = frozenset()  # ended in this step, and nobody was ever told
        self._told: list[Told] = []
        self._rejects: Sequence[Reject] = ()
        self._reasons: dict[str, int] = dict.fromkeys(KINDS, 0)

    # --- what the pipeline tells, in this order --------------------------------------------------------------

    def left(self, moves: Moves) -> None:
        """Users that are about to be forgotten; called before their names are released."""
        n = len(moves)
        silent = np.full(n, -1, np.int64)
        self._tell(moves, Verdict.expiry(n), None, silent, np.zeros(n, np.int64))

    def born(self, lineage: Sequence[Lineage]) -> None:
        self._lineage += [(fact, None) for fact in lineage]

    def intervened(self, lineage: Sequence[Lineage]) -> None:
        """Segments that ended and began because the model was rearranged."""
        self.born(lineage)
        ended = [old for fact in lineage for old, _ in fact.remap]
        if (floor := self._pipeline.membership.floor) is not None:  # as of the last step still
            self._unpublished = frozenset(ended) - set(floor.public.tolist())
        self._given_up += [old for old in ended if old not in self._unpublished]

    def folded(self, lineage: Sequence[Lineage]) -> None:
        """Segments that are published as part of another one from here on, or by themselves again."""
        self.born(lineage)
        self._given_up += [
            fact.remap[0][0] if fact.remap else fact.segment_id for fact in lineage if fact.kind == FOLD
        ]
        p = self._pipeline
        if p.membership.floor is not None:
            p.catalog.hidden = nameless(p.membership.floor, p.membership.ids) | self._unpublished

    def moved(self, moves: Moves, scored: Scored, events: Events, slots: I32) -> None:
        """Changes as decided, before anything is learned. `slots` (n,) are the users of the events."""
        p = self._pipeline
        if len(scored.slots):
            verdict = p.attribution.judge(moves, scored, p.publisher, p.segmenter, p.features)
            m = p.membership
            held = m.pins.explains(moves.slot, moves.after, m.ids, m.public) & ~moves.remapped()
            verdict = verdict.by_operator(held)
            found = p.counterfactuals.find(
                moves, scored, p.catalog, p.membership, p.features, p.publisher, p.segmenter, p.clock.now_ms
            )
            found = {i: one for i, one in found.items() if not held[i]}
            otherwise = Otherwise(found, p.counterfactuals.horizons, m.public.tolist())
            self._tell(moves, verdict, scored, *causes(moves, events, slots), otherwise)

    def profiles(self, force: bool) -> None:
        """Bring the catalog up to date when it is due. A segment that gets another name is lineage."""
        p = self._pipeline
        if not p.membership.ids.any():
            return
        p.catalog.watch(p.membership.ids, p.membership.published(), p.clock.now_ms)
        if not (force or p.catalog.due):
            return
        before = list(p.catalog.segment_names)  # "" where a segment has just begun
        p.lifecycle.census(p.users, p.membership.centre, p.clock.now_ms)
        self._profiles = p.catalog.refresh(
            p.membership.ids, p.membership.published(), p.clock.now_ms, p.membership.centre
        )
        self._turnover = p.churn.take(p.clock.now_ms)  # (k,)
        self._profiles = self.shown(self._profiles)
        if p.ledger is not None:
            moment = f"{p.chain.manifest_hash}:{p.chain.epoch}:{self._current.number}".encode()
            sizes = {profile.segment_id: profile.size for profile in self._profiles}
            self._sizes = p.ledger.publish(sizes, p.clock.now_ms, moment)
        for profile in self._profiles:
            was = before[profile.centre]
            if was and was != profile.name and profile.segment_id not in p.catalog.hidden:
                self._lineage.append(
                    (p.membership.identities.renamed(profile.segment_id, p.clock.now_ms), was)
                )

    def shown(self, found: list[Profile]) -> list[Profile]:
        """What may be told of these segments, of those that are published under their own id. Reads only."""
        m = self._pipeline.membership
        if m.floor is None:
            return found
        return profiles(m.floor, found, self._pipeline.catalog.hidden, self._public())

    def _public(self) -> dict[int, int]:
        """Segment id -> the id it is published under; 0: under none."""
        m = self._pipeline.membership
        return dict(zip(m.ids.tolist(), m.public.tolist(), strict=True))

    def answered(self, told: Told) -> None:
        """Changes that a command made."""
        self._told.append(told)
        for kind in told.verdict.kind:
            self._reasons[kind] += 1

    def rejected(self, rejects: Sequence[Reject]) -> None:
        self._rejects = rejects

    def end(self) -> tuple[OutRecord, ...]:
        """The step's records in the order they must be read."""
        return (
            *self._lineage_records(),
            *self._catalog_records(),
            *(record for told in self._told for record in self._change_records(told)),
            *self._reject_records(),
        )

    def told(self) -> tuple[Told, ...]:
        """What has been told of users in this step, for those who measure it."""
        return tuple(self._told)

    def changes_by_reason(self) -> dict[str, int]:
        """How many changes this step had, by reason; every reason is named."""
        return dict(self._reasons)

    def lineage_by_kind(self) -> dict[str, int]:
        """How many facts of each kind this step had; those that occur and are counted."""
        return dict(Counter(fact.kind for fact, _ in self._lineage if fact.kind in FACTS and fact.segment_id))

    def _tell(
        self,
        moves: Moves,
        verdict: Verdict,
        scored: Scored | None,
        cause: I64,
        time_ms: I64,
        otherwise: Otherwise | None = None,
    ) -> None:
        if len(moves):
            names = self._pipeline.users.names(moves.slot)
            self._told.append(Told(moves, names, verdict, self._model(), scored, cause, time_ms, otherwise))
            for kind in verdict.kind:
                self._reasons[kind] += 1

    def _model(self) -> dict[str, Any]:
        return {**self._pipeline.versions(), "config": self._pipeline.config_hash}

    # --- the records -------------------------------------------------------------------------------------

    def _lineage_records(self) -> Iterator[OutRecord]:
        headers = self._headers("lineage", "/lineage")
        names = self._pipeline.catalog.names()
        for one, was in self._lineage:
            fact = self._as_published(one)
            key = str(fact.lineage_id).encode()
            value = orjson.dumps(lineage_value(fact, names[fact.segment_id], was))
            yield OutRecord(LINEAGE, key, value, (("ce_id", key), *headers))

    def _as_published(self, one: Lineage) -> Lineage:
        m = self._pipeline.membership
        if m.floor is None:
            return one if self._pipeline.ledger is None else replace(one, overlap=(), people=0)
        public = self._public()
        for later, _ in reversed(self._lineage):  # who was given up goes by its heir's
            for old, new in later.remap:
                public.setdefault(old, public.get(new, new))
        return published_fact(one, public, self._unpublished)

    def _catalog_records(self) -> Iterator[OutRecord]:
        """Tombstones of the segments that were given up, then the profiles of those there are."""
        headers = self._headers("catalog", "/catalog")
        values: list[tuple[int, bytes | None]] = [(segment_id, None) for segment_id in self._given_up]
        for profile in self._profiles:
            value = self.described(profile, self._turnover[profile.centre])
            if (told := self._sizes.get(profile.segment_id)) is not None:
                value |= noisy_value(told)
            values.append((profile.segment_id, orjson.dumps(value)))
        for segment_id, profiled in values:
            key = str(segment_id).encode()
            ce_id = ("ce_id", b"%b:%d" % (key, self._current.number))
            yield OutRecord(CATALOG, key, profiled, (ce_id, *headers))

    def described(self, profile: Profile, turnover: Turnover | None = None) -> Value:
        """A profile as it is published; by default with the turnover since then. Reads only."""
        p = self._pipeline
        turnover = turnover or p.churn.of(profile.centre)
        hidden = profile.segment_id in p.catalog.hidden
        shares = None if hidden else p.lifecycle.shares(profile.centre)
        value = profile_value(
            profile, turnover, shares, self._pseudonyms(profile), self._model(), p.clock.now_ms
        )
        if p.membership.floor is not None:  # users come and go with segments that are folded, too
            value["churn"] = None
        return value | UNTOLD if hidden else value

    def _pseudonyms(self, profile: Profile) -> list[str]:
        """Names of a segment's exemplars for its profile."""
        p = self._pipeline
        names = p.users.names(np.array([one.slot for one in profile.exemplars], np.int32))
        return [pseudonym(user_key(name), profile.segment_id, p.config_hash) for name in names]

    def _change_records(self, told: Told) -> Iterator[OutRecord]:
        """Each change, and behind it the membership that follows from it."""
        p, records = self._pipeline, self._current.records
        changed, member = self._headers("change"), self._headers("member", "/members")
        keys = [user_key(name) for name in told.names]
        stages = p.lifecycle.of(told.moves.slot, p.users, p.clock.now_ms)
        texts = change_texts(told, keys, records, p.catalog, stages, p.clock.now_ms)
        columns = zip(keys, told.moves.sequence.tolist(), told.cause.tolist(), texts, strict=True)
        for user, sequence, row, (change, membership) in columns:
            key = user.encode()
            ce_id = ("ce_id", b"%b:%d" % (key, sequence))
            passed = _traceparent(records.traceparents.get(row))
            yield OutRecord(CHANGES, key, change.encode(), (ce_id, *changed, *passed))
            value = None if membership == NULL else membership.encode()
            yield OutRecord(MEMBERS, key, value, (ce_id, *member, *passed))

    def _reject_records(self) -> Iterator[OutRecord]:
        """The original bytes, with the reason in the headers; withheld where user ids must not leave."""
        records = self._current.records
        withheld = self._pipeline.pseudonyms is not None
        for reject in self._rejects:
            row = reject.row
            if withheld:
                key, value, detail = None, None, without_values(reject)
            else:
                key, value, cut = _bounded(records.keys[row], records.values[row])
                detail = reject.detail + cut
            headers = (
                ("reason", reject.reason.value.encode()),
                ("detail", detail.encode()),
                *_position(int(records.partitions[row]), int(records.offsets[row])),
                *(_WITHHELD if withheld else ()),
                *_traceparent(records.traceparents.get(row)),
            )
            yield OutRecord(REJECTED, key, value, headers)

    def _headers(self, kind: str, path: str = "") -> Headers:
        """The headers that all records of a kind share."""
        return cloud_headers(self._source + path, kind, self._pipeline.clock.now_ms)

    @property
    def _current(self) -> Step:
        assert self._step is not None, "no step to speak of: begin(step) comes first"
        return self._step


def cloud_headers(source: str, kind: str, time_ms: int) -> Headers:
    """CloudEvents attributes of everything published about one kind of thing, but for its id."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_source", source.encode()),
        ("ce_type", f"shoal.segment.{kind}.v1".encode()),
        ("ce_time", rfc3339(time_ms).encode()),
        _JSON,
    )


def _bounded(key: bytes | None, value: bytes | None) -> tuple[bytes | None, bytes | None, str]:
    """A reject that every topic of rejects takes, and what to say about it if it had to be cut for that."""
    if len(key or b"") + len(value or b"") <= REJECT_BYTES_MAX:
        return key, value, ""
    key = key if len(key or b"") <= _REJECT_KEY_BYTES_MAX else None
    value = None if value is None else value[: REJECT_BYTES_MAX - len(key or b"")]
    return key, value, "; cut here, the whole record stands at this partition and offset of the input"


def _position(partition: int, offset: int) -> Headers:
    """Where a record stands; the topic is said only where it is not that of the events."""
    topic: Headers = ()
    if partition < 0:
        topic, partition = (("topic", CONTROL.encode()),), control_partition(partition)
    return (*topic, ("partition", str(partition).encode()), ("offset", str(offset).encode()))


def _traceparent(value: bytes | None) -> Headers:
    return () if value is None else (("traceparent", value),)
