"""How well segments match a known truth: who is where, and whether that is where their kind is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..quality import adjusted_rand
from ..simulation.population import Span


@dataclass(frozen=True, slots=True)
class Match:
    """Segments against personas, both as they are at the end."""

    users: int  # in a segment, and in the truth
    adjusted_rand: float  # over all of them; a mixture counts as its first persona
    users_clear: int  # neither bots nor mixtures of two personas
    adjusted_rand_clear: float
    table: Mapping[str, Mapping[int, int]]  # persona -> segment id -> users; without mixtures
    together: Mapping[str, float]  # persona -> share of its users in the segment that holds most of them
    purity: Mapping[int, float]  # segment id -> share of its users that are of its largest persona
    changed: int  # users who changed persona on the way
    followed: int  # of these, how many are now in the segment that holds most of their new persona

    def as_dict(self) -> dict[str, Any]:
        return {
            "users": self.users,
            "adjusted_rand": self.adjusted_rand,
            "users_clear": self.users_clear,
            "adjusted_rand_clear": self.adjusted_rand_clear,
            "together": dict(self.together),
            "purity": {str(segment): share for segment, share in self.purity.items()},
            "table": {persona: {str(s): n for s, n in row.items()} for persona, row in self.table.items()},
            "changed": self.changed,
            "followed": self.followed,
        }


def compare(segments: Mapping[str, int], truth: Sequence[Span]) -> Match:
    """`segments`: user id -> segment id. The latest span of each user counts; users without a segment do not."""
    latest = {span.user_id: span for span in truth}
    spans = Counter(span.user_id for span in truth)
    placed = [span for user, span in latest.items() if user in segments]
    clear = [span for span in placed if not (span.boundary or span.bot)]
    rows: dict[str, Counter[int]] = {}
    columns: dict[int, Counter[str]] = {}
    for span in placed:
        if not span.boundary:
            segment = segments[span.user_id]
            rows.setdefault(span.persona, Counter())[segment] += 1
            columns.setdefault(segment, Counter())[span.persona] += 1
    home = {persona: _most(row) for persona, row in rows.items()}
    changed = [span for span in clear if spans[span.user_id] > 1]
    return Match(
        users=len(placed),
        adjusted_rand=_agreement(placed, segments),
        users_clear=len(clear),
        adjusted_rand_clear=_agreement(clear, segments),
        table={persona: dict(sorted(rows[persona].items())) for persona in sorted(rows)},
        together={persona: rows[persona][home[persona]] / rows[persona].total() for persona in sorted(rows)},
        purity={
            segment: max(columns[segment].values()) / columns[segment].total() for segment in sorted(columns)
        },
        changed=len(changed),
        followed=sum(segments[span.user_id] == home[span.persona] for span in changed),
    )


def _most(row: Counter[int]) -> int:
    return min(row, key=lambda segment: (-row[segment], segment))


def _agreement(spans: Sequence[Span], segments: Mapping[str, int]) -> float:
    if len(spans) < 2:
        return 0.0
    codes: dict[str, int] = {}
    personas = [codes.setdefault(span.persona, len(codes)) for span in spans]
    found = [segments[span.user_id] for span in spans]
    return float(adjusted_rand(np.array(personas), np.array(found)))
