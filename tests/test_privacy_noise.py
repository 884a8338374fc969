"""Noisy sizes: the noise has the distribution it should, and no history spends more than the budget."""

from __future__ import annotations

import doctest
import math
from collections import Counter
from itertools import pairwise

import pytest
from histories import SETTINGS, History, Reader
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import engine, events, small
from test_output_schemas import check

from shoal.sinks.memory import MemorySink
from shoal.stream.config import Privacy
from shoal.stream.ports import ConfigError
from shoal.stream.privacy import noise
from shoal.stream.privacy.keyfile import KEY_VARIABLE, pseudonyms
from shoal.stream.privacy.ledger import DAY_MS, Ledger
from shoal.stream.privacy.noise import Draws, discrete_laplace
from shoal.stream.sources import MemorySource

KEY = bytes(range(7, 39))


def test_the_examples_are_true():
    assert doctest.testmod(noise).failed == 0


@pytest.mark.parametrize("epsilon_milli", [250, 1000, 1700])
def test_the_noise_is_discrete_laplace(epsilon_milli):
    """Chi-squared against the formula, over 6,000 draws."""
    n, epsilon = 6000, epsilon_milli / 1000
    drawn = Counter(discrete_laplace(Draws(KEY, b"%d" % i), epsilon_milli) for i in range(n))
    a = math.exp(-epsilon)
    expected = {y: n * (1 - a) / (1 + a) * a ** abs(y) for y in range(-80, 81)}
    cells = [y for y in expected if expected[y] >= 8]
    tail = n - sum(expected[y] for y in cells)
    chi2 = sum((drawn[y] - expected[y]) ** 2 / expected[y] for y in cells)
    chi2 += (n - sum(drawn[y] for y in cells) - tail) ** 2 / max(tail, 1.0)
    freedom = len(cells)
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom)


def test_noise_follows_from_the_key_and_the_moment_and_from_nothing_less():
    """Without the key nobody can take it off; with it every replay draws the same."""

    def drawn(key, moment):
        return [discrete_laplace(Draws(key, b"%b:%d" % (moment, i)), 100) for i in range(20)]

    assert drawn(KEY, b"1") == drawn(KEY, b"1")
    assert drawn(KEY, b"1") != drawn(KEY, b"2")
    assert drawn(KEY, b"1") != drawn(KEY[::-1], b"1")


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(-3, 40), st.booleans()), max_size=60),
    st.integers(1, 400),
    st.integers(0, 1200),
)
def test_no_history_of_refreshes_and_restarts_overruns_a_day(moves, cost, more):
    """What was drawn on each day, times its price, never passes the budget; and all that fits is drawn."""
    config = Privacy(size_epsilon=cost / 1000, size_epsilon_per_day=(cost + more) / 1000)
    ledger, now_ms, drawn = Ledger(config, KEY), 10 * DAY_MS, Counter()
    known = None
    for step, (hours, restart) in enumerate(moves):
        now_ms += hours * 3_600_000
        if restart:
            state, spent = ledger.snapshot(), ledger.recorded
            ledger = Ledger(config, KEY)
            if hours % 2:
                ledger.restore(state)
            else:  # a new epoch: only what was spent is known
                ledger.resume(spent)
                known = None
        told = ledger.publish({7: 1000, 8: 500}, now_ms, b"%d" % step)
        fresh = told[7].as_of_ms == now_ms and told != known
        if fresh:
            drawn[ledger.day] += 1
        elif known is not None:
            assert (told[7].size, told[8].size) == (known[7].size, known[8].size)
        known = told
        assert drawn[ledger.day] * cost <= cost + more
        assert ledger.spent <= cost + more
        if not fresh:
            assert ledger.spent + cost > cost + more
    for day, n in drawn.items():
        assert n * cost <= cost + more, day


def test_what_the_budget_does_not_pay_for_is_repeated_or_missing():
    """A size says of when it is; a segment that came since has none; shares are of the sizes told."""
    ledger = Ledger(Privacy(size_epsilon=1.0, size_epsilon_per_day=1.0), KEY)
    first = ledger.publish({1: 100, 2: 50}, DAY_MS, b"a")
    again = ledger.publish({2: 10**6, 3: 10}, DAY_MS + 5, b"b")
    assert again[2].size == first[2].size
    assert again[2].as_of_ms == DAY_MS
    assert (again[3].size, again[3].share, again[3].as_of_ms) == (None, None, None)
    assert first[1].share + first[2].share == pytest.approx(1.0)
    assert again[2].share == 1.0
    later = ledger.publish({2: 10**6, 3: 10}, 2 * DAY_MS, b"c")
    assert later[2].size > 10**5
    assert later[3].as_of_ms == 2 * DAY_MS


def test_a_noisy_size_is_never_below_what_is_known():
    """Not negative; and with a floor not below the floor, which everybody knows."""
    for floor in (0, 20):
        config = Privacy(size_epsilon=0.01, size_epsilon_per_day=1.0, floor_members=floor)
        ledger = Ledger(config, KEY)
        sizes = ledger.publish(dict.fromkeys(range(1, 200), floor), DAY_MS, b"m")
        assert min(told.size for told in sizes.values()) == floor
        assert max(told.size for told in sizes.values()) > floor + 50


def noisy(seed, tmp_path_factory, restarts=False):
    key = tmp_path_factory.getbasetemp() / "user-key"
    key.write_bytes(KEY)
    sets = ("privacy.size_epsilon=0.5", "privacy.size_epsilon_per_day=1.2", "privacy.floor_members=5")
    return History(small(*SETTINGS, *sets, f"privacy.user_key_file={key}"), seed, restarts)


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_catalog_of_whole_histories_keeps_the_budget(tmp_path_factory, seed):
    """Counted by somebody who only reads: draws of a day by their times; every record fits its schema."""
    made, again, reader = noisy(seed, tmp_path_factory), noisy(seed, tmp_path_factory, True), Reader()
    draws: dict[int, set[int]] = {}
    for output, other in zip(made.steps(22), again.steps(22), strict=True):
        assert output.records == other.records
        assert output.manifest == other.manifest
        reader.read(output)
        for record in output.records:
            check(record)
        for profile in reader.profiles().values():
            assert profile["rows"] is None
            if profile["size_as_of"] is not None:
                draws.setdefault(profile["size_as_of"] // DAY_MS, set()).add(profile["size_as_of"])
    assert all(len(times) <= 2 for times in draws.values())


def test_noise_needs_a_key_and_a_budget():
    config = small("privacy.size_epsilon=0.5")
    with pytest.raises(ConfigError, match=r"needs a secret for its noise.*privacy\.user_key_file"):
        pseudonyms(config, {})
    assert pseudonyms(config, {KEY_VARIABLE: KEY.hex()}) is not None
    for epsilon in ("2.0", "0.0001"):
        with pytest.raises(ConfigError, match="a day's budget must pay"):
            small(f"privacy.size_epsilon={epsilon}")


def test_another_epoch_gives_no_other_budget(tmp_path):
    """What was spent of a day stays spent when somebody starts over."""
    (tmp_path / "key").write_bytes(KEY)
    sets = (f"privacy.user_key_file={tmp_path / 'key'}", "privacy.size_epsilon=0.5", "encoder.kind=identity")
    sink, source = MemorySink(), [events()[:900]]
    for fresh in (None, 2):
        engine(small(*sets), MemorySource(source), sink, fresh=fresh).run()
        source = [events()[:1000]]
    spent = [m.versions["size_budget"] for m in sink.manifests()]
    opening = next(i for i, m in enumerate(sink.manifests()) if m.opening)
    assert spent[opening] == spent[opening - 1] != "0:0"
    for one, other in pairwise(spent):
        (day, used), (next_day, next_used) = (map(int, text.split(":")) for text in (one, other))
        assert (next_day, next_used) >= (day, used)
        assert next_used <= 1000
