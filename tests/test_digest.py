"""The output hash: of every part of every record, in order, however it is computed."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from shoal.stream.digest import output_hash
from shoal.stream.events import OutRecord

texts, optional = st.text(max_size=3), st.none() | st.binary(max_size=3)
headers = st.lists(st.tuples(texts, st.binary(max_size=3)), max_size=3).map(tuple)
records = st.lists(st.builds(OutRecord, texts, optional, optional, headers), max_size=6)


def framed(part):
    return b"\x00" if part is None else b"\x01" + len(part).to_bytes(8, "little") + part


@given(records)
def test_the_output_hash_covers_every_part_of_every_record(made):
    """Each part framed by its length, so that no two outputs look alike; the plain calculation says the same."""
    plain = b"".join(
        b"".join(framed(part) for part in (r.topic.encode(), r.key, r.value))
        + b"".join(framed(name.encode()) + framed(value) for name, value in r.headers)
        + b"\x02"
        for r in made
    )
    assert output_hash(made) == hashlib.blake2b(plain, digest_size=16).hexdigest()
