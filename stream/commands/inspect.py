"""shoal inspect: what the engine knows, and why."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from ..ports import ConfigError
from .options import as_json, configuration, configured, log_to_stderr

if TYPE_CHECKING:
    from ..config import Config
    from ..inspecting.deployment import Ports
    from ..pipeline import Pipeline

Value = dict[str, Any]


@click.group(short_help="what the engine knows, and why: user, segments, segment, lineage, features")
def command() -> None:
    """Show what the engine knows of a user or a segment, and why.

    From where: --url asks a running engine. --input and --output name a run over files; without them it is the
    Kafka of the configuration: then the state is rebuilt beside the engine, from the newest snapshot in
    engine.state_dir and the steps recorded since (give the same --config and --set as the run). --snapshot, or
    --output alone, takes the newest snapshot as it is. Nothing is fenced, joined or written.
    """


@dataclass(frozen=True, slots=True)
class Where:
    """From where to read: the options that every sub-verb shares."""

    config_path: Path | None
    overrides: tuple[str, ...]
    url: str | None
    input_path: str | None
    output: str | None
    control: str | None
    until: str | None
    snapshot: bool

    def config(self) -> Config:
        return configuration(self.config_path, self.overrides)


def _located(body: Callable[..., None]) -> Callable[..., None]:
    """The options of `Where`, and --json."""

    def called(
        config_path: Path | None,
        overrides: tuple[str, ...],
        url: str | None,
        input_path: str | None,
        output: str | None,
        control: str | None,
        until: str | None,
        snapshot: bool,
        **rest: Any,
    ) -> None:
        where = Where(config_path, overrides, url, input_path, output, control, until, snapshot)
        if url is not None and (input_path or output or control or until or snapshot):
            raise ConfigError("--url asks an engine for its present state: leave the other sources out")
        body(where=where, **rest)

    called.__name__, called.__doc__ = body.__name__, body.__doc__
    for option in (
        as_json,
        click.option("--snapshot", is_flag=True, help="The newest snapshot as it is; compute nothing again."),
        click.option("--until", metavar="STEP|TIME", help="As of an earlier step, or stream time."),
        click.option("--control", help="The file of commands the run read."),
        click.option("--output", help="The folder the run wrote."),
        click.option("--input", "input_path", help="The file the run read. Leave out for Kafka."),
        click.option("--url", help="A running engine, as http://127.0.0.1:9108"),
        configured,
    ):
        called = option(called)
    return called


@command.command("user")
@click.argument("key", metavar="ID")
@click.option("--anonymous", is_flag=True, help="ID is an anonymous id (its key is anon:ID).")
@click.option("--check", is_flag=True, help="Compute its changes again and compare them byte for byte.")
@click.option("--from-scratch", is_flag=True, help="With --check: from the beginning, from no snapshot.")
@_located
def user(key: str, anonymous: bool, check: bool, from_scratch: bool, where: Where, as_json: bool) -> None:
    """One user: where it is, since when, why, how surely, what it does; and every change that was published.

    ID is the key in segment.changes. Exit code 1: nothing is known of such a user. With --check, 6: a change
    that was published is not the one that is computed again; the first difference is named.
    """
    from ..inspecting import text
    from ..inspecting.keys import published_key

    log_to_stderr()
    if check and (where.url or where.until or where.snapshot or (where.output and not where.input_path)):
        raise ConfigError(
            "--check computes steps again: give --input and --output, or the configuration of Kafka"
        )
    key = published_key(key, anonymous)
    found = _user_by_url(where.url, key) if where.url else _user_by_topics(where, key)
    if found["portrait"] is None and not found["history"]:
        raise click.ClickException(
            f"nothing is known of a user with the key {key!r}; keys are those of segment.changes"
        )
    if not as_json:
        click.echo(text.user(found))
    checked = _check(where, key, from_scratch) if check else None
    if as_json:
        _dump(found | ({"check": checked.as_dict()} if checked else {}))
    elif checked:
        click.echo(f"\nChecked: {checked.text()}")


def _user_by_url(url: str, key: str) -> Value:
    from ..inspecting.client import ask

    portrait, why = ask(url, "users", key), ask(url, "users", key, "why")
    last = why and why["last_change"]
    as_of = (portrait or why or {}).get("as_of")
    return {"as_of": as_of, "key": key, "portrait": portrait, "why": why, "history": [last] if last else []}


def _user_by_topics(where: Where, key: str) -> Value:
    from ..inspecting import history
    from ..inspecting.portrait import portrait, reasons
    from ..values import user_name

    with _reading(where, needed=False) as (pipeline, ports):
        changes = history.changes(ports[1], key)
        if pipeline is None:
            return {"as_of": None, "key": key, "portrait": None, "why": None, "history": changes}
        name = user_name(key)
        found, why = portrait(pipeline, name), reasons(pipeline, name)
        changes = history.until(changes, found and found["segment"], pipeline.clock.now_ms)
        return {"as_of": _as_of(pipeline), "key": key, "portrait": found, "why": why, "history": changes}


def _check(where: Where, key: str, from_scratch: bool) -> Any:
    from ..auditing.access import KAFKA_PATIENCE_S, progress
    from ..inspecting.check import check_user
    from ..inspecting.deployment import opened
    from ..wiring import build_pipeline

    config = where.config()
    ports = opened(config, where.input_path, where.output, where.control)
    patience_s = 0.0 if where.output else KAFKA_PATIENCE_S
    with closing(ports[0]), closing(ports[1]), progress("checked") as told:
        return check_user(config, ports, partial(build_pipeline, config), key, from_scratch, patience_s, told)


@command.command("segments")
@_located
def segments(where: Where, as_json: bool) -> None:
    """All segments: size and name, the largest first."""
    from ..inspecting import overview, text

    _show(where, as_json, ("segments",), overview.segments, text.segments)


@command.command("segment")
@click.argument("segment_id", metavar="ID", type=click.IntRange(min=1))
@_located
def segment(segment_id: int, where: Where, as_json: bool) -> None:
    """One segment: what sets it apart and what it takes to, as in segment.catalog. Exit code 1: there is none."""
    from ..inspecting import overview, text

    path = ("segments", str(segment_id))
    _show(where, as_json, path, lambda pipeline: overview.segment(pipeline, segment_id), text.segment)


@command.command("features")
@_located
def features(where: Where, as_json: bool) -> None:
    """Every feature: what it means, its unit, and what is usual."""
    from ..inspecting import overview, text

    _show(where, as_json, ("features",), overview.features, text.features)


@command.command("lineage")
@_located
def lineage(where: Where, as_json: bool) -> None:
    """What became of segments: births, splits, merges, renamings, deaths; all that was published, oldest first.

    With --url only what that engine has seen.
    """
    from ..inspecting import text
    from ..inspecting.client import ask
    from ..inspecting.deployment import opened
    from ..inspecting.history import lineage as published

    log_to_stderr()
    if where.url:
        facts = list(reversed((ask(where.url, "lineage") or {"lineage": []})["lineage"]))
    else:
        ports = opened(where.config(), where.input_path, where.output, where.control)
        with closing(ports[0]), closing(ports[1]):
            facts = published(ports[1])
    if as_json:
        _dump({"lineage": facts})
    else:
        click.echo(text.lineage(facts))


def _show(
    where: Where,
    as_json: bool,
    path: tuple[str, ...],
    read: Callable[[Pipeline], Value | None],
    render: Callable[[Value], str],
) -> None:
    """What `read` finds in the state, or the engine says at this path under /v1."""
    from ..inspecting.client import ask

    log_to_stderr()
    if where.url:
        found = ask(where.url, *path)
    else:
        with _reading(where, needed=True) as (pipeline, _):
            assert pipeline is not None, "it is needed"
            value = read(pipeline)
            found = None if value is None else {"as_of": _as_of(pipeline), **value}
    if found is None:
        raise click.ClickException(f"there is no {' '.join(path).replace('segments', 'segment')} now")
    if as_json:
        _dump(found)
    else:
        click.echo(render(found))


@contextmanager
def _reading(where: Where, needed: bool) -> Iterator[tuple[Pipeline | None, Ports]]:
    """The state and the topics; no state where only the output is known and no snapshot is there."""
    from ..auditing.access import progress
    from ..inspecting.deployment import newest_snapshot, opened, pipeline_at
    from ..wiring import build_pipeline

    config = where.config()
    ports = opened(config, where.input_path, where.output, where.control)
    fresh = partial(build_pipeline, config)
    with closing(ports[0]), closing(ports[1]):
        if where.snapshot or (where.output and not where.input_path):
            if where.until:
                raise ConfigError(
                    "--until computes steps again: give --input and --output, without --snapshot"
                )
            pipeline = newest_snapshot(config, fresh, ports)
            if pipeline is None and needed:
                raise ConfigError(
                    "no snapshot is at hand: name engine.state_dir with --config or --set, or give --input too"
                )
        else:
            with progress("replayed") as told:
                pipeline = pipeline_at(config, fresh, ports, where.until, told)
        yield pipeline, ports


def _as_of(pipeline: Pipeline) -> Value:
    return {"step": pipeline.chain.step, "time": pipeline.clock.now_ms}


def _dump(value: Value) -> None:
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
