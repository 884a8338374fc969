"""`shoal run` as an operator drives it: starting over with --fresh-state, starting again, ending early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from made import manifest
from processes import SHOAL

from shoal.sinks.memory import MemorySink
from shoal.stream import cli, wiring
from shoal.stream.commands import run
from shoal.stream.events import MANIFEST, Manifest, Output
from shoal.stream.kafka import source as kafka_source
from shoal.stream.ports import CommitUnknown, ReplayMismatch, SourceGone, StateMismatch
from shoal.stream.sources import MemorySource

FAST = ("--set", "encoder.kind=identity", "--set", "segmenter.segments=8", "--set", "segmenter.warmup_rows=8")
TWO, THREE = ("--set", "segmenter.segments=2"), ("--set", "segmenter.segments=3")


def line(n: int, user: int = 0) -> bytes:
    event = {
        "event_id": f"e{n}",
        "type": "view",
        "user_id": f"u{user or n % 7}",
        "event_time": 1_767_600_000_000 + n * 60_000,
    }
    return json.dumps(event).encode()


class Files:
    """A run over one file of events into one folder."""

    def __init__(self, folder: Path) -> None:
        self.input, self.output = folder / "events.jsonl", folder / "out"
        self.lines = [line(n) for n in range(40)]
        self.write()

    def write(self) -> None:
        self.input.write_bytes(b"".join(text + b"\n" for text in self.lines))

    def run(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
        """Exit code, and what was said on stderr."""
        wanted = ["run", "--input", str(self.input), "--output", str(self.output), "--json", *FAST]
        with pytest.raises(SystemExit) as end:
            cli.main([*wanted, *arguments])
        return int(end.value.code or 0), capsys.readouterr().err

    def epochs(self) -> list[int]:
        """Of every recorded step."""
        lines = (self.output / f"{MANIFEST}.jsonl").read_text().splitlines()
        return [json.loads(text)["value"]["epoch"] for text in lines]


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Files:
    """A finished run with two segments."""
    made = Files(tmp_path)
    assert made.run(capsys, *TWO)[0] == 0
    assert set(made.epochs()) == {1}
    return made


# --- --fresh-state ------------------------------------------------------------------------------------------


def reconfigure(files: Files) -> tuple[str, ...]:
    return THREE


def cut(files: Files) -> tuple[str, ...]:
    files.lines = files.lines[:10]
    files.write()
    return TWO


def alter(files: Files) -> tuple[str, ...]:
    files.lines[3] = line(3, user=99)
    files.lines.append(line(40))
    files.write()
    return TWO


@pytest.mark.parametrize(
    ("harm", "error"), [(reconfigure, StateMismatch), (cut, SourceGone), (alter, ReplayMismatch)]
)
def test_what_stops_a_run_names_fresh_state_and_fresh_state_is_the_way_on(
    files: Files, capsys: pytest.CaptureFixture[str], harm: Callable[[Files], tuple[str, ...]], error: type
) -> None:
    """Exit codes 5, 6 and 7: the message says what to do, and doing it works, once."""
    settings = harm(files)
    code, said = files.run(capsys, *settings)
    assert code == error.exit_code, said
    assert "--fresh-state" in said
    code, said = files.run(capsys, *settings, "--fresh-state=2")
    assert code == 0, said
    assert set(files.epochs()) == {1, 2}
    assert files.run(capsys, *settings)[0] == 0


def test_a_number_begins_its_epoch_once_and_a_bare_flag_one_each_time(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """A supervisor may start the command with the number again and again."""
    for _ in range(3):
        assert files.run(capsys, *TWO, "--fresh-state", "2")[0] == 0
        assert max(files.epochs()) == 2
    for epoch in (3, 4):
        assert files.run(capsys, "--fresh-state", *TWO)[0] == 0
        assert max(files.epochs()) == epoch
    assert files.run(capsys, *TWO, "--fresh-state=-1")[0] == 2


def test_an_epoch_is_named_by_its_number_when_the_process_starts_again() -> None:
    """Last on the command line it outweighs a bare flag; nothing is added twice, or where nothing began."""
    bare = ["run", "--fresh-state", "--json"]
    assert run.again(bare, 3) == [*bare, "--fresh-state=3"]
    assert run.again(run.again(bare, 3), 3) == [*bare, "--fresh-state=3"]
    assert run.again(bare, 0) == bare, "no epoch has begun: the next process must begin it"
    assert run.again(["run"], None) == ["run"]


class LosesItsBroker(MemorySink):
    """Has a past in epoch 4, and no broker after the first step of the next epoch."""

    def __init__(self, last: Manifest | None) -> None:
        super().__init__()
        self.steps: list[Manifest] = [] if last is None else [last]

    def open(self) -> Manifest | None:
        return self.last()

    def last(self) -> Manifest | None:
        return self.steps[-1] if self.steps else None

    def manifests(self, after: int = 0):
        return iter([m for m in self.steps if m.step > after])

    def commit(self, output: Output) -> None:
        self.steps.append(output.manifest)
        raise CommitUnknown("the broker went away", broker_away=True)


@pytest.mark.parametrize(("last", "epoch"), [(manifest(7, epoch=4), 5), (None, 1)])
def test_a_broker_that_was_away_makes_a_bare_flag_begin_one_epoch_not_two(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, last: Manifest | None, epoch: int
) -> None:
    """The process that takes over is told the number of the epoch that the first one began; and who gave none
    is told what that means."""
    sink, started = LosesItsBroker(last), []
    arguments = [
        "run",
        "--fresh-state",
        *FAST,
        *TWO,
        "--set",
        "http.port=0",
        "--set",
        "engine.stuck_after_s=0",
    ]
    monkeypatch.setattr(sys, "argv", ["shoal", *arguments])
    monkeypatch.setattr(
        wiring, "kafka_ports", lambda *_: (MemorySource([[line(n) for n in range(40)]]), sink)
    )
    monkeypatch.setattr(kafka_source, "wait_for_broker", lambda *_: None)
    monkeypatch.setattr(os, "execv", lambda program, line: started.append(line))
    with pytest.raises((SystemExit, UnboundLocalError)):
        cli.main(arguments)
    assert sink.steps[-1].epoch == epoch
    assert "begins epoch N once" in caplog.text
    assert started == [[sys.executable, "-m", "shoal.stream.cli", *arguments, f"--fresh-state={epoch}"]]


# --- ending -------------------------------------------------------------------------------------------------


def test_sigterm_where_nothing_is_in_flight_ends_the_process_with_0(tmp_path: Path) -> None:
    """Here it waits for a broker that is not there, before its engine works."""
    arguments = ["run", "--set", "kafka.bootstrap_servers=127.0.0.1:1", "--set", "http.port=0", *FAST]
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen([*SHOAL, *arguments], stdout=stream, stderr=stream)
    try:
        until_s = time.monotonic() + 30
        while "configuration:" not in log.read_text() and time.monotonic() < until_s:
            assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
