"""Pseudonyms instead of user ids: the same one for the same user, and no way back without the key.

    p<version>_<base64url of HMAC-SHA256(key, kind + id), cut to 16 bytes>

`kind` is `user:` or `anon:`, so that an anonymous id is no pseudonym of the user id that reads the same. Whoever
has the key can find out what a pseudonym stands for by trying ids; whoever has not, cannot.

Nothing behind `named` sees a user id. Cost: a microsecond or so for each different user of a step; nothing is
remembered, so no table of user ids lies in memory. Of a billion users no two share one, but for a chance of
1 in 10^20 (128 bits).
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..digest import content_hash
from ..events import Events, Reason, Reject
from ..users import ANONYMOUS

KEY_BYTES_MIN = 32
_BYTES = 16  # of the code that is kept
_FINGERPRINT_BYTES = 8
_NUMBER = re.compile(r"got [-+.0-9eE]+")


class Pseudonyms:
    """A secret key and its version. It shows neither, and no part of it is in any state.

    >>> p = Pseudonyms(bytes(range(32)), 1)
    >>> p.name("42")
    'p1_hY0kgUB1iSsH7wRKA-7rYw'
    >>> p.name(ANONYMOUS + "42")
    '\\x00p1_fmKVeo6jfAAyVw0IXi-9Yw'
    """

    def __init__(self, key: bytes, version: int) -> None:
        assert len(key) >= KEY_BYTES_MIN, f"a key of {len(key)} bytes, wanted {KEY_BYTES_MIN} or more"
        self._keyed = hmac.new(key, digestmod="sha256")
        self._prefix = f"p{version}_"
        self.version = version

    def __repr__(self) -> str:
        return f"Pseudonyms(version={self.version})"

    def name(self, user_name: str) -> str:
        """The name inside that stands for this user from here on; an anonymous one stays anonymous."""
        anonymous = user_name.startswith(ANONYMOUS)
        text = f"anon:{user_name[1:]}" if anonymous else f"user:{user_name}"
        code = self._code(text.encode("utf-8", "surrogatepass"))[:_BYTES]
        pseudonym = self._prefix + urlsafe_b64encode(code).decode().rstrip("=")
        return ANONYMOUS + pseudonym if anonymous else pseudonym

    def names(self, user_names: Sequence[str]) -> list[str]:
        """(n,) each by its pseudonym; each different user is computed once."""
        known = {name: self.name(name) for name in dict.fromkeys(user_names)}
        return [known[name] for name in user_names]

    def events(self, decoded: Events) -> Events:
        """The same events, of users by their pseudonyms."""
        return replace(decoded, users=self.names(decoded.users))

    # --- what others may know of the key -----------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """Version and a short code: tells one key from another, and nothing else about it."""
        return f"{self.version}:{self.secret('fingerprint')[:_FINGERPRINT_BYTES].hex()}"

    def versions(self) -> Mapping[str, str]:
        """For the manifest: a process with another key must not go on, and should be told so."""
        return {"user_key": self.fingerprint}

    def config_hash(self, pure_hash: str) -> str:
        """The configuration's hash with the key in it: under another key everything has another name."""
        return content_hash(pure_hash.encode(), self.fingerprint.encode())

    def secret(self, purpose: str) -> bytes:
        """(32,) a key of its own for another purpose; nothing follows from it about names."""
        return self._code(f"shoal {purpose}".encode())

    def _code(self, text: bytes) -> bytes:
        keyed = self._keyed.copy()  # half the cost of beginning with the key each time
        keyed.update(text)
        return keyed.digest()


def without_values(reject: Reject) -> str:
    """Why a record was rejected, without a number that stood in it: a field map may take an id for a time."""
    return _NUMBER.sub("got a number", reject.detail) if reject.reason is Reason.TIME else reject.detail
