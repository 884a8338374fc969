"""The benchmark compares like with like, and its table says what was measured, and where."""

import math
import time

import orjson
import pytest
from shop import events, small

from shoal.stream import kernels
from shoal.stream.benchmarks import contestants, pipeline, recovery, recovery_runs
from shoal.stream.benchmarks.river_pipeline import RiverPipeline, User
from shoal.stream.events import Records
from shoal.stream.features import Features
from shoal.stream.ports import ShoalError
from shoal.stream.users import Users
from shoal.stream.windows import PARTS
from shoal.stream.wire import Decoder
from shoal.stream.wiring import file_ports

T0 = 1_700_000_000_000
ONE_USER = [
    {"type": "view", "items": [{"id": "a", "category": ["x"]}]},
    {"type": "purchase", "value": 12.5, "items": [{"id": "a", "quantity": 2}, {"id": "b", "quantity": 1}]},
    {"type": "cart_add", "value": 3.0, "items": [{"id": "c"}]},
    {"type": "cart_remove", "items": [{"id": "c"}]},
    {"type": "refund", "value": 2.5, "items": [{"id": "a", "quantity": 1}]},
    {"type": "dwell", "dwell_ms": 7000},
    {"type": "never heard of"},
]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Valid events of the small shop, one per line: the peer has no notion of a bad record."""
    path = tmp_path_factory.mktemp("bench") / "events.jsonl"
    good = [value for value in events() if value and not Decoder(small().input).decode(_records([value]))[1]]
    path.write_bytes(b"\n".join(good[:1500]) + b"\n")
    return path


def _records(values):
    base = Records.empty()
    return Records(base.partitions, base.offsets, [None] * len(values), values)


def test_the_peer_builds_the_same_columns_with_the_same_values():
    """Every column of Shoal's row; counts, sums, distinct items and tenure agree where nothing has expired."""
    config = small()
    documents = [
        {"event_id": str(i), "user_id": "u", "event_time": T0 + 1000 * i, **event}
        for i, event in enumerate(ONE_USER)
    ]
    peer = RiverPipeline(config)
    one = User((h.window_ms for h in config.features.horizons), config.features.interest_dim, T0)
    for document in documents:
        x = peer.row(one, document, document["event_time"])

    features, users = Features(config.features), Users(config.features)
    decoded, _ = Decoder(config.input).decode(_records([orjson.dumps(one) for one in documents]))
    slots = users.touch(decoded)
    features.update(slots, decoded)
    ours = features.rows(slots[:1], users, documents[-1]["event_time"])[0]
    assert set(x) == set(features.names)
    for name, value in zip(features.names, ours.tolist(), strict=True):
        if name.startswith("interest") or name in PARTS:
            continue  # the peer's is cruder: no prior in the shares, another idf
        assert x[name] == pytest.approx(math.copysign(math.log1p(abs(value)), value), rel=0.02), name


def test_contestants_read_the_events_they_were_told_to(clean, tmp_path):
    """Shoal in whole steps, the peer to the event; both say how long it took and how much they wrote."""
    ours = contestants.shoal(small(), file_ports(str(clean), str(tmp_path / "out")), 600)
    assert 600 <= ours["events"] < 600 + 256
    peer = contestants._river_file(small(), clean, 600)
    assert peer["events"] == 600
    assert min(ours["seconds"], peer["seconds"], ours["changes"], peer["changes"]) > 0


def test_the_warm_up_reaches_everything_that_is_timed(monkeypatch):
    """It seeds, learns and tries a publication: otherwise a kernel would be compiled while the clock runs."""
    built = []

    def remember(config, *probe):
        built.append(original(config, *probe))
        return built[-1]

    original = kernels.build_pipeline
    monkeypatch.setattr(kernels, "build_pipeline", remember)
    kernels.compile_kernels(small("segmenter.warmup_rows=100000", "encoder.publish_every_rows=1000000"))
    assert built[0].warmup.done
    assert built[0].chain.step > 3
    assert built[0].publisher.version >= 1


def test_the_table_says_what_was_measured_and_where():
    """Rates with their spread, the ratio, memory, stages, commits; processor, cores and versions."""
    shoal = {
        "seconds": 1.0,
        "changes": 7,
        "peak_bytes": 2**20,
        "steps": 3,
        "commit_p50_s": 0.002,
        "commit_p99_s": 0.004,
    }
    shoal |= {
        "stages": {"poll": 0.001, "decode": 0.5},
        "cpu": {"poll": 0.0005, "decode": 0.25, "others": 0.1},
    }
    runs = {
        "shoal-file": [{**shoal, "events": n} for n in (900, 1000, 5000)],
        "river-file": [{"events": 100, "seconds": s, "changes": 1, "peak_bytes": 1} for s in (1.0, 2.0, 1.0)],
    }
    table = pipeline._medians(runs)
    assert table["shoal-file"]["times_river"] == 20  # of 9, 20 and 50: each against the peer of its own round
    missing = {"shoal-kafka-confluent": "not installed (pip install x)"}
    text = pipeline.render(
        {"machine": pipeline.machine(), "rounds": 3, "contestants": table, "missing": missing}
    )
    assert "| shoal-file | 1,000 | 1,000 (900 to 5,000) | 20.0 | 7 | 1 MiB |" in text
    assert "| shoal-file | 1.00 | 500.00 | 501.00 |" in text
    assert "| shoal-file | 0.50 | 250.00 | 100.00 | 350.50 |" in text
    assert "shoal-kafka-confluent: not installed (pip install x)" in text
    assert "| shoal-file | 3 | 2.0 ms | 4.0 ms |" in text
    assert "cores" in text
    for name in ("python", *pipeline.PACKAGES):
        assert f"{name} " in text


@pytest.mark.slow
def test_a_contestant_that_fails_says_why_in_one_line(tmp_path):
    """No traceback, and no path but what the caller named."""
    with pytest.raises(ShoalError, match=r"exit code 1 and said: .*absent.jsonl"):
        pipeline._contestant("shoal-file", tmp_path / "absent.jsonl", 10, [])


USERS, LATER = 400, 600


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A small state with one snapshot, and some steps after it."""
    folder = tmp_path_factory.mktemp("recovery")
    built = recovery_runs.build(small(), folder, USERS)
    lived = recovery_runs.live(small("engine.step_records_max=50"), folder, USERS, LATER, 1000.0)
    return folder, built, lived


def test_a_recovery_takes_the_snapshot_and_replays_what_came_after_it(killed):
    """Nothing before the snapshot is computed again, and nothing new is committed: it can be measured again."""
    folder, built, lived = killed
    assert built["users"] == USERS
    assert (lived["events"], lived["steps"]) == (LATER, 12)
    for _ in range(2):
        found = recovery_runs.recover(small(), folder, USERS, LATER, 1000.0, time.time())
        assert found["steps"] == 12
        assert len(found["stages"]) == 5
        assert min(found["stages"].values()) > 0
        assert found["ready_s"] == pytest.approx(sum(found["stages"].values()))


def test_pauses_are_measured_beside_a_living_engine(tmp_path):
    """Snapshots come about while steps are made; turns with and without one are kept apart."""
    found = recovery_runs.pause(small("engine.step_records_max=20"), tmp_path, USERS, 2000, 1000.0)
    assert found["snapshots"] > 1
    assert min(found["pause_s"], found["seconds"]) > 0
    assert sum(row["count"] for row in found["turns"].values()) == 100 - 1
    assert min(row["count"] for row in found["turns"].values()) > 0


def test_the_recovery_table_says_where_the_time_went(killed):
    """Ready after how long, in all rounds; stage by stage; replay against live; pauses."""
    rounds = [
        {
            "ready_s": s,
            "events": 6000,
            "steps": 60,
            "stages": {"restoring": 1.0, "replaying": s - 1},
            "peak_bytes": 2**30,
        }
        for s in (9.0, 3.0, 4.0)
    ]
    recovered = recovery._medians(rounds)
    assert recovered["ready_s"] == 4
    assert recovered["replay_events_per_s"] == 2000
    row = {"count": 5, "p50_s": 0.01, "p99_s": 0.02, "max_s": 0.03}
    text = recovery.render(
        {
            "machine": pipeline.machine(),
            "rate": 250.0,
            "minutes": 2.0,
            "build": {**killed[1], "snapshot_bytes": 2**20},
            "live": {"events_per_s": 1000.0},
            "recover": recovered,
            "pause": {
                "users": 7,
                "snapshots": 3,
                "size_bytes": 2**21,
                "seconds": 0.5,
                "pause_s": 0.0123,
                "turns": {"alone": row},
            },
        }
    )
    assert "Ready after 4.0 s (all rounds: 9.0, 3.0, 4.0; goal 5)" in text
    assert "| replaying | 3.00 |" in text
    assert "| arrival | 250 | 8.0 (goal 5) |" in text
    assert "| live, flat out, committed to files | 1,000 | 2.0 |" in text
    assert "waited 12.3 ms at most (goal 100)" in text
    assert "| alone | 5 | 10.0 ms | 20.0 ms | 30.0 ms |" in text


@pytest.mark.slow
def test_a_recovery_role_that_fails_says_why_in_one_line(tmp_path):
    """No traceback."""
    with pytest.raises(ShoalError, match=r"recover ended with exit code 1 and said: .*unknown section"):
        recovery._role("recover", tmp_path, 10, 10, 1000.0, ["no.such=1"])
