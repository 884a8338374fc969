"""Which groups of people go on, end or begin when centres are rearranged: by whom they have in common.

People are counted twice: by the segment they were in before (rows), and by the centre that is nearest to them
after (columns). Slots of the model play no part: exchange two of them, or draw all of them anew, and whoever is
together stays together under the same id.

    goes on   an id stays with a group after, of which it has at least `HALF`, or whose people are at least `HALF`
              its own. Of all ways to hand on the ids, the one by which most people keep theirs
    merge     an id that goes on nowhere, while at least `HALF` of its people are in one group that has another id
    death     an id that goes on nowhere, otherwise: its people are with many others. And an id whose people come
              no more, once its centre is given up, or others are where they were
    split     a group without an id, at least `HALF` of whose people are from one segment: its parent
    birth     a group without an id, otherwise: its people are new, or come from many segments

Coming, going and moving are counted against what is usual. Where most people are no longer where they were, as in the
first days of a stream or in a shop where nobody buys the same twice, an id stays at its own centre unless its people
surely stayed there less than `HALF` as often as people do elsewhere. People are new where they are more often new than
those the parent keeps; people come no more where they come less than `HALF` as often as everybody does. So neither a
shop whose visitors are mostly strangers nor one whose customers come twice a year is all births and deaths.

Fewer than `LEAST` people say nothing: then the rearrangement is believed as the model tells it.

Also without a rearrangement a centre may leave its people: those who came no more, or went elsewhere, do not hold it,
and others draw it to themselves. Then an id ends and another begins in one place (`Intervention.in_place`).

Compare Spiliopoulou et al., "MONIC: modeling and monitoring cluster transitions", 2006.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .events import F64, I32, I64, Bool
from .ports import Intervention, Share

HALF = 0.5
LEAST = 8
SURE = 2.0
"""Standard deviations by which a segment's members must come, or stay, too seldom, before it is said to die."""
SHARES_MAX = 4
"""Groups that a fact names as evidence."""
SHARE_LEAST = 0.05


@dataclass(frozen=True, slots=True)
class Table:
    """Who was where before, and who is where after; k slots each way."""

    ids: I64  # (k,) segment of each slot before; 0: none
    used: Bool  # (k,) slots in use after
    people: I64  # (k, k) people of the segment at slot i before whose nearest centre after is j
    new: I64  # (k,) people nearest to j after, who were in no segment before
    members: I64  # (k,) all users of the segment before, also those who were not asked where they are ...
    present: I64  # (k,) ... and those of them who came lately

    @property
    def after(self) -> I64:
        """(k,) people at each slot after."""
        result: I64 = self.people.sum(axis=0) + self.new
        return result

    @property
    def before(self) -> I64:
        """(k,) people of each segment before, as far as they were asked where they are."""
        result: I64 = self.people.sum(axis=1)
        return result


@dataclass(frozen=True, slots=True)
class Naming:
    """What a rearrangement means for ids."""

    order: I64  # (k,) the slot after that has to stand at each place, for ids to stay where they are
    facts: tuple[Intervention, ...]  # in places of `order`: first what ended, then what began


def name_groups(table: Table, told: Sequence[Intervention] | None, elsewhere: Bool | None = None) -> Naming:
    """Who goes on where, who ended, who began. `told`: what the model says it did; None: everything is new.

    Only groups whose centre is `elsewhere` (k,) than it was are asked about, and those that were given up; all
    others stay: a segment that people pass through, like "new here", is what it was with other people in it.
    Cost: k^3 at worst, k^2 where most groups stay what they are.
    """
    k = len(table.ids)
    dead = dying(table.ids, table.members, table.present)
    living = replace(table, people=np.where(dead[:, None], 0, table.people))
    literal = _literal(table, told)  # (k,) the slot after that the model says each segment is at; -1
    goes_on = _matched(living, literal, dead, elsewhere)
    ended = np.flatnonzero((table.ids > 0) & (goes_on < 0))
    begun = np.flatnonzero(table.used & ~np.isin(np.arange(k), goes_on))
    order = _order(goes_on, begun, k)
    place = np.argsort(order)  # (k,) where each slot after stands from now on
    in_place = (literal >= 0) & (order == np.arange(k))  # nobody gave up the centre, but it followed others
    facts = [_end(table, i, goes_on, told, bool(dead[i]), bool(in_place[i])) for i in ended.tolist()]
    facts += [_begin(living, j, int(place[j]), goes_on, told) for j in begun.tolist()]
    return Naming(order, tuple(facts))


def dying(ids: I64, all_members: I64, present: I64) -> Bool:
    """(k,) segments whose members surely come less than `HALF` as often as everybody else does."""
    members = all_members.astype(np.float64)
    others = members.sum() - members
    usual = (present.sum() - present) / np.maximum(others, 1)
    half = HALF * usual * members
    result: Bool = (ids > 0) & (present < half - SURE * np.sqrt(half))
    return result


# --- who goes on -----------------------------------------------------------------------------------------


def _literal(table: Table, told: Sequence[Intervention] | None) -> I64:
    """(k,) where each segment is after, if the model is taken at its word; -1: nowhere."""
    if told is None:
        return np.full(len(table.ids), -1, np.int64)
    at = np.where(table.ids > 0, np.arange(len(table.ids)), -1)
    for one in told:
        if one.into >= 0:
            at[one.centre] = -1
    return np.where((at >= 0) & table.used, at, -1)


def _matched(table: Table, literal: I64, dead: Bool, elsewhere: Bool | None) -> I64:
    """(k,) the slot after at which each segment goes on, -1 where it ends."""
    before, after = table.before, table.after
    of_old = table.people / np.maximum(before, 1)[:, None]
    of_new = table.people / np.maximum(after, 1)[None, :]
    allowed = (table.people > 0) & ((of_old >= HALF) | (of_new >= HALF))
    holds = np.flatnonzero(_holds(table, literal))
    allowed[holds, literal[holds]] = True
    allowed &= ((table.ids > 0) & ~dead)[:, None] & table.used[None, :]
    few_left = np.where(dead, after[literal] < LEAST, before < LEAST)
    stays = (literal >= 0) & few_left  # nobody says otherwise
    if elsewhere is not None:
        stays |= (literal >= 0) & ~elsewhere
    allowed[stays] = False
    allowed[:, literal[stays]] = False
    rows = np.argsort(table.ids, kind="stable")  # ties go to the older segment, wherever it stands
    found = np.full(len(table.ids), -1, np.int64)
    found[rows] = most_in_common(np.where(allowed, np.maximum(table.people, 1), 0)[rows].astype(np.float64))
    found[stays] = literal[stays]
    if (found < 0).all() and (table.ids > 0).any():  # somebody has to be there to take over
        counts = np.where(table.used[None, :] & (table.ids > 0)[:, None], table.people, -1)
        i, j = np.unravel_index(int(counts.argmax()), counts.shape)
        found[i] = j
    return found


def _holds(table: Table, literal: I64) -> Bool:
    """(k,) segments whose people did not surely stay less than `HALF` as often as all people stayed where they were."""
    rows = np.flatnonzero(literal >= 0)
    stayed = np.zeros(len(literal))
    stayed[rows] = table.people[rows, literal[rows]]
    half = HALF * _part(int(stayed.sum()), int(table.before.sum())) * table.before
    result: Bool = (literal >= 0) & (stayed >= half - SURE * np.sqrt(half))
    return result


def most_in_common(weights: F64) -> I64:
    """(n, n) weights >= 0 -> (n,) the column of each row, so that the sum is largest; -1: none above 0.

    Shortest augmenting paths (Jonker & Volgenant 1987). Ties: the earlier row, then the earlier column.

    >>> most_in_common(np.array([[60.0, 40.0], [50.0, 0.0]])).tolist()
    [1, 0]
    """
    n = len(weights)
    cost = -weights
    of_row, of_column = np.zeros(n + 1), np.zeros(n + 1)
    row_at = np.zeros(n + 1, np.int64)  # the row of each column, from 1; 0: free
    for row in range(1, n + 1):
        row_at[0] = row
        column = 0
        gap = np.full(n + 1, np.inf)
        came_by = np.zeros(n + 1, np.int64)
        seen = np.zeros(n + 1, np.bool_)
        while row_at[column]:
            seen[column] = True
            at = int(row_at[column])
            now = cost[at - 1] - of_row[at] - of_column[1:]
            better = ~seen[1:] & (now < gap[1:])
            gap[1:][better] = now[better]
            came_by[1:][better] = column
            open_gap = np.where(seen, np.inf, gap)
            following = int(open_gap[1:].argmin()) + 1
            delta = float(open_gap[following])
            of_row[row_at[seen]] += delta
            of_column[seen] -= delta
            gap[~seen] -= delta
            column = following
        while column:
            row_at[column] = row_at[came_by[column]]
            column = int(came_by[column])
    found = np.full(n, -1, np.int64)
    found[row_at[1:] - 1] = np.arange(n)
    return np.where(weights[np.arange(n), found] > 0, found, -1)


def _order(goes_on: I64, begun: I64, k: int) -> I64:
    """(k,) the slot after at each place: groups that go on at their segment's, all others where they are, if free."""
    order = np.full(k, -1, np.int64)
    order[goes_on >= 0] = goes_on[goes_on >= 0]
    rest = [j for j in (*begun.tolist(), *range(k)) if j not in set(order.tolist())]
    for j in dict.fromkeys(rest):
        if order[j] < 0:
            order[j] = j
    taken = set(order.tolist())
    waiting = [j for j in dict.fromkeys(rest) if j not in taken]
    order[np.flatnonzero(order < 0)] = waiting
    return order


# --- who ended, who began --------------------------------------------------------------------------------


def _end(
    table: Table, i: int, goes_on: I64, told: Sequence[Intervention] | None, dead: bool, in_place: bool
) -> Intervention:
    """A segment that goes on nowhere: merged into another, or dead. Another one takes its members in any case."""
    row, asked = table.people[i], int(table.people[i].sum())
    to = np.zeros(len(row), np.int64)  # (k,) its people by the segment they are with now
    survivors = np.flatnonzero(goes_on >= 0)
    to[survivors] = row[goes_on[survivors]]
    said = next((one for one in told or () if one.centre == i and one.into >= 0), None)
    if to.any():
        heir = int(to.argmax())
    else:
        heir = said.into if said is not None and said.into in survivors else int(survivors[0])
    merged = not dead and (asked < LEAST or _part(int(to[heir]), asked) >= HALF)
    reason, gain = (said.reason, said.gain) if said else ("overlap", 0.0)
    shares = _shares(table.ids, to, asked - int(to.sum()), asked)
    return Intervention("merge" if merged else "death", i, heir, -1, reason, gain, 0, shares, asked, in_place)


def _begin(
    table: Table, j: int, place: int, goes_on: I64, told: Sequence[Intervention] | None
) -> Intervention:
    """A group without an id: out of one segment, or born."""
    column, new = table.people[:, j], int(table.new[j])
    total = int(column.sum()) + new
    said = next((one for one in reversed(told or ()) if one.centre == j and one.out_of >= 0), None)
    reason, gain = (said.reason, said.gain) if said else ("overlap", 0.0)
    known = int(column.sum())
    parent = int(np.lexsort((table.ids, -column))[0]) if known else (said.out_of if said else -1)
    if total < LEAST:
        kind = "split" if parent >= 0 else "birth"
    else:
        kind = (
            "split"
            if _part(int(column.max()), known) * (1.0 - _newer(table, j, parent, goes_on)) >= HALF
            else "birth"
        )
    shares = _shares(table.ids, column, new, total)
    return Intervention(kind, place, -1, parent if kind == "split" else -1, reason, gain, 0, shares, total)


def _newer(table: Table, j: int, parent: int, goes_on: I64) -> float:
    """How many more of the people at j are new than of those its parent keeps, 0..1."""
    after = table.after
    here = _part(int(table.new[j]), int(after[j]))
    kept = int(goes_on[parent]) if parent >= 0 else -1
    there = _part(int(table.new[kept]), int(after[kept])) if kept >= 0 else 0.0
    return max(0.0, here - there) / max(1.0 - there, 1e-9)


def _shares(ids: I64, counts: I64, nobody: int, total: int) -> tuple[Share, ...]:
    """The largest shares, by segment id; 0 stands for none."""
    pairs = [(int(counts[s]), int(ids[s])) for s in np.flatnonzero(counts).tolist()] + [(nobody, 0)]
    large = [pair for pair in pairs if _part(pair[0], total) >= SHARE_LEAST]
    large.sort(key=lambda pair: (-pair[0], pair[1]))
    return tuple(Share(segment_id, _part(count, total)) for count, segment_id in large[:SHARES_MAX])


def _part(count: int, total: int) -> float:
    return int(count) / total if total else 0.0


def table_of(ids: I64, used: Bool, home: I32, after: I32, members: I64, present: I64) -> Table:
    """Count n people by the slot of their segment before, `home` (n,) with -1 for none, and by `after` (n,)."""
    k = len(ids)
    known = home >= 0
    people = np.bincount(home[known].astype(np.int64) * k + after[known], minlength=k * k).reshape(k, k)
    return Table(ids, used, people, np.bincount(after[~known], minlength=k), members, present)
