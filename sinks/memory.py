"""Outputs kept in memory: for tests, and for runs inside one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..stream.events import Manifest, Output, OutRecord
from ..stream.ports import Published


class MemorySink:
    """Everything committed so far, in order. Grows without bound: for finite runs only."""

    def __init__(self) -> None:
        self.records: list[OutRecord] = []
        self._manifests: list[Manifest] = []

    def open(self) -> Manifest | None:
        return self.last()

    def last(self) -> Manifest | None:
        return self._manifests[-1] if self._manifests else None

    def confirm(self) -> None:
        pass

    def commit(self, output: Output) -> None:
        self.records.extend(output.records)
        self._manifests.append(output.manifest)

    def manifests(self, after: int = 0) -> Iterator[Manifest]:
        return (manifest for manifest in list(self._manifests) if manifest.step > after)

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        return {0: (0, sum(record.topic == topic for record in self.records))}

    def published(self, topic: str) -> Iterator[Published]:
        found = [record for record in self.records if record.topic == topic]
        return (Published(record, 0, offset) for offset, record in enumerate(found))

    def close(self) -> None:
        pass
