"""Outputs kept in memory: for tests, and for runs inside one process."""

from __future__ import annotations

from collections.abc import Iterator

from ..stream.events import Manifest, Output, OutRecord


class MemorySink:
    """Everything committed so far, in order. Grows without bound: for finite runs only."""

    def __init__(self) -> None:
        self.records: list[OutRecord] = []
        self._manifests: list[Manifest] = []

    def open(self) -> Manifest | None:
        return self._manifests[-1] if self._manifests else None

    def commit(self, output: Output) -> None:
        self.records.extend(output.records)
        self._manifests.append(output.manifest)

    def manifests(self, after: int = 0) -> Iterator[Manifest]:
        return (manifest for manifest in list(self._manifests) if manifest.step > after)

    def published(self, topic: str) -> Iterator[OutRecord]:
        return (record for record in list(self.records) if record.topic == topic)

    def close(self) -> None:
        pass
