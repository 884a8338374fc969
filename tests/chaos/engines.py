"""Three engines of one group, each with its own folder and its own hash seed; whoever ends is started again."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from processes import write_config

from shoal.stream.config import Kafka
from shoal.stream.ports import CommitUnknown

from .engine import Spec
from .points import Order

NAMES = ("a", "b", "c")
STOPPED = {0, -signal.SIGTERM}
"""How an engine may end when it is told to stop: in order, or before it had begun to listen."""
_EXPECTED = {*STOPPED, -signal.SIGKILL, CommitUnknown.exit_code}
_TESTS = Path(__file__).resolve().parent.parent
_BIRTH_S = 60.0


def environment(hash_seed: int) -> dict[str, str]:
    """Of a process that imports this package, and whose sets and dicts of text have an order of their own."""
    path = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": str(hash_seed)}


class Nursery:
    """A process that forks engines, and tells when they end."""

    def __init__(self, hash_seed: int, log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chaos.nursery"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment(hash_seed),
            )  # fmt: skip
        self._births: queue.Queue[int] = queue.Queue()
        self._codes: dict[int, int] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = msgspec.json.decode(line)
            if "born" in said:
                self._births.put(said["born"])
            elif "ended" in said:
                self._codes[said["ended"]] = said["code"]

    def bear(self, spec: Spec, log: Path) -> int:
        """The new engine's process id."""
        assert self._process.stdin is not None
        birth = {"spec": msgspec.to_builtins(spec), "log": str(log)}
        self._process.stdin.write(msgspec.json.encode(birth) + b"\n")
        self._process.stdin.flush()
        return self._births.get(timeout=_BIRTH_S)

    def code(self, pid: int) -> int | None:
        """How a process ended; None while it runs."""
        return self._codes.get(pid)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Engine:
    """One of the three, over all its lives."""

    def __init__(self, name: str, folder: Path, spec: Spec, nursery: Nursery) -> None:
        self.name = name
        self.state_dir = folder / f"state-{name}"
        self.lives = 0
        self.pid = 0
        self._folder = folder
        self._spec = spec
        self._nursery = nursery

    def start(self, order: Order | None = None) -> None:
        assert not self.alive
        self.forget_orders()
        if order is not None:
            self.order(order)
        self.lives += 1
        self.pid = self._nursery.bear(self._spec, self.log)

    @property
    def log(self) -> Path:
        """Of this life."""
        return self._folder / f"{self.name}-{self.lives:03d}.txt"

    @property
    def text(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    @property
    def alive(self) -> bool:
        return self.pid > 0 and self._nursery.code(self.pid) is None

    @property
    def code(self) -> int | None:
        return self._nursery.code(self.pid)

    @property
    def frozen(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].startswith("T")
        except (FileNotFoundError, ProcessLookupError):
            return False

    def order(self, order: Order) -> None:
        """To be carried out when it passes the point; replaces an earlier order."""
        order.write(Path(self._spec.orders))

    def forget_orders(self) -> None:
        Path(self._spec.orders).unlink(missing_ok=True)

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def snapshots(self) -> list[Path]:
        """Newest last."""
        return sorted(self.state_dir.glob("snapshot-*.safetensors"))


class Crew:
    """The three together."""

    def __init__(
        self, folder: Path, kafka: Kafka, sections: Mapping[str, dict[str, Any]], broken: str = ""
    ) -> None:
        self._leader = folder / "leader"
        self.nurseries = [Nursery(seed, folder / "nursery.txt") for seed in range(1, 1 + len(NAMES))]
        self.engines = []
        self.resting: set[str] = set()  # names of those who are not started again for now
        for name, nursery in zip(NAMES, self.nurseries, strict=True):
            engine = dict(sections.get("engine", {})) | {"state_dir": str(folder / f"state-{name}")}
            path = write_config(folder / f"{name}.toml", kafka, **{**sections, "engine": engine})
            spec = Spec(name, str(path), str(folder / f"{name}.order"), str(self._leader), broken)
            self.engines.append(Engine(name, folder, spec, nursery))

    def leader(self) -> Engine | None:
        """Who fenced last, if it lives and is awake."""
        try:
            name, pid = self._leader.read_text().split()
        except FileNotFoundError:
            return None
        found = next(engine for engine in self.engines if engine.name == name)
        return found if found.pid == int(pid) and found.alive and not found.frozen else None

    def tend(self) -> list[str]:
        """Start again whoever ended; what ended as it must not, in words."""
        complaints = []
        for engine in self.engines:
            if engine.alive or engine.name in self.resting:
                continue
            if engine.pid and engine.code not in _EXPECTED:
                complaints.append(f"engine {engine.name} ended with {engine.code}: {engine.text[-2000:]}")
            engine.start()
        return complaints

    def close(self) -> None:
        for engine in self.engines:
            engine.signal(signal.SIGKILL)
        for nursery in self.nurseries:
            nursery.close()
