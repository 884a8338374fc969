"""`shoal bench endurance`: does it stay as fast and as small as it was? Each scenario in a process of its own.

resident   as many users as the cap, all of them active: what a user costs in memory, everything included
passing    ten times as many users as the cap pass through it: everybody who leaves makes room
long       many events of as many users as the default cap: nobody leaves, everything else goes on

Judged is the last quarter of a run against its second: the first fills the state. Speed is judged per second of
processor time, so that another process on the machine does not look like a slow-down.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..config import Config
from ..ports import InputError, ShoalError
from .pipeline import machine, machine_line

GOAL_BYTES = 2 << 30  # a million users resident, torch included
GOAL_CHANGE = 0.10
SCENARIOS = ("resident", "passing", "long")
_LONG_USERS = Config().features.users_max
_RESIDENT_EVENTS, _PASSING_EVENTS = 4, 1.2  # per user
SAMPLES_MIN = 8
KEYS = ("resident_bytes", "events_per_s", "events_per_cpu_s", "step_p99_s")

Sample = Mapping[str, Any]


class Scenario(NamedTuple):
    users_cap: int
    users: int
    events: int


def scenario(name: str, users_cap: int, users: int, events: int) -> Scenario:
    """What a scenario does with the sizes asked for."""
    match name:
        case "resident":
            return Scenario(users_cap, users_cap, _RESIDENT_EVENTS * users_cap)
        case "passing":
            return Scenario(
                users_cap, users, max(_RESIDENT_EVENTS * users_cap, round(_PASSING_EVENTS * users))
            )
        case _:
            people = min(_LONG_USERS, events // _RESIDENT_EVENTS)
            return Scenario(people, people, events)


def measure(
    names: Sequence[str],
    users_cap: int,
    users: int,
    events: int,
    days: float,
    slices: int,
    overrides: Sequence[str],
    echo: bool,
) -> dict[str, Any]:
    """The scenarios named, one after the other. Raises InputError for too few slices, ShoalError when one fails."""
    if slices < SAMPLES_MIN:
        raise InputError(f"--slices is {slices}: wanted at least {SAMPLES_MIN}, two for each quarter")
    runs = {}
    for name in names:
        sizes = scenario(name, users_cap, users, events)
        if echo:
            print(
                f"{name}: {sizes.users:,} users, {sizes.users_cap:,} at a time, {sizes.events:,} events",
                file=sys.stderr,
            )
        runs[name] = judged(_run(sizes, days, slices, overrides, echo))
    return {"machine": machine(), "days": days, "scenarios": runs}


def _run(sizes: Scenario, days: float, slices: int, overrides: Sequence[str], echo: bool) -> dict[str, Any]:
    """The JSON line that the process prints last; its progress goes where ours goes."""
    module = f"{__package__}.endurance_runs"
    options: dict[str, float] = {
        "--users-cap": sizes.users_cap,
        "--users": sizes.users,
        "--events": sizes.events,
    }
    options |= {"--days": days, "--slices": slices}
    command = [sys.executable, "-m", module, *(str(part) for pair in options.items() for part in pair)]
    command += [] if echo else ["--quiet"]
    command += [part for setting in overrides for part in ("--set", setting)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ShoalError(
            f"endurance: the run ended with exit code {done.returncode}; the lines above say why. "
            f"Run it alone: python -m {' '.join(command[2:])}"
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def judged(run: dict[str, Any]) -> dict[str, Any]:
    """The run with its quarters, what changed between the second and the last, and whether that is flat."""
    quarters = quarters_of(run["samples"])
    change = {key: quarters[3][key] / quarters[1][key] - 1 for key in KEYS}
    growth_bytes = run["samples"][-1]["resident_bytes"] - run["before_bytes"]
    return run | {
        "quarters": quarters,
        "change": change,
        "flat": {"memory": flat(change["resident_bytes"]), "speed": flat(-change["events_per_cpu_s"])},
        "state_bytes_per_user": sum(run["parts"].values()) / run["users_kept"],
        "bytes_per_user": growth_bytes / run["users_kept"],
        "generator_share": run["stages"]["making the events"] / run["cpu_s"],
    }


def flat(worse: float) -> bool:
    """Whether it got worse by a tenth at most; getting better is no fault."""
    return worse <= GOAL_CHANGE + 1e-9  # ten per cent is not a whole number of bits


def quarters_of(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Medians of each quarter of the samples; of the step times the largest."""
    n = len(samples)
    parts = [samples[n * i // 4 : n * (i + 1) // 4] for i in range(4)]
    if not all(parts):
        raise ShoalError(
            f"endurance: {n} samples are too few for four quarters: run more events, or fewer a step"
        )
    return [_quarter(part) for part in parts]


def _quarter(part: Sequence[Sample]) -> dict[str, Any]:
    middle = {key: statistics.median(sample[key] for sample in part) for key in KEYS if key != "step_p99_s"}
    stages = {
        stage: statistics.median(sample["us_per_event"].get(stage, 0.0) for sample in part)
        for stage in part[-1]["us_per_event"]
    }
    return middle | {"step_p99_s": max(sample["step_p99_s"] for sample in part), "us_per_event": stages}


def render(result: dict[str, Any]) -> str:
    """The scenarios as Markdown: what ran, its quarters, the verdict, where the memory is."""
    lines = [machine_line(result["machine"])]
    for name, run in result["scenarios"].items():
        lines += ["", *_scenario_lines(name, run, result["days"])]
    return "\n".join(lines)


def _scenario_lines(name: str, run: dict[str, Any], days: float) -> list[str]:
    last, parts = run["samples"][-1], sorted(run["parts"].items(), key=lambda item: -item[1])
    return [
        f"**{name}**: {run['events']:,} events of {run['users']:,} users over {days:g} days, "
        f"{run['users_cap']:,} at a time, in steps of {run['events'] / run['steps']:,.0f}; {last['changes']:,} "
        f"changes. Making the events took {run['generator_share']:.1%} of the time.",
        "",
        "| quarter | resident | events/s | events per CPU second | step p99 |",
        "|---|---:|---:|---:|---:|",
        *(_quarter_line(number + 1, row) for number, row in enumerate(run["quarters"])),
        "",
        *_stage_lines(run["quarters"]),
        "",
        f"Last quarter against second: memory {run['change']['resident_bytes']:+.1%} "
        f"({_verdict(run['flat']['memory'])}), events per CPU second {run['change']['events_per_cpu_s']:+.1%} "
        f"({_verdict(run['flat']['speed'])}), step p99 {run['change']['step_p99_s']:+.1%}.",
        f"Resident {_mib(last['resident_bytes'])} (peak {_mib(run['peak_bytes'])}), of it {_mib(run['before_bytes'])} "
        f"before the first event (libraries, torch, compiled code): {run['bytes_per_user']:,.0f} B for each of "
        f"{run['users_kept']:,} users; by the state's own account {run['state_bytes_per_user']:,.0f} B.",
        "By part: " + ", ".join(f"{part} {_mib(size)}" for part, size in parts if size >= 1 << 20) + ".",
    ]


def _quarter_line(number: int, row: Mapping[str, float]) -> str:
    return (
        f"| {number} | {_mib(row['resident_bytes'])} | {row['events_per_s']:,.0f} | "
        f"{row['events_per_cpu_s']:,.0f} | {row['step_p99_s'] * 1000:,.0f} ms |"
    )


def _stage_lines(quarters: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an event costs in the quarters that are compared, stage by stage."""
    stages = list(quarters[3]["us_per_event"])
    rows = {number: quarters[number - 1]["us_per_event"] for number in (2, 4)}
    return [
        "| CPU us an event | " + " | ".join(stages) + " |",
        "|---|" + "---:|" * len(stages),
        *(
            f"| quarter {number} | " + " | ".join(f"{row.get(stage, 0.0):.2f}" for stage in stages) + " |"
            for number, row in rows.items()
        ),
    ]


def _verdict(is_flat: bool) -> str:
    return "flat" if is_flat else f"NOT flat: more than {GOAL_CHANGE:.0%}"


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
