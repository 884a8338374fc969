"""`shoal produce`: which key a line gets, when it is sent, and that all of it arrives."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from broker import Broker
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from kafka_kit import create_topics, kafka_config, read_committed
from processes import write_config

from shoal.stream.commands.produce import Pace, command, events
from shoal.stream.config import Input
from shoal.stream.ports import BrokerGone, ConfigError, InputError, TopicsMissing
from shoal.stream.wire import Decoder

kafka = pytest.mark.kafka


def line(i: int, user: str = "u", **more: object) -> bytes:
    event = {"event_id": f"e{i}", "type": "view", "user_id": user, "event_time": 1_700_000_000_000 + i}
    return json.dumps(event | more).encode() + b"\n"


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def sent_at(pace: Pace, clock: Clock, times_ms: list[int | None]) -> list[float]:
    found = []
    for time_ms in times_ms:
        pace.wait(time_ms, lambda: None)
        found.append(clock.now_s - 100.0)
    return found


def test_at_a_rate_event_n_is_sent_n_th() -> None:
    clock = Clock()
    pace = Pace(rate=10.0, clock=clock, sleep=clock.sleep)
    assert sent_at(pace, clock, [None] * 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_at_a_speedup_the_gaps_between_events_shrink_by_it() -> None:
    """An event that is older than its predecessor, or unreadable, is sent at once."""
    clock = Clock()
    pace = Pace(speedup=2.0, clock=clock, sleep=clock.sleep)
    times: list[int | None] = [1000, 3000, 2000, None, 5000]
    assert sent_at(pace, clock, times) == pytest.approx([0.0, 1.0, 1.0, 1.0, 2.0])


@given(st.lists(st.one_of(st.none(), st.integers(0, 10**9)), max_size=30), st.floats(0.1, 1e6))
def test_without_a_pace_nothing_waits_and_with_one_order_is_kept(
    times_ms: list[int | None], speedup: float
) -> None:
    clock = Clock()
    assert set(sent_at(Pace(clock=clock, sleep=clock.sleep), clock, times_ms)) <= {0.0}
    paced = sent_at(Pace(speedup=speedup, clock=clock, sleep=clock.sleep), clock, times_ms)
    assert paced == sorted(paced)


def test_the_key_is_the_user_and_lines_that_break_the_contract_have_none(tmp_path: Path) -> None:
    """Read as [input] says: here the user and the time have other names."""
    path = tmp_path / "events.jsonl.gz"
    lines = [
        b'{"event_id":"1","type":"view","who":"ann","ts":1700000000}',
        b"not json",
        b'{"event_id":"2","type":"view","anonymous_id":"x","ts":1700000001}',
        b"",
    ]
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    decoder = Decoder(Input(field_map={"user_id": "who", "event_time": "ts"}, time_unit="s"))
    assert list(events(str(path), decoder)) == [
        (lines[0], b"ann", 1_700_000_000_000),
        (lines[1], None, None),
        (lines[2], b"x", 1_700_000_001_000),
        (lines[3], None, None),
    ]


def test_a_rate_and_a_speedup_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        run("f.jsonl", "--rate", "1", "--speedup", "2")


def test_a_broker_that_is_not_there_has_its_own_exit_code(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_bytes(line(1))
    with pytest.raises(BrokerGone) as caught:
        run(
            str(tmp_path / "e.jsonl"),
            "--set", "kafka.bootstrap_servers=127.0.0.1:1", "--set", "kafka.broker_wait_s=0",
        )  # fmt: skip
    assert caught.value.exit_code == 3


def run(*arguments: str) -> str:
    """The verb's output; its named errors come through, as the command line's main() sees them."""
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@kafka
def test_every_line_arrives_once_with_each_users_order_kept(broker: Broker, tmp_path: Path) -> None:
    config = create_topics(kafka_config(broker, partitions=4))
    path = write_config(tmp_path / "shoal.toml", config)
    lines = [line(i, user=f"u{i % 17}") for i in range(3000)] + [b"broken\n", b"\n"]
    (tmp_path / "events.jsonl").write_bytes(b"".join(lines))
    told = json.loads(run(str(tmp_path / "events.jsonl"), "--config", str(path), "--json"))
    assert (told["records"], told["invalid"]) == (3002, 2)
    assert told["topic"] == config.topic_prefix + "behavior.events"
    found = read_committed(config, config.events_topic)
    assert Counter(r.value + b"\n" for r in found) == Counter(lines)
    for user in {r.key for r in found if r.key is not None}:
        mine = [(r.partition, r.offset, r.value) for r in found if r.key == user]
        assert len({partition for partition, _, _ in mine}) == 1
        assert [v + b"\n" for _, _, v in sorted(mine)] == [x for x in lines if b'"%s"' % user in x]


@kafka
def test_another_topic_can_be_named_and_must_exist(broker: Broker, tmp_path: Path) -> None:
    config = create_topics(kafka_config(broker))
    path = write_config(tmp_path / "shoal.toml", config)
    (tmp_path / "e.jsonl").write_bytes(line(1))
    with pytest.raises(TopicsMissing, match=r"--create --topic \S+other\.topic "):
        run(str(tmp_path / "e.jsonl"), "--config", str(path), "--topic", "other.topic")
    run(str(tmp_path / "e.jsonl"), "--config", str(path), "--topic", "segment.changes", "--rate", "100")
    assert len(read_committed(config, "segment.changes")) == 1


@kafka
def test_a_record_that_the_broker_cannot_take_is_named(broker: Broker, tmp_path: Path) -> None:
    config = create_topics(kafka_config(broker))
    path = write_config(tmp_path / "shoal.toml", config)
    (tmp_path / "e.jsonl").write_bytes(line(1, query="x" * 2_000_000))
    with pytest.raises(InputError, match=r"e\.jsonl, record 2: .*MessageSizeTooLarge"):
        run(str(tmp_path / "e.jsonl"), "--config", str(path))
