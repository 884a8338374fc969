"""The JSON values of what Shoal publishes about users; the schemas in `schemas/` describe them.

They are written column by column: the numbers of all changes of a step become text in one call, and each text is put
where it belongs. Strings pass through orjson unless they are of a closed set. (Tried: dictionaries, twice the time.)

Times are integer milliseconds of stream time, like everywhere inside. Means, shifts and scores are rounded
to six significant digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson

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
from .membership import Moves
from .users import ANONYMOUS

Value = dict[str, Any]

INPUT_TOPIC = "behavior.events"
_UNKNOWN = "anon:"
_RESERVED = (_UNKNOWN, "user:")
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

    def transitions(self) -> list[str]:
        """(n,) what happened to each."""
        return self.moves.transitions()

    def more(self) -> list[str]:
        """(n,) what else there is to say of each change, as JSON behind everything else."""
        return [""] * len(self.moves)


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
        return _UNKNOWN + name[1:]
    return f"user:{name}" if name.startswith(_RESERVED) else name


def user_name(key: str) -> str:
    """The user name inside that a key stands for; undoes `user_key`."""
    if key.startswith(_UNKNOWN):
        return ANONYMOUS + key.removeprefix(_UNKNOWN)
    return key.removeprefix("user:")


def rfc3339(time_ms: int) -> str:
    """
    >>> rfc3339(1_700_000_000_123)
    '2023-11-14T22:13:20.123Z'
    """
    moment = _EPOCH + timedelta(milliseconds=min(time_ms, _LAST_MS))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- changes and members -------------------------------------------------------------------------------

NULL = "null"


def change_texts(
    told: Told,
    keys: Sequence[str],
    records: Records,
    catalog: Catalog,
    lifecycle: Sequence[str],
    decided_ms: int,
) -> Iterator[tuple[str, str]]:
    """Per move the value of `segment.changes`, and that of `segment.members`: where it leaves the user, if anywhere.

    All columns are JSON before they are put together; `keys`, `lifecycle` (n,) of each user.
    """
    m = told.moves
    names = catalog.names()
    model = _json(told.model)
    columns = zip(
        _users(keys),
        told.transitions(),
        _sides(m.before, m.before_since_ms, names),
        _sides(m.after, m.since_ms, names),
        _reasons(told.verdict),
        _confidences(m),
        _explanations(told, catalog),
        lifecycle,
        _texts(m.sequence),
        _positions(told, records),
        _texts(_where(told.event_time_ms > 0, told.event_time_ms)),  # a command has no time of its own
        told.more(),
        strict=True,
    )
    for (
        user,
        how,
        source,
        target,
        reason,
        confidence,
        why,
        life,
        sequence,
        position,
        event_time,
        more,
    ) in columns:
        if target == NULL:
            confidence = life = NULL
        yield (
            f'{{"user":{user},"transition":"{how}","from":{source},"to":{target},"reason":{reason},'
            f'"confidence":{confidence},"explanation":{why},"lifecycle":{life},"model":{model},'
            f'"position":{{{position},"sequence":{sequence}}},'
            f'"times":{{"event_time":{event_time},"decided_time":{decided_ms}}}{more}}}',
            f'{{"user":{user},{target[1:-1]},"sequence":{sequence},"confidence":{confidence},"lifecycle":{life}}}'
            if target != NULL
            else NULL,
        )


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _texts(column: I64 | I32 | F64 | Bool | Sequence[int | None]) -> list[str]:
    """(n,) each as JSON; null where it is None or no number."""
    text = orjson.dumps(column, option=orjson.OPT_SERIALIZE_NUMPY).decode()[1:-1]
    return text.split(",") if text else []


def _where(present: Bool, values: I64 | I32) -> list[int | None]:
    """(n,) the values, None where they are not present."""
    return [value if here else None for here, value in zip(present.tolist(), values.tolist(), strict=True)]


def _users(keys: Sequence[str]) -> list[str]:
    kinds = ["anonymous" if key.startswith(_UNKNOWN) else "user" for key in keys]
    return [f'{{"key":{_json(key)},"kind":"{kind}"}}' for key, kind in zip(keys, kinds, strict=True)]


def _sides(ids: I64, since_ms: I64, names: Mapping[int, str]) -> list[str]:
    """null for no segment."""
    segments = ids.tolist()
    named = {one: f'{{"segment_id":{one},"name":{_json(names[one])},"since":' for one in set(segments) if one}
    sides = zip(segments, _texts(since_ms), strict=True)
    return [f"{named[segment]}{since}}}" if segment else NULL for segment, since in sides]


def _reasons(verdict: Verdict) -> list[str]:
    user_shift, model_shift = map(_texts, rounded(np.stack([verdict.user_shift, verdict.model_shift])))
    return [
        f'{{"kind":"{kind}","user_shift":{user},"model_shift":{model}}}'
        for kind, user, model in zip(verdict.kind, user_shift, model_shift, strict=True)
    ]


def _confidences(moves: Moves) -> list[str]:
    shares = rounded(np.stack([moves.score, moves.margin]))
    columns = map(_texts, (*shares, moves.events_seen, moves.provisional))
    return [
        f'{{"score":{score},"margin":{margin},"events_seen":{seen},"provisional":{provisional}}}'
        for score, margin, seen, provisional in zip(*columns, strict=True)
    ]


def _positions(told: Told, records: Records) -> list[str]:
    """Without the brace at either end: the sequence follows."""
    caused = told.cause >= 0
    at = np.maximum(told.cause, 0)
    topics = [INPUT_TOPIC] * len(caused)
    if not caused.any():
        partitions = offsets = [NULL] * len(caused)
    else:
        partition = records.partitions[at]
        commands = is_control(partition) & caused
        topics = [CONTROL if command else INPUT_TOPIC for command in commands.tolist()]
        partition = np.where(commands, control_partition(partition), partition)
        partitions, offsets = _texts(_where(caused, partition)), _texts(_where(caused, records.offsets[at]))
    return [
        f'"topic":"{topic}","partition":{partition},"offset":{offset}'
        for topic, partition, offset in zip(topics, partitions, offsets, strict=True)
    ]


def _explanations(told: Told, catalog: Catalog) -> list[str]:
    """What made each user fit its new segment; null for those who left, and those who stayed where they were."""
    texts = [NULL] * len(told.moves)
    if told.scored is not None:
        rows = np.flatnonzero(~told.moves.remapped() & (told.moves.after != 0))
        for i, text in zip(rows.tolist(), _explained(told, told.scored, rows, catalog), strict=True):
            texts[i] = text
    return texts


def _explained(told: Told, scored: Scored, rows: I64, catalog: Catalog) -> Iterator[str]:
    """Of these of its moves."""
    moves = told.moves.take(rows)
    unknown = (moves.before == 0) | np.isin(moves.before, list(catalog.hidden))
    before = np.where(unknown, -1, moves.centre_before).astype(np.int32)
    found = explain(catalog, scored.raw[moves.row], scored.x[moves.row], before, moves.centre_after)
    hides = np.isin(moves.after, list(catalog.hidden))
    numbers = rounded(np.stack(found.numbers()))  # (5, n, f)
    numbers[2, unknown] = np.nan
    shown = (numbers[4] > 0) & ~hides[:, None]  # (n, f)
    names = [_json(name) for name in (*catalog.features, INTEREST)]
    quantity = np.where(catalog.interest[found.column], len(catalog.features), found.column)[shown]
    features = [
        f'{{"feature":{names[feature]},"user_value":{user},"segment_mean":{segment},'
        f'"previous_segment_mean":{previous},"population_mean":{population},"contribution":{contribution}}}'
        for feature, user, segment, previous, population, contribution in zip(
            quantity.tolist(), *(_texts(column[shown]) for column in numbers), strict=True
        )
    ]
    ends = np.cumsum(shown.sum(axis=1)).tolist()
    for i, begin, end, silent in zip(rows.tolist(), [0, *ends], ends, hides.tolist(), strict=False):
        otherwise = NULL if silent else _counterfactual(told, i, catalog)
        yield f'{{"features":[{",".join(features[begin:end])}],"counterfactual":{otherwise}}}'


def _counterfactual(told: Told, i: int, catalog: Catalog) -> str:
    """What would have been enough for another decision, where it is known."""
    found = told.otherwise.found.get(i) if told.otherwise else None
    if told.otherwise is None or found is None:
        return NULL
    horizons, outcome = told.otherwise.horizons, told.otherwise.ids[found.centre]
    stays = bool(told.moves.before[i])
    if outcome in (0, int(told.moves.after[i]), *catalog.hidden):
        return NULL  # not to be named, or no other to people
    edits = [
        {
            "feature": f"{CHANNELS[edit.channel]}_count_{horizons[edit.band]}",
            "from": edit.before,
            "to": edit.before + edit.events,
            "what": what(edit, horizons),
        }
        for edit in found.edits
    ]
    said = text(found.edits, horizons, stays, catalog.names()[outcome])
    return _json({"text": said, "edits": edits, "outcome_segment_id": outcome})
