"""The interest vector is a decayed sum of what tokens mean; that is learned from the users who turn to them."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made import T0, Touch, columns, config, hashed

from shoal.stream import context
from shoal.stream.context import DOUBT, ROWS, Contexts
from shoal.stream.events import CHANNELS, NEGATIVE
from shoal.stream.interest import TYPE_WEIGHTS, Interest

DIM = 24
HALF_LIFE_MS = 3_600_000
CONFIG = config(interest_dim=DIM, interest_half_life_ms=HALF_LIFE_MS, seed=5)
USERS = ("ann", "bob")
_64 = (1 << 64) - 1


# --- the oracle: Python's own integers and floats -----------------------------------------------------


def mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _64
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _64
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _64
    return x ^ x >> 31


def vector(token: str, seed: int = 5, dim: int = DIM) -> Any:
    bits = mix(hashed(token) ^ mix(seed))
    return np.array([1.0 if bits >> j & 1 else -1.0 for j in range(dim)]) / math.sqrt(dim)


def weight(t: Touch) -> float:
    return float(TYPE_WEIGHTS[CHANNELS.index(NEGATIVE.get(t.type, t.type))]) * (
        -1 if t.type in NEGATIVE else 1
    )


class Oracle:
    """The formulas of both docstrings, over the full log, without tables, slots or rounding."""

    def __init__(self) -> None:
        self.log: list[tuple[Touch, dict[str, Any]]] = []  # with what its tokens meant then
        self.contexts: dict[str, list[Any]] = {}

    def mean(self) -> Any:
        every = [touch for touches in self.contexts.values() for touch in touches]
        return np.mean(every, axis=0) if every else np.zeros(DIM)

    def meaning(self, token: str) -> Any:
        touches = self.contexts.get(token, [])
        if not touches:
            return np.zeros(DIM)
        return (np.mean(touches, axis=0) - self.mean()) * len(touches) / (len(touches) + DOUBT)

    def faded(self, touch: Touch) -> float:
        now_ms = max(t.time_ms for t, _ in self.log if t.user == touch.user and t.tokens)
        return weight(touch) * 2.0 ** (-(now_ms - touch.time_ms) / HALF_LIFE_MS)

    def history(self, user: str, without: Touch | None = None) -> Any:
        own = [t for t, _ in self.log if t.user == user and t.tokens]
        now_ms = max(t.time_ms for t in own)
        return sum(
            (weight(t) * 2.0 ** (-(now_ms - t.time_ms) / HALF_LIFE_MS) * vector(token)
             for t in own if t is not without for token in t.tokens),
            start=np.zeros(DIM),
        )  # fmt: skip

    def feed(self, step: list[Touch]) -> None:
        self.log += [(t, {token: self.meaning(token) for token in t.tokens}) for t in step]
        for t in step:
            if not t.tokens or weight(t) < 0:
                continue
            rest = self.history(t.user, without=t)
            whole = np.linalg.norm(self.history(t.user))
            limit = 0.01 * max(whole, self.faded(t))
            left = float(np.linalg.norm(rest))
            assume(left < 1e-9 or not 0.98 < left / limit < 1.02)  # 16 bits cannot tell which side it is on
            if left > limit:
                for token in t.tokens:
                    self.contexts.setdefault(token, []).append(rest / np.linalg.norm(rest))

    def row(self, user: str) -> Any:
        own = [(t, means) for t, means in self.log if t.user == user and t.tokens]
        now_ms = max((t.time_ms for t, _ in own), default=0)
        total, size = np.zeros(DIM), 0.0
        for t, means in own:
            for token in t.tokens:
                part = weight(t) * 2.0 ** (-(now_ms - t.time_ms) / HALF_LIFE_MS) * means[token]
                total, size = total + part, size + np.linalg.norm(part)
        length = max(float(np.linalg.norm(total)), 0.01 * size)
        return total / length if length else total


# --- what the laws are tried on -----------------------------------------------------------------------

touches = st.builds(
    Touch,
    user=st.sampled_from(USERS),
    time_ms=st.integers(T0, T0 + 10 * HALF_LIFE_MS),
    type=st.sampled_from(["view", "view", "impression", "purchase", "refund", "cart_remove", "search"]),
    tokens=st.lists(st.sampled_from([f"i:{i}" for i in range(12)]), max_size=4, unique=True).map(tuple),
)
logs = st.lists(st.lists(touches, min_size=1, max_size=12), min_size=1, max_size=5)


def feed(interest: Interest, step: list[Touch]) -> None:
    interest.update(np.array([USERS.index(t.user) for t in step], np.int32), columns(step))


def frozen_feed(interest: Interest, step: list[Touch]) -> None:
    """As `feed`, but the meanings stay as they were."""
    before = interest._contexts.snapshot()
    feed(interest, step)
    interest._contexts.restore(before)


def knowing() -> Interest:
    """What tokens mean is known already; nobody has touched anything."""
    interest = Interest(CONFIG)
    interest._contexts.restore(contexts())
    return interest


def read(interest: Interest) -> Any:
    out = np.full((len(USERS), interest.dim), np.nan, np.float32)
    interest.fill(np.arange(len(USERS), dtype=np.int32), out)
    return out


# --- laws ---------------------------------------------------------------------------------------------


def taught(seed: int = 3, n: int = 400) -> tuple[Interest, np.ndarray[Any, Any]]:
    """Two kinds of users, each with six items of their own; ann and bob have touched nothing since."""
    random = np.random.default_rng(seed)
    interest = Interest(CONFIG)
    for i in range(n):
        kind = i % 2
        items = [f"i:{6 * kind + int(j)}" for j in random.integers(0, 6, 3)]
        feed(interest, [Touch(USERS[kind], T0, tokens=(item,)) for item in items])
        if i % 8 > 5:
            interest.clear(np.array([kind], np.int32))  # somebody else of the same kind
    interest.clear(np.array([0, 1], np.int32))
    return interest, read(interest)


@cache
def contexts() -> Any:
    return taught()[0]._contexts.snapshot()


@given(
    st.lists(st.lists(touches.filter(lambda t: t.type not in NEGATIVE), min_size=1), min_size=1, max_size=4)
)
@settings(max_examples=100, deadline=None)
def test_rows_equal_the_formula_over_the_full_log(steps: list[list[Touch]]) -> None:
    """Decay, type weights, contexts and meanings as of the step before: each to what 16 bits of history allow.

    Meanings are compared before they are brought to length 1: of nearly equal contexts nothing is left but rounding.
    """
    interest, oracle = Interest(CONFIG), Oracle()
    for step in steps:
        feed(interest, step)
        oracle.feed(step)
    table = interest._contexts.table
    for token in oracle.contexts:
        row = hashed(token) & (ROWS - 1)
        n = float(table.touches[row])
        assert n == len(oracle.contexts[token])
        got = (table.context[row] - table.mean[:DIM]) * n / (n + DOUBT)
        np.testing.assert_allclose(got, oracle.meaning(token), atol=2e-3)
    for name, row in zip(USERS, interest._sums, strict=False):
        wanted = oracle.row(name)
        if row[DIM] > 0.05:
            np.testing.assert_allclose(read(interest)[USERS.index(name)], wanted, atol=0.05)


@given(logs, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_with_frozen_meanings_order_and_cut_do_not_matter(steps: list[list[Touch]], random: Any) -> None:
    """The whole log at once, or shuffled and cut: the same rows, up to rounding."""
    once, often = (Interest(CONFIG) for _ in range(2))
    for interest in (once, often):
        interest._contexts.restore(contexts())
    log = [t for step in steps for t in step]
    frozen_feed(once, log)
    random.shuffle(log)
    for first in range(0, len(log), 7):
        frozen_feed(often, log[first : first + 7])
    np.testing.assert_allclose(read(once), read(often), atol=1e-4)


@given(logs, logs)
@settings(max_examples=40, deadline=None)
def test_a_restored_snapshot_continues_bit_for_bit(
    before: list[list[Touch]], after: list[list[Touch]]
) -> None:
    """Rows, meanings and fingerprint; and the snapshot does not follow the live state."""
    live, restored = Interest(CONFIG), Interest(CONFIG)
    for step in before:
        feed(live, step)
    state = live.snapshot()
    for step in after:
        feed(live, step)
    restored.restore(state)
    for step in after:
        feed(restored, step)
    assert read(live).tobytes() == read(restored).tobytes()
    assert live.fingerprint() == restored.fingerprint()
    assert live.snapshot()["context"].tobytes() == restored.snapshot()["context"].tobytes()


# --- meanings -----------------------------------------------------------------------------------------


def test_what_the_same_users_turn_to_means_the_same() -> None:
    """Two users who share no item, but the kind of others: nearly one direction; of two kinds: opposite ones."""
    interest, nothing = taught()
    np.testing.assert_array_equal(nothing, 0)
    feed(interest, [Touch("ann", T0, tokens=("i:0",)), Touch("bob", T0, tokens=("i:1",))])
    ann, bob = read(interest)
    assert ann @ bob > 0.8
    interest.clear(np.array([0, 1], np.int32))
    feed(interest, [Touch("ann", T0, tokens=("i:0",)), Touch("bob", T0, tokens=("i:7",))])
    ann, bob = read(interest)
    assert ann @ bob < -0.8


def test_what_everybody_turns_to_is_subtracted() -> None:
    """Without the centring every meaning would share one direction: here the touches' mean meaning is 0."""
    interest, _ = taught()
    table = interest._contexts.table
    rows = np.flatnonzero(table.touches)
    centred = (table.context[rows] - table.mean[:DIM]) * table.touches[rows, None]
    assert np.linalg.norm(table.mean[:DIM]) > 0.2, "there is a common direction to subtract"
    assert np.linalg.norm(centred.sum(axis=0)) / table.touches.sum() < 0.01


def test_a_new_token_means_nothing_yet_and_is_believed_by_degrees() -> None:
    """One touch of a new item leaves the row as it was; half of a context is believed after DOUBT touches."""
    contexts = Contexts(2)
    token, owner = np.array([7], np.uint64), np.zeros(1, np.int32)
    out = np.zeros(2)
    assert context.add_meaning(*contexts.table, token[0], 1.0, out) == 0.0
    other = np.array([8], np.uint64)
    for _ in range(int(DOUBT)):
        contexts.learn(token, owner, np.array([[1.0, 0.0]], np.float32))
        contexts.learn(other, owner, np.array([[-1.0, 0.0]], np.float32))
    assert context.add_meaning(*contexts.table, token[0], 1.0, out) == pytest.approx(0.5)
    np.testing.assert_allclose(out, [0.5, 0.0], atol=1e-6)


def test_contexts_forget_and_the_table_is_bounded(monkeypatch: Any) -> None:
    """However many tokens and touches: ROWS rows, and a touch weighs 1/MEMORY at least."""
    contexts = Contexts(2)
    tokens = np.arange(3 * ROWS, dtype=np.uint64)
    contexts.learn(tokens, np.zeros(len(tokens), np.int32), np.array([[1.0, 0.0]], np.float32))
    assert len(contexts.snapshot()["rows"]) == ROWS
    one = np.zeros(5000, np.uint64)
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]):
        contexts.learn(one, np.zeros(5000, np.int32), np.array([direction], np.float32))
    assert contexts.table.touches[0] == context.MEMORY
    assert contexts.table.context[0, 0] < 0.05, "what was true 15,000 touches ago is gone"


def test_the_fingerprint_follows_what_was_learned() -> None:
    """The same touches in the same steps, the same digest; one other direction, another one from there on."""
    prints = []
    for last in (1.0, 1.0, -1.0):
        contexts = Contexts(2)
        for value in (1.0, last, 1.0):
            contexts.learn(
                np.array([5], np.uint64), np.zeros(1, np.int32), np.array([[value, 0.0]], np.float32)
            )
        prints.append(contexts.fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_what_is_taken_back_teaches_nothing() -> None:
    """A refund says that the two do not belong together; the meanings stay as they were."""
    interest, _ = taught()
    feed(interest, [Touch("ann", T0, tokens=("i:1",))])
    before = interest.fingerprint(), interest.snapshot()["touches"].tobytes()
    feed(interest, [Touch("ann", T0, "refund", tokens=("i:2",))])
    assert interest.snapshot()["touches"].tobytes() == before[1]


def test_many_small_decays_are_one_large_one() -> None:
    """The history's decay goes into its scale: 16 bits lose none of a thousand small steps."""
    often, once = Interest(CONFIG), Interest(CONFIG)
    first = Touch("ann", T0, tokens=("i:1",))
    frozen_feed(often, [first])
    frozen_feed(once, [first])
    for i in range(1, 1001):
        frozen_feed(often, [Touch("ann", T0 + i * HALF_LIFE_MS // 1000, "impression", tokens=("i:2",))])
    wanted = vector("i:1") / 2
    for i in range(1, 1001):
        wanted = wanted + 0.1 * 2.0 ** ((i - 1000) / 1000) * vector("i:2")
    got = often._history[0] * often._scale[0]
    np.testing.assert_allclose(got, wanted, atol=0.01 * np.linalg.norm(wanted))


# --- single facts -------------------------------------------------------------------------------------


def test_a_row_has_length_one_or_zero() -> None:
    """What, not how much: one view or a hundred of the same thing look alike; nobody known is 0."""
    once, often = knowing(), knowing()
    frozen_feed(once, [Touch("ann", T0, tokens=("i:1",))])
    for _ in range(100):
        frozen_feed(often, [Touch("ann", T0, tokens=("i:1",))])
    np.testing.assert_allclose(read(once), read(often), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(read(once), axis=1), [1.0, 0.0], atol=1e-6)


def test_a_refund_takes_a_purchase_back() -> None:
    """Bought and returned leaves what was there before, and nothing where nothing was."""
    interest = knowing()
    frozen_feed(
        interest, [Touch("ann", T0, "view", tokens=("i:1",)), Touch("bob", T0, "purchase", tokens=("i:2",))]
    )
    before = read(interest)[0]
    frozen_feed(interest, [Touch("ann", T0, kind, tokens=("i:2",)) for kind in ("purchase", "refund")])
    frozen_feed(interest, [Touch("bob", T0, "refund", tokens=("i:2",))])
    np.testing.assert_allclose(read(interest)[0], before, atol=1e-5)
    np.testing.assert_allclose(read(interest)[1], 0, atol=1e-5)


def test_what_is_left_after_taking_back_is_no_taste() -> None:
    """A thousandth of a purchase remains by decay: the row is short, instead of pointing there with all its length."""
    interest = knowing()
    later_ms = int(HALF_LIFE_MS * np.log2(1 / 0.999))
    frozen_feed(interest, [Touch("ann", T0, "purchase", tokens=("i:1",))])
    frozen_feed(interest, [Touch("ann", T0 + later_ms, "refund", tokens=("i:1",))])
    assert np.linalg.norm(read(interest)[0]) == pytest.approx(0.001 / 0.02, rel=0.05)


def test_old_interest_fades_by_half_each_half_life() -> None:
    """A view one half life ago weighs half of a view now."""
    interest = knowing()
    frozen_feed(interest, [Touch("ann", T0, tokens=("i:1",)), Touch("bob", T0, tokens=("i:7",))])
    one, other = read(interest)
    lengths = interest._sums[:2, DIM]
    interest = knowing()
    frozen_feed(
        interest, [Touch("ann", T0, tokens=("i:1",)), Touch("ann", T0 + HALF_LIFE_MS, tokens=("i:7",))]
    )
    wanted = one * lengths[0] / 2 + other * lengths[1]
    np.testing.assert_allclose(read(interest)[0], wanted / np.linalg.norm(wanted), atol=1e-5)


def test_index_vectors_are_nearly_orthogonal_and_depend_on_the_seed() -> None:
    """Vectors of different tokens are uncorrelated to 1/sqrt(d), in more than 64 dimensions too."""
    drawn = []
    for seed in (1, 2):
        salt = context.mix(np.uint64(seed))
        vectors = np.zeros((400, 200))
        for i in range(400):
            context.add_index(np.uint64(hashed(f"i:{i}")) ^ salt, 1.0, vectors[i])
        drawn.append(vectors)
    cosines = drawn[0] @ drawn[0].T - np.eye(400)
    assert abs(cosines.mean()) < 0.002
    assert abs(cosines.std() - 200**-0.5) < 0.005
    assert abs((drawn[0] * drawn[1]).sum(axis=1).mean()) < 0.02
    np.testing.assert_allclose(
        [vector("i:3", seed=1, dim=24)], [first(1, "i:3")], atol=1e-12, err_msg="as the oracle draws it"
    )


def first(seed: int, token: str) -> Any:
    out = np.zeros(DIM)
    context.add_index(np.uint64(hashed(token)) ^ context.mix(np.uint64(seed)), 1.0, out)
    return out


def test_a_cleared_slot_has_no_interest() -> None:
    """The next user of the slot starts from nothing, also in time and in what is learned from them."""
    interest = knowing()
    frozen_feed(interest, [Touch(name, T0 + HALF_LIFE_MS, tokens=("i:1",)) for name in USERS])
    interest.clear(np.array([0], np.int32))
    np.testing.assert_array_equal(read(interest)[0], 0)
    assert not interest._history[0].any()
    frozen_feed(interest, [Touch("ann", T0, tokens=("i:7",))])
    fresh = knowing()
    frozen_feed(fresh, [Touch("ann", T0, tokens=("i:7",))])
    np.testing.assert_allclose(read(interest)[0], read(fresh)[0], atol=1e-6)


def test_without_dimensions_there_is_no_interest() -> None:
    """`interest_dim` 0 leaves the family out."""
    interest = Interest(config(interest_dim=0))
    feed(interest, [Touch("ann", T0, tokens=("i:1",))])
    assert read(interest).shape == (2, 0)
    assert interest.names == ()
