"""One contestant of `shoal bench windows`, one process, one thread: prints one JSON line.

    python -m shoal.stream.benchmarks.window_runs quix --users 1000 --events 60000 --per-second 500
    python -m shoal.stream.benchmarks.window_runs own --users 100000 --events 2000000

shoal, quix, bytewax   the same window over the same events; what differs is said in `window_peers.py`
check                  all that are installed over a few events: how many windows each answers, and answers wrongly
own                    Shoal's default windows over mixed events
features               the same with the whole row: the interest family too, three tokens an event
tiles                  one window of an hour in `--tiles` tiles, over mixed events

Shoal does all there is between decoded events and rows: names to slots, the update, which users were touched, a
row for each of them, in steps of `--step` events. `cpu_s` is all of that beside the peers; else update and rows,
the names apart in `stages`. Imports, compilation, the making of events and, except beside the peers, the first
quarter of the events (the first touch of each page of memory) are not timed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..wiring import one_thread

one_thread()  # before numpy is imported

import numpy as np  # noqa: E402

from ..config import Features as Config  # noqa: E402
from ..events import F32, I32, Events  # noqa: E402
from ..features import Features  # noqa: E402
from ..users import Users  # noqa: E402
from ..windows import Windows  # noqa: E402
from .contestants import peak_bytes  # noqa: E402
from .state_sizes import size_of  # noqa: E402
from .window_events import (  # noqa: E402
    LENGTH_MS,
    SLIDE_MS,
    Answers,
    Purchases,
    bought_events,
    expected,
    mixed_events,
    purchases,
    same_window,
    steps_of,
    tiled,
)
from .window_peers import PACKAGES, Run, bytewax, missing, quix  # noqa: E402

STAGES = ("names", "update", "rows")
_SPAN_MS = 4 * 3_600_000  # of the mixed events: four windows of an hour
_PASSES = 5  # of Shoal over the events of the peers, each from an empty state: one alone is over too soon
_CHECKED = 4_000


class Cost:
    """CPU seconds per stage, and seconds in all."""

    def __init__(self) -> None:
        self.cpu_s = dict.fromkeys(STAGES, 0.0)
        self.seconds = 0.0

    def run(self, users: Users, part: Part, steps: Sequence[Events]) -> None:
        cpu_s, started_s = self.cpu_s, time.perf_counter()
        for events in steps:
            marks_s = [time.process_time()]
            slots = users.touch(events)
            marks_s.append(time.process_time())
            part.update(slots, events)
            marks_s.append(time.process_time())
            part.rows(np.unique(slots), users, int(events.time_ms[-1]))
            marks_s.append(time.process_time())
            for i, stage in enumerate(STAGES):
                cpu_s[stage] += marks_s[i + 1] - marks_s[i]
        self.seconds += time.perf_counter() - started_s


class Part(Protocol):
    """What keeps state per user and makes rows of it: `Features`, or `Alone`."""

    def update(self, slots: I32, events: Events) -> None: ...
    def rows(self, slots: I32, users: Users, now_ms: int) -> F32: ...


class Alone:
    """The windows without the other families of a row."""

    def __init__(self, config: Config) -> None:
        self.windows = Windows(config)
        self.update = self.windows.update

    def rows(self, slots: I32, users: Users, now_ms: int) -> F32:
        rows = np.empty((len(slots), len(self.windows.names)), np.float32)
        self.windows.fill(slots, now_ms, rows)
        return rows


def shoal(bought: Purchases, users: int, step: int) -> dict[str, Any]:
    """The window that the peers keep; mean of a few passes."""
    steps = list(steps_of(bought_events(bought), step))
    config = same_window(users)
    Cost().run(Users(config), Alone(config), steps[:1])
    cost = Cost()
    for _ in range(_PASSES):
        cost.run(Users(config), Alone(config), steps)
    stages = {stage: total / _PASSES for stage, total in cost.cpu_s.items()}
    return {
        "events": len(bought),
        "seconds": cost.seconds / _PASSES,
        "cpu_s": sum(stages.values()),
        "stages": stages,
    }


def own(
    config: Config, make: Callable[[Config], Alone | Features], users: int, count: int, step: int
) -> dict[str, Any]:
    """Update and rows with these windows, after a first quarter of the events that fills them."""
    steps = list(steps_of(mixed_events(users, count, _SPAN_MS), step))
    Cost().run(Users(config), make(config), steps[:1])
    people, part = Users(config), make(config)
    filling = len(steps) // 4
    Cost().run(people, part, steps[:filling])
    cost = Cost()
    cost.run(people, part, steps[filling:])
    return {
        "events": sum(len(events) for events in steps[filling:]),
        "seconds": cost.seconds,
        "cpu_s": cost.cpu_s["update"] + cost.cpu_s["rows"],
        "stages": cost.cpu_s,
        "bytes_per_user": size_of(part) / max(1, len(people)),
    }


def peer(prepare: Callable[[Purchases, str], Run], bought: Purchases) -> dict[str, Any]:
    """A few events first, so that everything is imported and warm; then all of them, from an empty state."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(_first(bought, 200), folder)()
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(bought, folder)
        started_s, cpu_s = time.perf_counter(), time.process_time()
        run()
        seconds, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    return {"events": len(bought), "seconds": seconds, "cpu_s": cpu_s}


def _first(bought: Purchases, count: int) -> Purchases:
    return Purchases(bought.users[:count], bought.time_ms[:count], bought.cents[:count])


def shoal_answers(bought: Purchases, users: int) -> Answers:
    """Every window of every user: a row for each at the end of each slide, as long as one is not empty."""
    config = same_window(users)
    people, windows = Users(config), Windows(config)
    count_at, money_at = (windows.names.index(f"{name}_1m") for name in ("purchase_count", "money"))
    answers: Answers = {}
    slides = bought.time_ms // SLIDE_MS
    events = bought_events(bought)
    for slide in range(int(slides[0]), int(slides[-1]) + LENGTH_MS // SLIDE_MS):
        now = events.take(slides == slide)
        if len(now):
            windows.update(people.touch(now), now)
        everybody = np.arange(len(people), dtype=np.int32)
        rows = np.empty((len(everybody), len(windows.names)), np.float32)
        windows.fill(everybody, slide * SLIDE_MS + SLIDE_MS - 1, rows)
        start_ms = slide * SLIDE_MS + SLIDE_MS - LENGTH_MS
        for name, row in zip(people.names(everybody), rows.tolist(), strict=True):
            if row[count_at]:
                answers[int(name.removeprefix("user-")), start_ms] = (
                    round(row[count_at]), round(row[money_at] * 100)
                )  # fmt: skip
    return answers


def check(bought: Purchases, users: int) -> dict[str, Any]:
    """Per contestant: windows answered, and how many of them are not what counting naively gives."""
    truth = expected(bought)
    found = {"shoal": shoal_answers(bought, users)}
    for name, prepare in PEERS.items():
        if not missing(name):
            with tempfile.TemporaryDirectory() as folder:
                found[name] = prepare(bought, folder)()()
    return {
        name: {
            "windows": len(answers),
            "wrong": sum(truth.get(at) != answers.get(at) for at in truth | answers),
        }
        for name, answers in found.items()
    }


PEERS: dict[str, Callable[[Purchases, str], Run]] = {"quix": quix, "bytewax": bytewax}
assert PEERS.keys() == PACKAGES.keys()


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """What one role measures."""
    users, count = arguments.users, arguments.events
    match arguments.name:
        case "own":
            return own(Config(users_max=users), Alone, users, count, arguments.step)
        case "features":
            return own(Config(users_max=users), Features, users, count, arguments.step)
        case "tiles":
            return own(tiled(users, arguments.tiles), Alone, users, count, arguments.step)
        case "check":
            return check(purchases(users, min(count, _CHECKED), arguments.per_second), users)
        case "shoal":
            return shoal(purchases(users, count, arguments.per_second), users, arguments.step)
        case name:
            return peer(PEERS[name], purchases(users, count, arguments.per_second))


def arguments_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m shoal.stream.benchmarks.window_runs")
    parser.add_argument("name", choices=["shoal", *PACKAGES, "check", "own", "features", "tiles"])
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--step", type=int, default=8192)
    parser.add_argument("--per-second", type=float, default=500.0)
    parser.add_argument("--tiles", type=int, default=6)
    return parser.parse_args(words)


def main() -> None:
    result = run(arguments_of())
    print(json.dumps({**result, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
