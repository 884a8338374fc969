"""The facts that cross boundaries: records in, events as columns, the step, the output.

Nothing here does anything. Everything is frozen; arrays are not written to after they are built.
Event time is integer milliseconds since 1970 (UTC). Slots are row numbers of the state slabs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

# --- the event contract ---------------------------------------------------------------------------

CHANNELS: tuple[str, ...] = (
    "view", "impression", "click", "search", "dwell", "play", "favorite", "like", "comment", "rate",
    "share", "follow", "cart_add", "checkout", "purchase", "login", "custom",
)  # fmt: skip
"""Event types that have a column of their own; order is part of the feature version."""

NEGATIVE: Mapping[str, str] = {
    "unfavorite": "favorite",
    "unlike": "like",
    "unfollow": "follow",
    "cart_remove": "cart_add",
    "refund": "purchase",
}
"""Types that subtract from another type's column (count, value and quantity)."""

TYPE_CODES: Mapping[str, tuple[int, int]] = {
    **{name: (i, 1) for i, name in enumerate(CHANNELS)},
    **{name: (CHANNELS.index(target), -1) for name, target in NEGATIVE.items()},
}
"""type name -> (channel, sign). An unknown type counts as `custom`."""


class Reason(StrEnum):
    """Why a record was rejected: a closed set, used as a metric label and as a Kafka header."""

    ENCODING = "encoding"
    JSON = "json"
    NUMBER = "number"
    DEPTH = "depth"
    SIZE = "size"
    SCHEMA = "schema"
    USER_ID = "user_id"
    TIME = "time"
    TOMBSTONE = "tombstone"


# --- the second input -----------------------------------------------------------------------------

CONTROL = "segment.control"
"""Commands, ordered with the data: partition p of this topic is partition -1 - p of the records and ranges."""


def is_control(partitions: I32) -> Bool:
    """(n,) which records are commands."""
    return partitions < 0


def control_partition(partition: Any) -> Any:
    """The number of a control topic's partition among those of both inputs; undoes itself.

    >>> control_partition(0), control_partition(-1), control_partition(2)
    (-1, 0, -3)
    """
    return -1 - partition


# --- records and steps ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Records:
    """What a source hands over: n raw records in (partition, offset) order."""

    partitions: I32  # (n,) below 0: a command, see CONTROL
    offsets: I64  # (n,)
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    traceparents: Mapping[int, bytes] = field(default_factory=dict)  # row -> W3C traceparent, where present

    def __len__(self) -> int:
        return len(self.values)

    @staticmethod
    def empty() -> Records:
        return Records(np.empty(0, np.int32), np.empty(0, np.int64), (), ())


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Offsets [start, end) of one input partition. Ends may skip over transaction markers."""

    partition: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Step:
    """The unit of work: the records polled, and everything else the pipeline may look at."""

    number: int  # 1, 2, 3 ...
    ranges: tuple[Range, ...]  # sorted by partition; one per partition that advanced
    records: Records
    as_of_ms: int | None  # wall clock read once by the shell; None: the events themselves are the clock
    closing: bool = False  # last step of a finite input: decide with what there is
    source: str = ""  # which input the ranges are about, in the source's own words


@dataclass(frozen=True, slots=True)
class Reject:
    """A bad record is a value, never an exception."""

    row: int  # index into the step's records
    reason: Reason
    detail: str  # for a person; never contains the value of a user id


@dataclass(frozen=True, slots=True)
class Events:
    """Decoded, valid events as columns: n events, t tokens (what the event touched).

    Tokens are xxh3-64 hashes of item id (`i:`), category path prefixes (`c:`), brand (`b:`), tags (`t:`).
    """

    row: I32  # (n,) index into the step's records, ascending
    users: Sequence[str]  # (n,) user name: the user id, or "\\x00" + anonymous id
    event_key: U64  # (n,) hash of event_id
    channel: I8  # (n,) index into CHANNELS
    sign: I8  # (n,) +1, or -1 where the type subtracts
    time_ms: I64  # (n,)
    value: F64  # (n,) money; >= 0 as sent, clamped to the feature's range; 0 where absent
    quantity: F64  # (n,) 0 where absent
    dwell_ms: I64  # (n,) 0 where absent
    item: U64  # (n,) hash of the first item's id; 0 where the event has no item
    token_ptr: I32  # (n+1,) tokens of event i are token[token_ptr[i]:token_ptr[i+1]]
    token: U64  # (t,)
    labels: Sequence[str]  # (n,) what it was about, for people: top category, else item id, else ""
    clamped: int = 0  # how many values were clamped
    consent: I8 | None = None  # (n,) to segmentation: +1 given, -1 withdrawn, 0 not said; None: nobody said

    def __len__(self) -> int:
        return len(self.users)

    def take(self, keep: Bool) -> Events:
        """The events where `keep` (n,) holds, in order."""
        if keep.all():
            return self
        chosen = np.flatnonzero(keep)
        lengths = np.diff(self.token_ptr)
        ptr = np.zeros(len(chosen) + 1, np.int32)
        np.cumsum(lengths[chosen], out=ptr[1:])
        token_keep = np.repeat(keep, lengths)
        return Events(
            row=self.row[chosen],
            users=[self.users[i] for i in chosen.tolist()],
            event_key=self.event_key[chosen],
            channel=self.channel[chosen],
            sign=self.sign[chosen],
            time_ms=self.time_ms[chosen],
            value=self.value[chosen],
            quantity=self.quantity[chosen],
            dwell_ms=self.dwell_ms[chosen],
            item=self.item[chosen],
            token_ptr=ptr,
            token=self.token[token_keep],
            labels=[self.labels[i] for i in chosen.tolist()],
            clamped=self.clamped,
            consent=None if self.consent is None else self.consent[chosen],
        )


@dataclass(frozen=True, slots=True)
class Scored:
    """The m users a step scored: the touched ones first, then silent ones whose windows moved."""

    slots: I32  # (m,)
    touched: int  # how many of them sent an event in this step
    raw: F32  # (m, d) feature rows as a person would read them
    x: F32  # (m, d) the same rows, scaled
    z: F32  # (m, e) embeddings
    nearest: I32  # (m,) nearest centre
    distances: F64  # (m, k) squared distances to all centres
    centres: F64 | None = None  # (k, e) of these distances, until something is learned; None: not known
    events: I64 | None = None  # (t,) events of each touched user in this step; None: one each

    def and_also(self, more: Scored) -> Scored:
        """With further silent users behind."""
        return replace(
            self,
            slots=np.concatenate([self.slots, more.slots]),
            raw=np.concatenate([self.raw, more.raw]),
            x=np.concatenate([self.x, more.x]),
            z=np.concatenate([self.z, more.z]),
            nearest=np.concatenate([self.nearest, more.nearest]),
            distances=np.concatenate([self.distances, more.distances]),
        )

    @staticmethod
    def none(d: int, e: int, k: int) -> Scored:
        return Scored(
            np.empty(0, np.int32),
            0,
            np.empty((0, d), np.float32),
            np.empty((0, d), np.float32),
            np.empty((0, e), np.float32),
            np.empty(0, np.int32),
            np.empty((0, k), np.float64),
        )


# --- the output -----------------------------------------------------------------------------------

CHANGES, MEMBERS, CATALOG, LINEAGE, REJECTED, MANIFEST = (
    "segment.changes",
    "segment.members",
    "segment.catalog",
    "segment.lineage",
    "behavior.rejected",
    "shoal.manifest",
)
COMPACTED = frozenset({MEMBERS, CATALOG})


@dataclass(frozen=True, slots=True)
class OutRecord:
    """One record to publish: the same bytes whatever the sink."""

    topic: str  # contract name; a sink may prefix it
    key: bytes | None
    value: bytes | None  # None: a tombstone
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """Every input offset of a step is in exactly one of accepted, duplicates, late, rejected, commands."""

    records: int = 0
    accepted: int = 0
    duplicates: int = 0
    late: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)  # reason -> count
    future: int = 0  # accepted, with its time clamped
    clamped: int = 0  # accepted, with a value clamped
    by_type: Mapping[str, int] = field(default_factory=dict)  # accepted events by channel
    withheld: int = 0  # accepted, and not used: of users erased in this step, or without consent
    commands: int = 0  # of the control topic, obeyed

    def plus(self, other: Counts) -> Counts:
        return Counts(
            self.records + other.records,
            self.accepted + other.accepted,
            self.duplicates + other.duplicates,
            self.late + other.late,
            _sum(self.rejected, other.rejected),
            self.future + other.future,
            self.clamped + other.clamped,
            _sum(self.by_type, other.by_type),
            self.withheld + other.withheld,
            self.commands + other.commands,
        )

    def balanced(self) -> bool:
        counted = self.accepted + self.duplicates + self.late + self.commands
        return self.records == counted + sum(self.rejected.values())


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in sorted({*a, *b})}


@dataclass(frozen=True, slots=True)
class Output:
    """What one step decided. `records` are in the order they must be read."""

    step: int
    records: tuple[OutRecord, ...]  # lineage and catalog before the changes that use them; rejects last
    manifest: Manifest
    counts: Counts
    gauges: Mapping[str, Any]  # for metrics and progress only: not hashed, not published


@dataclass(frozen=True, slots=True)
class Manifest:
    """One record per step: with the input log, all that is needed to compute the step again."""

    step: int
    epoch: int  # 1, 2, ...: grows when somebody starts over with a fresh state (see `epochs.py`)
    opening: bool  # this step begins an epoch: it publishes the end of the one before, and reads nothing
    source: str  # which input the ranges are about; "" where it has no identity
    ranges: tuple[Range, ...]
    as_of_ms: int | None
    closing: bool
    config_hash: str
    versions: Mapping[str, Any]  # features, encoder, segmenter
    watermark_ms: int
    counts: Counts
    next_segment_id: int  # segment and lineage ids from here on were never used, in any epoch
    next_lineage_id: int
    previous_hash: str  # hash of the manifest before this one ("" for the first)
    output_hash: str
    state_hash: str
    publication: Mapping[str, Any] | None = (
        None  # an attempt to publish an encoder: version, published, churn
    )
