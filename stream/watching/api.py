"""The routes under /v1: what the engine knows of users and segments, as JSON; `schemas/openapi.json` describes them.

A handler never reads the pipeline: it puts a question into the mailbox (`questions.py`) and waits for the engine's
own thread. Where no answer can be had it says so as a problem (RFC 9457) with `Retry-After`, and never hangs.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

import orjson

from ..config import Http
from ..inspecting.overview import features, segment, segments
from ..inspecting.portrait import portrait, reasons
from ..pipeline import Pipeline
from ..ports import Phase
from ..values import user_name
from .metrics import Metrics
from .questions import Answer, Busy, Mailbox
from .recent import Recent

if TYPE_CHECKING:
    from starlette.requests import Request

ANSWER_WITHIN_S = 5.0
"""A step may take a second or two; beyond this the asker is told to come again."""
KEY_BYTES_MAX = 256
_PATIENT = 5  # seconds to come back after, where the engine does something else
_FOLDER = Path(__file__).parent.parent / "schemas"
_SCHEMAS = ("openapi.json", "segment.catalog.json", "segment.changes.json", "segment.lineage.json")

Value = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom the HTTP side asks: parts that an engine fills."""

    questions: Mailbox = field(default_factory=Mailbox)
    recent: Recent = field(default_factory=Recent)


class Problem(Exception):
    """Why there is no answer; RFC 9457's members, and a word that a program can tell it by."""

    def __init__(self, status: int, code: str, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(code)
        self.status, self.code, self.detail = status, code, detail
        self.retry_after_s = retry_after_s

    @property
    def title(self) -> str:
        return HTTPStatus(self.status).phrase

    def body(self) -> bytes:
        members = {"type": "about:blank", "title": self.title, "status": self.status}
        return orjson.dumps({**members, "detail": self.detail, "code": self.code})


class Api:
    """Answers as plain values, or a Problem; the transport is `http.py`'s."""

    def __init__(self, config: Http, metrics: Metrics, asked: Asked) -> None:
        self.metrics, self.recent = metrics, asked.recent
        self._config = config
        self._questions = asked.questions

    # --- what there is to ask ---------------------------------------------------------------------------------

    async def user(self, key: str) -> Value:
        """The portrait."""
        answer = await self._ask(("user", key), lambda pipeline: portrait(pipeline, user_name(key)))
        if answer.value is None:
            raise _unknown_user()
        return _as_of(answer)

    async def why(self, key: str) -> Value:
        """The newest change as it was published, if this process saw it; and what speaks for the segment now."""
        for _ in range(2):  # once more where the user changed while we asked
            answer = await self._ask(("why", key), lambda pipeline: reasons(pipeline, user_name(key)))
            change = self.recent.change(key)
            segment = answer.value and answer.value["segment"]
            if change is None or segment is None or _sequence(change) <= segment["sequence"]:
                break
        if change is not None and (change["to"] is None) != (segment is None):
            change = None  # of an earlier stay
        elif change is not None and segment is not None and _sequence(change) != segment["sequence"]:
            change = None  # the newest was made before this process could see it
        if answer.value is None and change is None:
            raise _unknown_user()
        told = {"last_change": change, "remembered_from_step": self.recent.first_step}
        return {"user": change and change["user"], **_NOWHERE, **_as_of(answer), **told}

    async def segments(self) -> Value:
        answer = await self._ask("segments", segments)
        return _as_of(answer)

    async def segment(self, segment_id: int) -> Value:
        answer = await self._ask(("segment", segment_id), lambda pipeline: segment(pipeline, segment_id))
        if answer.value is None:
            raise Problem(
                404, "unknown_segment",
                "no segment has this id now; /v1/lineage and the topic segment.lineage say what became of it",
            )  # fmt: skip
        return _as_of(answer)

    async def features(self) -> Value:
        return _as_of(await self._ask("features", features))

    def lineage(self) -> Value:
        """From memory: nothing is asked of the engine."""
        self.must_run()
        return {"from_step": self.recent.first_step, "lineage": self.recent.lineage()}

    def quality(self) -> Value:
        """As last measured, every quarter of a minute."""
        self.must_run()
        changes = self.recent.reasons()
        return {"measured": self.recent.measured(), "from_step": self.recent.first_step, "changes": changes}

    # --- who may ask, and how ---------------------------------------------------------------------------------

    def must_run(self) -> None:
        """Raises Problem while the engine does something else than work."""
        phase = self.metrics.health.phase
        if phase is not Phase.RUNNING:
            raise Problem(
                503, "not_running", f"this engine is {phase.value}: {_PHASES[phase]}", _PATIENT
            )  # fmt: skip

    def must_serve_users(self, host_header: str) -> None:
        """Raises Problem where what is known of single users is not for whoever asks."""
        users = self._config.users
        if users == "off":
            raise Problem(403, "users_off", 'http.users is "off": users are not shown here')
        if users == "loopback" and not is_loopback(self._config.host):
            raise Problem(
                403, "users_off",
                f"this server listens on {self._config.host}, beyond this machine, so it shows no single users. Set "
                f'http.users = "on" where only the right people reach it',
            )  # fmt: skip
        if users == "loopback" and not is_loopback(urlsplit(f"//{host_header}").hostname or ""):
            raise Problem(
                403, "host",
                "asked under a name that is not this machine's own (a web page may do that): use 127.0.0.1",
            )  # fmt: skip

    async def _ask(self, what: Hashable, read: Callable[[Pipeline], Any]) -> Answer:
        self.must_run()
        try:
            reply = asyncio.wrap_future(self._questions.ask(what, read))
            return await asyncio.wait_for(reply, ANSWER_WITHIN_S)
        except Busy:
            raise Problem(503, "busy", "too many ask at once; come again", 1) from None
        except TimeoutError:
            raise Problem(503, "busy", f"no answer within {ANSWER_WITHIN_S:g} s; come again", 1) from None


_PHASES = {
    Phase.STARTING: "it is connecting",
    Phase.STANDBY: "another engine of the group works; ask that one",
    Phase.RECOVERING: "it computes recorded steps again",
    Phase.WAITING: "the broker is away",
    Phase.STOPPING: "it ends",
}


_NOWHERE: Value = dict.fromkeys(("segment", "confidence", "against", "than_the_next", "than_everybody"))


def _as_of(answer: Answer) -> Value:
    return {"as_of": {"step": answer.step, "time": answer.now_ms}, **(answer.value or {})}


def _sequence(change: Value) -> int:
    return int(change["position"]["sequence"])


def _unknown_user() -> Problem:
    return Problem(
        404, "unknown_user",
        "no user with this key is kept: never seen, forgotten since, or written another way (keys are those of "
        "segment.changes; anon: + id for anonymous users)",
    )  # fmt: skip


def is_loopback(host: str) -> bool:
    """
    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parts_of(request: Request) -> list[str]:
    """The parts of the path as they were sent: an id may hold a slash, as %2F. Raises Problem."""
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    try:
        return [checked_key(unquote_to_bytes(part)) for part in raw.split(b"?")[0].split(b"/")]
    except UnicodeDecodeError:
        raise Problem(400, "bad_key", "the path is not UTF-8") from None


def checked_key(part: bytes) -> str:
    """Raises Problem for what no key can be."""
    if len(part) > KEY_BYTES_MAX:
        raise Problem(400, "bad_key", f"no key has more than {KEY_BYTES_MAX} bytes")
    return part.decode()


@cache
def document(name: str) -> bytes:
    """One of the schemas that describe the answers; raises Problem where there is none of that name."""
    if name not in _SCHEMAS:
        raise Problem(404, "no_such_resource", f"served here: {', '.join(_SCHEMAS)}")
    return (_FOLDER / name).read_bytes()
