"""One role of `shoal bench recovery`, one process, one thread: prints one JSON line.

build     many users through the real pipeline, then one snapshot
live      recovers from it; then steps of the live size, flat out, committed to files
recover   recovers again: the snapshot, then those steps; says when it was ready
pause     builds, then steps of the live size with snapshots written beside them
"""

from __future__ import annotations

import time

_STARTED_S = time.time()

import argparse  # noqa: E402
import json  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ..wiring import one_thread  # noqa: E402

one_thread()  # before numpy is imported

import msgspec  # noqa: E402
import numpy as np  # noqa: E402

from ...sinks.files import FileSink  # noqa: E402
from ..config import Config, load  # noqa: E402
from ..engine import Engine  # noqa: E402
from ..events import Output, Range, Records  # noqa: E402
from ..forked import ForkedStore  # noqa: E402
from ..kernels import compile_kernels  # noqa: E402
from ..ports import Phase, Saved, Source, State, Store  # noqa: E402
from ..snapshots import DirectoryStore  # noqa: E402
from ..wiring import build_pipeline  # noqa: E402
from .contestants import StageTimes, peak_bytes  # noqa: E402
from .recovery_events import Building, Live, build_records, build_steps  # noqa: E402

_SNAPSHOT_EVERY_STEPS = 20  # where its cost is measured: as often as one is finished


class ManifestsOnly(FileSink):
    """Keeps no outputs: a million first assignments are not what is measured."""

    def commit(self, output: Output) -> None:
        super().commit(replace(output, records=()))


class TimedStore:
    """Another store's snapshots; how long they took to load, and when the last one was handed over."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.load_s = self.loaded_s = 0.0

    def save(self, step: int, manifest_hash: str, capture: Callable[[], State]) -> None:
        pass

    def finished(self) -> Sequence[Saved]:
        return ()

    def newest(self, not_past: int) -> Iterator[tuple[int, str, State]]:
        started_s = time.perf_counter()
        for found in self._store.newest(not_past):
            self.loaded_s = time.perf_counter()
            self.load_s += self.loaded_s - started_s
            yield found
            started_s = time.perf_counter()

    def close(self) -> None:
        self._store.close()


class TimedLive(Live):
    """Says when the first step was computed again, and how many were."""

    read_s = 0.0
    steps = 0

    def read(self, ranges: Sequence[Range]) -> Records:
        self.read_s = self.read_s or time.perf_counter()
        self.steps += 1
        return super().read(ranges)


class Ready(StageTimes):
    """Stops the engine as soon as it would take live input."""

    ready_s = 0.0

    def phase(self, phase: Phase) -> None:
        super().phase(phase)
        if phase is Phase.RUNNING:
            self.ready_s = time.perf_counter()
            assert self.engine is not None
            self.engine.stop()


class Turns(StageTimes):
    """Seconds of each turn of the loop, from poll to poll, apart for those beside a snapshot being written."""

    def __init__(self, records: int, store: ForkedStore | None = None) -> None:
        super().__init__(records)
        self.beside: list[float] = []
        self.alone: list[float] = []
        self.saved: list[Saved] = []
        self._store = store
        self._since_s = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if name == "poll" and self._since_s:
            writing = self._store is not None and self._store.writing
            (self.beside if writing else self.alone).append(time.perf_counter() - self._since_s)
        with super().stage(name):
            yield
        if name == "poll":
            self._since_s = time.perf_counter()

    def snapshot_saved(self, saved: Saved) -> None:
        self.saved.append(saved)


def build(config: Config, folder: Path, users: int) -> dict[str, Any]:
    """The state of `users` users, and one snapshot of it, under `folder`."""
    times = Turns(build_records(users))
    config = _engine(config, snapshot_every_steps=build_steps(users))
    source, sink = Building(users), ManifestsOnly(folder / "out")
    engine = _run(config, source, sink, DirectoryStore(folder / "state", kept=1), times)
    (saved,) = times.saved
    assert len(engine.pipeline.users) == users, f"{users} users wanted, {len(engine.pipeline.users)} built"
    return {"users": users, "snapshot_bytes": saved.size_bytes, "snapshot_s": saved.seconds}


def live(config: Config, folder: Path, users: int, events: int, rate: float) -> dict[str, Any]:
    """What an engine does between the snapshot and the crash, as fast as it can."""
    compile_kernels(config)
    times = StageTimes(build_records(users) + events)
    store = TimedStore(DirectoryStore(folder / "state", kept=1))
    _run(config, Live(users, events, rate), FileSink(folder / "out"), store, times)
    seconds = time.perf_counter() - times.started_s
    steps = len(times.commits)
    return {"events": events, "steps": steps, "seconds": seconds, "changes": times.changes}


def recover(
    config: Config, folder: Path, users: int, events: int, rate: float, spawned_s: float
) -> dict[str, Any]:
    """From the start of the process to its first poll; without the making of the events."""
    imported_s = time.time()
    source = TimedLive(users, events, rate)
    started_s = time.perf_counter()
    store, times = TimedStore(DirectoryStore(folder / "state", kept=1)), Ready()
    _run(config, source, FileSink(folder / "out"), store, times)
    stages = {
        "starting Python, imports": imported_s - spawned_s,
        "making the parts": store.loaded_s - store.load_s - started_s,
        "reading the snapshot": store.load_s,
        "restoring": source.read_s - store.loaded_s,
        "replaying": times.ready_s - source.read_s,
    }
    return {"steps": source.steps, "events": events, "ready_s": sum(stages.values()), "stages": stages}


def pause(config: Config, folder: Path, users: int, events: int, rate: float) -> dict[str, Any]:
    """Live steps over the state of `users` users, with a snapshot as often as one is finished."""
    build(config, folder, users)
    store = ForkedStore(DirectoryStore(folder / "state", kept=1))
    turns = Turns(build_records(users) + events, store)
    config = _engine(config, snapshot_every_steps=_SNAPSHOT_EVERY_STEPS)
    _run(config, Live(users, events, rate), FileSink(folder / "out"), store, turns)
    return {
        "users": users,
        "snapshots": len(turns.saved),
        "size_bytes": max(saved.size_bytes for saved in turns.saved),
        "seconds": float(np.median([saved.seconds for saved in turns.saved])),
        "pause_s": max(saved.pause_s for saved in turns.saved),
        "turns": {"alone": _percentiles(turns.alone), "beside a snapshot": _percentiles(turns.beside)},
    }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99]).tolist() if seconds else (0.0, 0.0)
    return {"count": len(seconds), "p50_s": p50, "p99_s": p99, "max_s": max(seconds, default=0.0)}


def _engine(config: Config, **changes: Any) -> Config:
    return msgspec.structs.replace(config, engine=msgspec.structs.replace(config.engine, **changes))


def _run(config: Config, source: Source, sink: FileSink, store: Store, times: StageTimes) -> Engine:
    engine = Engine(config, build_pipeline(config, times.stage), source, sink, store, times)
    times.engine = engine
    engine.run()
    return engine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shoal.stream.benchmarks.recovery_runs")
    parser.add_argument("role", choices=["build", "live", "recover", "pause"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--events", type=int, required=True, help="after the snapshot")
    parser.add_argument("--rate", type=float, required=True, help="of them, per second of their own time")
    parser.add_argument("--spawned", type=float, default=_STARTED_S, help="when this process was started")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    config, folder, users = load(None, arguments.overrides), arguments.folder, arguments.users
    match arguments.role:
        case "build":
            result = build(config, folder, users)
        case "live":
            result = live(config, folder, users, arguments.events, arguments.rate)
        case "recover":
            result = recover(config, folder, users, arguments.events, arguments.rate, arguments.spawned)
        case _:
            result = pause(config, folder, users, arguments.events, arguments.rate)
    print(json.dumps({**result, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
