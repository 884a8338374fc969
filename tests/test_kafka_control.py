"""Commands on a real broker: obeyed once, in order with the data, whatever dies in between."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from broker import Broker
from kafka_kit import create_topics, eventually, kafka_config, read_committed
from processes import engine, shoal, write_config
from test_kafka_e2e import EVENTS, SMALL, both, check_stops_cleanly, check_verified, feed, kafka, steps_of
from test_kafka_e2e import event_files as event_files

from shoal.stream.config import Kafka
from shoal.stream.events import CHANGES, MEMBERS, Range
from shoal.stream.kafka.commands import LOOK_EVERY_S, KafkaCommands
from shoal.stream.ports import SourceGone


def tell(path: Path, *words: str) -> str:
    """One command into the topic; its id."""
    sent = shoal("control", *words, "--config", str(path), "--json")
    assert sent.returncode == 0, sent.stderr
    return str(json.loads(sent.stdout)["command_id"])


def members(config: Kafka) -> dict[bytes, Any]:
    return {record.key: record.value for record in read_committed(config, MEMBERS)}


def obeyed(config: Kafka) -> int:
    return sum(step["counts"]["commands"] for step in steps_of(config))


def accepted(config: Kafka) -> int:
    counts = [step["counts"] for step in steps_of(config)]
    return sum(c["records"] - c["commands"] for c in counts)


@kafka
@both
def test_commands_among_events_are_obeyed_once_across_a_kill_and_verify(
    broker: Broker, tmp_path: Path, event_files: list[Path]
) -> None:
    """Erased users are no members, receipts name their commands, and another process computes the same bytes."""
    config = create_topics(kafka_config(broker, partitions=2))
    path = write_config(tmp_path / "shoal.toml", config, **SMALL)
    feed(path, event_files[0])
    with engine(path, tmp_path / "first.log", PYTHONHASHSEED="1") as first:
        eventually(lambda: accepted(config) >= EVENTS // 4 or first.must_run(), 60)
        erased = sorted(key.decode() for key, value in members(config).items() if value is not None)[:3]
        ids = [tell(path, "erase", "--user", user) for user in erased[:2]]
        eventually(lambda: obeyed(config) >= 2 or first.must_run(), 30)
        first.kill()
    ids.append(tell(path, "consent", "--withdraw", "--user", erased[2]))
    feed(path, event_files[1])
    with engine(path, tmp_path / "second.log", PYTHONHASHSEED="2") as second:
        eventually(lambda: (accepted(config) >= EVENTS // 2 and obeyed(config) >= 3) or second.must_run(), 60)
        check_stops_cleanly(second, signal.SIGTERM)
    receipts = [v for r in read_committed(config, CHANGES) if (v := json.loads(r.value)).get("receipt")]
    receipts.sort(key=lambda value: value["position"]["offset"])  # they stand in several partitions
    assert [v["receipt"]["command_ids"] for v in receipts] == [[one] for one in ids]
    assert [v["user"]["key"] for v in receipts] == erased
    assert members(config)[erased[2].encode()] is None
    positions = [v["position"] for v in receipts]
    assert [(p["topic"], p["partition"], p["offset"]) for p in positions] == [
        ("segment.control", 0, i) for i in range(3)
    ]
    check_verified(path)


@kafka
@both
def test_without_the_topic_the_engine_runs_and_says_so(broker: Broker, tmp_path: Path) -> None:
    """Old deployments have no such topic; `shoal control` says what is missing."""
    config = kafka_config(broker)
    present = create_topics(kafka_config(broker, control_topic="", topic_prefix=config.topic_prefix))
    assert present.topic_prefix == config.topic_prefix
    path = write_config(tmp_path / "shoal.toml", config, **SMALL)
    with engine(path, tmp_path / "log") as running:
        running.says("no commands are read")
        running.says("this engine works")
        check_stops_cleanly(running, signal.SIGTERM)
    sent = shoal("control", "freeze", "--config", str(path))
    assert sent.returncode == 4
    assert "segment.control" in sent.stderr


# --- without a broker ------------------------------------------------------------------------------------------


class FakeLog:
    """A log that grows when it is told to."""

    def __init__(self, values: list[bytes]) -> None:
        self.values, self.asked, self.first = values, 0, 0

    def bounds(self) -> dict[int, tuple[int, int]]:
        self.asked += 1
        return {0: (self.first, len(self.values))}

    def check(self, partition: int, start: int, end: int) -> None:
        if end > len(self.values):
            raise SourceGone("gone")

    def read(self, partition: int, start: int, end: int) -> Any:
        for offset in range(start, end):
            yield Record(offset, self.values[offset])

    def close(self) -> None:
        pass


class Record:
    key, headers = None, ()

    def __init__(self, offset: int, value: bytes) -> None:
        self.offset, self.value = offset, value


def commands(values: list[bytes]) -> tuple[KafkaCommands, FakeLog, list[float]]:
    now, log = [0.0], FakeLog(values)
    source = KafkaCommands("segment.control", lambda: log, lambda: now[0])
    assert source.open(lambda: False)
    return source, log, now


def test_what_is_in_the_topic_is_handed_out_once_and_no_more_than_asked_for():
    """Ranges touch each other; the broker is asked now and then, not at every turn."""
    source, log, now = commands([b"a", b"b", b"c"])
    source.seek({})
    found, ranges = source.poll(2, 0.0)
    assert (list(found.values), ranges) == ([b"a", b"b"], (Range(0, 0, 2),))
    assert source.lag() == {0: 1}
    assert source.poll(9, 0.0)[1] == (Range(0, 2, 3),)
    log.values.append(b"d")
    asked = log.asked
    assert source.poll(9, 0.0)[1] == ()
    assert log.asked == asked
    now[0] += LOOK_EVERY_S
    assert source.poll(9, 0.0)[1] == (Range(0, 3, 4),)


def test_commands_that_are_gone_before_they_were_obeyed_stop_the_engine():
    """An erasure must not be passed over in silence."""
    source, log, now = commands([b"a", b"b"])
    with pytest.raises(SourceGone, match="to go on at offset 5"):
        source.seek({0: 5})
    source.seek({0: 2})
    log.values.clear()
    now[0] += LOOK_EVERY_S
    with pytest.raises(SourceGone):
        source.poll(9, 0.0)


def test_a_new_epoch_reads_all_commands_there_are():
    """Who withdrew consent must be known again."""
    source, log, _ = commands([b"a", b"b"])
    assert source.nearest({0: 2}) == {0: 0}
    log.first = 1
    assert source.nearest({0: 2}) == {0: 1}
