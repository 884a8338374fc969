"""Mirrors on a real broker: exact whoever wrote, whatever is open, aborted, lost; and `shoal subscribe` there."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from broker import Broker
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka_kit import create_topics, eventually, kafka_config, kafka_sink
from mirrors import held, table
from processes import SHOAL, shoal, write_config
from shop import engine, events, small

from shoal.stream.config import Kafka
from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MEMBERS
from shoal.stream.pipeline import Pipeline
from shoal.stream.ports import SourceGone, TopicsMissing
from shoal.stream.sources import MemorySource
from shoal.stream.subscribing import Change, SegmentMirror
from shoal.stream.subscribing.kafka_reader import KafkaReader

pytestmark = pytest.mark.kafka
both = pytest.mark.usefixtures("client")


def write(config: Kafka, count: int = 2500) -> Pipeline:
    """The small shop's steps into real topics, by whichever client the configuration names; goes on where it was."""
    with closing(kafka_sink(config)) as sink:
        made = engine(small(), MemorySource([events()[:count]]), sink)
        made._close = lambda: None  # type: ignore[method-assign]
        made.run()
    return made.pipeline


@contextmanager
def reader(config: Kafka, **options: Any) -> Iterator[KafkaReader]:
    with closing(KafkaReader(config, **{"follow": False} | options)) as found:
        yield found


def follow(config: Kafka, mirror: SegmentMirror, **options: Any) -> list[Change]:
    with reader(config, **options) as found:
        return list(mirror.follow(found))


@both
def test_a_mirror_of_the_topics_is_the_engines_table(broker: Broker) -> None:
    """From the changes, from the members, from the members of now; and on from a snapshot, every change once."""
    config = create_topics(kafka_config(broker))
    pipeline = write(config, 2000)
    begun, now, members = SegmentMirror(), SegmentMirror(), SegmentMirror()
    first = follow(config, begun, from_now=False)
    assert follow(config, now) == []
    follow(config, members, topics=(MEMBERS,), from_now=False)
    assert held(begun) == held(now) == held(members) == table(pipeline)
    assert set(begun.segments) == set(now.segments) == set(begun.sizes)
    assert [fact.lineage_id for fact in now.lineage] == [fact.lineage_id for fact in begun.lineage]
    pipeline = write(config, 4000)
    second = follow(config, again := SegmentMirror.restore(begun.snapshot()))
    later = follow(config, now)
    whole = follow(config, SegmentMirror(), from_now=False)
    assert held(again) == held(now) == table(pipeline)
    assert first
    assert sorted(c.sequence for c in later) == sorted(c.sequence for c in second)
    assert sorted((c.user, c.sequence) for c in first + second) == sorted((c.user, c.sequence) for c in whole)
    for mirror in (begun, now, members, again):
        assert (mirror.counts.gaps, mirror.counts.conflicts, mirror.counts.broken) == (0, 0, 0)


@both
def test_no_aborted_record_is_seen_and_an_open_transaction_is_waited_for(broker: Broker) -> None:
    """Whoever begins now must not miss a membership whose transaction is visible in another partition already."""
    config = create_topics(kafka_config(broker))
    pipeline = write(config)
    key = next(iter(table(pipeline))).encode()
    producer = KafkaProducer(
        bootstrap_servers=config.bootstrap_servers, transactional_id=config.topic_prefix + "other"
    )
    producer.init_transactions()
    for topic in (CHANGES, MEMBERS):
        producer.begin_transaction()
        producer.send(config.topic_prefix + topic, key=key, value=b"aborted")
        producer.flush()
        producer.abort_transaction()
    producer.begin_transaction()
    producer.send(config.topic_prefix + MEMBERS, key=key, value=None)
    producer.flush()
    mirror, done = SegmentMirror(), threading.Event()

    def work() -> None:
        follow(config, mirror)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not done.wait(2.0), "it did not wait for what may be committed any moment"
    producer.commit_transaction()
    thread.join(20)
    producer.close()
    assert done.is_set()
    wanted = table(pipeline)
    del wanted[key.decode()]
    assert held(mirror) == wanted
    assert mirror.counts.broken == 0


def test_what_retention_took_is_healed_from_the_members(broker: Broker) -> None:
    """A subscriber that slept too long, and a new one that begins with the first change there is."""
    config = create_topics(kafka_config(broker))
    write(config, 1500)
    slept = SegmentMirror()
    follow(config, slept, from_now=False)
    pipeline = write(config, 4000)
    _forget(config, CHANGES)
    assert not follow(config, SegmentMirror.restore(slept.snapshot()), topics=(CATALOG, LINEAGE))
    changes = follow(config, slept)
    assert changes
    assert all(change.reason is None for change in changes)
    new = SegmentMirror()
    follow(config, new, from_now=False)
    assert held(slept) == held(new) == table(pipeline)


def _forget(config: Kafka, topic: str) -> None:
    """All records there are, as retention would."""
    with KafkaAdminClient(bootstrap_servers=config.bootstrap_servers) as admin:
        name = config.topic_prefix + topic
        partitions = [TopicPartition(name, p) for p in range(config.partitions)]
        admin.delete_records(dict.fromkeys(partitions, -1))


def test_with_a_group_another_process_goes_on_without_a_snapshot(broker: Broker) -> None:
    """Every change once; who was where before it is what the record says."""
    config = create_topics(kafka_config(broker))
    write(config, 1500)
    group = config.topic_prefix + "readers"
    first = follow(config, SegmentMirror(), from_now=False, group=group)
    assert follow(config, SegmentMirror(), group=group) == []
    write(config, 4000)
    mirror = SegmentMirror()
    second = follow(config, mirror, group=group)
    whole = follow(config, SegmentMirror(), from_now=False)
    assert sorted((c.user, c.sequence) for c in first + second) == sorted((c.user, c.sequence) for c in whole)
    assert {c.sequence: c.before for c in second}.keys() == {c.sequence for c in second}
    moved = [c for c in second if c.transition == "moved"]
    assert moved
    assert all(c.before is not None for c in moved)
    assert mirror.counts.gaps == 0


def test_topics_that_are_missing_or_were_created_again_are_named(broker: Broker) -> None:
    config = kafka_config(broker)
    with pytest.raises(TopicsMissing, match=rf"no topic {config.topic_prefix}segment"):
        follow(config, SegmentMirror())
    create_topics(config)
    write(config)
    mirror = SegmentMirror()
    follow(config, mirror, from_now=False)
    with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
        admin.delete_topics([config.topic_prefix + CHANGES])
        eventually(lambda: config.topic_prefix + CHANGES not in admin.list_topics())
    eventually(lambda: _created(config))
    with pytest.raises(SourceGone, match="created again"):
        follow(config, mirror)


def _created(config: Kafka) -> bool:
    """All topics are there; the broker may take a moment to forget the old one."""
    from shoal.stream.kafka.admin import create, wanted

    with KafkaAdminClient(bootstrap_servers=config.bootstrap_servers) as admin:
        changes = [topic for topic in wanted(config) if topic.name == config.topic_prefix + CHANGES]
        create(admin, changes, config)
        return config.topic_prefix + CHANGES in admin.list_topics()


def test_the_command_follows_the_topics_and_ends_when_told_to(broker: Broker, tmp_path: Path) -> None:
    config = create_topics(kafka_config(broker))
    pipeline = write(config, 1500)
    path = write_config(tmp_path / "shoal.toml", config)
    arguments = ["subscribe", "--config", str(path), "--json", "--state", str(tmp_path / "state")]
    begun = shoal(*arguments, "--from", "beginning", "--exit-at-end", "--members")
    assert begun.returncode == 0, begun.stderr
    found = [json.loads(line) for line in begun.stdout.splitlines()]
    assert {one["user"] for one in found if "place" in one} == table(pipeline).keys()
    process = subprocess.Popen(
        [*SHOAL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    write(config, 4000)
    assert process.stderr is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    rest, errors = process.stdout.read(), process.stderr.read()
    assert process.wait(20) == 0, errors
    seen = {(one["user"], one["sequence"]) for one in found if "transition" in one}
    later = {(one["user"], one["sequence"]) for one in map(json.loads, [line, *rest.splitlines()])}
    assert later
    assert not seen & later
