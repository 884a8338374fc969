"""What the engine is doing, for a person: a live table on a terminal, a plain line now and then elsewhere.

    with Progress(total=100_000) as progress:
        Engine(..., observer=progress).run()

It writes to stderr, so that stdout stays clean for results.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..events import Counts, Output
from ..ports import Observer, Phase, Saved

PLAIN_EVERY_S = 2.0
_RATE_OVER_S = 3.0
_REFRESH_PER_S = 5
_FIRST = "the first step on a machine also compiles the kernels"


class Tee:
    """An observer that tells several others, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with ExitStack() as stack:
            for observer in self._observers:
                stack.enter_context(observer.stage(name))
            yield

    def phase(self, phase: Phase) -> None:
        for observer in self._observers:
            observer.phase(phase)

    def committed(
        self, output: Output, commit_s: float, lag: Mapping[int, int], latency_s: float | None
    ) -> None:
        for observer in self._observers:
            observer.committed(output, commit_s, lag, latency_s)

    def alive(self, lag: Mapping[int, int]) -> None:
        for observer in self._observers:
            observer.alive(lag)

    def snapshot_saved(self, saved: Saved) -> None:
        for observer in self._observers:
            observer.snapshot_saved(saved)

    def recovered(self, steps: int, seconds: float) -> None:
        for observer in self._observers:
            observer.recovered(steps, seconds)

    def quality(self, silhouette: float, davies_bouldin: float, inertia: Sequence[float]) -> None:
        for observer in self._observers:
            observer.quality(silhouette, davies_bouldin, inertia)


@dataclass(slots=True)
class Seen:
    """What an observer was told so far."""

    counts: Counts = field(default_factory=Counts)
    step: int = 0
    now_ms: int = 0  # stream time
    users: int = 0
    segments: int = 0  # with at least one user
    changes: dict[str, int] = field(default_factory=dict)  # reason -> count
    lag: int = 0
    step_s: float = 0.0  # computing and committing the latest step
    commit_s: float = 0.0
    latency_s: float | None = None
    stages_s: dict[str, float] = field(default_factory=dict)  # stage -> seconds so far
    note: str = ""  # the latest thing worth saying

    def take(self, output: Output, commit_s: float, latency_s: float | None) -> None:
        gauges = output.gauges
        self.counts = self.counts.plus(output.counts)
        self.step = output.step
        self.now_ms = gauges.get("now_ms", 0)
        self.users = gauges.get("users", 0)
        self.segments = sum(1 for size in gauges.get("sizes", {}).values() if size)
        for reason, count in gauges.get("changes", {}).items():
            self.changes[reason] = self.changes.get(reason, 0) + count
        self.commit_s, self.latency_s = commit_s, latency_s

    @property
    def changed(self) -> int:
        return sum(self.changes.values())


class Progress:
    """Implements ports.Observer. A live table where `console` is a terminal, else a line every 2 s."""

    def __init__(
        self,
        total: int | None = None,
        console: Console | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seen = Seen()
        self._total = total
        self._console = console or Console(stderr=True, highlight=False)
        self._clock_s = clock_s
        self._began_s = clock_s()
        self._printed_s = clock_s()
        self._phase = Phase.STARTING
        self._computing_s = 0.0
        self._marks: deque[tuple[float, int]] = deque(maxlen=512)  # (when, records), for the rate
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._began_s = self._printed_s = self._clock_s()
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self.render,
                console=self._console,
                refresh_per_second=_REFRESH_PER_S,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self.seen.step:
            self._say("")

    # --- the observer -------------------------------------------------------------------------------------

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began_s = self._clock_s()
        try:
            yield
        finally:
            took_s = self._clock_s() - began_s
            self.seen.stages_s[name] = self.seen.stages_s.get(name, 0.0) + took_s
            if name != "poll":
                self._computing_s += took_s

    def phase(self, phase: Phase) -> None:
        self._phase = phase
        if phase is Phase.RUNNING and not self.seen.step:
            self._say(_FIRST)
        elif phase in (Phase.STANDBY, Phase.RECOVERING, Phase.WAITING):
            self._say("")

    def committed(
        self, output: Output, commit_s: float, lag: Mapping[int, int], latency_s: float | None
    ) -> None:
        self.seen.take(output, commit_s, latency_s)
        self.seen.note = self.seen.note.replace(_FIRST, "")
        self.seen.step_s, self._computing_s = self._computing_s, 0.0
        self.seen.lag = sum(lag.values())
        self._marks.append((self._clock_s(), self.seen.counts.records))
        self._maybe_print()

    def alive(self, lag: Mapping[int, int]) -> None:
        self.seen.lag = sum(lag.values())
        self._maybe_print()

    def snapshot_saved(self, saved: Saved) -> None:
        size = saved.size_bytes / 1e6
        self.seen.note = f"snapshot of step {saved.step}: {size:.1f} MB in {saved.seconds:.2f} s"

    def recovered(self, steps: int, seconds: float) -> None:
        self._computing_s = 0.0
        self._say(f"recovered: {steps} steps computed again in {seconds:.1f} s, every hash the same")

    def quality(self, silhouette: float, davies_bouldin: float, inertia: Sequence[float]) -> None:
        self.seen.note = f"silhouette {silhouette:.2f}, Davies-Bouldin {davies_bouldin:.2f}"

    # --- for people -----------------------------------------------------------------------------------------

    def events_per_s(self) -> float:
        """Over the last few seconds; while these are not there yet, since the beginning."""
        now_s = self._clock_s()
        while len(self._marks) > 1 and now_s - self._marks[0][0] > _RATE_OVER_S:
            self._marks.popleft()
        if len(self._marks) < 2:
            return self.seen.counts.records / max(1e-9, now_s - self._began_s)
        (from_s, from_n), (_, to_n) = self._marks[0], self._marks[-1]
        return (to_n - from_n) / max(1e-9, now_s - from_s)

    def line(self) -> str:
        """Everything in one line of plain text."""
        seen = self.seen
        parts = [
            f"{self._clock_s() - self._began_s:6.1f} s",
            "done" if self._phase is Phase.STOPPING and not seen.lag else self._phase.value,
            f"{seen.counts.records:,} records{self._share()}",
            f"{self.events_per_s():,.0f}/s",
            f"{seen.users:,} users",
            f"{seen.segments} segments",
            f"{seen.changed:,} changes",
            f"lag {seen.lag:,}",
            f"step {seen.step_s * 1000:.0f} ms",
        ]
        return " | ".join(parts) + (f" | {seen.note}" if seen.note else "")

    def render(self) -> Group:
        """The live table."""
        seen, counts = self.seen, self.seen.counts
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold cyan", justify="right")
        table.add_column()
        table.add_row("phase", f"{self._phase.value}, {self._clock_s() - self._began_s:.0f} s")
        table.add_row("stream time", _day(seen.now_ms))
        table.add_row("records", f"{counts.records:,}{self._share()}   {self.events_per_s():,.0f} a second")
        refused = sum(counts.rejected.values())
        table.add_row(
            "of them",
            f"accepted {counts.accepted:,}   duplicates {counts.duplicates:,}   late {counts.late:,}   "
            f"rejected {refused:,}",
        )
        table.add_row("users", f"{seen.users:,} in {seen.segments} segments")
        table.add_row("changes", f"{seen.changed:,}   {_reasons(seen.changes)}")
        table.add_row("lag", f"{seen.lag:,} records{_latency(seen.latency_s)}")
        table.add_row(
            "step", f"no. {seen.step}: {seen.step_s * 1000:.0f} ms, commit {seen.commit_s * 1000:.0f} ms"
        )
        table.add_row("longest in", _stages(seen.stages_s))
        if seen.note:
            table.add_row("", Text(seen.note, style="dim"))
        if self._total:
            bar = ProgressBar(total=self._total, completed=min(counts.records, self._total), width=60)
            return Group(table, bar)
        return Group(table)

    def _share(self) -> str:
        return f" ({100 * self.seen.counts.records / self._total:.0f} %)" if self._total else ""

    def _say(self, text: str) -> None:
        self.seen.note = text
        if self._live is None:
            self._console.print(self.line(), soft_wrap=True)

    def _maybe_print(self) -> None:
        now_s = self._clock_s()
        if self._live is None and now_s - self._printed_s >= PLAIN_EVERY_S:
            self._printed_s = now_s
            self._console.print(self.line(), soft_wrap=True)


def _day(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC" if time_ms else "not begun"


def _reasons(changes: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {n:,}" for reason, n in sorted(changes.items(), key=lambda c: -c[1]) if n)


def _latency(latency_s: float | None) -> str:
    return "" if latency_s is None else f", {latency_s:.2f} s from event to commit"


def _stages(stages_s: Mapping[str, float]) -> str:
    total_s = sum(seconds for name, seconds in stages_s.items() if name != "poll") or 1e-9
    longest = sorted(((s, name) for name, s in stages_s.items() if name != "poll"), reverse=True)[:4]
    return ", ".join(f"{name} {100 * seconds / total_s:.0f} %" for seconds, name in longest)
