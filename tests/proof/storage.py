"""What a file and a folder hold: what processes see, and what outlives a loss of power.

A file has a cache, which every process on the machine sees, and durable bytes. What was written since the
last good sync is a list of operations; a folder's names likewise. When the power goes, a beginning of that
list has happened, the operation after it in part: some blocks of it on disk and some not, the length there
before the bytes (holes read as zeros). A journaling file system allows that, for every folder and file on
its own.

A sync that fails has given up what was pending: shown until the power goes, never written by a later sync.
Linux does that; see "PostgreSQL's fsync() surprise", lwn.net/Articles/752063.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from random import Random

from .points import Points

BLOCK_BYTES = 64
"""What reaches the disk whole or not at all; small, so that small files tear."""


class Survives(Enum):
    """What of the bytes and names that were not synced is found after the power comes back."""

    NOTHING = "nothing"
    ANYTHING = "anything"  # drawn by chance
    ALL = "all"


@dataclass
class Write:
    at: int
    data: bytes

    def do(self, file: bytearray) -> None:
        file.extend(bytes(max(0, self.at - len(file))))
        file[self.at : self.at + len(self.data)] = self.data

    def tear(self, file: bytearray, rng: Random) -> None:
        for start in range(0, len(self.data), BLOCK_BYTES):
            if rng.random() < 0.5:
                Write(self.at + start, self.data[start : start + BLOCK_BYTES]).do(file)


@dataclass
class Truncate:
    length: int

    def do(self, file: bytearray) -> None:
        file.extend(bytes(max(0, self.length - len(file))))
        del file[self.length :]

    def tear(self, file: bytearray, rng: Random) -> None:
        """A length changes at once or not at all."""


@dataclass
class File:
    cache: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)
    holder: Points | None = None  # the process that has locked it

    def change(self, operation: Write | Truncate) -> None:
        operation.do(self.cache)
        self.pending.append(operation)

    def sync(self) -> None:
        for operation in self.pending:
            operation.do(self.durable)
        self.pending.clear()

    def give_up(self, rng: Random) -> None:
        """What a sync that fails leaves: nobody will write what was pending; processes see it still."""
        self.durable = self._remains(Survives.ANYTHING, rng)
        self.pending.clear()

    def lose_power(self, survives: Survives, rng: Random) -> None:
        self.durable = self._remains(survives, rng)
        self.cache = bytearray(self.durable)
        self.pending.clear()

    def _remains(self, survives: Survives, rng: Random) -> bytearray:
        done = _done(len(self.pending), survives, rng)
        found = bytearray(self.durable)
        for operation in self.pending[:done]:
            operation.do(found)
        if survives is Survives.ANYTHING:
            for operation in self.pending[done : done + 1]:
                operation.tear(found, rng)
            self._punch(found, rng)
        return found

    def _punch(self, found: bytearray, rng: Random) -> None:
        """Where the file grew, its length may have come before its bytes: few or all of them, from anywhere on."""
        lengths = [operation.length for operation in self.pending if isinstance(operation, Truncate)]
        grown = min(len(self.durable), *lengths, len(found))
        first = rng.choice((0, rng.randint(0, (len(found) - grown) // BLOCK_BYTES)))
        share = rng.choice((0.0, 0.0, 0.02, 0.5, 1.0))
        for start in range(grown + first * BLOCK_BYTES, len(found), BLOCK_BYTES):
            if rng.random() < share:
                size = min(BLOCK_BYTES, len(found) - start)
                found[start : start + size] = bytes(size)


Naming = tuple[str, "Node | None"]  # a name, and what it stands for from now on; None: nothing


@dataclass
class Folder:
    cache: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)
    pending: list[list[Naming]] = field(default_factory=list)  # each inner list happens at once

    def change(self, *namings: Naming) -> None:
        _rename(self.cache, namings)
        self.pending.append(list(namings))

    def sync(self) -> None:
        for namings in self.pending:
            _rename(self.durable, namings)
        self.pending.clear()

    def lose_power(self, survives: Survives, rng: Random) -> None:
        del self.pending[_done(len(self.pending), survives, rng) :]
        self.sync()
        self.cache = dict(self.durable)
        for _, node in sorted(self.cache.items()):
            node.lose_power(survives, rng)


Node = File | Folder


def _rename(names: dict[str, Node], namings: tuple[Naming, ...] | list[Naming]) -> None:
    for name, node in namings:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _done(operations: int, survives: Survives, rng: Random) -> int:
    """How many operations, from the first on, have happened."""
    match survives:
        case Survives.NOTHING:
            return 0
        case Survives.ALL:
            return operations
        case Survives.ANYTHING:
            return rng.randint(0, operations)
