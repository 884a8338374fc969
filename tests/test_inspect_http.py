"""/v1 and the pages of a living engine: true, as the document says, and closed to whom they are not for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import orjson
import pytest
from jsonschema import Draft202012Validator
from living import Living, living
from referencing import Registry, Resource
from shop import events, small

import shoal.stream
from shoal.stream.config import Http
from shoal.stream.events import CHANGES, LINEAGE
from shoal.stream.ports import Phase
from shoal.stream.watching import api as api_module
from shoal.stream.watching.api import Api, Asked, Problem
from shoal.stream.watching.http import application
from shoal.stream.watching.metrics import Metrics

HOSTILE = "<script>alert(1)</script>\"'&/..?#% ü"


def time_of(value: bytes | None) -> Any:
    try:
        return orjson.loads(value or b"{}").get("event_time")
    except (orjson.JSONDecodeError, AttributeError):
        return None


@cache
def hostile() -> tuple[bytes | None, ...]:
    """The shop, and a user and categories that want to be more than text."""
    items = [{"id": "i", "category": ["<img src=x onerror=alert(2)>"]}]
    event = {"type": "purchase", "user_id": HOSTILE, "value": 5.0, "items": items}
    plain = list(events())
    times = [time for value in plain if (time := time_of(value))]
    for i in range(60):
        at = len(plain) * i // 60
        value = orjson.dumps({**event, "event_id": f"h{i}", "event_time": times[len(times) * i // 60]})
        plain.insert(at, value)
        plain.insert(at, value.replace(b'"user_id":', b'"anonymous_id":').replace(b'"h', b'"ha'))
    return tuple(plain)


@pytest.fixture(scope="module")
def alive() -> Iterator[Living]:
    with living(values=hostile()) as here:
        yield here


def get(url: str, **headers: str) -> tuple[int, Any, bytes]:
    try:
        with urlopen(Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except HTTPError as error:
        return error.code, error.headers, error.read()


def told(here: Living, path: str) -> Any:
    status, headers, body = get(here.url + path)
    assert status == 200, body
    assert headers["Content-Type"] == "application/json"
    return orjson.loads(body)


@cache
def document() -> tuple[dict[str, Any], Registry]:
    folder = Path(shoal.stream.__path__[0]) / "schemas"
    bodies = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    resources = []
    for name, body in bodies.items():
        plain = {key: value for key, value in body.items() if key != "$id"}  # as served: found by its address
        plain.setdefault("$schema", "https://json-schema.org/draft/2020-12/schema")
        resources.append((f"http://shoal/v1/{name}", Resource.from_contents(plain)))
    return bodies["openapi.json"], Registry().with_resources(resources)


def check(schema: str, value: Any) -> None:
    _, registry = document()
    where = f"http://shoal/v1/openapi.json#/components/schemas/{schema}"
    Draft202012Validator({"$ref": where}, registry=registry).validate(value)


def keys(here: Living) -> list[str]:
    return sorted({record.key.decode() for record in here.sink.records if record.topic == CHANGES})


# --- what is answered -------------------------------------------------------------------------------------


def test_every_answer_is_as_the_document_says(alive):
    """Users placed and not, every segment, lineage, quality, features, problems."""
    for key in [*keys(alive)[:20], HOSTILE, f"anon:{HOSTILE}"]:
        check("Portrait", told(alive, f"/v1/users/{quote(key, safe='')}"))
        check("Why", told(alive, f"/v1/users/{quote(key, safe='')}/why"))
    found = told(alive, "/v1/segments")
    check("Segments", found)
    for profile in found["segments"]:
        check("Segment", told(alive, f"/v1/segments/{profile['segment_id']}"))
    check("Features", told(alive, "/v1/features"))
    check("Lineage", told(alive, "/v1/lineage"))
    check("Quality", told(alive, "/v1/quality"))
    alive.asked.recent.quality(0.5, float("nan"), [1.0, 0.0])
    found = told(alive, "/v1/quality")
    check("Quality", found)
    assert found["measured"]["davies_bouldin"] is None
    for path in ("/v1/users/nobody", "/v1/segments/99999", "/v1/nothing", "/v1/users/", "/nothing"):
        status, headers, body = get(alive.url + path)
        assert (status, headers["Content-Type"]) == (404, "application/problem+json")
        check("Problem", orjson.loads(body))


def test_every_route_is_in_the_document_and_nothing_else():
    """And the document's own references lead somewhere."""
    routes = {route.path for route in application(Metrics()).routes if route.path.startswith("/v1/")}
    ours = {path.replace("{rest:path}", "{id}").replace("{segment_id:int}", "{id}") for path in routes}
    paths = set(document()[0]["paths"])
    assert paths == (ours - {"/v1/{name}"}) | {"/v1/users/{id}/why"}


def test_the_document_is_served_with_what_it_refers_to(alive):
    """A client that follows its references finds them beside it."""
    served = told(alive, "/v1/openapi.json")
    assert served == document()[0]
    text = json.dumps(served)
    for name in ("segment.catalog.json", "segment.changes.json", "segment.lineage.json"):
        assert f'"$ref": "{name}"' in text
        assert "properties" in told(alive, f"/v1/{name}")
    assert get(alive.url + "/v1/shoal.manifest.json")[0] == 404


def test_the_answer_is_of_the_last_committed_step(alive):
    """All input is committed: so it is the newest manifest's step."""
    last = alive.sink.last()
    for path in ("/v1/segments", f"/v1/users/{quote(keys(alive)[0], safe='')}"):
        assert told(alive, path)["as_of"]["step"] == last.step


def test_why_has_the_published_record_and_what_speaks_for_it_now(alive):
    """The newest change, as subscribers got it."""
    newest = {r.key.decode(): orjson.loads(r.value) for r in alive.sink.records if r.topic == CHANGES}
    moved = [key for key, change in newest.items() if change["to"]]
    assert moved
    for key in moved[:10]:
        found = told(alive, f"/v1/users/{quote(key, safe='')}/why")
        assert found["last_change"] == newest[key]
        assert found["segment"]["segment_id"] == newest[key]["to"]["segment_id"]
        assert found["than_everybody"]["features"]


def test_lineage_is_what_was_published(alive):
    """Newest first."""
    facts = [orjson.loads(r.value) for r in alive.sink.records if r.topic == LINEAGE]
    found = told(alive, "/v1/lineage")
    assert found["lineage"] == facts[::-1][:256]
    assert found["from_step"] == 1


@pytest.mark.parametrize(
    "key", ["a/b", "a/why", "why", "..", ".", "a?b#c", "ü", "%41", "100%", "a b", "x" * 256]
)
def test_any_key_can_be_asked_for(alive, key):
    """Whatever a user id holds: it arrives as it is."""
    asked: list[Any] = []
    mailbox = alive.asked.questions
    ask, mailbox.ask = mailbox.ask, lambda what, read: asked.append(what) or ask(what, read)  # type: ignore[method-assign]
    try:
        for path in ("", "/why"):
            status, _, body = get(f"{alive.url}/v1/users/{quote(key, safe='').replace('.', '%2E')}{path}")
            assert (status, orjson.loads(body)["code"]) == (404, "unknown_user")
    finally:
        mailbox.ask = ask  # type: ignore[method-assign]
    assert asked == [("user", key), ("why", key)]


@pytest.mark.parametrize(
    ("path", "code"), [("%ff%fe", "bad_key"), ("x" * 257, "bad_key"), ("a/b/c", "no_such_resource")]
)
def test_what_no_key_can_be_is_refused(alive, path, code):
    """Before the engine is asked."""
    status, _, body = get(f"{alive.url}/v1/users/{path}")
    assert status in (400, 404)
    assert orjson.loads(body)["code"] == code


# --- who may ask -----------------------------------------------------------------------------------------


def refused(config: Http, host: str) -> str | None:
    try:
        Api(config, Metrics(), Asked()).must_serve_users(host)
    except Problem as problem:
        return f"{problem.status}: {problem.detail}"
    return None


@pytest.mark.parametrize(
    ("config", "host", "served"),
    [
        (Http(), "127.0.0.1:9108", True),
        (Http(), "localhost:9108", True),
        (Http(host="::1"), "[::1]:9108", True),
        (Http(), "evil.example:9108", False),
        (Http(), "", False),
        (Http(host="0.0.0.0"), "127.0.0.1:9108", False),
        (Http(host="10.0.0.5"), "10.0.0.5:9108", False),
        (Http(host="0.0.0.0", users="on"), "shoal.internal", True),
        (Http(users="on"), "anything", True),
        (Http(users="off"), "127.0.0.1", False),
    ],
)
def test_single_users_are_shown_on_this_machine_only_unless_configured(config, host, served):
    """A server that others reach, and a web page that asks under another name, get an explanation instead."""
    said = refused(config, host)
    assert (said is None) is served
    assert said is None or (said.startswith("403") and ("http.users" in said or "127.0.0.1" in said))


def test_a_name_that_is_not_this_machines_gets_no_user_but_segments(alive):
    """As after DNS rebinding: the browser of somebody on this machine asks for a page from elsewhere."""
    key = quote(keys(alive)[0], safe="")
    for path in (f"/v1/users/{key}", f"/v1/users/{key}/why", f"/users?id={key}"):
        status, _, body = get(alive.url + path, Host="evil.example")
        assert status == 403
        assert keys(alive)[0].encode() not in body
    assert get(alive.url + "/v1/segments", Host="evil.example")[0] == 200


def test_no_request_is_logged_and_no_fault_names_a_user(alive, caplog, monkeypatch):
    """Not in an access log, not in the message of an error."""
    key = keys(alive)[0]
    caplog.set_level(logging.DEBUG)
    get(f"{alive.url}/v1/users/{quote(key, safe='')}")

    def fault(pipeline: Any, name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(api_module, "portrait", fault)
    status, _, body = get(f"{alive.url}/v1/users/{quote(key, safe='')}?again")
    assert (status, orjson.loads(body)["code"]) == (500, "fault")
    assert "KeyError" in caplog.text
    assert key not in caplog.text
    assert get(alive.url + "/v1/segments")[0] == 200, "the engine goes on"


def test_answers_may_not_be_kept_or_sniffed(alive):
    """Also those that are no answers."""
    for path in (
        "/v1/segments",
        "/v1/users/nobody",
        "/users?id=x",
        "/",
        "/segments/1",
        "/v1/nothing",
        "/nothing",
    ):
        _, headers, _ = get(alive.url + path)
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "script" not in headers["Content-Security-Policy"]


# --- when there is no answer -----------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.RUNNING])
def test_an_engine_that_does_not_work_says_what_it_does_and_when_to_come_again(phase):
    """Standing by, recovering, waiting: 503, at once, on every path that needs it."""
    from shoal.stream.watching.http import start

    metrics = Metrics()
    server = start(Http(port=0), metrics, Asked())
    try:
        metrics.phase(phase)
        for path in (
            "/v1/users/x",
            "/v1/users/x/why",
            "/v1/segments",
            "/v1/segments/1",
            "/v1/lineage",
            "/v1/quality",
        ):
            status, headers, body = get(server.url + path)
            assert (status, orjson.loads(body)["code"], headers["Retry-After"]) == (503, "not_running", "5")
            assert phase.value in orjson.loads(body)["detail"]
            check("Problem", orjson.loads(body))
        assert get(server.url + "/")[0] == 200
        assert get(server.url + "/users?id=x")[0] == 503
    finally:
        server.stop()


def test_an_engine_that_does_not_answer_in_time_is_not_waited_for(monkeypatch):
    """Nobody looks into this mailbox: 503 after the limit, and when it is full at once."""
    from shoal.stream.watching.http import start

    monkeypatch.setattr(api_module, "ANSWER_WITHIN_S", 0.2)
    metrics, asked = Metrics(), Asked()
    metrics.phase(Phase.RUNNING)
    server = start(Http(port=0), metrics, asked)
    try:
        status, headers, body = get(server.url + "/v1/segments")
        assert (status, orjson.loads(body)["code"], headers["Retry-After"]) == (503, "busy", "1")
        assert all(question.reply.cancelled() for question in asked.questions._waiting)
        asked.questions._waiting_max = 0
        assert get(server.url + "/v1/segments")[0] == 503
    finally:
        server.stop()


# --- the pages -------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, attributes and text."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.said = ""
        self.open: list[str] = []
        self.feed(body.decode())
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in ("meta", "input", "br", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "polyline":
            assert self.open.pop() == tag, "tags are nested"

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_front_page_shows_every_segment_with_its_size_and_what_sets_it_apart(alive):
    """As /v1/segments says it; how good the grouping is; what became of segments; and a form."""
    alive.asked.recent.quality(0.4321, 1.5, [1.0])
    page = Page(get(alive.url + "/")[2])
    for profile in told(alive, "/v1/segments")["segments"]:
        assert profile["name"] in page.said
        assert f"{profile['size']:,}" in page.said
    assert "0.432" in page.said
    assert "birth: " in page.said
    assert {"form", "input", "button", "svg"} <= set(page.tags)
    assert "width=device-width" in get(alive.url + "/")[2].decode()


def test_no_page_holds_anything_that_runs_or_comes_from_elsewhere(alive):
    """Hostile user ids and labels are text, in every page."""
    pages = ["/", "/users", f"/users?id={quote(HOSTILE)}", f"/users?id={quote('anon:' + HOSTILE)}"]
    pages += [
        f"/users?id={quote('<b>nobody')}",
        *(f"/segments/{s['segment_id']}" for s in told(alive, "/v1/segments")["segments"]),
    ]
    whole = ""
    for path in pages:
        status, headers, body = get(alive.url + path)
        page = Page(body)
        assert status == 200
        assert headers["Content-Type"].startswith("text/html")
        assert not {"script", "img", "iframe", "object", "link", "b"} & set(page.tags)
        assert not [name for name in page.attributes if name.startswith("on") or name == "src"]
        assert b"http://" not in body
        assert b"https://" not in body
        whole += page.said
    assert HOSTILE in whole
    assert "<img src=x onerror=alert(2)>" in whole


def test_a_user_is_found_by_the_form(alive):
    """Segment, confidence, why, what it does; and a key that nobody has is said to be unknown."""
    key = keys(alive)[0]
    found = told(alive, f"/v1/users/{quote(key, safe='')}")
    page = Page(get(f"{alive.url}/users?id={quote(key, safe='')}")[2])
    assert found["segment"]["name"] in page.said
    assert f"score {found['confidence']['score']:.2f}" in page.said
    assert "Last change: on " in page.said
    assert "no user with this key" in Page(get(alive.url + "/users?id=nobody")[2]).said


def test_a_segment_that_is_not_there_has_a_page_that_says_so(alive):
    """With the same status as /v1."""
    status, _, body = get(alive.url + "/segments/99999")
    assert status == 404
    assert "no segment has this id" in Page(body).said


def test_nothing_is_remembered_without_bound():
    """Changes of the newest users only, so many facts of lineage, so many sizes."""
    from shoal.stream.events import OutRecord
    from shoal.stream.watching.recent import LINEAGE_MAX, SAMPLES_MAX, Recent

    recent = Recent(changes_max=10)
    for step in range(1, 1001):
        record = OutRecord(CHANGES, b"u%d" % step, b"{}")
        fact = OutRecord(LINEAGE, b"%d" % step, b'{"n":%d}' % step)
        gauges = {"now_ms": step * 1000, "sizes": {1: step}, "changes": {"expiry": 1}}
        recent.committed(SimpleNamespace(step=step, records=(record, fact), gauges=gauges), 0.0, {}, None)  # type: ignore[arg-type]
    assert recent.change("u990") is None
    assert recent.change("u991") == {}
    assert len(recent.lineage()) == LINEAGE_MAX
    assert recent.lineage()[0] == {"n": 1000}
    trend = recent.trend(1)
    assert SAMPLES_MAX // 3 <= len(trend) <= SAMPLES_MAX
    assert trend == sorted(trend)
    assert trend[0] == 1
    assert trend[-1] > 900
    assert recent.reasons() == {"expiry": 1000}


def test_a_small_shop_without_segments_has_a_page_too():
    """Before the first segments are formed."""
    with living(small("segmenter.warmup_rows=100000", "time.idle_step_ms=600000"), events()[:100]) as here:
        assert "There are no segments yet" in Page(get(here.url + "/")[2]).said
        check("Segments", told(here, "/v1/segments"))
        key = next(orjson.loads(v)["user_id"] for v in events() if v and b'"user_id":"u' in v)
        check("Portrait", told(here, f"/v1/users/{quote(key, safe='')}"))
        check("Why", told(here, f"/v1/users/{quote(key, safe='')}/why"))
        assert "in no segment" in Page(get(f"{here.url}/users?id={quote(key, safe='')}")[2]).said
