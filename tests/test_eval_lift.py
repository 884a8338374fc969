"""The lift of segments' lists over the global list: measured before it is learned, shrunk where thin, never leaking."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import SMALL, small

from shoal.stream.cli import shoal
from shoal.stream.evaluation.lift import compared, interval, repeats, scored, shuffled
from shoal.stream.evaluation.lift_score import (
    HALF_LIVES,
    PRIORS,
    TOP,
    candidates,
    everybody,
    follow,
    hits,
    named,
)
from shoal.stream.evaluation.lift_trace import Trace, targets, trace
from shoal.stream.events import CHANNELS

VIEW, PURCHASE = CHANNELS.index("view"), CHANNELS.index("purchase")


def run(rows: list[tuple[int, int, int, int, int]], channel: int = PURCHASE) -> Trace:
    """Rows of step, user, item, segment before, segment after."""
    columns = np.array(rows, np.int32).reshape(-1, 5).T.copy()
    step, user, item, before, after = columns
    return Trace(step, user, item, np.full(len(rows), channel, np.int8), before, after)


# --- the oracle: dictionaries, one event at a time ------------------------------------------------------


def oracle(trace: Trace, leader: Any, half_life: float, again: bool) -> tuple[Any, Any]:
    counts: dict[Any, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    half_lives = {("all", h): forgets for h, forgets in enumerate(HALF_LIVES)}
    own: dict[int, set[int]] = defaultdict(set)
    hit = np.zeros((len(trace), len(PRIORS)), bool)
    target = np.ones(len(trace), bool)
    for step in np.unique(trace.step):
        here = np.flatnonzero(trace.step == step)
        frozen = {name: dict(items) for name, items in counts.items()}
        for i in here:
            user, item = int(trace.user[i]), int(trace.item[i])
            passed = set() if again else own[user]
            if item in passed:
                target[i] = False
            else:
                shared = frozen.get(("all", int(leader[i])), {})
                inside = frozen.get(int(trace.before[i]), {}) if trace.before[i] >= 0 else {}
                for c, prior in enumerate(PRIORS):
                    hit[i, c] = item in ten(inside, shared, prior, passed)
            own[user].add(item)
        for i in here:
            for name, items in counts.items():
                for known in items:
                    items[known] *= 0.5 ** (1 / half_lives.get(name, half_life))
            for name in half_lives:
                counts[name][int(trace.item[i])] += 1
            if trace.after[i] >= 0:
                counts[int(trace.after[i])][int(trace.item[i])] += 1
    return hit, target


def ten(inside: dict[int, float], shared: dict[int, float], prior: float, passed: set[int]) -> list[int]:
    total = sum(shared.values())
    scores = {j: inside.get(j, 0.0) + prior * n / total for j, n in shared.items()}
    ranked = sorted((j for j in scores if j not in passed), key=lambda j: (-round(scores[j], 9), j))
    return ranked[:TOP]


def led(trace: Trace) -> Any:
    """(n,) some global list or other, the same throughout a step."""
    return trace.step.astype(np.int64) * 7 % len(HALF_LIVES)


traces = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 25), st.integers(-1, 2), st.integers(-1, 2)),
    min_size=1, max_size=80,
).map(lambda rows: run([(i // 5, *row[1:]) for i, row in enumerate(rows)]))  # fmt: skip


@given(traces, st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_counters_agree_with_dictionaries(trace: Trace, again: bool) -> None:
    """Every hit of every candidate, and which events were targets; a half-life that makes ties rare."""
    hit, target = hits(trace, led(trace), 37.3, PRIORS, again)
    wanted_hit, wanted_target = oracle(trace, led(trace), 37.3, again)
    np.testing.assert_array_equal(target, wanted_target)
    np.testing.assert_array_equal(hit, wanted_hit)


@pytest.mark.parametrize("again", [True, False])
def test_the_counters_agree_with_dictionaries_on_a_long_run(again: bool) -> None:
    """600 events, lists that differ by segment, users who are somewhere else after the step."""
    random = np.random.default_rng(4)
    rows = [
        (
            i // 7,
            int(random.integers(12)),
            int(45 * random.random() ** 1.5),
            *random.integers(-1, 3, 2).tolist(),
        )
        for i in range(600)
    ]
    whole = run(rows)
    hit, target = hits(whole, led(whole), 83.7, PRIORS, again)
    wanted_hit, wanted_target = oracle(whole, led(whole), 83.7, again)
    np.testing.assert_array_equal(target, wanted_target)
    np.testing.assert_array_equal(hit, wanted_hit)
    assert len({column.tobytes() for column in hit.T}) >= 4, "the candidates had different hits"


def shown(trace: Trace, again: bool) -> Any:
    """(n, c) the hits of all candidates, the leading global list first."""
    return candidates(trace, everybody(trace, again)[0], again)


def test_counts_stay_finite_however_long_the_stream() -> None:
    """A half-life of a fiftieth of an event passes the rescaling every few events, and the last item leads."""
    whole = run([(i, 0, i % 3, 0, 0) for i in range(60)])
    hit, _ = hits(whole, led(whole), 0.02, PRIORS, True)
    assert hit[5:].all(), "three items are always among ten"


# --- nothing leaks --------------------------------------------------------------------------------------


def two_tastes(seed: int = 1, steps: int = 300, truth: bool = True) -> Trace:
    """Forty users of two kinds, sixty items each; with `truth` the segments are the kinds."""
    random = np.random.default_rng(seed)
    rows = []
    for step in range(steps):
        for _ in range(8):
            user = int(random.integers(40))
            kind = user % 2
            item = 60 * kind + int(60 * random.random() ** 2)
            segment = kind if truth else int(random.integers(2))
            rows.append((step, user, item, segment if step > 5 else -1, segment))
    return run(rows)


def test_true_kinds_lift_and_a_grouping_by_chance_does_not() -> None:
    """The same events: a third more and above with the kinds as segments, nothing with segments drawn at random."""
    assert compared(two_tastes(), True)["lift"] > 0.33
    assert abs(compared(two_tastes(truth=False), True)["lift"]) < 0.06
    assert abs(compared(two_tastes(), True)["random"]) < 0.1


def test_the_answer_is_never_known_before() -> None:
    """Every item is turned to once: nothing that counted its own step, or a later one, could stay without hits."""
    rows = [(i // 4, i % 7, i, i % 2, i % 2) for i in range(400)]
    hit, target = everybody(run(rows), True)
    assert target.all()
    assert not hit.any()
    assert not shown(run(rows), True).any()


def test_what_follows_changes_nothing_before() -> None:
    """The hits of a shorter run are the first hits of the longer one."""
    whole = two_tastes()
    part = Trace(*(getattr(whole, name)[:800] for name in Trace.__slots__))
    long, short = shown(whole, False), shown(part, False)
    np.testing.assert_array_equal(long[:800], short)
    np.testing.assert_array_equal(follow(long, whole.step)[:800], follow(short, part.step))


def test_a_step_does_not_choose_by_its_own_hits() -> None:
    """All hits of a step together come too late for it."""
    hit = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 0], [1, 0]], bool)
    assert follow(hit, np.array([0, 0, 0, 1, 1, 2])).tolist() == [0, 0, 0, 1, 1, 0]


# --- thin segments --------------------------------------------------------------------------------------


def test_a_segment_without_counts_proposes_the_global_list() -> None:
    """Whatever the prior, exactly: users came into it a moment ago, and nothing was counted there."""
    rows = [(i // 8, i % 9, (i * i) % 31, 1, 0) for i in range(400)]
    hit = shown(run(rows), True)
    assert hit[:, 0].any()
    for c in range(1, hit.shape[1]):
        np.testing.assert_array_equal(hit[:, c], hit[:, 0])


def test_users_without_a_segment_get_the_global_list_and_count() -> None:
    """Nobody is in a segment: the global list that leads, no lift over it, and every event is a target."""
    rows = [(i // 8, i % 9, (i * i) % 31, -1, -1) for i in range(400)]
    found = compared(run(rows), True)
    assert (found["with_segment"], found["targets"]) == (0.0, 400)
    assert (found["lift"], found["interval"]) == (0.0, (0.0, 0.0))
    assert found["segment_rate"] == found["global_rate"]


def test_the_choice_begins_with_the_global_list() -> None:
    """Before any hit, and at ties, nothing but the global list is used; every other column is one of the grid."""
    grid = [named(c) for c in range(1 + len(HALF_LIVES) * len(PRIORS))]
    assert grid[0] == (np.inf, np.inf)
    assert set(grid[1:]) == {(h, m) for h in HALF_LIVES for m in PRIORS}
    assert follow(np.zeros((5, len(grid)), bool), np.arange(5)).tolist() == [0] * 5


def test_a_lead_by_chance_is_not_followed() -> None:
    """Four hits ahead where the two differed 16 times is 1 deviation, where they differed 4 times it is 2."""
    behind, ahead, both = [1, 0], [0, 1], [1, 1]
    rows = [*[both] * 5, *[behind] * 6, *[ahead] * 10, both]
    hit = np.array(rows, bool)
    assert follow(hit, np.arange(len(hit)))[-1] == 1
    assert follow(hit, np.arange(len(hit)), 2.0)[-1] == 0
    hit = np.array([*[both] * 5, *[ahead] * 4, both], bool)
    assert follow(hit, np.arange(len(hit)), 2.0).tolist() == [0] * 9 + [1]
    assert follow(hit, np.zeros(len(hit), np.int64), 2.0).tolist() == [0] * 10


def test_a_column_is_what_its_name_says() -> None:
    """Each candidate equals the segments' lists of that memory and that prior, counted by itself."""
    whole = two_tastes(steps=60)
    hit, _ = everybody(whole, True)
    leader = follow(hit, whole.step)
    columns = candidates(whole, hit, True)
    np.testing.assert_array_equal(columns[:, 0], hit[np.arange(len(hit)), leader])
    for c in range(1, columns.shape[1]):
        half_life, prior = named(c)
        np.testing.assert_array_equal(columns[:, c], hits(whole, leader, half_life, (prior,), True)[0][:, 0])


def test_segments_keep_a_longer_memory_than_everybody() -> None:
    """A third of what is bought is this week's fashion, the rest a lasting taste of one of twenty thin segments."""
    random = np.random.default_rng(3)
    rows = []
    for i in range(6000):
        user = int(random.integers(80))
        fashion = 12 * (i // 1000) + int(random.integers(12))
        lasting = 100 + 40 * (user % 20) + int(40 * random.random() ** 2)
        item = fashion if random.random() < 0.3 else lasting
        rows.append((i // 32, user, item, user % 20, user % 20))
    found = compared(run(rows), True)
    assert found["segment_half_life"] > found["half_life"]
    assert found["lift_undecayed"] > found["lift"] > 1.0


# --- what counts ----------------------------------------------------------------------------------------


def test_own_items_are_passed_over_where_repeats_make_no_sense() -> None:
    """A clicked item is no target for who clicked it before, and does not take a place in the list."""
    before = [(i, 0, i, -1, -1) for i in range(12)]
    hit, target = everybody(run([*before, (12, 0, 3, -1, -1), (13, 1, 0, -1, -1)]), False)
    assert not target[12]
    assert not hit[13, 0], "eleven newer items stand before it for somebody new"
    knowing = [*before, (12, 1, 10, -1, -1), (13, 1, 11, -1, -1), (14, 1, 0, -1, -1)]
    assert everybody(run(knowing), False)[0][14, 0], "two of them are passed over for somebody who knows them"
    assert not everybody(run(knowing), True)[0][14, 0]


def test_repeats_count_where_most_targets_are_purchases() -> None:
    """Groceries and retail repeat; clicks on a marketplace do not. And as told."""
    rows = [(0, 0, 0, -1, -1)] * 3
    assert repeats(run(rows, PURCHASE), "auto")
    assert not repeats(run(rows, VIEW), "auto")
    assert repeats(run(rows, VIEW), "count")
    assert not repeats(run(rows, PURCHASE), "exclude")


def test_intervals_hold_the_lift_and_are_drawn_over_users() -> None:
    """Seeded; they shrink with users, not with events of one user."""
    many = two_tastes()
    found = scored(many, True)
    pair = found.segment, found.shared[:, -1]
    low, high = interval(many, *pair)
    assert low < found.lift(-1) < high
    assert (low, high) == interval(many, *pair)


def test_shuffled_users_keep_sizes_and_moments() -> None:
    """Somebody else's segment, from the moment on from which there was one."""
    real = two_tastes()
    other = shuffled(real, 1)
    np.testing.assert_array_equal(other.before >= 0, real.before >= 0)
    assert (other.after != real.after).mean() > 0.2


# --- the real pipeline ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    import shop

    path = tmp_path_factory.mktemp("lift") / "events.jsonl"
    path.write_bytes(b"\n".join(v or b"" for v in shop.events(2000, 3)) + b"\n")
    return str(path)


def test_a_trace_knows_where_users_were_before_the_step(shop_file: str) -> None:
    """A user's segment before a step is the one after the latest step before that named the user; none at first."""
    found = trace(shop_file, small("encoder.kind=identity"), 50)
    latest: dict[int, tuple[int, int]] = {}
    latest_before: dict[int, int] = {}
    kept = []
    for step, user, before, after in zip(found.step, found.user, found.before, found.after, strict=True):
        known_step, known = latest.get(int(user), (-1, -1))
        if known_step == step:
            assert (before, after) == (latest_before[int(user)], known), "one look per step"
        elif known >= 0:
            kept.append(before == known)
        latest[int(user)], latest_before = (int(step), int(after)), {**latest_before, int(user): before}
    assert np.mean(kept) > 0.9, "only events without an item, and sweeps, can move a user in between"
    assert (found.before != found.after).any()
    assert (found.before >= 0).mean() > 0.5


def test_only_what_somebody_turned_to_is_a_target() -> None:
    """Not what was shown, searched for or given back, and nothing without an item."""
    from made import T0, Touch, columns

    kinds = ("view", "impression", "search", "purchase", "refund", "cart_remove", "play")
    events = columns([*(Touch("ann", T0, kind, item="a") for kind in kinds), Touch("ann", T0, "view")])
    assert targets(events).tolist() == [True, False, False, True, False, False, True, False]


def test_the_command_measures_a_small_file(shop_file: str) -> None:
    """One line per variant; JSON with the machine, the intervals and every half-life."""
    settings = [part for override in SMALL for part in ("--set", override)]
    arguments = [
        "eval",
        "lift",
        shop_file,
        "--encoders",
        "identity",
        "--families",
        "both",
        "--segments",
        "2,4",
    ]
    done = CliRunner().invoke(shoal, [*arguments, *settings, "--json"])
    assert done.exit_code == 0, done.output
    result = orjson.loads(done.stdout)
    assert [row["segments"] for row in result["variants"]] == [2, 4]
    assert result["machine"]["numpy"] == np.__version__
    for row in result["variants"]:
        assert row["targets"] > 500
        assert 0 < row["global_rate"] < 1
        assert row["interval"][0] <= row["lift"] <= row["interval"][1]
        assert row["interval_undecayed"][0] <= row["lift_undecayed"] <= row["interval_undecayed"][1]
        assert len(row["by_half_life"]) == 5
    text = CliRunner().invoke(shoal, [*arguments[:-1], "2", *settings])
    assert "| identity | both | 2 |" in text.stdout


@pytest.mark.parametrize("wrong", [["--families", "taste"], ["--segments", "0"], ["--encoders", ","]])
def test_a_wrong_choice_is_named(shop_file: str, wrong: list[str]) -> None:
    """What was given and what is known."""
    done = CliRunner().invoke(shoal, ["eval", "lift", shop_file, *wrong])
    assert done.exit_code == 2
    assert wrong[1] in done.output
