"""The engine as a process of its own, for tests that kill, stop or watch it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from kafka_kit import eventually

from shoal.stream.config import Kafka

SHOAL = [sys.executable, "-m", "shoal.stream.cli"]


def write_config(path: Path, kafka: Kafka, **sections: dict[str, Any]) -> Path:
    """A TOML file: these Kafka settings, no HTTP server, and whatever else is given."""
    tables = {"kafka": msgspec.to_builtins(kafka), "http": {"port": 0}} | sections
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items()), ""]
    path.write_text("\n".join(lines))
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    return msgspec.json.encode(value).decode()


class Engine:
    """`shoal run --config FILE` as a process; its log lines are in `log`."""

    def __init__(self, config: Path, log: Path, arguments: Sequence[str] = (), **environment: str) -> None:
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [*SHOAL, "run", "--config", str(config), *arguments],
                stdout=stream,
                stderr=stream,
                env=os.environ | environment,
            )

    def text(self) -> str:
        return self.log.read_text()

    def says(self, what: str, within_s: float = 40.0) -> None:
        """Wait until a line of the log holds `what`."""
        eventually(lambda: what in self.text() or self.must_run(), within_s)

    def must_run(self) -> None:
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.text()[-3000:]}"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, within_s: float = 20.0) -> int:
        """The exit code."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {within_s} s: {self.text()[-3000:]}") from None

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def engine(config: Path, log: Path, arguments: Sequence[str] = (), **environment: str) -> Iterator[Engine]:
    """Runs while the block does, and never longer."""
    running = Engine(config, log, arguments, **environment)
    try:
        yield running
    finally:
        running.kill()


def shoal(*arguments: str, within_s: float = 120.0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Another verb, to its end."""
    return subprocess.run(
        [*SHOAL, *arguments],
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
        env=os.environ | environment,
    )
