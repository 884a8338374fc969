"""The rules of a transaction, one by one, over a fake client: what the sink does, in which order, and when it stops.

The client libraries' part of the bargain is in `test_kafka_producer.py` and `test_librdkafka.py`.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from kafka.errors import InvalidReplicationFactorError
from kafka_kit import output

from shoal.sinks.kafka import KafkaSink
from shoal.stream.config import Kafka
from shoal.stream.events import CHANGES, MANIFEST, MEMBERS, REJECTED, OutRecord, Range
from shoal.stream.kafka import admin
from shoal.stream.kafka.port import ClientError
from shoal.stream.manifest import encode_manifest
from shoal.stream.ports import BrokerGone, CommitUnknown, ConfigError

CONFIG = Kafka(topic_prefix="p.", group_id="g", transaction_timeout_ms=10_000, delivery_timeout_ms=4_000)
CHANGE = OutRecord(CHANGES, b"u", b"{}", (("ce_id", b"u:1"),))
STEP = output(1, [CHANGE], [Range(0, 0, 3), Range(2, 5, 9)])


@dataclass(frozen=True)
class Stored:
    offset: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class World:
    """A broker as the sink sees it, the calls that reached it in order, and what goes wrong when."""

    calls: list[str] = field(default_factory=list)
    manifests: list[Stored] = field(default_factory=list)  # committed
    end: int = 0
    pending: list[bytes] = field(default_factory=list)
    now_s: float = 0.0
    fails: dict[str, BaseException] = field(default_factory=dict)  # by the first word of a call
    takes_s: dict[str, float] = field(default_factory=dict)
    loses: bool = False  # commit answers OK, and nothing of it is ever seen

    def call(self, what: str) -> None:
        name = what.split()[0]
        self.calls.append(what)
        self.now_s += self.takes_s.get(name, 0.0)
        if name in self.fails:
            raise self.fails[name]

    def store(self, *values: bytes) -> None:
        """A committed transaction: its records and its marker."""
        for value in values:
            self.manifests.append(Stored(self.end, value))
            self.end += 1
        self.end += 1

    # the clock

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return int(self.now_s * 1e9)

    # the client

    def producer(self) -> FakeProducer:
        self.call("fence")
        return FakeProducer(self)

    def log(self, topic: str) -> FakeLog:
        assert topic == "p." + MANIFEST
        return FakeLog(self)

    # the group

    def member(self) -> str:
        self.call("member")
        return "me"


class FakeProducer:
    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self) -> None:
        self._world.call("begin")

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        partition: int | None,
    ) -> None:
        self._world.call(f"send {topic} {key!r} -> {partition}")
        if topic == "p." + MANIFEST:
            assert value is not None
            self._world.pending.append(value)

    def flush(self, timeout_s: float) -> None:
        self._world.call(f"flush {timeout_s:g}")

    def send_offsets(self, topic: str, offsets: Mapping[int, int], member: Any, timeout_s: float) -> None:
        self._world.call(f"offsets {topic} {dict(offsets)} of {member} {timeout_s:g}")

    def commit(self, timeout_s: float) -> None:
        self._world.call(f"commit {timeout_s:g}")
        if not self._world.loses:
            self._world.store(*self._world.pending)
        self._world.pending = []

    def close(self) -> None:
        self._world.call("close")


class FakeLog:
    def __init__(self, world: World) -> None:
        self._world = world

    def bounds(self) -> dict[int, tuple[int, int]]:
        self._world.call("bounds")
        return {0: (0, self._world.end)}

    def read(self, partition: int, start: int, end: int) -> Iterator[Stored]:
        assert 0 <= start <= end <= self._world.end, "outside of the log"
        self._world.call(f"read [{start}, {end})")
        yield from (m for m in self._world.manifests if start <= m.offset < end)

    def tail(self, partition: int, start: int, timeout_s: float) -> Sequence[Stored]:
        self._world.call(f"tail {start} {timeout_s:g}")
        return [m for m in self._world.manifests if start <= m.offset]

    def close(self) -> None:
        self._world.call("close-log")


def opened(world: World, **settings: Any) -> KafkaSink:
    """A sink that has fenced the others; what it did so far is forgotten."""
    sink = KafkaSink(CONFIG, world, world.member, clock=world, **settings)
    sink.open()
    world.calls.clear()
    return sink


# --- the order of things ---------------------------------------------------------------------------------------


def test_a_transaction_is_sent_flushed_given_its_offsets_and_committed_in_this_order() -> None:
    """It begins when everything is computed and known; the manifest is the last record of all."""
    world = World()
    opened(world).commit(STEP)
    assert world.calls == [
        "member",
        "begin",
        "send p.segment.changes b'u' -> None",
        "send p.shoal.manifest None -> 0",
        "flush 4",
        "offsets p.behavior.events {0: 3, 2: 9} of me 10",
        "commit 10",
    ]


def test_nothing_is_begun_by_an_engine_that_lost_its_place_in_the_group() -> None:
    world = World(fails={"member": CommitUnknown("not a member")})
    with pytest.raises(CommitUnknown, match="not a member"):
        opened(world).commit(STEP)
    assert world.calls == ["member"]


def test_fencing_comes_before_the_manifests_are_read() -> None:
    """The other way round, the one before could still commit behind our back."""
    world = World()
    world.store(encode_manifest(STEP.manifest))
    assert KafkaSink(CONFIG, world, world.member, clock=world).open() == STEP.manifest
    assert world.calls[:2] == ["fence", "bounds"]


def test_what_was_read_while_standing_by_is_asked_again_after_fencing() -> None:
    world = World()
    sink = KafkaSink(CONFIG, world, world.member, clock=world)
    world.store(encode_manifest(output(1).manifest))
    assert sink.last() == output(1).manifest
    world.manifests = [Stored(0, encode_manifest(STEP.manifest))]  # a topic created again, of the same length
    assert sink.open() == STEP.manifest


def test_a_step_without_input_commits_no_positions() -> None:
    world = World()
    opened(world).commit(output(1))
    assert not any(call.startswith("offsets") for call in world.calls)
    assert world.calls[-1].startswith("commit")


def test_keys_choose_the_partition_and_what_has_none_goes_to_the_first_one() -> None:
    world = World()
    records = [
        OutRecord(MEMBERS, b"k", None),
        OutRecord(REJECTED, None, b"v"),
        OutRecord(REJECTED, None, None),
    ]
    opened(world).commit(output(1, records))
    assert [call for call in world.calls if call.startswith("send")] == [
        "send p.segment.members b'k' -> None",
        "send p.behavior.rejected None -> 0",
        "send p.behavior.rejected None -> 0",
        "send p.shoal.manifest None -> 0",
    ]


def test_bytes_in_flight_are_bounded_and_the_step_stays_one_transaction() -> None:
    """Every part is stored on the broker before the next one is handed over."""
    world = World()
    records = [
        OutRecord(CHANGES, b"k%d" % i, b"x" * size) for i, size in enumerate([38, 38, 38, 38, 500, 38])
    ]
    opened(world, bytes_max=100).commit(output(1, records))
    sent = [call.split()[0] for call in world.calls[1:]]
    assert sent == [
        "begin", "send", "send", "flush", "send", "send", "flush", "send", "flush", "send", "send", "flush", "commit",
    ]  # fmt: skip


# --- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["begin", "send", "flush", "offsets", "commit"])
def test_after_any_error_the_outcome_is_unknown_and_the_producer_is_never_used_again(when: str) -> None:
    """No retry, no abort, no next step: a restart reads what is true."""
    world = World(fails={when: ClientError("KafkaError: broken")})
    sink = opened(world)
    with pytest.raises(CommitUnknown, match=r"step 1.*KafkaError: broken") as caught:
        sink.commit(STEP)
    assert not caught.value.broker_away
    assert world.calls[-1].split()[0] == when
    world.fails = {}
    so_far = len(world.calls)
    with pytest.raises(AssertionError, match="never used again"):
        sink.commit(STEP)
    sink.confirm()
    sink.close()
    assert world.calls[so_far:] == ["close", "close-log"]


def test_an_error_that_waiting_may_cure_says_so() -> None:
    world = World(fails={"flush": ClientError("KafkaTimeoutError", away=True)})
    with pytest.raises(CommitUnknown) as caught:
        opened(world).commit(STEP)
    assert caught.value.broker_away


def test_a_fenced_engine_is_told_who_took_over_and_does_not_come_back_by_itself() -> None:
    world = World(fails={"commit": ClientError("ProducerFencedError", away=True, fenced=True)})
    with pytest.raises(CommitUnknown, match="another engine took over transactional id 'shoal-g'") as caught:
        opened(world).commit(STEP)
    assert not caught.value.broker_away


def test_a_bug_in_between_leaves_the_producer_unusable_too() -> None:
    world = World(fails={"flush": ZeroDivisionError()})
    sink = opened(world)
    with pytest.raises(ZeroDivisionError):
        sink.commit(STEP)
    with pytest.raises(AssertionError, match="never used again"):
        sink.commit(STEP)


# --- time ------------------------------------------------------------------------------------------------------


def test_what_remains_of_the_transactions_time_bounds_its_last_calls() -> None:
    world = World(takes_s={"flush": 3.0, "offsets": 2.0})
    opened(world).commit(STEP)
    assert world.calls[-2].endswith(" of me 7")
    assert world.calls[-1] == "commit 5"


@pytest.mark.parametrize("when", ["begin", "send", "flush", "offsets"])
def test_a_transaction_whose_time_is_over_is_not_committed_any_more(when: str) -> None:
    """The broker gave it up; positions sent now could become part of another one."""
    world = World(takes_s={when: 11.0})
    with pytest.raises(CommitUnknown, match=r"took .* s, kafka.transaction_timeout_ms is 10 s") as caught:
        opened(world).commit(STEP)
    assert caught.value.broker_away
    names = [call.split()[0] for call in world.calls]
    assert "commit" not in names
    assert ("offsets" in names) == (when == "offsets")


def test_a_commit_that_took_too_long_is_not_believed_although_it_reports_success() -> None:
    world = World(takes_s={"commit": 11.0})
    sink = opened(world)
    with pytest.raises(CommitUnknown, match="whatever the commit says"):
        sink.commit(STEP)
    with pytest.raises(AssertionError, match="never used again"):
        sink.commit(output(2))


# --- reading back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked_by", ["confirm", "commit", "last", "manifests"])
def test_a_commit_that_reported_success_and_is_in_no_log_is_found_out(asked_by: str) -> None:
    """The dangerous case. The next thing anybody asks raises; nothing further is ever sent."""
    world = World(loses=True)
    sink = opened(world)
    sink.commit(STEP)
    world.calls.clear()
    ask = {
        "confirm": sink.confirm,
        "commit": lambda: sink.commit(output(2, [CHANGE])),
        "last": sink.last,
        "manifests": lambda: list(sink.manifests()),
    }[asked_by]
    with pytest.raises(CommitUnknown, match=r"step 1: its commit was reported as done.*within 4 s") as caught:
        ask()
    assert caught.value.broker_away, "a restart decides, by itself"
    assert world.calls == ["tail 0 4"]
    with pytest.raises(AssertionError, match="never used again"):
        sink.commit(output(2))
    sink.confirm()
    sink.close()
    assert world.calls == ["tail 0 4", "close", "close-log"]


@pytest.mark.parametrize("other", [output(1, ranges=[Range(0, 0, 4)]), output(2)], ids=["bytes", "step"])
def test_a_manifest_of_another_engine_in_our_place_is_found_out(other: Any) -> None:
    world = World(loses=True)
    sink = opened(world)
    sink.commit(STEP)
    world.store(encode_manifest(other.manifest))
    with pytest.raises(CommitUnknown, match="other bytes at offset 0: another engine took over") as caught:
        sink.confirm()
    assert not caught.value.broker_away


def test_a_step_is_read_back_before_the_next_one_begins() -> None:
    """One look, where the last one ended, and before the group is asked; the first step has none before it."""
    world = World()
    sink = opened(world)
    sink.commit(STEP)
    sink.commit(output(2))
    sink.commit(output(3))
    looked = [i for i, call in enumerate(world.calls) if call.startswith("tail")]
    assert [world.calls[i : i + 3] for i in looked] == [
        ["tail 0 4", "member", "begin"],
        ["tail 1 4", "member", "begin"],
    ]


def test_confirming_asks_nobody_when_nothing_is_open() -> None:
    world = World()
    sink = opened(world)
    sink.confirm()
    assert world.calls == []
    sink.commit(STEP)
    sink.confirm()
    world.calls.clear()
    sink.confirm()
    assert world.calls == []


def test_the_last_step_of_all_is_read_back_at_the_end_and_only_briefly_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(loses=True)
    sink = opened(world)
    sink.commit(STEP)
    world.calls.clear()
    with caplog.at_level(logging.WARNING, "shoal"):
        sink.close()
    assert world.calls == ["tail 0 0.5", "close", "close-log"]
    assert "step 1: its commit was reported as done" in caplog.text
    assert "next start" in caplog.text


@pytest.mark.parametrize("error", [BrokerGone("away"), ClientError("broken", away=True)])
def test_closing_ends_all_connections_also_when_the_last_look_fails(error: Exception) -> None:
    world = World()
    sink = opened(world)
    sink.commit(STEP)
    world.fails["tail"] = error
    sink.close()
    assert world.calls[-2:] == ["close", "close-log"]


# --- following -------------------------------------------------------------------------------------------------


def test_following_the_manifests_goes_on_where_it_ended_and_reads_nothing_twice() -> None:
    world = World()
    sink = KafkaSink(CONFIG, world, None)
    for step in range(1, 500):
        world.store(encode_manifest(output(step).manifest))
    assert sink.last() == output(499).manifest
    assert [m.step for m in sink.manifests(after=490)] == list(range(491, 500))
    world.calls.clear()
    assert sink.last() == output(499).manifest
    assert list(sink.manifests(after=499)) == []
    world.store(encode_manifest(output(500).manifest))
    assert sink.last() == output(500).manifest
    assert [m.step for m in sink.manifests(after=499)] == [500]
    read = [call for call in world.calls if call != "bounds"]
    assert read == ["read [997, 998)", "read [998, 1000)", "read [997, 1000)"]
    assert world.calls.count("bounds") == 4


def test_a_follower_that_stopped_in_the_middle_goes_on_there() -> None:
    """It computes for a while, tells its group that it lives, and comes back."""
    world = World()
    sink = KafkaSink(CONFIG, world, None)
    for step in range(1, 6):
        world.store(encode_manifest(output(step).manifest))
    found = sink.manifests()
    assert [next(found).step, next(found).step] == [1, 2]
    world.calls.clear()
    assert [m.step for m in sink.manifests(after=2)] == [3, 4, 5]
    assert world.calls == ["bounds", "read [3, 10)"]


def test_a_manifest_topic_that_became_shorter_is_read_afresh() -> None:
    """Created again under a follower: what it remembers of the old one is worth nothing."""
    world = World()
    sink = KafkaSink(CONFIG, world, None)
    for step in range(1, 6):
        world.store(encode_manifest(output(step).manifest))
    assert len(list(sink.manifests())) == 5
    assert sink.last() == output(5).manifest
    world.manifests, world.end = [], 0
    assert sink.last() is None
    world.store(encode_manifest(output(1).manifest))
    assert sink.last() == output(1).manifest
    assert list(sink.manifests(after=5)) == []


def test_a_reader_can_neither_fence_nor_commit() -> None:
    world = World()
    sink = KafkaSink(CONFIG, world, None)
    with pytest.raises(AssertionError):
        sink.commit(STEP)
    assert list(sink.manifests()) == []
    sink.close()
    assert world.calls == ["bounds", "close-log"]


def test_the_rules_name_no_client_library() -> None:
    """They hold with any: neither of the two is loaded with them."""
    look = "import sys, shoal.sinks.kafka; print({'kafka', 'confluent_kafka'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@dataclass
class ComingUp:
    """An admin client of a broker that takes no replicas the first few times."""

    refusals: int
    asked: int = 0

    def create_topics(self, request: Mapping[str, Any]) -> None:
        self.asked += 1
        if self.asked <= self.refusals:
            raise InvalidReplicationFactorError("larger than available brokers: 0")

    def wait_for_topics(self, names: Sequence[str]) -> None:
        pass


def test_a_broker_that_has_only_just_come_up_is_asked_again(monkeypatch):
    """It is there and has no place for a replica yet; one that never has is refused with what to check."""
    monkeypatch.setattr(admin, "_PAUSE_S", 0.0)
    young: Any = ComingUp(refusals=3)
    admin.create(young, admin.wanted(CONFIG), CONFIG)
    assert young.asked == 4
    monkeypatch.setattr(admin, "_COMING_UP_S", 0.0)
    with pytest.raises(ConfigError, match=r"could not be created.*kafka\.replication_factor"):
        admin.create(ComingUp(refusals=99), admin.wanted(CONFIG), CONFIG)  # type: ignore[arg-type]
