"""`shoal run` as a process on a real broker: real events in, changes out, stopped, killed, taken over."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import signal
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from broker import Broker, ContainerBroker, JarBroker
from kafka import KafkaAdminClient
from kafka_kit import create_topics, eventually, kafka_config, read_committed
from mirrors import held, table
from processes import Engine, engine, shoal, write_config

from shoal.stream import manifest
from shoal.stream.auditing.access import reading
from shoal.stream.auditing.past import Past
from shoal.stream.config import Kafka, load
from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MANIFEST, MEMBERS, REJECTED
from shoal.stream.ports import BrokerGone, CommitUnknown, TopicsMissing
from shoal.stream.subscribing import SegmentMirror
from shoal.stream.subscribing.kafka_reader import KafkaReader
from shoal.stream.wiring import build_pipeline

kafka = pytest.mark.kafka
both = pytest.mark.usefixtures("client")
"""Runs with each client library."""
FIELD_MAP = {"type": "event_type", "item_id": "item_id", "event_time": "ts"}
EVENTS = 4000
SMALL: dict[str, dict[str, Any]] = {
    "input": {"field_map": FIELD_MAP},
    "segmenter": {"warmup_rows": 20, "segments": 4},
    "engine": {"step_records_max": 200},
}


def real_events() -> list[bytes]:
    """The first lines of the open Online Retail file; where it is absent, events of the same shape."""
    root = Path(__file__).resolve().parent.parent
    data = Path(os.environ.get("SHOAL_DATA", root.parent / "shared" / "data"))
    path = data / "online_retail_to_2011-06.jsonl.gz"
    if path.exists():
        with gzip.open(path) as lines:
            return list(itertools.islice(lines, EVENTS))
    return [_made_up(i) for i in range(EVENTS)]


def _made_up(i: int) -> bytes:
    event = {
        "event_id": f"made-{i}",
        "user_id": f"{i * 7919 % 300}",
        "event_type": "purchase",
        "item_id": f"item-{i * 31 % (40 + i % 5)}",
        "ts": f"2010-12-{1 + i * 20 // EVENTS:02d}T{i % 24:02d}:26:00Z",
        "value": 1.5 + i % 9,
        "quantity": 1 + i % 4,
    }
    return (b"not an event" if i % 100 == 99 else json.dumps(event).encode()) + b"\n"


@pytest.fixture(scope="module")
def event_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four files with a quarter of the events each."""
    folder, events = tmp_path_factory.mktemp("events"), real_events()
    paths = []
    for i in range(4):
        paths.append(folder / f"events-{i}.jsonl")
        paths[-1].write_bytes(b"".join(events[i * EVENTS // 4 : (i + 1) * EVENTS // 4]))
    return paths


def steps_of(config: Kafka) -> list[dict[str, Any]]:
    return [json.loads(record.value) for record in read_committed(config, MANIFEST)]


def records_done(config: Kafka) -> int:
    return sum(step["counts"]["records"] for step in steps_of(config))


def feed(path: Path, events: Path) -> None:
    sent = shoal("produce", str(events), "--config", str(path), "--json")
    assert sent.returncode == 0, sent.stderr
    assert json.loads(sent.stdout)["records"] == EVENTS // 4


def check_verified(path: Path) -> None:
    """Another process with another hash seed computes every byte again."""
    verified = shoal("verify", "--config", str(path), "--json", PYTHONHASHSEED="4711")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["same"] is True


# --- the main road -----------------------------------------------------------------------------------------


@kafka
@both
def test_real_events_become_changes_that_keep_the_contract_and_verify_to_the_same_bytes(
    broker: Broker, tmp_path: Path, event_files: list[Path]
) -> None:
    """Killed in the middle without warning, and gone on by a new process with another hash seed."""
    config = create_topics(kafka_config(broker, partitions=4))
    path = write_config(tmp_path / "shoal.toml", config, **SMALL)
    feed(path, event_files[0])
    with engine(path, tmp_path / "first.log", PYTHONHASHSEED="1") as first:
        eventually(lambda: records_done(config) >= EVENTS // 4 or first.must_run(), 60)
        feed(path, event_files[1])
        first.kill()
    feed(path, event_files[2])
    with engine(path, tmp_path / "second.log", PYTHONHASHSEED="2") as second:
        eventually(lambda: records_done(config) >= 3 * EVENTS // 4 or second.must_run(), 60)
        check_stops_cleanly(second, signal.SIGTERM)
    check_coverage(config)
    check_schemas(config)
    check_fold(config)
    check_mirror(config, path)
    check_verified(path)


def check_stops_cleanly(running: Engine, number: signal.Signals) -> None:
    started_s = time.monotonic()
    running.signal(number)
    assert running.ends(10) == 0, running.text()[-3000:]
    assert time.monotonic() - started_s < 5


def check_coverage(config: Kafka) -> None:
    """Every record in exactly one step; every step's counts add up; every reject published."""
    steps = steps_of(config)
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    assert records_done(config) == 3 * EVENTS // 4
    at: dict[int, int] = {}
    rejected: Counter[str] = Counter()
    for step in steps:
        for partition, start, end in step["ranges"]:
            assert start == at.get(partition, 0)
            at[partition] = end
        counts = step["counts"]
        rejected.update(counts["rejected"])
        parts = counts["accepted"] + counts["duplicates"] + counts["late"] + sum(counts["rejected"].values())
        assert counts["records"] == parts
    assert len(read_committed(config, REJECTED)) == rejected.total() > 0


def check_schemas(config: Kafka) -> None:
    folder = Path(manifest.__file__).parent / "schemas"
    for topic in (CHANGES, MEMBERS, CATALOG, LINEAGE, MANIFEST):
        schema = json.loads((folder / f"{topic}.json").read_text())
        validator = jsonschema.Draft202012Validator(schema)
        records = read_committed(config, topic)
        assert records, topic
        for record in records:
            if record.value is not None:
                validator.validate(json.loads(record.value))


def check_fold(config: Kafka) -> None:
    """Folding the changes gives the members; sequences have no gap."""
    folded: dict[bytes, Any] = {}
    for record in read_committed(config, CHANGES):
        folded[record.key] = json.loads(record.value)["to"]
    members: dict[bytes, Any] = {}
    for record in read_committed(config, MEMBERS):
        members[record.key] = record.value
    present = {key for key, value in members.items() if value is not None}
    assert present == {key for key, to in folded.items() if to is not None}
    assert present


def check_mirror(config: Kafka, path: Path) -> None:
    """A subscriber's mirror of the topics is the membership that a replay computes."""
    whole = load(path, [])
    ports = reading(whole, None, None)
    with closing(ports[0]), closing(ports[1]):
        manifest = ports[1].last()
        assert manifest is not None
        past = Past(whole, build_pipeline(whole), ports, lambda step: None)
        past.go_to(manifest)
    for from_now in (True, False):
        mirror = SegmentMirror()
        with closing(KafkaReader(config, from_now=from_now, follow=False)) as found:
            for _ in mirror.follow(found):
                pass
        assert held(mirror) == table(past.pipeline) != {}
        assert mirror.troubles == ()


# --- one works, one stands by ------------------------------------------------------------------------------


@kafka
@both
def test_a_second_engine_stands_by_takes_over_and_both_stop_cleanly(
    broker: Broker, tmp_path: Path, event_files: list[Path]
) -> None:
    """SIGTERM and SIGINT finish the step, leave the group and exit 0 within five seconds."""
    config = create_topics(kafka_config(broker))
    path = write_config(tmp_path / "shoal.toml", config, **SMALL, encoder={"kind": "identity"})
    feed(path, event_files[0])
    with engine(path, tmp_path / "first.log") as first:
        eventually(lambda: records_done(config) >= EVENTS // 4 or first.must_run(), 60)
        with engine(path, tmp_path / "second.log") as second:
            second.says("standing by")
            feed(path, event_files[1])
            eventually(lambda: records_done(config) >= EVENTS // 2 or first.must_run(), 30)
            assert second.process.poll() is None
            check_stops_cleanly(first, signal.SIGTERM)
            feed(path, event_files[2])
            eventually(lambda: records_done(config) >= 3 * EVENTS // 4 or second.must_run(), 30)
            check_stops_cleanly(second, signal.SIGINT)
    with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
        assert admin.describe_groups([config.group_id])[config.group_id]["members"] == []
    check_verified(path)


@kafka
@both
def test_an_engine_that_was_frozen_and_replaced_does_no_harm_when_it_wakes(
    broker: Broker, tmp_path: Path, event_files: list[Path]
) -> None:
    """Awake again, it is refused whatever it wanted to commit, and ends or stands by; nothing is done twice."""
    config = create_topics(kafka_config(broker, session_timeout_ms=2000))
    path = write_config(tmp_path / "shoal.toml", config, **SMALL, encoder={"kind": "identity"})
    feed(path, event_files[0])
    with engine(path, tmp_path / "first.log") as first:
        eventually(lambda: records_done(config) >= EVENTS // 4 or first.must_run(), 60)
        with engine(path, tmp_path / "second.log") as second:
            second.says("standing by")
            first.signal(signal.SIGSTOP)
            feed(path, event_files[1])
            eventually(lambda: records_done(config) >= EVENTS // 2 or second.must_run(), 30)
            first.signal(signal.SIGCONT)
            eventually(lambda: first.process.poll() is not None or "standing by" in first.text())
            assert first.process.poll() in {None, CommitUnknown.exit_code}, first.text()[-3000:]
            feed(path, event_files[2])
            eventually(lambda: records_done(config) >= 3 * EVENTS // 4 or second.must_run(), 30)
            check_stops_cleanly(second, signal.SIGTERM)
    check_coverage(config)
    check_verified(path)


# --- the broker goes away ----------------------------------------------------------------------------------


@kafka
@both
def test_an_engine_waits_for_its_broker_at_start_and_while_it_runs(
    broker: Broker, tmp_path: Path, event_files: list[Path]
) -> None:
    """Started without a broker; killed under it once; every record is still in exactly one step."""
    if not isinstance(broker, JarBroker | ContainerBroker):
        pytest.skip("somebody else's broker is neither stopped nor frozen")
    config = create_topics(kafka_config(broker, session_timeout_ms=15_000, broker_wait_s=60.0))
    path = write_config(tmp_path / "shoal.toml", config, **SMALL, encoder={"kind": "identity"})
    feed(path, event_files[0])
    broker.kill()
    with engine(path, tmp_path / "log") as running:
        running.says("does not answer")
        broker.start()
        eventually(lambda: records_done(config) >= EVENTS // 4 or running.must_run(), 60)
        said = running.text().count("does not answer")
        broker.kill()
        eventually(lambda: running.text().count("does not answer") > said or running.must_run(), 60)
        broker.start()
        feed(path, event_files[1])
        eventually(lambda: records_done(config) >= EVENTS // 2 or running.must_run(), 60)
        with broker.frozen():
            running.signal(signal.SIGTERM)
            running.signal(signal.SIGINT)
            assert running.ends(5) in {128 + signal.SIGTERM, 128 + signal.SIGINT}, (
                "the second one exits at once"
            )
    check_verified(path)


def test_a_broker_that_never_comes_ends_the_process_with_its_own_exit_code(tmp_path: Path) -> None:
    absent = Kafka(bootstrap_servers="127.0.0.1:1", broker_wait_s=1.0)
    path = write_config(tmp_path / "shoal.toml", absent, encoder={"kind": "identity"})
    ended = shoal("run", "--config", str(path))
    assert ended.returncode == BrokerGone.exit_code == 3, ended.stderr
    assert "no Kafka broker at 127.0.0.1:1 for 1 s" in ended.stderr
    assert "Traceback" not in ended.stderr


@kafka
def test_missing_topics_end_the_process_with_the_commands_to_create_them(
    broker: Broker, tmp_path: Path
) -> None:
    config = kafka_config(broker)
    path = write_config(tmp_path / "shoal.toml", config, encoder={"kind": "identity"})
    ended = shoal("run", "--config", str(path))
    assert ended.returncode == TopicsMissing.exit_code == 4, ended.stderr
    assert f"--create --topic {config.topic_prefix}segment.members" in ended.stderr
    assert "Traceback" not in ended.stderr
