"""New weights serve together with their centres, within the churn budget, or not at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.encoders import make_publisher
from shoal.encoders.alignment import align, carry_over
from shoal.encoders.autoencoder import one_thread
from shoal.encoders.kernels import nearest
from shoal.encoders.publication import STEPS_MAX, ReplayPublisher
from shoal.stream import config
from shoal.stream.packing import pack, unpack
from shoal.stream.segmenter import KMeans

one_thread()

D = 6
HOMES = np.random.default_rng(0).normal(size=(4, D)) * 3


def rows_of(seed, n, spread=0.3):
    rng = np.random.default_rng(seed)
    return (HOMES[rng.integers(0, 4, n)] + spread * rng.normal(size=(n, D))).astype(np.float32)


def settings_of(kind="autoencoder", **changes):
    small = {"dim": 3, "hidden": 8, "batch": 32, "warmup_steps": 200, "replay_rows": 128}
    return config.Encoder(kind=kind, **{**small, "publish_every_rows": 100, **changes})


def started(kind="autoencoder", **changes):
    """A warm publisher and a segmenter seeded in its space."""
    publisher = make_publisher(settings_of(kind, **changes), D)
    publisher.warm(rows_of(1, 200))
    segmenter = KMeans(4, publisher.d_out, 0.05, seed=1)
    segmenter.seed(publisher.encode(rows_of(1, 200)))
    return publisher, segmenter


class Turning:
    """A fake encoder that serves x @ turn(version), writes down every batch, and learns nothing."""

    name, epochs, d_in, d_out = "turning", 2, D, D

    def __init__(self, turn):
        self.makes, self.version, self.batches = turn, 0, []
        self.serving = np.eye(D), np.zeros(D)

    def renew(self, seed):
        pass

    def turn(self, matrix, shift):
        pass

    def start(self, x):
        pass

    def encode(self, x):
        return (x @ self.serving[0] + self.serving[1]).astype(np.float32)

    def encode_candidate(self, x):
        return self.makes(x).astype(np.float32)

    def encode_previous(self, x):
        return None

    def learn(self, x):
        self.batches.append(x.copy())
        return float(len(self.batches))

    def publish(self, matrix=None, shift=None):
        self.version += 1
        return self.version

    def parts(self):
        return ()

    def snapshot(self):
        return {}

    def restore(self, state):
        pass


def faked(turn=lambda x: x, **changes):
    encoder = Turning(turn)
    publisher = ReplayPublisher(encoder, settings_of(**changes))
    publisher.warm(rows_of(1, 100))
    encoder.batches.clear()
    segmenter = KMeans(4, D, 0.05, seed=1)
    segmenter.seed(rows_of(1, 100))
    return encoder, publisher, segmenter


# --- when, and how much ------------------------------------------------------------------------------


def test_warming_up_serves_version_one():
    publisher = make_publisher(settings_of(), D)
    assert publisher.version == 0
    publisher.warm(rows_of(1, 200))
    assert (publisher.version, publisher.reservoir.shape) == (1, (128, D))
    assert 0 < publisher.loss < 1


@pytest.mark.parametrize("kind", ["identity", "linear", "autoencoder"])
@pytest.mark.parametrize("n", [1, 2, 33])
def test_a_tiny_warm_up_is_enough_to_go_on(kind, n):
    """Even one row; embeddings and centres stay finite through later publications."""
    publisher = make_publisher(settings_of(kind, churn_budget=1.0, publish_every_rows=10), D)
    publisher.warm(rows_of(1, n))
    segmenter = KMeans(4, publisher.d_out, 0.05, seed=1)
    segmenter.seed(publisher.encode(rows_of(1, n)))
    for seed in range(5):
        publisher.learn(rows_of(seed, 20), segmenter)
    assert np.isfinite(publisher.encode(rows_of(1, 50))).all()
    assert np.isfinite(segmenter.centres).all()


def test_attempts_are_made_every_so_many_learned_rows():
    _, publisher, segmenter = faked()
    attempts = [publisher.learn(rows_of(i, 30), segmenter) for i in range(8)]
    assert [attempt is not None for attempt in attempts] == [False, False, False, True] * 2


def test_the_identity_is_never_published_again():
    publisher, segmenter = started("identity", publish_every_rows=1)
    x = rows_of(3, 50)
    assert publisher.learn(x, segmenter) is None
    assert (publisher.version, publisher.encode(x).tobytes()) == (1, x.tobytes())
    assert publisher.encode_previous(x) is None


def test_batches_are_half_new_rows_and_half_replayed_ones():
    """What does not fill a half-batch waits for the next call."""
    encoder, publisher, segmenter = faked(publish_every_rows=10_000)
    x = rows_of(2, 40)
    publisher.learn(x[:15], segmenter)
    assert encoder.batches == []
    publisher.learn(x[15:], segmenter)
    assert [batch.shape for batch in encoder.batches] == [(32, D), (32, D)]
    assert np.concatenate([batch[:16] for batch in encoder.batches]).tobytes() == x[:32].tobytes()
    known = {row.tobytes() for row in [*rows_of(1, 100), *x]}
    assert all(row.tobytes() in known for batch in encoder.batches for row in batch[16:])


def test_load_turns_into_subsampling():
    """A call with very many rows costs no more than STEPS_MAX gradient steps, spread over its rows."""
    encoder, publisher, segmenter = faked(publish_every_rows=10**9)
    x = rows_of(2, 16 * STEPS_MAX * 5)
    publisher.learn(x, segmenter)
    assert len(encoder.batches) == STEPS_MAX
    firsts = [batch[0].tobytes() for batch in encoder.batches]
    assert firsts == [x[16 * 5 * i].tobytes() for i in range(STEPS_MAX)]


def test_rows_that_are_not_finite_are_left_out():
    """The state after them is the state without them."""
    x = rows_of(2, 60)
    bad = np.insert(x, [5, 40], np.nan, axis=0)
    clean, dirty = started(), started()
    clean[0].learn(x, clean[1])
    dirty[0].learn(bad, dirty[1])
    assert clean[0].fingerprint() == dirty[0].fingerprint()


# --- together, or not at all ---------------------------------------------------------------------------


def test_weights_and_centres_change_together():
    """Only in the call that publishes; the version before can still be asked."""
    publisher, segmenter = started(churn_budget=1.0)
    probe = rows_of(50, 20)
    published = 0
    for seed in range(20):
        before = publisher.encode(probe).tobytes(), segmenter.centres.tobytes()
        result = publisher.learn(rows_of(seed, 32), segmenter)
        after = publisher.encode(probe).tobytes(), segmenter.centres.tobytes()
        if result is None:
            assert after == before
        else:
            published += 1
            assert result.published
            assert (result.version, segmenter.version) == (publisher.version, 1 + published)
            assert after[0] != before[0]
            assert after[1] != before[1]
            assert publisher.encode_previous(probe).tobytes() == before[0]
    assert published >= 5


def test_beyond_the_budget_nothing_changes():
    """A candidate that throws everybody together is refused; the next attempt comes in its time."""
    encoder, publisher, segmenter = faked(lambda x: x[:, ::-1] ** 2, churn_budget=0.01)
    centres = segmenter.centres.copy()
    result = publisher.learn(rows_of(2, 100), segmenter)
    assert result is not None
    assert not result.published
    assert 0.01 < result.churn <= 1
    assert (result.version, encoder.version, segmenter.version) == (1, 1, 1)
    assert np.array_equal(segmenter.centres, centres)
    assert publisher.learn(rows_of(3, 99), segmenter) is None
    assert publisher.learn(rows_of(3, 1), segmenter) is not None


def test_weights_that_diverged_never_serve():
    """Even with a budget of everybody."""
    encoder, publisher, segmenter = faked(lambda x: x * np.nan, churn_budget=1.0)
    result = publisher.learn(rows_of(2, 100), segmenter)
    assert result is not None
    assert (result.published, result.churn, encoder.version) == (False, 1.0, 1)


def test_a_turned_and_stretched_space_moves_nobody():
    """What an encoder is free to do without any meaning costs no churn."""
    rng = np.random.default_rng(4)
    turn = np.linalg.qr(rng.normal(size=(D, D)))[0] * 3
    _, publisher, segmenter = faked(lambda x: x @ turn + 5, churn_budget=0.0)
    result = publisher.learn(rows_of(2, 100), segmenter)
    assert result is not None
    assert (result.published, result.churn) == (True, 0.0)


def test_an_online_autoencoder_publishes_within_the_goal():
    """At most 3 % per ordinary update while it goes on learning a stream with overlapping groups."""
    publisher, segmenter = started(publish_every_rows=400)
    results = []
    for seed in range(60):
        x = rows_of(seed, 64, spread=1.5)
        segmenter.learn(publisher.encode(x))
        results.append(publisher.learn(x, segmenter))
    churns = [result.churn for result in results if result is not None]
    assert len(churns) >= 8
    assert np.mean(churns) <= 0.03


def test_churn_is_counted_on_rows_that_nothing_was_fitted_to():
    """Every other row of the reservoir is fitted to; the others, and only they, are counted."""
    publisher, segmenter = started(churn_budget=1.0)
    for seed in range(3):
        publisher.learn(rows_of(seed, 30, spread=1.5), segmenter)
    x = publisher.reservoir.copy()
    before, centres = publisher.encode(x), segmenter.centres.copy()
    result = publisher.attempt(segmenter)
    moved = nearest(publisher.encode(x), segmenter.centres) != nearest(before, centres)
    assert result.churn == pytest.approx(moved[1::2].mean(), abs=1.5 / len(moved))
    x[1::2] = 1e3  # what judges has no say in where centres and weights go
    fitted = segmenter.centres.copy()
    again, twin = started(churn_budget=1.0)
    for seed in range(3):
        again.learn(rows_of(seed, 30, spread=1.5), twin)
    again.reservoir[1::2] = 1e3
    again.attempt(twin)
    assert np.array_equal(twin.centres, fitted)


def test_a_refused_candidate_goes_on_from_the_serving_space():
    """It is laid onto it, and what it decodes stays; the serving copy is as it was."""
    publisher, segmenter = started()
    publisher._budget = -1.0  # nothing is few enough
    publisher._encoder.renew(5)
    publisher._encoder.start(rows_of(9, 100))
    x = rows_of(4, 60)
    served = publisher.encode(x)
    away = np.abs(publisher._encoder.encode_candidate(x) - served).mean()
    assert not publisher.attempt(segmenter).published
    assert np.array_equal(publisher.encode(x), served)
    assert np.abs(publisher._encoder.encode_candidate(x) - served).mean() < away


@pytest.mark.parametrize("kind", ["identity", "linear", "autoencoder"])
def test_beginning_again_moves_few(kind):
    """Other weights, the same path: within the budget they serve, and most people are where they were."""
    publisher, segmenter = started(kind, churn_budget=0.05)
    x = rows_of(7, 400)
    before = nearest(publisher.encode(x), segmenter.centres)
    result = publisher.renew(77, segmenter)
    assert (result.published, result.version) == (True, 1 if kind == "identity" else 2)
    assert (nearest(publisher.encode(x), segmenter.centres) != before).mean() <= 0.05


def test_who_cannot_be_persuaded_never_serves():
    """Beginning again gives up after so many rounds, and everything served stays."""
    publisher, segmenter = started()
    x, centres = rows_of(4, 60), segmenter.centres.copy()
    served = publisher.encode(x)
    publisher._budget = -1.0
    assert not publisher.renew(3, segmenter).published
    assert np.array_equal(publisher.encode(x), served)
    assert np.array_equal(segmenter.centres, centres)


# --- laying one space onto another -----------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_alignment_undoes_turning_stretching_and_shifting(seed, e):
    """Any invertible map is undone up to the mean and covariance; a rotation with one scale exactly."""
    rng = np.random.default_rng(seed)
    old = rng.normal(size=(60, e)) * rng.uniform(0.5, 2, e)
    turn = np.linalg.qr(rng.normal(size=(e, e)))[0]
    matrix, shift = align((old @ turn * 2.5 + 7).astype(np.float32), old.astype(np.float32))
    np.testing.assert_allclose((old @ turn * 2.5 + 7) @ matrix + shift, old, atol=1e-3)
    new = old @ turn @ np.diag(rng.uniform(0.3, 3, e)) @ turn + rng.normal(size=e)
    matrix, shift = align(new.astype(np.float32), old.astype(np.float32))
    laid = new @ matrix + shift
    np.testing.assert_allclose(laid.mean(axis=0), old.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(np.cov(laid.T), np.cov(old.T), atol=2e-2)


@pytest.mark.parametrize("n", [1, 2, 50])
def test_alignment_is_invertible_without_any_variance(n):
    """One row, or dead directions: finite, and not singular."""
    rng = np.random.default_rng(1)
    new = np.concatenate([rng.normal(size=(n, 2)), np.zeros((n, 2))], axis=1).astype(np.float32)
    matrix, shift = align(new, rng.normal(size=(n, 4)).astype(np.float32))
    assert np.isfinite(matrix).all()
    assert np.isfinite(shift).all()
    assert np.isfinite(np.linalg.inv(matrix)).all()


def test_a_centre_moves_as_its_members_do():
    """By their mean, whatever the others do; one without members moves like the nearest row."""
    old = np.array([[0.0, 0], [1, 0], [10, 0], [20, 0]], np.float32)
    new = old + np.array([[0, 1], [0, 3], [5, 0], [7, 7]], np.float32)
    centres = np.array([[0.2, 0], [9, 0], [100, 0]])
    carried = carry_over(new, old, np.array([0, 0, 1, 1], np.int32), centres)
    assert carried.tolist() == [[0.2, 2.0], [15.0, 3.5], [107.0, 7.0]]


def test_a_space_that_did_not_change_moves_no_centre():
    """A centre that is not its members' mean stays where it is: carrying is not a round of k-means."""
    z, centres = rows_of(1, 50), HOMES + 0.5
    assert np.array_equal(carry_over(z, z, nearest(z, centres), centres), centres)


# --- state -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["identity", "linear", "autoencoder"])
def test_restore_continues_as_if_nothing_happened(kind):
    """From the middle of a half-batch, through the bytes of a snapshot, past later publications."""
    first, segmenter = started(kind, churn_budget=1.0)
    first.learn(rows_of(2, 37), segmenter)
    state, centres = unpack(b"".join(pack(first.snapshot()))), segmenter.snapshot()
    second, twin = (
        make_publisher(settings_of(kind, churn_budget=1.0), D),
        KMeans(4, first.d_out, 0.05, seed=1),
    )
    second.restore(state)
    twin.restore(centres)
    assert second.fingerprint() == first.fingerprint()
    assert (second.version, second.loss) == (first.version, first.loss)
    for seed in range(12):
        x = rows_of(seed, 41)
        assert first.learn(x, segmenter) == second.learn(x, twin)
        assert first.fingerprint() == second.fingerprint()
        assert segmenter.centres.tobytes() == twin.centres.tobytes()
    assert first.reservoir.tobytes() == second.reservoir.tobytes()


def test_a_snapshot_does_not_change_with_the_live_state():
    publisher, segmenter = started()
    state = publisher.snapshot()
    before = unpack(b"".join(pack(state)))
    publisher.learn(rows_of(2, 300), segmenter)
    np.testing.assert_equal(state, before)


@pytest.mark.parametrize("kind", ["identity", "linear", "autoencoder"])
def test_the_fingerprint_changes_with_every_learned_row(kind):
    publisher, segmenter = started(kind)
    seen = [publisher.fingerprint()]
    for seed in range(5):
        publisher.learn(rows_of(seed, 1), segmenter)
        seen.append(publisher.fingerprint())
    assert len(set(seen)) == 6
    assert publisher.fingerprint() == seen[-1]
