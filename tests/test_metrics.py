"""Metrics: what is counted, under which labels, and how many series there can ever be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from made import manifest
from prometheus_client.parser import text_string_to_metric_families

from shoal.stream.config import Http
from shoal.stream.events import (
    CHANGES,
    CHANNELS,
    MEMBERS,
    Counts,
    Output,
    OutRecord,
    Range,
    Reason,
)
from shoal.stream.ports import Observer, Phase, Probe, Publication, Saved
from shoal.stream.watching import metric_table
from shoal.stream.watching.lag import PARTITIONS_MAX as LAG_PARTITIONS_MAX
from shoal.stream.watching.lag import SAMPLES_MAX, Lag
from shoal.stream.watching.metric_table import METRICS, PARTITIONS_MAX, RANKS_MAX, SERIES_MAX, STAGES
from shoal.stream.watching.metrics import CHURN_EVENTS, Metrics


class HandClock:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


GAUGES: Mapping[str, Any] = {
    "now_ms": 1_700_000_003_000,
    "watermark_ms": 1_700_000_000_000,
    "users": 42,
    "sizes": {"s-1": 30, "s-2": 12, "s-3": 0},
    "changes": {"user_behavior": 3},
    "moved": 2,
    "loss": 0.25,
    "encoder_version": 2,
    "publication": None,
}


def output(
    step: int = 1,
    counts: Counts | None = None,
    ranges: tuple[Range, ...] = (),
    as_of_ms: int | None = 1_700_000_004_000,
    records: tuple[OutRecord, ...] = (),
    **gauges: Any,
) -> Output:
    counts = counts or Counts(records=10, accepted=10, by_type={"view": 10})
    made = manifest(step, ranges=ranges, as_of_ms=as_of_ms, watermark_ms=1_700_000_000_000, counts=counts)
    return Output(step, records, made, counts, {**GAUGES, **gauges})


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """(sample name, label values in order of label name) -> value, as Prometheus would read it."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_metrics_is_an_observer_and_its_stage_a_probe() -> None:
    """The engine and the pipeline can be given it as it is."""
    metrics = Metrics()
    observer: Observer = metrics
    probe: Probe = metrics.stage
    with probe("decode"):
        observer.phase(Phase.RUNNING)
    assert samples(metrics)["shoal_stage_seconds_count", ("decode",)] == 1


def test_a_committed_step_is_counted_once_in_every_outcome() -> None:
    """The outcomes of `shoal_events_total` add up to the records read: the coverage law, from outside."""
    metrics = Metrics()
    counts = Counts(
        records=20, accepted=12, duplicates=3, late=1, rejected={"json": 3, "time": 1}, future=2, clamped=5,
        by_type={"view": 9, "purchase": 3},
    )  # fmt: skip
    metrics.committed(output(counts=counts), 0.02, {}, None)
    found = samples(metrics)
    assert found["shoal_events_total", ("accepted", "view")] == 9
    assert found["shoal_events_total", ("duplicate", "any")] == 3
    assert sum(value for (name, _), value in found.items() if name == "shoal_events_total") == 20
    assert found["shoal_rejects_total", ("json",)] == 3
    assert found["shoal_events_adjusted_total", ("clamped",)] == 5
    assert found["shoal_commit_seconds_count", ()] == 1
    assert found["shoal_event_to_commit_seconds_count", ()] == 0, "no wall clock, no latency"


def test_what_was_written_is_counted_by_topic() -> None:
    metrics = Metrics()
    records = tuple(OutRecord(topic, b"u", b"{}") for topic in (CHANGES, MEMBERS, MEMBERS))
    metrics.committed(output(records=records), 0.02, {}, None)
    assert samples(metrics)["shoal_records_written_total", (MEMBERS,)] == 2


def test_the_watermark_delay_is_measured_against_the_clock_of_the_step() -> None:
    """Against the wall clock where there is one, else against the events' own time."""
    metrics = Metrics()
    metrics.committed(output(), 0.02, {}, 0.5)
    assert samples(metrics)["shoal_watermark_delay_seconds", ()] == 4.0
    metrics.committed(output(as_of_ms=None), 0.02, {}, None)
    assert samples(metrics)["shoal_watermark_delay_seconds", ()] == 3.0


def test_a_step_lasts_as_long_as_its_stages_without_poll_and_commit() -> None:
    clock = HandClock()
    metrics = Metrics(clock_s=clock)
    for name, took_s in (("poll", 5.0), ("decode", 0.25), ("changes", 0.5), ("commit", 7.0)):
        with metrics.stage(name):
            clock.now_s += took_s
    metrics.committed(output(), 7.0, {}, None)
    found = samples(metrics)
    assert found["shoal_step_seconds_sum", ()] == 0.75
    assert found["shoal_stage_seconds_sum", ("commit",)] == 7.0


def test_publications_are_counted_by_outcome() -> None:
    metrics = Metrics()
    metrics.committed(output(publication=Publication(3, True, 0.01)), 0.1, {}, None)
    metrics.committed(output(publication=Publication(3, False, 0.2)), 0.1, {}, None)
    metrics.committed(output(publication=None), 0.1, {}, None)
    found = samples(metrics)
    assert found["shoal_publications_total", ("published",)] == 1
    assert found["shoal_publications_total", ("refused",)] == 1
    assert found["shoal_publication_churn_ratio", ()] == 0.2


def test_segments_appear_by_size_rank_and_never_by_name() -> None:
    metrics = Metrics()
    sizes = {f"secret-{i}": i for i in range(RANKS_MAX + 4)}
    metrics.committed(output(sizes=sizes), 0.1, {}, None)
    found = samples(metrics)
    assert found["shoal_segment_users", ("1",)] == RANKS_MAX + 3
    assert found["shoal_segment_users", ("other",)] == 0 + 1 + 2 + 3
    assert found["shoal_live_centres", ()] == RANKS_MAX + 3
    assert b"secret" not in metrics.render()


def test_a_segment_that_is_gone_leaves_no_size_behind() -> None:
    metrics = Metrics()
    metrics.committed(output(sizes={"a": 5, "b": 3}), 0.1, {}, None)
    metrics.committed(output(sizes={"a": 8}), 0.1, {}, None)
    found = samples(metrics)
    assert found["shoal_segment_users", ("1",)] == 8
    assert found.get(("shoal_segment_users", ("2",)), 0) == 0


def test_churn_is_moves_per_thousand_recent_events() -> None:
    """First assignments are no churn; what is older than CHURN_EVENTS events is forgotten."""
    metrics = Metrics()

    def step(events: int, moved: int) -> float:
        counts = Counts(records=events, accepted=events, by_type={"view": events})
        metrics.committed(output(counts=counts, changes={"user_behavior": 400}, moved=moved), 0.1, {}, None)
        return samples(metrics)["shoal_churn_per_1000_events", ()]

    assert step(1000, 500) == 500
    assert step(1000, 0) == 250
    assert step(CHURN_EVENTS, 10) == 1


def test_the_phase_is_one_of_a_closed_set() -> None:
    metrics = Metrics()
    metrics.phase(Phase.RECOVERING)
    found = samples(metrics)
    phases = {labels[0]: value for (name, labels), value in found.items() if name == "shoal_phase"}
    assert phases == {phase.value: float(phase is Phase.RECOVERING) for phase in Phase}


def test_what_is_not_known_yet_is_not_zero() -> None:
    found = samples(Metrics())
    for name in ("shoal_silhouette", "shoal_snapshot_age_seconds", "shoal_recovery_duration_seconds"):
        assert math.isnan(found[name, ()]), name


def test_snapshot_lag_counts_the_steps_that_a_restart_would_replay() -> None:
    clock = HandClock()
    metrics = Metrics(clock_s=clock)
    metrics.recovered(7, 1.5)
    assert samples(metrics)["shoal_snapshot_lag_steps", ()] == 7
    metrics.committed(output(step=108), 0.1, {}, None)
    assert samples(metrics)["shoal_snapshot_lag_steps", ()] == 8, "snapshot 100, now at 108"
    metrics.snapshot_saved(Saved(108, 0.4, 5000, 0.02))
    clock.now_s += 30
    metrics.committed(output(step=109), 0.1, {}, None)
    found = samples(metrics)
    assert found["shoal_snapshot_lag_steps", ()] == 1
    assert found["shoal_snapshot_age_seconds", ()] == 30
    assert found["shoal_state_bytes", ()] == 5000
    assert found["shoal_snapshot_pause_seconds", ()] == 0.02


# --- lag ----------------------------------------------------------------------------------------------------


def test_lag_beyond_the_labelled_partitions_is_summed() -> None:
    """Records are summed, seconds are the worst partition's."""
    clock = HandClock()
    metrics = Metrics(clock_s=clock)
    metrics.alive({0: 5, PARTITIONS_MAX: 7, PARTITIONS_MAX + 9: 4})
    clock.now_s += 3
    metrics.alive({0: 0, PARTITIONS_MAX: 7, PARTITIONS_MAX + 9: 0})
    found = samples(metrics)
    assert found["shoal_lag_records", ("other",)] == 7
    assert found["shoal_lag_seconds", ("other",)] == 3
    assert found["shoal_lag_seconds", ("0",)] == 0


def test_lag_in_seconds_is_the_age_of_the_newest_record_read() -> None:
    """10 records a second arrive, reading stops at second 4 and goes on at half the speed from second 8."""
    lag = Lag()
    read = 0
    for second in range(1, 13):
        speed = 10 if second <= 4 else 0 if second <= 8 else 5
        lag.read((Range(0, read, read + speed),))
        read += speed
        seconds = lag.observe({0: 10 * second - read}, float(second))[0]
        assert seconds == second - read / 10, f"at second {second}"


def test_lag_keeps_the_oldest_observation_it_needs() -> None:
    """Nothing is read for 1,000 seconds: the lag is all of them, with 64 observations at most."""
    lag = Lag()
    for second in range(1000):
        assert lag.observe({0: 10 + second}, float(second))[0] == second


def test_records_that_arrive_after_a_silence_wait_since_they_arrived() -> None:
    lag = Lag()
    lag.read((Range(0, 0, 10),))
    lag.observe({0: 0}, 1.0)
    lag.observe({0: 0}, 100.0)
    assert lag.observe({0: 10}, 101.0) == {0: 1.0}


def test_lag_in_seconds_is_measured_for_so_many_partitions() -> None:
    lag = Lag()
    everybody = dict.fromkeys(range(LAG_PARTITIONS_MAX + 5), 1)
    assert len(lag.observe(everybody, 1.0)) == len(lag.observe(everybody, 2.0)) == LAG_PARTITIONS_MAX


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=300))
def test_lag_is_never_negative_never_older_than_the_start_and_bounded_in_memory(
    moves: list[tuple[int, int]],
) -> None:
    """Whatever arrives and whatever is read."""
    lag = Lag()
    written = read = 0
    for second, (arrived, wanted) in enumerate(moves):
        written += arrived
        taken = min(wanted, written - read)
        lag.read((Range(3, read, read + taken),))
        read += taken
        seconds = lag.observe({3: written - read}, float(second))[3]
        assert 0 <= seconds <= second
        assert (seconds == 0) or (written > read)
        assert len(lag._ends[3]) <= SAMPLES_MAX


# --- the table ----------------------------------------------------------------------------------------------


def crowded() -> Metrics:
    """Everything that can have a label has every one, and many more were tried."""
    metrics = Metrics()
    for name in (*STAGES, "surprise", "another"):
        with metrics.stage(name):
            pass
    counts = Counts(
        records=100, accepted=17, duplicates=1, late=1, rejected=dict.fromkeys(map(str, Reason), 9),
        by_type=dict.fromkeys(CHANNELS, 1),
    )  # fmt: skip
    metrics.committed(
        output(
            counts=counts,
            sizes={f"s-{i}": i for i in range(500)},
            changes={f"reason-{i}": 1 for i in range(500)},
            publication=Publication(1, True, 0.1),
        ),
        0.1,
        dict.fromkeys(range(500), 3),
        1.0,
    )
    metrics.quality(0.5, 1.0, [1.0, 2.0])
    metrics.snapshot_saved(Saved(1, 0.1, 100, 0.01))
    metrics.recovered(1, 0.1)
    return metrics


def test_there_are_never_more_series_than_promised() -> None:
    """Hundreds of partitions, segments and unheard-of reasons later."""
    found = samples(crowded())
    assert len(found) == sum(metric.series_max for metric in METRICS) <= SERIES_MAX


def test_every_series_is_in_the_table_with_its_labels() -> None:
    families = list(text_string_to_metric_families(crowded().render().decode()))
    table = {m.name: m for m in METRICS}
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        metric = table.pop(name)
        assert family.type == metric.kind
        assert family.documentation == metric.meaning or metric.library
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
            labels = tuple(sample.labels[label] for label in metric.labels)
            assert labels in metric.values or name == "shoal_build_info", (name, labels)
    assert not table, "in the table, but not exported"


def test_names_have_the_prefix_and_base_units() -> None:
    for name, kind, labels, meaning in metric_table.describe():
        assert re.fullmatch(r"shoal_[a-z0-9_]+", name)
        assert name.endswith("_total") == (kind == "counter")
        assert not re.search(r"_(ms|millis|kb|mb|minutes|percent)(_|$)", name)
        assert not {"user", "user_id", "segment", "segment_id", "name"} & set(labels.split(", "))
        assert meaning.strip(".") == meaning != ""


def test_the_label_of_every_change_reason_and_phase_is_the_contracts() -> None:
    """Closed sets come from the facts, not from what was seen."""
    reasons = {metric.name: metric.values for metric in METRICS}["shoal_rejects_total"]
    assert reasons == tuple((reason.value,) for reason in Reason)
    assert metric_table.CHANGE_REASONS[-1] == "other"


def test_two_instances_do_not_share_a_registry() -> None:
    first, second = Metrics(), Metrics()
    first.committed(output(), 0.1, {}, None)
    assert samples(second)["shoal_steps_total", ()] == 0


# --- health -------------------------------------------------------------------------------------------------

LIMITS = Http(stuck_after_s=10, waiting_max_s=100)


def engine_like() -> tuple[Metrics, HandClock]:
    clock = HandClock()
    return Metrics(LIMITS, clock), clock


def test_an_engine_is_ready_only_while_running_and_polling() -> None:
    metrics, _ = engine_like()
    for phase in Phase:
        metrics.phase(phase)
        assert not metrics.health.ready().ok, "no poll in this phase yet"
        metrics.alive({0: 0})
        assert metrics.health.ready().ok == (phase is Phase.RUNNING)
        assert phase.value in metrics.health.ready().text
    assert samples(metrics)["shoal_ready", ()] == 0


def test_after_a_long_replay_there_is_time_to_commit_again() -> None:
    """The clock of "not committing" starts with the phase."""
    metrics, clock = engine_like()
    metrics.phase(Phase.RECOVERING)
    clock.now_s += 1000
    metrics.phase(Phase.RUNNING)
    metrics.alive({0: 5})
    assert metrics.health.ready().ok


def test_a_loop_that_no_longer_turns_is_stuck_after_the_configured_time() -> None:
    metrics, clock = engine_like()
    metrics.phase(Phase.RUNNING)
    metrics.alive({0: 0})
    clock.now_s += 10
    assert metrics.health.alive().ok
    assert metrics.health.ready().ok
    clock.now_s += 0.1
    assert not metrics.health.alive().ok
    assert "limit 10 s" in metrics.health.ready().text


def test_a_long_replay_is_alive_as_long_as_stages_end() -> None:
    metrics, clock = engine_like()
    metrics.phase(Phase.RECOVERING)
    for _ in range(20):
        clock.now_s += 9
        with metrics.stage("score"):
            pass
        assert metrics.health.alive().ok


def test_waiting_for_the_broker_has_a_longer_bound_and_standby_none() -> None:
    metrics, clock = engine_like()
    metrics.phase(Phase.WAITING)
    clock.now_s += 99
    assert metrics.health.alive().ok
    clock.now_s += 2
    assert not metrics.health.alive().ok
    metrics.phase(Phase.STANDBY)
    clock.now_s += 1e6
    assert metrics.health.alive().ok
    assert not metrics.health.ready().ok


def test_polling_without_committing_is_alive_but_not_ready() -> None:
    """Records wait, the loop turns, nothing is committed. With nothing to read there is nothing to commit."""
    metrics, clock = engine_like()
    metrics.phase(Phase.RUNNING)
    for _ in range(30):
        clock.now_s += 1
        metrics.alive({0: 0, 1: 0})
    assert metrics.health.ready().ok
    for _ in range(11):
        clock.now_s += 1
        metrics.alive({0: 0, 1: 9})
    assert metrics.health.alive().ok
    assert "no commit for 11 s" in metrics.health.ready().text
    metrics.committed(replace(output(), step=2), 0.1, {0: 0, 1: 8}, None)
    assert metrics.health.ready().ok


def test_a_step_is_told_its_own_computing_time_though_the_next_is_computed_before_it_is_committed():
    """1 second for the first step, 2 for the second: told in this order, one commit late."""
    now_s = [0.0]
    metrics = Metrics(clock_s=lambda: now_s[0])

    def compute(seconds):
        for stage in ("decode", "changes"):
            with metrics.stage(stage):
                now_s[0] += seconds / 2

    def observed():
        return metrics.registry.get_sample_value("shoal_step_seconds_sum")

    compute(1.0)
    compute(2.0)
    metrics.committed(output(step=1), 0.0, {}, None)
    assert observed() == 1.0
    metrics.committed(output(step=2), 0.0, {}, None)
    assert observed() == 3.0
