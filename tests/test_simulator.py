"""The simulator: everything from the seed, truth for everybody, and counts that can be compared exactly."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import CliRunner

from shoal.stream.commands.simulate import choose_personas, command, paced, parse_corrupt
from shoal.stream.events import Reason
from shoal.stream.ports import InputError
from shoal.stream.simulation.personas import BROWSE_TYPES, DEPARTMENTS, PERSONAS, Tables, catalogue, pick
from shoal.stream.simulation.population import DAY_MS, Settings, Span
from shoal.stream.simulation.simulator import Simulator

SMALL = Settings(users=120, events=3000)
EVERY_FAULT = replace(
    SMALL,
    events=6000,
    boundary=0.1,
    bots=2,
    anonymous=0.2,
    duplicates=0.03,
    late=0.01,
    future=0.005,
    absurd=0.005,
    corrupt=tuple((reason.value, 0.004) for reason in Reason),
    disorder_ms=60_000,
    drift="abrupt",
)


def records(settings: Settings) -> list[bytes | None]:
    return [value for batch in Simulator(settings).batches() for value in batch.values]


def events(settings: Settings) -> list[dict]:
    return [orjson.loads(value) for value in records(settings) if value]


def spans(settings: Settings) -> dict[str, list[Span]]:
    by_user: dict[str, list[Span]] = {}
    for span in Simulator(settings).truth():
        by_user.setdefault(span.user_id, []).append(span)
    return by_user


def share(found: list[dict], *types: str) -> float:
    return sum(event["type"] in types for event in found) / len(found)


# --- the seed --------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_truth() -> None:
    assert records(EVERY_FAULT) == records(EVERY_FAULT)
    assert Simulator(EVERY_FAULT).truth() == Simulator(EVERY_FAULT).truth()


def test_asking_twice_for_batches_begins_anew() -> None:
    simulator = Simulator(EVERY_FAULT)
    first = [batch.values for batch in simulator.batches()]
    planted = simulator.planted
    assert [batch.values for batch in simulator.batches()] == first
    assert simulator.planted == planted


def test_another_seed_gives_other_people() -> None:
    assert records(SMALL) != records(replace(SMALL, seed=2))


def test_the_bytes_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    code = (
        "import sys\nfrom shoal.stream.commands.simulate import command\n"
        "command(['--users', '80', '--events', '1500', '--corrupt', '0.05', '--duplicates', '0.02', "
        "'--boundary', '0.2', '--births', '1', '--deaths', '1', '--drift', 'abrupt'])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1234")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 100_000


def test_mishaps_do_not_change_what_people_do() -> None:
    """Behaviour and mishaps have generators of their own."""
    calm = {event["event_id"]: event["type"] for event in events(replace(SMALL, events=None, days=2.0))}
    noisy = replace(EVERY_FAULT, boundary=0.0, bots=0, drift="none", events=None, days=2.0)
    found = [value for value in events_that_parse(noisy) if value["event_id"] in calm]
    assert len(found) > 1000
    assert all(event["type"] == calm[event["event_id"]] for event in found if isinstance(event["type"], str))


def events_that_parse(settings: Settings) -> list[dict]:
    found = []
    for value in records(settings):
        try:
            found.append(orjson.loads(value or b""))
        except orjson.JSONDecodeError:
            continue
    return [event for event in found if isinstance(event.get("event_id"), str)]


# --- records ---------------------------------------------------------------------------------------------


def test_events_are_counted_exactly() -> None:
    for wanted in (1, 777, 9000):
        assert len(records(replace(SMALL, events=wanted))) == wanted


def test_with_days_and_events_people_are_busier_so_that_both_fit() -> None:
    found = events(replace(SMALL, users=300, events=20_000, days=5.0))
    times = [event["event_time"] for event in found]
    assert 0.8 * 5 < (max(times) - min(times)) / DAY_MS < 1.3 * 5


def test_records_come_in_the_order_of_their_arrival() -> None:
    arrivals = np.concatenate([batch.arrival_ms for batch in Simulator(EVERY_FAULT).batches()])
    assert (np.diff(arrivals) >= 0).all()


def test_events_have_what_their_type_needs() -> None:
    for event in events(replace(SMALL, events=5000)):
        assert ("query" in event) == (event["type"] == "search")
        assert ("items" not in event) == (event["type"] in ("search", "login"))
        money = ("cart_add", "cart_remove", "checkout", "purchase", "refund")
        assert (event.get("value", 0) > 0) == (event["type"] in money)
        if event["type"] == "rate":
            assert 1 <= event["rating"] <= 5


def test_the_value_of_a_purchase_is_the_sum_of_its_items() -> None:
    bought = [event for event in events(replace(SMALL, events=8000)) if event["type"] == "purchase"]
    assert any(len(event["items"]) > 1 for event in bought)
    for event in bought:
        total = sum(item["price"] * item["quantity"] for item in event["items"])
        assert event["value"] == pytest.approx(total, abs=0.01)


def test_uncorrupted_events_are_valid_for_the_decoder() -> None:
    wire = pytest.importorskip("shoal.stream.wire")
    from shoal.stream.config import Config
    from shoal.stream.events import Records

    values = records(replace(EVERY_FAULT, corrupt=(), duplicates=0.0))
    n = len(values)
    batch = Records(np.zeros(n, np.int32), np.arange(n), (None,) * n, values)
    decoded, rejects = wire.Decoder(Config().input).decode(batch)
    assert rejects == []
    assert len(decoded) == n


def test_every_kind_of_corruption_is_rejected_with_its_own_reason() -> None:
    wire = pytest.importorskip("shoal.stream.wire")
    from shoal.stream.config import Config
    from shoal.stream.events import Records

    simulator = Simulator(EVERY_FAULT)
    values = [value for batch in simulator.batches() for value in batch.values]
    n = len(values)
    batch = Records(np.zeros(n, np.int32), np.arange(n), (None,) * n, values)
    _, rejects = wire.Decoder(Config().input).decode(batch)
    assert Counter(reject.reason.value for reject in rejects) == simulator.planted.rejected
    assert set(simulator.planted.rejected) == {reason.value for reason in Reason}


# --- truth -----------------------------------------------------------------------------------------------


def test_truth_covers_every_user_from_the_first_day_without_gaps() -> None:
    settings = replace(EVERY_FAULT, events=None, days=20.0, births=PERSONAS[8:10], deaths=2, drift_share=0.4)
    by_user = spans(settings)
    assert len(by_user) == settings.users
    for of_user in by_user.values():
        assert of_user[0].from_ms == settings.start_ms
        assert of_user[-1].to_ms == settings.start_ms + 20 * DAY_MS + 1
        assert all(a.to_ms == b.from_ms for a, b in pairwise(of_user))
        assert all(span.from_ms < span.to_ms for span in of_user)


def test_truth_names_every_user_that_sends_events() -> None:
    names = {event.get("user_id") or event.get("anonymous_id") for event in events(SMALL)}
    assert names <= set(spans(SMALL))


def test_people_behave_like_their_persona() -> None:
    """What the truth says shows in the events: departments, hours and types."""
    settings = replace(SMALL, users=200, events=20_000, stray=0.0)
    persona = {user: of_user[0].persona for user, of_user in spans(settings).items()}
    by_persona: dict[str, list[dict]] = {}
    for event in events(settings):
        by_persona.setdefault(persona[event["user_id"]], []).append(event)
    assert set(by_persona) == {p.name for p in PERSONAS[:8]}
    assert share(by_persona["night_gamer"], "play") > 0.3
    assert share(by_persona["weekly_grocer"], "cart_add") > 0.4
    assert share(by_persona["cart_abandoner"], "purchase") < 0.02
    hours = [event["event_time"] // 3_600_000 % 24 for event in by_persona["night_gamer"]]
    assert np.mean([hour >= 19 or hour < 6 for hour in hours]) > 0.85
    for name, found in by_persona.items():
        seen = Counter(event["items"][0]["category"][0] for event in found if "items" in event)
        favourite = max(next(p for p in PERSONAS if p.name == name).departments.items(), key=lambda d: d[1])[
            0
        ]
        assert seen.most_common(1)[0][0] == favourite


# --- the knobs -------------------------------------------------------------------------------------------


def test_duplicates_are_the_same_bytes_again_and_as_many_as_planted() -> None:
    settings = replace(SMALL, events=10_000, duplicates=0.05)
    simulator = Simulator(settings)
    values = [value for batch in simulator.batches() for value in batch.values]
    assert len(values) - len(set(values)) == simulator.planted.duplicates
    assert 0.04 < simulator.planted.duplicates / len(values) < 0.06


def test_disorder_delays_arrivals_by_no_more_than_asked() -> None:
    for disorder_ms in (0, 60_000):
        settings = replace(SMALL, disorder_ms=disorder_ms)
        times, arrivals = [], []
        for batch in Simulator(settings).batches():
            times += [orjson.loads(value or b"")["event_time"] for value in batch.values]
            arrivals += batch.arrival_ms.tolist()
        delay = np.array(arrivals) - np.array(times)
        assert delay.min() >= 0
        assert delay.max() <= disorder_ms
        assert (np.diff(times) < 0).any() == bool(disorder_ms)


def test_late_and_future_records_are_as_many_as_planted() -> None:
    simulator = Simulator(replace(SMALL, late=0.02, future=0.02, absurd=0.02))
    late = future = absurd = 0
    for batch in simulator.batches():
        for arrival_ms, value in zip(batch.arrival_ms.tolist(), batch.values, strict=True):
            event = orjson.loads(value or b"")
            late += event["event_time"] < arrival_ms - 44 * DAY_MS
            future += event["event_time"] > arrival_ms + 366 * DAY_MS
            absurd += event.get("value", 0) == 1e308
    planted = simulator.planted
    assert (late, future, absurd) == (planted.late, planted.future, planted.absurd)
    assert min(late, future, absurd) > 20


def test_bots_send_many_times_more_than_people() -> None:
    settings = replace(SMALL, bots=2, events=None, days=3.0)
    bots = {user for user, of_user in spans(settings).items() if of_user[0].bot}
    sent = Counter(event["user_id"] for event in events(settings))
    assert len(bots) == 2
    typical = np.median([count for user, count in sent.items() if user not in bots])
    assert all(sent[user] > 20 * typical for user in bots)


def test_boundary_users_are_as_many_as_asked_and_use_both_personas() -> None:
    settings = replace(SMALL, boundary=0.25, events=None, days=21.0, stray=0.0)
    mixed = {user: s[0] for user, s in spans(settings).items() if s[0].boundary}
    assert len(mixed) == 30
    assert all(span.other != span.persona for span in mixed.values())
    gamers = {u for u, s in mixed.items() if {s.persona, s.other} == {"night_gamer", "weekly_grocer"}}
    seen: dict[str, set[str]] = {user: set() for user in gamers}
    for event in events(settings):
        if event["user_id"] in gamers and "items" in event:
            seen[event["user_id"]].add(event["items"][0]["category"][0])
    assert gamers
    assert all({"Games", "Groceries"} <= departments for departments in seen.values())


def test_anonymous_users_never_give_a_user_id() -> None:
    settings = replace(SMALL, anonymous=0.3)
    anonymous = {user for user, of_user in spans(settings).items() if of_user[0].anonymous}
    assert 20 < len(anonymous) < 55
    for event in events(settings):
        assert ("user_id" in event) != ("anonymous_id" in event)
        assert ("anonymous_id" in event) == ((event.get("anonymous_id") or event["user_id"]) in anonymous)


def test_an_abrupt_drift_moves_the_asked_share_at_the_asked_time() -> None:
    settings = replace(SMALL, events=None, days=10.0, drift="abrupt", drift_share=0.3, drift_at=0.5)
    moved = [of_user for of_user in spans(settings).values() if len(of_user) == 2]
    assert len(moved) == 36
    assert all(before.to_ms == settings.start_ms + 5 * DAY_MS for before, _ in moved)
    assert all(before.persona != after.persona for before, after in moved)


def test_a_slow_drift_moves_habits_and_nobody_changes_persona() -> None:
    still = replace(SMALL, events=None, days=14.0, personas=PERSONAS[:1])
    moving = replace(still, drift="slow", drift_share=1.0)
    assert all(len(of_user) == 1 for of_user in spans(moving).values())

    def fashion(settings: Settings, last_day: bool) -> float:
        cut_ms = settings.start_ms + (12 if last_day else 2) * DAY_MS
        found = [e for e in events(settings) if "items" in e and (e["event_time"] > cut_ms) == last_day]
        return float(np.mean([event["items"][0]["category"][0] == "Fashion" for event in found]))

    assert abs(fashion(still, True) - fashion(still, False)) < 0.05
    assert fashion(moving, True) < fashion(moving, False) - 0.1


def test_a_born_persona_has_users_only_after_its_birth_and_a_dead_one_only_before_its_death() -> None:
    settings = replace(SMALL, events=None, days=20.0, births=PERSONAS[8:9], deaths=1, boundary=0.2)
    flat = [span for of_user in spans(settings).values() for span in of_user]
    end_ms = settings.start_ms + 20 * DAY_MS
    born = [span for span in flat if span.persona == PERSONAS[8].name]
    dead = [span for span in flat if PERSONAS[0].name in (span.persona, span.other)]
    assert len(born) > 5
    assert all(span.from_ms >= settings.start_ms + 10 * DAY_MS for span in born)
    assert len(dead) > 5
    assert all(span.to_ms < end_ms for span in dead)


@pytest.mark.parametrize(
    "wrong",
    [
        {"duplicates": 0.6},
        {"boundary": 1.5},
        {"bots": 500},
        {"deaths": 8},
        {"drift": "sideways"},
        {"corrupt": (("gremlins", 0.1),)},
        {"users": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        Simulator(replace(SMALL, **wrong))


# --- personas --------------------------------------------------------------------------------------------


def test_personas_are_distinct_and_spell_their_habits_right() -> None:
    assert len({persona.name for persona in PERSONAS}) == len(PERSONAS) >= 8
    for persona in PERSONAS:
        assert set(persona.browse) <= set(BROWSE_TYPES)
        assert set(persona.departments) <= set(DEPARTMENTS)


def test_a_week_has_as_many_visits_as_the_rate_says_whatever_the_weekends() -> None:
    tables = Tables.of(PERSONAS)
    assert tables.visits.sum(axis=1) == pytest.approx([7 * p.visits_per_day for p in PERSONAS])


def test_pick_equals_a_search_row_by_row() -> None:
    rng = np.random.default_rng(0)
    cumulative = np.cumsum(rng.random((5, 7)), axis=1)
    cumulative /= cumulative[:, -1:]
    rows, u = rng.integers(0, 5, 500), rng.random(500)
    wanted = [int(np.searchsorted(cumulative[row], x, side="right")) for row, x in zip(rows, u, strict=True)]
    assert pick(u, cumulative, rows).tolist() == wanted


def test_the_catalogue_is_the_same_for_every_seed() -> None:
    assert catalogue().items == catalogue().items
    assert len({item["id"] for item in catalogue().items}) == len(catalogue().items)


# --- the command -----------------------------------------------------------------------------------------


def test_the_command_writes_the_same_compressed_file_twice_and_the_truth(tmp_path: Path) -> None:
    outputs = []
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        path, truth = tmp_path / name, tmp_path / f"{name}.truth.json"
        arguments = ["--users", "50", "--events", "500", "--corrupt", "tombstone=0.02", "--json"]
        result = CliRunner().invoke(command, [*arguments, "--output", str(path), "--truth", str(truth)])
        assert result.exit_code == 0, result.output
        outputs.append((path.read_bytes(), truth.read_bytes()))
        planted = orjson.loads(result.stdout)
    assert outputs[0] == outputs[1]
    lines = gzip.decompress(outputs[0][0]).split(b"\n")
    assert len(lines) == 501
    assert lines[:-1].count(b"") == planted["rejected"]["tombstone"] > 0
    truth = orjson.loads(outputs[0][1])
    assert truth["planted"] == planted
    assert {"user_id", "persona", "from_ms", "to_ms", "boundary", "bot"} <= set(truth["users"][0])


def test_without_an_output_the_events_go_to_stdout_and_the_counts_to_stderr() -> None:
    result = CliRunner().invoke(command, ["--users", "20", "--events", "50"])
    assert [len(orjson.loads(line)) > 3 for line in result.stdout.splitlines()] == [True] * 50
    assert "50 records" in result.stderr


def test_a_rate_changes_the_pace_and_not_the_records() -> None:
    settings = replace(SMALL, events=200)
    slow = [value for batch in paced(Simulator(settings).batches(), 1e6) for value in batch.values]
    assert slow == records(settings)


def test_personas_are_chosen_by_number_or_name() -> None:
    assert [p.name for p in choose_personas("2", 0)[0]] == [p.name for p in PERSONAS[:2]]
    first, later = choose_personas("night_gamer,researcher", 1)
    assert [p.name for p in first] == ["night_gamer", "researcher"]
    assert later[0] not in first
    with pytest.raises(InputError, match="night_gamer"):
        choose_personas("night_gamr", 0)


def test_corruption_is_spread_evenly_or_named() -> None:
    assert sum(part for _, part in parse_corrupt("0.09")) == pytest.approx(0.09)
    assert parse_corrupt("json=0.01,time=0.02") == (("json", 0.01), ("time", 0.02))
    with pytest.raises(InputError):
        parse_corrupt("json:0.01")


@pytest.mark.kafka
def test_into_kafka_every_record_goes_with_its_user_as_key(broker: Any) -> None:
    from kafka_kit import create_topics, kafka_config, read_committed

    config = create_topics(kafka_config(broker))
    places = ("bootstrap_servers", "topic_prefix")
    settings = [part for name in places for part in ("--set", f"kafka.{name}={getattr(config, name)}")]
    arguments = ["--users", "20", "--events", "300", "--corrupt", "tombstone=0.02", "--to-kafka", "--json"]
    result = CliRunner().invoke(command, [*arguments, *settings])
    assert result.exit_code == 0, (result.output, result.exception)
    found = read_committed(config, config.events_topic)
    assert len(found) == orjson.loads(result.stdout)["records"] == 300
    for record in found:
        if record.value:
            assert record.key == orjson.loads(record.value)["user_id"].encode()
    assert sum(not record.value for record in found) == orjson.loads(result.stdout)["rejected"]["tombstone"]
