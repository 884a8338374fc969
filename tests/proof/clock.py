"""A clock that only the simulation moves; stands where the `time` module stands."""

from __future__ import annotations

from collections.abc import Callable


class FakeClock:
    """Seconds since the start of the simulation; whoever must act when time passes says so with `watch`."""

    def __init__(self, start_ms: int) -> None:
        self.now_s = 0.0
        self._start_ns = start_ms * 1_000_000
        self._watchers: list[Callable[[], None]] = []

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return self._start_ns + int(self.now_s * 1e9)

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call it whenever time has moved."""
        self._watchers.append(watcher)

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        for watcher in self._watchers:
            watcher()
