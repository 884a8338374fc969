"""What Shoal must reach on each stream, and whether it did. A goal compares means over the same seeds.

ssq            at most 1.05 times the windows' optimum where nothing jumps, 1.10 times where groups end and begin
ari, offline   at least the offline optimum's less 0.02
ari, X; ssq, X not behind X (River tuned and warm-started, Spark's rule); `TIE` less is still level
live           at least 95 % of the centres win rows
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

JUDGED = "shoal"
SSQ_MOST = {"static": 1.05, "slow": 1.05, "imbalanced": 1.05, "abrupt": 1.10, "births": 1.10}
ARI_LESS = 0.02
LIVE_LEAST = 0.95
RIVALS = ("river-tuned", "spark")
TIE = 0.005
"""Half a percent: five seeds cannot tell less apart."""


def tally(goals: Sequence[Mapping[str, Any]]) -> str:
    """How many goals were reached."""
    return f"Goals: {sum(goal['reached'] for goal in goals)} of {len(goals)} reached."


Row = dict[str, dict[str, dict[str, Any]]]  # contestant -> measure -> mean, all


def judged(table: dict[str, Row], changes: dict[str, str]) -> list[dict[str, Any]]:
    """Every goal of every stream whose contestants are there; `changes` says which kind each stream is."""
    return [goal for name, row in table.items() if JUDGED in row for goal in _of(name, row, changes[name])]


def _of(name: str, row: Row, change: str) -> list[dict[str, Any]]:
    goals = []
    if change in SSQ_MOST:
        goals.append(_at_most(name, "ssq", _mean(row, JUDGED, "ssq"), SSQ_MOST[change]))
    ari = _mean(row, JUDGED, "ari")
    if "offline" in row:
        goals.append(_at_least(name, "ari, offline", ari, _mean(row, "offline", "ari") - ARI_LESS))
    for rival in RIVALS:
        if rival in row:
            goals.append(_at_least(name, f"ari, {rival}", ari, _mean(row, rival, "ari") - TIE))
            most = _mean(row, rival, "ssq") * (1 + TIE)
            goals.append(_at_most(name, f"ssq, {rival}", _mean(row, JUDGED, "ssq"), most))
    goals.append(_at_least(name, "live", _mean(row, JUDGED, "live"), LIVE_LEAST))
    return goals


def _mean(row: Row, who: str, measure: str) -> float:
    return float(row[who][measure]["mean"])


def _at_least(stream: str, goal: str, got: float, wanted: float) -> dict[str, Any]:
    return {"stream": stream, "goal": goal, "got": got, "at_least": wanted, "reached": got >= wanted}


def _at_most(stream: str, goal: str, got: float, wanted: float) -> dict[str, Any]:
    return {"stream": stream, "goal": goal, "got": got, "at_most": wanted, "reached": got <= wanted}
