"""The endurance benchmark: what it calls flat, whom it lets pass, and what it says it saw."""

import json
import sys

import numpy as np
import orjson
import pytest
from click.testing import CliRunner

from shoal.stream.benchmarks import endurance, endurance_runs, state_sizes
from shoal.stream.benchmarks.endurance_events import Passing
from shoal.stream.commands.bench import command
from shoal.stream.config import load
from shoal.stream.pipeline import STATEFUL
from shoal.stream.ports import InputError, ShoalError
from shoal.stream.wire import Decoder
from shoal.stream.wiring import build_pipeline

FEW = (
    "features.users_max=64",
    "engine.step_records_max=32",
    "encoder.kind=linear",
    "segmenter.warmup_rows=60",
)


def samples(memory, speed, p99=None):
    """One for each of the values given."""
    p99 = p99 or [0.1] * len(memory)
    return [
        {
            "resident_bytes": m,
            "events_per_s": s,
            "events_per_cpu_s": s,
            "step_p99_s": p,
            "us_per_event": {"x": 1e6 / s},
        }
        for m, s, p in zip(memory, speed, p99, strict=True)
    ]


def run(taken, **changes):
    base = {
        "samples": taken,
        "before_bytes": 40,
        "users_kept": 10,
        "parts": {"a": 30, "b": 40},
        "stages": {"making the events": 0.5},
        "cpu_s": 10.0,
    }
    return endurance.judged(base | changes)


@pytest.mark.parametrize(
    ("last", "is_flat"), [(100, True), (110, True), (111, False), (50, True), (200, False)]
)
def test_memory_is_flat_while_the_last_quarter_has_a_tenth_more_than_the_second_at_most(last, is_flat):
    """The first quarter fills the state: it is not asked. Less is no fault."""
    judged = run(samples([1, 50, 100, 100, 100, 100, last, last], [9] * 8))
    assert judged["flat"] == {"memory": is_flat, "speed": True}


@pytest.mark.parametrize(
    ("last", "is_flat"), [(100, True), (90, True), (89, False), (300, True), (10, False)]
)
def test_speed_is_flat_while_the_last_quarter_is_a_tenth_slower_than_the_second_at_most(last, is_flat):
    judged = run(samples([9] * 8, [700, 900, 100, 100, 5, 5, last, last]))
    assert judged["flat"] == {"memory": True, "speed": is_flat}


def test_one_odd_sample_decides_nothing():
    """Medians: a slice beside a busy neighbour does not look like a slow-down. Of step times the worst counts."""
    taken = samples([9] * 12, [9] * 9 + [1, 9, 9], [0.1] * 9 + [0.4, 0.1, 0.1])
    judged = run(taken)
    assert judged["flat"]["speed"]
    assert judged["change"]["step_p99_s"] == pytest.approx(3.0)


def test_a_user_costs_what_has_come_since_before_the_first_event():
    judged = run(samples([90] * 8, [9] * 8))
    assert judged["bytes_per_user"] == 5.0
    assert judged["state_bytes_per_user"] == 7.0
    assert judged["generator_share"] == 0.05


def test_too_few_samples_are_refused():
    with pytest.raises(ShoalError, match="3 samples are too few for four quarters"):
        endurance.quarters_of(samples([1] * 3, [1] * 3))
    with pytest.raises(InputError, match="--slices is 7: wanted at least 8"):
        endurance.measure(["long"], 10, 10, 100, 1.0, 7, (), echo=False)


@pytest.mark.parametrize("name", endurance.SCENARIOS)
@pytest.mark.parametrize(
    "sizes", [(1_000_000, 10_000_000, 20_000_000), (1000, 1000, 4000), (1000, 9000, 4001)]
)
def test_every_scenario_can_be_drawn(name, sizes):
    """At the sizes of the issue, and at small ones; `resident` has everybody, `passing` lets all of them pass."""
    cap, users, events = endurance.scenario(name, *sizes)
    Passing(cap, users, events, 1.0)
    if name == "passing":
        assert (cap, users) == sizes[:2]
    if name == "resident":
        assert cap == users == sizes[0]
    if name == "long":
        assert events == sizes[2]


def test_everybody_passes_once_and_visits_are_of_the_newest():
    """First the users of the cap, then new ones in turn and evenly to the end, each after those before it."""
    cap, users, events = 50, 400, 1000
    who = Passing(cap, users, events, 1.0).who(np.arange(events))
    assert who[:cap].tolist() == list(range(cap))
    first = np.unique(who, return_index=True)[1]
    assert len(first) == users
    assert (np.diff(first) > 0).all()
    assert np.diff(first[cap:]).max() <= 3  # 350 of 950
    newest = np.maximum.accumulate(who)
    assert (newest - who < cap).all()


def test_any_cut_gives_the_same_records_and_all_of_them_are_valid():
    """A record is a function of its offset: whole numbers where the contract wants them, one length, in order."""
    source = Passing(20, 60, 200, 2.0)
    whole = source.records(0, 200)
    parts = [source.records(start, start + 33) for start in range(0, 200, 33)]
    assert [value for part in parts for value in part.values] == whole.values
    events, rejects = Decoder(load(None, [], environ={}).input).decode(whole)
    assert not rejects
    assert len({len(value) for value in whole.values}) == 1
    assert (np.diff(events.time_ms) >= 0).all()
    assert events.time_ms[-1] - events.time_ms[0] == pytest.approx(2 * 86_400_000, rel=0.02)
    assert len(set(events.event_key.tolist())) == 200
    documents = [orjson.loads(value) for value in whole.values]
    assert [int(one["user_id"][1:]) for one in documents] == source.who(np.arange(200)).tolist()
    assert len({one["type"] for one in documents}) > 8


@pytest.mark.parametrize("sizes", [(50, 40, 400), (10, 300, 200), (50, 60, 199)])
def test_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(InputError, match="four events for each at a time"):
        Passing(*sizes, 1.0)


def test_the_sizes_of_parts_are_those_of_what_they_hold():
    """Every part by name; one that holds arrays of 50,000 users has at least a number for each."""
    config = load(None, ["features.users_max=50000", "encoder.kind=linear"], environ={})
    sizes = state_sizes.sizes(build_pipeline(config))
    assert set(sizes) == set(STATEFUL)
    assert 50_000 * 8 < sizes["users"] < 50_000 * 256
    assert sizes["clock"] < 1 << 12


def test_arrays_are_counted_once_and_views_as_what_they_hold_on_to():
    array = np.zeros(1000, np.int64)
    assert state_sizes.size_of([array, array[:10], {"again": array}]) == pytest.approx(8000, abs=400)


def test_many_names_are_measured_by_a_sample():
    """As by measuring every one of them."""
    names = [f"user-{i:07d}" for i in range(5000)]
    every = sys.getsizeof(names) + sum(map(sys.getsizeof, names))
    assert state_sizes.size_of(names) == pytest.approx(every, rel=0.01)


def _here(monkeypatch):
    """The scenario runs in this process."""

    def run_here(sizes, days, slices, overrides, echo):
        config = load(None, [*FEW, f"features.users_max={sizes.users_cap}"], environ={})
        source = Passing(sizes.users_cap, sizes.users, sizes.events, days)
        result = endurance_runs.endure(config, source, slices, echo=False)
        asked = {"users_cap": sizes.users_cap, "users": sizes.users, "peak_bytes": 1 << 30}
        return json.loads(json.dumps({**asked, **result}))

    monkeypatch.setattr(endurance, "_run", run_here)


def test_the_command_lets_users_pass_and_says_what_stayed_flat(monkeypatch):
    """Every event is sampled, the cap is kept, and both verdicts are there."""
    _here(monkeypatch)
    words = [
        "endurance",
        "--scenario",
        "passing",
        "--users-cap",
        "64",
        "--users",
        "500",
        "--slices",
        "8",
        "--json",
    ]
    result = json.loads(CliRunner().invoke(command, words, catch_exceptions=False).stdout)
    passing = result["scenarios"]["passing"]
    assert [sample["events"] for sample in passing["samples"]][-1] == passing["events"] == 600
    assert {sample["users"] for sample in passing["samples"]} == {64}
    assert set(passing["flat"]) == {"memory", "speed"}
    assert passing["samples"][-1]["changes"] > 0
    text = endurance.render(result)
    assert "**passing**: 600 events of 500 users over 20 days, 64 at a time" in text
    assert "Last quarter against second: memory " in text
    passing["flat"] = {"memory": False, "speed": True}
    assert "(NOT flat: more than 10%)" in endurance.render(result)


@pytest.mark.slow
def test_a_scenario_is_a_process_of_its_own_that_says_why_it_failed(capfd):
    """Its progress and its complaint go where ours go."""
    sizes = endurance.Scenario(64, 64, 256)
    done = endurance._run(sizes, 1.0, 8, FEW, echo=True)
    assert done["users_kept"] == 64
    assert "256 events, 64 users, " in capfd.readouterr().err
    with pytest.raises(ShoalError, match="ended with exit code"):
        endurance._run(sizes, 1.0, 8, ["features.users_maximum=1"], echo=False)
    assert "users_maximum" in capfd.readouterr().err
