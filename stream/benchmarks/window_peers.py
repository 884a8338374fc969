"""The peers of `shoal bench windows`: the same window with Quix Streams and with Bytewax, in this process.

Both get decoded events from memory, in order, and their results end in a list. No broker, no decoding, no
network is in their figures, as none is in Shoal's. Each is used as its documentation says:

Quix Streams   `hopping_window(60 s, 10 s).agg(count, sum).current()`: a result for each of the six windows with
               every event; state in RocksDB in a temporary folder, no changelog topic; each message runs in a
               context of its own, then offset and checkpoint, every 5 s, as `Application.run` does it. Only the
               Kafka client is left out: the consumer and the producer beneath the checkpoint do nothing.
Bytewax        `fold_window` with `SlidingWindower` and `EventClock`, one worker, no recovery store, batches of
               8,192: a result per window once it has closed. The system clock stands still: the events are the
               clock, so that a replay faster than life closes no window early.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any, NoReturn

from .window_events import LENGTH_MS, SLIDE_MS, Answers, Purchases

Run = Callable[[], Callable[[], Answers]]
"""Runs over everything; what it gives back makes the answers of the results. Neither preparing nor that is timed."""

PACKAGES = {"quix": "quixstreams", "bytewax": "bytewax"}
COMMIT_INTERVAL_S = 5.0  # the default of Quix Streams' Application
_BATCH = 8192  # as large as Shoal's step
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def missing(name: str) -> str:
    """How to get the peer; "" where it is installed."""
    package = PACKAGES[name]
    return "" if find_spec(package) else f"not installed (pip install {package})"


class Unconnected:
    """A consumer and a producer without a broker: everything is delivered, nothing is committed."""

    offsets: dict[Any, int] = {}  # noqa: RUF012

    def flush(self, timeout: float | None = None) -> int:
        return 0

    def commit(self, offsets: Any, asynchronous: bool) -> None:
        return None


def quix(bought: Purchases, folder: str) -> Run:
    """Ready to run over the purchases, with its state under `folder`."""
    from quixstreams.context import copy_context, set_message_context  # type: ignore[import-not-found]
    from quixstreams.dataframe import DataFrameRegistry, StreamingDataFrame  # type: ignore[import-not-found]
    from quixstreams.dataframe.windows import Count, Sum  # type: ignore[import-not-found]
    from quixstreams.models import MessageContext  # type: ignore[import-not-found]
    from quixstreams.models.topics import Topic, TopicConfig, TopicManager  # type: ignore[import-not-found]
    from quixstreams.processing import ProcessingContext  # type: ignore[import-not-found]
    from quixstreams.sinks import SinkManager  # type: ignore[import-not-found]
    from quixstreams.state import StateStoreManager  # type: ignore[import-not-found]

    registry = DataFrameRegistry()
    state = StateStoreManager(group_id="bench", state_dir=folder)
    state.init()
    processing = ProcessingContext(
        commit_interval=COMMIT_INTERVAL_S,
        producer=Unconnected(),
        consumer=Unconnected(),
        state_manager=state,
        sink_manager=SinkManager(),
        dataframe_registry=registry,
    )
    topic = Topic("purchases")
    topic.broker_config = TopicConfig(1, 1, {"retention.ms": "-1", "retention.bytes": "-1"})
    frame = StreamingDataFrame(
        topic,
        topic_manager=TopicManager(topic_admin=None, consumer_group="bench"),
        registry=registry,
        processing_context=processing,
    )
    registry.register_root(frame)
    frame.hopping_window(LENGTH_MS, SLIDE_MS).agg(count=Count(), cents=Sum("cents")).current()
    state.on_partition_assign(stream_id=frame.stream_id, partition=0, committed_offsets={})
    processing.init_checkpoint()
    results: list[tuple[bytes, dict[str, Any]]] = []  # the last update of a window is its answer
    process = registry.compose_all(lambda value, key, time_ms, headers: results.append((key, value)))[
        topic.name
    ]
    keys = [str(user).encode() for user in bought.users.tolist()]
    values = [{"cents": cents} for cents in bought.cents.tolist()]
    messages = list(zip(keys, values, bought.time_ms.tolist(), strict=True))

    def run() -> Callable[[], Answers]:
        for offset, (key, value, time_ms) in enumerate(messages):
            context = copy_context()
            context.run(set_message_context, MessageContext(topic.name, 0, offset, len(key)))
            context.run(process, value, key, time_ms, None)
            processing.store_offset(topic.name, 0, offset)
            processing.commit_checkpoint()
        processing.commit_checkpoint(force=True)
        return lambda: {(int(key), one["start"]): (one["count"], one["cents"]) for key, one in results}

    return run


def bytewax(bought: Purchases, folder: str) -> Run:
    """Ready to run over the purchases; it keeps nothing under `folder`."""
    from bytewax import operators as op  # type: ignore[import-not-found]
    from bytewax.dataflow import Dataflow  # type: ignore[import-not-found]
    from bytewax.operators.windowing import (  # type: ignore[import-not-found]
        EventClock,
        SlidingWindower,
        fold_window,
    )
    from bytewax.testing import TestingSink, TestingSource, run_main  # type: ignore[import-not-found]

    def add(state: list[int], event: tuple[str, datetime, int]) -> list[int]:
        state[0] += 1
        state[1] += event[2]
        return state

    times = [_EPOCH + timedelta(milliseconds=time_ms) for time_ms in bought.time_ms.tolist()]
    keys = [str(user) for user in bought.users.tolist()]
    events = list(zip(keys, times, bought.cents.tolist(), strict=True))
    results: list[tuple[str, tuple[int, list[int]]]] = []  # windows are numbered from the epoch
    flow = Dataflow("bench")
    keyed = op.key_on(
        "key", op.input("in", flow, TestingSource(events, batch_size=_BATCH)), lambda event: event[0]
    )
    clock = EventClock(
        ts_getter=lambda event: event[1],
        wait_for_system_duration=timedelta(0),
        now_getter=lambda: _EPOCH,
        to_system_utc=lambda time: None,
    )
    windower = SlidingWindower(
        length=timedelta(milliseconds=LENGTH_MS), offset=timedelta(milliseconds=SLIDE_MS), align_to=_EPOCH
    )
    windows = fold_window("window", keyed, clock, windower, lambda: [0, 0], add, _never, ordered=False)
    op.output("out", windows.down, TestingSink(results))

    def run() -> Callable[[], Answers]:
        run_main(flow)
        return lambda: {
            (int(key), number * SLIDE_MS): (count, cents) for key, (number, (count, cents)) in results
        }

    return run


def _never(one: list[int], other: list[int]) -> NoReturn:
    raise AssertionError("sliding windows do not merge")
