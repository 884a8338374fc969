"""The engine's figures for Prometheus: an Observer that counts, in a registry of its own.

The engine's thread writes, the HTTP thread reads. Nothing here reaches the pipeline, and nothing the
pipeline says can add series without bound: a label value that is not in the table is counted as `other`.
"""

from __future__ import annotations

import platform
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import prometheus_client as prometheus

from ..config import Http
from ..events import Counts, Output
from ..ports import Phase, Publication, Saved
from .health import Health
from .lag import Lag
from .metric_table import (
    CHANGE_REASONS,
    METRICS,
    PARTITIONS_MAX,
    RANKS_MAX,
    STAGES,
    TOPICS,
    UNKNOWN,
    Metric,
)

CHURN_EVENTS = 10_000
CHURN_STEPS_MAX = 1000
"""Steps remembered for the churn gauge; with smaller steps it looks at fewer than CHURN_EVENTS events."""


@dataclass(frozen=True, slots=True)
class Status:
    """The latest committed step, for the page for people."""

    step: int = 0
    users: int = 0
    sizes: Mapping[str, int] | None = None  # segment id -> members


class Metrics:
    """Implements ports.Observer. `stage` is also the pipeline's Probe."""

    def __init__(
        self,
        limits: Http | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.health = Health(limits or Http(), clock_s)
        self.status = Status()
        self._clock_s = clock_s
        self._lag = Lag()
        self._churn: deque[tuple[int, int]] = deque(maxlen=CHURN_STEPS_MAX)  # (events, moves) per step
        self._computing_s = 0.0  # of the step that is being computed
        self._computed_s: deque[float] = deque(maxlen=2)  # of steps that are not committed yet
        self._covered_step: int | None = None  # the step that a restart would start from
        self._saved_s: float | None = None
        self._replayed = 0
        self._ranks = 0  # segments seen at one time, at most RANKS_MAX
        self._made: dict[str, Any] = {}
        self._build()

    # --- the observer ---------------------------------------------------------------------------------------

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began_s = self._clock_s()
        try:
            yield
        finally:
            took_s = self._clock_s() - began_s
            self._made["shoal_stage_seconds"].labels(name if name in STAGES else "other").observe(took_s)
            if name not in ("poll", "commit"):
                self._computing_s += took_s
            if name == "changes":  # a step's last
                self._computed_s.append(self._computing_s)
                self._computing_s = 0.0
            self.health.turned()

    def phase(self, phase: Phase) -> None:
        self.health.entered(phase)
        for each in Phase:
            self._made["shoal_phase"].labels(each.value).set(each is phase)

    def committed(
        self, output: Output, commit_s: float, lag: Mapping[int, int], latency_s: float | None
    ) -> None:
        self.health.committed()
        self._lag.read(output.manifest.ranges)
        self.alive(lag)
        self._count(output.counts)
        for topic, records in Tally(record.topic for record in output.records).items():
            if topic in TOPICS:
                self._made["shoal_records_written_total"].labels(topic).inc(records)
        self._made["shoal_steps_total"].inc()
        self._made["shoal_step_seconds"].observe(self._computed_s.popleft() if self._computed_s else 0.0)
        self._made["shoal_commit_seconds"].observe(commit_s)
        if latency_s is not None:
            self._made["shoal_event_to_commit_seconds"].observe(latency_s)
        self._stepped(output)
        self._time(output)
        self._model(output.gauges)
        self._segments(output)

    def alive(self, lag: Mapping[int, int]) -> None:
        self.health.polled(sum(lag.values()))
        self._set_lag(lag)

    def snapshot_saved(self, saved: Saved) -> None:
        self.health.turned()
        self._saved_s = self._clock_s()
        self._covered_step = saved.step
        self._made["shoal_snapshots_total"].inc()
        self._set("shoal_snapshot_duration_seconds", saved.seconds)
        self._set("shoal_snapshot_pause_seconds", saved.pause_s)
        self._set("shoal_state_bytes", saved.size_bytes)
        self._set("shoal_snapshot_lag_steps", 0)

    def recovered(self, steps: int, seconds: float) -> None:
        self.health.turned()
        self._replayed = steps
        self._computing_s = 0.0
        self._computed_s.clear()
        self._set("shoal_recovery_steps", steps)
        self._set("shoal_recovery_duration_seconds", seconds)
        self._set("shoal_snapshot_lag_steps", steps)

    def quality(self, silhouette: float, davies_bouldin: float, inertia: Sequence[float]) -> None:
        self.health.turned()
        self._set("shoal_silhouette", silhouette)
        self._set("shoal_davies_bouldin", davies_bouldin)
        known = [value for value in inertia if value > 0]  # 0: a centre without rows in the reservoir
        self._set("shoal_inertia", sum(known) / len(known) if known else UNKNOWN)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return prometheus.generate_latest(self.registry)

    # --- parts of a committed step --------------------------------------------------------------------------

    def _count(self, counts: Counts) -> None:
        events = self._made["shoal_events_total"]
        for name, n in counts.by_type.items():
            events.labels(name, "accepted").inc(n)
        rejected = sum(counts.rejected.values())
        others = ("duplicate", counts.duplicates), ("late", counts.late), ("rejected", rejected)
        for outcome, n in (*others, ("command", counts.commands)):
            events.labels("any", outcome).inc(n)
        for reason, n in counts.rejected.items():
            self._made["shoal_rejects_total"].labels(reason).inc(n)
        self._made["shoal_events_adjusted_total"].labels("future").inc(counts.future)
        self._made["shoal_events_adjusted_total"].labels("clamped").inc(counts.clamped)
        self._made["shoal_events_adjusted_total"].labels("withheld").inc(counts.withheld)

    def _stepped(self, output: Output) -> None:
        if self._covered_step is None:  # the first step of this process: what came before was replayed
            self._covered_step = output.step - 1 - self._replayed
        self._set("shoal_step", output.step)
        self._set("shoal_snapshot_lag_steps", output.step - self._covered_step)

    def _time(self, output: Output) -> None:
        manifest = output.manifest
        now_ms = output.gauges.get("now_ms", manifest.watermark_ms)
        clock_ms = now_ms if manifest.as_of_ms is None else manifest.as_of_ms
        self._set("shoal_watermark_timestamp_seconds", manifest.watermark_ms / 1000)
        self._set("shoal_watermark_delay_seconds", (clock_ms - manifest.watermark_ms) / 1000)

    def _model(self, gauges: Mapping[str, Any]) -> None:
        self._set("shoal_users", gauges.get("users", 0))
        self._set("shoal_encoder_version", gauges.get("encoder_version", 0))
        if gauges.get("encoder_version"):
            self._set("shoal_encoder_loss", gauges.get("loss", 0.0))
        publication: Publication | None = gauges.get("publication")
        if publication is not None:
            outcome = "published" if publication.published else "refused"
            self._made["shoal_publications_total"].labels(outcome).inc()
            self._set("shoal_publication_churn_ratio", publication.churn)

    def _segments(self, output: Output) -> None:
        gauges = output.gauges
        sizes = {str(segment): int(n) for segment, n in gauges.get("sizes", {}).items()}
        self.status = Status(output.step, gauges.get("users", 0), sizes)
        ranked = sorted(sizes.values(), reverse=True)
        self._set("shoal_live_centres", sum(n > 0 for n in ranked))
        self._rank(ranked)
        changes: Mapping[str, int] = gauges.get("changes", {})
        for reason, n in changes.items():
            known = reason if reason in CHANGE_REASONS else "other"
            self._made["shoal_changes_total"].labels(known).inc(n)
        lineage: Mapping[str, int] = gauges.get("lineage", {})
        for kind, n in lineage.items():
            self._made["shoal_lineage_total"].labels(kind).inc(n)
        self._set_churn(output.counts.accepted, gauges.get("moved", 0))

    def _rank(self, ranked: list[int]) -> None:
        """Sizes, largest first. A rank that was there before and is empty now shows 0, not its old size."""
        shown = ranked[:RANKS_MAX]
        self._ranks = max(self._ranks, len(shown))
        for rank in range(1, self._ranks + 1):
            size = shown[rank - 1] if rank <= len(shown) else 0
            self._made["shoal_segment_users"].labels(str(rank)).set(size)
        self._made["shoal_segment_users"].labels("other").set(sum(ranked[RANKS_MAX:]))

    def _set_churn(self, events: int, moved: int) -> None:
        self._churn.append((events, moved))
        seen = sum(n for n, _ in self._churn)
        while len(self._churn) > 1 and seen - self._churn[0][0] >= CHURN_EVENTS:
            seen -= self._churn.popleft()[0]
        if seen:
            self._set("shoal_churn_per_1000_events", 1000 * sum(m for _, m in self._churn) / seen)

    def _set_lag(self, lag: Mapping[int, int]) -> None:
        seconds = self._lag.observe(lag, self._clock_s())
        rest = [p for p in lag if not 0 <= p < PARTITIONS_MAX]  # the commands' too
        for partition, records in lag.items():
            if 0 <= partition < PARTITIONS_MAX:
                self._made["shoal_lag_records"].labels(str(partition)).set(records)
                self._made["shoal_lag_seconds"].labels(str(partition)).set(seconds.get(partition, 0.0))
        if rest:
            self._made["shoal_lag_records"].labels("other").set(sum(lag[p] for p in rest))
            self._made["shoal_lag_seconds"].labels("other").set(max(seconds.get(p, 0.0) for p in rest))

    # --- building -------------------------------------------------------------------------------------------

    def _set(self, name: str, value: float) -> None:
        self._made[name].set(value)

    def _build(self) -> None:
        # `_created` would be one more series for every counter: too much for the budget.
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        for metric in METRICS:
            if not metric.library:
                self._made[metric.name] = _make(metric, self.registry)
        prometheus.ProcessCollector(namespace="shoal", registry=self.registry)
        self._made["shoal_build_info"].labels(_version(), platform.python_version()).set(1)
        self._made["shoal_phase"].labels(self.health.phase.value).set(1)
        self._made["shoal_ready"].set_function(lambda: float(self.health.ready().ok))
        self._made["shoal_loop_idle_seconds"].set_function(self.health.idle_s)
        self._made["shoal_snapshot_age_seconds"].set_function(self._snapshot_age_s)

    def _snapshot_age_s(self) -> float:
        return UNKNOWN if self._saved_s is None else self._clock_s() - self._saved_s


def _make(metric: Metric, registry: prometheus.CollectorRegistry) -> Any:
    """A metric of prometheus_client with all its label combinations present from the start."""
    common = (metric.name, metric.meaning, metric.labels)
    made: Any
    if metric.kind == "counter":
        made = prometheus.Counter(*common, registry=registry)
    elif metric.kind == "summary":
        made = prometheus.Summary(*common, registry=registry)
    elif metric.kind == "histogram":
        made = prometheus.Histogram(*common, registry=registry, buckets=metric.buckets)
    else:
        made = prometheus.Gauge(*common, registry=registry)
    if metric.labels and not metric.lazy:
        for values in filter(None, metric.values):
            made.labels(*values)
    if metric.kind == "gauge" and not metric.labels:
        made.set(metric.start)
    return made


def _version() -> str:
    try:
        return version("shoal")
    except PackageNotFoundError:
        return "unknown"
