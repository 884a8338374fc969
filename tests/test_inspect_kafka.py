"""shoal inspect on a real Kafka, beside engines that run: nobody notices who looks."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from broker import Broker
from kafka_kit import create_topics, eventually, kafka_config, read_committed, send
from processes import engine as process
from processes import shoal, write_config
from shop import events

from shoal.stream.config import Kafka
from shoal.stream.events import CHANGES, MANIFEST

pytestmark = pytest.mark.kafka


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def read(kafka: Kafka) -> int:
    return sum(json.loads(r.value)["counts"]["records"] for r in read_committed(kafka, MANIFEST))


def asked(url: str) -> tuple[int, dict]:
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


def test_users_of_running_engines_are_inspected_and_a_forged_change_is_found(broker: Broker, tmp_path: Path):
    """The one that works answers, the one that stands by says so; topics and HTTP tell the same story."""
    kafka = create_topics(kafka_config(broker, partitions=2))
    sections = {
        "segmenter": {"warmup_rows": 40, "segments": 4}, "time": {"future_skew_ms": 0},
        "membership": {"margin": 0.0, "confirmations": 1}, "features": {"keep_ms": 10**14},
    }  # fmt: skip
    paths, ports = [], []
    for name in ("one", "two"):
        ports.append(free_port())
        folder = {"step_records_max": 200, "snapshot_every_steps": 5, "state_dir": str(tmp_path / name)}
        http = {"port": ports[-1]}
        paths.append(write_config(tmp_path / f"{name}.toml", kafka, engine=folder, http=http, **sections))
    rows = [(i % 2, b"%d" % i, value) for i, value in enumerate(events()[:2500])]
    send(kafka, rows)
    with process(paths[0], tmp_path / "log1") as working, process(paths[1], tmp_path / "log2") as standing:
        eventually(lambda: read(kafka) == len(rows) or working.must_run() or standing.must_run(), 90)
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        eventually(lambda: sorted(asked(f"{url}/v1/quality")[0] for url in urls) == [200, 503], 30)
        (url,) = (url for url in urls if asked(f"{url}/v1/segments")[0] == 200)
        (other,) = (one for one in urls if one != url)
        eventually(
            lambda: "standby" in asked(f"{other}/v1/segments")[1]["detail"], 30
        )  # it was still starting
        assert asked(f"{other}/v1/segments")[1]["code"] == "not_running"
        own = [json.loads(r.value) for r in read_committed(kafka, CHANGES)]
        keys = [change["user"]["key"] for change in own]
        key = max(sorted(set(keys)), key=keys.count)
        own = [change for change in own if change["user"]["key"] == key]
        _, why = asked(f"{url}/v1/users/{quote(key, safe='')}/why")
        assert why["last_change"] == own[-1]
        path = paths[urls.index(url)]
        done = shoal("inspect", "user", key, "--config", str(path), "--check", "--json")
        assert done.returncode == 0, done.stderr
        body = json.loads(done.stdout)
        assert body["history"] == own
        assert body["portrait"]["segment"] == why["segment"]
        assert body["check"]["agree"] + body["check"]["earlier"] == len(own)
        done = shoal("inspect", "segments", "--url", url, "--json")
        assert json.loads(done.stdout)["total"] == asked(f"{url}/v1/segments")[1]["total"]
        assert key not in working.text() + standing.text(), "user ids are in no log"
        working.must_run()
        standing.must_run()
    forged = read_committed(kafka, CHANGES)
    partition = next(r.partition for r in forged if r.key == key.encode())
    value = own[-1] | {"position": own[-1]["position"] | {"sequence": own[-1]["position"]["sequence"] + 1}}
    send(kafka, [(partition, key.encode(), json.dumps(value).encode())], CHANGES)
    done = shoal("inspect", "user", key, "--config", str(path), "--check")
    assert done.returncode == 6, done.stderr
    assert "a change of this user that no step publishes" in done.stderr
