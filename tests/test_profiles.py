"""Profiles from the step to the record: what is published about segments and about their members' lives."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from conftest import ROOT
from decisions import Stage, events
from jsonschema import Draft202012Validator
from shop import engine, small
from test_pipeline import DAY_MS, PLAIN, T0_MS, Driver, crowd, warm

import shoal.stream
from shoal.sinks.memory import MemorySink
from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MEMBERS
from shoal.stream.exemplars import MEMBERS_MIN, pseudonym
from shoal.stream.hierarchy import LEVELS
from shoal.stream.packing import pack, unpack


def bodies(records: Any, topic: str) -> list[Any]:
    return [orjson.loads(r.value) for r in records if r.topic == topic and r.value is not None]


@cache
def validator(topic: str) -> Draft202012Validator:
    path = Path(shoal.stream.__path__[0]) / "schemas" / f"{topic}.json"
    return Draft202012Validator(json.loads(path.read_text("utf-8")))


@cache
def whole() -> tuple[Any, ...]:
    """All records of a run over the small shop, in the order they were published."""
    sink = MemorySink()
    engine(small("segmenter.segments=6", "membership.silent_ms=864000000"), sink=sink).run()
    return tuple(sink.records)


# --- the records of a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [CATALOG, CHANGES, MEMBERS])
def test_every_record_of_a_run_fits_its_schema(topic: str) -> None:
    found = bodies(whole(), topic)
    assert found
    for body in found:
        validator(topic).validate(body)


def test_the_records_of_a_run_say_something() -> None:
    """Every field that may be empty is filled in some record."""
    profiles = bodies(whole(), CATALOG)
    assert any(p["exemplars"] for p in profiles)
    assert any(e["features"] for p in profiles for e in p["exemplars"])
    assert any(p["cohesion"] is not None for p in profiles)
    assert any(p["age_ms"] for p in profiles)
    assert {p["trend"]["word"] for p in profiles} >= {"growing", "stable"}
    assert {level for p in profiles for level in p["groups"]} == {"2", "4"}
    stages = Counter(c["lifecycle"]["stage"] for c in bodies(whole(), CHANGES) if c["lifecycle"])
    assert len(stages) >= 2, stages
    for measure in ("recency", "frequency", "monetary"):
        tiers = {c["lifecycle"][measure] for c in bodies(whole(), CHANGES) if c["lifecycle"]}
        assert tiers == {"low", "mid", "high"}


def test_who_left_has_no_stage_and_everybody_else_has_one() -> None:
    for change in bodies(whole(), CHANGES):
        assert (change["lifecycle"] is None) == (change["transition"] == "left")
    members = {b["user"]["key"]: b for b in bodies(whole(), MEMBERS)}
    for change in bodies(whole(), CHANGES):
        if change["transition"] != "left":
            member = members[change["user"]["key"]]
            if member["sequence"] == change["position"]["sequence"]:
                assert member["lifecycle"] == change["lifecycle"]


def test_exemplars_are_members_under_a_name_that_can_be_checked() -> None:
    """With the user key in hand anybody can confirm who it is, in this segment alone; nobody stands in two."""
    keys = {record.key.decode() for record in whole() if record.topic == MEMBERS}
    shown = 0
    for profiles in _by_time(bodies(whole(), CATALOG)):
        people = []
        for profile in profiles:
            segment, config = profile["segment_id"], profile["model"]["config"]
            known = {pseudonym(key, segment, config): key for key in keys}
            assert not profile["exemplars"] or profile["size"] >= MEMBERS_MIN
            people += [known[one["pseudonym"]] for one in profile["exemplars"]]
        assert len(set(people)) == len(people)
        shown += len(people)
    assert shown


def test_shares_are_of_members_and_relations_name_segments_that_are_there() -> None:
    for step_profiles in _by_time(bodies(whole(), CATALOG)):
        ids = {p["segment_id"] for p in step_profiles}
        for profile in step_profiles:
            for shares in profile["lifecycle"].values():
                total = sum(shares.values())
                assert total == pytest.approx(1.0, abs=1e-5) if profile["size"] else total == 0
            assert profile["nearest"] in ids - {profile["segment_id"]}
            assert list(profile["groups"]) == [str(level) for level in LEVELS if level < len(ids)]
            assert {int(group.split(":")[1]) for group in profile["groups"].values()} <= ids


def _by_time(profiles: list[Any]) -> list[list[Any]]:
    times = sorted({p["decided_time"] for p in profiles})
    return [[p for p in profiles if p["decided_time"] == time] for time in times]


def test_the_profile_in_the_readme_is_one() -> None:
    """It may be shorter than those written today, but nothing in it may be wrong."""
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("only the source tree has its README")
    section = readme.read_text("utf-8").split("## What a segment says")[1]
    profile = json.loads(section.split("```json")[1].split("```")[0])
    schema = dict(validator(CATALOG).schema)
    Draft202012Validator(schema | {"required": []}).validate(profile)
    assert {"names", "lifecycle", "exemplars", "groups", "trend"} <= set(profile)


# --- names ---------------------------------------------------------------------------------------------------


def stage_of_two() -> Stage:
    names = ("purchase_count_7d", "view_count_7d")
    stage = Stage([[0.0, 0.0], [10.0, 0.0]], names=names, catalog_every_rows=100)
    stage.step([0, 1, 2, 3], [[0, 0], [0, 1], [10, 0], [10, 1]], told=events(["user-0"], times=[1]))
    return stage


def test_an_operators_name_is_lineage_and_stands_in_all_that_follows() -> None:
    stage = stage_of_two()
    was = stage.catalog.segment_names[1]
    assert stage.catalog.rename(2, {"en": "Our best", "zh": "核心客户"}) == ""
    records = stage.step([0], [[10, 0]])
    (lineage,) = bodies(records, LINEAGE)
    assert (lineage["kind"], lineage["segment_id"]) == ("rename", 2)
    assert (lineage["previous_name"], lineage["name"]) == (was, "Our best")
    assert records[0].topic == LINEAGE, "it is announced before it is used"
    profile = next(p for p in bodies(records, CATALOG) if p["segment_id"] == 2)
    assert profile["names"] == {"en": "Our best", "zh": "核心客户"}
    assert (profile["name"], profile["name_source"]) == ("Our best", "operator")
    assert bodies(records, CHANGES)[0]["to"]["name"] == "Our best"
    stage.catalog.rename(2, None)
    back = stage.step([1], [[0, 1]])
    assert [(b["previous_name"], b["name"]) for b in bodies(back, LINEAGE)] == [("Our best", was)]


def test_where_nobody_asked_for_a_name_nothing_is_refreshed() -> None:
    stage = stage_of_two()
    assert not bodies(stage.step([0], [[0, 0]]), CATALOG)


# --- trends --------------------------------------------------------------------------------------------------


def test_a_trend_knows_the_sizes_between_two_refreshes() -> None:
    """A segment that grew soon after the last refresh, and then stood still for a day, is stable."""
    driver = warm("segmenter.segments=1", "membership.catalog_every_rows=1000000", users=60)
    hour_ms = DAY_MS // 24
    for hour in range(1, 25):
        newcomers = [driver.event(f"new{i}", time_ms=T0_MS + hour * hour_ms) for i in range(100)]
        told = driver.step(*newcomers, as_of_ms=T0_MS + hour * hour_ms).records
        assert hour == 24 or not bodies(told, CATALOG)
    (profile,) = bodies(told, CATALOG)
    assert (profile["size"], profile["trend"]["word"]) == (160, "stable")


# --- people who leave ------------------------------------------------------------------------------------------


def test_who_leaves_is_no_exemplar_any_more() -> None:
    driver = warm("segmenter.segments=1", "features.keep_ms=0", users=60)
    catalog, users = driver.pipeline.catalog, driver.pipeline.users
    slots = [one.slot for one in catalog.profile(0, driver.pipeline.membership.centre).exemplars]
    assert len(slots) == 3
    gone = users.names(np.array(slots, np.int32))
    later = T0_MS + 90 * DAY_MS
    driver.step(driver.event("fresh", time_ms=later), as_of_ms=later)
    driver.step(driver.event("fresh", time_ms=later + 1), as_of_ms=later + 1)
    assert all(users.slot(name) is None for name in gone)
    kept = catalog.exemplars.snapshot()["slots"].ravel()
    assert set(users.names(kept[kept >= 0])) <= {"fresh"}


def test_whoever_takes_a_slot_begins_a_life_of_its_own() -> None:
    """Days and spending of the user before it say nothing about the next one."""
    driver = warm("features.keep_ms=0", users=60)
    life, users = driver.pipeline.lifecycle, driver.pipeline.users
    assert (life.snapshot()["days"] == 1).all()
    for day in (90, 91):
        driver.step(driver.event("fresh", time_ms=T0_MS + day * DAY_MS), as_of_ms=T0_MS + day * DAY_MS)
    driver.step(driver.event("other", time_ms=T0_MS + 91 * DAY_MS), as_of_ms=T0_MS + 91 * DAY_MS)
    slots = [users.slot("fresh"), users.slot("other")]
    assert min(slots) < 60, "they have slots of users who left"
    days = np.pad(life.snapshot()["days"], (0, 64))
    assert days[slots].tolist() == [2, 1]
    assert days.sum() == 3


# --- stop and go on ----------------------------------------------------------------------------------------------


def test_a_pipeline_that_was_stopped_publishes_the_same_bytes() -> None:
    """Two refreshes and a name that was asked for before the stop; lives, exemplars, trends and names go on."""
    straight, before = warm("segmenter.segments=4"), warm("segmenter.segments=4")
    for driver in (straight, before):
        driver.step(*crowd(driver, 60, T0_MS + DAY_MS), as_of_ms=T0_MS + DAY_MS)
        driver.pipeline.catalog.rename(2, {"en": "Our best"})
    after = Driver(small(*PLAIN, "segmenter.segments=4"))
    after.pipeline.restore(unpack(b"".join(pack(before.pipeline.snapshot()))))
    after.outputs, after._at, after._ids = list(before.outputs), before._at, before._ids
    for day in (2, 9, 40):
        time_ms = T0_MS + day * DAY_MS
        for driver in (straight, after):
            driver.step(*crowd(driver, 40, time_ms), as_of_ms=time_ms)
    for one, other in zip(straight.outputs[-3:], after.outputs[-3:], strict=True):
        assert one.records == other.records
        assert one.manifest.output_hash == other.manifest.output_hash
    told = [record for output in after.outputs[-3:] for record in output.records]
    assert {p["name"] for p in bodies(told, CATALOG)} >= {"Our best"}
