"""The output hash: of every part of every record, in order, however it is computed."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.stream.digest import Chain, output_hash
from shoal.stream.events import OutRecord

texts, optional = st.text(max_size=3), st.none() | st.binary(max_size=3)
headers = st.lists(st.tuples(texts, st.binary(max_size=3)), max_size=3).map(tuple)
records = st.lists(st.builds(OutRecord, texts, optional, optional, headers), max_size=6)


@given(records, records)
def test_no_two_outputs_have_the_same_hash(one, other):
    """Neither drawn at random, nor those that differ in how the same bytes are cut, nor in what is missing."""
    assert (output_hash(one) == output_hash(other)) == (one == other)


@given(records)
def test_the_plain_calculation_says_the_same(made):
    """The number of records; then, of kinds, keys, values and first headers, all lengths before all bytes."""
    firsts = [r.headers[0] if r.headers else (None, None) for r in made]
    kinds = [repr((r.topic, name, r.headers[1:])).encode() for r, (name, _) in zip(made, firsts, strict=True)]
    plain = len(made).to_bytes(8, "little")
    for column in (kinds, [r.key for r in made], [r.value for r in made], [value for _, value in firsts]):
        for part in column:
            plain += (-1 if part is None else len(part)).to_bytes(8, "little", signed=True)
        plain += b"".join(part or b"" for part in column)
    assert output_hash(made) == hashlib.blake2b(plain, digest_size=16).hexdigest()


@pytest.mark.parametrize("one", [OutRecord("t", b"ab", b"c", (("n", b"x"), ("m", b"y")))])
@pytest.mark.parametrize(
    "changed",
    [
        {"topic": "ta"}, {"key": b"a", "value": b"bc"}, {"key": None}, {"key": b""}, {"value": None},
        {"headers": ()}, {"headers": (("n", b"x"),)}, {"headers": (("m", b"y"), ("n", b"x"))},
        {"headers": (("n", b""), ("m", b"xy"))}, {"headers": (("nm", b"x"), ("", b"y"))},
    ],
)  # fmt: skip
def test_the_output_hash_covers_every_part_of_every_record(one, changed):
    other = replace(one, **changed)
    assert len({output_hash(made) for made in ([one], [other], [one, other], [other, one], [])}) == 5


def test_the_chain_covers_every_array_and_text():
    def link(*parts):
        return Chain("c").link(*parts)

    plain = np.arange(4.0)
    assert link(plain, b"a") == link(plain.copy(), b"a")
    assert link(plain[::2]) == link(np.array([0.0, 2.0]))
    others = [(plain, b"b"), (plain + 1, b"a"), (plain[:3], b"a"), (b"a", plain), (plain,)]
    assert len({link(plain, b"a"), *(link(*parts) for parts in others)}) == 6
