"""One JSON-lines file per topic: a crash at any point leaves at most a tail that is cut at restart.

A commit appends the step's records to the topic files, makes them durable, and then appends one line to
`shoal.manifest.jsonl`: the manifest, and how long every file is now. That line is the commit. At open,
every file is cut to the length that the last whole manifest line names.

Always true, after `kill -9` and after a loss of power:

    what a manifest line names is on disk before the line is: the bytes, and the names of the files
    the last manifest line is on disk before anybody goes on from it: `open` writes it again, since the
        process before this one may have ended because the disk refused it
    what is read here ends at the committed lengths: nobody is shown a tail
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ..stream.disk import Appender, Disk, OsDisk, make_folder
from ..stream.events import CATALOG, CHANGES, LINEAGE, MANIFEST, MEMBERS, REJECTED, Manifest, Output
from ..stream.ports import ConfigError, DiskFailed, Published
from .commits import Commit, commits, encode_commit, newest
from .lines import decode_line, encode_line

_TOPICS = (LINEAGE, CATALOG, CHANGES, MEMBERS, REJECTED)
"""The files that are ours to cut; any other file in the folder belongs to somebody else."""


class FileSink:
    """Topic files in a folder. One writer at a time: a second one gets a ConfigError."""

    def __init__(self, directory: Path, disk: Disk = OsDisk()) -> None:
        self._directory = directory
        self._disk = disk
        self._files: dict[str, Appender] = {}
        self._lengths: dict[str, int] = {}  # topic -> bytes committed so far
        self._doubtful = False  # a commit began and did not end
        self._unlock: Callable[[], None] | None = None

    def open(self) -> Manifest | None:
        """Raises ConfigError when another process writes here or committed bytes are missing, DiskFailed."""
        try:
            make_folder(self._disk, self._directory)
            self._take_lock()
            last = newest(self._disk, self.path(MANIFEST))
            self._settle(last)
            return last.manifest if last else None
        except OSError as error:
            raise DiskFailed(
                f"{self._directory}: {error.strerror}: is it a folder you may write to?"
            ) from None

    def last(self) -> Manifest | None:
        """Without the lock: somebody else may be writing."""
        found = newest(self._disk, self.path(MANIFEST))
        return found.manifest if found else None

    def confirm(self) -> None:
        """What was synced is there."""

    def commit(self, output: Output) -> None:
        assert not self._doubtful, "a sink whose commit failed is not used again"
        self._doubtful = True
        lines: dict[str, list[bytes]] = {}
        for record in output.records:
            lines.setdefault(record.topic, []).append(encode_line(record))
        try:
            self._open_files((*lines, MANIFEST))
            self._append({topic: b"".join(body) for topic, body in lines.items()})
            self._lengths |= {topic: self._files[topic].size() for topic in lines}
            lengths = dict(sorted(self._lengths.items()))
            self._append({MANIFEST: encode_commit(output.manifest, lengths)})
        except OSError as error:
            raise DiskFailed(
                f"{self._directory}: step {output.step} could not be written: {error.strerror}. Whether it "
                f"counts shows at the next start; see to the disk and start again"
            ) from None
        self._doubtful = False

    def _open_files(self, topics: Iterable[str]) -> None:
        """For appending. A new file's name is durable before anything is written to it."""
        made = False
        for topic in topics:
            if topic not in self._files:
                assert topic == MANIFEST or topic in _TOPICS, f"{topic} would not be cut after a crash"
                made |= self._disk.size(self.path(topic)) is None
                self._files[topic] = self._disk.append(self.path(topic))
        if made:
            self._disk.sync_folder(self._directory)

    def _append(self, bodies: Mapping[str, bytes]) -> None:
        for topic, body in bodies.items():
            self._files[topic].write(body)
        for topic in bodies:
            self._files[topic].sync()

    def path(self, topic: str) -> Path:
        return self._directory / f"{topic}.jsonl"

    def _take_lock(self) -> None:
        try:
            self._unlock = self._disk.lock(self._directory / ".lock")
        except BlockingIOError:
            raise ConfigError(
                f"{self._directory}: another shoal process writes here; stop it, or give another --output"
            ) from None

    def _settle(self, last: Commit | None) -> None:
        """Make the files what the last commit says they are, durably."""
        self._lengths = dict(last.lengths) if last else {}
        for topic in self._lengths:
            self._committed(topic, self._lengths)
        for topic in _TOPICS:
            self._cut(topic, self._lengths.get(topic, 0))
        self._cut(MANIFEST, last.end if last else 0)
        if last:
            self._disk.refresh(self.path(MANIFEST), last.start)
            self._disk.sync(self.path(MANIFEST))
        self._disk.sync_folder(self._directory)  # of files that a killed process made

    def _cut(self, topic: str, length: int) -> None:
        path = self.path(topic)
        if (self._disk.size(path) or 0) > length:
            self._disk.truncate(path, length)
            self._disk.sync(path)

    def _committed(self, topic: str, lengths: Mapping[str, int]) -> int:
        """Bytes of a topic's file that are committed; they must be there."""
        path, length = self.path(topic), lengths.get(topic, 0)
        size = self._disk.size(path) or 0
        if size < length:
            raise ConfigError(
                f"{path} has {size} bytes, but {length} were committed: it was cut or replaced. Give a fresh "
                f"--output folder to compute everything again"
            )
        return length

    def manifests(self, after: int = 0) -> Iterator[Manifest]:
        return (commit.manifest for commit in commits(self._disk, self.path(MANIFEST), after))

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        return {0: (0, sum(1 for _ in self._lines(topic)))}

    def published(self, topic: str) -> Iterator[Published]:
        for offset, line in enumerate(self._lines(topic)):
            yield Published(decode_line(topic, line), 0, offset)

    def _lines(self, topic: str) -> Iterator[bytes]:
        """Those committed by now; fewer where the file was cut, for `shoal verify` to say which are missing."""
        last = newest(self._disk, self.path(MANIFEST))
        rest = last.lengths.get(topic, 0) if last else 0
        if rest and self._disk.size(self.path(topic)) is not None:
            with self._disk.open(self.path(topic)) as file:
                for line in file:
                    yield line
                    rest -= len(line)
                    if rest <= 0:
                        return

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        if self._unlock is not None:
            self._unlock()
            self._unlock = None


class StdoutSink:
    """Every record as one line on stdout, with its topic. Nothing is kept, so nothing can be resumed."""

    def open(self) -> Manifest | None:
        return None

    def last(self) -> Manifest | None:
        return None

    def confirm(self) -> None:
        pass

    def commit(self, output: Output) -> None:
        for record in output.records:
            sys.stdout.buffer.write(encode_line(record, topic=record.topic))
        sys.stdout.buffer.flush()

    def manifests(self, after: int = 0) -> Iterator[Manifest]:
        return iter(())

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        return {}

    def published(self, topic: str) -> Iterator[Published]:
        return iter(())

    def close(self) -> None:
        pass
