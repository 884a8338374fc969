"""shoal run: the long-running engine."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
import orjson

from ..config import Config, Http
from ..config_text import describe
from ..events import CATALOG, CHANGES, LINEAGE, MANIFEST, MEMBERS, REJECTED, Counts
from ..ports import CommitUnknown, ConfigError, Observer, Sink
from .options import AT_LEAST_0, as_json, configuration, configured, log_to_stderr

if TYPE_CHECKING:
    from ..engine import Engine
    from ..watching.api import Asked
    from ..watching.metrics import Metrics

log = logging.getLogger("shoal")

OUTPUTS = (CHANGES, MEMBERS, CATALOG, LINEAGE, REJECTED, MANIFEST)
_REJECTS_READ = 10_000  # of the published ones, to say what is wrong with them


@click.command(short_help="the long-running engine")
@configured
@click.option("--input", "input_path", help="JSON lines: FILE, FILE.gz or - (stdin). Leave out for Kafka.")
@click.option("--output", help="Folder for the topic files, or - (stdout).")
@click.option("--control", help="Commands as JSON lines, of a run over files: see `shoal control`.")
@click.option("--follow", is_flag=True, help="Keep reading as the file grows.")
@click.option(
    "--fresh-state",
    "fresh",
    is_flag=False,
    flag_value=0,
    type=AT_LEAST_0,
    metavar="[EPOCH]",
    help="Start over: empty state, new segment ids, the next epoch. With a number: unless that one has begun.",
)
@click.option("--create-topics", is_flag=True, help="Create missing topics (as kafka.create_topics).")
@click.option("--http", is_flag=True, help="Serve /metrics also for a run over files.")
@as_json
def command(
    config_path: Path | None,
    overrides: tuple[str, ...],
    input_path: str | None,
    output: str | None,
    control: str | None,
    follow: bool,
    fresh: int | None,
    create_topics: bool,
    http: bool,
    as_json: bool,
) -> None:
    """Run the engine: behaviour events in, segment changes out.

    With --input and --output it reads files, in the events' own time, and needs no broker. Without them it
    is the long-running Kafka consumer that the configuration describes.
    """
    if (input_path is None) != (output is None):
        raise ConfigError(
            "--input and --output go together: a run over files needs both, a run on Kafka neither"
        )
    _check_paths(input_path, output)
    _check_control(input_path, control)
    if create_topics:
        overrides += ("kafka.create_topics=true",)
    config = configuration(config_path, overrides)
    log_to_stderr()
    with _ending_at_once():
        log.info("configuration:\n%s", describe(config))
        if input_path is not None and output is not None:
            serve = http or config.http != Http()
            _run_files(config, input_path, output, control, follow, fresh, serve=serve, as_json=as_json)
        else:
            _run_kafka(config, fresh, as_json)


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """Where nothing is in flight, before there is an engine and after it, SIGTERM is an orderly end at once."""
    previous = signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _check_paths(input_path: str | None, output: str | None) -> None:
    """No folder is taken by mistake, and no input is written over. Raises ConfigError."""
    for name, path, wanted in (("--input", input_path, "file"), ("--output", output, "folder")):
        if path is not None and not path.strip():
            raise ConfigError(f"{name}: is empty (an unset variable?); name a {wanted}, or - for a pipe")
    if input_path is None or output is None or "-" in (input_path, output):
        return
    if Path(output).exists() and not Path(output).is_dir():
        raise ConfigError(f"--output {output}: is a file; wanted a folder, new or written by an earlier run")
    if Path(input_path).resolve().parent == Path(output).resolve() and Path(input_path).stem in OUTPUTS:
        raise ConfigError(
            f"--input {input_path}: lies in --output {output} under the name of an output and would be written "
            f"over; give another --output"
        )


def _check_control(input_path: str | None, control: str | None) -> None:
    """Raises ConfigError where commands from a file cannot be meant."""
    if control is None:
        return
    if input_path is None:
        raise ConfigError("--control: goes with --input; on Kafka commands come from kafka.control_topic")
    if "-" in (control, control.strip()) or not control.strip():
        raise ConfigError(f"--control {control!r}: name a file; commands are read again when a run goes on")


def _run_files(
    config: Config,
    input_path: str,
    output: str,
    control: str | None,
    follow: bool,
    fresh: int | None,
    serve: bool,
    as_json: bool,
) -> None:
    from ..watching.progress import Progress, Tee
    from ..watching.summary import render_text, summarise, to_json
    from ..wiring import build_engine, file_ports

    with ExitStack() as stack:
        asked = _asked(config, serve)
        observers: list[Observer] = [_measure(config, stack, asked)]
        if asked is not None:
            observers.append(asked.recent)
        if not (as_json or output == "-"):
            observers.append(stack.enter_context(Progress()))
        ports = file_ports(input_path, output, follow, control)
        engine = build_engine(config, ports, Tee(observers), fresh, asked.questions if asked else None)
        with_signals(engine, engine.run)
        summary = summarise(engine.pipeline, engine.counts)
        advice = _advice(engine.counts, ports[1], input_path)
    if as_json:
        body = to_json(summary)
        sys.stdout.buffer.write(orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        click.echo(render_text(summary), err=output == "-")
        changes = Path(output) / f"{CHANGES}.jsonl"
        if output != "-" and changes.exists():
            click.echo(f"The changes lie in {changes}")
        if engine.stopping and "-" not in (input_path, output):
            click.echo("Stopped as asked; the same command goes on where it was")
    if advice:
        click.echo(f"\n{advice}", err=as_json or output == "-")


def _advice(counts: Counts, sink: Sink, input_path: str) -> str:
    """What is wrong with the rejected records, from the records themselves; empty where there are none."""
    from ..watching.summary import rejects_text

    details: Counter[str] = Counter()
    if counts.rejected:
        for found in islice(sink.published(REJECTED), _REJECTS_READ):
            headers = dict(found.record.headers)
            kind = re.sub(r"\d+", "N", headers["detail"].decode())  # positions differ from record to record
            details[f"{headers['reason'].decode()}: {kind}"] += 1
    return rejects_text(counts, details, input_path)


def _run_kafka(config: Config, fresh: int | None, as_json: bool) -> None:
    from ..watching.progress import Tee
    from ..wiring import build_engine, kafka_ports

    if fresh == 0:
        log.warning(
            "--fresh-state without a number begins another epoch at every start and every takeover; "
            "--fresh-state=N begins epoch N once"
        )
    try:
        with ExitStack() as stack:
            asked = _asked(config, serve=True)
            metrics = _measure(config, stack, asked)
            observer = Tee([metrics, asked.recent]) if asked else metrics
            ports = kafka_ports(config, metrics.phase)
            engine = build_engine(config, ports, observer, fresh, asked.questions if asked else None)
            _watch(config, stack, metrics)
            with_signals(engine, engine.run)
    except CommitUnknown as error:
        _start_again(config, error, again(sys.argv[1:], engine.fresh))
    log.info("stopped after step %d", engine.steps)
    if as_json:
        sys.stdout.buffer.write(
            orjson.dumps({"step": engine.steps, "records": engine.counts.records}) + b"\n"
        )


def again(arguments: Sequence[str], fresh: int | None) -> list[str]:
    """The command line of the process that takes over. Where an epoch was asked for and has begun, `fresh` is
    its number: named last it outweighs a bare --fresh-state, which would begin yet another one."""
    named = [f"--fresh-state={fresh}"] if fresh else []
    return [*arguments] if [*arguments[-1:]] == named else [*arguments, *named]


def _start_again(config: Config, error: CommitUnknown, arguments: Sequence[str]) -> None:
    """After any doubt about a commit this process ends. If only the broker was away, a new one takes over.

    The process image is replaced: nothing of the old producer survives, and recovery reads what is true.
    """
    from ..kafka.source import wait_for_broker

    log.error("%s", error)
    if not error.broker_away:
        raise error
    wait_for_broker(config.kafka, lambda: False)
    log.warning("the broker is back: starting again from the last committed step")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "shoal.stream.cli", *arguments])


def _asked(config: Config, serve: bool) -> Asked | None:
    """What HTTP asks, where there is an HTTP server."""
    from ..watching.api import Asked

    return Asked() if serve and config.http.port else None


def _measure(config: Config, stack: ExitStack, asked: Asked | None) -> Metrics:
    """The metrics, with their HTTP server where there is one."""
    from ..watching.metrics import Metrics

    metrics = Metrics()
    if asked is not None:
        from ..watching import http

        server = http.start(config.http, metrics, asked)
        stack.callback(server.stop)
        log.info("metrics at %s/metrics, a page for people at %s", server.url, server.url)
    return metrics


def _watch(config: Config, stack: ExitStack, metrics: Metrics) -> None:
    """Not for a run over files: it may wait for ever for whoever holds the other end of a pipe."""
    from ..watching.watchdog import Watchdog

    if config.engine.stuck_after_s:
        watchdog = Watchdog(metrics.health, config.engine.stuck_after_s, config.kafka.broker_wait_s)
        watchdog.start()
        stack.callback(watchdog.stop)


def with_signals(engine: Engine, run: Callable[[], Any]) -> None:
    """SIGTERM and SIGINT finish the step and commit; a second one exits at once."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        if engine.stopping:
            os._exit(128 + number)
        engine.stop()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        run()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
