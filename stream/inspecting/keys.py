"""From what a person types to the key that a user has outside."""

from __future__ import annotations

from ..users import ANONYMOUS
from ..values import user_key


def published_key(typed: str, anonymous: bool) -> str:
    """The key in segment.changes. Typed is that key already, or with `anonymous` an anonymous id.

    Where users are published under pseudonyms, the key is one: `shoal pseudonym` says which.

    >>> published_key("u1", False), published_key("anon:x", False), published_key("x", True)
    ('u1', 'anon:x', 'anon:x')
    """
    return user_key(ANONYMOUS + typed) if anonymous else typed
