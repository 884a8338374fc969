"""A pipeline that follows recorded steps: what recovery, standing by and verification have in common.

State is a function of (snapshot, manifests, input log). A replica takes the newest snapshot that belongs to
the line of manifests, then computes the recorded steps again, outputs muted, every hash compared. It writes
nothing but snapshots of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from .config import Config
from .digest import content_hash
from .events import Counts, Manifest, Output, Step
from .manifest import encode_manifest
from .pipeline import Pipeline
from .ports import (
    ReplayMismatch,
    Sink,
    Source,
    SourceGone,
    State,
    StateMismatch,
    Stopped,
    Store,
    Ticker,
    start_over,
)

log = logging.getLogger("shoal")


class Replica:
    """State as of step `steps`, and where the next step begins to read.

    Always true between calls: pipeline, counts and positions are those after the same step.
    """

    def __init__(
        self,
        config: Config,
        pipeline: Pipeline,
        source: Source,
        sink: Sink,
        store: Store,
        clock: Ticker = time,
    ) -> None:
        self.config = config
        self.pipeline = pipeline
        self.source = source
        self.sink = sink
        self.store = store
        self.counts = Counts()
        self.positions: dict[int, int] = {}  # partition -> next offset
        self.steps = 0
        self.closed = False  # the latest step was the closing one
        self._clock = clock
        self._empty = pipeline.snapshot()
        self._passed = 0  # manifests up to this step are of epochs that are over
        self._stopping = False

    def stop(self) -> None:
        """Finish the step at hand and return, or raise Stopped. Safe in a signal handler."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        return self._stopping

    # --- following ------------------------------------------------------------------------------------------

    def catch_up(self, last: Manifest, until_s: float = float("inf")) -> None:
        """Compute again what is recorded up to `last`, as far as the time allows (`until_s` of the clock).

        Earlier epochs are passed over. Raises StateMismatch, ReplayMismatch, SourceGone, Stopped.
        """
        self.check_compatible(last)
        behind = not self.steps or self.pipeline.chain.epoch != last.epoch
        if behind and self._passed <= self.steps:  # else it was looked for in an earlier turn
            self._load(last)
        if self.steps == last.step:
            return
        for manifest in self.sink.manifests(after=max(self.steps, self._passed)):
            if self._stopping:
                raise Stopped
            if manifest.epoch == last.epoch:
                self._again(manifest)
            else:
                self._passed = manifest.step
            if manifest.step >= last.step or self._clock.monotonic() > until_s:
                return

    def _again(self, manifest: Manifest) -> None:
        if manifest.opening and manifest.ranges:  # an epoch begins: whatever was before does not matter
            self.reset()
            self.pipeline.begin_epoch(manifest)
            self.note(manifest)
        elif manifest.step != self.steps + 1:
            raise SourceGone(
                f"the manifests of steps {self.steps + 1} to {manifest.step - 1} are gone, and no snapshot "
                f"reaches beyond them: keep the manifest topic for ever (retention.ms=-1), and "
                f"{start_over(manifest.epoch)}"
            )
        elif manifest.opening:
            self.pipeline.begin_epoch(manifest)
            self.note(manifest)
        else:
            self.advance(replay(self.pipeline, self.source, manifest))
            self.maybe_save()

    def check_compatible(self, last: Manifest) -> None:
        """Raises SourceGone or StateMismatch when this process cannot go on after `last`."""
        if last.source != self.source.mark:
            raise SourceGone(
                f"the input is not the one that was read before (recorded {last.source or 'none'}, found "
                f"{self.source.mark or 'none'}): the topic was created again, or re-partitioned. Restore it, "
                f"or {start_over(last.epoch)}"
            )
        check_user_key(last, self.pipeline)
        if last.config_hash != self.pipeline.config_hash:
            raise StateMismatch(
                f"step {last.step} was made with configuration {last.config_hash}, this process has "
                f"{self.pipeline.config_hash}: [input] to [membership] and [privacy] must not change under "
                f"recorded steps. Restore the old values, or {start_over(last.epoch)}"
            )
        recorded, ours = last.versions["features"], self.pipeline.features.version
        if recorded != ours:
            raise StateMismatch(
                f"step {last.step} was made with features {recorded}, this process builds {ours}: run the "
                f"version of shoal that wrote it, or {start_over(last.epoch)}"
            )

    def advance(self, output: Output) -> None:
        """This step was computed; it is recorded, or will be before anything is kept of it."""
        self.counts = self.counts.plus(output.counts)
        self.note(output.manifest)

    def note(self, manifest: Manifest) -> None:
        """This step is the latest."""
        self.closed = manifest.closing
        self.steps = manifest.step
        self.positions |= {r.partition: r.end for r in manifest.ranges}

    def reset(self) -> None:
        """As if nothing had ever been read."""
        self.pipeline.restore(self._empty)
        self.counts, self.positions = Counts(), {}
        self.steps, self.closed = 0, False

    # --- snapshots ------------------------------------------------------------------------------------------

    def _load(self, last: Manifest) -> None:
        """The newest snapshot that belongs to this line of manifests and can be read, if there is one."""
        for step, manifest_hash, state in self.store.newest(not_past=last.step):
            recorded = last if step == last.step else next(self.sink.manifests(after=step - 1), last)
            same = content_hash(encode_manifest(recorded)) == manifest_hash
            if not same or recorded.epoch != last.epoch or step <= self.steps:
                continue
            try:
                self._restore(state)
            except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
                log.warning("snapshot of step %d has another layout (%r); trying an older one", step, error)
                self.reset()
                continue
            self.steps = step
            self.closed = recorded.closing
            return

    def _restore(self, state: State) -> None:
        counts = Counts(**state["counts"])
        positions = {int(p): offset for p, offset in state["positions"].items()}
        self.pipeline.restore(state["pipeline"])
        self.counts, self.positions = counts, positions

    @property
    def snapshot_due(self) -> bool:
        """Whether the state as it is now is one to keep."""
        return self.steps % self.config.engine.snapshot_every_steps == 0

    def maybe_save(self) -> None:
        """Keep a snapshot when one is due. Everything computed so far must be recorded."""
        if self.snapshot_due:
            self.store.save(self.steps, self.pipeline.chain.manifest_hash, self._state)

    def _state(self) -> State:
        return {
            "pipeline": self.pipeline.snapshot(),
            "positions": {str(p): offset for p, offset in self.positions.items()},
            "counts": {name: getattr(self.counts, name) for name in Counts.__dataclass_fields__},
        }


def check_user_key(last: Manifest, pipeline: Pipeline) -> None:
    """Users have other names under another key. Raises StateMismatch."""
    recorded, ours = (
        f"user key {versions['user_key']} (version and fingerprint)"
        if "user_key" in versions
        else "no user key"
        for versions in (last.versions, pipeline.recorded_versions())
    )
    if recorded != ours:
        raise StateMismatch(
            f"step {last.step} was made with {recorded}, this process has {ours}: give it the key and the version "
            f"of then (privacy.user_key_file, privacy.user_key_version), or, for other pseudonyms from here on, "
            f"{start_over(last.epoch)}"
        )


def replay(pipeline: Pipeline, source: Source, manifest: Manifest) -> Output:
    """Compute a recorded step again. Raises ReplayMismatch at the first difference, SourceGone for a gap."""
    records = source.read(manifest.ranges)
    step = Step(manifest.step, manifest.ranges, records, manifest.as_of_ms, manifest.closing, manifest.source)
    output = pipeline.step(step)
    if output.manifest != manifest:
        raise ReplayMismatch(_difference(manifest, output.manifest))
    return output


def _difference(recorded: Manifest, computed: Manifest) -> str:
    fields: Mapping[str, object] = Manifest.__dataclass_fields__
    names = [name for name in fields if getattr(recorded, name) != getattr(computed, name)]
    ranges = ", ".join(f"partition {r.partition} [{r.start}, {r.end})" for r in recorded.ranges) or "no input"
    shown = "; ".join(
        f"{n}: recorded {getattr(recorded, n)!r}, computed {getattr(computed, n)!r}" for n in names
    )
    return (
        f"step {recorded.step} ({ranges}) computed again differs in {', '.join(names)}. {shown}. The input log, "
        f"the code or the machine's arithmetic is not the one that wrote it; bring it back, or "
        f"{start_over(recorded.epoch)}"
    )
