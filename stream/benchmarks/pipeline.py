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
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import click

PACKAGES = ("shoal", "river", "kafka-python", "numpy", "numba", "torch")


def measure(
    events: Path | None,
    count: int,
    peer_count: int,
    rounds: int,
    servers: str | None,
    overrides: tuple[str, ...],
    echo: bool,
) -> dict[str, Any]:
    """Run every contestant `rounds` times in turn. Raises RuntimeError when a contestant fails."""
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = events or _simulate(Path(folder) / "events.jsonl", count)
        with path.open("rb") as file:
            count = min(count, sum(1 for _ in file))
        for turn in range(rounds):
            for name, limit in _contestants(count, peer_count, servers):
                settings = list(overrides)
                if servers is not None and name.endswith("kafka"):
                    settings += _fill_topic(path, limit, servers, f"bench-{time.time_ns()}.")
                result = _contestant(name, path, limit, settings)
                runs.setdefault(name, []).append(result)
                if echo:
                    click.echo(
                        f"round {turn + 1} {name}: {result['events'] / result['seconds']:,.0f} events/s",
                        err=True,
                    )
    return {"machine": _machine(), "events": count, "rounds": rounds, "contestants": _medians(runs)}


def _contestants(count: int, peer_count: int, servers: str | None) -> list[tuple[str, int]]:
    names = [("shoal-file", count), ("river-file", peer_count)]
    return names + ([("shoal-kafka", count), ("river-kafka", peer_count)] if servers else [])


def _fill_topic(path: Path, limit: int, servers: str, prefix: str) -> list[str]:
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
    command = [
        sys.executable,
        "-m",
        "shoal.stream.benchmarks.contestants",
        name,
        str(path),
        "--limit",
        str(limit),
    ]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} ended with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _simulate(path: Path, count: int) -> Path:
    """Contract events of the simulator, all of them valid: the peer has no notion of a bad record."""
    from ..simulation.population import Settings
    from ..simulation.simulator import Simulator

    with path.open("wb") as file:
        for batch in Simulator(Settings(users=max(100, count // 50), events=count)).batches():
            file.write(b"\n".join(value for value in batch.values if value is not None) + b"\n")
    return path


def _medians(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    table = {}
    for name, results in runs.items():
        rates = [r["events"] / r["seconds"] for r in results]
        peer = "river-kafka" if name.endswith("kafka") else "river-file"
        row: dict[str, Any] = {"events_per_s": statistics.median(rates), "all": rates}
        row["peak_bytes"] = max(r["peak_bytes"] for r in results)
        if name != peer and peer in runs:
            pairs = [a / b["events"] * b["seconds"] for a, b in zip(rates, runs[peer], strict=True)]
            row["times_river"] = statistics.median(pairs)
        for key in ("stages", "commit_p50_s", "commit_p99_s", "steps"):
            if key in results[-1]:
                row[key] = results[-1][key]
        if "stages" in row:
            row["us_per_event"] = {k: v / results[-1]["events"] * 1e6 for k, v in row.pop("stages").items()}
        table[name] = row
    return table


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def render(result: dict[str, Any]) -> str:
    """The measurements as Markdown tables."""
    lines = [
        f"{result['events']:,} events, median of {result['rounds']} rounds, one thread each", "",
        "| contestant | events/s | x River | peak memory |", "|---|---:|---:|---:|",
    ]  # fmt: skip
    for name, row in result["contestants"].items():
        ratio = f"{row['times_river']:.1f}" if "times_river" in row else "1"
        lines.append(
            f"| {name} | {row['events_per_s']:,.0f} | {ratio} | {row['peak_bytes'] / 2**20:,.0f} MiB |"
        )
    staged = {
        name: row["us_per_event"] for name, row in result["contestants"].items() if "us_per_event" in row
    }
    stages = list(dict.fromkeys(stage for times in staged.values() for stage in times))
    lines += ["", "| microseconds per event | " + " | ".join(stages) + " |", "|---|" + "---:|" * len(stages)]
    for name, times in staged.items():
        lines.append(f"| {name} | " + " | ".join(f"{times.get(stage, 0.0):.2f}" for stage in stages) + " |")
    return "\n".join(lines)
