"""Valid events -> columns: one list per column, one numpy array per list.

What an event touched is a list of distinct tokens, in the order of its items: `i:` + id; `c:a`, `c:a/b` for
a category path [a, b]; `b:` + brand; `t:` + tag. Empty texts make no token. At most 64 are kept, the first.

Always true: 0 <= value, quantity <= money_max and 0 <= dwell_ms <= a day, all finite. Whether an event
subtracts follows from its type alone, so shops' negative amounts on cancellations lose their sign here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import xxhash

from ..events import CHANNELS, F64, I8, Bool, Events
from .contract import Event, Item

TOKENS_MAX = 64
DWELL_MS_MAX = 86_400_000
_CUSTOM = (CHANNELS.index("custom"), 1)
_hash: Callable[[bytes], int] = xxhash.xxh3_64_intdigest


def columns(
    rows: Sequence[int],
    events: Sequence[Event],
    users: Sequence[str],
    times_ms: Sequence[int],
    codes: Mapping[str, tuple[int, int]],
    money_max: float,
) -> Events:
    """n valid events, in ascending row order, as Events. An event with any value clamped counts once."""
    coded = [codes.get(event.type, _CUSTOM) for event in events]
    value, value_over = _clamped([_money(event) for event in events], money_max)
    quantity, quantity_over = _clamped([_quantity(event) for event in events], money_max)
    dwell_ms, dwell_over = _clamped([event.dwell_ms or 0.0 for event in events], DWELL_MS_MAX)
    item, labels, token_ptr, token = _touches(events)
    return Events(
        row=np.array(rows, np.int32),
        users=users,
        event_key=np.array([_hash(event.event_id.encode()) for event in events], np.uint64),
        channel=np.array([code[0] for code in coded], np.int8),
        sign=np.array([code[1] for code in coded], np.int8),
        time_ms=np.array(times_ms, np.int64),
        value=value,
        quantity=quantity,
        dwell_ms=dwell_ms.astype(np.int64),
        item=np.array(item, np.uint64),
        token_ptr=np.array(token_ptr, np.int32),
        token=np.array(token, np.uint64),
        labels=labels,
        clamped=int(np.count_nonzero(value_over | quantity_over | dwell_over)),
        consent=_consents(events),
    )


def _consents(events: Sequence[Event]) -> I8 | None:
    """(n,) what was said about segmentation; None where nobody said anything."""
    said = [event.consent.segmentation if event.consent is not None else None for event in events]
    if not any(one is not None for one in said):
        return None
    return np.array([0 if one is None else 1 if one else -1 for one in said], np.int8)


def _clamped(numbers: Sequence[float], top: float) -> tuple[F64, Bool]:
    """Sizes (n,) cut at `top`, and which were cut (n,)."""
    sizes = np.abs(np.array(numbers, np.float64))
    return np.minimum(sizes, top), sizes > top


def _money(event: Event) -> float:
    """`value`, or else what the priced items sum to. May be infinite."""
    if event.value is not None:
        return event.value
    return _summed(
        item.price * (1.0 if item.quantity is None else item.quantity)
        for item in event.items or ()
        if item.price is not None
    )


def _quantity(event: Event) -> float:
    """`quantity`, or else the sum over the items that state one. May be infinite."""
    if event.quantity is not None:
        return event.quantity
    return _summed(item.quantity for item in event.items or () if item.quantity is not None)


def _summed(numbers: Iterable[float]) -> float:
    """Sizes, one after the other: `sum` rounds differently from Python 3.12 on, and so from `gather`."""
    total = 0.0
    for number in numbers:
        total += abs(number)
    return total


def _touches(events: Sequence[Event]) -> tuple[list[int], list[str], list[int], list[int]]:
    """First item's hash (n,), labels (n,), token_ptr (n+1,), tokens (t,)."""
    first, labels, ptr, tokens = [], [], [0], []
    paths: Paths = {}
    for event in events:
        items = event.items
        if items:
            found = _touched(items, paths)
            tokens += found
            first.append(found[0] if items[0].id else 0)
            labels.append(_label(items[0]))
        else:
            first.append(0)
            labels.append("")
        ptr.append(len(tokens))
    return first, labels, ptr, tokens


def _label(item: Item) -> str:
    """The top of its category path, else its id, else nothing."""
    top = next(filter(None, item.category), None) if item.category else None
    return top or item.id or ""


Paths = dict[tuple[str, ...], list[int]]  # category path -> its tokens; kept for one step, which bounds it


def _touched(items: Sequence[Item], paths: Paths) -> list[int]:
    """At most 64 distinct tokens, in order. The work is bounded by the record's own size."""
    found: list[int] = []
    for item in items:
        if item.id:
            found.append(_hash(f"i:{item.id}".encode()))
        if item.category:
            path = tuple(item.category)
            known = paths.get(path)
            if known is None:
                known = paths[path] = _path_tokens(path)
            found += known
        if item.brand:
            found.append(_hash(f"b:{item.brand}".encode()))
        if item.tags:
            found += [_hash(f"t:{tag}".encode()) for tag in item.tags if tag]
    if len(items) == 1 and items[0].tags is None and len(found) <= TOKENS_MAX:
        return found  # distinct already: the common case
    return list(dict.fromkeys(found))[:TOKENS_MAX]


def _path_tokens(path: Sequence[str]) -> list[int]:
    """Of every prefix of a category path, widest first."""
    parts = [part for part in path[:TOKENS_MAX] if part]
    return [_hash(f"c:{'/'.join(parts[:depth])}".encode()) for depth in range(1, len(parts) + 1)]
