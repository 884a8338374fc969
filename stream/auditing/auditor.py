"""A replica that keeps a trace of what it computed: every record's digests, and the snapshots on its way.

A step that opens an epoch publishes what follows from the records before it, not from any state. Where the
epoch before was computed here, it is made again from those records and compared like any other step; where
not, it is believed, and what it published is not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..config import Config
from ..epochs import opening_steps
from ..events import CATALOG, CHANGES, LINEAGE, MEMBERS, REJECTED, Manifest, Output, OutRecord
from ..pipeline import Pipeline
from ..ports import Published, ReplayMismatch, Sink, Source, Store
from ..replica import Replica
from .expected import Expected
from .kept import differences
from .line import Line

TOPICS = (LINEAGE, CATALOG, CHANGES, MEMBERS, REJECTED)
"""In the order in which a step publishes."""
_NAMED_MAX = 5

Progress = Callable[[int], object]  # told each step that was computed


class Auditor(Replica):
    """Memory: the pipeline's, and 24 bytes for every record published by the steps that are computed."""

    def __init__(
        self,
        config: Config,
        ports: tuple[Source, Sink, Store],
        line: Line,
        kept: Store,
        snapshots: Mapping[int, str],
        fresh: Callable[[], Pipeline],
        told: Progress,
    ) -> None:
        """`snapshots`: step -> manifest hash of those in `kept` to compare with. `line` was followed already."""
        super().__init__(config, fresh(), *ports)
        self.expected = {topic: Expected(topic) for topic in TOPICS}
        self.computed = self.records = 0  # steps and input records
        self.first_step = 0  # the first that was computed
        self.believed = 0  # opening steps
        self.checked: list[int] = []  # snapshots that were compared, by step
        self._line = line
        self._kept = kept
        self._snapshots = snapshots
        self._fresh = fresh
        self._told = told
        self._tables: dict[str, dict[bytes, OutRecord]] | None = None
        self._opening: Iterator[Output] = iter(())
        self._last: Manifest | None = None

    def keep_tables(self) -> None:
        """More than one epoch will be computed: keep what the opening of the next one follows from.

        Call before anything is computed. Memory: the newest record of every member and segment.
        """
        self._tables = {MEMBERS: {}, CATALOG: {}}

    # --- what a replica does ---------------------------------------------------------------------------------

    def advance(self, output: Output) -> None:
        super().advance(output)
        self._take(output)
        self.records += output.counts.records
        if self.steps in self._snapshots:
            self._check_snapshot()

    def note(self, manifest: Manifest) -> None:
        if manifest.opening:
            self._check_opening(manifest)
        super().note(manifest)
        self._last = manifest
        if manifest.step > self._line.step:
            self._line.follow(manifest)

    def maybe_save(self) -> None:
        """An auditor keeps no snapshots."""

    def _take(self, output: Output) -> None:
        for record in output.records:
            self.expected[record.topic].add(output.step, record)
        if self._tables is not None:
            _fold(self._tables, output.records)
        self.first_step = self.first_step or output.step
        self.computed += 1
        self._told(output.step)

    # --- what it compares on the way -------------------------------------------------------------------------

    def _check_opening(self, manifest: Manifest) -> None:
        last, tables = self._last, self._tables
        if last is None or tables is None:
            self.believed += 1
            return
        if manifest.epoch != last.epoch:
            self._opening = opening_steps(
                self._fresh(), last, manifest.ranges, manifest.source, lambda topic: _published(tables[topic])
            )
        output = next(self._opening, None)
        if output is None or output.manifest != manifest:
            raise ReplayMismatch(_opening_text(manifest, output))
        self._take(output)

    def _check_snapshot(self) -> None:
        """The chain of hashes covers what steps computed; this covers every byte of the state."""
        for step, manifest_hash, state in self._kept.newest(self.steps):
            if step == self.steps and manifest_hash == self._snapshots[step]:
                names = list(differences(self._state(), state))
                if names:
                    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
                    raise ReplayMismatch(
                        f"the snapshot of step {step} is not the state that computing again gives: it differs in "
                        f"{', '.join(names[:_NAMED_MAX])}{more}. An engine that starts from it goes wrong: delete "
                        f"it, and find out what changed it"
                    )
                self.checked.append(step)
            return


def _fold(tables: dict[str, dict[bytes, OutRecord]], records: Iterable[OutRecord]) -> None:
    """The newest record of every key, as compaction leaves it."""
    for record in records:
        table = tables.get(record.topic)
        if table is not None and record.key is not None:
            if record.value is None:
                table.pop(record.key, None)
            else:
                table[record.key] = record


def _published(table: dict[bytes, OutRecord]) -> Iterator[Published]:
    return (Published(record, 0, offset) for offset, record in enumerate(list(table.values())))


def _opening_text(manifest: Manifest, output: Output | None) -> str:
    where = f"step {manifest.step} (it opens epoch {manifest.epoch})"
    if output is None:
        return f"{where} goes on with farewells, but the records before it leave nobody to say farewell to"
    fields: dict[str, Any] = Manifest.__dataclass_fields__
    names = [name for name in fields if getattr(manifest, name) != getattr(output.manifest, name)]
    return f"{where}, made again from the records before it, differs in {', '.join(names)}"
