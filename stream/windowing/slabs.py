"""Memory for one growing block per owner: pools of equal blocks without holes, in one array.

Theory. Sizes come in classes an eighth apart. The array is cut into chunks; a chunk belongs to one class, or is
spare. Always true:

1. The blocks of a class fill its chunks from the first to the last without a hole: one that is given back is
   overwritten with the last one, whose owner is told (`place`). So there are no lists of free blocks, nothing
   is fragmented, and a chunk that empties serves any other class.
2. A block begins with its owner; `place[owner]` says where it is. Nobody else keeps an address: every call
   that gives or takes blocks may move others.

Memory: what blocks hold, at most an eighth more, and one chunk per class in use. It follows the number and the
sizes of the blocks there are, not of those there ever were; the array itself does not shrink again. Where a block
lies depends on history: no result may. Compare the slab allocator of Bonwick (1994), which cannot move.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiling import kernel
from ..events import I32, I64
from .memory import load16, load32, move, store16, store32

GRANULE = 16
"""Bytes that sizes and addresses are multiples of."""

BYTES_MAX = (2**31 - 1) * GRANULE - (1 << 27)
"""Of a pool: places are counted in granules, by 32 bits with a sign; what it grows by at a time still fits."""

SPARE_MIN = 16
"""Chunks that must be spare before work that may need some: kernels cannot make the array longer."""

OWNER, CLASS, HEAD = (
    0,
    4,
    6,
)  # bytes of a block: whose it is (4), its class (2); from here on it is the owner's

_CHUNK_MIN = 1 << 16
_GROWTH_MAX = 1 << 26  # bytes at a time


class Slabs(NamedTuple):
    """What kernels need. c classes, n chunks, u owners."""

    memory: NDArray[np.uint8]  # (n * chunk,) the array
    place: I32  # (u,) granule where the owner's block begins, plus 1; 0: it has none
    sizes: I64  # (c,) bytes of a block
    class_of: NDArray[np.int16]  # (largest granules + 1,) smallest class that holds so many
    last: I32  # (c,) the chunk that is being filled; -1: none
    in_last: I64  # (c,) blocks in it
    below: I32  # (n,) the chunk before this one, in its class or among the spare ones; -1: none
    spare: I64  # (3,) first spare chunk, how many, and bytes of a chunk


class Pool:
    """Blocks for `owners` owners, each of at most `block_bytes_max` bytes."""

    def __init__(self, owners: int, block_bytes_max: int) -> None:
        sizes = _sizes(-(-block_bytes_max // GRANULE))
        self.slabs = Slabs(
            memory=np.zeros(0, np.uint8),
            place=np.zeros(owners, np.int32),
            sizes=sizes * GRANULE,
            class_of=np.searchsorted(sizes, np.arange(sizes[-1] + 1)).astype(np.int16),
            last=np.full(len(sizes), -1, np.int32),
            in_last=np.zeros(len(sizes), np.int64),
            below=np.zeros(0, np.int32),
            spare=np.array([-1, 0, max(_CHUNK_MIN, 2 * int(sizes[-1]) * GRANULE)], np.int64),
        )

    def reserve(self) -> None:
        """Make at least SPARE_MIN chunks spare. The array grows by an eighth, at most 64 MiB, at a time."""
        slabs, chunk = self.slabs, int(self.slabs.spare[2])
        if slabs.spare[1] >= SPARE_MIN:
            return
        before = len(slabs.below)
        if before * chunk >= BYTES_MAX:
            raise MemoryError(f"one pool holds at most {BYTES_MAX >> 30} GiB: lower features.users_max")
        after = before + max(SPARE_MIN, min(before // 8, _GROWTH_MAX // chunk))
        # in place: the system moves page tables, not bytes, and nobody holds a view
        slabs.memory.resize(after * chunk, refcheck=False)
        slabs.below.resize(after, refcheck=False)
        for j in reversed(range(before, after)):
            slabs.below[j], slabs.spare[0] = slabs.spare[0], j
        slabs.spare[1] += after - before

    def scrub(self) -> None:
        """Overwrite every byte that is in no block: what was given back may be readable there.

        Cost: a look at the spare chunks, 16 and an eighth of the array at most.
        """
        slabs, chunk = self.slabs, int(self.slabs.spare[2])
        begins = dict.fromkeys(self.chunks(-1), 0)
        for size, last, filled in zip(slabs.sizes, slabs.last, slabs.in_last, strict=True):
            if last >= 0:
                begins[int(last)] = int(size * filled)
        for at, used in begins.items():
            rest = slabs.memory[at * chunk + used : (at + 1) * chunk]
            if rest.any():  # pages that were never written stay so
                rest[:] = 0

    @property
    def nbytes(self) -> int:
        """Of the chunks that hold blocks."""
        return (len(self.slabs.below) - int(self.slabs.spare[1])) * int(self.slabs.spare[2])

    def live_bytes(self) -> int:
        """Of all blocks."""
        slabs = self.slabs
        return int((self.filled() * slabs.sizes).sum())

    def check(self) -> None:
        """Assert what is always true; costs a look at every block. For tests."""
        slabs, spare = self.slabs, self.slabs.spare
        chunks = [self.chunks(c) for c in range(-1, len(slabs.sizes))]
        assert sorted(chunk for mine in chunks for chunk in mine) == list(range(len(slabs.below))), (
            "a chunk is lost, or in two lists"
        )
        assert len(chunks[0]) == spare[1], f"{len(chunks[0])} chunks are spare, {spare[1]} are said to be"
        places = []
        for c, (mine, n) in enumerate(zip(chunks[1:], self.filled().tolist(), strict=True)):
            per_chunk = int(spare[2] // slabs.sizes[c])
            for j in range(n):
                places.append(
                    mine[len(mine) - 1 - j // per_chunk] * int(spare[2]) + j % per_chunk * int(slabs.sizes[c])
                )
                assert slabs.memory[places[-1] + CLASS :][:2].view(np.int16)[0] == c
        owners = [int(slabs.memory[at + OWNER :][:4].view(np.int32)[0]) for at in places]
        assert len(set(owners)) == len(owners), "an owner has two blocks"
        told = (slabs.place[owners].astype(np.int64) - 1) * GRANULE
        assert told.tolist() == places, "a block is not where its owner thinks"
        assert np.count_nonzero(slabs.place) == len(owners), "somebody has a block that is not there"

    def filled(self) -> I64:
        """(c,) blocks of each class."""
        slabs = self.slabs
        per_chunk = slabs.spare[2] // slabs.sizes
        full = np.array([max(len(self.chunks(c)) - 1, 0) for c in range(len(slabs.sizes))], np.int64)
        return full * per_chunk + slabs.in_last

    def chunks(self, size_class: int) -> list[int]:
        """Of one class, the one being filled first; of class -1 the spare ones."""
        found, at = [], int(self.slabs.spare[0] if size_class < 0 else self.slabs.last[size_class])
        while at >= 0:
            found.append(at)
            at = int(self.slabs.below[at])
        return found


def _sizes(granules_max: int) -> I64:
    """1, 2 ... 16, 18, 20 ... 32, 36 ...: eight classes to a doubling, up to the first that is large enough."""
    sizes = [1]
    while sizes[-1] < granules_max:
        sizes.append(sizes[-1] + max(1, 1 << (sizes[-1].bit_length() - 4) if sizes[-1] >= 16 else 1))
    return np.array(sizes, np.int64)


# --- kernels: a block is known by the address of its first byte --------------------------------------------


@kernel
def find(slabs, owner):  # type: ignore[no-untyped-def]
    """The owner's block; 0: it has none."""
    place = np.int64(slabs.place[owner])
    return np.int64(slabs.memory.ctypes.data) + (place - 1) * GRANULE if place else np.int64(0)


@kernel
def give(slabs, owner, size):  # type: ignore[no-untyped-def]
    """A block of at least `size` bytes for the owner. What it holds is anything."""
    c = slabs.class_of[(size + GRANULE - 1) // GRANULE]
    if slabs.last[c] < 0 or slabs.in_last[c] == slabs.spare[2] // slabs.sizes[c]:
        chunk = slabs.spare[0]
        slabs.spare[0] = slabs.below[chunk]
        slabs.spare[1] -= 1
        slabs.below[chunk] = slabs.last[c]
        slabs.last[c] = chunk
        slabs.in_last[c] = 0
    at = slabs.last[c] * slabs.spare[2] + slabs.in_last[c] * slabs.sizes[c]
    slabs.in_last[c] += 1
    slabs.place[owner] = at // GRANULE + 1
    block = np.int64(slabs.memory.ctypes.data) + at
    store32(block + OWNER, owner)
    store16(block + CLASS, c)
    return block


@kernel
def take_back(slabs, block):  # type: ignore[no-untyped-def]
    """This block is not needed any more. Its owner's `place` is the caller's business."""
    memory = np.int64(slabs.memory.ctypes.data)
    c = load16(block + CLASS)
    size = slabs.sizes[c]
    slabs.in_last[c] -= 1
    moved = memory + slabs.last[c] * slabs.spare[2] + slabs.in_last[c] * size
    if moved != block:
        move(block, moved, size)
        slabs.place[load32(block + OWNER)] = (block - memory) // GRANULE + 1
    if slabs.in_last[c] == 0:
        chunk = slabs.last[c]
        slabs.last[c] = slabs.below[chunk]
        slabs.below[chunk] = slabs.spare[0]
        slabs.spare[0] = chunk
        slabs.spare[1] += 1
        slabs.in_last[c] = slabs.spare[2] // size if slabs.last[c] >= 0 else 0


@kernel
def drop(slabs, owners):  # type: ignore[no-untyped-def]
    """Take back the blocks of these owners, those who have one."""
    for owner in owners:
        block = find(slabs, owner)
        if block:
            slabs.place[owner] = 0
            take_back(slabs, block)
