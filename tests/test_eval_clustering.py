"""The evaluation is fair and can fail: streams keep their promises, peers their rules, measures are scikit-learn's."""

import importlib.util
from dataclasses import replace

import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from river import cluster
from sklearn import cluster as sklearn_cluster
from sklearn import metrics
from threadpoolctl import threadpool_limits

from shoal.stream.commands.eval import command
from shoal.stream.config import Segmenter
from shoal.stream.evaluation import bounds, measures, peers, real
from shoal.stream.evaluation.clustering import Plan, _tuned, catalogue, evaluate
from shoal.stream.evaluation.goals import judged
from shoal.stream.evaluation.measures import Track, follow, measured
from shoal.stream.evaluation.report import render
from shoal.stream.evaluation.streams import CHANGES, IMBALANCE, SHAPES, WARM_ROWS, Stream, made
from shoal.stream.ports import ConfigError, Intervention
from shoal.stream.segmenter import KMeans

ROWS = 4096
SMALL = ("--rows", "2048", "--seeds", "1", "--only", "gaussian/static")


@pytest.fixture(scope="module")
def stream():
    """Gaussian, static, two windows."""
    return made("gaussian", "static", 3, ROWS)


def _tiny(labels, rows, window, changes=(), truth=None):
    rows = np.asarray(rows, np.float32).reshape(len(labels), -1)
    return Stream("tiny", "static", 2, rows[:1], rows, np.array(labels), changes, truth, window)


# --- streams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_seed_gives_the_same_stream_and_another_one_another(change):
    """Every byte, labels and truth included."""
    a, b, c = (made("heavy", change, seed, ROWS) for seed in (7, 7, 8))
    assert a.rows.tobytes() == b.rows.tobytes()
    assert a.labels.tobytes() == b.labels.tobytes()
    assert a.truth.anchors.tobytes() == b.truth.anchors.tobytes()
    assert a.rows.tobytes() != c.rows.tobytes()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_row_belongs_to_a_group_that_lives_and_lies_around_its_centre(shape, change):
    """Variance 1 per dimension round the true centre of that moment; nearest true centre right 19 times in 20."""
    made_up = made(shape, change, 1, 3 * ROWS)
    at = np.arange(len(made_up.rows))
    truth = made_up.truth
    assert (truth.born[made_up.labels] <= at).all()
    assert (at < truth.died[made_up.labels]).all()
    assert truth.alive(at).sum(axis=1).tolist() == [made_up.k] * len(at)
    gaps = made_up.rows - truth.centre_of(made_up.labels, at)
    assert abs(gaps.mean()) < 0.02
    assert gaps.var() == pytest.approx(1.0, abs=0.1)
    assert 0.92 < (bounds.true_centres(made_up).groups == made_up.labels).mean() < 0.995
    assert made_up.warm.shape == (WARM_ROWS, SHAPES[shape].d)


def test_the_changes_are_what_they_are_called():
    """Abrupt: half of the groups, twice; births: one, eight times; imbalanced: ten to one; slow: it moves."""
    abrupt, births = made("gaussian", "abrupt", 0, 20_480), made("gaussian", "births", 0, 20_480)
    assert len(abrupt.truth.anchors) == 16 + 2 * 8
    assert len(births.truth.anchors) == 16 + 8
    for made_up, each in ((abrupt, 8), (births, 1)):
        assert [(made_up.truth.born == at).sum() for at in made_up.changes] == [each] * len(made_up.changes)
        assert [(made_up.truth.died == at).sum() for at in made_up.changes] == [each] * len(made_up.changes)
    sizes = np.bincount(made("gaussian", "imbalanced", 0, 40_960).labels)
    assert sizes[0] / sizes[-1] == pytest.approx(IMBALANCE, rel=0.3)
    slow = made("gaussian", "slow", 0, ROWS).truth
    gone = np.linalg.norm(slow.centres(np.array([0]))[0] - slow.centres(np.array([ROWS]))[0], axis=1)
    np.testing.assert_allclose(gone, 3.0)  # half a circle of radius 1.5: its diameter


def test_no_group_begins_on_top_of_another():
    """The nearest two centres are more than three deviations apart, also those that come later."""
    for seed in range(5):
        anchors = made("gaussian", "births", seed, ROWS).truth.anchors
        gaps = np.linalg.norm(anchors[:, None] - anchors, axis=2)
        assert gaps[~np.eye(len(anchors), dtype=bool)].min() > 3.0


def test_another_unit_is_only_another_unit(stream):
    """The same labels, rows times the factor."""
    scaled = stream.scaled(1000.0)
    np.testing.assert_allclose(scaled.rows, stream.rows * 1000.0)
    assert scaled.labels is stream.labels
    assert (scaled.name, scaled.truth) == ("gaussian/static x 1000", None)


REAL = [pytest.param(n, marks=pytest.mark.slow if "Shuttle" in n else ()) for n in real.CATALOGUE]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Matrices this small only wait for a second thread."""
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("name", REAL)
def test_real_rows_are_standardised_by_the_rows_before_them(name):
    """A shorter stream is the beginning of a longer one: nothing looks ahead. Every value is finite."""
    short, long = (real.CATALOGUE[name](5, rows) for rows in (2048, 6144))
    assert long.rows[: len(short.rows)].tobytes() == short.rows.tobytes()
    assert np.isfinite(long.rows).all()
    assert long.warm.std(axis=0).max() == pytest.approx(1.0, abs=1e-3)
    assert len(np.unique(long.labels)) > 1


# --- peers ----------------------------------------------------------------------------------------------


def _rows_as_river(z):
    return [dict(enumerate(row)) for row in z.astype(np.float64).tolist()]


def test_the_river_peer_is_river(stream):
    """Default initialisation and step, batch by batch: labels and centres bit for bit."""
    peer = peers.River(stream.k, 9, 16)
    model = cluster.KMeans(n_clusters=stream.k, seed=9)
    for row in _rows_as_river(stream.warm[:300]):
        model.learn_one(row)
    peer.start(stream.warm[:300])
    for start in (0, 100):
        z = stream.rows[start : start + 100]
        assert peer.score(z)[0].tolist() == [model.predict_one(row) for row in _rows_as_river(z)]
        peer.learn(z)
        for row in _rows_as_river(z):
            model.learn_one(row)
    assert [[model.centers[c][j] for j in range(16)] for c in range(stream.k)] == peer.centres.tolist()


def test_the_tuned_river_peer_is_river_with_that_halflife(stream):
    """From given centres, the same."""
    centres = stream.warm[: stream.k].astype(np.float64)
    peer = peers.TunedRiver(0.05, centres)
    model = KMeans(stream.k, 16, 0.05, 0)
    model.carry(centres)
    judge = model.to_river()
    peer.learn(stream.rows[:200])
    for row in _rows_as_river(stream.rows[:200]):
        judge.learn_one(row)
    assert [[judge.centers[c][j] for j in range(16)] for c in range(stream.k)] == peer.centres.tolist()


def _spark(centres, weights, batch, decay):
    """Spark's update, sentence by sentence, on lists."""
    k, d = len(centres), len(batch[0])
    sums, counts = [[0.0] * d for _ in range(k)], [0] * k
    for row in batch:
        gaps = [sum((a - b) ** 2 for a, b in zip(c, row, strict=True)) for c in centres]
        w = gaps.index(min(gaps))
        counts[w] += 1
        sums[w] = [a + b for a, b in zip(sums[w], row, strict=True)]
    weights = [weight * decay ** len(batch) for weight in weights]
    for c in range(k):
        if counts[c]:
            weights[c] += counts[c]
            share = counts[c] / max(weights[c], 1e-16)
            centres[c] = [
                a * (1 - share) + share / counts[c] * b for a, b in zip(centres[c], sums[c], strict=True)
            ]
    most, least = max(weights), min(weights)
    largest, smallest = weights.index(most), weights.index(least)
    if least < 1e-8 * most:
        weights[largest] = weights[smallest] = (most + least) / 2
        x = centres[largest]
        centres[largest] = [v + 1e-14 * max(abs(v), 1.0) for v in x]
        centres[smallest] = [v - 1e-14 * max(abs(v), 1.0) for v in x]
    return centres, weights


def test_the_spark_peer_keeps_sparks_rule_and_splits_for_a_dying_centre(stream):
    """Against a plain transcription; one centre far away dies, and gets a new name when it comes back."""
    start = stream.rows[:4].astype(np.float64)
    start[3] = 1e6
    peer = peers.SparkRule(20.0, start)
    peer.start(stream.warm[:50])
    centres, weights = start.tolist(), peer.weights.tolist()
    assert weights[3] == 0.0
    splits = 0
    for i in range(6):
        batch = stream.rows[50 * i : 50 * i + 50]
        splits += peer.learn(batch)
        centres, weights = _spark(centres, weights, batch.astype(np.float64).tolist(), 0.5 ** (1 / 20))
        np.testing.assert_allclose(peer.centres, centres, rtol=1e-9)
        np.testing.assert_allclose(peer.weights, weights, rtol=1e-9)
    assert splits == 1
    assert peer.ids.tolist() == [0, 1, 2, 4]


def test_the_minibatch_peer_is_scikit_learns(stream):
    """Its own partial_fit from the same centres, its own predict."""
    centres = stream.warm[: stream.k].astype(np.float64)
    peer = peers.MiniBatch(centres)
    judge = sklearn_cluster.MiniBatchKMeans(stream.k, init=centres, n_init=1, random_state=0)
    peer.start(stream.warm)
    judge.partial_fit(stream.warm.astype(np.float64))
    for start in (0, 256, 512):
        z = stream.rows[start : start + 256].astype(np.float64)
        assert peer.score(z)[0].tolist() == judge.predict(z).tolist()
        peer.learn(z)
        judge.partial_fit(z)
    assert peer.centres.tobytes() == judge.cluster_centers_.tobytes()


class _Restless(KMeans):
    """Merges centre 1 into 0 at the first opportunity, brings it back at the second."""

    turn = 0

    def tend(self):
        self.turn += 1
        self.used[1] = self.turn == 2
        if self.turn == 1:
            return (Intervention("merge", 1, 0, -1, "close", 0.0),)
        return (Intervention("split", 1, -1, 2, "wide", 0.1),) if self.turn == 2 else ()


def test_a_centre_that_was_given_up_stands_for_a_new_group(stream):
    """Out of use it has no name, and in use again it has one that was never used."""
    contestant = peers.Shoal(_Restless(4, 16, 0.02, 0))
    contestant.start(stream.warm)
    assert contestant.learn(stream.rows[:10]) == 1
    assert contestant.ids.tolist() == [0, -1, 2, 3]
    assert len(contestant.view()) == 3
    assert contestant.learn(stream.rows[:10]) == 1
    assert contestant.ids[[0, 2, 3]].tolist() == [0, 2, 3]
    assert contestant.ids[1] > 3


# --- measures -------------------------------------------------------------------------------------------


class _Notes(peers.Centres):
    """A contestant that notes what it is asked, in order."""

    def __init__(self):
        super().__init__(np.zeros((1, 16)))
        self.asked = []

    def score(self, z):
        self.asked.append(("score", len(z)))
        return super().score(z)

    def learn(self, z):
        self.asked.append(("learn", len(z)))
        return 1


def test_every_row_is_scored_before_it_is_learned(stream):
    """Batch by batch, each row once; warm-up rows are not scored."""
    notes = _Notes()
    notes.ids = np.array([7])
    track = follow(notes, stream, 300)
    assert set(track.groups) == {7}  # what the centre stands for, not its place in a list
    assert notes.asked[:2] == [("score", 300), ("learn", 300)]
    kinds = [kind for kind, _ in notes.asked]
    assert kinds == ["score", "learn"] * (len(kinds) // 2)
    assert sum(n for kind, n in notes.asked if kind == "score") == ROWS
    assert track.interventions == kinds.count("learn")


def test_measures_are_scikit_learns(stream):
    """ARI and NMI per window and over the whole, sums of squares against KMeans' own inertia."""
    track = follow(peers.constant(stream.k, 0, 16), stream, 256)
    optimum, best = bounds.offline(stream, 0)
    got = measured(stream, track, best, bounds.true_centres(stream))
    halves = [slice(0, 2048), slice(2048, 4096)]
    truth, found = stream.labels, track.groups
    assert got["ari"] == pytest.approx(
        np.mean([metrics.adjusted_rand_score(truth[w], found[w]) for w in halves])
    )
    assert got["nmi"] == pytest.approx(
        np.mean([metrics.normalized_mutual_info_score(truth[w], found[w]) for w in halves])
    )
    assert got["ari_whole"] == pytest.approx(metrics.adjusted_rand_score(truth, found))
    assert got["ssq"] == pytest.approx(
        np.mean([track.gaps[w].sum() / b for w, b in zip(halves, best, strict=True)])
    )
    model = sklearn_cluster.KMeans(stream.k, n_init=1, random_state=1).fit(
        stream.rows[:2048].astype(np.float64)
    )
    assert best[0] <= model.inertia_ * (1 + 1e-9)
    assert measured(stream, optimum, best, None)["ssq"] == pytest.approx(1.0)


def test_the_true_centres_are_the_nearest_of_those_that_live():
    """Row by row, by the dumbest means."""
    made_up = made("gaussian", "births", 2, ROWS)
    track = bounds.true_centres(made_up)
    for i in range(0, ROWS, 97):
        at = np.array([i])
        gaps = ((made_up.truth.centres(at)[0] - made_up.rows[i]) ** 2).sum(axis=1)
        living = [g for g in range(len(gaps)) if made_up.truth.born[g] <= i < made_up.truth.died[g]]
        assert track.groups[i] == min(living, key=lambda g: gaps[g])
        assert track.gaps[i] == pytest.approx(gaps[track.groups[i]])


def test_following_a_moving_group_is_no_churn_and_renaming_it_is():
    """The true centres, slowly drifting: as good as none; with fresh names every window: everything."""
    slow = made("gaussian", "slow", 0, 3 * ROWS)
    track = bounds.true_centres(slow)
    assert measures.churn(slow, track) < 0.03
    first, *others = track.views
    renamed = replace(track, views=[first, *(_renamed(view, 100 * i) for i, view in enumerate(others, 1))])
    assert measures.churn(slow, renamed) == 1.0
    now, then = measures._moved_back(slow, slice(0, 2048))
    ends = slow.truth.centres(np.array([0, 2048]))
    np.testing.assert_allclose(now - then, (ends[1] - ends[0])[slow.labels[:2048]], atol=1e-9)
    left_behind = replace(track, views=[first] * len(track.views))
    assert measures.churn(slow, left_behind) > measures.churn(slow, track)


def _renamed(view, by):
    return peers.View(view._centres, view._ids + by)


def test_a_centre_that_wins_next_to_nothing_is_dead():
    """200 rows, 2 centres: 5 % of an equal share is five rows; four are not enough."""
    view = peers.View(np.zeros((2, 1)), np.array([0, 1]))
    tiny = _tiny([0] * 200, np.zeros(200), 200)
    for won, share in ((5, 1.0), (4, 0.5), (0, 0.5)):
        groups = np.repeat([0, 1], [200 - won, won])
        assert measures.live(tiny, Track(groups, np.zeros(200), [view, view])) == share


def test_recovery_is_counted_from_the_change_to_lasting_nearness():
    """Bad for 500 rows after each of two changes; never good again: until the next change, or the end."""
    n = 9000
    tiny = _tiny([0] * n, np.zeros(n), n, changes=(1000, 5000))
    truth = Track(np.zeros(n, np.int64), np.ones(n))
    gaps = np.ones(n)
    gaps[1000:1500] = gaps[5000:5500] = 3.0
    got = measures.recovery(tiny, Track(truth.groups, gaps), truth)
    assert got == 500 - 25  # 25 of 1,024 rows at three times the price are within 5 %, 26 are not
    assert measures.recovery(tiny, Track(truth.groups, np.full(n, 3.0)), truth) == 4000.0
    assert np.isnan(measures.recovery(replace(tiny, changes=()), truth, truth))


# --- tuning ---------------------------------------------------------------------------------------------


def test_a_peer_gets_the_setting_that_serves_it_best(monkeypatch):
    """Of a hopeless half-life and a sensible one the sensible one, on seeds that are not reported."""
    seen = []

    def stream_of(seed, rows):
        seen.append(seed)
        return made("gaussian", "static", seed, rows)

    monkeypatch.setattr(peers, "TUNED", {"spark": ((1.0, 2048.0), peers.SparkRule)})
    found = _tuned(_plan(rows=2048, contestants="spark"), stream_of)
    assert found["spark"][1] == 2048.0
    assert not set(seen) & set(_plan().seeds)


# --- the command ----------------------------------------------------------------------------------------


def _plan(**given):
    names = ("seeds", "rows", "only", "contestants", "quick", "development", "overrides")
    options = (
        dict.fromkeys(names) | {"only": (), "quick": False, "development": False, "overrides": ()} | given
    )
    return Plan.of(*(options[name] for name in names))


@pytest.fixture
def _one_setting(monkeypatch):
    """Tuning over a grid of one: what is tested here is not which setting is best."""
    monkeypatch.setattr(
        peers, "TUNED", {name: (grid[:1], make) for name, (grid, make) in peers.TUNED.items()}
    )


@pytest.mark.usefixtures("_one_setting")
def test_the_command_says_what_ran_where_and_which_goals_were_reached():
    """All contestants on one small stream: JSON with every measure, Markdown with every table."""
    done = CliRunner().invoke(command, ["clustering", *SMALL, "--json"])
    assert done.exit_code == 0, done.output
    result = orjson.loads(done.stdout)
    row = result["streams"]["gaussian/static"]
    assert list(row) == list(peers.NAMES)
    assert row["offline"]["ssq"]["mean"] == pytest.approx(1.0)
    assert row["truth"]["ari"]["mean"] > row["river"]["ari"]["mean"]
    assert result["machine"]["scikit-learn"]
    assert result["seeds"] == [100]
    assert set(result["tuned"]["gaussian/static"]) == set(peers.TUNED)
    text = render(result)
    assert "**Live centres**" in text
    assert f"of {len(result['goals'])} reached" in text


class _OneForAll(peers.Centres):
    """A broken contestant: one centre wins everything."""

    def __init__(self, k, d):
        super().__init__(np.vstack([np.zeros((1, d)), np.full((k - 1, d), 1e6)]))

    def learn(self, z):
        return 0


@pytest.mark.usefixtures("_one_setting")
def test_a_broken_contestant_misses_every_goal(monkeypatch):
    """The list of goals can fail, and names the stream, the goal, the value and the limit."""
    monkeypatch.setattr(peers, "configured", lambda settings, k, seed, d: _OneForAll(k, d))
    result = evaluate(_plan(seeds=1, rows=2048, only=("gaussian/static",), contestants="shoal,spark,offline"))
    own = [goal for goal in result["goals"] if goal["stream"] == "gaussian/static"]
    assert [goal["goal"] for goal in own] == ["ssq", "ari, offline", "ari, spark", "ssq, spark", "live"]
    assert not any(goal["reached"] for goal in own)
    assert "| gaussian/static | live | 0.062 | >= 0.950 |" in render(result)


def test_a_goal_is_reached_at_its_limit():
    """0.02 under the offline ARI is reached, a little more under is not; abrupt change may cost more than none."""

    def row(ari, ssq):
        one = {"ari": {"mean": ari}, "ssq": {"mean": ssq}, "live": {"mean": 1.0}}
        return {"shoal": one, "offline": {"ari": {"mean": 0.9}}}

    table = {"a": row(0.89, 1.07), "b": row(0.87, 1.07)}
    found = judged(table, {"a": "abrupt", "b": "static"})
    assert [(goal["stream"], goal["goal"]) for goal in found if not goal["reached"]] == [
        ("b", "ssq"),
        ("b", "ari, offline"),
    ]


def test_development_never_touches_what_is_reported():
    """Other seeds, and only the shapes that Shoal may be tuned on; no real data."""
    plan, report = _plan(development=True), _plan()
    assert not set(plan.seeds) & set(report.seeds)
    assert {name.split("/")[0] for name in plan.streams} == {"gaussian", "heavy"}
    assert set(report.streams) == set(catalogue())


def test_names_that_are_not_known_are_refused():
    """With the nearest known one, or the whole list."""
    with pytest.raises(ConfigError, match="'minibatch'"):
        _plan(contestants="shoal,minibatsch")
    with pytest.raises(ConfigError, match="gaussian/births"):
        _plan(only=("no such stream",))


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    """It is a peer and a judge, not a dependency of the product."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else found(name, *rest)
    )
    with pytest.raises(ConfigError, match="pip install 'scikit-learn"):
        _plan()


def test_settings_reach_shoal_and_only_shoal():
    """`--set segmenter.step` moves the configured contestant; the default one stays."""
    plain, moved = (
        evaluate(_plan(seeds=1, rows=2048, only=("gaussian/static x 1000",), contestants="shoal,constant", overrides=o))
        for o in ((), ("segmenter.mode=constant", "segmenter.step=0.4"))
    )  # fmt: skip
    one, two = (r["streams"]["gaussian/static x 1000"] for r in (plain, moved))
    assert one["constant"] == two["constant"]
    assert one["shoal"]["ssq"] != two["shoal"]["ssq"]
    assert Segmenter().step != 0.4
