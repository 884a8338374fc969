"""Behaviour events of a shop, with known truth: who is which persona when, and what was planted.

    personas -> visits of a day -> events of the visits -> mishaps -> records in order of arrival

Everything is drawn from one seed by np.random.Generator; there is no I/O. Days are made one at a time, so
memory holds one day of events. People, behaviour and mishaps have generators of their own: asking for
duplicates does not change what anybody does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..events import I64
from ..ports import InputError
from .mishaps import DUPLICATE, FAULTS, FIRST_REJECT, befall, tally
from .personas import Tables, catalogue
from .population import DAY_MS, Population, Settings, Span, midnight
from .shop_events import ROW, Writer
from .visits import Visits

BATCH = 8192
DAYS = 21.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in order of arrival."""

    arrival_ms: I64  # (n,)
    keys: list[bytes]
    values: list[bytes | None]  # None: a tombstone


@dataclass(frozen=True, slots=True)
class Planted:
    """What a simulation emitted so far: what a pipeline that loses nothing must count."""

    records: int = 0
    duplicates: int = 0
    late: int = 0
    future: int = 0
    absurd: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)  # reason -> count
    end_ms: int = 0  # arrival of the last record

    @property
    def accepted(self) -> int:
        return self.records - self.duplicates - self.late - sum(self.rejected.values())

    def as_dict(self) -> dict[str, object]:
        return {
            "records": self.records,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "late": self.late,
            "future": self.future,
            "clamped": self.absurd,
            "rejected": dict(self.rejected),
        }


class Simulator:
    """`batches()` gives the records, `truth()` who was who, `planted` what has been emitted so far."""

    def __init__(self, settings: Settings) -> None:
        _check(settings)
        self.settings = settings
        self._shop = catalogue()
        self.days, self._scale = _span(settings)
        self.planted = Planted()

    def batches(self, size: int = BATCH) -> Iterator[Batch]:
        """All records from the start, at most `size` at a time. Calling it again begins anew."""
        self.planted = Planted()
        left = self.settings.events
        writer = Writer(Population(self.settings, self.days), self._shop)
        for rows in self._days():
            rows = rows[:left]
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                self._count(part)
                yield Batch(part["arrival_ms"].copy(), *writer.write(part))
            if left is not None:
                left -= len(rows)
                if left <= 0:
                    return

    def truth(self) -> list[Span]:
        """The spans of every user until the last record emitted, or the planned end where none was yet."""
        end_ms = self.planted.end_ms or midnight(self.settings.start_ms) + round(self.days * DAY_MS)
        return Population(self.settings, self.days).truth(end_ms + 1)

    def _days(self) -> Iterator[np.ndarray]:
        """Rows in order of arrival, a day at a time; what arrives after midnight waits for the next day."""
        settings = self.settings
        population = Population(settings, self.days)
        behaviour = np.random.default_rng([settings.seed, 2])
        luck = np.random.default_rng([settings.seed, 3])
        start_ms = midnight(settings.start_ms)
        end_ms = start_ms + round(self.days * DAY_MS) if settings.events is None else None
        visits = Visits(settings, population, self._shop, self._scale, self.days)
        first_day = replace(settings, late=0.0)  # nobody is late before somebody was in time
        waiting = np.empty(0, ROW)
        day = 0
        while end_ms is None or start_ms + day * DAY_MS < end_ms:
            population.advance(day)
            fresh = befall(visits.of_day(day, behaviour), settings if day else first_day, luck)
            rows = np.concatenate([waiting, fresh])
            rows = rows[np.argsort(rows["arrival_ms"], kind="stable")]
            until_ms = start_ms + (day + 1) * DAY_MS
            cut = int(np.searchsorted(rows["arrival_ms"], min(until_ms, end_ms or until_ms)))
            yield rows[:cut]
            waiting = rows[cut:]
            day += 1

    def _count(self, rows: np.ndarray) -> None:
        seen = tally(rows["fault"])
        before = self.planted
        rejects = {name: seen.get(name, 0) for name in FAULTS[FIRST_REJECT:]}
        total = {name: before.rejected.get(name, 0) + count for name, count in rejects.items()}
        self.planted = Planted(
            before.records + len(rows),
            before.duplicates + seen.get(FAULTS[DUPLICATE], 0),
            before.late + seen.get("late", 0),
            before.future + seen.get("future", 0),
            before.absurd + seen.get("absurd", 0),
            {name: count for name, count in total.items() if count},
            int(rows["arrival_ms"][-1]),
        )


def _span(settings: Settings) -> tuple[float, float]:
    """(days, activity scale) that `events` and `days` ask for."""
    if settings.events is None:
        return settings.days or DAYS, 1.0
    per_day = _events_per_day(settings) * (1.0 + settings.duplicates)
    if settings.days is None:
        return max(1.0, settings.events / per_day), 1.0
    return settings.days, settings.events / (settings.days * per_day)


def _events_per_day(settings: Settings) -> float:
    """Expected number of events of all users on a mean day."""
    population = Population(settings, 1.0)
    tables = Tables.of(population.all_personas)
    n = tables.scalars
    cart = n["cart"] * n["cart_items"] * (1.0 + n["remove"]) + n["cart"] * n["buy"] * (
        2.0 + n["rate"] + n["refund"]
    )
    length = n["login"] + n["browse_events"] + cart  # (P,) events a visit
    return float(population.rates(tables.visits.mean(1) * length).sum())


def _check(settings: Settings) -> None:
    """Raises InputError where the settings contradict themselves."""
    shares = {
        name: getattr(settings, name)
        for name in ("boundary", "anonymous", "stray", "duplicates", "late", "future", "absurd")
    }
    shares |= {"drift_share": settings.drift_share, "drift_at": settings.drift_at, **dict(settings.corrupt)}
    for name, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise InputError(f"simulation: {name} = {share}: wanted a share from 0 to 1")
    for name, _ in settings.corrupt:
        if name not in FAULTS[FIRST_REJECT:]:
            raise InputError(
                f"simulation: corrupt {name!r}: known kinds are {', '.join(FAULTS[FIRST_REJECT:])}"
            )
    if settings.users < 1 or not 0 <= settings.bots <= settings.users:
        raise InputError(
            f"simulation: {settings.users} users, {settings.bots} of them bots: wanted 1 or more"
        )
    if not 0 <= settings.deaths < len(settings.personas):
        raise InputError(
            f"simulation: {settings.deaths} deaths among {len(settings.personas)} personas: one must survive"
        )
    wrong = settings.duplicates + settings.late + settings.future + settings.absurd
    if wrong + sum(share for _, share in settings.corrupt) > 0.5:
        raise InputError("simulation: over half of the records would be duplicates or faulty: ask for less")
    if settings.drift not in ("none", "slow", "abrupt"):
        raise InputError(f"simulation: drift {settings.drift!r}: wanted slow, abrupt or none")
