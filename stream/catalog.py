"""What each segment is: means of its members' rows, what it takes to, a name, who stands for it, how it is doing.

Means speak of the last day or so, and every user weighs about the same in them, however often it is seen (see
`means.py`). All rows that a step scored are learned: the silent users are part of what a segment is. Before
the first row of a segment its mean is the population's.

A segment that has just come to be is known by the rows nearest to it, until enough rows of members are there
(`_YOUNG_ROWS`); then its name is looked at again at once.

The parts: `traits` what sets it apart, `names` what it is called, `labels` what it takes to, `exemplars` who is
typical of it, `vitals` cohesion, age and trend, `hierarchy` which segments are near.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .config import Membership as MembershipConfig
from .events import CHANNELS, F64, I32, I64, Bool, Events, Scored
from .exemplars import Exemplar, Exemplars
from .hierarchy import Hierarchy
from .labels import Labels, Taste
from .means import Means, Sightings
from .names import EN, TASTES_MAX, Names, SegmentNames
from .ports import Intervention, State
from .traits import Trait, Traits
from .vitals import Vital, Vitals

TRAITS_MAX = 6
EVERY_MS = 86_400_000
"""Of stream time: a profile is never older, as long as there are steps."""

_YOUNG_ROWS = 100.0
_NOT_TAKEN_TO = tuple(CHANNELS.index(name) for name in ("impression", "login"))


@dataclass(frozen=True, slots=True)
class Profile:
    """A segment as people may read it."""

    centre: int
    segment_id: int
    name: str  # English
    size: int  # users
    share: float  # of all users in segments, 0..1
    rows: float  # rows its means rest on; those of yesterday count half
    traits: tuple[Trait, ...]  # strongest first
    takes_to: tuple[Taste, ...]  # strongest first
    names: Mapping[str, str]  # language -> name
    name_source: str  # generated or operator
    vital: Vital
    exemplars: tuple[Exemplar, ...]  # most typical first
    groups: Mapping[str, str]  # level of the hierarchy -> group
    nearest: int | None  # the segment most like it; None where there is no other


class Catalog:
    def __init__(self, config: MembershipConfig, k: int, names: Sequence[str]) -> None:
        self.features = tuple(names)  # (d,) feature names
        self.raw = Means(k, len(names))
        self.scaled = Means(k, len(names))
        self.sightings = Sightings()
        self.traits = Traits(names, self.raw, self.scaled)
        self.labels = Labels(k, config.catalog_every_rows)
        self.titles = SegmentNames(k, self.traits, self.labels)
        self.vitals = Vitals(k)
        self.exemplars = Exemplars(k, len(names))
        self.hierarchy = Hierarchy(k, len(names))
        self.hidden: frozenset[int] = frozenset()  # segment ids whose names and means are not for people
        self._rows: F64 = np.zeros(k)  # behind the means, fading like them
        self._young: Bool = np.zeros(k, np.bool_)  # (k,) centres whose segment has few members' rows yet
        self._every_rows = config.catalog_every_rows
        self._rows_since = 0
        self._refreshed_ms = 0
        self._ids: I64 = np.zeros(k, np.int64)
        self._sizes: I64 = np.zeros(k, np.int64)
        self._groups: dict[int, dict[str, str]] = {}
        self._nearest: Mapping[int, int] = {}

    @property
    def interest(self) -> Bool:
        """(d,) which features belong to the interest family."""
        return self.traits.interest

    @property
    def quantities(self) -> list[str]:
        """(q,) what features measure, whatever their horizon."""
        return self.traits.quantities

    @property
    def quantity_of(self) -> I64:
        """(d,) index into `quantities`."""
        return self.traits.quantity_of

    @property
    def segment_names(self) -> list[str]:
        """(k,) English names by centre, as of the last refresh; "" where there is no segment."""
        return self.titles.english

    @property
    def due(self) -> bool:
        """Whether enough was learned since the last refresh, of all or of a young segment, or a name asked for.

        Or a day has passed: a small site would else be told who its users were months ago.
        """
        grown = self._young & (self._rows >= _YOUNG_ROWS)
        old = self.vitals.now_ms - self._refreshed_ms >= EVERY_MS
        return self._rows_since >= self._every_rows or old or self.titles.asked or bool(grown.any())

    def intervene(self, interventions: Sequence[Intervention], ids: I64) -> None:
        """Centres stand for `ids` (k,) now: what was known of one given up belongs to its heir."""
        for one in interventions:
            if one.ends:
                self._give_up(one.centre, one.into)
            if one.begins:
                self._young[one.centre] = True
        self.hierarchy.intervene(interventions, ids)

    def _give_up(self, centre: int, heir: int) -> None:
        for part in (self.raw, self.scaled, self.labels, self.vitals):
            part.hand_over(centre, heir)
        self._rows[heir] += self._rows[centre]
        self._rows[centre] = 0.0
        self.titles.give_up(centre)
        self.exemplars.give_up(centre)
        self._ids[centre] = 0
        self._young[centre] = False

    def names(self) -> Names:
        """Segment id -> name, as of the last refresh; those given up lately have their last one."""
        known = self.titles.known()
        return Names({i: name for i, name in known.items() if i not in self.hidden}) if self.hidden else known

    def rename(self, segment_id: int, names: Mapping[str, str] | None) -> str:
        """Let a segment have an operator's names, by language; None takes them back. Shows at the next refresh.

        Returns "" when it is done, else what is wrong; nothing has changed then.
        """
        return self.titles.rename(segment_id, names)

    def clear(self, slots: I32) -> None:
        """Forget what is kept of these users as persons; what they did stays in the means."""
        self.exemplars.clear(slots)
        self.sightings.clear(slots)

    def learn(self, centre_by_slot: I32, slots: I32, events: Events, scored: Scored) -> None:
        """Learn the scored rows by the segment their users are in, and the labels of their events.

        `slots` (n,) are the users of the events.
        """
        kept = self.sightings.advance(events.time_ms)
        for part in (self.raw, self.scaled, self.vitals):
            part.fade(kept)
        self._rows *= kept
        centres = centre_by_slot[scored.slots]  # (m,)
        placed = centres >= 0
        self.exemplars.learn(scored, centres)
        centres = np.where(self._young[scored.nearest], scored.nearest, centres)
        if not placed.any():
            return
        weights = self.sightings.weigh(scored.slots[placed], len(centre_by_slot))
        self.raw.learn(scored.raw[placed], centres[placed], weights)
        self.scaled.learn(scored.x[placed], centres[placed], weights)
        self.vitals.learn(scored.distances[placed], centres[placed], weights)
        self._rows += np.bincount(centres[placed], minlength=len(self._rows))
        touched = int(placed[: scored.touched].sum())
        self._rows_since += touched
        wanted = (events.sign > 0) & ~np.isin(events.channel, _NOT_TAKEN_TO)
        event_centres = np.where(wanted, centre_by_slot[slots], -1).astype(np.int32)
        self.labels.learn(events.labels, slots, event_centres, touched)

    def watch(self, ids: I64, sizes: I64, now_ms: int) -> None:
        """Sizes `sizes` (k,) of the segments `ids` (k,) after a step."""
        self.vitals.watch(ids, sizes, now_ms)

    def refresh(self, ids: I64, sizes: I64, now_ms: int, centre_by_slot: I32) -> list[Profile]:
        """Profiles of all segments as of `now_ms`, which `watch` has seen; names and hierarchy are brought up to date.

        `ids`, `sizes` (k,) by centre; id 0: none. `centre_by_slot` says where every user is.
        """
        self._ids, self._sizes, self._rows_since = ids.copy(), sizes.copy(), 0
        self._young &= self._rows < _YOUNG_ROWS
        self._refreshed_ms = now_ms
        self.titles.refresh(ids)
        self.hierarchy.build(ids, sizes, self.scaled.known())
        self._relate()
        profiles = [self.profile(centre, centre_by_slot) for centre in np.flatnonzero(ids).tolist()]
        self.exemplars.age()
        return profiles

    def _relate(self) -> None:
        self._groups, self._nearest = self.hierarchy.groups(), self.hierarchy.nearest()

    def profile(self, centre: int, centre_by_slot: I32 | None = None) -> Profile:
        """What is known of a segment now; size, names and relations are those of the last refresh.

        Without `centre_by_slot` nobody stands for it.
        """
        total = int(self._sizes.sum())
        segment_id, size = int(self._ids[centre]), int(self._sizes[centre])
        names = self.titles.of(centre)
        return Profile(
            centre=centre,
            segment_id=segment_id,
            name=names[EN],
            size=size,
            share=size / total if total else 0.0,
            rows=float(self._rows[centre]),
            traits=self.traits.strongest(centre, TRAITS_MAX),
            takes_to=tuple(self.labels.tastes(centre, TASTES_MAX)),
            names=names,
            name_source=self.titles.source(centre),
            vital=self.vitals.of(centre),
            exemplars=() if centre_by_slot is None else self.exemplars.of(centre, size, centre_by_slot),
            groups=self._groups.get(segment_id, {}),
            nearest=self._nearest.get(segment_id),
        )

    def snapshot(self) -> State:
        parts = {name: getattr(self, name).snapshot() for name in _PARTS}
        return parts | {
            "rows": self._rows.copy(),
            "rows_since": self._rows_since,
            "refreshed_ms": self._refreshed_ms,
            "hidden": np.array(sorted(self.hidden), np.int64),
            "ids": self._ids.copy(),
            "sizes": self._sizes.copy(),
            "young": self._young.copy(),
        }

    def restore(self, state: State) -> None:
        for name in _PARTS:
            getattr(self, name).restore(state[name])
        self._rows, self._rows_since = state["rows"].copy(), int(state["rows_since"])
        self._refreshed_ms = int(state["refreshed_ms"])
        self.hidden = frozenset(state["hidden"].tolist())
        self._ids, self._sizes = state["ids"].copy(), state["sizes"].copy()
        self._young = state["young"].copy()
        self._relate()


_PARTS = ("raw", "scaled", "sightings", "labels", "titles", "vitals", "exemplars", "hierarchy")
