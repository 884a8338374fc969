"""Ports: what the trunk asks of the world, and of its own exchangeable parts.

Source, Sink and Store are the shell's; Encoder and Segmenter are plug-ins of the pure half. Adapters are
plain classes; the wiring is in `wiring.py` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from .events import F32, F64, I32, I64, Bool, Manifest, Output, OutRecord, Range, Records

State = dict[str, Any]
"""A part's state: nested dicts of numpy arrays, bytes, str, int, float, bool, None and lists of these.

Array dtypes survive exactly. A list of user names is allowed (it is stored as one array). No pickle.
"""


# --- the pure half's exchangeable parts ---------------------------------------------------------------


class Encoder(Protocol):
    """Rows -> embeddings. Two copies of the weights: the serving one encodes, the learning one learns.

    Nothing that `encode` returns changes until `publish` is called, so centres never go stale by surprise.
    """

    name: str
    d_in: int
    d_out: int
    version: int  # of the serving copy; 0 before the first publication

    def encode(self, x: F32) -> F32: ...  # (n, d_in) -> (n, d_out), serving copy
    def encode_candidate(self, x: F32) -> F32: ...  # (n, d_in) -> (n, d_out), learning copy
    def learn(self, x: F32) -> float: ...  # (n, d_in) -> mean loss of this call; learning copy only
    def publish(self) -> int: ...  # learning copy -> serving copy; the new version
    def snapshot(self) -> State: ...
    def restore(self, state: State) -> None: ...


@dataclass(frozen=True, slots=True)
class Publication:
    """An attempt to let new encoder weights serve: weights and centres change together, or not at all."""

    version: int  # the version that serves afterwards
    published: bool  # False: it would have moved more users than `encoder.churn_budget`
    churn: float  # share of the reservoir whose nearest centre would change, 0..1


class Publisher(Protocol):
    """An encoder together with its replay reservoir and the rule for when new weights may serve."""

    d_out: int
    loss: float  # of the latest learning; 0.0 before

    @property
    def version(self) -> int: ...  # of the serving weights; 0 before `warm`

    @property
    def reservoir(self) -> F32: ...  # (r, d_in) sample of the rows learned so far, r <= encoder.replay_rows

    def encode(self, x: F32) -> F32: ...  # (n, d_in) -> (n, d_out), serving copy
    def encode_previous(self, x: F32) -> F32 | None: ...  # with the version served before this one, if any
    def warm(self, x: F32) -> None: ...  # (n, d_in): first training on the warm-up buffer; serves version 1
    def learn(self, x: F32, segmenter: Segmenter) -> Publication | None:
        """Learn from rows already scored; when due, try to publish: re-encode the reservoir, carry the
        centres over (`segmenter.carry`), within the churn budget. None when no attempt was due."""

    def fingerprint(self) -> bytes: ...  # of everything later steps depend on, cheap enough for every step
    def snapshot(self) -> State: ...
    def restore(self, state: State) -> None: ...


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of a group of people another one is."""

    segment_id: int  # 0: none
    share: float  # 0..1


@dataclass(frozen=True, slots=True)
class Intervention:
    """A change of the centres that the learning rule would not have made: one slot now stands for another group.

    swap    `centre` was given up where it stood (its rows belong to `into` now) and placed among those of `out_of`
    merge   `centre` was given up, its rows belong to `into`; the slot is not in use any more (`out_of` -1)
    split   `centre`, a slot not in use, was placed among the rows of `out_of` (`into` -1)

    A segmenter says what it did to slots. What that means for people is found out by asking them (`overlap.py`),
    and said in the same form, about segments, with two more kinds and the evidence:

    death   like merge, but its people are with many others, or come no more; `into` has what is left of them
    birth   like split, but out of nowhere, or out of many (`out_of` -1)
    """

    kind: str  # swap, merge, split, death, birth
    centre: int
    into: int
    out_of: int
    reason: str  # one of the segmenter's own closed set, with underscores: a label
    gain: float  # what it was expected to save, as a share of the inertia; 0..1
    rows: int = 0  # how many of the newest learned rows showed that it was due; 0: unknown
    overlap: tuple[Share, ...] = ()  # where its people are (merge, death) or came from (split, birth)
    people: int = 0  # how many were asked
    in_place: bool = (
        False  # its people come no more, but the centre stands: who came since has it to themselves
    )

    @property
    def ends(self) -> bool:
        """Whether a segment stood at `centre` that stands no more."""
        return self.into >= 0

    @property
    def begins(self) -> bool:
        """Whether a segment stands at `centre` from now on that did not stand before."""
        return self.out_of >= 0 or self.into < 0


class Segmenter(Protocol):
    """Embeddings -> centres. `score` reads, `learn` moves, `tend` intervenes; nobody else touches the centres.

    `people` says how many there are whose rows are learned, one in turn after the other: when the centres are
    rearranged, they are told. 0: every row is of another one, and nobody is told.
    """

    k: int  # slots
    centres: F64  # (k, d)
    used: Bool  # (k,) slots that stand for a group; the others never win, their distances are infinite
    version: int  # grows by one with every intervention (warm start, carry-over, swap ...); not with learning

    seeded: bool

    def seed(self, z: F32) -> None: ...  # (n, d): k-means++ from a buffer, n >= 1
    def score(self, z: F32) -> tuple[I32, F64]: ...  # (n, d) -> nearest (n,), squared distances (n, k)
    def learn(self, z: F32, people: int = 0) -> I32: ...  # (n, d) -> label each had before it moved a centre
    def tend(self) -> tuple[Intervention, ...]: ...  # after `learn`: what is due, in the order it was done
    def carry(self, centres: F64) -> None: ...  # replace the centres (publication); slots keep their meaning
    def permute(
        self, order: I64
    ) -> None: ...  # (k,) slot i becomes what slot order[i] was; nothing else changes
    def fingerprint(self) -> bytes: ...  # of everything later steps depend on, cheap enough for every step
    def snapshot(self) -> State: ...
    def restore(self, state: State) -> None: ...


class Probe(Protocol):
    """Times a stage, from outside: the pure half has no clock."""

    def __call__(self, stage: str, /) -> AbstractContextManager[None]: ...


def no_probe(stage: str) -> AbstractContextManager[None]:
    """Times nothing."""
    return nullcontext()


# --- the shell's ports ----------------------------------------------------------------------------------


def nothing() -> None:
    """What to do while waiting, by default."""


class Source(Protocol):
    """Where records come from. Read-only: it never commits anything."""

    finite: bool  # True: `poll` may say None, "the end was reached"
    wall_clock: bool  # True: steps carry the wall clock as `as_of_ms`; False: the events are the clock
    mark: str  # once open: tells this input from another one of the same name; "" where nothing can

    def open(self, stopping: Callable[[], bool], meanwhile: Callable[[], None] = nothing) -> bool:
        """Connect, and wait until this engine is the one that works. False: told to stop before that.

        While another one works, `meanwhile` is called again and again; it returns within a second or so.
        Raises BrokerGone after `kafka.broker_wait_s`, TopicsMissing, InputError.
        """

    def nearest(self, positions: Mapping[int, int]) -> Mapping[int, int]:
        """For every partition: that position if the log still holds it, else the first offset there is."""

    def seek(self, positions: Mapping[int, int]) -> None:
        """Go on at these next offsets; partitions not named start at their first offset.

        Raises SourceGone when an offset is no longer, or not yet, there.
        """

    def poll(self, max_records: int, timeout_s: float) -> tuple[Records, tuple[Range, ...]] | None:
        """Up to `max_records` next records in (partition, offset) order and the ranges they cover.

        Empty when nothing came within the timeout; None at the end of a finite input.
        """

    def read(self, ranges: Sequence[Range]) -> Records:
        """Exactly the records of these ranges, for replay. Raises SourceGone if any offset is missing."""

    def lag(self) -> Mapping[int, int]:
        """Records not yet polled, per partition (0 for what cannot be known)."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Published:
    """A committed record, and where it stands. In a file: partition 0, the line's number from 0."""

    record: OutRecord
    partition: int
    offset: int


class Sink(Protocol):
    """Where outputs go. A commit is whole or not at all; after any doubt it raises and is never reused."""

    def open(self) -> Manifest | None:
        """Fence every other writer, cut any unfinished tail, return the last committed manifest."""

    def last(self) -> Manifest | None:
        """The last committed manifest. Fences nobody, needs no `open`: for those who stand by."""

    def confirm(self) -> None:
        """Read back what the last commit said it did, if that is still open; cheap when called often.

        Raises CommitUnknown when it is not there: a client can report a commit that never happened.
        """

    def commit(self, output: Output) -> None:
        """All of the output's records, its manifest and the input positions, atomically and durably.

        Raises CommitUnknown when the outcome cannot be known: the process must end, and restart decides.
        """

    def manifests(self, after: int = 0) -> Iterator[Manifest]:
        """Committed manifests with step > after, in order."""

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        """partition -> first offset of the topic that is still there, and the end of what is committed now."""

    def published(self, topic: str) -> Iterator[Published]:
        """Committed records of one topic (contract name), in an order that keeps each key's own."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Saved:
    """A snapshot that is durable now."""

    step: int
    seconds: float  # from the call to the end
    size_bytes: int
    pause_s: float  # how long the caller of `save` waited


class Store(Protocol):
    """Snapshots of the pipeline's state: a cache, never the truth."""

    def save(self, step: int, manifest_hash: str, capture: Callable[[], State]) -> None:
        """Keep the state that `capture` returns, as it is now; maybe beside the caller, who goes on.

        At most one is written at a time: while one is, a call does nothing.
        """

    def finished(self) -> Sequence[Saved]:
        """What has become durable since the last call; looked at in every turn of the loop."""

    def newest(self, not_past: int) -> Iterator[tuple[int, str, State]]:
        """Valid snapshots with step <= not_past, newest first; damaged ones are skipped with a warning."""

    def close(self) -> None:
        """Wait a moment for what is being written, then give it up."""


class Ticker(Protocol):
    """The two clocks the shell reads; the `time` module is one."""

    def monotonic(self) -> float: ...  # seconds
    def time_ns(self) -> int: ...  # since 1970


class Phase(StrEnum):
    """What the engine is doing: a closed set, used as a metric label."""

    STARTING = "starting"  # connecting
    STANDBY = "standby"  # another engine of the group works
    RECOVERING = "recovering"  # replaying recorded steps
    RUNNING = "running"  # polling and committing
    WAITING = "waiting"  # the broker is away
    STOPPING = "stopping"


class Observer(Protocol):
    """Who watches the engine: metrics and progress. Nothing an observer does reaches the pipeline."""

    # poll decode admit windows rows warm score learn changes commit
    def stage(self, name: str) -> AbstractContextManager[None]: ...
    def phase(self, phase: Phase) -> None: ...
    def committed(
        self, output: Output, commit_s: float, lag: Mapping[int, int], latency_s: float | None
    ) -> None:
        """A step is durable. `latency_s`: newest accepted event's time to commit, where a wall clock is used."""

    def alive(self, lag: Mapping[int, int]) -> None: ...  # the loop turned, with or without input
    def snapshot_saved(self, saved: Saved) -> None: ...
    def recovered(self, steps: int, seconds: float) -> None: ...
    def quality(self, silhouette: float, davies_bouldin: float, inertia: Sequence[float]) -> None: ...


class Stopped(Exception):
    """Told to stop while waiting for the world: not a failure, the engine returns as if it had been idle."""


def start_over(epoch: int | None = None) -> str:
    """The way on when recorded steps of `epoch` cannot be continued; `stream/epochs.py` says what it does."""
    option = "once with --fresh-state" if epoch is None else f"with --fresh-state={epoch + 1}"
    return f"start {option} (a new epoch: empty state, new segment ids)"


START_OVER = start_over()


# --- named failures of the world -------------------------------------------------------------------------


class ShoalError(Exception):
    """What went wrong, where, got, wanted, next. `exit_code` is the process's."""

    exit_code = 1


class ConfigError(ShoalError):
    """A setting cannot be meant: unknown, out of its bounds, or at odds with another."""

    exit_code = 2


class BrokerGone(ShoalError):
    """The broker was not there, or went away, for longer than configured."""

    exit_code = 3


class TopicsMissing(ShoalError):
    """A topic is not there, and `kafka.create_topics` is off."""

    exit_code = 4


class SourceGone(ShoalError):
    """Input that a manifest names is missing: topic re-created, truncated, re-partitioned, file changed."""

    exit_code = 5


class ReplayMismatch(ShoalError):
    """A recorded step, computed again, gave other bytes."""

    exit_code = 6


class StateMismatch(ShoalError):
    """Recorded steps were made by another configuration or feature set."""

    exit_code = 7


class CommitUnknown(ShoalError):
    """A commit's outcome is unknown, or this writer was fenced: end the process, restart decides."""

    exit_code = 8

    def __init__(self, message: str, broker_away: bool = False) -> None:
        super().__init__(message)
        self.broker_away = broker_away  # nobody fenced this writer; the broker was not there


class DiskFailed(ShoalError):
    """An output or a snapshot could not be made durable: disk full, read-only, or broken."""

    exit_code = 9


class InputError(ShoalError):
    """A file or argument given by a person cannot be used."""

    exit_code = 10


class Stuck(ShoalError):
    """No progress for `engine.stuck_after_s`: the watchdog ended the process; a restart goes on where it was."""

    exit_code = 11
