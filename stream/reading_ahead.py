"""A backlog is read one step ahead, and decoded beside the step that is being computed.

Decoding is a function of the bytes alone, and most of its time is spent in kernels that let others run. So
while the engine computes one step, a thread decodes the next. Nothing else is done ahead, and only while steps
come full: who has caught up is handed what is there, at once.

Always true: records are handed out in the order they were polled, and only after the source was asked again
(it tells then whether this engine is still the one that works); what it raised while it was asked ahead is
raised when the records before were handed out; at most one step is held.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .committing import Beside, Committing
from .events import Events, Range, Records, Reject
from .pipeline import Pipeline
from .ports import DiskFailed, InputError, Source, SourceGone, nothing
from .sources import join
from .wire import Decodes

Poll = tuple[Records, tuple[Range, ...]]
_Done = tuple[Records, tuple[Events, list[Reject]]]


SWITCH_S = 0.0005
"""How long a thread may keep the interpreter's lock while another wants it: each kernel lets go of it, and would
wait up to 5 ms to go on."""


def read_ahead(source: Source, pipeline: Pipeline) -> Source:
    """The source for an engine with this pipeline, whose decoder finds done what was decoded ahead."""
    sys.setswitchinterval(SWITCH_S)
    ahead = ReadingAhead(source, pipeline.decoder, Beside("shoal-decode"))
    pipeline.decoder = ahead
    return ahead


class ReadingAhead:
    """A source, and the decoder of what it hands out."""

    def __init__(self, source: Source, decoder: Decodes, beside: Committing) -> None:
        self.finite = source.finite
        self.wall_clock = source.wall_clock
        self._source = source
        self._decoder = decoder
        self._beside = beside
        self._held: Poll | None = None  # polled and not handed out; being decoded
        self._coming: _Done | None = None  # what is held
        self._done: _Done | None = None  # what was handed out last
        self._error: Exception | None = None

    @property
    def mark(self) -> str:
        return self._source.mark

    @mark.setter
    def mark(self, mark: str) -> None:
        self._source.mark = mark

    def poll(self, max_records: int, timeout_s: float) -> Poll | None:
        enough = max(1, max_records // 2)
        polled = self._release()
        if polled is None:
            polled = self._ask(max_records, timeout_s)
        elif len(polled[0]) < enough and (more := self._ask_ahead(max_records - len(polled[0]))) is not None:
            polled = merged(polled, more)
        if polled is not None and len(polled[0]) >= enough:
            self._hold(self._ask_ahead(max_records))
        return polled

    def _release(self) -> Poll | None:
        if self._held is None:
            return None
        self._beside.finish()
        held, self._held, self._done = self._held, None, self._coming
        return held

    def _ask(self, max_records: int, timeout_s: float) -> Poll | None:
        if self._error is not None:
            raise self._error
        return self._source.poll(max_records, timeout_s)

    def _ask_ahead(self, max_records: int) -> Poll | None:
        """What is there, if anything is; what is wrong is told when all before was handed out."""
        try:
            polled = self._ask(max_records, 0.0)
        except (SourceGone, DiskFailed, InputError) as error:
            self._error = error
            return None
        return polled if polled is not None and polled[1] else None

    def _hold(self, polled: Poll | None) -> None:
        if polled is not None:
            self._held = polled
            self._beside.begin(lambda: self._decode(polled[0]))

    def _decode(self, records: Records) -> None:
        self._coming = records, self._decoder.decode(records)

    def decode(self, records: Records) -> tuple[Events, list[Reject]]:
        """As the decoder; at once, where these very records were decoded ahead."""
        if self._done is not None and self._done[0] is records:
            return self._done[1]
        return self._decoder.decode(records)

    def lag(self) -> Mapping[int, int]:
        """What is held was not handed out: it counts."""
        held = {} if self._held is None else {r.partition: r.end - r.start for r in self._held[1]}
        return {p: n + held.get(p, 0) for p, n in self._source.lag().items()}

    # --- the source's own -----------------------------------------------------------------------------------

    def open(self, stopping: Callable[[], bool], meanwhile: Callable[[], None] = nothing) -> bool:
        return self._source.open(stopping, meanwhile)

    def nearest(self, positions: Mapping[int, int]) -> Mapping[int, int]:
        return self._source.nearest(positions)

    def seek(self, positions: Mapping[int, int]) -> None:
        self._release()
        self._error = None
        self._source.seek(positions)

    def read(self, ranges: Sequence[Range]) -> Records:
        return self._source.read(ranges)

    def close(self) -> None:
        self._beside.close()
        self._source.close()


def merged(first: Poll, more: Poll) -> Poll:
    """Two polls as if they had been one: in (partition, offset) order, a range per partition."""
    both = join([first[0], more[0]])
    order = np.lexsort((both.offsets, both.partitions))
    rows = order.tolist()
    traced = both.traceparents
    records = Records(
        both.partitions[order],
        both.offsets[order],
        [both.keys[row] for row in rows],
        [both.values[row] for row in rows],
        {to: traced[row] for to, row in enumerate(rows) if row in traced},
    )
    starts = {r.partition: r.start for r in reversed((*first[1], *more[1]))}
    ends = {r.partition: r.end for r in (*first[1], *more[1])}
    return records, tuple(Range(p, starts[p], ends[p]) for p in sorted(ends))
