"""`shoal bench recovery`: how soon a killed engine is ready again, and what its snapshots cost meanwhile.

An engine with many users has written a snapshot and gone on for some minutes at a live rate; then it is gone.
Measured is the time from the start of the next process to its first poll, with the state on local disk. Each
role is a process of its own (`recovery_runs.py`).

The first touch of memory is many times slower on a virtual machine that has never used it: the first round
pays for that, so the median of several is shown, with all of them.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from .pipeline import machine, machine_line, result_of

GOAL_S, GOAL_TIMES, GOAL_PAUSE_S = 5.0, 5.0, 0.1
_PAUSE_SECONDS = 60  # of live events over which the pauses are measured


def measure(
    users: int,
    minutes: float,
    rate: float,
    step_records: int,
    pause_users: int,
    rounds: int,
    overrides: tuple[str, ...],
    echo: bool,
) -> dict[str, Any]:
    """All roles, one after the other; `recover` in `rounds` processes. Raises ShoalError when one fails."""
    events = int(minutes * 60 * rate)

    def role(name: str, folder: str, users: int, events: int) -> dict[str, Any]:
        if echo:
            click.echo(f"{name}: {users:,} users, {events:,} events after the snapshot ...", err=True)
        settings = [*overrides, f"features.users_max={users + users // 10}", *_steps_of(step_records)]
        return _role(name, Path(folder), users, events, rate, settings)

    with tempfile.TemporaryDirectory() as folder:
        built = role("build", folder, users, events)
        live = role("live", folder, users, events)
        recovered = [role("recover", folder, users, events) for _ in range(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        pause = role("pause", folder, pause_users, int(_PAUSE_SECONDS * rate))
    return {
        "machine": machine(),
        "rate": rate,
        "minutes": minutes,
        "step_records": step_records,
        "build": built,
        "live": {**live, "events_per_s": live["events"] / live["seconds"]},
        "recover": _medians(recovered),
        "pause": pause,
    }


def _steps_of(records: int) -> list[str]:
    """Steps of the live size; nothing is saved but where a role says so."""
    return [f"engine.step_records_max={records}", f"engine.snapshot_every_steps={1 << 30}"]


def _role(
    name: str, folder: Path, users: int, events: int, rate: float, settings: list[str]
) -> dict[str, Any]:
    module = f"{__package__}.recovery_runs"
    command = [
        sys.executable,
        "-m",
        module,
        name,
        str(folder),
        "--users",
        str(users),
        "--events",
        str(events),
    ]
    command += ["--rate", str(rate), "--spawned", str(time.time())]
    return result_of(command, settings, f"{module} {name} FOLDER")


def _medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The round with the median time, and the times of all."""
    middle = sorted(rounds, key=lambda r: r["ready_s"])[len(rounds) // 2]
    replay_s = statistics.median(r["stages"]["replaying"] for r in rounds)
    return {
        **middle,
        "all_s": [r["ready_s"] for r in rounds],
        "replay_events_per_s": middle["events"] / replay_s,
        "peak_bytes": max(r["peak_bytes"] for r in rounds),
    }


def render(result: dict[str, Any]) -> str:
    """The measurements as Markdown: ready after, stage by stage; replay against live; the pause."""
    recovered, live, pause = result["recover"], result["live"], result["pause"]
    all_s = ", ".join(f"{seconds:.1f}" for seconds in recovered["all_s"])
    lines = [
        machine_line(result["machine"]),
        "",
        f"{result['build']['users']:,} users, a snapshot of {_mib(result['build']['snapshot_bytes'])}, then "
        f"{result['minutes']:g} minutes at {result['rate']:,.0f} events/s ({recovered['events']:,} events in "
        f"{recovered['steps']:,} steps). Ready after {recovered['ready_s']:.1f} s (all rounds: {all_s}; goal "
        f"{GOAL_S:g}), with {_mib(recovered['peak_bytes'])} at most:",
        "",
        "| from start to ready | seconds |",
        "|---|---:|",
        *(f"| {stage} | {seconds:.2f} |" for stage, seconds in recovered["stages"].items()),
        "",
        *_rates(recovered["replay_events_per_s"], live, result["rate"]),
        "",
        f"Snapshots beside the engine, {pause['users']:,} users: {pause['snapshots']} of "
        f"{_mib(pause['size_bytes'])} in {pause['seconds']:.2f} s each; the engine waited "
        f"{pause['pause_s'] * 1000:.1f} ms at most (goal {GOAL_PAUSE_S * 1000:g}).",
        "",
        "| turns of the loop | turns | p50 | p99 | longest |",
        "|---|---:|---:|---:|---:|",
        *(_turn(name, row) for name, row in pause["turns"].items()),
    ]
    return "\n".join(lines)


def _rates(replay: float, live: dict[str, Any], rate: float) -> list[str]:
    return [
        "| | events/s | replay is x times that |",
        "|---|---:|---:|",
        f"| replay | {replay:,.0f} | |",
        f"| arrival | {rate:,.0f} | {replay / rate:.1f} (goal {GOAL_TIMES:g}) |",
        f"| live, flat out, committed to files | {live['events_per_s']:,.0f} | "
        f"{replay / live['events_per_s']:.1f} |",
    ]


def _turn(name: str, row: dict[str, Any]) -> str:
    times = " | ".join(f"{row[key] * 1000:.1f} ms" for key in ("p50_s", "p99_s", "max_s"))
    return f"| {name} | {row['count']:,} | {times} |"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
