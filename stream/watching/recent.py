"""What happened lately: an observer that remembers committed steps for people who ask, within bounds.

Nothing of this is state: it begins empty with the process, and no output depends on it. What lies further back
stands in the topics; `shoal inspect` reads them.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import orjson

from ..events import CHANGES, LINEAGE, Output
from ..ports import Phase, Saved

LINEAGE_MAX = 256
CHANGES_MAX = 10_000
"""Users whose newest change is remembered: about 1 KB each."""
SAMPLES_MAX = 48
"""Sizes of segments over time; when they are full, every other one is dropped and the next come half as often."""


class Recent:
    """Implements ports.Observer. The engine's thread writes, the HTTP thread reads."""

    def __init__(self, changes_max: int = CHANGES_MAX) -> None:
        self._changes_max = changes_max
        self._lock = threading.Lock()
        self._lineage: deque[bytes] = deque(maxlen=LINEAGE_MAX)
        self._changes: OrderedDict[bytes, bytes] = OrderedDict()  # user key -> newest change, oldest first
        self._sizes: list[tuple[int, Mapping[int, int]]] = []  # (stream time, segment id -> users)
        self._spacing_ms = 0
        self._reasons: Counter[str] = Counter()
        self._quality: dict[str, Any] | None = None
        self._step = 0
        self._now_ms = 0
        self.first_step = 0  # from this one on everything was seen; 0: nothing yet

    # --- the observer ---------------------------------------------------------------------------------------

    def stage(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def phase(self, phase: Phase) -> None:
        pass

    def alive(self, lag: Mapping[int, int]) -> None:
        pass

    def snapshot_saved(self, saved: Saved) -> None:
        pass

    def recovered(self, steps: int, seconds: float) -> None:
        pass

    def committed(
        self, output: Output, commit_s: float, lag: Mapping[int, int], latency_s: float | None
    ) -> None:
        with self._lock:
            self.first_step = self.first_step or output.step
            self._step, self._now_ms = output.step, int(output.gauges.get("now_ms", 0))
            for record in output.records:
                if record.topic == CHANGES and record.key is not None and record.value is not None:
                    self._changes.pop(record.key, None)
                    if not _erased(record.value):
                        self._changes[record.key] = record.value
                elif record.topic == LINEAGE and record.value is not None:
                    self._lineage.append(record.value)
            while len(self._changes) > self._changes_max:
                self._changes.popitem(last=False)
            self._reasons.update(output.gauges.get("changes", {}))
            self._sample(output.gauges.get("sizes", {}))

    def quality(self, silhouette: float, davies_bouldin: float, inertia: Sequence[float]) -> None:
        known = [value for value in inertia if value > 0]  # 0: a centre without rows in the reservoir
        measures = {
            "silhouette": silhouette,
            "davies_bouldin": davies_bouldin,
            "inertia": sum(known) / len(known) if known else math.nan,
        }
        with self._lock:
            self._quality = {
                name: value if math.isfinite(value) else None for name, value in measures.items()
            }
            self._quality |= {"step": self._step, "time": self._now_ms}

    def _sample(self, sizes: Mapping[int, int]) -> None:
        if self._sizes and self._now_ms < self._sizes[-1][0] + max(1, self._spacing_ms):
            return
        self._sizes.append((self._now_ms, dict(sizes)))
        if len(self._sizes) >= SAMPLES_MAX:
            self._sizes = self._sizes[::2]
            self._spacing_ms = (self._sizes[-1][0] - self._sizes[0][0]) // (len(self._sizes) - 1)

    # --- what is remembered -----------------------------------------------------------------------------------

    def change(self, key: str) -> dict[str, Any] | None:
        """The newest change of a user, as it was published; None where it is not remembered."""
        with self._lock:
            value = self._changes.get(key.encode("utf-8", "surrogatepass"))
        return None if value is None else orjson.loads(value)

    def lineage(self) -> list[dict[str, Any]]:
        """Facts about segments, newest first."""
        with self._lock:
            values = list(self._lineage)
        return [orjson.loads(value) for value in reversed(values)]

    def measured(self) -> dict[str, Any] | None:
        """The latest measures of quality, and the step before them."""
        with self._lock:
            return None if self._quality is None else dict(self._quality)

    def reasons(self) -> dict[str, int]:
        """Changes by reason, since this process works."""
        with self._lock:
            return dict(self._reasons)

    def trend(self, segment_id: int) -> list[int]:
        """Users of a segment over time, oldest first; 0 before it came to be."""
        with self._lock:
            return [sizes.get(segment_id, 0) for _, sizes in self._sizes]


def _erased(change: bytes) -> bool:
    """Of somebody who was erased nothing is remembered, the erasure included."""
    return b'"erased"' in change and orjson.loads(change)["transition"] == "erased"
