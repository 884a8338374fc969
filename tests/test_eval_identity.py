"""`shoal eval identity`: worlds whose groups are known, and the judge of what was said about them."""

import numpy as np
import orjson
import pytest
from click.testing import CliRunner

from shoal.stream.cli import shoal
from shoal.stream.evaluation.identity import Run, built, drawn_anew, judged, majorities, published, run
from shoal.stream.evaluation.identity_streams import (
    BIRTH,
    CASES,
    GROUPS,
    Case,
    Happening,
    World,
    merge,
    split,
)
from shoal.stream.packing import pack, unpack

BY_NAME = {case.name: case for case in CASES}


def fact(kind, segment, parents=(), remap=(), lineage_id=1):
    return {
        "lineage_id": lineage_id, "kind": kind, "segment_id": segment, "parents": list(parents), "step": 9,
        "remap": [{"from": old, "to": new} for old, new in remap], "overlap": None,
    }  # fmt: skip


def verdict(case, facts, happened=0):
    before, after = {0: 1, 1: 2, 2: 3}, {0: 1, 1: 2, 2: 3, GROUPS: 7}
    found = judged(case, Run(facts, happened, before, after, (10, 0)))
    return [found[name] for name in ("right", "wrong", "missed", "needless")]


def test_the_judge_wants_the_kind_and_the_people():
    """A split out of the wrong parent is wrong; a fact about others is needless; silence is missed."""
    case = Case("split", (split(0, GROUPS),), True)
    assert verdict(case, [fact("split", 7, (1,))]) == [1, 0, 0, 0]
    assert verdict(case, [fact("split", 7, (2,))]) == [0, 1, 0, 0]
    assert verdict(case, [fact("birth", 7)]) == [0, 1, 0, 0]
    assert verdict(case, [fact("merge", 2, (2, 3), ((3, 2),))]) == [0, 0, 1, 1]
    assert verdict(case, [fact("split", 7, (1,))], happened=1) == [0, 0, 1, 1]
    both = Case("both", (merge(0, 1), BIRTH), False)
    ended = fact("merge", 1, (1, 2), ((2, 1),))
    assert verdict(both, [ended, fact("birth", 7, lineage_id=2)]) == [2, 0, 0, 0]
    assert verdict(both, [fact("merge", 3, (3, 2), ((2, 3),))]) == [0, 1, 1, 0]
    dead = Case("death", (Happening("death", (0,), ()),), True)
    assert verdict(dead, [fact("death", 1, (1,), ((1, 3),))]) == [1, 0, 0, 0]
    assert verdict(dead, [fact("merge", 3, (3, 1), ((1, 3),))]) == [0, 1, 0, 0]


@pytest.mark.parametrize("name", ["merge and split, fixed", "death and birth, fixed"])
def test_what_is_planted_is_named(name):
    """One world of each, the number of segments fixed: quickly seen."""
    found = judged(BY_NAME[name], run(BY_NAME[name], 0, steps=150))
    assert (found["right"], found["wrong"], found["needless"]) == (2, 0, 0), found["facts"]
    assert (found["reseeded_people"] > 1500, found["reseeded_changed"]) == (True, 0)


def stepped(world, pipeline, first, last):
    return [pipeline.step(world.step(number)) for number in range(first, last)]


def test_exchanging_and_drawing_anew_the_centres_changes_no_id():
    """In the running pipeline: no fact, no change that only the draw explains, the slots do stand elsewhere."""
    case = BY_NAME["quiet, fixed number"]
    world, pipeline = built(case, 1)
    stepped(world, pipeline, 1, 40)
    before, centre = majorities(world, pipeline), pipeline.membership.centre.copy()
    assert drawn_anew(case, pipeline)[1] == 0
    old = pipeline.segmenter.centres.copy()
    pipeline.segmenter.permute(np.roll(np.arange(GROUPS), 1))
    assert (pipeline.segmenter.centres != old).any(axis=1).all()
    pipeline.narrator.begin(world.step(40))
    pipeline.reseed()
    assert pipeline.narrator.lineage_by_kind() == {}
    assert np.abs(pipeline.segmenter.centres - old).max() < 2.0  # each group's centre is in its slot again
    outputs = stepped(world, pipeline, 41, 60)
    assert majorities(world, pipeline) == before
    assert sum(len(published(output)) for output in outputs) == 0
    assert (pipeline.membership.centre[centre >= 0] == centre[centre >= 0]).mean() > 0.99


def test_stopping_in_the_middle_of_it_changes_nothing():
    """A death and a birth in place, restored from bytes one step before and one step after."""
    case = BY_NAME["death and birth, fixed"]
    hashes = []
    for stops in ((), (3, 121, 122, 123)):
        world, pipeline = built(case, 101)
        for number in range(1, 130):
            if number == 120:
                world.happen()
            output = pipeline.step(world.step(number))
            if number in stops:
                state = unpack(b"".join(pack(pipeline.snapshot())))
                pipeline = built(case, 101)[1]
                pipeline.features = world
                pipeline.restore(state)
        hashes.append(
            (output.manifest.state_hash, output.manifest.output_hash, pipeline.membership.ids.tolist())
        )
    assert hashes[0] == hashes[1]
    assert max(hashes[0][2]) > GROUPS


def test_a_world_is_made_of_its_seed():
    first, second = (World(BY_NAME["split"], 3, 64) for _ in range(2))
    assert (first.places == second.places).all()
    assert first.step(1).records.values == second.step(1).records.values


def test_the_command_says_what_was_reached():
    result = CliRunner().invoke(
        shoal,
        ["eval", "identity", "--seeds", "1", "--only", "quiet, fixed", "--json"],
        catch_exceptions=False,
    )
    found = orjson.loads(result.stdout)
    assert list(found["cases"]) == ["quiet, fixed number"]
    assert all(goal["reached"] for goal in found["goals"])
