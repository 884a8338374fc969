"""Pseudonyms: the same for the same user, nothing about the key or the id in anything that leaves."""

from __future__ import annotations

import base64
import doctest
import hashlib
import hmac
import random
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shop import small

from shoal.stream.config import Privacy, load
from shoal.stream.config_text import describe
from shoal.stream.events import Reason, Reject
from shoal.stream.ports import ConfigError
from shoal.stream.privacy import pseudonyms as module
from shoal.stream.privacy.keyfile import KEY_VARIABLE, pseudonyms, read_key
from shoal.stream.privacy.pseudonyms import Pseudonyms, without_values
from shoal.stream.values import user_key, user_name

KEY = bytes(range(7, 39))
NAMES = st.text(min_size=1, max_size=40).map(lambda s: s.replace("\x00", "0"))


def test_the_examples_are_true():
    assert doctest.testmod(module).failed == 0


@given(NAMES, st.booleans())
def test_a_pseudonym_is_what_the_formula_says(text, anonymous):
    """Anybody with the key can compute it with the tools of their own system."""
    kind = "anon" if anonymous else "user"
    code = hmac.new(KEY, f"{kind}:{text}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()[:16]
    wanted = "p3_" + base64.urlsafe_b64encode(code).decode().rstrip("=")
    got = Pseudonyms(KEY, 3).name(("\x00" if anonymous else "") + text)
    assert got == ("\x00" if anonymous else "") + wanted


@given(st.lists(NAMES, unique=True, min_size=2, max_size=2), st.booleans(), st.booleans())
def test_different_users_have_different_pseudonyms(two, a, b):
    """An anonymous id is no pseudonym of the user id that reads the same."""
    p = Pseudonyms(KEY, 1)
    one, other = (("\x00" if anonymous else "") + text for text, anonymous in zip(two, (a, b), strict=True))
    assert p.name(one) != p.name(other)
    assert p.name("x").lstrip("\x00") != p.name("\x00x").lstrip("\x00")


@given(NAMES, st.booleans())
def test_a_pseudonym_is_its_own_key_outside(text, anonymous):
    """No prefix is needed to tell users from anonymous ones that pretend, and the way back holds."""
    name = Pseudonyms(KEY, 12).name(("\x00" if anonymous else "") + text)
    assert user_key(name) == ("anon:" if anonymous else "") + name.lstrip("\x00")
    assert user_name(user_key(name)) == name


def test_another_key_gives_other_pseudonyms_and_another_fingerprint():
    one, other = Pseudonyms(KEY, 1), Pseudonyms(KEY[::-1], 1)
    assert one.name("42") != other.name("42")
    assert one.fingerprint != other.fingerprint
    assert one.config_hash("c") != other.config_hash("c") != "c"
    assert one.secret("noise") != other.secret("noise")
    assert one.fingerprint != Pseudonyms(KEY, 2).fingerprint


def test_a_key_shows_neither_itself_nor_parts_of_it():
    """Not when it is printed, and not as a plain hash in the fingerprint."""
    p = Pseudonyms(KEY, 1)
    shown = f"{p!r} {p} {p.fingerprint} {p.versions()} {p.config_hash('c')}"
    for form in (KEY.hex(), base64.b64encode(KEY).decode()[:20], hashlib.sha256(KEY).hexdigest()[:12]):
        assert form not in shown


def test_a_number_in_a_reject_is_not_told():
    """A field map may take an id for a time."""
    told = without_values(Reject(0, Reason.TIME, "event_time: got 4711, which looks like s, wanted ms"))
    assert told == "event_time: got a number, which looks like s, wanted ms"
    assert without_values(Reject(0, Reason.TIME, "event_time: got 4.7e+11, wanted ms")) == (
        "event_time: got a number, wanted ms"
    )
    assert without_values(Reject(0, Reason.SIZE, "event: got 70000 bytes")) == "event: got 70000 bytes"


# --- the key -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda key: key,
        lambda key: key.hex().encode() + b"\n",
        lambda key: base64.b64encode(key) + b"\n",
        lambda key: base64.urlsafe_b64encode(key).rstrip(b"="),
    ],
    ids=["raw", "hex", "base64", "urlsafe"],
)
def test_a_key_is_read_in_every_form(tmp_path, form):
    for _ in range(50):
        key = secrets.token_bytes(32)
        (tmp_path / "key").write_bytes(form(key))
        assert read_key(Privacy(user_key_file=str(tmp_path / "key")), {}) == key


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "0 bytes"),
        (b"too short", "neither hexadecimal nor base64"),
        (random.Random(31).randbytes(31), "31 bytes"),
        (random.Random(20).randbytes(20).hex().encode(), "20 bytes"),
        (b"\x00" * 32, "not random"),
        (b"correct horse battery staple, and so on", "neither hexadecimal nor base64"),
        (random.Random(5000).randbytes(5000), "more than 4096"),
        (None, "No such file"),
    ],
)
def test_a_weak_or_missing_key_is_refused_without_being_shown(tmp_path, content, problem):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as refused:
        read_key(Privacy(user_key_file=str(path)), {})
    assert str(path) in str(refused.value)
    assert "openssl rand" in str(refused.value)
    if content and content.strip():
        assert content.strip()[:9].decode("latin-1") not in str(refused.value)


def test_the_variable_holds_a_key_where_no_file_is_named(tmp_path):
    variable = {KEY_VARIABLE: KEY.hex()}
    assert read_key(Privacy(), variable) == KEY
    assert read_key(Privacy(), {}) is None
    (tmp_path / "key").write_bytes(KEY[::-1])
    assert read_key(Privacy(user_key_file=str(tmp_path / "key")), variable) == KEY[::-1]
    assert load(None, (), variable) == load(None, (), {}), "the variable is a secret, not a setting"


def test_the_configuration_shows_the_file_and_not_the_key(tmp_path):
    """Neither where it is printed nor in its hash: the same key in another file is the same configuration."""
    (tmp_path / "key").write_bytes(KEY)
    config = small(f"privacy.user_key_file={tmp_path / 'key'}")
    assert KEY.hex() not in describe(config)
    assert str(tmp_path / "key") in describe(config)
    assert config.pure_hash() == small().pure_hash()
    found = pseudonyms(config, {})
    assert found is not None
    assert found.name("42") == Pseudonyms(KEY, 1).name("42")
