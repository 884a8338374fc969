"""Every metric of Shoal as a row of one table: what is built, what is documented, what is tested.

Prefix `shoal_`, base units, counters end in `_total`. Every label has a closed set of values or a bounded
number of them: never a user, never a segment's name. All rows together stay within SERIES_MAX.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..events import CATALOG, CHANGES, CHANNELS, LINEAGE, MEMBERS, REJECTED, Reason
from ..lineage import KINDS
from ..ports import Phase

SERIES_MAX = 200
PARTITIONS_MAX = 16
"""Partitions with a label of their own, by number; the others share `other` (sum of records, worst age)."""
RANKS_MAX = 16
"""Segments with a label of their own, by size, largest first; the smaller ones are summed under `other`."""

STAGES = ("poll", "decode", "admit", "windows", "rows", "warm", "score", "learn", "changes", "commit")
CHANGE_REASONS = (
    "user_behavior", "segment_moved", "encoder_published", "expiry", "lineage", "operator", "erasure",
    "other",
)  # fmt: skip
TOPICS = (CHANGES, MEMBERS, CATALOG, LINEAGE, REJECTED)
PARTITION_LABELS = (*map(str, range(PARTITIONS_MAX)), "other")
RANK_LABELS = (*map(str, range(1, RANKS_MAX + 1)), "other")

Kind = Literal["counter", "gauge", "histogram", "summary"]
UNKNOWN = math.nan
"""A gauge before its first value, where 0 would be a lie."""


def _column(*values: str) -> tuple[tuple[str, ...], ...]:
    return tuple((value,) for value in values)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ((),)  # every combination of label values there can be
    buckets: tuple[float, ...] = ()  # upper bounds, without +Inf
    start: float = 0.0  # a gauge's value before the first measurement
    lazy: bool = False  # a label combination appears when it is first set
    library: bool = False  # made by prometheus_client's process collector

    @property
    def series_max(self) -> int:
        each = {"counter": 1, "gauge": 1, "summary": 2, "histogram": len(self.buckets) + 3}[self.kind]
        return each * len(self.values)


def _gauge(name: str, meaning: str, start: float = 0.0) -> Metric:
    return Metric(name, "gauge", meaning, start=start)


def _counter(name: str, meaning: str, label: str = "", values: tuple[str, ...] = ()) -> Metric:
    if not label:
        return Metric(name, "counter", meaning)
    return Metric(name, "counter", meaning, (label,), _column(*values))


def _lazy(name: str, meaning: str, label: str, values: tuple[str, ...]) -> Metric:
    return Metric(name, "gauge", meaning, (label,), _column(*values), lazy=True)


def _process(name: str, meaning: str, kind: Kind = "gauge") -> Metric:
    return Metric(name, kind, meaning, library=True)


_EVENTS = (
    *((name, "accepted") for name in CHANNELS),
    ("any", "duplicate"), ("any", "late"), ("any", "rejected"), ("any", "command"),
)  # fmt: skip

METRICS: tuple[Metric, ...] = (
    # --- flow
    Metric("shoal_events_total", "counter", "records read, by outcome; the type is known of accepted ones",
           ("type", "outcome"), _EVENTS),
    _counter("shoal_rejects_total", "rejected records", "reason", tuple(Reason)),
    _counter("shoal_events_adjusted_total",
             "accepted events with a future time or an absurd value clamped, or withheld for a command",
             "reason", ("future", "clamped", "withheld")),
    _counter("shoal_records_written_total", "records committed to output topics", "topic", TOPICS),
    _counter("shoal_steps_total", "steps committed since the start of the process"),
    _gauge("shoal_step", "number of the latest committed step"),
    _lazy("shoal_lag_records", "records not yet read", "partition", PARTITION_LABELS),
    _lazy("shoal_lag_seconds", "how long ago the log ended where we are now, since the start at most",
          "partition", PARTITION_LABELS),
    _gauge("shoal_watermark_delay_seconds", "how far the watermark is behind the step's clock", UNKNOWN),
    _gauge("shoal_watermark_timestamp_seconds", "the watermark, as event time", UNKNOWN),
    # --- latency
    Metric("shoal_stage_seconds", "summary", "time in a stage of the loop", ("stage",),
           _column(*STAGES, "other")),
    Metric("shoal_step_seconds", "histogram", "computing of one step, without poll and commit",
           buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 5)),
    Metric("shoal_commit_seconds", "histogram", "one commit of a step's output",
           buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)),
    Metric("shoal_event_to_commit_seconds", "histogram",
           "newest event's time to the commit of its step, where the wall clock is used",
           buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)),
    # --- state
    _gauge("shoal_users", "users in the state"),
    _gauge("shoal_state_bytes", "size of the state as last saved", UNKNOWN),
    _process("shoal_process_virtual_memory_bytes", "virtual memory of the process"),
    _process("shoal_process_resident_memory_bytes", "resident memory of the process"),
    _process("shoal_process_start_time_seconds", "when the process started"),
    _process("shoal_process_cpu_seconds_total", "processor time of the process", "counter"),
    _process("shoal_process_open_fds", "open file descriptors"),
    _process("shoal_process_max_fds", "open file descriptors allowed"),
    # --- model
    _gauge("shoal_encoder_loss", "mean loss of the latest learning", UNKNOWN),
    _gauge("shoal_encoder_version", "version of the weights that serve"),
    _counter("shoal_publications_total", "attempts to let new weights serve",
             "outcome", ("published", "refused")),
    _gauge("shoal_publication_churn_ratio", "share of the reservoir the latest attempt would move", UNKNOWN),
    _gauge("shoal_silhouette", "silhouette on a reservoir, -1 to 1, larger is better", UNKNOWN),
    _gauge("shoal_davies_bouldin", "Davies-Bouldin index on a reservoir, smaller is better", UNKNOWN),
    _gauge("shoal_inertia", "mean squared distance to the nearest centre on a reservoir", UNKNOWN),
    # --- segments
    _gauge("shoal_live_centres", "segments with at least one member"),
    _lazy("shoal_segment_users", "members by size rank, 1 is the largest segment", "rank", RANK_LABELS),
    _counter("shoal_changes_total", "segment changes decided", "reason", CHANGE_REASONS),
    _counter("shoal_lineage_total", "segments that came to be, were merged, renamed or ended", "kind", KINDS),
    _gauge("shoal_churn_per_1000_events", "users that moved, per 1,000 of the latest 10,000 events", UNKNOWN),
    # --- recovery
    Metric("shoal_phase", "gauge", "1 for the phase the engine is in", ("phase",), _column(*Phase)),
    _gauge("shoal_ready", "1 when recovered, polling and committing"),
    _gauge("shoal_loop_idle_seconds", "since the engine last did anything"),
    _counter("shoal_snapshots_total", "snapshots saved"),
    _gauge("shoal_snapshot_age_seconds", "since the latest snapshot of this process", UNKNOWN),
    _gauge("shoal_snapshot_duration_seconds", "time the latest snapshot took", UNKNOWN),
    _gauge("shoal_snapshot_pause_seconds", "time the engine stood still for the latest snapshot", UNKNOWN),
    _gauge("shoal_snapshot_lag_steps", "steps that a restart would compute again"),
    _gauge("shoal_recovery_duration_seconds", "time the recovery of this process took", UNKNOWN),
    _gauge("shoal_recovery_steps", "steps that the recovery of this process computed again", UNKNOWN),
    Metric("shoal_build_info", "gauge", "always 1; what is running", ("version", "python")),
)  # fmt: skip


def describe() -> list[tuple[str, str, str, str]]:
    """(name, type, labels, meaning) of every metric, for the documentation."""
    return [(m.name, m.kind, ", ".join(m.labels), m.meaning) for m in METRICS]


def markdown() -> str:
    """The same as a page: deploy/METRICS.md, written by `python -m shoal.stream.watching.metric_table`."""
    series = sum(metric.series_max for metric in METRICS)
    rows = [f"| `{name}` | {kind} | {labels} | {meaning} |" for name, kind, labels, meaning in describe()]
    head = [
        "# Metrics",
        "",
        "Written by `python -m shoal.stream.watching.metric_table`; a test compares it with what is exported.",
        f"One instance exports at most {series} series. No label holds a user or the name of a segment.",
        "A gauge that has no value yet is NaN.",
        "",
        "| name | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
