"""The window benchmark: everybody keeps the same window, and the table says what was measured."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from shoal.stream.benchmarks import window_events, window_peers, window_runs, windows
from shoal.stream.commands.bench import command

BOUGHT = window_events.purchases(
    users=20, count=600, per_s=5.0
)  # two minutes: every window fills and empties
TINY = ("--users", "80", "--events", "400", "--peer-users", "16", "--peer-events", "100", "--step", "64")


def test_an_event_counts_in_each_of_its_six_windows():
    """A window holds its start and not its end."""
    one = window_events.Purchases(np.array([7]), np.array([window_events.START_MS]), np.array([250]))
    answers = window_events.expected(one)
    assert answers == {(7, window_events.START_MS - 10_000 * i): (1, 250) for i in range(6)}


def test_shoal_keeps_the_window_that_counting_naively_gives():
    assert window_runs.shoal_answers(BOUGHT, 20) == window_events.expected(BOUGHT)


@pytest.mark.parametrize("name", sorted(window_peers.PACKAGES))
def test_a_peer_keeps_the_window_that_counting_naively_gives(name, tmp_path):
    """Every window of every user, count and sum. Peers are optional, in CI too."""
    if how := window_peers.missing(name):
        pytest.skip(f"{name}: {how}")
    run = window_runs.PEERS[name](BOUGHT, str(tmp_path))
    assert run()() == window_events.expected(BOUGHT)


def test_a_wrong_answer_is_counted(monkeypatch):
    """Windows that are missing, too many, or different."""
    truth = window_events.expected(BOUGHT)
    first, second, *_ = truth
    found = {**truth, first: (99, 99), (999, 0): (1, 1)}
    del found[second]
    monkeypatch.setattr(window_runs, "shoal_answers", lambda bought, users: found)
    monkeypatch.setattr(window_runs, "PEERS", {})
    assert window_runs.check(BOUGHT, 20) == {"shoal": {"windows": len(truth), "wrong": 3}}


def test_steps_hold_every_event_once_with_its_own_tokens():
    events = window_events.mixed_events(users=9, count=100, span_ms=60_000)
    steps = list(window_events.steps_of(events, 32))
    assert [len(step) for step in steps] == [32, 32, 32, 4]
    assert [name for step in steps for name in step.users] == events.users
    assert np.concatenate([step.token for step in steps]).tolist() == events.token.tolist()
    for step in steps:
        assert step.token_ptr.tolist() == [3 * i for i in range(len(step) + 1)]


def _here(monkeypatch):
    """Every role runs in this process, without peers; which ones ran is kept."""
    ran = []

    def here(turn):
        _, name, users, count, options = turn
        ran.append(turn[0])
        words = [name, "--users", str(users), "--events", str(count), *options]
        return json.loads(json.dumps(window_runs.run(window_runs.arguments_of(words)))) | {
            "peak_bytes": 1 << 20
        }

    monkeypatch.setattr(windows, "_role", here)
    monkeypatch.setattr(windows, "missing", lambda name: f"not installed (pip install {name})")
    monkeypatch.setattr(window_runs, "missing", windows.missing)
    return ran


def test_the_command_measures_everybody_in_turn_and_says_who_is_not_there(monkeypatch):
    """Contestants, Shoal's own windows and every number of tiles; the second round backwards."""
    ran = _here(monkeypatch)
    done = CliRunner().invoke(command, ["windows", *TINY, "--rounds", "2", "--json"], catch_exceptions=False)
    result = json.loads(done.stdout)
    _, *turns = ran
    assert turns == turns[: len(turns) // 2] + turns[: len(turns) // 2][::-1]
    assert set(result["tiles"]) == {"6", "24", "60", "120", "360"}
    assert result["not_installed"] == {
        name: f"not installed (pip install {name})" for name in ("quix", "bytewax")
    }
    assert result["checked"]["shoal"]["wrong"] == 0
    assert result["flat"] >= 1.0
    text = windows.render(result)
    assert "| quix | not installed (pip install quix) | | | | |" in text
    assert "| shoal | per touched user, every 512 events | " in text
    assert "| one hour in 360 tiles | " in text
    assert "wrong answers: shoal 0." in text


def test_the_ratio_is_of_neighbours_in_one_round():
    """A round on a busy machine counts like any other."""
    rows = {
        "shoal-8192": {"all": [900.0, 100.0, 1000.0], "events_per_cpu_s": 900.0},
        "quix": {"all": [9.0, 2.0, 10.0], "events_per_cpu_s": 9.0},
        "own": {"all": [1.0, 1.0, 1.0], "events_per_cpu_s": 1.0},
    }
    table = windows._same_window(rows)
    assert list(table) == ["shoal-8192", "quix"]
    assert table["quix"]["shoal_is_times"] == 100.0


def test_flatness_is_the_dearest_over_the_cheapest():
    assert windows.flatness([2.0, 1.0, 1.5]) == 2.0


@pytest.mark.slow
def test_a_contestant_is_a_process_of_its_own():
    result = windows._role(("shoal-64", "shoal", 16, 100, ["--step", "64"]))
    assert result["events"] == 100
    assert result["peak_bytes"] > 1 << 20
