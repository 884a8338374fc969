"""shoal subscribe: segment changes as they come, and the table they add up to."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

import click
import msgspec

from ..config import Config
from ..ports import ConfigError, DiskFailed, InputError, Stopped
from .options import configuration, configured, log_to_stderr

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..subscribing import Change, Member, Reader, SegmentMirror
    from ..subscribing.kafka_reader import KafkaReader

_SAVE_EVERY_S = 5.0
_RECENT = 12


@click.command(short_help="segment changes as they come, from Kafka or from files")
@click.option(
    "--input",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of a run over files. Leave out for Kafka.",
)
@click.option("--bootstrap-servers", help="Brokers, HOST:PORT (as kafka.bootstrap_servers).")
@configured
@click.option(
    "--from",
    "begin",
    type=click.Choice(["beginning", "now"]),
    help="Where to begin without --state: with the first change there is (files), or with the members of now (Kafka).",
)
@click.option(
    "--segment",
    "segments",
    type=int,
    multiple=True,
    metavar="ID",
    help="Only who enters or leaves it; again for more.",
)
@click.option("--members", "show_members", is_flag=True, help="Print who is where, at the end.")
@click.option(
    "--exit-at-end", is_flag=True, help="End where the topics end now, instead of waiting for more."
)
@click.option(
    "--state",
    "state_path",
    type=click.Path(path_type=Path),
    help="File that keeps table and position: the next call goes on there.",
)
@click.option("--group", default="", help="Keep the position in Kafka too, under this consumer group.")
@click.option("--live", is_flag=True, help="A live table on a terminal instead of lines.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")
def command(
    folder: Path | None,
    bootstrap_servers: str | None,
    config_path: Path | None,
    overrides: tuple[str, ...],
    begin: str | None,
    segments: tuple[int, ...],
    show_members: bool,
    exit_at_end: bool,
    state_path: Path | None,
    group: str,
    live: bool,
    as_json: bool,
) -> None:
    """Follow who changes segment, and why. Reads committed records only, and disturbs nobody.

    Each line is one change of one user, with the reason and the score; -- instead of a time: learned from
    segment.members, after changes were missed. SIGINT and SIGTERM end it, with code 0.
    """
    if bootstrap_servers is not None:
        overrides += (f"kafka.bootstrap_servers={bootstrap_servers}",)
    if folder is not None and (bootstrap_servers is not None or group):
        raise ConfigError(
            "--input reads a folder; --bootstrap-servers and --group are for Kafka: give one of them"
        )
    log_to_stderr()
    config = configuration(config_path, overrides)
    with _signals() as stopping, ExitStack() as stack:
        follow, from_now = not exit_at_end, begin == "now" if begin else folder is None
        if folder is not None:
            from ..subscribing import FileReader

            reader: Reader = FileReader(folder, from_now=from_now, follow=follow, stopping=stopping)
        else:
            reader = stack.enter_context(closing(_kafka(config, from_now, follow, group, stopping)))
        kept = Kept(state_path)
        show = _show(kept.mirror, as_json, live, stack)
        _follow(kept, reader, show, frozenset(segments))
        _end(kept.mirror, frozenset(segments), show_members, as_json)


def _kafka(
    config: Config, from_now: bool, follow: bool, group: str, stopping: Callable[[], bool]
) -> KafkaReader:
    from ..subscribing.kafka_reader import KafkaReader

    return KafkaReader(config.kafka, from_now=from_now, follow=follow, group=group, stopping=stopping)


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGINT end the loop; a second one ends the process at once."""
    told: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if told:
            os._exit(128 + number)
        told.append(number)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Show(Protocol):
    """What is done with a change."""

    def __call__(self, change: Change, /) -> None: ...


class Kept:
    """A mirror, and the file it is kept in."""

    def __init__(self, path: Path | None) -> None:
        """Raises InputError when the file is there and no mirror's."""
        from ..subscribing import SegmentMirror

        self.mirror = SegmentMirror()
        self._path = path
        self._saved_s = time.monotonic()
        try:
            if path is not None and path.exists():
                self.mirror = SegmentMirror.restore(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"--state {path}: {error}; name another file to begin anew") from None

    def due(self) -> bool:
        return self._path is not None and time.monotonic() - self._saved_s > _SAVE_EVERY_S

    def save(self) -> None:
        """What was shown so far is not shown again. Raises DiskFailed."""
        if self._path is None:
            return
        beside = self._path.with_name(self._path.name + ".new")
        try:
            with beside.open("wb") as file:
                file.write(self.mirror.snapshot())
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path)
        except OSError as error:
            raise DiskFailed(
                f"--state {self._path}: {error.strerror}; what was shown will be shown again"
            ) from None
        self._saved_s = time.monotonic()


def _follow(kept: Kept, reader: Reader, show: Show, segments: Collection[int]) -> None:
    try:
        for change in kept.mirror.follow(reader):
            if _concerns(change, segments):
                show(change)
            if kept.due():
                sys.stdout.flush()
                kept.save()
    except Stopped:
        pass
    sys.stdout.flush()
    kept.save()


def _concerns(change: Change, segments: Collection[int]) -> bool:
    sides = {place.segment_id for place in (change.before, change.after) if place}
    return not segments or not sides.isdisjoint(segments)


def _show(mirror: SegmentMirror, as_json: bool, live: bool, stack: ExitStack) -> Show:
    if as_json:
        return lambda change: click.echo(msgspec.json.encode(change))
    from ..subscribing.words import change_line

    if live and sys.stdout.isatty():
        return stack.enter_context(_table(mirror))
    return lambda change: click.echo(change_line(change))


def _end(mirror: SegmentMirror, segments: Collection[int], show_members: bool, as_json: bool) -> None:
    """Who is where, on stdout; what was seen, on stderr."""
    from ..subscribing.words import member_line

    for member in _members(mirror, segments) if show_members else ():
        click.echo(msgspec.json.encode(member) if as_json else member_line(member))
    counts = mirror.counts
    said = f"{len(mirror.members):,} users in {len(mirror.sizes):,} segments; {counts.changes:,} changes seen"
    odd = (
        (counts.gaps, "gaps"),
        (counts.conflicts, "conflicts"),
        (counts.broken, "broken"),
        (counts.unknown, "unknown"),
    )
    click.echo("; ".join([said, *(f"{n:,} {name}" for n, name in odd if n)]), err=True)


def _members(mirror: SegmentMirror, segments: Collection[int]) -> list[Member]:
    found = (m for m in mirror.members.values() if not segments or m.place.segment_id in segments)
    return sorted(found, key=lambda member: (member.place.segment_id, member.user))


# --- the live table -------------------------------------------------------------------------------------------


@contextmanager
def _table(mirror: SegmentMirror) -> Iterator[Show]:
    """Segments by size, and the latest changes."""
    from rich.console import Console
    from rich.live import Live

    from ..subscribing.words import change_line

    recent: deque[str] = deque(maxlen=_RECENT)
    with Live(get_renderable=lambda: _render(mirror, recent), console=Console(), refresh_per_second=4):
        yield lambda change: recent.append(change_line(change))


def _render(mirror: SegmentMirror, recent: Collection[str]) -> RenderableType:
    """Runs in the screen's own thread, so it looks at copies."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title="segments", title_justify="left")
    for name, right in (("id", True), ("users", True), ("name", False)):
        table.add_column(name, justify="right" if right else "left")
    segments = dict(mirror.segments)
    for segment_id, users in sorted(mirror.sizes.items(), key=lambda pair: -pair[1]):
        segment = segments.get(segment_id)
        table.add_row(str(segment_id), f"{users:,}", segment.name if segment else "")
    return Group(table, *(Text(line) for line in list(recent)))
