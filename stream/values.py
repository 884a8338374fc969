"""The JSON values of what Shoal publishes about users, as plain dictionaries; the schemas in `schemas/` describe them.

Times are integer milliseconds of stream time, like everywhere inside. Means, shifts and scores are rounded
to six significant digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from .attribution import Verdict
from .catalog import Catalog
from .counterfactual import Counterfactual, text, what
from .events import (
    CHANNELS,
    CONTROL,
    F64,
    I32,
    I64,
    Bool,
    Events,
    Records,
    Scored,
    control_partition,
    is_control,
)
from .explain import INTEREST, explain, rounded
from .membership import LEFT, Moves
from .users import ANONYMOUS

Value = dict[str, Any]

INPUT_TOPIC = "behavior.events"
_RESERVED = ("anon:", "user:")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999  # the end of the year 9999, where RFC 3339 ends


@dataclass(frozen=True, slots=True)
class Otherwise:
    """What would have been enough for another decision, and what it takes to say so."""

    found: Mapping[int, Counterfactual]  # by index of the move
    horizons: Sequence[str]
    ids: Sequence[int]  # segment id of each centre, as of the decision


@dataclass(frozen=True, slots=True)
class Told:
    """Moves (n,) with all that had to be read when they were decided."""

    moves: Moves
    names: Sequence[str]  # (n,) user names
    verdict: Verdict
    model: Mapping[str, Any]  # versions that decided
    scored: Scored | None  # None: farewells, nobody was scored
    cause: I64  # (n,) input row of the user's last event in the step; -1: none, it was silent
    event_time_ms: I64  # (n,) of that event
    otherwise: Otherwise | None = None


def causes(moves: Moves, events: Events, slots: I32) -> tuple[I64, I64]:
    """Input row and time of the last event of each moved user (n,); -1 and 0 for the silent ones."""
    if not len(slots):
        return np.full(len(moves), -1, np.int64), np.zeros(len(moves), np.int64)
    order = np.sort(slots.astype(np.int64) << 32 | np.arange(len(slots)))  # by user, then as they came
    last = order[np.searchsorted(order, (moves.slot.astype(np.int64) + 1) << 32) - 1]
    event, here = last & 0xFFFF_FFFF, last >> 32 == moves.slot
    return np.where(here, events.row[event], -1), np.where(here, events.time_ms[event], 0)


def user_key(name: str) -> str:
    """The key that stands for a user outside; different users have different keys.

    >>> user_key("42"), user_key("\\x00abc"), user_key("anon:abc")
    ('42', 'anon:abc', 'user:anon:abc')
    """
    if name.startswith(ANONYMOUS):
        return f"anon:{name[1:]}"
    return f"user:{name}" if name.startswith(_RESERVED) else name


def user_name(key: str) -> str:
    """The user name inside that a key stands for; undoes `user_key`."""
    if key.startswith("anon:"):
        return ANONYMOUS + key[5:]
    return key.removeprefix("user:")


def rfc3339(time_ms: int) -> str:
    """
    >>> rfc3339(1_700_000_000_123)
    '2023-11-14T22:13:20.123Z'
    """
    moment = _EPOCH + timedelta(milliseconds=min(time_ms, _LAST_MS))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- changes and members -------------------------------------------------------------------------------


def change_values(
    told: Told, records: Records, catalog: Catalog, lifecycle: Iterable[Value], decided_ms: int
) -> Iterator[Value]:
    """Values of `segment.changes`, one per move, each built when it is asked for; `lifecycle` (n,) of each user."""
    m = told.moves
    names = catalog.names()
    columns = zip(
        told.names,
        m.transitions(),
        _sides(m.before, m.before_since_ms, names),
        _sides(m.after, m.since_ms, names),
        _reasons(told.verdict),
        _confidences(m),
        _explanations(told, catalog),
        lifecycle,
        _positions(told, records),
        _where(told.event_time_ms > 0, told.event_time_ms),  # a command has no time of its own
        strict=True,
    )
    for (
        name,
        transition,
        source,
        target,
        reason,
        confidence,
        explanation,
        life,
        position,
        event_time,
    ) in columns:
        yield {
            "user": {"key": user_key(name), "kind": "anonymous" if name.startswith(ANONYMOUS) else "user"},
            "transition": transition,
            "from": source,
            "to": target,
            "reason": reason,
            "confidence": None if transition == LEFT else confidence,
            "explanation": explanation,
            "lifecycle": None if transition == LEFT else life,
            "model": told.model,
            "position": position,
            "times": {"event_time": event_time, "decided_time": decided_ms},
        }


def _rows(*columns: I64 | I32 | F64 | Bool) -> Iterator[tuple[Any, ...]]:
    """Rows of plain Python values, as JSON wants them."""
    return zip(*(column.tolist() for column in columns), strict=True)


def _where(present: Bool, values: I64 | I32) -> list[int | None]:
    """(n,) the values, None where they are not present."""
    return [value if here else None for here, value in _rows(present, values)]


def _sides(ids: I64, since_ms: I64, names: Mapping[int, str]) -> Iterator[Value | None]:
    for segment, since in _rows(ids, since_ms):
        yield {"segment_id": segment, "name": names[segment], "since": since} if segment else None


def _reasons(verdict: Verdict) -> Iterator[Value]:
    shifts = _rows(rounded(verdict.user_shift), rounded(verdict.model_shift))
    for kind, (user, model) in zip(verdict.kind, shifts, strict=True):
        yield {"kind": kind, "user_shift": user, "model_shift": model}


def _confidences(moves: Moves) -> Iterator[Value]:
    columns = rounded(moves.score), rounded(moves.margin), moves.events_seen, moves.provisional
    for score, margin, seen, provisional in _rows(*columns):
        yield {"score": score, "margin": margin, "events_seen": seen, "provisional": provisional}


def _positions(told: Told, records: Records) -> Iterator[Value]:
    caused = told.cause >= 0
    at = np.maximum(told.cause, 0)
    topics = [INPUT_TOPIC] * len(caused)
    if not caused.any():
        partitions = offsets = _where(caused, told.cause)
    else:
        partition = records.partitions[at]
        commands = is_control(partition) & caused
        topics = [CONTROL if command else INPUT_TOPIC for command in commands.tolist()]
        partition = np.where(commands, control_partition(partition), partition)
        partitions, offsets = _where(caused, partition), _where(caused, records.offsets[at])
    columns = zip(topics, partitions, offsets, told.moves.sequence.tolist(), strict=True)
    for topic, where, offset, sequence in columns:
        yield {"topic": topic, "partition": where, "offset": offset, "sequence": sequence}


def _explanations(told: Told, catalog: Catalog) -> Iterator[Value | None]:
    """What made each user fit its new segment; None for those who left, and those who stayed where they were."""
    if told.scored is None:
        yield from [None] * len(told.moves)
        return
    explained = ~told.moves.remapped() & (told.moves.after != 0)
    values = _explained(told, told.scored, np.flatnonzero(explained), catalog)
    for here in explained.tolist():
        yield next(values) if here else None


def _explained(told: Told, scored: Scored, rows: I64, catalog: Catalog) -> Iterator[Value]:
    """Of these of its moves."""
    moves = told.moves.take(rows)
    unknown = (moves.before == 0) | np.isin(moves.before, list(catalog.hidden))
    before = np.where(unknown, -1, moves.centre_before).astype(np.int32)
    found = explain(catalog, scored.raw[moves.row], scored.x[moves.row], before, moves.centre_after)
    names = (*catalog.features, INTEREST)
    silent = np.isin(moves.after, list(catalog.hidden))
    shown = np.where(catalog.interest[found.column], len(catalog.features), found.column)
    table = _rows(silent, shown, *map(rounded, found.numbers()))
    for i, (hides, *row), first in zip(rows.tolist(), table, unknown.tolist(), strict=True):
        yield {
            "features": [
                {
                    "feature": names[feature],
                    "user_value": user,
                    "segment_mean": segment,
                    "previous_segment_mean": None if first else previous,
                    "population_mean": population,
                    "contribution": contribution,
                }
                for feature, user, segment, previous, population, contribution in zip(*row, strict=True)
                if contribution > 0 and not hides
            ],
            "counterfactual": None if hides else _counterfactual(told, i, catalog),
        }


def _counterfactual(told: Told, i: int, catalog: Catalog) -> Value | None:
    """What would have been enough for another decision, where it is known."""
    found = told.otherwise.found.get(i) if told.otherwise else None
    if told.otherwise is None or found is None:
        return None
    horizons, outcome = told.otherwise.horizons, told.otherwise.ids[found.centre]
    stays = bool(told.moves.before[i])
    if outcome in (0, int(told.moves.after[i]), *catalog.hidden):
        return None  # not to be named, or no other to people
    return {
        "text": text(found.edits, horizons, stays, catalog.names()[outcome]),
        "edits": [
            {
                "feature": f"{CHANNELS[edit.channel]}_count_{horizons[edit.band]}",
                "from": edit.before,
                "to": edit.before + edit.events,
                "what": what(edit, horizons),
            }
            for edit in found.edits
        ],
        "outcome_segment_id": outcome,
    }


def member_value(change: Value) -> Value:
    """Value of `segment.members`: where the change leaves the user."""
    return {
        "user": change["user"],
        **change["to"],
        "sequence": change["position"]["sequence"],
        "confidence": change["confidence"],
        "lifecycle": change["lifecycle"],
    }
