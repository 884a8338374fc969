"""Whether the next item a user turns to was among the ten that a list proposed. Counted before it is learned.

    global list     items by decayed count over everybody
    segment list    items by  count in the segment + m * share over everybody

The segment's list is the mean of a Dirichlet prior round the global shares with the weight of m events, so
a segment in which nothing was counted proposes the global list exactly, and a thin one nearly so. All counts
halve together every `half_life` targets; the lists are as of the beginning of a step, for both alike.

Which m: the one with most hits so far (`follow`), with "global" among the candidates and the first choice.
Nothing is tuned, and nothing is chosen with knowledge of the events that it is measured on.

Ties go to the item seen first. Where repeats make no sense the user's own past items are passed over, and
an event that repeats one is no target. Memory: segments x items.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..events import I32, I64, Bool
from .lift_trace import Trace

TOP = 10
PRIORS = (np.inf, 4096.0, 1024.0, 256.0, 64.0, 16.0)
"""Candidates for m, in events; infinite: the global list. The first is used until another has more hits."""

_LONG = 48  # a list is kept this long; who knows all of it is served by a look at every item
_RESCALE = 2.0**200


def hits(trace: Trace, half_life: float, repeats: bool) -> tuple[Bool, Bool]:
    """(n, len(PRIORS)) whether each candidate's list had the item; (n,) whether the event was a target."""
    items = int(trace.item.max(initial=-1)) + 1
    users = int(trace.user.max(initial=-1)) + 1
    return _hits(
        trace.step, trace.user, trace.item, trace.before, trace.after, items, users, max(trace.segments, 1),
        np.array(PRIORS), 2.0 ** (1.0 / half_life), repeats,
    )  # fmt: skip


def follow(hit: Bool, step: I32) -> I64:
    """(n, c), (n,) -> (n,) the candidate with most hits in the steps before; ties: the earliest in the list."""
    total = np.concatenate([np.zeros((1, hit.shape[1]), np.int64), np.cumsum(hit, axis=0)])  # before event i
    first = np.searchsorted(step, step)  # (n,) where the event's step begins
    return np.argmax(total[first], axis=1)


# --- kernels -------------------------------------------------------------------------------------------


@njit(cache=True)
def _hits(step, user, item, before, after, n_items, n_users, n_segments, priors, growth, repeats):  # type: ignore[no-untyped-def]
    n = len(step)
    hit = np.zeros((n, len(priors)), np.bool_)
    target = np.ones(n, np.bool_)
    counts = np.zeros((n_segments, n_items))
    everybody = np.zeros(n_items)
    weight = 1.0  # of an event now: growing instead of letting every count shrink
    newest = np.full(n_users, -1, np.int64)  # (u,) event by which the user last turned to something new
    older = np.full(n, -1, np.int64)  # (n,) the one before it
    known = np.full(n_items, -1, np.int64)  # (i,) the event for whose user the item is marked as known
    lists = np.empty((n_segments + 1, len(priors), _LONG), np.int64)
    scores = np.empty((n_segments + 1, len(priors), n_items))
    built = np.full(n_segments + 1, -1, np.int64)  # the step for which a segment's lists were made
    start = 0
    while start < n:
        end = start
        while end < n and step[end] == step[start]:
            end += 1
        for i in range(start, end):
            own = False
            at = newest[user[i]]
            while at >= 0:
                known[item[at]] = i
                at = older[at]
            own = known[item[i]] == i
            if own and not repeats:
                target[i] = False
            else:
                s = before[i] + 1
                if built[s] != step[i]:
                    _propose(counts, everybody, before[i], priors, weight, scores[s], lists[s])
                    built[s] = step[i]
                for c in range(len(priors)):
                    hit[i, c] = _listed(lists[s, c], scores[s, c], item[i], known, -2 if repeats else i)
            if not own:
                older[i] = newest[user[i]]
                newest[user[i]] = i
        for i in range(start, end):
            weight *= growth
            everybody[item[i]] += weight
            if after[i] >= 0:
                counts[after[i], item[i]] += weight
        if weight > _RESCALE:
            counts /= weight
            everybody /= weight
            weight = 1.0
        start = end
    return hit, target


@njit(cache=True)
def _propose(counts, everybody, segment, priors, weight, scores, lists):  # type: ignore[no-untyped-def]
    """Scores (c, i) and the best _LONG items (c, _LONG) of one segment's candidates; -1 fills up."""
    total = everybody.sum()
    for c in range(len(priors)):
        if segment < 0 or np.isinf(priors[c]) or total == 0.0:
            scores[c] = everybody
        else:
            share = priors[c] * weight / total
            for j in range(len(everybody)):
                scores[c, j] = counts[segment, j] + share * everybody[j]
        _best(scores[c], lists[c])


@njit(cache=True)
def _best(scores, out):  # type: ignore[no-untyped-def]
    """The items with the highest scores above 0, best first; ties: the lowest number first."""
    held = 0
    for j in range(len(scores)):
        if scores[j] <= 0.0 or (held == len(out) and scores[j] <= scores[out[held - 1]]):
            continue
        if held < len(out):
            held += 1
        at = held - 1
        while at > 0 and scores[out[at - 1]] < scores[j]:
            out[at] = out[at - 1]
            at -= 1
        out[at] = j
    out[held:] = -1


@njit(cache=True)
def _listed(ranked, scores, item, known, event):  # type: ignore[no-untyped-def]
    """Whether `item` is among the first TOP that are not known to the event's user."""
    taken = 0
    for j in ranked:
        if j < 0:
            return False
        if known[j] == event:
            continue
        if j == item:
            return True
        taken += 1
        if taken == TOP:
            return False
    return _ahead(scores, item, known, event) < TOP


@njit(cache=True)
def _ahead(scores, item, known, event):  # type: ignore[no-untyped-def]
    """How many items not known to the event's user stand before `item`."""
    if scores[item] <= 0.0:
        return len(scores)
    ahead = 0
    for j in range(len(scores)):
        if known[j] != event and (scores[j] > scores[item] or (scores[j] == scores[item] and j < item)):
            ahead += 1
    return ahead
