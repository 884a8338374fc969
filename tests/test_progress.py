"""Progress for people: plain lines where there is no terminal, a live table where there is one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from made import manifest
from rich.console import Console

from shoal.stream.events import Counts, Output
from shoal.stream.ports import Phase, Saved
from shoal.stream.watching.progress import PLAIN_EVERY_S, Progress, Tee


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def output(step: int, records: int = 1000, **gauges: Any) -> Output:
    counts = Counts(records, records - 30, 10, 5, {"json": 15})
    gauges = {"now_ms": 1_767_571_200_000, "users": 42, "sizes": {1: 40, 2: 2, 3: 0}, "changes": {}} | gauges
    return Output(step, (), manifest(step, counts=counts), counts, gauges)


def plain() -> tuple[Progress, io.StringIO, Clock]:
    text, clock = io.StringIO(), Clock()
    return Progress(10_000, Console(file=text, force_terminal=False, width=200), clock), text, clock


def test_without_a_terminal_a_line_comes_every_two_seconds_and_at_the_end() -> None:
    progress, text, clock = plain()
    with progress:
        for step in range(1, 10):
            clock.now_s += PLAIN_EVERY_S / 2
            progress.committed(output(step), 0.01, {0: 7}, None)
    lines = text.getvalue().splitlines()
    assert len(lines) == 4 + 1
    assert "9,000 records (90 %)" in lines[-1]
    assert "42 users" in lines[-1]
    assert "2 segments" in lines[-1]  # the third is empty
    assert "lag 7" in lines[-1]
    assert "\x1b" not in text.getvalue()


def test_an_engine_that_only_turns_is_also_seen() -> None:
    progress, text, clock = plain()
    with progress:
        progress.committed(output(1), 0.0, {}, None)
        clock.now_s += PLAIN_EVERY_S
        progress.alive({0: 3, 1: 4})
        assert "lag 7" in text.getvalue()


def test_nothing_is_said_when_nothing_happened() -> None:
    progress, text, _ = plain()
    with progress:
        pass
    assert text.getvalue() == ""


def test_the_rate_is_that_of_the_last_seconds() -> None:
    progress, _, clock = plain()
    with progress:
        for step in range(1, 101):  # slow at first, then fast
            clock.now_s += 1.0 if step <= 50 else 0.1
            progress.committed(output(step), 0.0, {}, None)
        assert progress.events_per_s() == pytest.approx(10_000, rel=0.1)


def test_changes_add_up_over_steps() -> None:
    progress, _, _ = plain()
    with progress:
        for step in (1, 2, 3):
            progress.committed(output(step, changes={"user_behavior": 2, "expiry": 1}), 0.0, {}, None)
        assert progress.seen.changed == 9
        assert "9 changes" in progress.line()


def test_the_time_of_a_step_is_that_of_its_stages_without_waiting_for_input() -> None:
    progress, _, clock = plain()
    with progress:
        for name, took_s in (("poll", 5.0), ("decode", 0.25), ("commit", 0.25)):
            with progress.stage(name):
                clock.now_s += took_s
        progress.committed(output(1), 0.25, {}, None)
        assert progress.seen.step_s == pytest.approx(0.5)
        assert "step 500 ms" in progress.line()


def test_the_wait_for_the_first_step_is_explained() -> None:
    progress, text, _ = plain()
    with progress:
        progress.phase(Phase.RUNNING)
        assert "compiles the kernels" in text.getvalue()
        progress.committed(output(1), 0.0, {}, None)
        assert "compiles" not in progress.line()


def test_a_run_is_done_only_when_nothing_waits() -> None:
    progress, _, _ = plain()
    for lag, word in ((7, "stopping"), (0, "done")):
        progress.committed(output(1), 0.0, {0: lag}, None)
        progress.phase(Phase.STOPPING)
        assert f"| {word} |" in progress.line()


def test_recovery_is_said_at_once() -> None:
    progress, text, _ = plain()
    progress.phase(Phase.RECOVERING)
    progress.recovered(12, 3.4)
    assert "recovered: 12 steps" in text.getvalue()


def test_on_a_terminal_the_table_shows_reasons_and_where_the_time_goes() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    with Progress(2000, console, Clock()) as progress:
        progress.phase(Phase.RUNNING)
        with progress.stage("windows"):
            pass
        progress.snapshot_saved(Saved(1, 0.1, 2_000_000, 0.01))
        progress.quality(0.5, 1.2, [0.1])
        progress.committed(output(1, changes={"segment_moved": 3}), 0.002, {0: 1000}, 0.25)
        plain_console = Console(file=io.StringIO(), width=120)
        plain_console.print(progress.render())
        shown = plain_console.file.getvalue()
    for part in (
        "running",
        "2026-01-05",
        "segment_moved 3",
        "0.25 s from event",
        "windows",
        "silhouette 0.50",
    ):
        assert part in shown
    assert "1,000 records" in text.getvalue()  # the last line stays when the table is gone


class Recorder:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.told.append(f"+{name}")
        yield
        self.told.append(f"-{name}")

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.told.append(name)


def test_a_tee_tells_everybody_everything() -> None:
    first, second = Recorder(), Recorder()
    tee = Tee([first, second])
    with tee.stage("poll"):
        tee.phase(Phase.RUNNING)
    tee.committed(output(1), 0.0, {}, None)
    tee.alive({})
    tee.snapshot_saved(Saved(1, 0.0, 0, 0.0))
    tee.recovered(1, 0.0)
    tee.quality(0.0, 0.0, [])
    wanted = ["+poll", "phase", "-poll", "committed", "alive", "snapshot_saved", "recovered", "quality"]
    assert first.told == second.told == wanted
