"""The warm-up: when it ends, and that nobody counts more than once in it."""

import numpy as np

from shoal.stream.config import Segmenter as Config
from shoal.stream.warmup import Warmup


def rows(*values):
    return np.array(values, np.float32).reshape(-1, 1)


def slots(*numbers):
    return np.array(numbers, np.int32)


def test_of_each_user_the_latest_row_is_kept():
    """A bot in every step is one row, as everybody else; the order is that of the first rows."""
    warmup = Warmup(Config(segments=2, warmup_rows=6))
    assert warmup.offer(slots(7, 3), rows(1, 2), 0, closing=False) is None
    assert warmup.offer(slots(7, 5), rows(3, 4), 1, closing=False) is None
    buffer = warmup.offer(slots(7, 3, 9), rows(5, 6, 8), 2, closing=False)
    assert buffer is not None
    assert buffer.tolist() == [[5], [6], [4]]  # slot 9 found no room
    assert warmup.done


def test_it_starts_when_rows_time_or_input_run_out():
    """Offered rows count towards warmup_rows, also those that replace an older one."""
    full, waited, closing = (Warmup(Config(segments=1, warmup_rows=2, warmup_ms=10)) for _ in range(3))
    assert full.offer(slots(1), rows(1), 0, closing=False) is None
    assert full.offer(slots(1), rows(2), 1, closing=False) is not None
    assert waited.offer(slots(1), rows(1), 0, closing=False) is None
    assert waited.offer(slots(), np.empty((0, 1), np.float32), 10, closing=False) is not None
    assert closing.offer(slots(1), rows(1), 0, closing=True) is not None


def test_restore_continues_as_if_nothing_had_happened():
    """Halfway through; and the rows that were offered stay as they were when their array changes."""
    one, other = (Warmup(Config(segments=1, warmup_rows=3)) for _ in range(2))
    given = rows(1, 2)
    one.offer(slots(4, 2), given, 5, closing=False)
    given[:] = 99
    other.restore(one.snapshot())
    ends = [w.offer(slots(2), rows(3), 6, closing=False) for w in (one, other)]
    assert [end.tolist() for end in ends if end is not None] == [[[1], [3]]] * 2
    assert other.snapshot()["done"]
