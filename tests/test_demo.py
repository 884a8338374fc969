"""The demo: the main job on simulated events, a summary that agrees with what was planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest
from click.testing import CliRunner, Result

from shoal.stream.commands.demo import MARK, SimulatedSource, command, demo_settings, prepare
from shoal.stream.events import CHANGES, Counts, Reason
from shoal.stream.ports import ConfigError, SourceGone
from shoal.stream.simulation.population import Span
from shoal.stream.simulation.simulator import Simulator
from shoal.stream.watching.match import compare
from shoal.stream.watching.summary import Segment, Summary, render_text, to_json
from shoal.stream.watching.words import change_sentence, feature_words

SMALL = ["--users", "150", "--events", "8000", "--days", "8", "--set", "segmenter.warmup_rows=300"]


def demo(*arguments: str) -> Result:
    result = CliRunner().invoke(command, [*SMALL, *arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


# --- the whole -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """What `shoal demo --json` prints, and its folder."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    return orjson.loads(demo("--json", "--output", str(folder)).stdout), folder


def test_every_planted_record_is_counted_as_what_it_is(shown: tuple[dict, Path]) -> None:
    """Accepted, duplicate, late, each kind of reject, future clocks and absurd values: exactly."""
    facts, _ = shown
    counted = {name: facts[name] for name in facts["planted"]}
    assert counted == facts["planted"]
    assert counted["records"] == 8000
    assert counted["duplicates"] > 50
    assert set(counted["rejected"]) <= {reason.value for reason in Reason}


def test_segments_are_named_sized_and_better_than_chance(shown: tuple[dict, Path]) -> None:
    facts, _ = shown
    assert sum(segment["users"] for segment in facts["segments"]) == facts["match"]["users"]
    assert all(segment["name"] for segment in facts["segments"])
    assert facts["match"]["adjusted_rand_clear"] > 0.2


def test_the_folder_holds_the_changes_and_the_truth(shown: tuple[dict, Path]) -> None:
    facts, folder = shown
    changes = (folder / f"{CHANGES}.jsonl").read_bytes().splitlines()
    assert len(changes) == sum(facts["changes"].values()) > 0
    assert orjson.loads((folder / "truth.json").read_bytes())["planted"] == facts["planted"]
    assert "user" in facts["example"]


def test_two_runs_write_the_same_bytes_and_the_second_replaces_the_first(
    shown: tuple[dict, Path], tmp_path: Path
) -> None:
    _, folder = shown
    out = tmp_path / "out"
    prepare(out)
    (out / "segment.changes.jsonl").write_text("of an earlier demo, with other settings")
    result = demo("--output", str(out))
    for path in sorted(folder.glob("*.jsonl")):
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    for part in ("What to try next", "adjusted Rand", "planted", str(out), "For example"):
        assert part in result.stdout
    assert "records" in result.stderr  # progress without a terminal


def test_the_demo_ends_in_time_with_what_it_has(tmp_path: Path) -> None:
    many = ["--events", "1000000", "--seconds", "0.3"]
    facts = orjson.loads(demo("--json", *many, "--output", str(tmp_path / "out")).stdout)
    assert facts["cut_short"]
    assert facts["records"] == facts["planted"]["records"] < 1_000_000


# --- its parts -------------------------------------------------------------------------------------------


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.jsonl").write_text("years of work")
    with pytest.raises(ConfigError, match="not made by the demo"):
        prepare(tmp_path)
    assert (tmp_path / "thesis.jsonl").read_text() == "years of work"


def test_a_folder_of_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    prepare(folder)
    (folder / "segment.changes.jsonl").write_text("old")
    prepare(folder)
    assert [path.name for path in folder.iterdir()] == [MARK]


def test_the_source_plants_exactly_what_was_polled_and_stops_at_its_deadline() -> None:
    now_s = [0.0]
    simulator = Simulator(demo_settings(50, 5000, 5.0, 1))
    source = SimulatedSource(simulator, 10.0, lambda: now_s[0])
    assert source.open(lambda: False)
    source.seek({})
    polled = 0
    while (got := source.poll(100, 0.0)) is not None:
        records, ranges = got
        assert ranges[0].start == polled
        polled = ranges[0].end
        assert np.array_equal(records.offsets, np.arange(ranges[0].start, polled))
        assert simulator.planted.records == polled
        assert source.lag() == {0: 5000 - polled}
        now_s[0] += 1.0
    assert source.cut_short
    assert 0 < polled <= 1000
    with pytest.raises(SourceGone):
        source.read(ranges)


def span(user: str, persona: str, until_ms: int = 10, **flags: bool) -> Span:
    return Span(user, persona, 0, until_ms, **flags)


def test_a_perfect_match_is_one_and_a_user_without_a_segment_does_not_count() -> None:
    truth = [span(f"u{i}", "ab"[i % 2]) for i in range(20)] + [span("absent", "a")]
    match = compare({f"u{i}": 7 + i % 2 for i in range(20)}, truth)
    assert match.adjusted_rand == match.adjusted_rand_clear == 1.0
    assert match.users == 20
    assert match.table == {"a": {7: 10}, "b": {8: 10}}
    assert match.together == {"a": 1.0, "b": 1.0}
    assert match.purity == {7: 1.0, 8: 1.0}


def test_bots_and_mixtures_count_in_the_first_index_only() -> None:
    truth = [span(f"u{i}", "ab"[i % 2]) for i in range(20)]
    truth += [span("robot", "bot", bot=True), span("mix", "a", boundary=True)]
    match = compare({**{f"u{i}": i % 2 for i in range(20)}, "robot": 0, "mix": 1}, truth)
    assert match.adjusted_rand < match.adjusted_rand_clear == 1.0
    assert (match.users, match.users_clear) == (22, 20)
    assert match.table["bot"] == {0: 1}
    assert match.table["a"] == {0: 10}
    assert match.purity == {0: 10 / 11, 1: 1.0}


def test_users_who_changed_are_followed_when_they_are_where_their_new_persona_is() -> None:
    truth = [span(f"u{i}", "ab"[i % 2]) for i in range(20)]
    for user in ("went", "stayed"):
        truth += [span(user, "a", 5), Span(user, "b", 5, 10)]
    match = compare({**{f"u{i}": i % 2 for i in range(20)}, "went": 1, "stayed": 0}, truth)
    assert (match.changed, match.followed) == (2, 1)


def test_features_are_told_in_units_a_person_uses() -> None:
    assert feature_words("purchase_count_7d", 6.3, 1.5) == (
        "purchases in 7d: 4.2 x the average (6.3 against 1.5)"
    )
    assert feature_words("night_share", 0.6, 0.1) == "night activity 60 % (average 10 %)"
    assert feature_words("recency_ms", 2.5 * 86_400_000, 86_400_000) == "last seen 2.5 days ago (average 1.0)"
    assert feature_words("dwell_ms_1d", 90_000, 9_000) == (
        "seconds spent in 1d: 10.0 x the average (90.0 against 9.0)"
    )
    assert "none at all" in feature_words("play_count_7d", 0.0, 3.0)


CHANGE = {
    "user": {"key": "u7", "kind": "user"},
    "transition": "moved",
    "from": {"segment_id": 1, "name": "keen browsers", "since": 0},
    "to": {"segment_id": 4, "name": "frequent buyers", "since": 1},
    "reason": {"kind": "user_behavior", "user_shift": 0.9, "model_shift": 0.1},
    "confidence": {"score": 0.8, "margin": 0.4, "events_seen": 1234, "provisional": False},
    "explanation": {
        "features": [
            {
                "feature": "purchase_count_7d",
                "user_value": 6.0,
                "segment_mean": 5.0,
                "population_mean": 1.5,
                "contribution": 0.3,
            },
            {
                "feature": "interest_3",
                "user_value": 0.1,
                "segment_mean": 0.1,
                "population_mean": 0.1,
                "contribution": 0.2,
            },
        ]
    },
    "times": {"event_time": 1, "decided_time": 1_767_571_200_000},
}


def test_a_change_is_one_sentence_with_who_when_where_why_and_how_sure() -> None:
    assert change_sentence(CHANGE) == (
        "on 05 January 2026 at 00:00 user u7 moved from segment 1 (keen browsers) to 4 (frequent buyers) because "
        "of what it did (score 0.80, margin 0.40, 1,234 events seen): purchases in 7d: 4.0 x the average "
        "(6.0 against 1.5)"
    )


def test_a_farewell_has_neither_confidence_nor_explanation() -> None:
    gone = CHANGE | {"to": None, "confidence": None, "explanation": None, "reason": {"kind": "expiry"}}
    assert change_sentence(gone).endswith("left segment 1 (keen browsers) because it fell silent")


def summary(**more: object) -> Summary:
    counts = Counts(10, 6, 1, 1, {"json": 2}, 1, 0, {"view": 6})
    segment = Segment(3, "keen browsers", 5, 1.0, ("views in 7d: 2.0 x the average (4.0 against 2.0)",), ())
    return Summary(counts, 5, (segment,), 1, **more)  # type: ignore[arg-type]


def test_a_summary_without_a_truth_tells_segments_and_counts() -> None:
    text = render_text(summary())
    for part in ("keen browsers", "2.0 x the average", "accepted 6", "2 json", "100.0 %"):
        assert part in text
    assert "truth" not in text
    assert to_json(summary())["rejected"] == {"json": 2}


def test_counts_that_differ_from_what_was_planted_are_marked() -> None:
    planted = {"records": 10, "accepted": 7, "duplicates": 1, "late": 1, "future": 1, "clamped": 0}
    text = render_text(summary(planted=planted | {"rejected": {"json": 2, "time": 1}}))
    differing = [line.split()[0] for line in text.splitlines() if line.endswith("differs")]
    assert differing == ["accepted", "time"]


def test_too_few_users_are_said_to_be_too_few() -> None:
    assert "too few" in render_text(Summary(Counts(), 3, (), 0))
