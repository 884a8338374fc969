"""`shoal eval identity`: are segments that split, merge, begin and end called so, and does nothing else happen?

The real pipeline runs over worlds whose groups are known (`identity_streams.py`): warm start, a quiet part, then
what is planted, then time to see it. Before it happens each group is known by the segment of most of its people;
afterwards the lineage that was published is compared with what was planted.

    right      a fact of the planted kind about the right people: the parent's id and a new one that most of the
               new group is in; both ids of the merged; the id that most of the dead were in
    wrong      facts about those people, but of other kinds only
    missed     no fact about them
    needless   facts before anything happened, or about people to whom nothing did

Also: all centres are drawn anew, and slots exchanged, at the end of the quiet part; no id may change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import click
import numpy as np
import orjson

from ..benchmarks.pipeline import machine, machine_line
from ..config import Config, load
from ..events import LINEAGE, Output
from ..features import Features
from ..pipeline import Pipeline
from ..wiring import pipeline_parts
from .goals import tally
from .identity_streams import CASES, Case, Happening, World

SEEDS = 5
SETTLED_STEPS, QUIET_STEPS, STEPS = 90, 120, 300
REPORT_SEED = 100  # and up; rules and thresholds were chosen on seeds below
_ENDS, _BEGINS = ("merge", "death"), ("split", "birth")

Fact = dict[str, Any]


def config_of(case: Case) -> Config:
    """As configured by default, but for the number of segments and the encoder: rows are what is planted."""
    number = ("10", "2") if case.free else (str(case.fixed), "0")
    overrides = [
        "encoder.kind=identity",
        f"segmenter.segments={number[0]}",
        f"segmenter.segments_min={number[1]}",
        "features.users_max=8192",
        "segmenter.warmup_rows=2048",
    ]
    return load(None, overrides, environ={})


@dataclass(frozen=True, slots=True)
class Run:
    """What one world's pipeline said, and where people were."""

    facts: list[Fact]  # once the number of segments has settled
    happened: int  # how many of them came before anything happened
    before: dict[int, int]  # group -> segment of most of its people, just before
    after: dict[int, int]  # the same at the end
    reseeded: tuple[
        int, int
    ]  # users with a segment, and those whose segment another draw of the centres changed


def run(case: Case, seed: int, steps: int = STEPS) -> Run:
    world, pipeline = built(case, seed)
    facts: list[Fact] = []
    before: dict[int, int] = {}
    settled = happened = 0
    reseeded = (0, 0)
    for number in range(1, steps + 1):
        if number == SETTLED_STEPS:
            settled = len(facts)
        if number == QUIET_STEPS:
            happened, before, reseeded = len(facts), majorities(world, pipeline), drawn_anew(case, pipeline)
            world.happen()
        facts += [
            fact | {"step": number} for fact in published(pipeline.step(world.step(number, number == steps)))
        ]
    return Run(facts[settled:], happened - settled, before, majorities(world, pipeline), reseeded)


def built(case: Case, seed: int) -> tuple[World, Pipeline]:
    config = config_of(case)
    world = World(case, seed, config.features.users_max)
    return world, Pipeline(config, *pipeline_parts(config, cast(Features, world)))


def published(output: Output) -> list[Fact]:
    """Lineage of a step, without the births of the warm start and without renames."""
    facts = [orjson.loads(record.value or b"") for record in output.records if record.topic == LINEAGE]
    return [
        fact for fact in facts if fact["kind"] != "rename" and (fact["overlap"] or fact["kind"] != "birth")
    ]


def majorities(world: World, pipeline: Pipeline) -> dict[int, int]:
    """Each group's segment: the one that most of its people are in."""
    names = np.arange(len(world.group)).astype(str).tolist()
    slots = [pipeline.users.slot(name) for name in names]
    known = np.array([slot is not None for slot in slots])
    segment = pipeline.membership.segment[np.array([slot for slot in slots if slot is not None], np.int64)]
    group = world.group[known]
    return {int(g): _mode(segment[group == g]) for g in np.unique(group)}


def _mode(values: Any) -> int:
    names, counts = np.unique(values, return_counts=True)
    return int(names[counts.argmax()])


def drawn_anew(case: Case, pipeline: Pipeline) -> tuple[int, int]:
    """On a copy of the pipeline: the centres drawn anew, and their slots exchanged. Whose id is another then?"""
    copy = built(case, 0)[1]
    copy.restore(pipeline.snapshot())
    copy.features = pipeline.features
    k = copy.segmenter.k
    copy.segmenter.permute(np.roll(np.arange(k), 3))
    copy.reseed()
    placed = copy.membership.segment > 0
    now = copy.membership.ids[copy.membership.centre[placed]]
    return int(placed.sum()), int((now != copy.membership.segment[placed]).sum())


# --- judging -------------------------------------------------------------------------------------------------


def judged(case: Case, result: Run) -> dict[str, Any]:
    """right, wrong, missed, needless; and what was wrong in words."""
    later = result.facts[result.happened :]
    verdicts, explained = [], set[int]()
    for one in case.happenings:
        verdict, used = _judge(one, result, later)
        verdicts.append(verdict)
        explained |= used
    needless = result.happened + len(later) - len(explained)
    people, changed = result.reseeded
    return {
        **{verdict: verdicts.count(verdict) for verdict in ("right", "wrong", "missed")},
        "needless": needless,
        "reseeded_people": people,
        "reseeded_changed": changed,
        "facts": [_said(fact) for fact in result.facts],
    }


def _judge(one: Happening, result: Run, facts: Sequence[Fact]) -> tuple[str, set[int]]:
    """Whether a happening was called right, and the lineage ids of the facts that are about it."""
    old = [result.before[g] for g in one.before]
    new = [result.after.get(g, 0) for g in one.after]
    about: set[int] = set()
    kinds: list[str] = []
    if one.kind in ("merge", "death"):
        ended = [f for f in facts if f["kind"] in _ENDS and f["remap"][0]["from"] in old]
        about |= {f["lineage_id"] for f in ended}
        kinds = [
            f["kind"] if one.kind == "death" or f["remap"][0]["to"] in old else "elsewhere" for f in ended
        ]
    else:
        fresh = [f for f in facts if f["kind"] in _BEGINS and f["segment_id"] in new]
        about |= {f["lineage_id"] for f in fresh}
        right = [one.kind == "birth" or f["parents"] == old for f in fresh]
        kinds = [f["kind"] if fine else "elsewhere" for f, fine in zip(fresh, right, strict=True)]
    wanted = 1 if one.kind != "split" else len(one.after) - 1
    if kinds == [one.kind] * wanted:
        return "right", about
    return ("wrong" if kinds else "missed"), about


def _said(fact: Fact) -> str:
    overlap = fact["overlap"] or {"people": 0, "shares": []}
    shares = ", ".join(f"{share['segment_id']}: {share['share']:.0%}" for share in overlap["shares"])
    about = f"{fact['kind']} {fact['segment_id']} of {fact['parents']}"
    return f"step {fact['step']}: {about} ({shares} of {overlap['people']})"


def evaluate(
    seeds: int = SEEDS, only: str = "", echo: bool = False, first: int = REPORT_SEED
) -> dict[str, Any]:
    cases = {}
    for case in CASES:
        if only not in case.name:
            continue
        runs = [judged(case, run(case, first + i)) for i in range(seeds)]
        counts = ("right", "wrong", "missed", "needless", "reseeded_people", "reseeded_changed")
        cases[case.name] = {
            "planted": len(case.happenings) * seeds,
            **{name: sum(one[name] for one in runs) for name in counts},
            "runs": runs,
        }
        if echo:
            click.echo(f"{case.name}: {_line(cases[case.name])}", err=True)
    return {
        "machine": machine(),
        "seeds": [first + i for i in range(seeds)],
        "cases": cases,
        "goals": goals(cases),
    }


def goals(cases: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = []
    for name, case in cases.items():
        if case["planted"]:
            wanted.append(
                {"case": name, "goal": "named right", "got": case["right"], "wanted": case["planted"]}
            )
        wanted.append({"case": name, "goal": "needless facts", "got": case["needless"], "wanted": 0})
        wanted.append(
            {
                "case": name,
                "goal": "ids changed by another draw",
                "got": case["reseeded_changed"],
                "wanted": 0,
            }
        )
    return [goal | {"reached": goal["got"] == goal["wanted"]} for goal in wanted]


def render(result: dict[str, Any]) -> str:
    seeds = result["seeds"]
    columns = (
        "planted",
        "named right",
        "wrong",
        "missed",
        "needless",
        "ids changed by another draw, of users",
    )
    lines = [
        f"The whole pipeline over worlds of known groups, seeds {seeds[0]} to {seeds[-1]}; identity encoder.",
        machine_line(result["machine"]),
        "",
        f"| case | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for name, c in result["cases"].items():
        counts = " | ".join(str(c[count]) for count in ("planted", "right", "wrong", "missed", "needless"))
        lines.append(f"| {name} | {counts} | {c['reseeded_changed']} of {c['reseeded_people']:,} |")
    missed = [goal for goal in result["goals"] if not goal["reached"]]
    lines += ["", tally(result["goals"])]
    lines += [f"- {goal['case']}: {goal['goal']}: {goal['got']}, wanted {goal['wanted']}" for goal in missed]
    return "\n".join(lines)


def _line(case: dict[str, Any]) -> str:
    return ", ".join(
        f"{case[name]} {name}" for name in ("right", "wrong", "missed", "needless", "reseeded_changed")
    )
