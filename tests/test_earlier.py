"""Models as they were: bounded, near the step asked for, and the same after a restore."""

import numpy as np
from decisions import FakeFeatures, FakePublisher
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.earlier import EARLIER_MAX, Earlier, Model


def model(number, version=1, k=2):
    return Model(number, version, np.full((3, 1), float(number)), np.full((k, 2), float(number)))


def kept(steps, version=1):
    earlier = Earlier()
    for number in range(1, steps + 1):
        earlier.keep(model(number, version))
    return earlier


@given(st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_what_is_kept_is_bounded_and_near_what_is_asked_for(steps):
    """The model found is not older than the step, and later by a third of its age at most."""
    earlier = kept(steps)
    assert len(earlier.snapshot()["number"]) <= EARLIER_MAX
    for number in range(1, steps + 1):
        found = earlier[int(earlier.index(np.array([number]), 1)[0])].number
        assert number <= found
        assert found - number <= (steps - number) / 3 + 1


def test_the_last_model_before_a_centre_was_placed_stays():
    """An anchor from before the intervention is not asked about a centre that was not there."""
    earlier = Earlier()
    for number in range(1, 200):
        if number == 150:
            earlier.forget(1)
        earlier.keep(model(number))
    found = earlier[int(earlier.index(np.array([149]), 1)[0])]
    assert found.number == 149
    assert np.isnan(found.centres[1]).all()
    assert not np.isnan(earlier.latest.centres).any()


def test_the_last_model_under_the_encoder_before_stays_and_older_ones_go():
    """Only the serving encoder and the one before can be asked."""
    earlier = Earlier()
    for number in range(1, 200):
        earlier.keep(model(number, version=1 + (number > 60) + (number > 150)))
    state = earlier.snapshot()
    assert set(state["version"].tolist()) == {2, 3}
    assert earlier[int(earlier.index(np.array([149]), 3)[0])].version == 2
    assert earlier[int(earlier.index(np.array([10]), 3)[0])].version == 2  # as if that version had made it


def test_rows_are_embedded_as_each_model_would_have():
    """By its own scaling, and by the encoder that served then; NaN where that one is gone."""

    class Scales(FakeFeatures):
        def scale(self, raw, as_then=None):
            return raw + np.float32(as_then[0, 0])

    earlier = Earlier()
    for number in (1, 2, 3):
        earlier.keep(model(number, version=1 + (number > 2)))
    raw = np.zeros((3, 2), np.float32)
    publisher = FakePublisher(previous=lambda x: -x)
    publisher.version = 2
    z = earlier.embed(raw, np.array([0, 1, 2]), Scales(), publisher)
    assert z[:, 0].tolist() == [-1.0, -2.0, 3.0]
    publisher.previous = None
    z = earlier.embed(raw, np.array([0, 1, 2]), Scales(), publisher)
    assert np.isnan(z[:2]).all()
    assert z[2, 0] == 3.0


@given(st.integers(1, 60), st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_restore_continues_as_if_nothing_had_happened(before, after):
    one = kept(before)
    one.forget(0)
    other = Earlier()
    other.restore(one.snapshot())
    for number in range(before + 1, before + after + 1):
        one.keep(model(number))
        other.keep(model(number))
    for name, value in one.snapshot().items():
        np.testing.assert_array_equal(value, other.snapshot()[name])
