"""What each segment is: running means of its members' rows, what it takes to, and a name.

Means forget: each row counts fully until a segment has seen MEMORY_ROWS of them, and from then on new rows
fade the old ones out at that pace. Only rows of touched users are learned, once per step and user, like
everywhere else. Before the first row of a segment its mean is the population's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from .config import Membership as MembershipConfig
from .events import CHANNELS, F32, F64, I32, I64, Bool, Events, Scored
from .labels import Labels, Taste
from .naming import compose, family, phrase, quantity
from .ports import State

MEMORY_ROWS = 16_384
TRAITS_MAX = 6
TASTES_MAX = 5
INTEREST = "interest_"
_Z_MIN = 0.3  # below this, a difference is not worth a word
_DEVIATION_MIN = 1e-3  # of a scaled feature: below it is near-constant
_NAME_LIFT = 1.5  # a label this much over-represented becomes part of the name
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
    rows: float  # rows its means rest on, at most MEMORY_ROWS
    traits: tuple[Trait, ...]  # strongest first
    takes_to: tuple[Taste, ...]  # strongest first


class Means:
    """Running means of rows (., d) per group 0..k-1, and mean and variance over everybody."""

    def __init__(self, k: int, d: int) -> None:
        self.mean: F64 = np.zeros((k, d))
        self.weight: F64 = np.zeros(k)  # rows behind each mean
        self.population_mean: F64 = np.zeros(d)
        self.population_variance: F64 = np.zeros(d)
        self.population_weight = 0.0

    def learn(self, rows: F32, groups: I32) -> None:
        """Rows (t, d) of groups (t,), each 0..k-1."""
        counts = np.bincount(groups, minlength=len(self.weight)).astype(np.float64)  # (k,)
        self.weight = np.minimum(self.weight + counts, np.maximum(counts, MEMORY_ROWS))
        sums = group_sums(rows, groups, len(counts))  # (k, d)
        met = counts > 0
        step = (counts[met] / self.weight[met])[:, None]
        self.mean[met] += step * (sums[met] / counts[met][:, None] - self.mean[met])
        self._learn_population(rows, sums.sum(axis=0) / len(rows))

    def _learn_population(self, rows: F32, mean: F64) -> None:
        n = float(len(rows))
        self.population_weight = min(self.population_weight + n, max(n, MEMORY_ROWS))
        step = n / self.population_weight
        variance = np.square(rows - mean).mean(axis=0)
        gap = mean - self.population_mean
        self.population_mean = self.population_mean + step * gap
        kept = (1.0 - step) * (self.population_variance + step * gap * gap)
        self.population_variance = kept + step * variance

    def known(self) -> F64:
        """(k, d) group means, the population's where a group has no rows yet."""
        return np.where(self.weight[:, None] > 0, self.mean, self.population_mean)

    def snapshot(self) -> State:
        return {name: _copy(getattr(self, name)) for name in _MEANS_FIELDS}

    def restore(self, state: State) -> None:
        for name in _MEANS_FIELDS:
            setattr(self, name, _copy(state[name]))


_MEANS_FIELDS = ("mean", "weight", "population_mean", "population_variance", "population_weight")


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
        self.labels = Labels(k, config.catalog_every_rows)
        self.segment_names = [""] * k  # by centre; "" before the first refresh
        self._reasons = [""] * k  # what each name says, as "+purchase" or "-money" or "=label", by "\n"
        self._every_rows = config.catalog_every_rows
        self._rows_since = 0
        self._ids: I64 = np.zeros(k, np.int64)
        self._sizes: I64 = np.zeros(k, np.int64)

    @property
    def due(self) -> bool:
        """Whether `membership.catalog_every_rows` rows were learned since the last refresh."""
        return self._rows_since >= self._every_rows

    def learn(self, centre_by_slot: I32, slots: I32, events: Events, scored: Scored) -> None:
        """Learn the touched rows by the segment their users are in, and the labels of their events.

        `slots` (n,) are the users of the events. At the very start silent rows are learned too: there is
        nothing else to know a segment by.
        """
        t = scored.touched if self.scaled.population_weight else len(scored.slots)
        centres = centre_by_slot[scored.slots[:t]]  # (t,)
        placed = centres >= 0
        if not placed.any():
            return
        centres = centres[placed]
        self.raw.learn(scored.raw[:t][placed], centres)
        self.scaled.learn(scored.x[:t][placed], centres)
        self._rows_since += len(centres)
        wanted = (events.sign > 0) & ~np.isin(events.channel, _NOT_TAKEN_TO)
        event_centres = np.where(wanted, centre_by_slot[slots], -1).astype(np.int32)
        self.labels.learn(events.labels, slots, event_centres, len(centres))

    def refresh(self, ids: I64, sizes: I64) -> list[Profile]:
        """Profiles of all segments, with names brought up to date. `ids`, `sizes` (k,) by centre.

        A name is kept while what it says still holds, if more weakly: subscribers see few renamings.
        """
        self._ids, self._sizes, self._rows_since = ids.copy(), sizes.copy(), 0
        for centre in range(len(ids)):
            if not self._still_true(centre):
                self.segment_names[centre] = ""
        for centre in range(len(ids)):
            if not self.segment_names[centre]:
                self._name(centre)
        return [self.profile(centre) for centre in range(len(ids))]

    def profile(self, centre: int) -> Profile:
        """What is known of a segment now; its size is that of the last refresh."""
        z = self._z(centre)
        raw_mean = self.raw.known()[centre]
        order = [j for j in np.argsort(-np.abs(z), kind="stable").tolist() if abs(z[j]) >= _Z_MIN]
        strongest: dict[int, int] = {}  # quantity -> the feature that shows it best
        for j in order:
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
            rows=float(self.raw.weight[centre]),
            traits=tuple(traits),
            takes_to=tuple(self.labels.tastes(centre, TASTES_MAX)),
        )

    def _z(self, centre: int) -> F64:
        """(d,) how far the segment stands from the population; 0 for interest and near-constant features."""
        deviation = np.sqrt(self.scaled.population_variance)
        useful = ~self.interest & (deviation > _DEVIATION_MIN)
        gap = self.scaled.known()[centre] - self.scaled.population_mean
        return np.where(useful, gap / np.where(useful, deviation, 1.0), 0.0)

    def _families(self, centre: int) -> dict[str, tuple[str, float]]:
        """Feature family -> its strongest feature and z, strongest family first."""
        z = self._z(centre)
        found: dict[str, tuple[str, float]] = {}
        for j in np.argsort(-np.abs(z), kind="stable").tolist():
            found.setdefault(family(self.features[j]), (self.features[j], float(z[j])))
        return found

    def _name(self, centre: int) -> None:
        strong = [(f, *v) for f, v in self._families(centre).items() if abs(v[1]) >= _Z_MIN]
        strong.sort(
            key=lambda item: min(-item[2], item[2] / 2)
        )  # what they do says more than what they do not
        phrases = list(dict.fromkeys(phrase(feature, z) for _, feature, z in strong))
        tastes = self.labels.tastes(centre, 1)
        label = tastes[0].label if tastes and tastes[0].lift >= _NAME_LIFT else ""
        name, used = compose(phrases, label, int(self._ids[centre]), self.segment_names)
        reasons = [
            f"{'+' if z > 0 else '-'}{f}" for f, feature, z in strong if phrase(feature, z) in phrases[:used]
        ]
        self.segment_names[centre] = name
        self._reasons[centre] = "\n".join(reasons + ([f"={label}"] if label else []))

    def _still_true(self, centre: int) -> bool:
        """Whether everything the segment's name says holds at half the strength it took to say it."""
        reasons = self._reasons[centre].split("\n") if self._reasons[centre] else []
        if not reasons or not self.segment_names[centre]:
            return False
        families = self._families(centre)
        liked = [taste.label for taste in self.labels.tastes(centre, TASTES_MAX)]
        for reason in reasons:
            sign, what = reason[0], reason[1:]
            if sign == "=":
                if what not in liked:
                    return False
                continue
            z = families.get(what, ("", 0.0))[1]
            if (z if sign == "+" else -z) < _Z_MIN / 2:
                return False
        return True

    def snapshot(self) -> State:
        return {
            "raw": self.raw.snapshot(),
            "scaled": self.scaled.snapshot(),
            "labels": self.labels.snapshot(),
            "segment_names": list(self.segment_names),
            "reasons": list(self._reasons),
            "rows_since": self._rows_since,
            "ids": self._ids.copy(),
            "sizes": self._sizes.copy(),
        }

    def restore(self, state: State) -> None:
        self.raw.restore(state["raw"])
        self.scaled.restore(state["scaled"])
        self.labels.restore(state["labels"])
        self.segment_names = list(state["segment_names"])
        self._reasons = list(state["reasons"])
        self._rows_since = int(state["rows_since"])
        self._ids, self._sizes = state["ids"].copy(), state["sizes"].copy()


def _copy(value: F64 | float) -> F64 | float:
    return value.copy() if isinstance(value, np.ndarray) else float(value)


@njit(cache=True)
def group_sums(rows: F32, groups: I32, k: int) -> F64:
    """(k, d) sums of rows (t, d) by group (t,)."""
    sums = np.zeros((k, rows.shape[1]))
    for i in range(rows.shape[0]):
        c = groups[i]
        for j in range(rows.shape[1]):
            sums[c, j] += rows[i, j]
    return sums
