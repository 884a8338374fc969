"""Planted causes through the real pipeline: each change is called by what alone can have caused it."""

from dataclasses import replace

import numpy as np
import pytest
from decisions import FakeFeatures, scored
from test_attribution import NEW, OLD, Scene

from shoal.stream.attribution import lead
from shoal.stream.evaluation.reasons import KINDS, Plan, evaluate, render

RESTLESS = replace(
    KINDS[2],
    overrides=(
        *KINDS[2].overrides,
        "segmenter.step=0.1",
        "membership.margin=0",
        "membership.confirmations=1",
    ),
)


@pytest.mark.parametrize(("kind", "cause"), [(KINDS[0], "user"), (RESTLESS, "model")])
def test_a_small_plan_calls_nearly_everything_by_its_cause(kind, cause):
    """The evaluation behind the README's figure, in small: still models, then held users."""
    result = evaluate(Plan([kind], [16], [7], 300, 12_000, flips=False))
    (row,) = [row for row in result["rows"] if row["cause"] == cause]
    assert row["changes"] >= 3
    assert row["share"] >= 0.97
    assert f"| {kind.name} | 16 | {cause} |" in render(result)


class Drifting(FakeFeatures):
    """A scaling that moves all rows along."""

    offset = 0.0

    def scale(self, raw, as_then=None):
        return raw + np.float32(self.offset if as_then is None else as_then[0, 0])

    def scale_now(self):
        return np.full((3, 1), self.offset)


def test_a_scaling_that_moves_everybody_is_the_models_doing():
    """The raw row is the same; only what the features learned since puts it beyond the border."""
    scene, scales = Scene(), Drifting()
    verdicts = []
    for number, offset in enumerate([0.0, 2.0, 4.0, 6.0], 1):
        scales.offset = offset
        raw = np.array([[1.0, 0.0]], np.float32)
        rows = scored([0], scales.scale(raw), scene.centres, raw=raw)
        moves = scene.members.decide(rows, np.full(1, 5), number, number)
        verdicts.append(scene.attribution.judge(moves, rows, scene.publisher, scene, scales))
        scene.attribution.remember(rows, 1)
    assert verdicts[-1].kind == ("segment_moved",)
    assert verdicts[-1].user_shift[0] == pytest.approx(0.0, abs=1e-6)
    places = np.array([[3.0, 2.0], [7.0, 6.0]], np.float32)  # at the anchor, and now
    start, now = lead(places, np.array([OLD, NEW]), np.array([0, 0]), np.array([1, 1]))
    assert verdicts[-1].model_shift[0] == pytest.approx(start - now, abs=1e-6)


def test_a_user_whose_segment_was_given_up_did_not_move_itself():
    """Its heir takes it over, and the next scoring puts the same row elsewhere: the model's doing."""
    from shoal.stream.ports import Intervention

    scene = Scene(centres=(OLD, NEW, [100.0, 0.0]))
    scene.step([0], [[1.0, 0.0]])
    given_up = [Intervention("swap", 0, 1, 2, "misplaced", 0.1)]
    scene.centres = np.array([[101.0, 0.0], NEW, [2.0, 0.0]])
    scene.members.intervene(given_up, 2)
    scene.attribution.intervene(given_up)
    moves, verdict = scene.step([0], [[1.0, 0.0]])
    assert moves.centre_before.tolist() == [1]
    assert verdict.kind == ("segment_moved",)


def test_counterfactuals_hold_when_the_stream_says_so():
    """In small: the events are really taken out or put in, and users left alone decide as before."""
    result = evaluate(Plan((), [32], [3], 300, 20_000))
    (row,) = result["counterfactuals"]
    assert row["tested"] > 3
    assert row["held"] >= row["tested"] - 1
    assert row["same"] >= 0.9 * row["controls"]
    assert "| 32 |" in render(result)
