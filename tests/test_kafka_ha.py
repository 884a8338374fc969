"""Several engines with one configuration on a real broker: one works, the others take over in time.

Takeover is measured from the signal to the first step that the next engine committed, as a read_committed
subscriber of the manifests sees it, while events keep coming. Every test ends with `shoal verify`.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from broker import Broker
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka_kit import create_topics, eventually, kafka_config, read_committed
from processes import Engine, engine, shoal, write_config

from shoal.stream.config import Kafka
from shoal.stream.events import CHANGES, MANIFEST
from shoal.stream.kafka.group import Beside
from shoal.stream.kafka.port import Client, ClientError
from shoal.stream.kafka.producer import PythonClient
from shoal.stream.kafka.source import KafkaSource
from shoal.stream.librdkafka.producer import LibrdkafkaClient
from shoal.stream.ports import CommitUnknown, StateMismatch

pytestmark = pytest.mark.kafka

SESSION_S = 3.0
WORKS = "this engine works"
STANDS_BY = "standing by"
WARM = 30  # steps after which a standby that just came has compiled its kernels and caught up
SMALL: dict[str, dict[str, Any]] = {
    "encoder": {"kind": "identity"},
    "segmenter": {"warmup_rows": 20, "segments": 4},
}


# --- what runs beside the engines ---------------------------------------------------------------------------


class Flow:
    """Events of 200 users, about 500 a second, until the block ends."""

    def __init__(self, config: Kafka) -> None:
        self._config = config
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Flow:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)

    def _send(self) -> None:
        producer = KafkaProducer(bootstrap_servers=self._config.bootstrap_servers)
        topic, sent = self._config.topic_prefix + self._config.events_topic, 0
        while not self._ended.wait(0.02):
            for i in range(sent, sent + 10):
                user = b"%d" % (i * 7919 % 200)
                producer.send(topic, key=user, value=_event(i, user.decode()))
            sent += 10
        producer.close(5)


def _event(i: int, user: str) -> bytes:
    now_ms = int(time.time() * 1000)
    item = {"id": f"item-{i * 31 % 40}", "category": [f"c{i % 5}"]}
    event = {"event_id": f"{i}", "type": "view", "user_id": user, "event_time": now_ms, "items": [item]}
    return json.dumps(event).encode()


@dataclass(frozen=True)
class Commit:
    """A committed step: when its manifest was written, and when a subscriber saw it, both wall clock."""

    step: int
    epoch: int
    written_s: float
    seen_s: float


class Steps:
    """Follows the committed manifests until the block ends."""

    def __init__(self, config: Kafka) -> None:
        self._config = config
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.seen: list[Commit] = []

    def __enter__(self) -> Steps:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)

    def _follow(self) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self._config.bootstrap_servers, isolation_level="read_committed"
        )
        manifests = TopicPartition(self._config.topic_prefix + MANIFEST, 0)
        consumer.assign([manifests])
        consumer.seek_to_beginning(manifests)
        while not self._ended.is_set():
            for record in consumer.poll(50).get(manifests, []):
                body = json.loads(record.value)
                self.seen.append(Commit(body["step"], body["epoch"], record.timestamp / 1000, time.time()))
        consumer.close()

    def more(self, count: int = 5, within_s: float = 30.0) -> None:
        """Wait until that many further steps are committed."""
        wanted = len(self.seen) + count
        eventually(lambda: len(self.seen) >= wanted, within_s)

    def first_after(self, since_s: float) -> Commit:
        """The first step that was begun after that moment."""
        return eventually(lambda: next((c for c in self.seen if c.written_s > since_s), None))

    def longest_gap_s(self, since_s: float) -> float:
        seen = [c.seen_s for c in self.seen if c.seen_s > since_s]
        return max(b - a for a, b in pairwise(seen))


class Engines:
    """Engines of one group, each a process with a log and a state folder of its own."""

    def __init__(self, folder: Path, config: Kafka, stack: ExitStack) -> None:
        self._folder = folder
        self.config = config
        self._stack = stack
        self.running: list[Engine] = []

    def start(self, count: int, *arguments: str) -> list[Engine]:
        """Further engines, once each says that it works or stands by."""
        started = [self.begin(*arguments) for _ in range(count)]
        for one in started:
            eventually(lambda one=one: WORKS in one.text() or STANDS_BY in one.text() or one.must_run(), 40)
        return started

    def begin(self, *arguments: str, **sections: dict[str, Any]) -> Engine:
        name = f"engine-{len(list(self._folder.glob('*.toml')))}"
        state = {"engine": {"state_dir": str(self._folder / name), "snapshot_every_steps": 20}}
        path = write_config(self._folder / f"{name}.toml", self.config, **(SMALL | state | sections))
        started = self._stack.enter_context(engine(path, self._folder / f"{name}.log", arguments))
        self.running.append(started)
        return started

    def leader(self) -> Engine:
        """The one that works now."""
        return eventually(lambda: next((e for e in self.running if WORKS in e.text()), None))

    def end(self, which: Engine) -> None:
        self.running.remove(which)

    def verify(self) -> None:
        for one in self.running:
            one.signal(signal.SIGTERM)
        for one in self.running:
            assert one.ends() == 0, one.text()[-3000:]
        path = next(self._folder.glob("*.toml"))
        verified = shoal("verify", "--config", str(path), "--json", PYTHONHASHSEED="4711")
        assert verified.returncode == 0, verified.stderr
        assert json.loads(verified.stdout)["same"] is True
        steps = [json.loads(record.value)["step"] for record in read_committed(self.config, MANIFEST)]
        assert steps == list(range(1, len(steps) + 1))


@pytest.fixture
def config(broker: Broker) -> Kafka:
    return create_topics(kafka_config(broker, session_timeout_ms=int(1000 * SESSION_S)))


@pytest.fixture
def engines(tmp_path: Path, config: Kafka) -> Iterator[Engines]:
    with ExitStack() as stack:
        yield Engines(tmp_path, config, stack)


def takeover_s(engines: Engines, steps: Steps, end: Callable[[Engine], float]) -> float:
    """From the signal to the leader (`end`; it returns when the leader was gone) to the next one's first step."""
    leader = engines.leader()
    engines.end(leader)
    signalled_s = time.time()
    gone_s = end(leader)
    first = steps.first_after(gone_s)
    return first.seen_s - signalled_s


def killed(leader: Engine) -> float:
    leader.kill()
    return time.time()


def terminated(leader: Engine) -> float:
    leader.signal(signal.SIGTERM)
    assert leader.ends() == 0, leader.text()[-3000:]
    return time.time()


# --- takeover -----------------------------------------------------------------------------------------------


def test_the_next_of_three_engines_takes_over_in_time_after_a_kill_and_after_a_stop(
    config: Kafka, engines: Engines
) -> None:
    """Within session timeout + 2 s after SIGKILL, within 2 s after SIGTERM, the last standby included."""
    with Flow(config), Steps(config) as steps:
        engines.start(3)
        steps.more(WARM)
        after_kill_s = takeover_s(engines, steps, killed)
        steps.more(WARM)
        after_stop_s = takeover_s(engines, steps, terminated)
        steps.more()
    print(f"takeover: {after_kill_s:.2f} s after SIGKILL, {after_stop_s:.2f} s after SIGTERM")
    assert after_kill_s < SESSION_S + 2
    assert after_stop_s < 2
    engines.verify()


def test_engines_that_were_frozen_beyond_the_session_timeout_do_no_harm_when_they_wake(
    config: Kafka, engines: Engines
) -> None:
    """A standby: the leader does not even pause, and it stands by again. The leader: replaced in time; awake
    again it commits nothing, ends or starts again, and can be the next one."""
    with Flow(config), Steps(config) as steps:
        engines.start(2)
        first = engines.leader()
        second = next(one for one in engines.running if one is not first)
        steps.more(WARM)
        frozen_s = time.time()
        with frozen(second):
            eventually(lambda: members(config) == 1)
            steps.more(WARM)
        eventually(lambda: members(config) == 2)
        steps.more(WARM)
        assert steps.longest_gap_s(frozen_s) < 1.5
        assert WORKS not in second.text()

        frozen_s = time.time()
        with frozen(first):
            took_over = steps.first_after(frozen_s + SESSION_S / 2)
            second.says(WORKS)
            steps.more()
        print(f"takeover: {took_over.seen_s - frozen_s:.2f} s after SIGSTOP")
        assert took_over.seen_s - frozen_s < SESSION_S + 2
        eventually(lambda: first.process.poll() is not None or first.text().count(STANDS_BY))
        assert first.process.poll() in (None, CommitUnknown.exit_code), first.text()[-3000:]
        if first.process.poll() is not None:
            engines.end(first)
            engines.start(1)
        eventually(lambda: members(config) == 2)
        steps.more(WARM)
        second.kill()
        engines.end(second)
        steps.first_after(time.time())
    engines.verify()


def test_a_standby_may_come_before_the_first_step_and_not_with_another_configuration(
    config: Kafka, engines: Engines
) -> None:
    """With nothing recorded it waits for the first step; one that could not go on says so at once, exit code 7.

    A stop is noticed in time also where the session timeout is long.
    """
    engines.config = msgspec.structs.replace(config, session_timeout_ms=10_000)
    engines.start(2)
    assert sum(STANDS_BY in one.text() for one in engines.running) == 1
    with Flow(config), Steps(config) as steps:
        steps.more(WARM)
        other = engines.begin(segmenter=SMALL["segmenter"] | {"segments": 5})
        assert other.ends() == StateMismatch.exit_code, other.text()[-3000:]
        assert "--fresh-state" in other.text()
        engines.end(other)
        after_stop_s = takeover_s(engines, steps, terminated)
        steps.more()
    print(f"takeover: {after_stop_s:.2f} s after SIGTERM")
    assert after_stop_s < 2
    engines.verify()


def test_a_new_epoch_begins_once_however_many_engines_were_told_to_begin_it(
    config: Kafka, engines: Engines
) -> None:
    """The first to work begins it; the other one follows it over the border, and goes on in it."""
    with Flow(config), Steps(config) as steps:
        engines.start(1)
        engines.start(2, "--fresh-state=2")
        steps.more(WARM)
        assert {step.epoch for step in steps.seen} == {1}
        takeover_s(engines, steps, terminated)
        steps.more(WARM)
        takeover_s(engines, steps, killed)
        steps.more()
        assert sum(a.epoch != b.epoch for a, b in pairwise(steps.seen)) == 1
        assert steps.seen[-1].epoch == 2
    engines.verify()


@contextmanager
def frozen(one: Engine) -> Iterator[None]:
    one.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        one.signal(signal.SIGCONT)


def members(config: Kafka) -> int:
    """How many engines the group counts, in a settled state."""
    with KafkaAdminClient(bootstrap_servers=config.bootstrap_servers) as admin:
        group = admin.describe_groups([config.group_id])[config.group_id]
    return len(group["members"]) if group["group_state"] == "Stable" else 0


# --- the group, beside a turn of following -------------------------------------------------------------------


def test_a_long_turn_of_following_keeps_the_group_waiting_for_nobody(config: Kafka) -> None:
    """While a standby loads a snapshot the group goes on: here it is even given the work meanwhile."""
    working, standby = KafkaSource(config), KafkaSource(config)
    assert working.open(lambda: False)
    working.seek({})
    loading, loaded, works = threading.Event(), threading.Event(), threading.Event()

    def follow() -> None:
        loading.set()
        loaded.wait(30)

    def stand_by() -> None:
        standby.open(lambda: False, follow)
        works.set()

    threading.Thread(target=stand_by, daemon=True).start()
    while not loading.is_set():
        working.poll(10, 0.1)
    working.close()
    eventually(lambda: standby._ownership.partitions == {0, 1}, SESSION_S)
    assert not works.is_set()
    loaded.set()
    assert works.wait(2)
    standby.close()


def test_what_fails_beside_a_block_is_raised_at_its_end_and_the_blocks_own_failure_goes_first() -> None:
    called = threading.Event()

    def fail() -> None:
        called.set()
        raise TimeoutError("beside")

    with pytest.raises(TimeoutError), Beside(fail):
        assert called.wait(5)
    with pytest.raises(ZeroDivisionError), Beside(fail):
        raise ZeroDivisionError


# --- who was replaced, and does not know it -------------------------------------------------------------------


@pytest.mark.parametrize("client", [PythonClient, LibrdkafkaClient])
def test_a_producer_that_was_fenced_leaves_the_transaction_of_its_successor_alone(
    config: Kafka, client: Callable[[Kafka], Client]
) -> None:
    """The library would ask for a new epoch of its own; that aborts what the successor is in the middle of."""
    topic = config.topic_prefix + CHANGES
    zombie = client(config).producer()
    zombie.begin()
    zombie.send(topic, b"k", b"zombie", [], 0)
    zombie.flush(10)
    successor = client(config).producer()
    successor.begin()
    successor.send(topic, b"k", b"successor", [], 0)
    successor.flush(10)
    zombie.send(topic, b"k", b"zombie again", [], 0)
    with pytest.raises(ClientError) as caught:
        zombie.flush(10)
    assert caught.value.fenced
    zombie.close()
    successor.commit(10)
    successor.close()
    assert [record.value for record in read_committed(config, CHANGES)] == [b"successor"]
