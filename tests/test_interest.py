"""The interest vector is a decayed, idf-weighted sum of token vectors, whatever the order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import T0, Touch, columns, config, hashed

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


def oracle(steps: list[list[Touch]], user: str, frozen: bool = False) -> Any:
    """The formula of the module's docstring, over the full log."""
    now_ms = max((t.time_ms for step in steps for t in step if t.user == user), default=0)
    total, size = np.zeros(DIM), 0.0
    events, seen = 0, dict[str, int]()
    for step in steps:
        for t in (t for t in step if t.user == user):
            sign = -1 if t.type in NEGATIVE else 1
            weight = float(TYPE_WEIGHTS[CHANNELS.index(NEGATIVE.get(t.type, t.type))])
            decay = 2.0 ** (-(now_ms - t.time_ms) / HALF_LIFE_MS)
            for token in t.tokens:
                idf = 1 + math.log((1 + events) / (1 + min(seen.get(token, 0), events)))
                total += sign * weight * decay * idf * vector(token)
                size += weight * decay * idf
        if not frozen:
            events += sum(bool(t.tokens) for t in step)
            for t in step:
                for token in t.tokens:
                    seen[token] = seen.get(token, 0) + 1
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
    """As `feed`, but the idf weights stay as they were."""
    before = interest.snapshot()
    feed(interest, step)
    after = interest.snapshot()
    interest.restore(after | {name: before[name] for name in ("tokens", "seen", "events")})


def read(interest: Interest) -> Any:
    out = np.full((len(USERS), interest.dim), np.nan, np.float32)
    interest.fill(np.arange(len(USERS), dtype=np.int32), out)
    return out


# --- laws ---------------------------------------------------------------------------------------------


@given(logs)
@settings(max_examples=100, deadline=None)
def test_rows_equal_the_formula_over_the_full_log(steps: list[list[Touch]]) -> None:
    """Decay, type weights, signs and the idf as of the step before: each row to 1e-4, usually 1e-6."""
    interest = Interest(CONFIG)
    for step in steps:
        feed(interest, step)
    for name, row in zip(USERS, read(interest), strict=True):
        np.testing.assert_allclose(row, oracle(steps, name), atol=1e-4)


@given(logs, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_with_frozen_weights_order_and_cut_do_not_matter(steps: list[list[Touch]], random: Any) -> None:
    """The whole log at once, or shuffled and cut: the same rows, up to rounding."""
    once, often = Interest(CONFIG), Interest(CONFIG)
    log = [t for step in steps for t in step]
    frozen_feed(once, log)
    random.shuffle(log)
    for first in range(0, len(log), 7):
        frozen_feed(often, log[first : first + 7])
    np.testing.assert_allclose(read(once), read(often), atol=1e-4)
    np.testing.assert_allclose(read(often)[0], oracle([log], "ann", frozen=True), atol=1e-4)


@given(
    st.lists(st.lists(touches.filter(lambda t: t.type not in NEGATIVE), min_size=1), min_size=1, max_size=4)
)
@settings(max_examples=60, deadline=None)
def test_where_nothing_is_taken_back_rows_agree_to_1e_5(steps: list[list[Touch]]) -> None:
    """Order within a step does not matter: cancellation alone makes rounding visible."""
    forward, backward = Interest(CONFIG), Interest(CONFIG)
    for step in steps:
        feed(forward, step)
        feed(backward, step[::-1])
    np.testing.assert_allclose(read(forward), read(backward), atol=1e-5)


@given(logs, logs)
@settings(max_examples=40, deadline=None)
def test_a_restored_snapshot_continues_bit_for_bit(
    before: list[list[Touch]], after: list[list[Touch]]
) -> None:
    """Rows, idf weights and fingerprint; and the snapshot does not follow the live state."""
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


# --- single facts -------------------------------------------------------------------------------------


def test_a_row_has_length_one_or_zero() -> None:
    """What, not how much: one view or a hundred of the same thing look alike; nobody known is 0."""
    once, often = Interest(CONFIG), Interest(CONFIG)
    feed(once, [Touch("ann", T0, tokens=("i:1",))])
    for _ in range(100):
        frozen_feed(often, [Touch("ann", T0, tokens=("i:1",))])
    np.testing.assert_allclose(read(once), read(often), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(read(once), axis=1), [1.0, 0.0], atol=1e-6)


def test_a_refund_takes_a_purchase_back() -> None:
    """Bought and returned leaves what was there before, and nothing where nothing was."""
    interest = Interest(CONFIG)
    frozen_feed(
        interest, [Touch("ann", T0, "view", tokens=("i:1",)), Touch("bob", T0, "purchase", tokens=("i:2",))]
    )
    before = read(interest)[0]
    frozen_feed(interest, [Touch("ann", T0, kind, tokens=("i:2",)) for kind in ("purchase", "refund")])
    frozen_feed(interest, [Touch("bob", T0, "refund", tokens=("i:2",))])
    np.testing.assert_allclose(read(interest)[0], before, atol=1e-6)
    np.testing.assert_array_equal(read(interest)[1], 0)


def test_what_is_left_after_taking_back_is_no_taste() -> None:
    """A thousandth of a purchase remains by decay: the row is short, instead of pointing there with all its length."""
    interest = Interest(CONFIG)
    later_ms = int(HALF_LIFE_MS * np.log2(1 / 0.999))
    frozen_feed(interest, [Touch("ann", T0, "purchase", tokens=("i:1",))])
    frozen_feed(interest, [Touch("ann", T0 + later_ms, "refund", tokens=("i:1",))])
    assert np.linalg.norm(read(interest)[0]) == pytest.approx(0.001 / 0.02, rel=0.05)


def test_a_token_is_never_less_than_common() -> None:
    """Counters are shared: one that ran ahead of the number of events gives the least weight, 1, and no less."""
    interest = Interest(CONFIG)
    feed(interest, [Touch("bob", T0, tokens=("i:1", "i:1", "i:1"))])
    feed(interest, [Touch("ann", T0, tokens=("i:1", "i:2"))])
    wanted = vector("i:1") + (1 + np.log(2)) * vector("i:2")
    np.testing.assert_allclose(read(interest)[0], wanted / np.linalg.norm(wanted), atol=1e-5)


def test_old_interest_fades_by_half_each_half_life() -> None:
    """A view one half life ago weighs half of a view now."""
    interest = Interest(CONFIG)
    feed(interest, [Touch("ann", T0, tokens=("i:1",)), Touch("ann", T0 + HALF_LIFE_MS, tokens=("i:2",))])
    wanted = vector("i:1") / 2 + vector("i:2")
    np.testing.assert_allclose(read(interest)[0], wanted / np.linalg.norm(wanted), atol=1e-6)


def test_a_rare_item_says_more_than_a_common_one() -> None:
    """After many views of one item, an unseen one pulls the row further."""
    interest = Interest(CONFIG)
    feed(interest, [Touch("bob", T0, tokens=("i:common",))] * 500)
    feed(interest, [Touch("ann", T0, tokens=("i:common", "i:rare"))])
    row = read(interest)[0]
    assert row @ vector("i:rare") > 0.95 > row @ vector("i:common") + 0.5


def test_projections_are_nearly_orthogonal_and_depend_on_the_seed() -> None:
    """Vectors of different tokens are uncorrelated to 1/sqrt(d), in more than 64 dimensions too."""
    log = [Touch(f"user {i}", T0, tokens=(f"i:{i}",)) for i in range(400)]
    slots = np.arange(400, dtype=np.int32)
    rows = []
    for seed in (1, 2):
        interest = Interest(config(interest_dim=200, users_max=400, seed=seed))
        interest.update(slots, columns(log))
        out = np.empty((400, 200), np.float32)
        interest.fill(slots, out)
        rows.append(out)
    cosines = rows[0] @ rows[0].T - np.eye(400)
    assert abs(cosines.mean()) < 0.002
    assert abs(cosines.std() - 200**-0.5) < 0.005
    assert abs((rows[0] * rows[1]).sum(axis=1).mean()) < 0.02


def test_a_cleared_slot_has_no_interest() -> None:
    """The next user of the slot starts from nothing, also in time."""
    interest = Interest(CONFIG)
    feed(interest, [Touch(name, T0 + HALF_LIFE_MS, tokens=("i:1",)) for name in USERS])
    interest.clear(np.array([0], np.int32))
    np.testing.assert_array_equal(read(interest)[0], 0)
    frozen_feed(interest, [Touch("ann", T0, tokens=("i:2",))])
    np.testing.assert_allclose(read(interest)[0], vector("i:2"), atol=1e-6)


def test_counters_halve_and_stay_bounded(monkeypatch: Any) -> None:
    """After the limit the weights go on from half the counts: the past fades, the table never grows."""
    monkeypatch.setattr("shoal.stream.interest._EVENTS_MAX", 100)
    interest = Interest(CONFIG)
    for _ in range(50):
        feed(interest, [Touch("ann", T0, tokens=("i:1",))] * 30)
        assert interest.snapshot()["events"] <= 100
    assert interest.snapshot()["seen"].max() <= 100


def test_without_dimensions_there_is_no_interest() -> None:
    """`interest_dim` 0 leaves the family out."""
    interest = Interest(config(interest_dim=0))
    feed(interest, [Touch("ann", T0, tokens=("i:1",))])
    assert read(interest).shape == (2, 0)
    assert interest.names == ()
