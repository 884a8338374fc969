"""What commands leave behind about people: who is one person with whom, and who does not want to be here.

Both tables are bounded and refuse at the limit: a command that cannot be kept is rejected, none is forgotten.

Aliases keep names, since events name users by them: they are flat (a name leads to somebody who leads nowhere
else) and go when that somebody is erased. Refusals keep 64 bits of a keyed hash of a name, not the name: enough to
know it again, not to read it. Of 100,000 refusals and a million users, one user is taken for another with a
probability of 1 in 200,000,000; such a one would be withheld.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from ..ports import State


class Aliases:
    """name -> the name it is counted under. Memory: two names for each of at most `most` aliases."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._root: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}  # root -> the names that lead to it

    def __len__(self) -> int:
        return len(self._root)

    @property
    def full(self) -> bool:
        return len(self._root) >= self._most

    def of(self, name: str) -> str:
        """Whose the events of `name` are."""
        return self._root.get(name, name)

    def apply(self, names: Sequence[str]) -> Sequence[str]:
        """(n,) whose the events of `names` (n,) are; the same object where there are no aliases."""
        if not self._root:
            return names
        root = self._root
        return [root.get(name, name) for name in names]

    def add(self, name: str, root: str) -> None:
        """From now on `name`, which leads nowhere, leads to `root`, which leads nowhere; whoever led to it, too."""
        assert name not in self._root, "a name leads to one other at most"
        assert root not in self._root, "and that one nowhere"
        others = [*self._names.pop(name, ()), name]
        self._root |= dict.fromkeys(others, root)
        self._names[root] = self._names.get(root, []) + others

    def leading_to(self, root: str) -> list[str]:
        return list(self._names.get(root, ()))

    def drop_to(self, root: str) -> list[str]:
        """Forget what leads to a name; what did."""
        names = self._names.pop(root, [])
        for name in names:
            del self._root[name]
        return names

    def snapshot(self) -> State:
        return {"names": list(self._root), "roots": list(self._root.values())}

    def restore(self, state: State) -> None:
        self._root, self._names = dict(zip(state["names"], state["roots"], strict=True)), {}
        for name, root in self._root.items():
            self._names.setdefault(root, []).append(name)


class Refusals:
    """Who withdrew the consent to be put into segments: at most `most` names, by their hash."""

    def __init__(self, most: int, key: str) -> None:
        self._most = most
        self._key = key.encode()[:64]
        self._by_command: dict[int, bool] = {}  # hash -> whether a command said so; False: an event

    def __len__(self) -> int:
        return len(self._by_command)

    def _hash(self, name: str) -> int:
        text = name.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=self._key).digest(), "little")

    def among(self, names: Iterable[str]) -> set[str]:
        """Those of `names` who refused. Cost: a hash, about a microsecond, for each; nothing while nobody did."""
        if not self._by_command:
            return set()
        return {name for name in names if self._hash(name) in self._by_command}

    def room(self, names: Sequence[str]) -> bool:
        """Whether all of these can be kept."""
        new = {self._hash(name) for name in names} - self._by_command.keys()
        return len(self._by_command) + len(new) <= self._most

    def add(self, names: Sequence[str], by_command: bool = True) -> None:
        for name in names:
            hashed = self._hash(name)
            self._by_command[hashed] = self._by_command.get(hashed, False) or by_command

    def drop(self, name: str, by_command: bool = True) -> bool:
        """Consent again, by the same way or by command; whether that changed anything."""
        hashed = self._hash(name)
        if hashed not in self._by_command or (self._by_command[hashed] and not by_command):
            return False
        del self._by_command[hashed]
        return True

    def snapshot(self) -> State:
        hashes = sorted(self._by_command)  # a set has no order of its own
        return {
            "hashes": np.array(hashes, np.uint64),
            "by_command": np.array([self._by_command[h] for h in hashes], np.bool_),
        }

    def restore(self, state: State) -> None:
        pairs = zip(state["hashes"].tolist(), state["by_command"].tolist(), strict=True)
        self._by_command = dict(pairs)
