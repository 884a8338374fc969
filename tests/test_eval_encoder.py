"""`shoal eval encoder`: who moves because the encoder changed, counted from outside the publisher."""

import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from shop import SMALL, events, small

from shoal.stream.cli import shoal
from shoal.stream.evaluation.encoder_churn import Churn, View, evaluate, goals, lost, render, run, summary
from shoal.stream.segmenter import KMeans


def churn(nearest=0.0, published=True, **more):
    return Churn(published, 0.0, nearest, more.get("policy", 0.0), more.get("stale", 0.0), 0.0, 0.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("events") / "events.jsonl"
    file.write_bytes(b"\n".join(value or b"" for value in events()) + b"\n")
    return str(file)


def test_a_view_says_who_is_nearest_and_whom_the_policy_would_move():
    """By the margin on distances: 4.4 against 5.6 is enough for a tenth, 4.9 against 5.1 is not."""
    segmenter = KMeans(2, 1, 0.1, 1)
    centres = np.array([[0.0], [10.0]])
    view = View(np.array([[5.6], [5.1], [1.0]], np.float32), centres, segmenter)
    assert view.nearest.tolist() == [1, 1, 0]
    assert view.moves(np.array([0, 0, 0], np.int32), 0.1).tolist() == [True, False, False]
    segmenter.used = np.array([True, False])
    assert View(np.array([[9.0]], np.float32), centres, segmenter).nearest.tolist() == [0]


def test_what_a_linear_map_gives_back_is_not_lost():
    x = np.random.default_rng(1).normal(size=(400, 5)).astype(np.float32)
    assert lost(x, x) == pytest.approx(0.0, abs=1e-9)
    assert lost(x, x[:, :3]) == pytest.approx(0.4, abs=0.06)
    assert lost(x, np.zeros((400, 2), np.float32)) == pytest.approx(1.0, abs=0.05)


def test_goals_are_means_by_kind_of_change():
    rows = [
        {"segments": 8, "change": "ordinary", **summary([churn(0.02), churn(0.03, published=False)])},
        {"segments": 8, "change": "renewed", **summary([churn(0.09, policy=0.01)])},
        {"segments": 8, "change": "stranger", **summary([])},
    ]
    assert [row["attempts"] for row in rows] == [2, 1, 0]
    assert (rows[0]["refused"], rows[0]["worst"]) == (1, 0.03)
    assert [goal["reached"] for goal in goals(rows)] == [True, True, False, True]


def test_a_run_leaves_the_pipeline_as_it_was_after_every_beginning(path):
    """Beginning again is tried on a copy of the state: the same seed says the same whatever came before it."""
    config = small("encoder.churn_budget=0.03", "segmenter.segments=4", "encoder.publish_every_rows=60")
    found = run(config, path, 64)
    assert list(found) == ["ordinary", "renewed", "stranger"]
    assert len(found["ordinary"]) >= 2
    assert len(found["renewed"]) == len(found["stranger"]) == 3
    for one in (*found["ordinary"], *found["renewed"], *found["stranger"]):
        assert one.published or one.nearest == 0.0  # who is refused moves nobody
        assert 0.0 <= one.policy <= 1.0
    assert np.mean([one.stale for one in found["stranger"]]) > 0.3  # unrelated weights, centres as they were
    assert found == run(config, path, 64)


def test_the_command_and_its_table(path):
    arguments = ["eval", "encoder", "--events", path, "--segments", "4", "--step-records", "128", "--json"]
    result = CliRunner().invoke(
        shoal, [*arguments, *(part for o in SMALL for part in ("--set", o))], catch_exceptions=False
    )
    found = orjson.loads(result.stdout)
    assert [row["change"] for row in found["changes"]] == ["ordinary", "renewed", "stranger"]
    assert "stale centres" in render(found)
    assert evaluate.__doc__
