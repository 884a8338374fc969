"""One scenario of `shoal bench endurance`, one process, one thread: prints one JSON line, progress on stderr.

    python -m shoal.stream.benchmarks.endurance_runs --users-cap 100000 --users 1000000 --events 2000000 --days 20

The whole pipeline runs, from bytes to the records it would publish, and live quality as often as the engine asks
for it; what it publishes is thrown away. Not timed: imports, compilation, a first run over a few events. The
making of the events is in the time, and said apart. There is no last step: an endless run has none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..wiring import one_thread

one_thread()  # before numpy is imported

import numpy as np  # noqa: E402

from ..config import Config, load  # noqa: E402
from ..engine import QUALITY_EVERY_S  # noqa: E402
from ..events import CHANGES, Output, Range, Step  # noqa: E402
from ..kernels import compile_kernels  # noqa: E402
from ..pipeline import Pipeline  # noqa: E402
from ..ports import ShoalError  # noqa: E402
from ..wiring import build_pipeline  # noqa: E402
from .contestants import peak_bytes  # noqa: E402
from .endurance_events import Passing  # noqa: E402
from .state_sizes import sizes  # noqa: E402


@dataclass(frozen=True, slots=True)
class Sample:
    """How it stood after a slice of the events."""

    events: int  # so far
    users: int  # in the state
    resident_bytes: int
    events_per_s: float  # of this slice
    events_per_cpu_s: float
    step_p99_s: float
    changes: int  # so far
    us_per_event: dict[str, float]  # CPU by stage, of this slice


class Sampler:
    """Takes a sample after every slice of the events."""

    def __init__(self, total: int, slices: int, echo: bool) -> None:
        self.samples: list[Sample] = []
        self.stages: dict[str, float] = defaultdict(float)  # CPU seconds, of all slices
        self._total, self._slices, self._echo = total, slices, echo
        self._events = self._changes = 0
        self._begin()

    def _begin(self) -> None:
        self._from = (self._events, time.perf_counter(), time.process_time())
        self._steps_s: list[float] = []
        self._stages_before = dict(self.stages)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started_s = time.process_time()
        yield
        self.stages[name] += time.process_time() - started_s

    def add(self, output: Output, step_s: float) -> None:
        self._events += output.counts.records
        self._changes += sum(record.topic == CHANGES for record in output.records)
        self._steps_s.append(step_s)
        if self._events * self._slices >= self._total * (len(self.samples) + 1):
            self._sample(output.gauges["users"])

    def _sample(self, users: int) -> None:
        events, started_s, cpu_s = self._from
        count = self._events - events
        sample = Sample(
            events=self._events,
            users=users,
            resident_bytes=resident_bytes(),
            events_per_s=count / (time.perf_counter() - started_s),
            events_per_cpu_s=count / (time.process_time() - cpu_s),
            step_p99_s=float(np.percentile(self._steps_s, 99)),
            changes=self._changes,
            us_per_event={
                name: (cpu_s - self._stages_before.get(name, 0.0)) / count * 1e6
                for name, cpu_s in self.stages.items()
            },
        )
        self.samples.append(sample)
        if self._echo:
            print(
                f"{sample.events:,} events, {users:,} users, {sample.resident_bytes / 2**20:,.0f} MiB, "
                f"{sample.events_per_s:,.0f} events/s",
                file=sys.stderr,
                flush=True,
            )
        self._begin()


def resident_bytes() -> int:
    """Memory of this process now, as the system counts it; its largest so far where that is not told."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_bytes()
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def endure(config: Config, source: Passing, slices: int, echo: bool) -> dict[str, Any]:
    """Run over everything there is."""
    compile_kernels(config)
    sampler = Sampler(source.events, slices, echo)
    pipeline = build_pipeline(config, sampler.stage)
    before_bytes = resident_bytes()
    started_s, cpu_s = time.perf_counter(), time.process_time()
    steps = _run(pipeline, source, config.engine.step_records_max, sampler)
    seconds, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    return {
        "events": source.events,
        "steps": steps,
        "seconds": seconds,
        "cpu_s": cpu_s,
        "users_kept": len(pipeline.users),
        "stages": dict(sampler.stages),
        "before_bytes": before_bytes,
        "parts": sizes(pipeline),
        "samples": [asdict(sample) for sample in sampler.samples],
    }


def _run(pipeline: Pipeline, source: Passing, step: int, sampler: Sampler) -> int:
    """Step after step to the end of the source; how many there were."""
    number, measured_s = 0, time.perf_counter()
    for start in range(0, source.events, step):
        with sampler.stage("making the events"):
            records = source.records(start, start + step)
        number += 1
        begun_s = time.perf_counter()
        output = pipeline.step(Step(number, (Range(0, start, start + len(records)),), records, None))
        ended_s = time.perf_counter()
        sampler.add(output, ended_s - begun_s)
        if ended_s - measured_s >= QUALITY_EVERY_S:
            with sampler.stage("quality"):
                pipeline.quality()
            measured_s = ended_s
    return number


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shoal.stream.benchmarks.endurance_runs")
    parser.add_argument("--users-cap", type=int, required=True, help="users in the state at a time")
    parser.add_argument("--users", type=int, required=True, help="users in all")
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--days", type=float, required=True, help="of the events' own time")
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    try:
        config = load(None, [*arguments.overrides, f"features.users_max={arguments.users_cap}"])
        source = Passing(arguments.users_cap, arguments.users, arguments.events, arguments.days)
        result = endure(config, source, arguments.slices, not arguments.quiet)
    except ShoalError as error:
        sys.exit(str(error))
    sizes_asked = {"users_cap": arguments.users_cap, "users": arguments.users}
    print(json.dumps({**sizes_asked, **result, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
