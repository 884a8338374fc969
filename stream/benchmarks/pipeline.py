"""`shoal bench pipeline`: contestants take turns, each in a process of its own; medians and ratios."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import click

from ..ports import ShoalError

PACKAGES = ("shoal", "river", "kafka-python", "numpy", "numba", "torch")
CONFLUENT = "shoal-kafka-confluent"
_KEPT = ("changes", "steps", "commit_p50_s", "commit_p99_s")


def measure(
    events: Path | None,
    count: int,
    peer_count: int,
    rounds: int,
    servers: str | None,
    overrides: tuple[str, ...],
    echo: bool,
    clients: Sequence[str] = (),
) -> dict[str, Any]:
    """Run every contestant `rounds` times, in turn and every other round backwards. On a machine that gets
    slower or busier meanwhile the ratio of neighbours still holds. `clients`: those that Shoal runs with besides
    kafka-python. Raises ShoalError when a contestant fails.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    contestants = _contestants(servers, clients)
    missing = _missing(contestants)
    with tempfile.TemporaryDirectory() as folder:
        path = events or simulated(Path(folder) / "events.jsonl", count)
        with path.open("rb") as file:
            count = min(count, sum(1 for _ in file))
        for turn in range(rounds):
            for name in [c for c in contestants if c not in missing][:: -1 if turn % 2 else 1]:
                limit = peer_count if name.startswith("river") else count
                settings = list(overrides)
                if servers is not None and "kafka" in name:
                    settings += fill_topic(path, limit, servers, f"bench-{time.time_ns()}.")
                if name == CONFLUENT:
                    settings.append("kafka.client=confluent")
                result = _contestant(name, path, limit, settings)
                runs.setdefault(name, []).append(result)
                if echo:
                    click.echo(
                        f"round {turn + 1} {name}: {result['events'] / result['seconds']:,.0f} events/s",
                        err=True,
                    )
    measured: dict[str, Any] = {"machine": machine(), "events": count, "rounds": rounds}
    return measured | {"contestants": _medians(runs), "missing": missing}


def _contestants(servers: str | None, clients: Sequence[str]) -> list[str]:
    names = ["shoal-file", "river-file"]
    if servers is not None:
        names += ["shoal-kafka", "river-kafka", *([CONFLUENT] if "confluent" in clients else ())]
    return names


def _missing(contestants: Sequence[str]) -> dict[str, str]:
    """Contestants that cannot run here, and what to do about it."""
    if CONFLUENT in contestants and find_spec("confluent_kafka") is None:
        return {CONFLUENT: "not installed (pip install 'shoal[confluent]')"}
    return {}


def fill_topic(path: Path, limit: int, servers: str, prefix: str) -> list[str]:
    """Fresh topics with the events in them, for one contestant; the settings that name them."""
    from kafka import KafkaProducer

    from ..config import load
    from ..kafka.admin import ensure_topics, input_topic
    from ..kafka.client import connect, make
    from ..kafka.settings import settings as client_settings

    flags = [
        f"kafka.bootstrap_servers={servers}",
        f"kafka.topic_prefix={prefix}",
        f"kafka.group_id={prefix}group",
    ]
    config = load(None, [*flags, "kafka.create_topics=true"]).kafka
    admin = connect(config, lambda: False)
    assert admin is not None
    ensure_topics(admin, config)
    admin.close()
    producer = make(KafkaProducer, **client_settings(config), linger_ms=20, batch_size=1 << 18)
    with path.open("rb") as file:
        for line in islice(file, limit):
            producer.send(input_topic(config), line.rstrip(b"\n"), key=_user_key(line))
    producer.flush()
    producer.close()
    return flags


def _user_key(line: bytes) -> bytes | None:
    event = json.loads(line)
    name = event.get("user_id") or event.get("anonymous_id")
    return str(name).encode() if name else None


def _contestant(name: str, path: Path, limit: int, settings: list[str]) -> dict[str, Any]:
    module = f"{__package__}.contestants"
    command = [sys.executable, "-m", module, name, str(path), "--limit", str(limit)]
    return result_of(command, settings, f"{module} {name} EVENTS")


def result_of(command: list[str], settings: Sequence[str], alone: str) -> dict[str, Any]:
    """The JSON line that a process of its own prints last. `alone`: module and arguments to run it by hand,
    its name second. Raises ShoalError when it fails."""
    command = [*command, *(part for setting in settings for part in ("--set", setting))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise ShoalError(
            f"{alone.split()[1]} ended with exit code {done.returncode} and said: {said[0]}. "
            f"Run it alone to see all of it: python -m {alone}"
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def simulated(path: Path, count: int) -> Path:
    """Contract events of the simulator, all of them valid: the peer has no notion of a bad record."""
    from ..simulation.population import Settings
    from ..simulation.simulator import Simulator

    with path.open("wb") as file:
        for batch in Simulator(Settings(users=max(100, count // 50), events=count)).batches():
            file.write(b"\n".join(value for value in batch.values if value is not None) + b"\n")
    return path


def _medians(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Per contestant: the median rate and all of them, the median ratio to River in the same round, the
    largest memory, and the details of the round with the median rate."""
    table = {}
    for name, results in runs.items():
        rates = [r["events"] / r["seconds"] for r in results]
        middle = sorted(results, key=lambda r: r["events"] / r["seconds"])[len(results) // 2]
        row: dict[str, Any] = {
            "events": middle["events"],
            "events_per_s": statistics.median(rates),
            "all": rates,
        }
        row["peak_bytes"] = max(r["peak_bytes"] for r in results)
        peer = "river-kafka" if "kafka" in name else "river-file"
        if name != peer and peer in runs:
            pairs = [a / b["events"] * b["seconds"] for a, b in zip(rates, runs[peer], strict=True)]
            row["times_river"] = statistics.median(pairs)
        row |= {key: middle[key] for key in _KEPT if key in middle}
        if "stages" in middle:
            for key, seconds in (("us_per_event", "stages"), ("cpu_us_per_event", "cpu")):
                row[key] = {k: v / middle["events"] * 1e6 for k, v in middle[seconds].items()}
        table[name] = row
    return table


def machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def machine_line(machine: dict[str, Any]) -> str:
    """Where it was measured, and by which versions, for the head of a table."""
    facts = dict(machine)
    system = [facts.pop(name) for name in ("system", "processor", "cores")]
    return f"{system[0]}, {system[1]}, {system[2]} cores; " + ", ".join(f"{k} {v}" for k, v in facts.items())


def _processor() -> str:
    """The model's name where the system tells it; ratios travel between machines, rates do not."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def render(result: dict[str, Any]) -> str:
    """The measurements as Markdown: what ran where, rates and memory, time per stage, commits."""
    contestants = result["contestants"]
    lines = [
        f"Median of {result['rounds']} rounds (least to most), one process each, computing in one thread; "
        f"Shoal commits in a second one.",
        machine_line(result["machine"]),
        "",
        "| contestant | events | events/s | x River | changes | peak memory |",
        "|---|---:|---:|---:|---:|---:|",
        *(_rate_line(name, row) for name, row in contestants.items()),
    ]
    lines += [f"{name}: {reason}" for name, reason in result.get("missing", {}).items()]
    staged = {name: row for name, row in contestants.items() if "us_per_event" in row}
    lines += _stage_lines("microseconds per event", staged, "us_per_event")
    lines += _stage_lines("of it CPU; others: threads beside", staged, "cpu_us_per_event")
    lines += ["", "| | steps | commit p50 | commit p99 |", "|---|---:|---:|---:|"]
    for name, row in staged.items():
        commits = " | ".join(f"{row[key] * 1000:.1f} ms" for key in ("commit_p50_s", "commit_p99_s"))
        lines.append(f"| {name} | {row['steps']:,} | {commits} |")
    return "\n".join(lines)


def _stage_lines(title: str, staged: dict[str, Any], key: str) -> list[str]:
    stages = list(dict.fromkeys(stage for row in staged.values() for stage in row[key]))
    lines = ["", f"| {title} | " + " | ".join(stages) + " | all |", "|---|" + "---:|" * (len(stages) + 1)]
    for name, row in staged.items():
        times = [row[key].get(stage, 0.0) for stage in stages]
        lines.append(f"| {name} | " + " | ".join(f"{us:.2f}" for us in (*times, sum(times))) + " |")
    return lines


def _rate_line(name: str, row: dict[str, Any]) -> str:
    ratio = f"{row['times_river']:.1f}" if "times_river" in row else "1"
    spread = f"{row['events_per_s']:,.0f} ({min(row['all']):,.0f} to {max(row['all']):,.0f})"
    memory = f"{row['peak_bytes'] / 2**20:,.0f} MiB"
    return f"| {name} | {row['events']:,} | {spread} | {ratio} | {row['changes']:,} | {memory} |"
