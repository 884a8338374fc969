"""Kafka, the parts that no contract covers: topics, the group, transactions, secrets."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from broker import PASSWORD, USER, Broker
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment
from kafka.structs import MemberState
from kafka_kit import (
    create_topics,
    eventually,
    kafka_config,
    kafka_sink,
    kafka_source,
    nobody,
    output,
    read_committed,
    send,
)
from processes import engine, shoal, write_config

from shoal.sinks.kafka import KafkaSink
from shoal.stream.config import Kafka
from shoal.stream.events import CHANGES, MANIFEST, MEMBERS, REJECTED, OutRecord, Range
from shoal.stream.kafka.admin import REJECTED_MAX_BYTES, wanted
from shoal.stream.kafka.client import wait_for_broker
from shoal.stream.kafka.group import OneOwner, Ownership, choose, keep_joining
from shoal.stream.kafka.settings import PASSWORD_VARIABLE, Secret, input_topic, settings, transactional_id
from shoal.stream.ports import BrokerGone, CommitUnknown, ConfigError, Phase, SourceGone, TopicsMissing
from shoal.stream.wiring import kafka_library

kafka = pytest.mark.kafka


def both(test: Callable[..., None]) -> Callable[..., None]:
    """Against a real broker, with each client library."""
    return kafka(pytest.mark.usefixtures("client")(test))


@contextmanager
def opened(source: Any) -> Iterator[Any]:
    try:
        assert source.open(lambda: False)
        source.seek({})
        yield source
    finally:
        source.close()


@contextmanager
def sink_of(config: Kafka, **settings: Any) -> Iterator[KafkaSink]:
    sink = kafka_sink(config, **settings)
    try:
        sink.open()
        yield sink
    finally:
        sink.close()


def poll_some(source: Any, count: int = 1) -> list[Any]:
    """(partition, offset, value) of at least `count` records."""
    found: list[Any] = []
    for _ in range(200):
        records, _ranges = source.poll(1000, 0.1) or (None, ())
        if records is not None:
            rows = zip(records.partitions.tolist(), records.offsets.tolist(), records.values, strict=True)
            found += list(rows)
        if len(found) >= count:
            return found
    raise AssertionError(f"{len(found)} of {count} records came")


def poll_for_ever(source: Any) -> None:
    for _ in range(300):
        source.poll(10, 0.1)


# --- who works -------------------------------------------------------------------------------------------


@examples(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(0, 5), min_size=1, max_size=6))
def test_exactly_one_member_gets_all_partitions(owned: dict[str, int]) -> None:
    """The assignor's law, whoever owned what before."""
    topic = SimpleNamespace(partitions_for_topic=lambda name: {2, 0, 1})
    members = [
        SimpleNamespace(member_id=member, metadata=_subscription(count)) for member, count in owned.items()
    ]
    assigned = OneOwner().assign(topic, members)
    given_to = [member for member, assignment in assigned.items() if assignment.partitions()]
    assert len(given_to) == 1
    assert [tp.partition for tp in assigned[given_to[0]].partitions()] == [0, 1, 2]
    assert set(assigned) == set(owned)


def _subscription(count: int) -> Any:
    owner = OneOwner()
    owner.on_assignment(ConsumerProtocolAssignment(1, [("t", list(range(count)))], b""), 1)
    return owner.metadata(["t"])


@given(st.sets(st.text(max_size=5), max_size=6), st.text(max_size=5))
def test_the_member_that_works_keeps_its_work_whoever_comes(others: set[str], owner: str) -> None:
    assert choose({**dict.fromkeys(sorted(others), (0, True)), owner: (4, False)}) == owner


@given(st.sets(st.text(max_size=5), max_size=6), st.text(max_size=5))
def test_who_followed_to_the_last_steps_goes_before_who_only_just_came(cold: set[str], warm: str) -> None:
    """What a member says about itself reaches the one that assigns."""
    members = []
    for member in sorted(cold | {warm}):
        assignor = OneOwner()
        assignor.warm = member == warm
        members.append(SimpleNamespace(member_id=member, metadata=assignor.metadata(["t"])))
    topic = SimpleNamespace(partitions_for_topic=lambda name: {0})
    assigned = OneOwner().assign(topic, members)
    assert [member for member, assignment in assigned.items() if assignment.partitions()] == [warm]


@both
def test_a_second_engine_stands_by_and_takes_over_when_the_first_one_leaves(broker: Broker) -> None:
    """The first one goes on undisturbed, also its commits; nothing is read twice by the group's own doing."""
    config = create_topics(kafka_config(broker))
    first = kafka_source(config)
    phases: list[Phase] = []
    second = kafka_source(config, on_phase=phases.append)
    works = threading.Event()
    with opened(first):
        waiting = threading.Thread(target=lambda: second.open(lambda: False) and works.set(), daemon=True)
        waiting.start()
        eventually(lambda: first.poll(10, 0.05) and Phase.STANDBY in phases)
        assert not works.is_set()
        send(config, [(0, None, b"a"), (1, None, b"b")])
        assert {value for _, _, value in poll_some(first, 2)} == {b"a", b"b"}
        sink = kafka_sink(config, first.group_metadata)
        sink.open()
        sink.commit(output(1, (), [Range(0, 0, 1), Range(1, 0, 1)]))
        sink.close()
        assert not works.is_set()
    assert works.wait(10)
    second.seek({0: 1})
    assert [value for _, _, value in poll_some(second)] == [b"b"]
    second.close()


@both
def test_an_engine_that_stands_by_can_be_told_to_stop(broker: Broker) -> None:
    config = create_topics(kafka_config(broker))
    with opened(kafka_source(config)) as first:
        stopping = threading.Event()
        second = kafka_source(config, on_phase=lambda phase: stopping.set())
        answers: list[bool] = []
        thread = threading.Thread(target=lambda: answers.append(second.open(stopping.is_set)), daemon=True)
        thread.start()
        eventually(lambda: first.poll(10, 0.05) and answers)
        assert answers == [False]
        second.close()


@both
def test_an_engine_that_lost_its_place_in_the_group_ends(broker: Broker) -> None:
    """Crash-only: neither poll nor commit goes on as if nothing had happened."""
    config = create_topics(kafka_config(broker))
    with opened(kafka_source(config)) as source:
        member = source.group_metadata().member_id
        with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
            admin.remove_group_members(config.group_id, [MemberToRemove(member_id=member)])
        with pytest.raises(CommitUnknown, match="silent for longer"):
            poll_for_ever(source)
        with pytest.raises(CommitUnknown):
            source.group_metadata()


# --- topics ----------------------------------------------------------------------------------------------


def test_the_contract_compacts_state_and_keeps_manifests_for_ever() -> None:
    topics = {topic.name: topic for topic in wanted(Kafka(topic_prefix="p.", partitions=6))}
    assert topics["p.segment.members"].policy == topics["p.segment.catalog"].policy == "compact"
    assert topics["p.segment.changes"].policy == topics["p.shoal.manifest"].policy == "delete"
    assert topics["p.shoal.manifest"].partitions == 1
    assert topics["p.shoal.manifest"].configs["retention.ms"] == "-1"
    assert topics["p.behavior.events"].partitions == 6


@both
def test_missing_topics_are_named_with_the_commands_that_create_them(broker: Broker) -> None:
    config = kafka_config(broker)
    with pytest.raises(TopicsMissing) as caught:
        kafka_source(config).open(lambda: False)
    text = str(caught.value)
    for topic in wanted(config):
        assert (f"--topic {topic.name} " in text) is not topic.optional
    assert f"kafka-topics.sh --bootstrap-server {broker.address} --create" in text
    assert "--config cleanup.policy=compact" in text
    assert "shoal run --create-topics" in text
    assert "kafka.create_topics" in text


@both
def test_topics_are_created_as_the_contract_wants_them_when_asked_to(broker: Broker) -> None:
    config = kafka_config(broker, create_topics=True, partitions=3)
    source = kafka_source(config)
    assert source.open(lambda: False)
    source.close()
    names = {topic.name: topic for topic in wanted(config)}
    with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
        found = {topic["name"]: topic for topic in admin.describe_topics(list(names))}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        configs = admin.describe_configs(resources, config_filter="all")["topic"]
    for name, topic in names.items():
        assert len(found[name]["partitions"]) == topic.partitions
        assert {key: configs[name][key]["value"] for key in topic.configs} == dict(topic.configs)


@both
def test_an_engine_does_not_take_a_topic_that_was_created_again_for_the_old_one(
    broker: Broker, tmp_path: Path
) -> None:
    """Same name, same number of records: only the manifest still knows the difference. Exit code 5."""
    config = create_topics(kafka_config(broker))
    path = write_config(tmp_path / "shoal.toml", config, encoder={"kind": "identity"})
    send(config, [(0, None, b"old")])
    with engine(path, tmp_path / "log") as running:
        eventually(lambda: read_committed(config, MANIFEST) or running.must_run(), 40)
    name = wanted(config)[0].name
    with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
        admin.delete_topics([name])
        eventually(lambda: admin.describe_topics([name])[0]["error_code"] == 3)
    create_topics_again(config, name)
    send(config, [(0, None, b"new")])
    ended = shoal("run", "--config", str(path))
    assert ended.returncode == SourceGone.exit_code == 5, ended.stderr
    assert "created again" in ended.stderr
    assert len(read_committed(config, MANIFEST)) == 1


def create_topics_again(config: Kafka, name: str) -> None:
    with KafkaAdminClient(bootstrap_servers=config.bootstrap_servers) as admin:
        admin.create_topics({name: {"num_partitions": config.partitions, "replication_factor": 1}})
        admin.wait_for_topics([name])


@both
def test_a_topic_that_is_deleted_while_it_is_read_stops_the_engine(broker: Broker) -> None:
    config = create_topics(kafka_config(broker))
    with opened(kafka_source(config)) as source:
        with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
            admin.delete_topics([wanted(config)[0].name])
        with pytest.raises(SourceGone, match="deleted while it was read"):
            poll_for_ever(source)


@both
def test_records_that_were_deleted_before_they_were_read_stop_the_engine(broker: Broker) -> None:
    """Retention overtook us: at seek, at replay and while polling, never a silent jump."""
    config = create_topics(kafka_config(broker))
    send(config, [(0, None, b"%d" % i) for i in range(10)])
    with opened(kafka_source(config)) as source:
        poll_some(source, 10)
        with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
            admin.delete_records({TopicPartition(wanted(config)[0].name, 0): 5})
        with pytest.raises(SourceGone, match=r"\[5, 10\)"):
            source.seek({0: 2})
        with pytest.raises(SourceGone, match="read before"):
            source.read((Range(0, 4, 6),))
        with pytest.raises(SourceGone, match="partition 7"):
            source.read((Range(7, 0, 1),))
        assert list(source.read((Range(0, 5, 7),)).values) == [b"5", b"6"]


# --- what is read ----------------------------------------------------------------------------------------


@both
def test_transactions_of_producers_are_read_whole_or_not_at_all(broker: Broker) -> None:
    """Aborted records are nobody's input; markers belong to ranges, so ranges tile and lag ends at zero."""
    config = create_topics(kafka_config(broker))
    send(config, [(0, None, b"plain")])
    send(config, [(0, None, b"in 1"), (0, None, b"in 2")], transactional_id=config.topic_prefix + "in")
    aborted = KafkaProducer(bootstrap_servers=broker.address, transactional_id=config.topic_prefix + "out")
    aborted.init_transactions()
    aborted.begin_transaction()
    aborted.send(wanted(config)[0].name, b"never", partition=0)
    aborted.flush()
    aborted.abort_transaction()
    aborted.close()
    send(config, [(0, None, b"end")])
    with opened(kafka_source(config)) as source:
        polled = []
        while sum(len(records) for records, _ in polled) < 4:
            polled.append(source.poll(2, 0.1) or (None, ()))
        assert [v for records, _ in polled for v in records.values] == [b"plain", b"in 1", b"in 2", b"end"]
        ranges = [r for _, ranges in polled for r in ranges if r.partition == 0]
        assert [r.start for r in ranges[1:]] == [r.end for r in ranges[:-1]]
        assert ranges[-1].end == 7  # 4 records, 1 aborted, 2 markers
        for records, recorded in polled:
            assert list(source.read(recorded).values) == list(records.values)
        assert source.lag()[0] == 0


@both
def test_records_deleted_from_a_partition_before_any_was_read_are_missed_too(broker: Broker) -> None:
    """The first step says where every partition begins, so a restart sees what retention took since."""
    config = create_topics(kafka_config(broker))
    send(config, [(0, None, b"a")])
    with opened(kafka_source(config)) as source:
        first = eventually(lambda: (polled := source.poll(10, 5.0)) and polled[1] and polled)
        assert first[1] == (Range(0, 0, 1), Range(1, 0, 0))
        assert list(source.read(first[1]).values) == [b"a"]
        send(config, [(1, None, b"b"), (1, None, b"c")])
        with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
            admin.delete_records({TopicPartition(wanted(config)[0].name, 1): 1})
        with pytest.raises(SourceGone, match=r"partition 1.*\[1, 2\)"):
            source.seek({r.partition: r.end for r in first[1]})


@both
def test_a_traceparent_of_absurd_size_does_not_swell_the_outputs(broker: Broker) -> None:
    config = create_topics(kafka_config(broker))
    producer = KafkaProducer(bootstrap_servers=broker.address)
    producer.send(wanted(config)[0].name, b"x", partition=0, headers=[("traceparent", b"0" * 500_000)])
    producer.close()
    source = kafka_source(config)
    assert source.read((Range(0, 0, 1),)).traceparents == {}
    source.close()


@both
def test_traceparents_pass_through(broker: Broker) -> None:
    config = create_topics(kafka_config(broker))
    producer = KafkaProducer(bootstrap_servers=broker.address)
    name = wanted(config)[0].name
    producer.send(name, b"x", partition=0)
    producer.send(name, b"y", partition=0, headers=[("traceparent", b"00-1"), ("other", b"z")])
    producer.close()
    with opened(kafka_source(config)) as source:
        assert source.read((Range(0, 0, 2),)).traceparents == {1: b"00-1"}


# --- transactions ----------------------------------------------------------------------------------------

CHANGE = OutRecord(CHANGES, b"u", b"{}", (("ce_id", b"u:1"),))
TOO_LARGE = OutRecord(REJECTED, b"k", b"x" * (REJECTED_MAX_BYTES + 1))


@both
def test_a_step_that_fails_half_way_leaves_nothing_behind(broker: Broker) -> None:
    """The first half was stored on the broker already; no subscriber, offset or manifest ever shows it."""
    config = create_topics(kafka_config(broker))
    sink = kafka_sink(config, bytes_max=100)
    sink.open()
    sink.commit(output(1, [CHANGE], [Range(0, 0, 3)]))
    with pytest.raises(CommitUnknown, match="larger than"):
        sink.commit(output(2, [*[CHANGE] * 200, TOO_LARGE], [Range(0, 3, 9)]))
    with pytest.raises(AssertionError, match="never used again"):
        sink.commit(output(2, [CHANGE]))
    sink.close()
    again = kafka_sink(config)
    assert again.open() == output(1, [], [Range(0, 0, 3)]).manifest
    assert len(read_committed(config, CHANGES)) == 1
    assert committed_offsets(config) == {0: 3}
    again.commit(output(2, [CHANGE], [Range(0, 3, 4), Range(1, 0, 2)]))
    again.close()
    assert committed_offsets(config) == {0: 4, 1: 2}
    assert len(read_committed(config, MANIFEST)) == 2


def committed_offsets(config: Kafka) -> dict[int, int]:
    with KafkaAdminClient(bootstrap_servers=config.bootstrap_servers) as admin:
        offsets = admin.list_group_offsets([config.group_id])[config.group_id]
    return {tp.partition: found.offset for tp, found in sorted(offsets.items())}


@both
def test_a_step_larger_than_the_limit_is_sent_in_parts_and_is_still_whole(broker: Broker) -> None:
    config = create_topics(kafka_config(broker))
    records = [OutRecord(MEMBERS, b"u%d" % i, b"x" * 50) for i in range(100)]
    with sink_of(config, bytes_max=500) as sink:
        sink.commit(output(1, records))
    assert sorted(r.key for r in read_committed(config, MEMBERS)) == sorted(r.key for r in records)


@both
def test_a_newer_engine_fences_the_older_one(broker: Broker) -> None:
    """The older one is told, once and for all; nothing it sends afterwards is ever seen."""
    config = create_topics(kafka_config(broker))
    with sink_of(config) as old:
        old.commit(output(1, [CHANGE]))
        with sink_of(config) as new:
            with pytest.raises(CommitUnknown) as caught:
                old.commit(output(2, [CHANGE]))
            assert not caught.value.broker_away
            new.commit(output(2, [CHANGE]))
    assert [m.step for m in kafka_sink(config).manifests()] == [1, 2]
    assert len(read_committed(config, CHANGES)) == 2


class PausedClient:
    """A client whose producer pauses before the commit, until the broker has given the transaction up."""

    def __init__(self, config: Kafka) -> None:
        self._config = config
        self._client = kafka_library(config)[1](config)
        self.log = self._client.log

    def producer(self) -> Any:
        producer = self._client.producer()
        commit = producer.commit

        def commit_late(timeout_s: float) -> None:
            name = transactional_id(self._config)
            with KafkaAdminClient(bootstrap_servers=self._config.bootstrap_servers) as admin:
                eventually(lambda: admin.describe_transactions([name])[name].state.value != "Ongoing")
            commit(timeout_s)

        producer.commit = commit_late  # type: ignore[method-assign]
        return producer


class NoTime:
    """A clock that stood still during a pause: what other rules notice must be enough."""

    def monotonic(self) -> float:
        return 0.0

    def time_ns(self) -> int:
        return 0


@both
@pytest.mark.parametrize("clock", [time, NoTime()], ids=["the pause is seen", "the pause is not seen"])
def test_a_process_paused_past_the_transaction_timeout_does_not_believe_its_commit(
    broker: Broker, clock: Any
) -> None:
    """The client may report success for a transaction that the broker aborted long ago."""
    config = create_topics(kafka_config(broker, transaction_timeout_ms=1000, delivery_timeout_ms=2000))
    sink = KafkaSink(config, PausedClient(config), lambda: nobody(config), clock=clock)
    sink.open()
    with pytest.raises(CommitUnknown):
        commit_and_confirm(sink)
    sink.close()
    with sink_of(config) as again:
        assert list(again.manifests()) == []
    assert read_committed(config, CHANGES) == []


def commit_and_confirm(sink: KafkaSink) -> None:
    sink.commit(output(1, [CHANGE], [Range(0, 0, 1)]))
    sink.confirm()


# --- secrets and refusals --------------------------------------------------------------------------------


def test_a_secret_is_sent_as_it_is_and_shown_as_stars() -> None:
    secret = Secret("hunter2")
    assert bytes("\0".join(["u", secret]), "utf-8") == b"u\0hunter2"
    assert secret.encode() == b"hunter2"
    shown = f"{secret} {secret!r} {secret!s} {[secret]} {{}}".format(secret) + " %s" % (secret,)  # noqa: UP031
    assert "hunter2" not in shown


def test_the_password_comes_from_a_file_or_the_environment_and_is_in_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Kafka(security_protocol="SASL_PLAINTEXT", sasl_username="u")
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=PASSWORD_VARIABLE):
        settings(config)
    monkeypatch.setenv(PASSWORD_VARIABLE, "from-env")
    assert settings(config)["sasl_plain_password"].encode() == b"from-env"
    (tmp_path / "secret").write_text("from-file\n")
    config = msgspec.structs.replace(config, sasl_password_file=str(tmp_path / "secret"))
    found = settings(config)
    assert found["sasl_plain_password"].encode() == b"from-file"
    assert "from-" not in f"{config} {found}"


def test_an_unreadable_certificate_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no-such-ca\.pem"):
        settings(Kafka(security_protocol="SSL", ssl_cafile="no-such-ca.pem"))


def sasl_config(broker: Broker, password: str, tmp_path: Path, **changes: Any) -> Kafka:
    if broker.sasl is None:
        pytest.skip("this broker has no listener with passwords")
    (tmp_path / "password").write_text(password)
    return kafka_config(
        broker,
        bootstrap_servers=broker.sasl,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username=USER,
        sasl_password_file=str(tmp_path / "password"),
        **changes,
    )


@both
def test_an_engine_works_over_a_listener_that_wants_a_password(broker: Broker, tmp_path: Path) -> None:
    config = sasl_config(broker, PASSWORD, tmp_path, create_topics=True)
    with opened(kafka_source(config)) as source:
        send(msgspec.structs.replace(config, bootstrap_servers=broker.address), [(0, b"k", b"v")])
        assert [value for _, _, value in poll_some(source)] == [b"v"]
        sink = kafka_sink(config, source.group_metadata)
        assert sink.open() is None
        sink.commit(output(1, [CHANGE], [Range(0, 0, 1)]))
        sink.close()


@both
def test_a_wrong_password_is_refused_at_once_and_never_shown(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not waited for like an absent broker; and not in the error, nor in any log line at any level."""
    config = sasl_config(broker, "wrong-one-1234", tmp_path)
    with (
        caplog.at_level(logging.DEBUG),
        caplog.at_level(logging.DEBUG, "kafka"),
        pytest.raises(ConfigError, match="refused user 'shoal'") as caught,
    ):
        kafka_source(config).open(lambda: False)
    assert any(record.levelno == logging.DEBUG for record in caplog.records), "the library did say something"
    assert "wrong-one-1234" not in caplog.text + str(caught.value)


# --- waiting ---------------------------------------------------------------------------------------------


def test_an_absent_broker_is_waited_for_with_one_line_per_try(caplog: pytest.LogCaptureFixture) -> None:
    config = Kafka(bootstrap_servers="127.0.0.1:1", broker_wait_s=1.0)
    with (
        caplog.at_level(logging.WARNING, "shoal"),
        pytest.raises(BrokerGone, match=r"no Kafka broker at 127\.0\.0\.1:1 for 1 s"),
    ):
        wait_for_broker(config, lambda: False)
    tries = [r.getMessage() for r in caplog.records if r.name == "shoal"]
    assert 2 <= len(tries) <= 5
    assert all("127.0.0.1:1 does not answer" in line and "giving up in" in line for line in tries)


def test_waiting_for_a_broker_ends_when_told_to_stop() -> None:
    calls: list[int] = []
    with suppress(BrokerGone):
        wait_for_broker(
            Kafka(bootstrap_servers="127.0.0.1:1"), lambda: bool(calls.append(1)) or len(calls) > 3
        )
    assert 3 < len(calls) < 20


@kafka
def test_a_broker_that_answers_is_not_waited_for(broker: Broker) -> None:
    wait_for_broker(Kafka(bootstrap_servers=broker.address, broker_wait_s=0), lambda: False)


@kafka
def test_a_join_for_new_partitions_that_outlasts_its_polls_is_not_forgotten(broker: Broker) -> None:
    """The topic is created after the first join, and every poll is over before the second one is."""
    config, owner = kafka_config(broker), OneOwner()
    ownership = Ownership(owner)
    consumer = KafkaConsumer(
        bootstrap_servers=broker.address,
        group_id=config.group_id,
        partition_assignment_strategy=[owner],
        metadata_max_age_ms=200,
        allow_auto_create_topics=False,
    )

    def settled(timeout_ms: int) -> bool:
        for _ in range(50):
            consumer.poll(timeout_ms)
            keep_joining(consumer)
        return bool(consumer.group_metadata().state == MemberState.STABLE)

    try:
        consumer.subscribe([input_topic(config)], listener=ownership)
        eventually(lambda: settled(50), 30)
        assert not ownership.partitions
        create_topics(config)
        eventually(lambda: settled(4) and ownership.partitions, 30)
    finally:
        consumer.close(autocommit=False, timeout_ms=1500)
