"""What a contestant did with a stream, and how good that was.

A track is a record of scores: for every row the group it was given and its squared distance to that centre,
both before the row was learned from. All measures are over windows of consecutive rows.

    ari, nmi     per window against the true groups, mean over windows; equal to scikit-learn's
    ssq          squared distances of a window over those of the window's own optimum, mean over windows
    ari_whole    one contingency over the whole stream: who renames a group, or gives a name to another one, loses
    churn        share of rows whose group, scored again a window ago, would have had another name. The row is
                 moved back with its true group, so following a moving group is no churn; only rows of groups
                 that lived through both windows count. Real data: the very same row
    live         share of the centres in use that win at least 5 % of an equal share of a window's rows
    recovery     rows from a change until the squared distances are within 5 % of the true centres' again,
                 mean over changes; a change that was never recovered from counts until the next one
    interventions  per 10,000 rows
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..events import F64, I64
from ..quality import adjusted_rand, normalised_mutual_information
from .peers import Contestant, View
from .streams import Stream

LIVE_SHARE = 0.05  # of an equal share
RECOVERED = 1.05  # times the true centres' squared distances
RECOVERY_ROWS = 1024  # over which that must hold: one lucky batch is no recovery


@dataclass(slots=True)
class Track:
    groups: I64  # (n,) the group each row was given
    gaps: F64  # (n,) squared distance to its centre
    views: list[View] = field(
        default_factory=list
    )  # at the start, and after each window; none: no lasting names
    interventions: int = 0


def follow(contestant: Contestant, stream: Stream, batch_rows: int) -> Track:
    """Warm up, then batch by batch: score, then learn."""
    n = len(stream.rows)
    track = Track(np.empty(n, np.int64), np.empty(n, np.float64))
    contestant.start(stream.warm)
    track.views.append(contestant.view())
    for window in windows(stream):
        for start in range(window.start, window.stop, batch_rows):
            batch = slice(start, min(start + batch_rows, window.stop))
            z = stream.rows[batch]
            own, track.gaps[batch] = contestant.score(z)
            track.groups[batch] = contestant.ids[own]
            track.interventions += contestant.learn(z)
        track.views.append(contestant.view())
    return track


def windows(stream: Stream) -> list[slice]:
    """Consecutive, whole."""
    w = stream.window_rows
    return [slice(start, start + w) for start in range(0, len(stream.rows) - w + 1, w)]


def measured(stream: Stream, track: Track, best: F64, truth: Track | None) -> dict[str, float]:
    """All measures; `best` (windows,) is the least sum of squares of each window. nan: not defined here."""
    cut = windows(stream)
    pairs = [(track.groups[w], stream.labels[w]) for w in cut]
    ssq = np.array([track.gaps[w].sum() for w in cut])
    return {
        "ari": _mean([adjusted_rand(a, b) for a, b in pairs]),
        "nmi": _mean([normalised_mutual_information(a, b) for a, b in pairs]),
        "ssq": float((ssq / best).mean()),
        "ari_whole": adjusted_rand(track.groups, stream.labels) if track.views else float("nan"),
        "churn": churn(stream, track),
        "live": live(stream, track),
        "recovery": recovery(stream, track, truth),
        "interventions": track.interventions * 10_000 / len(stream.rows),
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def churn(stream: Stream, track: Track) -> float:
    """Share of rows whose group is called something else than a window ago."""
    if not track.views:
        return float("nan")
    shares = []
    for w, before, after in zip(windows(stream), track.views[:-1], track.views[1:], strict=True):
        now, then = _moved_back(stream, w)
        if len(now):
            shares.append(float((after.groups(now) != before.groups(then)).mean()))
    return _mean(shares)


def _moved_back(stream: Stream, window: slice) -> tuple[F64, F64]:
    """Rows of groups that live all through the window: as at its end, and as at its start (n, d) each."""
    z = stream.rows[window].astype(np.float64)
    truth = stream.truth
    if truth is None:
        return z, z
    at = np.arange(window.start, window.stop)
    groups = stream.labels[window]
    stay = (truth.born[groups] <= window.start) & (truth.died[groups] >= window.stop)
    groups, at, z = groups[stay], at[stay], z[stay]
    own = z - truth.centre_of(groups, at)
    first, last = np.full_like(at, window.start), np.full_like(at, window.stop)
    return own + truth.centre_of(groups, last), own + truth.centre_of(groups, first)


def live(stream: Stream, track: Track) -> float:
    """Share of the centres in use at a window's start that won enough of its rows; mean over windows."""
    if not track.views:
        return float("nan")
    shares = []
    for w, view in zip(windows(stream), track.views, strict=False):
        _, won = np.unique(track.groups[w], return_counts=True)
        enough = LIVE_SHARE * (w.stop - w.start) / len(view)
        shares.append(min(float((won >= enough).sum()) / len(view), 1.0))
    return _mean(shares)


def recovery(stream: Stream, track: Track, truth: Track | None) -> float:
    """Rows from a change until as near as the true centres again; nan without changes or without truth."""
    if truth is None or not stream.changes:
        return float("nan")
    ends = [*stream.changes[1:], len(stream.rows)]
    took = [_recovery(track, truth, start, end) for start, end in zip(stream.changes, ends, strict=True)]
    return _mean([float(rows) for rows in took])


def _recovery(track: Track, truth: Track, start: int, end: int) -> int:
    ours, theirs = (np.concatenate([[0.0], np.cumsum(one.gaps[start:end])]) for one in (track, truth))
    span = min(RECOVERY_ROWS, end - start)
    ratio = (ours[span:] - ours[:-span]) / (theirs[span:] - theirs[:-span])  # of the `span` rows from i on
    good = np.flatnonzero(ratio <= RECOVERED)
    return int(good[0]) if len(good) else end - start
