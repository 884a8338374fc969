"""shoal demo: the main job on simulated events, in one process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import orjson

from ..config import Config
from ..events import CHANGES, Range, Reason, Records
from ..ports import ConfigError, Observer, Sink, SourceGone, nothing
from ..simulation.population import Settings, Span
from ..simulation.simulator import Batch, Simulator
from .options import AT_LEAST_0, AT_LEAST_1, DAYS_RANGE, SECONDS, as_json, configuration, configured
from .run import OUTPUTS, with_signals
from .simulate import truth_json

if TYPE_CHECKING:
    from ..watching.api import Asked
    from ..watching.summary import Summary

MARK = ".shoal-demo"
"""A file in every folder that the demo made; only such a folder is emptied by the next demo."""

SETTINGS = (
    "engine.step_records_max=1024",  # some hours of stream time a step, so that changes show
    "segmenter.segments=8",  # few enough to read, and as many as there are personas
)
"""What differs from the default configuration; --config leaves it out, --set overrides it."""


@click.command(short_help="the main job on simulated events, with progress on screen")
@click.option("--users", default=1000, type=AT_LEAST_1, show_default=True, help="How many simulated users.")
@click.option(
    "--events", default=200_000, type=AT_LEAST_1, show_default=True, help="How many records they send."
)
@click.option(
    "--days", default=28.0, type=DAYS_RANGE, show_default=True, help="Stream time that the records span."
)
@click.option(
    "--seconds", default=40.0, type=SECONDS, show_default=True, help="Stop reading after this long."
)
@click.option("--seed", default=1, type=AT_LEAST_0, show_default=True, help="Of the simulation.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out/demo"),
    show_default=True,
    help="Folder for the topic files; replaced if an earlier demo made it.",
)
@click.option("--http", is_flag=True, help="Serve /metrics and the page for people while it runs.")
@configured
@as_json
def command(
    users: int,
    events: int,
    days: float,
    seconds: float,
    seed: int,
    output: Path,
    http: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Group simulated shop users by what they do, while they do it, and see how well it went.

    The simulation knows the truth: eight personas, some users who are mixtures of two, a few bots, and a
    share of users who become somebody else on the way. It plants duplicates, late, corrupt and disordered
    records. The engine does not know any of this; the summary compares.
    """
    config = configuration(config_path, overrides if config_path else (*SETTINGS, *overrides))
    began_s = time.monotonic()
    simulator = Simulator(demo_settings(users, events, days, seed))
    prepare(output)
    _compile(config, as_json)
    source = SimulatedSource(simulator, seconds)
    summary = _run(config, source, output, http, quiet=as_json)
    if as_json:
        body = _json(summary, source, output, time.monotonic() - began_s)
        sys.stdout.buffer.write(orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        click.echo(_text(summary, source, output, time.monotonic() - began_s))


def demo_settings(users: int, events: int, days: float, seed: int) -> Settings:
    """A shop with everything that goes wrong in one, so that the summary has something to be honest about."""
    return Settings(
        users=users,
        events=events,
        days=days,
        seed=seed,
        drift="abrupt",
        drift_share=0.15,
        drift_at=0.5,
        boundary=0.06,
        bots=min(3, users // 20),
        anonymous=0.1,
        duplicates=0.02,
        late=0.002,
        future=0.001,
        absurd=0.001,
        corrupt=tuple((reason.value, 0.0005) for reason in Reason),
        disorder_ms=120_000,
    )


def prepare(output: Path) -> None:
    """An empty folder with the demo's mark. Raises ConfigError when somebody else's files are there."""
    try:
        if output.exists() and any(output.iterdir()):
            if not (output / MARK).exists():
                raise ConfigError(
                    f"{output}: is not empty and was not made by the demo; give another folder with --output"
                )
            for name in (*(f"{topic}.jsonl" for topic in OUTPUTS), "truth.json"):
                (output / name).unlink(missing_ok=True)
        output.mkdir(parents=True, exist_ok=True)
        (output / MARK).touch()
    except OSError as error:
        raise ConfigError(f"{output}: cannot be used: {error.strerror}; give another with --output") from None


class SimulatedSource:
    """The simulator as a finite source of one partition; it ends early after `seconds` of reading.

    Every poll makes one batch, so what was planted is what was polled. Records are not kept: they cannot be
    read again.
    """

    finite = True
    wall_clock = False
    mark = ""

    def __init__(
        self, simulator: Simulator, seconds: float, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.simulator = simulator
        self.cut_short = False
        self._seconds = seconds
        self._clock_s = clock_s
        self._ends_s = 0.0
        self._next = 0
        self._batches: Iterator[Batch] = iter(())

    def open(self, stopping: Callable[[], bool], meanwhile: Callable[[], None] = nothing) -> bool:
        self._ends_s = self._clock_s() + self._seconds
        return not stopping()

    def nearest(self, positions: Mapping[int, int]) -> Mapping[int, int]:
        return {0: 0}

    def seek(self, positions: Mapping[int, int]) -> None:
        if positions:
            raise SourceGone("simulated records are made once; start the demo again")

    def poll(self, max_records: int, timeout_s: float) -> tuple[Records, tuple[Range, ...]] | None:
        if not self._next:
            self._batches = self.simulator.batches(max_records)
        if self._clock_s() >= self._ends_s:
            self.cut_short = True
            return None
        batch = next(self._batches, None)
        if batch is None:
            return None
        start, self._next = self._next, self._next + len(batch.values)
        offsets = np.arange(start, self._next, dtype=np.int64)
        records = Records(np.zeros(len(offsets), np.int32), offsets, batch.keys, batch.values)
        return records, (Range(0, start, self._next),)

    def read(self, ranges: Sequence[Range]) -> Records:
        raise SourceGone("simulated records are made once; start the demo again")

    def lag(self) -> Mapping[int, int]:
        return {0: max(0, (self.simulator.settings.events or 0) - self._next)}

    def close(self) -> None:
        pass


def _compile(config: Config, quiet: bool) -> None:
    """Before the clock of the simulation starts: compiling is not what the demo is about."""
    from ..kernels import compile_kernels

    if not quiet:
        click.echo("Compiling what this machine has not compiled yet (up to a minute, once) ...", err=True)
    compile_kernels(config)


def _run(config: Config, source: SimulatedSource, output: Path, http: bool, quiet: bool) -> Summary:
    """The engine over the whole simulation, and then what came out of it."""
    from ...sinks.files import FileSink
    from ..watching.api import Asked
    from ..watching.summary import segments_of, summarise
    from ..wiring import build_engine

    sink = FileSink(output)
    with ExitStack() as stack:
        asked = Asked()
        observer = _observe(config, source, stack, asked if http else None, quiet)
        engine = build_engine(config, (source, sink), observer, questions=asked.questions)
        with_signals(engine, engine.run)
    truth, planted = source.simulator.truth(), source.simulator.planted
    (output / "truth.json").write_bytes(truth_json(planted, truth))
    reasons, example = changes_of(sink, truth, segments_of(engine.pipeline, truth))
    return summarise(engine.pipeline, engine.counts, truth, planted.as_dict(), reasons, example)


def _observe(
    config: Config, source: SimulatedSource, stack: ExitStack, asked: Asked | None, quiet: bool
) -> Observer:
    from ..watching.progress import Progress, Tee

    observers: list[Observer] = []
    if asked is not None:
        from ..watching import http as server
        from ..watching.metrics import Metrics

        metrics = Metrics()
        running = server.start(config.http, metrics, asked)
        stack.callback(running.stop)
        click.echo(f"metrics at {running.url}/metrics, a page for people at {running.url}", err=True)
        observers += [metrics, asked.recent]
    if not quiet:
        observers.append(stack.enter_context(Progress(source.simulator.settings.events)))
    return Tee(observers)


def changes_of(sink: Sink, truth: Sequence[Span], segments: Mapping[str, int]) -> tuple[dict[str, int], str]:
    """Changes by reason, and one in a sentence: the clearest of a user who really became another and stayed."""
    from ..watching.words import change_sentence

    since = {before.user_id: before.to_ms for before in truth if before.to_ms < truth[-1].to_ms}
    reasons: dict[str, int] = {}
    best: tuple[tuple[bool, bool, bool, float], Mapping[str, Any]] | None = None
    for record in (found.record for found in sink.published(CHANGES)):
        change = orjson.loads(record.value or b"null")
        kind, user = change["reason"]["kind"], change["user"]["key"]
        reasons[kind] = reasons.get(kind, 0) + 1
        if change["to"] is None:
            continue
        rank = (
            change["transition"] == "moved" and kind == "user_behavior",
            segments.get(user) == change["to"]["segment_id"],
            change["times"]["decided_time"] > since.get(user, 1 << 62),
            change["confidence"]["score"],
        )
        if best is None or rank > best[0]:
            best = rank, change
    return reasons, change_sentence(best[1]) if best else ""


def _json(summary: Summary, source: SimulatedSource, output: Path, took_s: float) -> dict[str, Any]:
    from ..watching.summary import to_json

    extra = {"seconds": round(took_s, 1), "cut_short": source.cut_short, "output": str(output)}
    return to_json(summary) | extra


def _text(summary: Summary, source: SimulatedSource, output: Path, took_s: float) -> str:
    from ..watching.summary import render_text

    settings = source.simulator.settings
    head = (
        f"\nShoal watched {summary.counts.records:,} simulated records of {settings.users:,} shop users and "
        f"took {took_s:.0f} s for it"
    )
    if source.cut_short:
        head += f", where it stopped (--seconds); {settings.events:,} were asked for"
    return f"{head}.\n\n{render_text(summary)}\n\n{_next(output, settings)}"


def _next(output: Path, settings: Settings) -> str:
    return "\n".join(
        (
            f"The changes lie in {output / 'segment.changes.jsonl'}, the truth in {output / 'truth.json'}.",
            "",
            "What to try next:",
            f"  shoal demo --seed {settings.seed + 1} --set segmenter.segments=6   other people, fewer segments",
            "  shoal simulate --users 5000 --events 500000 --drift slow --output events.jsonl.gz",
            "  shoal run --input events.jsonl.gz --output out/run   the same engine on a file, yours for example",
        )
    )
