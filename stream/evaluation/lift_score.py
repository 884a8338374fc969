"""Whether the next item a user turns to was among the ten that a list proposed. Counted before it is learned.

    global list     items by decayed count over everybody
    segment list    items by  decayed count in the segment + m * share over everybody

The segment's list is the mean of a Dirichlet prior round the global shares with the weight of m events, so
a segment in which nothing was counted proposes the global list exactly, and a thin one nearly so. Counts
halve every so many targets, whoever's; a thin list needs a longer memory than everybody's. All lists are as of
the beginning of a step.

Which memory for everybody, and then which memory and which m for the segments: those with most hits in the
steps before (`follow`, the leader). The candidates for the segments begin with the global list that leads by
itself, and another one has to be ahead of it by more than chance (`DOUBT`): where segments know nothing, their
lists stay the global one. So on the segments' side nothing is tuned, and nothing is chosen with knowledge of
the events that it is measured on.

Ties go to the item seen first. Where repeats make no sense the user's own past items are passed over, and
an event that repeats one is no target. Memory: segments x items.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..compiling import kernel
from ..events import I32, I64, Bool
from .lift_trace import Trace

TOP = 10
HALF_LIVES = (2_000.0, 5_000.0, 20_000.0, 100_000.0, 1e9)
"""In targets, whoever's: a list's memory. The last one never forgets."""

PRIORS = (4096.0, 1024.0, 256.0, 64.0, 16.0)
"""Candidates for m, in events."""

DOUBT = 2.0
"""Deviations of chance that a segments' list must have been ahead of the global list by, to be used."""

_LONG = 48  # a list is kept this long; who knows all of it is served by a look at every item
_RESCALE = 2.0**200


def everybody(trace: Trace, repeats: bool) -> tuple[Bool, Bool]:
    """(n, len(HALF_LIVES)) whether the global list of each memory had the item; (n,) which events were targets."""
    nowhere = np.full(len(trace), -1, np.int32)
    unplaced = replace(trace, before=nowhere, after=nowhere)
    hit = np.empty((len(trace), len(HALF_LIVES)), np.bool_)
    target = np.ones(len(trace), np.bool_)
    for which in range(len(HALF_LIVES)):
        leader = np.full(len(trace), which, np.int64)
        column, target = hits(unplaced, leader, np.inf, PRIORS[:1], repeats)
        hit[:, which] = column[:, 0]
    return hit, target


def candidates(trace: Trace, hit: Bool, repeats: bool) -> Bool:
    """(n, 1 + memories * priors) whether each candidate for the segments had the item.

    `hit` (n, len(HALF_LIVES)) of the global lists. The first column is the global list that led; then come
    the segments' lists, for each memory every prior, round that same global list.
    """
    leader = follow(hit, trace.step)
    columns = [hit[np.arange(len(hit)), leader][:, None]]
    columns += [hits(trace, leader, half_life, PRIORS, repeats)[0] for half_life in HALF_LIVES]
    return np.concatenate(columns, axis=1)


def named(candidate: int) -> tuple[float, float]:
    """Half-life and m of a column of `candidates`; infinite m: the global list that leads."""
    if not candidate:
        return np.inf, np.inf
    memory, prior = divmod(candidate - 1, len(PRIORS))
    return HALF_LIVES[memory], PRIORS[prior]


def hits(
    trace: Trace, leader: I64, half_life: float, priors: tuple[float, ...], repeats: bool
) -> tuple[Bool, Bool]:
    """(n, len(priors)) whether the list of the user's segment had the item; (n,) which events were targets.

    The segments' counts halve every `half_life`; `leader` (n,), the same throughout a step, is the place in
    HALF_LIVES of the global list that they are shrunk to, and that users without a segment are shown.
    """
    items = int(trace.item.max(initial=-1)) + 1
    users = int(trace.user.max(initial=-1)) + 1
    return _hits(
        trace.step, trace.user, trace.item, trace.before, trace.after, items, users, max(trace.segments, 1),
        leader, 2.0 ** (1.0 / np.array(HALF_LIVES)), 2.0 ** (1.0 / half_life), np.array(priors), repeats,
    )  # fmt: skip


def follow(hit: Bool, step: I32, doubt: float = 0.0) -> I64:
    """(n, c), (n,) -> (n,) the candidate with most hits in the steps before; ties: the earliest in the list.

    With `doubt` only among those ahead of the first one by that many deviations of chance: where one of the two
    had a hit and the other had none, a tossed coin would lead by the square root of how often that was.
    """
    none = np.zeros((1, hit.shape[1]), np.int64)
    ahead = np.concatenate([none, np.cumsum(hit.astype(np.int8) - hit[:, :1], axis=0)])  # before event i
    apart = np.concatenate([none, np.cumsum(hit != hit[:, :1], axis=0)])
    first = np.searchsorted(step, step)  # (n,) where the event's step begins
    sure = ahead[first] >= doubt * np.sqrt(apart[first])
    sure[:, 0] = True
    lowest = np.iinfo(np.int64).min
    return np.argmax(np.where(sure | (doubt == 0.0), ahead[first], lowest), axis=1)


# --- kernels -------------------------------------------------------------------------------------------


@kernel
def _hits(  # type: ignore[no-untyped-def]
    step, user, item, before, after, n_items, n_users, n_segments,
    leader, growths, growth, priors, repeats,
):  # fmt: skip
    n = len(step)
    hit = np.zeros((n, len(priors)), np.bool_)
    target = np.ones(n, np.bool_)
    counts = np.zeros((n_segments, n_items))
    weight = 1.0  # of an event now: growing instead of letting every count shrink
    shared = np.zeros((len(growths), n_items))  # the same over everybody, once for each memory
    weights = np.ones(len(growths))
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
                    _propose(counts, weight, shared[leader[i]], before[i], priors, scores[s], lists[s])
                    built[s] = step[i]
                for c in range(len(priors)):
                    hit[i, c] = _listed(lists[s, c], scores[s, c], item[i], known, -2 if repeats else i)
            if not own:
                older[i] = newest[user[i]]
                newest[user[i]] = i
        for i in range(start, end):
            weight *= growth
            if after[i] >= 0:
                counts[after[i], item[i]] += weight
            for h in range(len(growths)):
                weights[h] *= growths[h]
                shared[h, item[i]] += weights[h]
                if weights[h] > _RESCALE:
                    shared[h] /= weights[h]
                    weights[h] = 1.0
        if weight > _RESCALE:
            counts /= weight
            weight = 1.0
        start = end
    return hit, target


@kernel
def _propose(counts, weight, shared, segment, priors, scores, lists):  # type: ignore[no-untyped-def]
    """Scores (c, i) and the best _LONG items (c, _LONG) of one segment's candidates; -1 fills up."""
    total = shared.sum()
    for c in range(len(priors)):
        if segment < 0 or total == 0.0:
            scores[c] = shared
        else:
            share = priors[c] * weight / total
            for j in range(len(shared)):
                scores[c, j] = counts[segment, j] + share * shared[j]
        _best(scores[c], lists[c])


@kernel
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


@kernel
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


@kernel
def _ahead(scores, item, known, event):  # type: ignore[no-untyped-def]
    """How many items not known to the event's user stand before `item`."""
    if scores[item] <= 0.0:
        return len(scores)
    ahead = 0
    for j in range(len(scores)):
        if known[j] != event and (scores[j] > scores[item] or (scores[j] == scores[item] and j < item)):
            ahead += 1
    return ahead
