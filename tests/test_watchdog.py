"""The watchdog: a process without progress ends itself with an exit code of its own, and only then."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest

from shoal.stream.commands import run
from shoal.stream.config import Config, Engine, Http
from shoal.stream.ports import Phase, Stuck
from shoal.stream.watching.health import Health
from shoal.stream.watching.metrics import Metrics
from shoal.stream.watching.watchdog import Watchdog

STUCK_AFTER_S, PATIENCE_S = 300.0, 120.0


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Watched:
    """A health and its watchdog on a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.health = Health(Http(), self.clock)
        self.ended: list[str] = []
        self.dog = Watchdog(self.health, STUCK_AFTER_S, PATIENCE_S, self.clock, self.ended.append)

    def pass_s(self, seconds: float) -> str:
        """Time passes, the watchdog looks as often as it does; what it says, once it says something."""
        until_s = self.clock.now_s + seconds
        while self.clock.now_s < until_s:
            self.clock.now_s += self.dog.every_s
            if text := self.dog.look():
                return text
        return ""


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.mark.parametrize("phase", [Phase.RECOVERING, Phase.RUNNING, Phase.STOPPING])
def test_no_sign_of_the_engine_for_the_configured_time_is_stuck(watched: Watched, phase: Phase) -> None:
    watched.health.entered(phase)
    assert watched.pass_s(STUCK_AFTER_S - 10) == ""
    text = watched.pass_s(20)
    assert f"stuck: {phase.value}, no sign of the engine for 30" in text
    assert "limit 300 s" in text


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.WAITING])
def test_who_starts_or_waits_for_a_broker_may_first_take_the_time_configured_for_that(
    watched: Watched, phase: Phase
) -> None:
    watched.health.entered(phase)
    assert watched.pass_s(STUCK_AFTER_S + PATIENCE_S - 10) == ""
    assert "limit 420 s" in watched.pass_s(20)


def test_who_stands_by_has_nothing_to_show_and_is_judged_anew_when_it_works(watched: Watched) -> None:
    watched.health.entered(Phase.STANDBY)
    assert watched.pass_s(50 * STUCK_AFTER_S) == ""
    watched.health.entered(Phase.RECOVERING)
    assert watched.pass_s(STUCK_AFTER_S - 10) == ""
    assert watched.pass_s(20) != ""


def test_an_engine_that_turns_while_input_waits_but_never_commits_is_stuck(watched: Watched) -> None:
    watched.health.entered(Phase.RUNNING)
    for _ in range(59):
        watched.health.polled(lag_records=7)
        assert watched.pass_s(5) == ""
    watched.health.polled(lag_records=7)
    assert "input waits, but nothing was committed for 30" in watched.pass_s(15)


def test_a_commit_and_an_empty_topic_are_both_progress(watched: Watched) -> None:
    watched.health.entered(Phase.RUNNING)
    for turn in range(300):
        watched.health.polled(lag_records=7 if turn % 50 else 0)
        assert watched.pass_s(5) == ""
    for turn in range(300):
        watched.health.polled(lag_records=7)
        if turn % 50 == 0:
            watched.health.committed()
        assert watched.pass_s(5) == ""


def test_time_in_which_the_whole_process_was_frozen_is_not_the_engines_fault(watched: Watched) -> None:
    """After SIGCONT the watchdog may be the first thread to run: it gives the engine its full time again."""
    watched.health.entered(Phase.RUNNING)
    watched.clock.now_s += 100 * STUCK_AFTER_S
    assert watched.dog.look() == ""
    assert watched.pass_s(STUCK_AFTER_S - 10) == ""
    assert watched.pass_s(20) != ""


# --- for real -----------------------------------------------------------------------------------------------

_BLOCKED = """
import sys, threading
from shoal.sinks.memory import MemorySink
from shoal.stream import wiring
from shoal.stream.cli import main
from shoal.stream.sources import MemorySource

class HangingSink(MemorySink):
    def commit(self, output):
        threading.Event().wait()

event = b'{"event_id": "1", "type": "view", "user_id": "u", "event_time": 1700000000000}'
wiring.kafka_ports = lambda config, on_phase=None: (MemorySource([[event]]), HangingSink())
main(["run", "--set", "encoder.kind=identity", "--set", "http.port=0", *sys.argv[1:]])
"""


def run_blocked(*arguments: str, within_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _BLOCKED, *arguments],
        capture_output=True, text=True, timeout=within_s, check=False,
    )  # fmt: skip


def test_a_process_whose_engine_hangs_in_a_commit_ends_and_says_where_every_thread_stands() -> None:
    """`shoal run` starts the watchdog; exit code 11, the hanging call in the log, no user id in it."""
    ended = run_blocked("--set", "engine.stuck_after_s=1", "--set", "kafka.broker_wait_s=0", within_s=60)
    assert ended.returncode == Stuck.exit_code == 11, ended.stderr[-3000:]
    assert "stuck: running, no sign of the engine for" in ended.stderr
    assert "in commit\n" in ended.stderr  # the hanging call, in the main thread
    assert "in _watch" in ended.stderr  # and every other thread


@pytest.mark.parametrize("stuck_after_s", [0.0, 300.0])
def test_the_watchdog_lives_as_long_as_the_run_and_zero_seconds_mean_none(stuck_after_s: float) -> None:
    config = Config(engine=Engine(stuck_after_s=stuck_after_s))
    with ExitStack() as stack:
        run._watch(config, stack, Metrics())
        assert len(watchdogs()) == bool(stuck_after_s)
    for thread in watchdogs():
        thread.join(5)
    assert watchdogs() == []


def watchdogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "shoal-watchdog"]
