"""`shoal bench windows`: sliding windows for many users, against Quix Streams and Bytewax, and over their tiles.

Contestants take turns, each in a process of its own (`window_runs.py`); rates are per second of processor time,
so that a busy machine does not matter much, with the wall clock beside them.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import click

from .pipeline import machine, machine_line, result_of
from .window_peers import PACKAGES, missing

Turn = tuple[str, str, int, int, list[str]]
"""name in the table, role in `window_runs.py`, users, events, options"""

TILES = (6, 24, 60, 120, 360)
GOAL_PER_S, GOAL_FLAT = 1_000_000, 1.3
_SMALL_STEP = 512  # a second of the peers' events: rows as fresh as that
_CHECK: Turn = ("check", "check", 100, 4_000, ["--per-second", "20"])  # 200 s: windows fill and empty again
_TILED_SHARE = 5  # the table over tiles has a fifth of the users and half of the events: its slabs are larger


def measure(
    users: int, count: int, peer_users: int, peer_count: int, per_s: float, rounds: int, step: int, echo: bool
) -> dict[str, Any]:
    """Everybody in turn, `rounds` times and every other time backwards. Raises ShoalError when one fails."""
    runs: dict[str, list[dict[str, Any]]] = {}
    turns = _peers(peer_users, peer_count, per_s, step) + _own(users, count, step)
    checked = _role(_CHECK)
    checked.pop("peak_bytes")
    for number in range(rounds):
        for turn in turns[:: -1 if number % 2 else 1]:
            name, result = turn[0], _role(turn)
            runs.setdefault(name, []).append(result)
            if echo:
                rate = result["events"] / result["cpu_s"]
                click.echo(f"round {number + 1} {name}: {rate:,.0f} events per CPU second", err=True)
    rows = {name: _median(results) for name, results in runs.items()}
    return {
        "machine": machine()
        | {PACKAGES[name]: version(PACKAGES[name]) for name in PACKAGES if not missing(name)},
        "rounds": rounds,
        "step": step,
        "users": users,
        "peer_users": peer_users,
        "per_s": per_s,
        "not_installed": {name: missing(name) for name in PACKAGES if missing(name)},
        "checked": checked,
        "same_window": _same_window(rows),
        "own": {name: rows[name] for name in ("own", "features")},
        "tiles": {str(tiles): rows[f"tiles-{tiles}"] for tiles in TILES},
        "flat": flatness([rows[f"tiles-{tiles}"]["cpu_us"] for tiles in TILES]),
    }


def _peers(users: int, count: int, per_s: float, step: int) -> list[Turn]:
    rate = ["--per-second", str(per_s)]
    ours: list[Turn] = [
        (f"shoal-{size}", "shoal", users, count, [*rate, "--step", str(size)])
        for size in sorted({step, _SMALL_STEP})
    ]
    return ours + [(name, name, users, count, rate) for name in PACKAGES if not missing(name)]


def _own(users: int, count: int, step: int) -> list[Turn]:
    size = ["--step", str(step)]
    tiled = max(users // _TILED_SHARE, 16), count // 2
    return [
        ("own", "own", users, count, size),
        ("features", "features", users, count, size),
        *((f"tiles-{tiles}", "tiles", *tiled, [*size, "--tiles", str(tiles)]) for tiles in TILES),
    ]


def _role(turn: Turn) -> dict[str, Any]:
    _, name, users, count, options = turn
    module = f"{__package__}.window_runs"
    command = [sys.executable, "-m", module, name, "--users", str(users), "--events", str(count), *options]
    return result_of(command, (), f"{module} {' '.join(command[3:])}")


def _median(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates per CPU second, the median and all of them; the stages of the median round in us per event."""
    rates = [r["events"] / r["cpu_s"] for r in results]
    middle = sorted(results, key=lambda r: r["events"] / r["cpu_s"])[len(results) // 2]
    row = {
        "events": middle["events"],
        "events_per_cpu_s": statistics.median(rates),
        "all": rates,
        "events_per_s": statistics.median(r["events"] / r["seconds"] for r in results),
        "cpu_us": 1e6 / statistics.median(rates),
        "peak_bytes": max(r["peak_bytes"] for r in results),
        "us_per_event": {k: v / middle["events"] * 1e6 for k, v in middle.get("stages", {}).items()},
    }
    return row | {key: middle[key] for key in ("bytes_per_user",) if key in middle}


def _same_window(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The contestants of the window that all keep, with how many times slower than the first each is."""
    names = [name for name in rows if name.startswith("shoal-") or name in PACKAGES]
    names.sort(key=lambda name: -rows[name]["events_per_cpu_s"])
    first = f"shoal-{max(int(name[6:]) for name in names if name.startswith('shoal-'))}"
    for name in names:
        ratios = [a / b for a, b in zip(rows[first]["all"], rows[name]["all"], strict=True)]
        rows[name]["shoal_is_times"] = statistics.median(ratios)
    return {name: rows[name] for name in names}


def flatness(costs: Sequence[float]) -> float:
    """How many times the dearest is the cheapest; 1: all the same."""
    return max(costs) / min(costs)


def render(result: dict[str, Any]) -> str:
    """The measurements as Markdown: the same window by name, Shoal's own windows, the table over tiles."""
    tiled = result["tiles"]
    lines = [
        f"Median of {result['rounds']} rounds (least to most), one process and one thread each.",
        machine_line(result["machine"]),
        "",
        f"Count and sum per user over 60 s, a new window every 10 s; {result['peer_users']:,} users, "
        f"{result['per_s']:,.0f} events/s. {_agreement(result['checked'])}",
        "",
        "| same window | a result | events per CPU second | events/s | Shoal is x times | peak memory |",
        "|---|---|---:|---:|---:|---:|",
        *(_peer_line(name, row) for name, row in result["same_window"].items()),
        *(f"| {name} | {why} | | | | |" for name, why in result["not_installed"].items()),
        "",
        f"Shoal's windows, {result['users']:,} users, one row per touched user every {result['step']:,} events "
        f"(goal {GOAL_PER_S:,} events/s for update and rows):",
        "",
        "| | update and rows, events per CPU second | names us | update us | rows us | state a user |",
        "|---|---:|---:|---:|---:|---:|",
        *(_own_line(_OWN[name], row) for name, row in result["own"].items()),
        *(_own_line(f"one hour in {tiles} tiles", row) for tiles, row in tiled.items()),
        "",
        f"From {min(map(int, tiled))} to {max(map(int, tiled))} tiles the dearest event costs "
        f"{result['flat']:.2f} times the cheapest (goal {GOAL_FLAT:g}).",
    ]
    return "\n".join(lines)


_OWN = {"own": "default windows", "features": "whole rows: with the interest family"}
_EVERY = {"quix": "per event and window", "bytewax": "per closed window"}


def _agreement(checked: dict[str, Any]) -> str:
    windows = max(row["windows"] for row in checked.values())
    wrong = ", ".join(f"{name} {row['wrong']:,}" for name, row in checked.items())
    return f"Over {windows:,} windows of a sample, wrong answers: {wrong}."


def _peer_line(name: str, row: dict[str, Any]) -> str:
    result = _EVERY.get(name) or f"per touched user, every {int(name.removeprefix('shoal-')):,} events"
    return (
        f"| {name.partition('-')[0]} | {result} | {_spread(row)} | {row['events_per_s']:,.0f} | "
        f"{row['shoal_is_times']:,.1f} | {row['peak_bytes'] / 2**20:,.0f} MiB |"
    )


def _own_line(name: str, row: dict[str, Any]) -> str:
    times = " | ".join(f"{row['us_per_event'][stage]:.3f}" for stage in ("names", "update", "rows"))
    return f"| {name} | {_spread(row)} | {times} | {row['bytes_per_user']:,.0f} B |"


def _spread(row: dict[str, Any]) -> str:
    return f"{row['events_per_cpu_s']:,.0f} ({min(row['all']):,.0f} to {max(row['all']):,.0f})"
