"""Feature rows are readable, and scaled so that no family and no rare column drowns the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made import HORIZONS, T0, Touch, columns, config

from shoal.stream.config import Features as Config
from shoal.stream.config import Horizon
from shoal.stream.features import Features
from shoal.stream.users import Users
from shoal.stream.windows import PARTS

CONFIG = config(users_max=2000, interest_dim=8)
FIRST = np.array([0], np.int32)


def crowd(n: int = 1000, seed: int = 1) -> list[Touch]:
    """n users with skewed activity: many views, few purchases, and a single follow."""
    random = np.random.default_rng(seed)
    log = []
    for i in range(n):
        for _ in range(min(int(random.zipf(1.7)), 30)):
            kind = random.choice(["view", "click", "purchase"], p=[0.7, 0.25, 0.05])
            taste = f"c:{int(random.zipf(1.5)) % 50}"
            time_ms = T0 + int(random.integers(3_000_000))
            log.append(Touch(f"user {i}", time_ms, str(kind), 10.0, item=taste, tokens=(taste,)))
    return [*log, Touch("user 0", T0, "follow")]


def rows(
    features: Features, log: list[Touch], users: Users | None = None, now_ms: int = T0 + 3_000_000
) -> Any:
    users = Users(CONFIG) if users is None else users
    slots = users.touch(columns(log))
    features._interest.update(slots, columns(log))  # teaches what the tokens mean
    features._interest.clear(np.unique(slots))
    features.update(slots, columns(log))
    return features.rows(np.unique(slots), users, now_ms)


@pytest.fixture(scope="module")
def raw() -> Any:
    return rows(Features(CONFIG), crowd())


def column(features: Features, matrix: Any, name: str) -> Any:
    return matrix[:, features.names.index(name)]


# --- rows ---------------------------------------------------------------------------------------------


def test_a_row_reads_as_a_person_would_write_it() -> None:
    """Counts, money, and times in the units that the names say."""
    features = Features(CONFIG)
    log = [
        Touch("ann", T0, "view", dwell_ms=900),
        Touch("ann", T0 + 1000, "purchase", 12.5, 2.0, item="a", tokens=("i:a",)),
    ]
    row = rows(features, log, now_ms=T0 + 3000)[0]
    got = dict(zip(features.names, row.tolist(), strict=True))
    assert (got["view_count_10s"], got["purchase_count_1h"], got["events_1m"]) == (1, 1, 2)
    assert (got["money_1h"], got["quantity_1h"], got["dwell_ms_1h"]) == (12.5, 2, 900)
    assert (got["recency_ms"], got["tenure_ms"]) == (2000, 3000)
    assert got["distinct_items_1h"] == pytest.approx(1, abs=0.01)
    assert np.linalg.norm(row[features.interest]) == 0, "nobody else has touched what ann touched"


def test_names_are_unique_and_the_interest_family_comes_last() -> None:
    """d columns, and `interest` says which of them are the direction."""
    features = Features(CONFIG)
    assert len(set(features.names)) == features.d == len(features.names)
    assert all(name.startswith("interest_") for name in features.names[features.interest])
    assert features.interest == slice(features.d - 8, features.d)


@pytest.mark.parametrize(
    "changed",
    [{"interest_dim": 9}, {"seed": 2}, {"interest_half_life_ms": 60_000},
     {"horizons": (*HORIZONS[:2], Horizon(name="1h", window_ms=3_600_000, tiles=6))}],
)  # fmt: skip
def test_the_version_changes_with_what_a_row_means(changed: dict[str, Any]) -> None:
    """And with nothing else: limits may grow without a new version."""
    assert Features(config(**changed)).version != Features(config()).version
    assert Features(config(users_max=99, clip=3.0)).version == Features(config()).version


def test_a_released_slot_starts_from_nothing() -> None:
    """Both families are empty for the next user of the slot."""
    features, users = Features(CONFIG), Users(CONFIG)
    fresh = rows(features, [Touch("ann", T0, "login")], users, T0)
    features.clear(FIRST)
    users.release(FIRST)
    rows(features, [Touch("bob", T0, "purchase", 5.0, 1.0, 10, "a", ("i:a",))], users, T0)
    features.clear(FIRST)
    users.release(FIRST)
    np.testing.assert_array_equal(rows(features, [Touch("cat", T0, "login")], users, T0), fresh)


def test_a_silent_user_is_due_when_a_tile_has_left() -> None:
    """Not before: recency alone is no reason for another row."""
    features = Features(CONFIG)
    rows(features, [Touch("ann", T0)], now_ms=T0)
    assert features.due(FIRST, T0 + 9_999).tolist() == [False]
    assert features.due(FIRST, T0 + 10_000).tolist() == [True]


# --- scaling ------------------------------------------------------------------------------------------


def test_before_anything_is_learned_everything_is_zero(raw: Any) -> None:
    """There is nothing to compare with yet."""
    np.testing.assert_array_equal(Features(CONFIG).scale(raw), 0)


def test_both_families_weigh_alike(raw: Any) -> None:
    """The families' mean squared lengths are equal at weight 1, and else their ratio is weight**2."""
    for weight in (1.0, 3.0):
        features = Features(config(users_max=2000, interest_dim=8, interest_weight=weight))
        features.learn(raw)
        x = features.scale(raw)
        at = features.interest.start
        lengths = (x[:, :at] ** 2).sum(axis=1).mean(), (x[:, at:] ** 2).sum(axis=1).mean()
        assert lengths[1] / lengths[0] == pytest.approx(weight**2, rel=0.15)
        assert sum(lengths) == pytest.approx(features.d, rel=0.15), "a column is of order 1 at any weight"


def test_learned_rows_are_centred(raw: Any) -> None:
    """The mean of every scaled column is 0, but for what was clipped."""
    features = Features(config(users_max=2000, interest_dim=8, clip=100.0))
    features.learn(raw)
    np.testing.assert_allclose(features.scale(raw).mean(axis=0), 0, atol=1e-4)


def test_a_column_that_never_varies_is_zero(raw: Any) -> None:
    """Also for the first row that differs: its weight is not known yet."""
    features = Features(CONFIG)
    features.learn(raw)
    odd = raw[:1].copy()
    odd[:, features.names.index("share_count_1h")] = 1000
    assert column(features, features.scale(odd), "share_count_1h") == 0


def test_a_rare_channel_does_not_drown_the_rest(raw: Any) -> None:
    """One follow among a thousand users moves its user less than the whole spread of views does."""
    features = Features(CONFIG)
    features.learn(raw)
    x = features.scale(raw)
    assert column(features, raw, "follow_count_1h").sum() == 1
    views = column(features, x, "view_count_1h")
    assert 0 < np.ptp(column(features, x, "follow_count_1h")) < np.ptp(views)
    assert column(features, x, "follow_count_1h").var() < 0.02 * views.var()


def test_directions_keep_their_shape(raw: Any) -> None:
    """The interest block is centred and divided by one number, so that no axis of it is stretched."""
    features = Features(config(users_max=2000, interest_dim=8, clip=100.0))
    features.learn(raw)
    known = raw[np.linalg.norm(raw[:, features.interest], axis=1) > 0.5]
    centred = known[:, features.interest] - known[:, features.interest].mean(axis=0)
    ratios = features.scale(known)[:, features.interest] / centred
    np.testing.assert_allclose(ratios, np.median(ratios), rtol=1e-2)


def test_a_user_without_interest_stays_in_the_middle(raw: Any) -> None:
    """Nothing known is 0 in every interest column, and the means do not follow such rows."""
    features = Features(CONFIG)
    features.learn(raw)
    nobody = raw[:50].copy()
    nobody[:, features.interest] = 0
    np.testing.assert_array_equal(features.scale(nobody)[:, features.interest], 0)
    before = features.scale(raw)[:, features.interest]
    features.learn(nobody)
    after = features.scale(raw)[:, features.interest]
    np.testing.assert_allclose(before, after, rtol=1e-5)


@given(arrays(np.float32, (5, Features(CONFIG).d), elements=st.floats(-1e9, 1e9, width=32)))
@settings(max_examples=50, deadline=None)
def test_scaled_rows_are_finite_and_bounded(strange: Any) -> None:
    """Whatever comes, no column exceeds `clip` times its weight, and learning from it breaks nothing."""
    features = Features(CONFIG)
    features.learn(strange)
    features.learn(-strange)
    x = features.scale(strange)
    assert np.isfinite(x).all()
    assert np.abs(x).max() <= CONFIG.clip * np.sqrt(features.d)


def test_a_quantity_counts_once_however_often_it_is_shown() -> None:
    """The squared weights of its columns add up to 1: over all horizons, and over the parts of the day."""
    features = Features(CONFIG)
    weight = dict(zip(features.names, features._scaling._columns.weight.tolist(), strict=True))
    for names in (PARTS, [f"view_count_{h.name}" for h in HORIZONS], [f"money_{h.name}" for h in HORIZONS]):
        assert sum(weight[name] ** 2 for name in names) == pytest.approx(1)


def test_both_ends_are_clipped(raw: Any) -> None:
    """Beyond `clip` deviations more makes no difference, in refunds as in purchases."""
    features = Features(CONFIG)
    features.learn(raw)
    at = features.names.index("money_1h")
    rows_ = np.repeat(raw[:1], 4, axis=0)
    rows_[:, at] = [-1e15, -1e12, 1e12, 1e15]
    x = features.scale(rows_)[:, at]
    assert x[0] == x[1] < 0 < x[2] == x[3]


def test_scaling_is_frozen_while_rows_are_scaled(raw: Any) -> None:
    """A row is scaled the same alone and among others."""
    features = Features(CONFIG)
    features.learn(raw)
    together = features.scale(raw)
    alone = np.concatenate([features.scale(raw[i : i + 1]) for i in range(0, len(raw), 100)])
    np.testing.assert_array_equal(together[::100], alone)


def test_learning_in_batches_equals_learning_at_once(raw: Any) -> None:
    """Up to rounding, within the first 100,000 rows."""
    once, often = Features(CONFIG), Features(CONFIG)
    once.learn(raw)
    for first in range(0, len(raw), 77):
        often.learn(raw[first : first + 77])
    often.learn(raw[:0])
    np.testing.assert_allclose(once.scale(raw), often.scale(raw), atol=1e-4)


def test_old_rows_fade_from_the_scaling(raw: Any) -> None:
    """After half a million rows of another crowd, the first crowd is all but forgotten."""
    features, only_second = Features(CONFIG), Features(CONFIG)
    for _ in range(100):
        features.learn(raw)
    second = raw * np.float32(3)
    for _ in range(50):
        features.learn(np.tile(second, (10, 1)))
    only_second.learn(second)
    np.testing.assert_allclose(features.scale(second), only_second.scale(second), atol=0.1)
    assert np.abs(features.scale(raw) - features.scale(second)).max() > 0.5


@pytest.mark.parametrize("changed", [{"interest_dim": 0}, {"interest_weight": 0.0}])
def test_the_interest_family_can_be_left_out(changed: dict[str, Any]) -> None:
    """With no dimensions or no weight, rows are activity alone."""
    cfg: Config = config(users_max=2000, **changed)
    features = Features(cfg)
    raw = rows(features, crowd(100), Users(cfg))
    features.learn(raw)
    x = features.scale(raw)
    assert not x[:, features.interest].any()
    assert x[:, : features.interest.start].any()


def test_a_restored_snapshot_continues_bit_for_bit() -> None:
    """Rows, scaled rows and fingerprint; the snapshot is a copy."""
    live, restored, users = Features(CONFIG), Features(CONFIG), Users(CONFIG)
    live.learn(rows(live, crowd(200), users))
    state = live.snapshot()
    kept = Users(CONFIG)
    kept.restore(users.snapshot())
    restored.restore(state)
    results = []
    for features, who in ((live, users), (restored, kept)):
        raw = rows(
            features,
            [Touch(t.user, t.time_ms + 3_000_000, t.type) for t in crowd(200, 2)],
            who,
            T0 + 6_100_000,
        )
        features.learn(raw)
        results.append((raw.tobytes(), features.scale(raw).tobytes(), features.fingerprint()))
    assert results[0] == results[1]


def test_the_fingerprint_covers_what_was_learned(raw: Any) -> None:
    """It changes with the scaling and with the idf weights."""
    features = Features(CONFIG)
    prints = [features.fingerprint()]
    features.learn(raw)
    prints.append(features.fingerprint())
    rows(features, [Touch("ann", T0, tokens=("i:1",))])
    prints.append(features.fingerprint())
    rows(features, [Touch("ann", T0, tokens=("i:2",))])
    prints.append(features.fingerprint())
    assert len(set(prints)) == 4
