"""Steps of simulated behaviour: what an engine would poll, without one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..events import Range, Records, Step
from ..simulation.population import Settings
from ..simulation.simulator import Simulator


def steps(settings: Settings, records: int, closing: bool = False) -> Iterator[Step]:
    """The simulation as steps of `records` records, in the events' own time; numbers begin at 1."""
    offset = 0
    for number, batch in enumerate(Simulator(settings).batches(records), 1):
        yield step_of(number, offset, batch.values)
        offset += len(batch.values)
    if closing:
        yield step_of(number + 1, offset, (), closing=True)


def step_of(number: int, offset: int, values: list[bytes | None] | tuple[()], closing: bool = False) -> Step:
    """These values as one step of partition 0, whose offsets go on from `offset`."""
    n = len(values)
    partitions, offsets = np.zeros(n, np.int32), np.arange(offset, offset + n, dtype=np.int64)
    records = Records(partitions, offsets, (None,) * n, values)
    ranges = (Range(0, offset, offset + n),) if n else ()
    return Step(number, ranges, records, None, closing)
