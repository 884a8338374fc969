"""What exactly once costs is measured on the same engine, the same input and the same broker."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path

import orjson
import pytest
from broker import Broker

from shoal.stream.benchmarks import guarantee
from shoal.stream.benchmarks.pipeline import simulated
from shoal.stream.ports import ShoalError


def test_events_are_sent_with_the_present_as_their_time_and_an_id_of_their_own(tmp_path: Path) -> None:
    """However often the file is begun again: a repeated id would be a duplicate, an old time no latency."""
    events = simulated(tmp_path / "events.jsonl", 50)
    before_ms = time.time_ns() // 1_000_000
    made = [orjson.loads(value) for _, value in islice(guarantee._stamped(events), 120)]
    assert len({event["event_id"] for event in made}) == 120
    assert all(before_ms <= event["event_time"] <= before_ms + 60_000 for event in made)


def test_the_table_names_both_sides_and_their_ratio() -> None:
    row = {"events_per_s": 30_000.0, "p50_ms": 31.2, "p99_ms": 71.0, "changes": 900.0}
    plain = row | {"events_per_s": 33_000.0, "p99_ms": 40.0}
    contestants = {"exactly-once": row, "at-least-once": plain}
    text = guarantee.render(
        {"rounds": 3, "rate": 5000, "contestants": contestants, "share_of_speed": 30 / 33, "machine": {}}
    )
    assert "at 0.91 of the speed" in text
    assert "| exactly-once | 30,000 | 31 ms | 71 ms |" in text
    assert "| at-least-once | 33,000 | 31 ms | 40 ms |" in text


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("name", guarantee.NAMES)
def test_both_sides_read_the_whole_topic(broker: Broker, tmp_path: Path, name: str) -> None:
    events = simulated(tmp_path / "events.jsonl", 3000)
    assert guarantee._rate(name, events, 3000, broker.address)["events_per_s"] > 0


def test_a_side_that_fails_says_so_and_names_the_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarantee, "fill_topic", lambda *_: ["no.such=key"])
    with pytest.raises(ShoalError, match=r"exactly-once ended with exit code .* 127\.0\.0\.1:1"):
        guarantee._rate("exactly-once", tmp_path, 1, "127.0.0.1:1")
