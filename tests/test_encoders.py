"""Encoders: two copies of the weights, embeddings that do not depend on the batch, state without surprises."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from shoal.encoders import make_encoder
from shoal.encoders.autoencoder import one_thread
from shoal.encoders.gradient import descent
from shoal.encoders.kernels import affine, bend, nearest
from shoal.encoders.linear import Linear
from shoal.encoders.replay import MEMORY, Reservoir
from shoal.stream import config
from shoal.stream.packing import pack, unpack

one_thread()  # as the shell does; more threads make these small steps 20 times slower

D = 12
KINDS = ("identity", "linear", "autoencoder")
LEARNING = ("linear", "autoencoder")


def encoder_of(kind, **changes):
    return make_encoder(config.Encoder(kind=kind, dim=4, hidden=16, **changes), D)


def rows_of(seed, n):
    """Rows that live near a curved surface of three dimensions."""
    rng = np.random.default_rng(seed)
    inner = rng.normal(size=(n, 3))
    basis = np.random.default_rng(0).normal(size=(3, D))
    return (np.tanh(inner) @ basis + 0.1 * rng.normal(size=(n, D))).astype(np.float32)


def taught(kind, steps=20, seed=1):
    encoder = encoder_of(kind, seed=seed)
    for i in range(steps):
        encoder.learn(rows_of(i, 64))
    encoder.publish()
    return encoder


def facts(value):
    """A state as nested values that compare bit for bit."""
    if isinstance(value, dict):
        return {name: facts(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [facts(inner) for inner in value]
    return value.tobytes() if isinstance(value, np.ndarray) else value


# --- what every encoder promises -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_changes_only_at_publication(kind):
    """However much is learned in between."""
    encoder, x = taught(kind), rows_of(99, 30)
    before = encoder.encode(x)
    assert (before.shape, before.dtype) == ((30, encoder.d_out), np.float32)
    version = encoder.version
    for i in range(5):
        encoder.learn(rows_of(i, 64) * 2)
        assert encoder.encode(x).tobytes() == before.tobytes()
    candidate = encoder.encode_candidate(x)
    assert encoder.version == version
    encoder.publish()
    assert encoder.encode(x).tobytes() == candidate.tobytes()
    if kind in LEARNING:
        assert encoder.version == version + 1
        assert not np.array_equal(candidate, before)
        assert encoder.encode_previous(x).tobytes() == before.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_no_previous_version_at_first(kind):
    assert encoder_of(kind).encode_previous(rows_of(1, 2)) is None
    assert taught(kind).encode_previous(rows_of(1, 2)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_does_not_depend_on_the_batch(kind):
    """One row alone, in a slice or in a Fortran-ordered batch: the same bytes."""
    encoder, x = taught(kind), rows_of(5, 41)
    together = encoder.encode(x)
    alone = np.concatenate([encoder.encode(x[i : i + 1]) for i in range(len(x))])
    assert alone.tobytes() == together.tobytes()
    assert encoder.encode(x[7:]).tobytes() == together[7:].tobytes()
    assert encoder.encode(np.asfortranarray(x)).tobytes() == together.tobytes()
    assert encoder.encode(x[:0]).shape == (0, encoder.d_out)


@pytest.mark.parametrize("kind", KINDS)
def test_restore_continues_as_if_nothing_happened(kind):
    """Also through the bytes of a snapshot, which does not change with the live weights."""
    first = taught(kind)
    state = first.snapshot()
    before = facts(state)
    for i in range(4):
        first.learn(rows_of(i, 32))
    first.publish()
    assert facts(state) == before
    second = encoder_of(kind, seed=8)
    second.restore(unpack(b"".join(pack(state))))
    assert facts(second.snapshot()) == before
    for i in range(4):
        second.learn(rows_of(i, 32))
    second.publish()
    assert facts(second.snapshot()) == facts(first.snapshot())
    assert [part.tobytes() for part in second.parts()] == [part.tobytes() for part in first.parts()]


@pytest.mark.parametrize("kind", LEARNING)
def test_a_turned_candidate_serves_turned(kind):
    """publish(matrix, shift) serves z @ matrix + shift."""
    encoder, x = taught(kind), rows_of(3, 50)
    rng = np.random.default_rng(1)
    matrix, shift = rng.normal(size=(4, 4)) + 2 * np.eye(4), rng.normal(size=4)
    encoder.learn(rows_of(4, 64))
    expected = encoder.encode_candidate(x) @ matrix + shift
    encoder.publish(matrix, shift)
    np.testing.assert_allclose(encoder.encode(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", LEARNING)
def test_every_learned_array_is_among_the_parts(kind):
    """One learned batch changes the parts: what the fingerprint does not cover could diverge unseen."""
    first, second = taught(kind), taught(kind)
    assert [p.tobytes() for p in first.parts()] == [p.tobytes() for p in second.parts()]
    first.learn(rows_of(1, 8))
    assert [p.tobytes() for p in first.parts()] != [p.tobytes() for p in second.parts()]


# --- linear -------------------------------------------------------------------------------------------


def test_linear_is_principal_component_analysis():
    """Fed in batches, equal to scikit-learn's on all rows up to the sign, which is fixed."""
    x = rows_of(1, 500)
    encoder = Linear(D, 4)
    for batch in np.split(x, [3, 100, 333]):
        encoder.learn(batch)
    encoder.publish()
    expected = PCA(4, svd_solver="full").fit(x.astype(np.float64))
    components = expected.components_
    signs = np.sign(components[np.arange(4), np.abs(components).argmax(axis=1)])
    np.testing.assert_allclose(encoder.encode(x), expected.transform(x) * signs, atol=2e-4)
    share_lost = 1 - expected.explained_variance_ratio_.sum()
    assert encoder.learn(x) == pytest.approx(share_lost, rel=1e-3)


def test_linear_has_at_most_the_rows_own_dimensions():
    assert Linear(3, 16).d_out == 3


# --- the autoencoder -------------------------------------------------------------------------------------


def test_the_autoencoder_learns_to_give_rows_back():
    """A quarter of the rows' power is lost at most, three times less than before."""
    encoder = encoder_of("autoencoder", learning_rate=0.01)
    first = encoder.learn(rows_of(0, 256))
    for i in range(300):
        last = encoder.learn(rows_of(i, 256))
    assert last < 0.25 < first / 3


def loss(rows, noisy, pull, towards, w):
    """What `gradient.py` says that it differentiates."""

    def bend(h):
        return h / torch.sqrt(1 + h * h)

    z = bend(noisy @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]
    back = bend(z @ w["w3"] + w["b3"]) @ w["w4"] + w["b4"]
    return ((back - rows) ** 2).mean() + pull * ((z - towards) ** 2).mean()


@pytest.mark.parametrize("pulled", [True, False])
def test_the_gradient_is_what_torch_says_of_the_loss(pulled):
    random = np.random.default_rng(5)
    sizes = (7, 5, 3, 5, 7)
    shapes = {f"w{i}": (a, b) for i, (a, b) in enumerate(pairwise(sizes), 1)}
    shapes |= {f"b{i}": (b,) for i, b in enumerate(sizes[1:], 1)}
    w, out = ({name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()} for _ in "wo")
    for tensor in w.values():
        tensor.copy_(torch.from_numpy(random.normal(size=tensor.shape))).requires_grad_()
    rows, noisy, towards = (torch.from_numpy(random.normal(size=(11, n))) for n in (7, 7, 3))
    expected = torch.autograd.grad(loss(rows, noisy, 0.7 if pulled else 0.0, towards, w), list(w.values()))
    lost = descent(rows, noisy, 0.7, towards if pulled else None, w, out)
    for name, gradient in zip(w, expected, strict=True):
        torch.testing.assert_close(out[name], gradient, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(lost, loss(rows, noisy, 0.0, towards, w).detach(), rtol=1e-12, atol=0.0)


def test_turning_the_embedding_leaves_what_is_decoded():
    """The inverse goes into the decoding half: the next loss is the same, but for rounding."""
    plain, turned = taught("autoencoder"), taught("autoencoder")
    matrix = np.diag([2.0, 0.5, -1.0, 1.0]) + 0.1
    plain.publish()
    turned.publish(matrix, np.arange(4.0))
    x = rows_of(7, 64)
    assert turned.learn(x) == pytest.approx(plain.learn(x), rel=1e-4)


def test_the_autoencoder_is_pulled_towards_what_serves():
    """Learning rows of another kind moves their embedding less than it would without the pull."""
    free, pulled = taught("autoencoder", 200), taught("autoencoder", 200)
    free.version = 0  # no serving copy to be pulled to
    for i in range(200):
        other = rows_of(i, 64)[:, ::-1]
        free.learn(other)
        pulled.learn(other)
    gaps = [np.abs(e.encode_candidate(other) - e.encode(other)).mean() for e in (free, pulled)]
    assert gaps[1] < 0.5 * gaps[0]


def test_torchs_global_generator_is_never_touched():
    before = torch.random.get_rng_state()
    taught("autoencoder", 3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_seed_decides_the_weights():
    first, same, other = (taught("autoencoder", 2, seed) for seed in (1, 1, 2))
    assert facts(first.snapshot()) == facts(same.snapshot())
    assert facts(first.snapshot())["weights"] != facts(other.snapshot())["weights"]


SCRIPT = """
import hashlib, numpy as np
from shoal.encoders import make_encoder
from shoal.encoders.autoencoder import one_thread
from shoal.stream import config
rows = np.random.default_rng(3).normal(size=(50, 20, 9)).astype(np.float32)
encoder = make_encoder(config.Encoder(dim=3, hidden=8), 9)
for batch in rows:
    encoder.learn(batch)
encoder.publish()
print(hashlib.blake2b(b"".join(part.tobytes() for part in encoder.parts())).hexdigest())
"""


@pytest.mark.slow
def test_another_process_gives_the_same_bytes():
    """Also under another PYTHONHASHSEED."""
    prints = set()
    for seed in ("0", "1"):
        environ = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environ, capture_output=True, text=True, check=True
        )
        prints.add(done.stdout)
    assert len(prints) == 1
    assert len(prints.pop()) == 129


# --- kernels ---------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 20), st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_kernels_are_what_numpy_says(n, d, k, seed):
    rng = np.random.default_rng(seed)
    x, weight, bias = (rng.normal(size=s).astype(np.float32) for s in ((n, d), (d, k), k))
    np.testing.assert_allclose(affine(x, weight, bias), x @ weight + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bend(x), x / np.sqrt(1 + x.astype(np.float64) ** 2), rtol=1e-6)
    centres = rng.normal(size=(k, d))
    gaps = ((x[:, None].astype(np.float64) - centres) ** 2).sum(axis=2)
    assert nearest(x, centres).tolist() == gaps.argmin(axis=1).tolist()


# --- the reservoir ---------------------------------------------------------------------------------------


def stream(n, start=0):
    return np.arange(start, start + n, dtype=np.float32)[:, None]


def test_a_reservoir_holds_everything_until_it_is_full():
    reservoir = Reservoir(10, 1, seed=1)
    reservoir.add(stream(4))
    reservoir.add(stream(0))
    reservoir.add(stream(6, 4))
    assert reservoir.rows[:, 0].tolist() == list(range(10))


def test_a_reservoir_is_a_fair_sample():
    """Over many seeds each of 100 rows is held about as often as any other, in whatever batches they came."""
    held = np.zeros(100)
    for seed in range(800):
        reservoir = Reservoir(20, 1, seed)
        for part in np.split(stream(100), [13, 21, 60]):
            reservoir.add(part)
        assert len(np.unique(reservoir.rows)) == 20
        held[reservoir.rows[:, 0].astype(int)] += 1
    assert abs(held / 800 - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 800)


def test_an_old_reservoir_still_follows_the_stream():
    """After a long stream the sample is from about its last MEMORY times its size, not from all of it."""
    reservoir = Reservoir(50, 1, seed=1)
    for start in range(0, 100_000, 1000):
        reservoir.add(stream(1000, start))
    ages = 100_000 - reservoir.rows[:, 0]
    assert 0.5 * 50 * MEMORY < ages.mean() < 2 * 50 * MEMORY


def test_draws_are_rows_of_the_reservoir():
    reservoir = Reservoir(5, 1, seed=1)
    reservoir.add(stream(3))
    assert set(reservoir.draw(50)[:, 0].tolist()) == {0.0, 1.0, 2.0}


def test_a_restored_reservoir_makes_the_same_choices():
    first, second = Reservoir(8, 1, seed=1), Reservoir(8, 1, seed=2)
    first.add(stream(30))
    second.restore(unpack(b"".join(pack(first.snapshot()))))
    for reservoir in (first, second):
        reservoir.add(stream(100, 30))
    assert first.counters() == second.counters()
    assert first.rows.tobytes() == second.rows.tobytes()
    assert first.draw(9).tobytes() == second.draw(9).tobytes()
