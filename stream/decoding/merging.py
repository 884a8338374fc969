"""Events of the same records from two hands, each in ascending row order, as one."""

from __future__ import annotations

import numpy as np

from ..events import I8, I32, I64, Events


def merged(a: Events, b: Events) -> Events:
    """All events of both in ascending row order; no row is in both."""
    if not len(b):
        return a
    if not len(a):
        return b
    order = np.argsort(np.concatenate([a.row, b.row]), kind="stable")
    places = order.tolist()
    users, labels = [*a.users, *b.users], [*a.labels, *b.labels]
    lengths = np.concatenate([np.diff(a.token_ptr), np.diff(b.token_ptr)])[order]
    starts = np.concatenate([a.token_ptr[:-1], b.token_ptr[:-1] + len(a.token)])[order]
    token_ptr = np.zeros(len(order) + 1, np.int32)
    np.cumsum(lengths, out=token_ptr[1:])
    return Events(
        **{name: np.concatenate([getattr(a, name), getattr(b, name)])[order] for name in _COLUMNS},
        users=[users[i] for i in places],
        token_ptr=token_ptr,
        token=np.concatenate([a.token, b.token])[_ranges(starts, lengths)],
        labels=[labels[i] for i in places],
        clamped=a.clamped + b.clamped,
        consent=None if a.consent is None and b.consent is None else _consent(a, b)[order],
    )


def _consent(a: Events, b: Events) -> I8:
    parts = [np.zeros(len(e), np.int8) if e.consent is None else e.consent for e in (a, b)]
    return np.concatenate(parts)


_COLUMNS = ("row", "event_key", "channel", "sign", "time_ms", "value", "quantity", "dwell_ms", "item")


def _ranges(starts: I32, lengths: I32) -> I64:
    """start, start + 1 ... of every range, one range after the other."""
    ends = np.cumsum(lengths, dtype=np.int64)
    within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    return np.asarray(np.repeat(starts, lengths) + within, np.int64)
