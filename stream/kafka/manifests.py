"""The manifest topic, read again and again by one process, and never from its beginning twice.

Who stands by asks for the newest manifest several times a second; who works asks after every step whether
its own has arrived. So one reader stands, and two places are remembered: how far the newest manifest was
looked for, and where the manifests handed out last ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ..events import Manifest
from ..manifest import decode_manifest
from .port import Log, Record

_SLICE = 2048  # offsets read at once: a caller may ask for something else while it goes through them
_FIRST_BACK = 16  # markers and aborted transactions stand between the last manifest and the end


class Manifests:
    """Committed manifests, oldest first, one partition.

    Always true: `_last` is the newest manifest below offset `_known`; the manifest of step `_step` is the last
    one below offset `_after_step`.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.forget()

    def forget(self) -> None:
        """Whatever was read counts for nothing: the next call asks the log again."""
        self._known: int | None = None
        self._last: Manifest | None = None
        self._step, self._after_step = 0, 0

    def last(self) -> Manifest | None:
        """The newest manifest. Costs one question to the broker when nothing new was committed."""
        first, end = self._log.bounds()[0]
        if self._known is not None and end < self._known:
            self.forget()  # not the log that was read before
        start = self._search(first, end) if self._known is None else self._known
        if newest := deque(self._read(start, end), maxlen=1):
            self._last = _decode(newest[0])
        self._known = end
        return self._last

    def _search(self, first: int, end: int) -> int:
        """An offset at or before the newest manifest, looked for from the end in growing strides."""
        back = _FIRST_BACK
        while end - back > first and next(self._read(end - back, end), None) is None:
            back *= 8
        return max(first, end - back)

    def after(self, step: int) -> Iterator[Manifest]:
        """Manifests of later steps, in order, up to the end at the time of the call."""
        first, end = self._log.bounds()[0]
        for record in self._read(self._start_of(step, first, end), end):
            manifest = _decode(record)
            if manifest.step > step:
                self._step, self._after_step = manifest.step, record.offset + 1
                yield manifest

    def _start_of(self, step: int, first: int, end: int) -> int:
        """An offset at or before the manifest that follows `step`: known, or found from the end in strides."""
        if 0 < self._step <= step and first <= self._after_step <= end:
            return self._after_step
        back = 4 * _FIRST_BACK
        while step > 0 and end - back > first:
            record = next(self._read(end - back, end), None)
            if record is not None and _decode(record).step <= step + 1:
                return end - back
            back *= 4
        return first

    def _read(self, start: int, end: int) -> Iterator[Record]:
        for begin in range(start, end, _SLICE):
            yield from list(self._log.read(0, begin, min(begin + _SLICE, end)))

    def arrived(self, timeout_s: float) -> Record | None:
        """The first record behind the newest manifest known, waited for; None: it did not come in time."""
        assert self._known is not None, "last() before arrived()"
        found = next(iter(self._log.tail(0, self._known, timeout_s)), None)
        if found is not None:
            self._known = found.offset + 1
            self._last = _decode(found)
        return found

    def close(self) -> None:
        self._log.close()


def _decode(record: Record) -> Manifest:
    return decode_manifest(record.value or b"")
