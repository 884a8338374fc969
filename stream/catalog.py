"""What each segment is: means of its members' rows, what it takes to, and a name.

Means speak of the last day or so, and every user weighs about the same in them, however often it is seen (see
`means.py`). All rows that a step scored are learned: the silent users are part of what a segment is. Before
the first row of a segment its mean is the population's.

A segment that has just come to be is known by the rows nearest to it, until enough rows of members are there
(`_YOUNG_ROWS`); then its name is looked at again at once.

What a profile says must be true and notable: a difference that stands out among users (z) and in the plain
numbers too (`naming.notable`). A name says first what other segments have not got.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .config import Membership as MembershipConfig
from .events import CHANNELS, F64, I32, I64, Bool, Events, Scored
from .labels import Labels, Taste
from .means import Means, Sightings
from .naming import compose, family, notable, phrase, quantity
from .ports import Intervention, State

TRAITS_MAX = 6
TASTES_MAX = 5
INTEREST = "interest_"
_Z_MIN = 0.3  # below this, a difference is not worth a word
_DEVIATION_MIN = 1e-3  # of a scaled feature: below it is near-constant
_NAME_LIFT = 1.5  # a label this much over-represented becomes part of the name
_RENAME_LIFT = 3.0  # and this much, of a name that was given before the label was known
_YOUNG_ROWS = 100.0
FORMER_MAX = 256
"""Names of given-up segments that are remembered for those who still have to be told."""
_NOT_TAKEN_TO = tuple(CHANNELS.index(name) for name in ("impression", "login"))


@dataclass(frozen=True, slots=True)
class Trait:
    """A feature that sets a segment apart."""

    feature: str
    z: float  # (segment mean - population mean) / population deviation, of the scaled feature
    segment_mean: float  # in the feature's own unit
    population_mean: float


@dataclass(frozen=True, slots=True)
class Profile:
    """A segment as people may read it."""

    centre: int
    segment_id: int
    name: str
    size: int  # users
    share: float  # of all users in segments, 0..1
    rows: float  # rows its means rest on; those of yesterday count half
    traits: tuple[Trait, ...]  # strongest first
    takes_to: tuple[Taste, ...]  # strongest first


class Names(dict[int, str]):
    """Segment id -> name. A segment that came and went between two refreshes was never given one."""

    def __missing__(self, segment_id: int) -> str:
        return f"segment {segment_id}"


class Catalog:
    def __init__(self, config: MembershipConfig, k: int, names: Sequence[str]) -> None:
        self.features = tuple(names)  # (d,) feature names
        self.interest: Bool = np.array([name.startswith(INTEREST) for name in names], np.bool_)
        self.quantities = list(dict.fromkeys(map(quantity, names)))  # (q,)
        self.quantity_of: I64 = np.array(
            [self.quantities.index(quantity(n)) for n in names], np.int64
        )  # (d,)
        self.raw = Means(k, len(names))
        self.scaled = Means(k, len(names))
        self.sightings = Sightings()
        self._rows: F64 = np.zeros(k)  # behind the means, fading like them
        self.labels = Labels(k, config.catalog_every_rows)
        self.segment_names = [""] * k  # by centre; "" before the first refresh, and where there is no segment
        self._former: dict[int, str] = {}  # segment id -> its last name, once it was given up
        self._young: Bool = np.zeros(k, np.bool_)  # (k,) centres whose segment has few members' rows yet
        self._reasons = [""] * k  # what each name says, as "+purchase" or "-money" or "=label", by "\n"
        self._every_rows = config.catalog_every_rows
        self._rows_since = 0
        self._ids: I64 = np.zeros(k, np.int64)
        self._sizes: I64 = np.zeros(k, np.int64)

    @property
    def due(self) -> bool:
        """Whether enough was learned since the last refresh: of everybody, or of a segment that is young."""
        grown = self._young & (self._rows >= _YOUNG_ROWS)
        return self._rows_since >= self._every_rows or bool(grown.any())

    def intervene(self, interventions: Sequence[Intervention]) -> None:
        """Centres stand for something else now: what was known of one given up belongs to its heir."""
        for one in interventions:
            if one.ends:
                self._give_up(one.centre, one.into)
            if one.begins:
                self._young[one.centre] = True

    def _give_up(self, centre: int, heir: int) -> None:
        for part in (self.raw, self.scaled, self.labels):
            part.hand_over(centre, heir)
        self._rows[heir] += self._rows[centre]
        self._rows[centre] = 0.0
        if self.segment_names[centre]:
            self._former[int(self._ids[centre])] = self.segment_names[centre]
        for segment_id in list(self._former)[:-FORMER_MAX]:
            del self._former[segment_id]
        self.segment_names[centre] = self._reasons[centre] = ""
        self._ids[centre] = 0
        self._young[centre] = False

    def names(self) -> Names:
        """Segment id -> name, as of the last refresh; those given up lately have their last one."""
        pairs = zip(self._ids.tolist(), self.segment_names, strict=True)
        return Names(self._former | {segment_id: name for segment_id, name in pairs if segment_id})

    def learn(self, centre_by_slot: I32, slots: I32, events: Events, scored: Scored) -> None:
        """Learn the scored rows by the segment their users are in, and the labels of their events.

        `slots` (n,) are the users of the events.
        """
        kept = self.sightings.advance(events.time_ms)
        self.raw.fade(kept)
        self.scaled.fade(kept)
        self._rows *= kept
        centres = centre_by_slot[scored.slots]  # (m,)
        placed = centres >= 0
        centres = np.where(self._young[scored.nearest], scored.nearest, centres)
        if not placed.any():
            return
        weights = self.sightings.weigh(scored.slots[placed], len(centre_by_slot))
        self.raw.learn(scored.raw[placed], centres[placed], weights)
        self.scaled.learn(scored.x[placed], centres[placed], weights)
        self._rows += np.bincount(centres[placed], minlength=len(self._rows))
        touched = int(placed[: scored.touched].sum())
        self._rows_since += touched
        wanted = (events.sign > 0) & ~np.isin(events.channel, _NOT_TAKEN_TO)
        event_centres = np.where(wanted, centre_by_slot[slots], -1).astype(np.int32)
        self.labels.learn(events.labels, slots, event_centres, touched)

    def refresh(self, ids: I64, sizes: I64) -> list[Profile]:
        """Profiles of all segments, with names brought up to date. `ids`, `sizes` (k,) by centre; id 0: none.

        A name is kept while what it says still holds, if more weakly: subscribers see few renamings.
        """
        self._ids, self._sizes, self._rows_since = ids.copy(), sizes.copy(), 0
        self._young &= self._rows < _YOUNG_ROWS
        live = np.flatnonzero(ids).tolist()
        z = self._z(self.scaled.known())
        for centre in live:
            if not self._still_true(centre, z[centre]):
                self.segment_names[centre] = ""
        strength = standing(z)
        for centre in live:
            if not self.segment_names[centre]:
                self._name(centre, z[centre], strength[centre])
        return [self.profile(centre) for centre in live]

    def profile(self, centre: int) -> Profile:
        """What is known of a segment now; its size is that of the last refresh."""
        z, raw_mean = self._z(self.scaled.of(centre)), self.raw.of(centre)
        order = np.argsort(-np.abs(z), kind="stable")
        strongest: dict[int, int] = {}  # quantity -> the feature that shows it best
        for j in order[self._worth_a_word(centre, z, 1.0)[order]].tolist():
            strongest.setdefault(int(self.quantity_of[j]), j)
        traits = [
            Trait(self.features[j], float(z[j]), float(raw_mean[j]), float(self.raw.population_mean[j]))
            for j in list(strongest.values())[:TRAITS_MAX]
        ]
        total = int(self._sizes.sum())
        return Profile(
            centre=centre,
            segment_id=int(self._ids[centre]),
            name=self.segment_names[centre],
            size=int(self._sizes[centre]),
            share=int(self._sizes[centre]) / total if total else 0.0,
            rows=float(self._rows[centre]),
            traits=tuple(traits),
            takes_to=tuple(self.labels.tastes(centre, TASTES_MAX)),
        )

    def _z(self, means: F64) -> F64:
        """(..., d) how far means stand from the population's; 0 for interest and near-constant features."""
        deviation = np.sqrt(self.scaled.population_variance)
        useful = ~self.interest & (deviation > _DEVIATION_MIN)
        gap = means - self.scaled.population_mean
        return np.where(useful, gap / np.where(useful, deviation, 1.0), 0.0)

    def _worth_a_word(self, centre: int, z: F64, strictness: float) -> Bool:
        """(d,) features in which a segment stands out by z (d,), and in its plain numbers the same way."""
        own, average = self.raw.of(centre), self.raw.population_mean
        plain = [
            notable(feature, here, usual, strictness)
            for feature, here, usual in zip(self.features, own.tolist(), average.tolist(), strict=True)
        ]
        return (np.abs(z) >= strictness * _Z_MIN) & ((own - average) * z > 0) & np.array(plain, np.bool_)

    def _name(self, centre: int, z: F64, strength: F64) -> None:
        """A name from z and strength (d,): what people do says more than what they do not."""
        order = np.argsort(-np.where(z > 0, strength, strength / 2), kind="stable")
        strong: dict[str, int] = {}  # family -> its strongest feature
        for j in order[self._worth_a_word(centre, z, 1.0)[order]].tolist():
            strong.setdefault(family(self.features[j]), j)
        phrases = list(dict.fromkeys(phrase(self.features[j], z[j]) for j in strong.values()))
        tastes = self.labels.tastes(centre, 1)
        label = tastes[0].label if tastes and tastes[0].lift >= _NAME_LIFT else ""
        name, used = compose(phrases, label, int(self._ids[centre]), self.segment_names)
        reasons = [
            f"{'+' if z[j] > 0 else '-'}{what}"
            for what, j in strong.items()
            if phrase(self.features[j], z[j]) in phrases[:used]
        ]
        self.segment_names[centre] = name
        self._reasons[centre] = "\n".join(reasons + ([f"={label}"] if label else []))

    def _still_true(self, centre: int, z: F64) -> bool:
        """Whether everything the segment's name says holds at half the strength it took to say it."""
        reasons = self._reasons[centre].split("\n") if self._reasons[centre] else []
        if not reasons or not self.segment_names[centre]:
            return False
        tastes = self.labels.tastes(centre, TASTES_MAX)
        if tastes and tastes[0].lift >= _RENAME_LIFT and not any(r.startswith("=") for r in reasons):
            return False
        liked = [f"={taste.label}" for taste in tastes]
        signs = {
            f"{'+' if z[j] > 0 else '-'}{family(self.features[j])}"
            for j in np.flatnonzero(self._worth_a_word(centre, z, 0.5)).tolist()
        }
        return all(reason in liked or reason in signs for reason in reasons)

    def snapshot(self) -> State:
        return {
            "raw": self.raw.snapshot(),
            "scaled": self.scaled.snapshot(),
            "sightings": self.sightings.snapshot(),
            "rows": self._rows.copy(),
            "labels": self.labels.snapshot(),
            "segment_names": list(self.segment_names),
            "reasons": list(self._reasons),
            "rows_since": self._rows_since,
            "ids": self._ids.copy(),
            "sizes": self._sizes.copy(),
            "former_ids": np.array(list(self._former), np.int64),
            "former_names": list(self._former.values()),
            "young": self._young.copy(),
        }

    def restore(self, state: State) -> None:
        self.raw.restore(state["raw"])
        self.scaled.restore(state["scaled"])
        self.sightings.restore(state["sightings"])
        self._rows = state["rows"].copy()
        self.labels.restore(state["labels"])
        self.segment_names = list(state["segment_names"])
        self._reasons = list(state["reasons"])
        self._rows_since = int(state["rows_since"])
        self._ids, self._sizes = state["ids"].copy(), state["sizes"].copy()
        self._former = dict(zip(state["former_ids"].tolist(), state["former_names"], strict=True))
        self._young = state["young"].copy()


def standing(z: F64) -> F64:
    """(k, d) |z|, but less where another segment stands out the same way: half where it does as much.

    >>> standing(np.array([[1.0, 2.0], [1.0, 0.0], [-3.0, 0.0]])).tolist()
    [[0.5, 2.0], [0.5, 0.0], [3.0, 0.0]]
    """
    strength = np.zeros_like(z)
    for side in (np.maximum(z, 0.0), np.maximum(-z, 0.0)):  # (k, d) each
        first = side.argmax(axis=0)  # (d,)
        columns = np.arange(z.shape[1])
        others = side.copy()
        others[first, columns] = 0.0
        rival = np.broadcast_to(side[first, columns], z.shape).copy()
        rival[first, columns] = others.max(axis=0)
        strength += np.where(side > 0, side * side / np.where(side > 0, side + rival, 1.0), 0.0)
    return strength
