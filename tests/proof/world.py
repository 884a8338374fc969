"""A simulated deployment: up to three engines, one broker, one disk each; one clock, one die, one at a time.

Theory. An engine's process is a thread, but exactly one thread runs at any time: the others wait for the
baton, which changes hands only at I/O points, as the seed says. So a run is a function of its plan, and a
plan that fails fails again. All I/O points of all processes are counted together; a fault of the plan strikes
whoever reaches the point of that number:

    kill     as `kill -9`; the disk keeps what was written
    power    kill, and the disk loses what was not synced
    lost     the call fails: its answer never comes, the effect has happened or not
    pause    the process stands still for some seconds, time goes on, others work
    abort    the broker aborts the open transaction and fences its producer
    stop     as SIGTERM
    join     one more engine starts
    fresh    kill; the next start begins a new epoch
    night    forty days go by
    damage   kill, and the newest snapshot is damaged
    full     the disk is full for a while
    rewrite  kill, and the first record of the input becomes another: what a replay must notice

Whoever ends is started again by a supervisor after a moment. An error that no fault explains ends the proof.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from shoal.stream.kafka.port import ClientError
from shoal.stream.pipeline import Pipeline
from shoal.stream.ports import BrokerGone, ReplayMismatch, ShoalError, SourceGone, StateMismatch
from shoal.stream.watching.progress import Tee

from . import oracle
from .client import FakeSource, Wire
from .clock import FakeClock
from .committing import AtLast
from .disk import FakeDisk
from .kit import INTACT, SESSION_S, START_MS, TRANSACTION_S, Parts, fill, pool, small_portions, values
from .log import FakeKafka
from .points import Crash, Points

INPUT = "behavior.events"
FOLDER = Path("/state")
SLOTS = 3
POINT_S = 0.001
TURN_S = 0.25
NIGHT_S = 40 * 86_400.0
POINTS_MAX = 30_000
QUIET_S = 60.0  # whoever has nothing to do for so long while records wait has lost them
BUSY = ("source: seek", "producer: commit asked")
UNEXPLAINED = (ReplayMismatch, StateMismatch, SourceGone)


@dataclass(frozen=True)
class Fault:
    kind: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Everything a run depends on."""

    seed: int
    faults: Mapping[int, Fault] = field(default_factory=dict)  # number of the I/O point -> what happens there
    encoder: str = "identity"
    records: int = 200
    engines: int = 1
    switch: float = 0.0  # chance that another process goes on, at each point
    lies: bool = False  # commits of aborted transactions answer OK
    markers_late: bool = False
    parts: Parts = INTACT


class Process(threading.Thread):
    """One life of an engine. `resume` gives it the baton and returns when it comes back."""

    def __init__(self, world: World, slot: int, fresh: int | None, asleep_until_s: float) -> None:
        super().__init__(daemon=True, name=f"engine {slot}")
        self.world = world
        self.slot = slot
        self.fresh = fresh
        self.asleep_until_s = asleep_until_s
        self.points = Points(lambda number, label: world.reached(self, label))
        self.source: FakeSource | None = None
        self.engine: object = None
        self.pipeline: Pipeline | None = None
        self.error: BaseException | None = None
        self.ended = self.power_lost = False
        self.idle_s = 0.0
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)

    def run(self) -> None:
        self._go.acquire()
        try:
            if not self.points.dead:
                self.world.life(self)
        except BaseException as error:  # told to whoever resumes
            self.error = error
        self.ended = True
        self._back.release()

    def resume(self) -> None:
        if not self.is_alive():
            self.start()
        self._go.release()
        self._back.acquire()

    def pass_on(self) -> None:
        """Called inside: somebody else may go on; this process later."""
        self._back.release()
        self._go.acquire()
        if self.points.dead:
            raise Crash

    def kill(self) -> None:
        """Whatever it still does on its way out has no effect."""
        if not self.ended:
            self.points.dead = True
            self.resume()


class World:
    """Runs a plan to its end: all input processed, everybody stopped. `check` then compares."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.dice = Random(plan.seed)
        self.clock = FakeClock(START_MS)
        self.clock.watch(self._heartbeats)
        self.kafka = FakeKafka(self.clock, SESSION_S, markers_late=plan.markers_late)
        self.pool = pool(plan.encoder)
        self.config = self.pool.config
        self.input = self.kafka.topic(INPUT)
        fill(self.input, values(plan.seed % 7, plan.records), self.dice)
        luck = zlib.crc32(repr(plan.faults).encode())  # what survives differs from plan to plan
        self.disks = [FakeDisk(luck + slot) for slot in range(SLOTS)]
        self.processes: list[Process] = []
        self.labels: list[str] = []
        self.struck: Counter[str] = Counter()
        self.fresh: int | None = None
        self.final: Pipeline | None = None
        self.told: Callable[[str], object] = lambda line: None
        self._finishing = False

    # --- a process's life ---------------------------------------------------------------------------------------

    def start(self, slot: int, asleep_s: float = 0.0) -> None:
        self.processes.append(Process(self, slot, self.fresh, self.clock.now_s + asleep_s))

    def life(self, process: Process) -> None:
        """Runs in the process's own thread."""
        parts, config = self.plan.parts, self.config
        wire = Wire(
            self.kafka, process.points, "shoal", TRANSACTION_S, lambda: self.turn(process), self.plan.lies
        )
        process.source = FakeSource(wire, INPUT, f"engine-{process.slot}", self.dice)
        sink = parts.sink(config.kafka, parts.client(wire), process.source.group_metadata, clock=self.clock)
        process.pipeline = self.pool.take()
        disk = self.disks[process.slot].process(process.points)
        store = parts.store(FOLDER, config.engine.snapshots_kept, disk, self.clock)
        process.engine = parts.engine(
            config,
            process.pipeline,
            process.source,
            sink,
            store,
            Tee([]),
            self.clock,
            process.fresh,
            AtLast(),
        )
        process.engine.run()

    def turn(self, process: Process) -> None:
        """Nothing to do for this process: time passes, others may work."""
        self.clock.advance(TURN_S)
        process.idle_s += TURN_S
        process.pass_on()

    def reached(self, process: Process, label: str) -> None:
        self.labels.append(label)
        if len(self.labels) > POINTS_MAX:
            raise oracle.Divergence(f"no end after {POINTS_MAX} I/O points")
        self.clock.advance(POINT_S)
        if label in BUSY:
            process.idle_s = 0.0
        fault = self.plan.faults.get(len(self.labels))
        if fault is not None:
            self._strike(process, fault, label)
        if self.plan.switch and self.dice.random() < self.plan.switch:
            process.pass_on()

    def _heartbeats(self) -> None:
        """Whoever is alive and not paused is heard by the group."""
        for process in self.processes:
            if process.source is not None and not process.ended and self._awake(process):
                self.kafka.group.heard(process.source.member)

    def _awake(self, process: Process) -> bool:
        return process.asleep_until_s <= self.clock.now_s

    # --- faults -------------------------------------------------------------------------------------------------

    def _strike(self, process: Process, fault: Fault, label: str) -> None:
        self.struck[fault.kind] += 1
        self.told(f"{self.clock.now_s:.3f} s, point {len(self.labels)}, {process.name}: {fault} at {label}")
        match fault.kind:
            case "kill" | "power" | "fresh":
                process.power_lost = fault.kind == "power"
                if fault.kind == "fresh":
                    last = oracle.committed_manifests(self.kafka)[-1:]
                    self.fresh = last[0].epoch + 1 if last else None
                raise Crash
            case "lost":
                self._lose(label)
            case "pause":
                process.asleep_until_s = self.clock.now_s + fault.seconds
                process.pass_on()
            case "abort":
                self.kafka.abort_open()
            case "stop":
                if process.engine is not None:
                    process.engine.stop()
            case "join":
                taken = {other.slot for other in self.processes}
                if (free := set(range(SLOTS)) - taken) and not self._finishing:
                    self.start(min(free))
            case "full":
                self.disks[process.slot].room_bytes = self.dice.randint(0, 60_000)
            case "damage":
                self._damage(self.disks[process.slot])
                raise Crash
            case "rewrite":
                self._rewrite()
                raise Crash
            case "night":
                self.clock.advance(NIGHT_S)
            case _:
                raise AssertionError(fault.kind)

    def _damage(self, disk: FakeDisk) -> None:
        """Of the newest snapshot at rest a bit flips, or it loses its end."""
        paths = [FOLDER / name for name in disk.files(FOLDER)] if disk.find(FOLDER) else []
        at_rest = [path for path in paths if disk.file(path).cache == disk.file(path).durable != b""]
        if not at_rest:
            return
        if self.dice.random() < 0.7:
            disk.flip(at_rest[-1])
        else:
            disk.cut(at_rest[-1], self.dice.randrange(len(disk.file(at_rest[-1]).cache)))

    def _rewrite(self) -> None:
        first, second = list(self.input[0].read(0, len(self.input[0])))[:2]
        self.input[0].rewrite(first.offset, second.value)

    def _lose(self, label: str) -> None:
        match label.partition(":")[0], label:
            case _, "source: leave":
                pass
            case "producer", _:
                raise ClientError(f"KafkaTimeoutError at {label}", away=True)
            case "log" | "source", _:
                raise BrokerGone(f"no answer at {label}")
            case _:
                raise OSError(5, f"Input/output error at {label}")

    # --- the whole run ------------------------------------------------------------------------------------------

    def run(self) -> None:
        for slot in range(self.plan.engines):
            self.start(slot)
        try:
            current = self.processes[0]
            while not self._done():
                current = self._choose()
                current.resume()
                if current.ended:
                    self._reap(current)
            self._stop_all()
        finally:
            for process in self.processes:
                process.kill()
                self._give_back(process)

    def _choose(self) -> Process:
        awake = [process for process in self.processes if self._awake(process)]
        while not awake:
            self.clock.advance(0.5)
            awake = [process for process in self.processes if self._awake(process)]
        return awake[0] if len(awake) == 1 else self.dice.choice(awake)

    def _done(self) -> bool:
        """All records are in committed steps, and whoever works has looked round and found nothing more."""
        idle_s = max((p.idle_s for p in self.processes if self._works(p)), default=0.0)
        if idle_s < 2 * TURN_S:
            return False
        if any(self._rest()):
            if idle_s > QUIET_S:
                raise oracle.Divergence(f"{self._rest()} records wait, and the engine does not know")
            return False
        return True

    def _works(self, process: Process) -> bool:
        return process.source is not None and process.source.member == self.kafka.group.owner

    def _rest(self) -> list[int]:
        at = oracle.positions(oracle.committed_manifests(self.kafka))
        return [part.past_unseen(at.get(p, 0)) < part.stable for p, part in enumerate(self.input)]

    def _stop_all(self) -> None:
        self._finishing = True
        standing_by = [p for p in self.processes if not self._works(p)]
        for process in standing_by + [p for p in self.processes if self._works(p)]:
            process.asleep_until_s = 0.0
            if process.engine is None:
                continue
            process.engine.stop()
            works = self._works(process)
            while not process.ended:
                process.resume()
            if works and process.error is None:
                self.final, process.pipeline = process.pipeline, None
            self._reap(process)

    def _reap(self, process: Process) -> None:
        """See how it ended, and start the next in its place."""
        if process.error is not None and not self._explained(process.error):
            raise process.error
        self.told(f"{self.clock.now_s:.3f} s, {process.name} ended: {process.error!r}")
        self.processes.remove(process)
        self._give_back(process)
        self.disks[process.slot].room_bytes = float("inf")
        if process.power_lost:
            self.disks[process.slot].lose_power()
        oracle.check_offsets(self.kafka)
        if not self._finishing:
            self.start(process.slot, self.dice.uniform(0.0, 2 * SESSION_S))

    def _explained(self, error: BaseException) -> bool:
        """Whether an engine may end like this: killed, or in a doubt that something gave it reason for."""
        if isinstance(error, Crash):
            return True
        reason = self.struck or self.plan.switch  # who waits long for the baton is paused, too
        return bool(reason) and isinstance(error, ShoalError) and not isinstance(error, UNEXPLAINED)

    def _give_back(self, process: Process) -> None:
        if process.pipeline is not None:
            self.pool.give(process.pipeline)
            process.pipeline = None

    def check(self) -> None:
        self.kafka.settle_all()
        pipeline = self.pool.take()
        try:
            oracle.check(self.kafka, INPUT, pipeline)
            if self.final is not None:
                oracle.check_state(self.final, pipeline)
                self.pool.give(self.final)
        finally:
            self.pool.give(pipeline)


def prove(plan: Plan) -> World:
    """Run the plan and compare. Raises Divergence, or whatever an engine should not have raised."""
    world = World(plan)
    with small_portions():
        world.run()
        world.check()
    return world
