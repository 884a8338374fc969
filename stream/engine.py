"""The shell round the pipeline: poll -> step -> commit, and nothing else.

Everything that is not a function of (state, step) happens here and in the ports, in one order:

    open     source (this engine is the one that works), sink (fences others, names the last manifest)
    recover  newest valid snapshot not past it, then the recorded steps again, muted, every hash compared
    run      poll, compute, commit; snapshots now and then

Crash-only: any doubt about a commit raises and ends the process; a restart is exact.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from .config import Config
from .digest import content_hash
from .events import Counts, Manifest, Output, Range, Records, Step
from .manifest import encode_manifest
from .pipeline import Pipeline
from .ports import (
    CommitUnknown,
    Observer,
    Phase,
    ReplayMismatch,
    Sink,
    Source,
    SourceGone,
    State,
    StateMismatch,
    Stopped,
    Store,
)

log = logging.getLogger("shoal")
QUALITY_EVERY_S = 15.0


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Engine:
    """One pipeline between a source and a sink.

    run() returns when a finite input ends or stop() was called; it raises a ShoalError for everything that
    a supervisor must decide about.
    """

    def __init__(
        self,
        config: Config,
        pipeline: Pipeline,
        source: Source,
        sink: Sink,
        store: Store,
        observer: Observer,
        wall_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self.config = config
        self.pipeline = pipeline
        self.source = source
        self.sink = sink
        self.store = store
        self.observer = observer
        self.counts = Counts()
        self.positions: dict[int, int] = {}
        self.steps = 0
        self._wall_ms = wall_ms
        self._stopping = False
        self._closed = False  # the latest step was the closing one
        self._idle_since_s = time.monotonic()
        self._last_quality_s = time.monotonic()

    def stop(self) -> None:
        """Finish the step, commit, and return from run(). Safe in a signal handler."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        return self._stopping

    def run(self) -> None:
        try:
            self.observer.phase(Phase.STARTING)
            if self.source.open(lambda: self._stopping):
                self._recover(self.sink.open())
                self.observer.phase(Phase.RUNNING)
                self._loop()
        except Stopped:
            pass
        except CommitUnknown as error:
            error.broker_away = error.broker_away and not self._stopping  # told to stop: nobody starts again
            raise
        finally:
            self.observer.phase(Phase.STOPPING)
            self.source.close()
            self.sink.close()

    def _loop(self) -> None:
        config = self.config.engine
        while not self._stopping:
            with self.observer.stage("poll"):
                polled = self.source.poll(config.step_records_max, config.poll_timeout_s)
            if polled is None:
                self._close()
                return
            records, ranges = polled
            if ranges or self._idle_step_due():
                self._step(records, ranges)
            self.observer.alive(self.source.lag())
            self._measure()

    def _step(self, records: Records, ranges: tuple[Range, ...], closing: bool = False) -> None:
        as_of_ms = self._wall_ms() if self.source.wall_clock else None
        output = self.pipeline.step(Step(self.steps + 1, ranges, records, as_of_ms, closing))
        started_s = time.monotonic()
        with self.observer.stage("commit"):
            self.sink.commit(output)
        self._advance(output)
        self._idle_since_s = time.monotonic()
        latency_s = None
        if as_of_ms is not None and output.counts.accepted:
            latency_s = max(0.0, (self._wall_ms() - self.pipeline.clock.now_ms) / 1000)
        self.observer.committed(output, self._idle_since_s - started_s, self.source.lag(), latency_s)
        if self.steps % self.config.engine.snapshot_every_steps == 0:
            self._save()

    def _advance(self, output: Output) -> None:
        self._closed = output.manifest.closing
        self.steps = output.step
        self.counts = self.counts.plus(output.counts)
        self.positions |= {r.partition: r.end for r in output.manifest.ranges}

    def _idle_step_due(self) -> bool:
        """With a silent topic, empty steps let windows move; none is made, or recorded, that would do nothing."""
        if not self.source.wall_clock or not self.steps:
            return False
        now_s = time.monotonic()
        if (now_s - self._idle_since_s) * 1000 < self.config.time.idle_step_ms:
            return False
        self._idle_since_s = now_s
        return self.pipeline.stirs(self._wall_ms())

    def _close(self) -> None:
        """The end of a finite input: one last step decides with what there is."""
        if self.pipeline.clock.now_ms and not self._closed:
            self._step(Records.empty(), (), closing=True)

    # --- recovery -------------------------------------------------------------------------------------------

    def _recover(self, last: Manifest | None) -> None:
        """Bring the state to the last committed step. Raises StateMismatch, ReplayMismatch, SourceGone, Stopped."""
        if last is not None:
            self.observer.phase(Phase.RECOVERING)
            started_s = time.monotonic()
            self._check_compatible(last)
            self._load(last)
            first = self.steps
            self._replay_after(last)
            self.observer.recovered(self.steps - first, time.monotonic() - started_s)
        self.source.seek(self.positions)

    def _replay_after(self, last: Manifest) -> None:
        for manifest in self.sink.manifests(after=self.steps):
            if self._stopping:
                raise Stopped
            if manifest.step != self.steps + 1:
                raise SourceGone(
                    f"the manifests of steps {self.steps + 1} to {manifest.step - 1} are gone, and no snapshot "
                    f"reaches beyond them: keep the manifest topic for ever (retention.ms=-1), and start over "
                    f"with another topic_prefix and group_id"
                )
            self._advance(replay(self.pipeline, self.source, manifest))
        if self.steps != last.step:
            raise ReplayMismatch(f"the last manifest is of step {last.step}, replay ended at {self.steps}")

    def _check_compatible(self, last: Manifest) -> None:
        if last.config_hash != self.pipeline.config_hash:
            raise StateMismatch(
                f"step {last.step} was made with configuration {last.config_hash}, this process has "
                f"{self.pipeline.config_hash}: [input] to [membership] must not change under recorded steps. "
                f"Restore the old values, or start over with another --output, topic_prefix or group_id"
            )
        recorded, ours = last.versions["features"], self.pipeline.features.version
        if recorded != ours:
            raise StateMismatch(
                f"step {last.step} was made with features {recorded}, this process builds {ours}: run the "
                f"version of shoal that wrote it, or start over with another --output or topic_prefix"
            )

    def _load(self, last: Manifest) -> None:
        """The newest snapshot that belongs to this line of manifests and can be read, if there is one."""
        empty = self.pipeline.snapshot()
        for step, manifest_hash, state in self.store.newest(not_past=last.step):
            recorded = last if step == last.step else next(self.sink.manifests(after=step - 1), last)
            if content_hash(encode_manifest(recorded)) != manifest_hash:
                continue
            try:
                self._restore(state)
            except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
                log.warning("snapshot of step %d has another layout (%r); trying an older one", step, error)
                self.pipeline.restore(empty)
                continue
            self.steps = step
            self._closed = recorded.closing
            return

    def _restore(self, state: State) -> None:
        counts = Counts(**state["counts"])
        positions = {int(p): offset for p, offset in state["positions"].items()}
        self.pipeline.restore(state["pipeline"])
        self.counts, self.positions = counts, positions

    def _save(self) -> None:
        started_s = time.monotonic()
        counts = {name: getattr(self.counts, name) for name in Counts.__dataclass_fields__}
        state = {
            "pipeline": self.pipeline.snapshot(),
            "positions": {str(p): offset for p, offset in self.positions.items()},
            "counts": counts,
        }
        size_bytes = self.store.save(self.steps, self.pipeline.chain.manifest_hash, state)
        if size_bytes:
            self.observer.snapshot_saved(self.steps, time.monotonic() - started_s, size_bytes)

    def _measure(self) -> None:
        if time.monotonic() - self._last_quality_s >= QUALITY_EVERY_S:
            self._last_quality_s = time.monotonic()
            if (measured := self.pipeline.quality()) is not None:
                self.observer.quality(*measured)


def replay(pipeline: Pipeline, source: Source, manifest: Manifest) -> Output:
    """Compute a recorded step again. Raises ReplayMismatch at the first difference, SourceGone for a gap."""
    records = source.read(manifest.ranges)
    step = Step(manifest.step, manifest.ranges, records, manifest.as_of_ms, manifest.closing)
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
        f"the code or the machine's arithmetic is not the one that wrote it"
    )
