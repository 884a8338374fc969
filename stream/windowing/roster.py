"""Names <-> slots without a Python object per user: a hash table over names kept as bytes.

A name is found by 31 bits of its hash and then compared byte by byte: two names are never taken for one. The
table has linear probing, at most half full, and takes entries out by moving later ones back (Knuth, 6.4,
algorithm R), so it never fills with tombstones. A new name gets the last slot freed, else the next unused.

Memory: 16 to 32 bytes of table for each of `users_max`, and 7 bytes and the name in UTF-8, rounded up to 16, for
each user there is; names lie in a pool (`slabs.py`), so those of users who left leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiling import kernel
from ..events import I32, I64
from .memory import load16, load64, move, store16
from .slabs import HEAD, SPARE_MIN, Pool, drop, find, give

NAME_BYTES_MAX = 1024

_TEXT = HEAD + 2  # of a block: the name's length (2 bytes), then the name
_USED, _FREED, _SALT = 0, 1, 2


class Names(NamedTuple):
    """Names as they came: one text, and where each ends."""

    text: NDArray[np.uint8]  # with a line end after each
    ends: I64  # (n,)


class Roster:
    """Who has which of `users_max` slots.

    `salt` goes into the hashes, so that nobody outside can make names that collide. No result depends on it.
    """

    def __init__(self, users_max: int, salt: int = 0) -> None:
        self._users_max, self._salt = users_max, salt
        self._reset()

    def _reset(self) -> None:
        users_max = self._users_max
        self._pool = Pool(users_max, _TEXT + NAME_BYTES_MAX + 1)
        self._table = np.zeros(1 << (2 * users_max - 1).bit_length(), np.int64)  # hash and slot + 1; 0: free
        self._freed = np.zeros(users_max, np.int32)  # a stack of free slots
        self._numbers = np.array([0, 0, self._salt], np.int64)  # slots ever used, slots on the stack, salt

    def __len__(self) -> int:
        return self.used - int(self._numbers[_FREED])

    @property
    def used(self) -> int:
        """Slots from here on were never given."""
        return int(self._numbers[_USED])

    @property
    def freed(self) -> I32:
        """Free slots below `used`; the last one is given first."""
        return self._freed[: self._numbers[_FREED]]

    @property
    def nbytes(self) -> int:
        return self._pool.nbytes + self._table.nbytes + 4 * self.used

    def find(self, names: Sequence[str]) -> I32:
        """(n,) slots; -1 for who is not here."""
        return _find(self._pool.slabs, self._table, self._numbers, *_coded(names))

    def add(self, names: Sequence[str]) -> I32:
        """(n,) slots; who is not here yet gets one."""
        coded = _coded(names)
        sizes = np.diff(coded.ends, prepend=-1) - 1
        assert ((sizes > 0) & (sizes <= NAME_BYTES_MAX)).all(), (
            f"names of {sizes.min()} to {sizes.max()} bytes"
        )
        slots, done = np.empty(len(names), np.int32), 0
        while done < len(names):
            self._pool.reserve()
            done = _add(self._pool.slabs, self._table, self._freed, self._numbers, *coded, slots, done)
            if done < 0:
                raise AssertionError(
                    f"more users than features.users_max = {self._users_max}: ask leaving() first"
                )
        return slots

    def remove(self, slots: I32) -> None:
        """Forget who has these slots; they are given again, the last one first."""
        _remove(self._pool.slabs, self._table, self._freed, self._numbers, slots)

    def scrub(self) -> None:
        """Overwrite what is left in memory of names that are not here any more."""
        self._pool.scrub()

    def names(self, slots: I32) -> list[str]:
        """Who has these slots; "" where nobody does."""
        ends = np.empty(len(slots), np.int64)
        text = np.empty(_lengths(self._pool.slabs, slots, ends), np.uint8)
        _texts(self._pool.slabs, slots, text)
        whole, begins = text.tobytes(), np.concatenate([[0], ends[:-1]]).tolist()
        return [
            whole[a:b].decode("utf-8", "surrogatepass") for a, b in zip(begins, ends.tolist(), strict=False)
        ]

    def restore(self, names: Sequence[str], freed: I32) -> None:
        """Slot i to names[i], but for those that are ""; `freed` says in which order these will be given."""
        self._reset()
        live = np.array([slot for slot, name in enumerate(names) if name], np.int32)
        self._freed[: len(live)] = live[::-1]  # so that each gets its own
        self._numbers[:_SALT] = len(names), len(live)
        self.add([name for name in names if name])
        self._freed[: len(freed)] = freed
        self._numbers[_FREED] = len(freed)


def _coded(names: Sequence[str]) -> Names:
    text = "\n".join(names).encode("utf-8", "surrogatepass") + b"\n"
    array = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(array == 10)
    if len(ends) != len(names):  # none, or a name that has a line end in it
        lengths = [len(name.encode("utf-8", "surrogatepass")) + 1 for name in names]
        ends = np.cumsum(np.array(lengths, np.int64)) - 1
    return Names(array, ends)


# --- kernels -------------------------------------------------------------------------------------------


@kernel
def _mix(x):  # type: ignore[no-untyped-def]
    """The end of splitmix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@kernel
def _hash(numbers, at, size):  # type: ignore[no-untyped-def]
    """31 bits of `size` bytes and the salt. Reads one byte more."""
    h, left = _mix(np.uint64(size) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(numbers[_SALT])), size
    while left >= 8:
        h = _mix(h ^ np.uint64(load64(at)))
        at, left = at + 8, left - 8
    rest = np.int64(0)
    for j in range(left):
        rest = rest << 8 | (load16(at + j) & 0xFF)
    return np.int64(_mix(h ^ np.uint64(rest)) >> np.uint64(33))


@kernel
def _is(block, at, size):  # type: ignore[no-untyped-def]
    """Whether the block holds this name."""
    if load16(block + HEAD) != size:
        return False
    j = np.int64(0)
    while j + 8 <= size:
        if load64(block + _TEXT + j) != load64(at + j):
            return False
        j += 8
    while j < size:
        if (load16(block + _TEXT + j) ^ load16(at + j)) & 0xFF:
            return False
        j += 1
    return True


@kernel
def _probe(slabs, table, at, size, tag):  # type: ignore[no-untyped-def]
    """The cell of a name, or the free one where it belongs."""
    mask = len(table) - 1
    cell = tag & mask
    while table[cell] != 0:
        if table[cell] >> 32 == tag and _is(find(slabs, (table[cell] & 0xFFFFFFFF) - 1), at, size):
            break
        cell = (cell + 1) & mask
    return cell


@kernel
def _find(slabs, table, numbers, text, ends):  # type: ignore[no-untyped-def]
    slots, at = np.empty(len(ends), np.int32), np.int64(text.ctypes.data)
    begin = np.int64(0)
    for i in range(len(ends)):
        size = ends[i] - begin
        tag = _hash(numbers, at + begin, size)
        slots[i] = (table[_probe(slabs, table, at + begin, size, tag)] & 0xFFFFFFFF) - 1
        begin = ends[i] + 1
    return slots


@kernel
def _add(slabs, table, freed, numbers, text, ends, slots, first):  # type: ignore[no-untyped-def]
    """From name `first` on; where it stopped for want of spare memory, or -1 for want of slots."""
    at = np.int64(text.ctypes.data)
    begin = ends[first - 1] + 1 if first else np.int64(0)
    for i in range(first, len(ends)):
        if slabs.spare[1] < SPARE_MIN:
            return i
        size = ends[i] - begin
        tag = _hash(numbers, at + begin, size)
        cell = _probe(slabs, table, at + begin, size, tag)
        if table[cell] == 0:
            slot = _take_slot(freed, numbers)
            if slot < 0:
                return -1
            block = give(slabs, slot, _TEXT + size + 1)
            store16(block + HEAD, size)
            move(block + _TEXT, at + begin, size)
            table[cell] = tag << 32 | (slot + 1)
        slots[i] = (table[cell] & 0xFFFFFFFF) - 1
        begin = ends[i] + 1
    return len(ends)


@kernel
def _take_slot(freed, numbers):  # type: ignore[no-untyped-def]
    if numbers[_FREED]:
        numbers[_FREED] -= 1
        return np.int64(freed[numbers[_FREED]])
    if numbers[_USED] == len(freed):
        return np.int64(-1)
    numbers[_USED] += 1
    return numbers[_USED] - 1


@kernel
def _remove(slabs, table, freed, numbers, slots):  # type: ignore[no-untyped-def]
    for i in range(len(slots)):
        block = find(slabs, slots[i])
        if block == 0:  # it is free already
            continue
        size = load16(block + HEAD)
        tag = _hash(numbers, block + _TEXT, size)
        _close_gap(table, _probe(slabs, table, block + _TEXT, size, tag))
        freed[numbers[_FREED]] = slots[i]
        numbers[_FREED] += 1
        drop(slabs, slots[i : i + 1])


@kernel
def _close_gap(table, gap):  # type: ignore[no-untyped-def]
    """Free a cell; entries after it that would not be found any more move back."""
    mask = len(table) - 1
    cell = gap
    while True:
        cell = (cell + 1) & mask
        if table[cell] == 0:
            break
        home = (table[cell] >> 32) & mask
        if ((cell - home) & mask) >= ((cell - gap) & mask):
            table[gap] = table[cell]
            gap = cell
    table[gap] = 0


@kernel
def _lengths(slabs, slots, ends):  # type: ignore[no-untyped-def]
    total = 0
    for i in range(len(slots)):
        block = find(slabs, slots[i])
        total += load16(block + HEAD) if block else 0
        ends[i] = total
    return total


@kernel
def _texts(slabs, slots, text):  # type: ignore[no-untyped-def]
    to = np.int64(text.ctypes.data)
    for slot in slots:
        block = find(slabs, slot)
        if block:
            size = load16(block + HEAD)
            move(to, block + _TEXT, size)
            to += size
