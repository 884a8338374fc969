"""Lives of an engine on one machine: files in, files out, and a disk that fails as the plan says.

Every life but the last has one fault, at an I/O point of its own:

    kill      as `kill -9`: the disk keeps what was written
    power     the power goes; of what was not synced any part is there
    blackout  the power goes; of what was not synced nothing is there
    refused   the operation fails (EIO); a refused sync gives up what was pending
    full      from here on there is room for a few hundred bytes more at most
    stop      as SIGTERM: the step is finished
    flip      kill, and one bit of a snapshot is another one
    cut       kill, and a snapshot has lost its end

The oracle is an uninterrupted run. After every life what a reader is shown is a beginning of that run's
files, and no step is missing whose commit had returned. After the last life the files are the same, byte
for byte, also when the power goes then; so is the state, and a subscriber's mirror that followed from life to life.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from mirrors import Row, held, table

from shoal.sinks.commits import newest
from shoal.sinks.files import FileSink
from shoal.stream.engine import Engine
from shoal.stream.events import MANIFEST, Output
from shoal.stream.packing import digest, pack
from shoal.stream.pipeline import Pipeline
from shoal.stream.ports import DiskFailed
from shoal.stream.snapshots import DirectoryStore
from shoal.stream.sources import MemorySource
from shoal.stream.subscribing import FileReader, SegmentMirror
from shoal.stream.watching.progress import Tee

from .clock import FakeClock
from .committing import AtLast
from .disk import FakeDisk, snapshots
from .kit import START_MS, pool, values
from .oracle import Divergence, require
from .points import Crash, Points
from .storage import Survives

OUT, STATE = Path("/data/out"), Path("/data/state")
LOST = {"power": Survives.ANYTHING, "blackout": Survives.NOTHING}
KINDS = ("kill", "power", "blackout", "refused", "full", "stop", "flip", "cut")


@dataclass(frozen=True)
class Fault:
    """Strikes a life at its I/O point of this number, if it gets there."""

    kind: str
    at: int


@dataclass(frozen=True)
class Plan:
    """Everything that a run depends on."""

    seed: int = 0
    faults: Sequence[Fault] = ()  # of the first life, of the second ...
    encoder: str = "identity"
    records: int = 200
    sink: Callable[..., Any] = FileSink  # the mutations of the proof change one of these
    store: Callable[..., Any] = DirectoryStore


@dataclass
class Life:
    """One process, from its start to its end."""

    machine: Machine
    fault: Fault | None
    points: Points = field(init=False)
    labels: list[str] = field(default_factory=list)
    engine: Engine | None = None
    pipeline: Pipeline | None = None
    first_commit: int | None = None  # the last point before this life's first commit returned
    state: str = ""  # digest of the pipeline's, at a good end

    def __post_init__(self) -> None:
        self.points = Points(self._reached)

    def run(self) -> None:
        """Raises Crash, or DiskFailed."""
        plan, shared = self.machine.plan, pool(self.machine.plan.encoder)
        self.pipeline = shared.take()
        config, disk = shared.config, self.machine.disk.process(self.points)
        store = plan.store(STATE, config.engine.snapshots_kept, disk, FakeClock(START_MS))
        self.engine = Engine(
            config,
            self.pipeline,
            MemorySource(partitions(plan.records)),
            plan.sink(OUT, disk),
            store,
            Watching(self),
            FakeClock(START_MS),
            committing=AtLast(),
        )
        self.engine.run()
        self.state = digest(pack(self.pipeline.snapshot()))

    def committed(self, step: int) -> None:
        self.machine.acknowledged = step
        self.first_commit = self.first_commit or self.points.count

    def _reached(self, number: int, label: str) -> None:
        self.labels.append(label)
        if self.fault is None or number != self.fault.at:
            return
        self.machine.struck[self.fault.kind] += 1
        match self.fault.kind:
            case "refused":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            case "full":
                self.machine.disk.room_bytes = self.machine.dice.randint(0, 400)
            case "stop":
                if self.engine is not None:
                    self.engine.stop()
            case _:
                raise Crash


class Watching(Tee):
    """An observer that notes which commits returned."""

    def __init__(self, life: Life) -> None:
        super().__init__([])
        self._life = life

    def committed(self, output: Output, *details: Any) -> None:
        self._life.committed(output.step)


class Machine:
    """A disk and the lives that pass on it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.disk = FakeDisk(plan.seed)
        self.dice = Random(plan.seed)
        self.acknowledged = 0  # the last step whose commit returned
        self.struck: Counter[str] = Counter()
        self.mirror = SegmentMirror()  # of a subscriber on another machine, who is never told of any trouble

    def live(self, fault: Fault | None = None) -> Life:
        """One life, what its end does to the machine, and a reader's look at the files."""
        life = Life(self, fault)
        error: BaseException | None = None
        try:
            life.run()
        except (Crash, DiskFailed) as ended:
            error = ended
        finally:
            if life.pipeline is not None:
                pool(self.plan.encoder).give(life.pipeline)
        if fault is not None:
            self._check_end(life, fault, error)
            self._after(fault)
        elif error is not None:
            raise error
        life.points.dead = True
        self.check_reader()
        return life

    def _check_end(self, life: Life, fault: Fault, error: BaseException | None) -> None:
        if fault.kind == "refused" and len(life.labels) >= fault.at:
            label = life.labels[fault.at - 1]
            if ".jsonl" in label or label.endswith(f" {OUT.name}"):
                require(isinstance(error, DiskFailed), f"{label} failed, and the engine went on")
                require(len(life.labels) == fault.at, f"{label} failed, then came {life.labels[fault.at :]}")
        elif isinstance(error, DiskFailed) and fault.kind not in ("refused", "full"):
            raise error

    def _after(self, fault: Fault) -> None:
        self.disk.room_bytes = float("inf")
        if fault.kind in LOST:
            self.disk.lose_power(LOST[fault.kind])
        if fault.kind in ("flip", "cut") and (found := snapshots(self.disk, STATE)):
            path = self.dice.choice(found)
            size = len(self.disk.file(path).cache)
            if fault.kind == "cut":
                self.disk.cut(path, self.dice.randint(0, size))
            elif size:
                self.disk.flip(path)

    # --- the oracle ---------------------------------------------------------------------------------------------

    def check_reader(self) -> None:
        """What is committed is a beginning of the uninterrupted run's files, and reaches as far as was said."""
        last = newest(self.disk.process(), OUT / f"{MANIFEST}.jsonl")
        step = last.manifest.step if last else 0
        require(step >= self.acknowledged, f"step {self.acknowledged} was committed, step {step} is the last")
        if last is None:
            return
        found, wanted = self.disk.files(OUT), uninterrupted(self.plan.encoder, self.plan.records).files
        for topic, length in {MANIFEST: last.end, **last.lengths}.items():
            data = found.get(f"{topic}.jsonl", b"")[:length]
            require(len(data) == length, f"{topic}: {len(data)} bytes, {length} were committed")
            if not wanted[f"{topic}.jsonl"].startswith(data):
                raise Divergence(f"{topic}: {difference(data, wanted, topic)}")
        self.mirror = SegmentMirror.restore(self.mirror.snapshot())
        for _ in self.mirror.follow(FileReader(OUT, disk=self.disk.process())):
            pass
        require(not self.mirror.troubles, f"the mirror met {self.mirror.troubles}")

    def check_end(self, life: Life) -> None:
        """Everything is there, and stays when the power goes."""
        whole = uninterrupted(self.plan.encoder, self.plan.records)
        assert life.pipeline is not None
        for power in ("on", "off"):
            if power == "off":
                self.disk.lose_power(Survives.NOTHING)
            found = outputs(self.disk)
            require(found.keys() == whole.files.keys(), f"power {power}: files {sorted(found)}")
            for name, data in found.items():
                require(data == whole.files[name], f"power {power}: {name} differs")
        require(life.state == whole.state, "the state itself differs")
        require(held(self.mirror) == whole.table, "a subscriber's mirror is not the engine's table")


def difference(data: bytes, wanted: dict[str, bytes], topic: str) -> str:
    """The first line that differs."""
    lines = zip(data.split(b"\n"), wanted[f"{topic}.jsonl"].split(b"\n"), strict=False)
    return next(f"line {n}: {a!r}, wanted {b!r}" for n, (a, b) in enumerate(lines) if a != b)


def outputs(disk: FakeDisk) -> dict[str, bytes]:
    return {name: data for name, data in disk.files(OUT).items() if name.endswith(".jsonl")}


@cache
def partitions(records: int) -> list[list[bytes | None]]:
    """The input: two partitions, with every mishap in them."""
    found = [value for _, value in values(3, records)]
    return [found[0::2], found[1::2]]


@dataclass(frozen=True)
class Whole:
    """A run that nothing interrupted."""

    files: dict[str, bytes]
    labels: list[str]  # of its I/O points
    state: str
    table: dict[str, Row]


@cache
def uninterrupted(encoder: str, records: int) -> Whole:
    machine = Machine(Plan(encoder=encoder, records=records))
    life = Life(machine, None)
    life.run()
    assert life.pipeline is not None
    rows = table(life.pipeline)
    pool(encoder).give(life.pipeline)
    return Whole(outputs(machine.disk), life.labels, life.state, rows)


def prove(plan: Plan) -> Machine:
    """Live every life of the plan, then one without a fault. Raises Divergence, or what an engine must not raise."""
    machine = Machine(plan)
    for fault in plan.faults:
        machine.live(fault)
    machine.check_end(machine.live())
    return machine
