"""The file format of snapshots: any state round-trips, other programs can read it, old versions are understood."""

import sys

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.packing import FORMAT, digest, pack, read_format, unpack

DTYPES = [
    np.float32,
    np.float64,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint32,
    np.uint64,
    np.bool_,
]
scalars = (
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.text(max_size=5)
    | st.floats(allow_nan=False) | st.binary(max_size=9)
)  # fmt: skip
arrays = st.builds(
    lambda kind, shape: np.arange(int(np.prod(shape))).reshape(shape).astype(kind),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), min_size=0, max_size=3).map(tuple),
)
names = st.lists(st.text(max_size=4), min_size=33, max_size=40)
trees = st.recursive(
    scalars | arrays | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def _same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=4), trees, max_size=4))
def test_any_state_round_trips(tree):
    """Arrays keep their dtype and shape, text its characters, numbers their every bit."""
    assert _same(unpack(b"".join(pack(tree))), tree)


def test_what_is_not_a_number_stays_that():
    """JSON has no word for it."""
    assert np.isnan(unpack(b"".join(pack({"loss": float("nan")})))["loss"])


def test_loaded_arrays_belong_to_the_file():
    """A part that keeps one without copying it fails at its first write, not silently later."""
    loaded = unpack(b"".join(pack({"a": np.zeros(3)})))["a"]
    with pytest.raises(ValueError, match="read-only"):
        loaded[0] = 1.0


def test_packing_copies_no_array():
    """A snapshot is written beside an engine that needs the memory."""
    array = np.arange(1000.0)
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), array) for part in pack({"a": array}))


def test_other_programs_can_read_the_arrays():
    """It is a safetensors file: its own package finds the same arrays, each where its type wants it."""
    tree = {
        "one": np.arange(6, dtype=np.int16).reshape(2, 3),
        "two": np.arange(3.0),
        "three": np.ones(1, bool),
    }
    data = b"".join(pack(tree))
    found = sorted(safetensors.numpy.load(data).values(), key=lambda array: array.size)
    assert all(map(_same, found, (tree["three"], tree["two"], tree["one"])))
    assert unpack(data)["two"].flags.aligned
    assert read_format(memoryview(data)) == FORMAT


def test_names_of_any_characters_are_told_apart():
    """The mark between them is one that occurs in none of them."""
    texts = [chr(code) for code in range(200)] + [
        "",
        "a\nb",
        "\ud800",
        "\ud83d",
        "\ude00",
        chr(sys.maxunicode),
    ]
    assert unpack(b"".join(pack({"names": texts})))["names"] == texts


def test_objects_have_no_place_in_a_state():
    """An object array would need pickle."""
    with pytest.raises(AssertionError, match="array of type object"):
        pack({"x": np.array([object()])})


def test_the_hash_sees_every_bit_and_not_how_the_bytes_are_cut():
    """The parts of a file have the hash of the whole."""
    data = bytes(range(256)) * 50
    assert digest([data]) == digest([data[:7], memoryview(data)[7:]])
    assert digest([data]) != digest([data[:-1] + b"\x00"])


@pytest.mark.parametrize(
    "data", [b"", b"\x05", b"\xff" * 20, b"\x02" + bytes(7) + b"{}", b"\x02" + bytes(7) + b"[]"]
)
def test_what_is_no_snapshot_is_not_taken_for_one(data):
    """An empty, torn or foreign file is an error that the store knows, not another one."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_format(memoryview(data))
