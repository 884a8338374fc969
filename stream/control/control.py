"""The obeying of commands: before the events of their step, in (partition, offset) order.

    erase      what is kept about a user is gone at the end of the step, and its place is as if never used; a receipt
               says what is gone and what may be left (`residual.py`)
    consent    withdrawn: the same, and the user's events are withheld from then on, until consent is given again
    merge      what `from` does is `into`'s from now on, and so is what it did (`merging.py`)
    pin        the user is held in a segment, until it is let go
    rename     the segment has this name, until the engine may name it again
    freeze     nothing is learned until learning goes on

A user here is a person: a name that was merged into another stands for that one, in every command. Who is erased
in a step has no events in it, before or behind the command: partitions of two topics have no common order.

A command that cannot be done (a segment that is not there, a table that is full) is rejected like a bad event:
`schema`, and the detail says why. A command about a user who is not known is answered all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import xxhash

from ..attribution import OPERATOR, Verdict
from ..config import Config
from ..decoding.refusals import Problem
from ..events import I32, Events, Reason, Reject, Step, is_control
from ..ports import State
from ..values import Told
from .commands import Any_, Consent, Erase, Freeze, Merge, Pin, Rename, Who, decode
from .farewells import Farewell, Farewells
from .house import House
from .merging import carry
from .people import Aliases, Refusals


class Control:
    """Bounded by `control.*_max`: two names an alias, 64 bits a refusal, 12 bytes a pin."""

    def __init__(self, house: House, config: Config, known_as: Callable[[str], str] = str) -> None:
        """`known_as`: the name that users of the events have inside, where it is another one than they came with."""
        self._house = house
        self._known_as = known_as
        self._size_max = config.input.value_max_bytes
        self.farewells = Farewells(house, config)
        self.aliases = Aliases(config.control.aliases_max)
        self.refusals = Refusals(config.control.refusals_max, house.config_hash)
        self.learning = True
        self._digest = b""  # of every command that was obeyed
        self._begin()

    def _begin(self) -> None:
        self._gone: set[str] = set()  # names of users erased in this step
        self.farewells.begin()
        self._merged: set[int] = set()  # slots
        self.renamed = False
        self.obeyed = self.withheld = 0

    # --- what the pipeline asks, in this order ------------------------------------------------------------

    def obey(self, step: Step) -> list[Reject]:
        """Do what the step's commands say; those that cannot be done."""
        self._begin()
        rejects: list[Reject] = []
        for row in np.flatnonzero(is_control(step.records.partitions)).tolist():
            value = step.records.values[row]
            command = decode(value, self._size_max)
            problem = command if isinstance(command, Problem) else self._obey(command, row, step)
            if problem is None:
                self.obeyed += 1
                self._digest = xxhash.xxh3_128(self._digest + (value or b"")).digest()
            else:
                rejects.append(Reject(row, *problem))
        return rejects

    def screen(self, events: Events, step: Step) -> Events:
        """Events under the names they are counted under, without those of users who are not to be kept."""
        called, named = events.users, self.aliases.apply(events.users)
        if named is not called:
            events = replace(events, users=named)
        refusing = self._hear(events, step) if events.consent is not None else set()
        self.farewells.tell()
        unwanted = self._gone | refusing | self.refusals.among(dict.fromkeys(named))
        if not unwanted:
            return events
        kept = (a not in unwanted and b not in self._gone for a, b in zip(named, called, strict=True))
        keep = np.fromiter(kept, np.bool_, len(named))
        self.withheld = len(keep) - int(keep.sum())
        return events.take(keep)

    def _hear(self, events: Events, step: Step) -> set[str]:
        """What events themselves say about consent; who withdrew it in this step, at some event of it."""
        assert events.consent is not None
        last: dict[str, int] = {}  # name -> what was said last
        first: dict[str, int] = {}  # name -> the first event that withdrew
        for i in np.flatnonzero(events.consent).tolist():
            name, said = events.users[i], int(events.consent[i])
            last[name] = said
            if said < 0:
                first.setdefault(name, i)
        already = self.refusals.among(first)
        for name, i in first.items():
            if name not in already:
                names = [name, *self.aliases.leading_to(name)]
                if self.refusals.room(names):  # else what says no is withheld, event by event
                    self.refusals.add(names, by_command=False)
                self._forget(name, int(events.row[i]), int(events.time_ms[i]), step)
        for name, said in last.items():
            if said > 0:
                self.refusals.drop(name, by_command=False)
        said_all = "\n".join(f"{name}{said}" for name, said in last.items())
        self._digest = xxhash.xxh3_128(self._digest + said_all.encode("utf-8", "surrogatepass")).digest()
        return set(first)

    def placed(self) -> None:
        """Centres were placed in this step."""
        self.farewells.placed_ms = self._house.clock.now_ms

    # --- the commands -------------------------------------------------------------------------------------

    def _obey(self, command: Any_, row: int, step: Step) -> Problem | None:
        match command:
            case Erase():
                self._erase(command, row, step)
                return None
            case Consent():
                return self._consent(command, row, step)
            case Merge():
                return self._merge(command, row, step)
            case Pin():
                return self._pin(command)
            case Rename():
                return self._rename(command)
            case Freeze():
                return self._freeze(command)

    def _person(self, who: Who) -> str:
        """The name that a user is counted under."""
        return self.aliases.of(self._known_as(who.name))

    def _consent(self, command: Consent, row: int, step: Step) -> Problem | None:
        name = self._person(command.user)
        if command.segmentation:
            self.refusals.drop(name)
            return None
        names = [name, *self.aliases.leading_to(name)]
        if not self.refusals.room(names):
            return _impossible("consent: control.refusals_max is reached, so it could not be kept")
        self.refusals.add(names)
        self._erase(command, row, step)
        return None

    def _erase(self, command: Erase | Consent, row: int, step: Step) -> None:
        farewell = self._forget(self._person(command.user), row, 0, step)
        farewell.commands.append(command.command_id)

    def _forget(self, name: str, row: int, time_ms: int, step: Step) -> Farewell:
        """Forget a person, and the names that led to it."""
        others = self.aliases.drop_to(name)
        self._gone.update((name, *others))
        farewell = self.farewells.forget(name, row, time_ms, step)
        farewell.erased += ["aliases"] if others else []
        return farewell

    def _merge(self, command: Merge, row: int, step: Step) -> Problem | None:
        source, into = self._person(command.source), self._person(command.into)
        if source == into:
            own = self._known_as(command.source.name)
            done = own != source and command.source != command.into
            return None if done else _impossible("merge: both are the same person already")
        if {source, into} & self._gone:
            return _impossible(
                "merge: one of the two was erased in the same step; send it again if it is meant"
            )
        if self.aliases.full:
            return _impossible("merge: control.aliases_max is reached, so it could not be kept")
        if self.refusals.among((source, into)):
            return _impossible("merge: one of the two withdrew consent; give it first")
        self._unite(source, into, row, step)
        self.aliases.add(source, into)
        return None

    def _unite(self, source: str, into: str, row: int, step: Step) -> None:
        """Where both are known the state of one is added to the other's, else it is only called otherwise."""
        house = self._house
        slot, heir = house.users.slot(source), house.users.slot(into)
        if slot is None:
            return
        slots = np.array([slot], np.int32)
        moves = house.membership.leave(slots, step.number)
        house.churn.count(moves)
        if len(moves):
            model = {**house.versions(), "config": house.config_hash}
            cause, time_ms = np.array([row], np.int64), np.zeros(1, np.int64)
            verdict = Verdict.of_all(OPERATOR, 1)
            house.narrator.answered(Told(moves, [source], verdict, model, None, cause, time_ms))
        if heir is None:
            house.users.rename(slot, into)
            house.membership.clear(slots)
            house.attribution.clear(slots)
            self._merged.add(slot)
        else:
            carry(house, slot, heir)
            house.forget(slots)
            self._merged.add(heir)

    def _pin(self, command: Pin) -> Problem | None:
        members = self._house.membership
        slot = self._house.users.slot(self._person(command.user))
        if slot is None:
            return _impossible("pin: the user is not known")
        if command.segment_id is None:
            members.pins.clear([slot])
            return None
        if command.segment_id not in members.ids.tolist():
            return _impossible(f"pin: there is no segment {command.segment_id}")
        if not members.pins.room(slot):
            return _impossible("pin: control.pins_max is reached, so it could not be kept")
        members.pins.put(slot, command.segment_id)
        return None

    def _rename(self, command: Rename) -> Problem | None:
        if command.names is not None and command.name is not None:
            return _impossible("rename: got names and a name, wanted one of them")
        names = {"en": command.name} if command.name is not None else None
        if command.names is not None:
            chosen = (("en", command.names.en), ("zh", command.names.zh))
            names = {language: name for language, name in chosen if name is not None}
        if wrong := self._house.catalog.rename(command.segment_id, names):
            return _impossible(f"rename: {wrong}")
        self.renamed = True
        return None

    def _freeze(self, command: Freeze) -> Problem | None:
        if self.learning != command.learning:
            house, self.learning = self._house, command.learning
            house.narrator.born([house.membership.identities.froze(self.learning, house.clock.now_ms)])
        return None

    @property
    def merged(self) -> I32:
        """Users whose row is another one since this step's commands, and who were told nothing yet."""
        live = [slot for slot in sorted(self._merged) if self._house.users.last_ms[slot]]
        return np.array(live, np.int32)

    # --- keeping ------------------------------------------------------------------------------------------

    def fingerprint(self) -> bytes:
        return self._digest

    def snapshot(self) -> State:
        return {
            "aliases": self.aliases.snapshot(),
            "refusals": self.refusals.snapshot(),
            "learning": self.learning,
            "placed_ms": self.farewells.placed_ms,
            "digest": self._digest,
        }

    def restore(self, state: State) -> None:
        self.aliases.restore(state["aliases"])
        self.refusals.restore(state["refusals"])
        self.learning = bool(state["learning"])
        self.farewells.placed_ms = int(state["placed_ms"])
        self._digest = state["digest"]


def _impossible(detail: str) -> Problem:
    return Problem(Reason.SCHEMA, detail)
