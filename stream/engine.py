"""The shell round the pipeline: poll -> step -> commit, and nothing else.

Everything that is not a function of (state, step) happens here and in the ports, in one order:

    stand by while another engine works: what it has committed is computed again, a little at a time
    open     source (this engine is the one that works), sink (fences others, names the last manifest)
    recover  newest valid snapshot not past it, then the recorded steps again, muted, every hash compared
    run      poll, compute, commit; snapshots now and then

Crash-only: any doubt about a commit raises and ends the process; a restart is exact.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from .config import Config
from .digest import content_hash
from .epochs import opening_steps
from .events import Counts, Manifest, Output, Range, Records, Step
from .manifest import encode_manifest
from .pipeline import Pipeline
from .ports import (
    START_OVER,
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
    Ticker,
)

log = logging.getLogger("shoal")
QUALITY_EVERY_S = 15.0
_FOLLOW_S = 0.5
"""While standing by, computing is interrupted this often, so that the group hears of us."""


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
        clock: Ticker = time,
        fresh: int | None = None,
    ) -> None:
        """`fresh`: begin this epoch with an empty state, unless it has begun already; 0: the next one."""
        self.config = config
        self.pipeline = pipeline
        self.source = source
        self.sink = sink
        self.store = store
        self.observer = observer
        self.counts = Counts()
        self.positions: dict[int, int] = {}
        self.steps = 0
        self._clock = clock
        self._fresh = fresh
        self._empty = pipeline.snapshot()
        self._stopping = False
        self._closed = False  # the latest step was the closing one
        self._idle_since_s = self._last_quality_s = clock.monotonic()

    def stop(self) -> None:
        """Finish the step, commit, and return from run(). Safe in a signal handler."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        return self._stopping

    def run(self) -> None:
        try:
            self.observer.phase(Phase.STARTING)
            if self.source.open(lambda: self._stopping, self._follow):
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
            self.store.close()

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
            else:
                self.sink.confirm()
            self._report_snapshots()
            self.observer.alive(self.source.lag())
            self._measure()

    def _step(self, records: Records, ranges: tuple[Range, ...], closing: bool = False) -> None:
        as_of_ms = self._wall_ms() if self.source.wall_clock else None
        step = Step(self.steps + 1, ranges, records, as_of_ms, closing, self.source.mark)
        output = self.pipeline.step(step)
        started_s = self._clock.monotonic()
        with self.observer.stage("commit"):
            self.sink.commit(output)
        self._advance(output)
        self._idle_since_s = self._clock.monotonic()
        latency_s = None
        if as_of_ms is not None and output.counts.accepted:
            latency_s = max(0.0, (self._wall_ms() - self.pipeline.clock.now_ms) / 1000)
        self.observer.committed(output, self._idle_since_s - started_s, self.source.lag(), latency_s)
        self._maybe_save()

    def _advance(self, output: Output) -> None:
        self.counts = self.counts.plus(output.counts)
        self._note(output.manifest)

    def _note(self, manifest: Manifest) -> None:
        self._closed = manifest.closing
        self.steps = manifest.step
        self.positions |= {r.partition: r.end for r in manifest.ranges}

    def _idle_step_due(self) -> bool:
        """With a silent topic, empty steps let windows move; none is made, or recorded, that would do nothing."""
        if not self.source.wall_clock or not self.steps:
            return False
        now_s = self._clock.monotonic()
        if (now_s - self._idle_since_s) * 1000 < self.config.time.idle_step_ms:
            return False
        self._idle_since_s = now_s
        return self.pipeline.stirs(self._wall_ms())

    def _close(self) -> None:
        """The end of a finite input: one last step decides with what there is."""
        if self.pipeline.clock.now_ms and not self._closed:
            self._step(Records.empty(), (), closing=True)

    def _wall_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000

    # --- recovery -------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """While another engine works: be ready to go on where it stops. Raises as `_recover` does."""
        last = self.sink.last()
        if last is not None:
            self._catch_up(last, self._clock.monotonic() + _FOLLOW_S)

    def _recover(self, last: Manifest | None) -> None:
        """Bring the state to the last committed step. Raises StateMismatch, ReplayMismatch, SourceGone, Stopped."""
        if last is not None:
            self.observer.phase(Phase.RECOVERING)
            if self._fresh is not None and (self._fresh == 0 or self._fresh > last.epoch):
                self._begin_epoch(last)
            else:
                self._go_on(last)
        self.source.seek(self.positions)

    def _go_on(self, last: Manifest) -> None:
        started_s = self._clock.monotonic()
        first = self.steps
        self._catch_up(last)
        if self.steps != last.step:
            raise ReplayMismatch(f"the last manifest is of step {last.step}, replay ended at {self.steps}")
        if last.opening:
            self._open_epoch(last, ())  # this process's predecessor may have been in the middle of it
        self.observer.recovered(self.steps - first, self._clock.monotonic() - started_s)

    def _catch_up(self, last: Manifest, until_s: float = float("inf")) -> None:
        """Compute again what `last` and the steps before it recorded, as far as time allows."""
        self._check_compatible(last)
        if not self.steps or self.pipeline.chain.epoch != last.epoch:
            self._load(last)
        for manifest in self.sink.manifests(after=self.steps):
            if self._stopping:
                raise Stopped
            if manifest.epoch == last.epoch:
                self._again(manifest)
            if manifest.step >= last.step or self._clock.monotonic() > until_s:
                return

    def _again(self, manifest: Manifest) -> None:
        if manifest.opening:
            self.pipeline.restore(self._empty)
            self.pipeline.begin_epoch(manifest)
            if manifest.ranges:
                self.counts, self.positions = Counts(), {}
            self._note(manifest)
        elif manifest.step == self.steps + 1:
            self._advance(replay(self.pipeline, self.source, manifest))
            self._maybe_save()
            self._report_snapshots()
        else:
            raise SourceGone(
                f"the manifests of steps {self.steps + 1} to {manifest.step - 1} are gone, and no snapshot "
                f"reaches beyond them: keep the manifest topic for ever (retention.ms=-1), and {START_OVER}"
            )

    def _check_compatible(self, last: Manifest) -> None:
        if last.source != self.source.mark:
            raise SourceGone(
                f"the input is not the one that was read before (recorded {last.source or 'none'}, found "
                f"{self.source.mark or 'none'}): the topic was created again, or re-partitioned. Restore it, "
                f"or {START_OVER}"
            )
        if last.config_hash != self.pipeline.config_hash:
            raise StateMismatch(
                f"step {last.step} was made with configuration {last.config_hash}, this process has "
                f"{self.pipeline.config_hash}: [input] to [membership] must not change under recorded steps. "
                f"Restore the old values, or {START_OVER}"
            )
        recorded, ours = last.versions["features"], self.pipeline.features.version
        if recorded != ours:
            raise StateMismatch(
                f"step {last.step} was made with features {recorded}, this process builds {ours}: run the "
                f"version of shoal that wrote it, or {START_OVER}"
            )

    # --- a new epoch ----------------------------------------------------------------------------------------

    def _begin_epoch(self, last: Manifest) -> None:
        """Forget the state, keep the ids: from here on as if for the first time, where the log still allows."""
        for manifest in self.sink.manifests():
            self._note(manifest)
        same = last.source == self.source.mark
        starts = self.source.nearest(self.positions if same else {})
        self.pipeline.restore(self._empty)
        self.counts, self.positions = Counts(), {}
        log.warning("epoch %d begins: no state, no members; reading from %s", last.epoch + 1, dict(starts))
        self._open_epoch(last, tuple(Range(p, at, at) for p, at in sorted(starts.items())))

    def _open_epoch(self, last: Manifest, starts: tuple[Range, ...]) -> None:
        for output in opening_steps(self.pipeline, last, starts, self.source.mark, self.sink.published):
            self.sink.commit(output)
            self._note(output.manifest)

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
                self.pipeline.restore(self._empty)
                self.steps = 0
                continue
            self.steps = step
            self._closed = recorded.closing
            return

    def _restore(self, state: State) -> None:
        counts = Counts(**state["counts"])
        positions = {int(p): offset for p, offset in state["positions"].items()}
        self.pipeline.restore(state["pipeline"])
        self.counts, self.positions = counts, positions

    def _maybe_save(self) -> None:
        if self.steps % self.config.engine.snapshot_every_steps == 0:
            self.store.save(self.steps, self.pipeline.chain.manifest_hash, self._state)

    def _state(self) -> State:
        return {
            "pipeline": self.pipeline.snapshot(),
            "positions": {str(p): offset for p, offset in self.positions.items()},
            "counts": {name: getattr(self.counts, name) for name in Counts.__dataclass_fields__},
        }

    def _report_snapshots(self) -> None:
        for saved in self.store.finished():
            self.observer.snapshot_saved(saved)

    def _measure(self) -> None:
        now_s = self._clock.monotonic()
        if now_s - self._last_quality_s >= QUALITY_EVERY_S:
            self._last_quality_s = now_s
            if (measured := self.pipeline.quality()) is not None:
                self.observer.quality(*measured)


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
        f"the code or the machine's arithmetic is not the one that wrote it; bring it back, or {START_OVER}"
    )
