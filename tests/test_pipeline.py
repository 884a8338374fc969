"""The whole pure step: what it promises about users, whatever the parts do among themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import small

from shoal.stream.changes import REJECT_BYTES_MAX
from shoal.stream.config import Config
from shoal.stream.events import CHANGES, MEMBERS, REJECTED, Output, Range, Records, Step
from shoal.stream.kafka.admin import REJECTED_MAX_BYTES
from shoal.stream.pipeline import Pipeline
from shoal.stream.wiring import build_pipeline

T0_MS = 1_700_000_000_000
DAY_MS = 86_400_000
PLAIN = ("encoder.kind=identity", "segmenter.warmup_rows=40", "membership.confirmations=1")


class Driver:
    """A pipeline fed by hand; keeps what its segmenter was asked to learn."""

    def __init__(self, config: Config) -> None:
        self.pipeline: Pipeline = build_pipeline(config)
        self.outputs: list[Output] = []
        self.rows: list[Any] = []  # what each call of Segmenter.learn was given ...
        self.people: list[int] = []  # ... and of how many people
        self._at = 0
        self._ids = 0
        learn = self.pipeline.segmenter.learn

        def remembered(z: Any, people: int = 0) -> Any:
            self.rows.append(z.copy())
            self.people.append(people)
            return learn(z, people)

        self.pipeline.segmenter.learn = remembered  # type: ignore

    def step(self, *values: bytes, keys: Sequence[bytes | None] = (), as_of_ms: int = T0_MS) -> Output:
        n, start = len(values), self._at
        self._at += n
        records = Records(
            np.zeros(n, np.int32), np.arange(start, self._at), tuple(keys) or (None,) * n, values
        )
        ranges = (Range(0, start, self._at),) if n else ()
        number = len(self.outputs) + 1
        self.outputs.append(self.pipeline.step(Step(number, ranges, records, as_of_ms)))
        return self.outputs[-1]

    def event(self, user: str, type: str = "view", time_ms: int = T0_MS, **more: Any) -> bytes:
        self._ids += 1
        body = {"event_id": f"e{self._ids}", "user_id": user, "type": type, "event_time": time_ms}
        return orjson.dumps(body | more)

    def told(self, topic: str) -> list[Any]:
        return [r for output in self.outputs for r in output.records if r.topic == topic]


KINDS = ("view", "purchase", "play", "search")


def crowd(driver: Driver, users: int, time_ms: int = T0_MS, each: int = 3) -> list[bytes]:
    """Users of four kinds, each with a few events of its own kind."""
    return [
        driver.event(f"u{i:03d}", KINDS[i % 4], time_ms - j * 1000, items=[{"id": f"{KINDS[i % 4]}-{j}"}])
        for i in range(users)
        for j in range(each)
    ]


def warm(*overrides: str, users: int = 60) -> Driver:
    driver = Driver(small(*PLAIN, *overrides))
    driver.step(*crowd(driver, users))
    assert driver.pipeline.warmup.done
    return driver


# --- once per step ------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 59), min_size=1, max_size=80))
def test_each_touched_user_is_scored_and_learned_once_however_many_events_it_sent(users):
    """Load makes batches bigger, not users louder."""
    driver = warm()
    driver.step(*(driver.event(f"u{i:03d}", "click") for i in users))
    assert len(driver.rows[-1]) == len(set(users))


def test_the_segmenter_is_told_how_many_people_there_are():
    """All that are known, not those of the step: they are told when it rearranges its centres."""
    driver = warm(users=60)
    driver.step(driver.event("u000"), driver.event("somebody-new"))
    assert driver.people[-1] == 61


def test_a_bot_with_most_of_the_traffic_moves_centres_no_more_than_anybody_else():
    """One event or 250 of one user: still one row, and one step of one centre."""

    for events in (1, 250):
        driver = warm()
        segmenter = driver.pipeline.segmenter
        before, steps = segmenter.centres.copy(), segmenter.steps.copy()
        driver.step(*(driver.event("u000", "purchase") for _ in range(events)))
        (z,) = driver.rows[-1]
        shift = np.linalg.norm(segmenter.centres - before, axis=1)
        assert np.count_nonzero(shift) == 1
        gap = np.linalg.norm(z - before[shift.argmax()])
        assert gap > 0
        assert shift.max() == pytest.approx(steps[shift.argmax()] * gap), (
            "one step of the rule, however many events"
        )


def test_a_user_that_is_scored_once_changes_at_most_once_in_a_step():
    """However many events, at most one change and one membership per user and step."""
    driver = warm()
    for kind in KINDS:
        output = driver.step(*(driver.event(f"u{i % 60:03d}", kind) for i in range(240)))
        for topic in (CHANGES, MEMBERS):
            keys = [r.key for r in output.records if r.topic == topic]
            assert len(keys) == len(set(keys))


# --- coming and going ---------------------------------------------------------------------------------------


def test_when_there_is_no_room_the_longest_silent_users_leave_and_are_said_goodbye_to():
    """users_max holds, the newest stay, and whoever left is a tombstone among the members."""
    driver = warm("features.users_max=64", "engine.step_records_max=64", users=60)
    driver.step(*(driver.event(f"u{i:03d}", "view", T0_MS + 1000) for i in range(10, 60)))
    driver.step(*(driver.event(f"new{i:02d}", "view", T0_MS + 2000) for i in range(8)))
    left = [orjson.loads(r.value)["user"]["key"] for r in driver.told(CHANGES) if b'"left"' in r.value]
    assert left == [f"u{i:03d}" for i in range(4)]
    assert len(driver.pipeline.users) == 64
    members = {r.key.decode(): r.value for r in driver.told(MEMBERS)}
    assert [key for key, value in sorted(members.items()) if value is None] == left
    assert sum(driver.pipeline.membership.sizes().values()) == 64


def test_a_user_that_made_room_comes_back_as_a_new_one_with_a_sequence_that_never_repeats():
    """A reader that keeps (user, sequence) never sees a pair twice."""
    driver = warm("features.users_max=64", "engine.step_records_max=64", users=60)
    driver.step(*(driver.event(f"new{i:02d}", "view", T0_MS + 2000) for i in range(8)))
    driver.step(*(driver.event("u000", "view", T0_MS + 3000 + i) for i in range(3)))
    seen = [orjson.loads(r.value)["position"]["sequence"] for r in driver.told(CHANGES) if r.key == b"u000"]
    assert len(seen) == 3
    assert seen == sorted(set(seen))


def test_silent_users_change_segment_and_leave_without_an_event_of_their_own():
    """Windows move under them: time alone takes them out of what they were, and at last out of everything."""
    driver = warm()
    before = len(driver.told(CHANGES))
    as_of_ms, rescored = T0_MS, 0
    for _ in range(40):
        as_of_ms += DAY_MS
        driver.step(as_of_ms=as_of_ms)
        rescored += len(driver.outputs[-1].records)
    assert rescored > 0
    assert len(driver.pipeline.users) == 0
    reasons = [orjson.loads(r.value)["transition"] for r in driver.told(CHANGES)[before:]]
    assert reasons.count("left") == 60
    assert len(driver.rows) == 1, "nothing is learned from silence"


def test_a_step_of_bad_records_alone_does_not_declare_slow_partitions_gone():
    """While a backlog is read, partitions stand at different times; a batch of rubbish says nothing about that."""
    driver = warm()
    clock = driver.pipeline.clock
    late = np.array([T0_MS - 40 * DAY_MS])
    clock.advance(late, np.array([1], np.int32), T0_MS)
    before = clock.watermark_ms
    clock._quiet[0] = clock._quiet[1] = 0
    clock._newest_ms[1] = before
    driver.step(b"rubbish", b"{}")
    assert clock.watermark_ms == before


# --- rejects ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, b"k", b"k" * 5_000_000])
def test_a_reject_beyond_what_the_topic_takes_is_cut_and_says_so(key):
    """Otherwise the record that nobody can write would end the engine again and again."""
    driver = Driver(small(*PLAIN, "input.value_max_bytes=16777216"))
    whole = driver.step(b"[" + b"1" * 100_000, keys=[b"k"]).records[-1]
    assert (whole.topic, whole.key, len(whole.value)) == (REJECTED, b"k", 100_001)
    cut = driver.step(b"[" + b"1" * 12_000_000, keys=[key]).records[-1]
    headers = dict(cut.headers)
    size = len(cut.key or b"") + len(cut.value) + sum(len(n) + len(v) for n, v in cut.headers)
    assert size < REJECT_BYTES_MAX + 4096 < REJECTED_MAX_BYTES
    assert cut.key == (key if key == b"k" else None)
    assert b"whole record stands at this partition and offset" in headers["detail"]
    assert (headers["partition"], headers["offset"]) == (b"0", b"1")
