"""The topic files of a run without a broker, step by step: what a manifest line names, never what lies behind it.

A batch is one step, so whenever `poll` is called, the mirror equals the engine's table of a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ...sinks.commits import Commit, commits, newest
from ...sinks.lines import decode_line
from ..disk import Disk, OsDisk
from ..events import CATALOG, CHANGES, LINEAGE, MANIFEST, MEMBERS
from ..manifest import encode_manifest
from ..ports import InputError
from .facts import Positions, Record, Start

TOPICS = (LINEAGE, CATALOG, CHANGES)
_PAUSE_S = 0.2


def never() -> bool:
    return False


class FileReader:
    """A folder that `shoal run --output` wrote, or is writing.

    A record's offset is the byte at which its line begins; the manifest's is its step.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        topics: tuple[str, ...] = TOPICS,
        from_now: bool = False,
        follow: bool = False,
        stopping: Callable[[], bool] = never,
        sleep: Callable[[float], object] = time.sleep,
        disk: Disk = OsDisk(),
    ) -> None:
        """`from_now`: a new mirror begins with the members of now. `follow`: waits at the end for more, until
        `stopping` says so. `topics` besides the manifest; give (MEMBERS,) to read memberships only."""
        self._folder = Path(folder)
        self._topics = topics
        self._from_now = from_now
        self._follow = follow
        self._stopping = stopping
        self._sleep = sleep
        self._disk = disk
        self._step = 0  # the last one given
        self._lengths: dict[str, int] = {}  # as that step left them
        self._commits: Iterator[Commit] = iter(())

    def _path(self, topic: str) -> Path:
        return self._folder / f"{topic}.jsonl"

    def start(self, positions: Positions) -> Start:
        """Raises InputError when the folder has no committed step, or fewer than the mirror has seen."""
        if positions and MANIFEST not in positions:
            raise InputError(
                f"{self._folder}: this mirror has followed Kafka, not a folder; start with a new one"
            )
        last = newest(self._disk, self._path(MANIFEST))
        if last is None and not self._follow:
            raise InputError(
                f"{self._folder}: holds no committed step ({MANIFEST}.jsonl); give the folder that "
                f"`shoal run --output` wrote, or wait for it with follow"
            )
        there, seen = last.manifest.step if last else 0, positions.get(MANIFEST, {}).get(0, 0) - 1
        if seen == there + 1:
            seen = (
                there  # a loss of power took a line that was seen; the step will be computed again, the same
            )
        bootstrap = not positions and self._from_now and last is not None
        if bootstrap and last is not None:
            seen = last.manifest.step
        if seen > there:
            raise InputError(
                f"{self._folder}: ends at step {there}, but this mirror has seen step {seen}: it is another run, or "
                f"was computed again. Start with a new mirror"
            )
        if seen > 0:
            found = next(commits(self._disk, self._path(MANIFEST), seen - 1))
            self._step, self._lengths = found.manifest.step, dict(found.lengths)
        if bootstrap:
            self._lengths |= dict.fromkeys((LINEAGE, CATALOG), 0)  # what segments are is read from the first
            self._commits = iter((found,))
        at = {topic: {0: self._lengths.get(topic, 0)} for topic in self._topics}
        return Start(positions or {**at, MANIFEST: {0: self._step}}, whole=True, bootstrap=bootstrap)

    def poll(self) -> list[Record] | None:
        if self._stopping():
            return None
        commit = next(self._commits, None)
        if commit is None:
            self._commits = commits(self._disk, self._path(MANIFEST), self._step)
            commit = next(self._commits, None)
        if commit is None:
            if not self._follow:
                return None
            self._sleep(_PAUSE_S)
            return []
        return self._batch(commit)

    def _batch(self, commit: Commit) -> list[Record]:
        """A step's records, and its manifest behind them."""
        records = [record for topic in self._topics for record in self._read(topic, commit.lengths)]
        step = commit.manifest.step
        records.append(Record(MANIFEST, None, encode_manifest(commit.manifest), offset=step, end=step + 1))
        self._step, self._lengths = step, dict(commit.lengths)
        return records

    def _read(self, topic: str, lengths: Mapping[str, int]) -> Iterator[Record]:
        start, end = self._lengths.get(topic, 0), lengths.get(topic, 0)
        return self._lines(topic, start, end) if end > start else iter(())

    def _lines(self, topic: str, start: int, end: int) -> Iterator[Record]:
        size = self._disk.size(self._path(topic)) or 0
        if size < end:
            raise InputError(
                f"{self._path(topic)}: has {size} bytes, {end} were committed: it was cut or replaced"
            )
        with self._disk.open(self._path(topic)) as file:
            file.seek(start)
            while start < end:
                line = file.readline()
                found = decode_line(topic, line)
                yield Record(
                    topic, found.key, found.value, found.headers, offset=start, end=start + len(line)
                )
                start += len(line)

    def lost(self) -> bool:
        """A file loses nothing."""
        return False

    def members(self) -> Iterator[Record]:
        """Up to the newest step: a mirror may have begun with the one after the last."""
        last = newest(self._disk, self._path(MANIFEST))
        return self._lines(MEMBERS, 0, last.lengths.get(MEMBERS, 0) if last else 0)
