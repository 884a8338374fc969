"""The engine's HTTP side: /metrics, /healthz, /readyz, /v1 and pages for people, on a thread of its own.

It reads what the metrics hold, and asks the engine by mail (`questions.py`); it can change nothing. starlette and
uvicorn are imported when it starts, so that a run without HTTP does not pay for them. No request is ever logged:
paths hold user ids.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson

from ..config import Http
from ..ports import ConfigError
from . import page
from .api import Api, Asked, Problem, document, parts_of

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from .metrics import Metrics

log = logging.getLogger("shoal")

CONNECTIONS_MAX = 64
"""Connections at one time; beyond it uvicorn answers 503."""
STOP_TIMEOUT_S = 5.0

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
}


class Server:
    """A running HTTP server. `stop` returns when its thread has ended, or after STOP_TIMEOUT_S."""

    def __init__(self, server: uvicorn.Server, listener: socket.socket, host: str) -> None:
        self.port: int = listener.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self._server = server
        self._listener = listener
        self._thread = threading.Thread(target=server.run, args=([listener],), name="shoal-http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT_S)
        self._listener.close()


def start(config: Http, metrics: Metrics, asked: Asked | None = None) -> Server:
    """Serve `metrics`, and what `asked` answers, at `http.port`; connections are accepted when this returns.

    In the configuration port 0 means "off": whoever starts an engine does not call this then. Here it takes
    any free port. Raises ConfigError when the address cannot be had.
    """
    import uvicorn

    listener = _listen(config.host, config.port)
    metrics.health.limits = config
    # Even where somebody gives it a handler, which would switch it on again: paths hold user ids.
    logging.getLogger("uvicorn.access").disabled = True
    server = uvicorn.Server(
        uvicorn.Config(
            application(metrics, config, asked),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
        )
    )
    return Server(server, listener, config.host)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS_MAX)
    except (OSError, OverflowError) as error:
        busy = getattr(error, "errno", None) == errno.EADDRINUSE
        why = "another process listens there" if busy else str(error)
        raise ConfigError(
            f"http.host = {host!r}, http.port = {port}: cannot listen ({why}). "
            f"Set http.port to a free port, or to 0 for no HTTP server"
        ) from None


def application(metrics: Metrics, config: Http | None = None, asked: Asked | None = None) -> Starlette:
    """The routes, as an ASGI application that a test can call without a socket."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    if asked is None:
        asked = Asked()
        asked.questions.close()  # nobody would ever look into it
    api = Api(config or Http(), metrics, asked)
    return Starlette(
        routes=[
            Route("/metrics", _metrics(metrics)),
            Route("/healthz", _verdict(metrics.health.alive)),
            Route("/readyz", _verdict(metrics.health.ready)),
            Route("/v1/users/{rest:path}", _json(lambda r: _user(api, r))),
            Route("/v1/segments", _json(lambda r: api.segments())),
            Route("/v1/segments/{segment_id:int}", _json(lambda r: api.segment(r.path_params["segment_id"]))),
            Route("/v1/features", _json(lambda r: api.features())),
            Route("/v1/lineage", _json(lambda r: _soon(api.lineage))),
            Route("/v1/quality", _json(lambda r: _soon(api.quality))),
            Route("/v1/{name}", _json(lambda r: _soon(document, r.path_params["name"]))),
            Route("/", _html(lambda r: page.front(api))),
            Route("/users", _html(lambda r: _user_page(api, r))),
            Route("/segments/{segment_id:int}", _html(lambda r: page.segment(api, r.path_params["segment_id"]))),
        ],
        exception_handlers={404: _refused, 405: _refused, 500: _refused},
    )  # fmt: skip


Handler = Callable[["Request"], Awaitable["Response"]]


def _metrics(metrics: Metrics) -> Handler:
    from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
    from starlette.responses import Response

    async def show(request: Request) -> Response:
        return Response(metrics.render(), headers={**_HEADERS, "Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    return show


def _verdict(ask: Callable[[], Any]) -> Handler:
    from starlette.responses import PlainTextResponse

    async def show(request: Request) -> Response:
        verdict = ask()
        return PlainTextResponse(verdict.text + "\n", 200 if verdict.ok else 503, _HEADERS)

    return show


def _json(answer: Callable[[Request], Awaitable[Any]]) -> Handler:
    """The answer as JSON; a problem as RFC 9457 says."""
    from starlette.responses import Response

    async def show(request: Request) -> Response:
        try:
            value = await _guarded(answer(request))
        except Problem as problem:
            return _told(problem)
        body = value if isinstance(value, bytes) else orjson.dumps(value)
        return Response(body, headers={**_HEADERS, "Content-Type": "application/json"})

    return show


def _html(answer: Callable[[Request], Awaitable[str]]) -> Handler:
    from starlette.responses import HTMLResponse

    async def show(request: Request) -> Response:
        try:
            return HTMLResponse(await _guarded(answer(request)), headers=_HEADERS)
        except Problem as problem:
            return HTMLResponse(page.problem(problem), problem.status, {**_HEADERS, **_later(problem)})

    return show


async def _guarded(answer: Awaitable[Any]) -> Any:
    """A fault of ours is a problem too. What it says is left out of the log: it may name a user."""
    try:
        return await answer
    except Problem:
        raise
    except Exception as error:  # the server goes on; the engine never saw it
        frame = traceback.extract_tb(error.__traceback__)[-1]
        log.error("a question was not answered: %s at %s:%s", type(error).__name__, frame.name, frame.lineno)
        raise Problem(500, "fault", "a fault of Shoal's own; its log says where") from None


async def _user(api: Api, request: Request) -> Any:
    """/v1/users/{id} and /v1/users/{id}/why; what the id holds is percent-encoded, slashes too."""
    api.must_serve_users(request.headers.get("host", ""))
    match parts_of(request)[3:]:
        case [key] if key:
            return await api.user(key)
        case [key, "why"] if key:
            return await api.why(key)
    raise Problem(404, "no_such_resource", "wanted /v1/users/ID or /v1/users/ID/why; a slash in an ID is %2F")


async def _user_page(api: Api, request: Request) -> str:
    api.must_serve_users(request.headers.get("host", ""))
    return await page.user(api, request.query_params.get("id", "").strip())


async def _soon(answer: Callable[..., Any], *arguments: Any) -> Any:
    """What needs no waiting."""
    return answer(*arguments)


def _told(problem: Problem) -> Response:
    from starlette.responses import Response

    headers = {**_HEADERS, **_later(problem), "Content-Type": "application/problem+json"}
    return Response(problem.body(), problem.status, headers)


def _later(problem: Problem) -> dict[str, str]:
    return {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}


async def _refused(request: Request, error: Exception) -> Response:
    """What starlette refuses, and a fault of our own: no traceback, no path, since that may hold a user id."""
    status = getattr(error, "status_code", 500)
    codes = {404: "no_such_resource", 405: "method_not_allowed"}
    details = {404: "nothing is served at this path", 405: "everything here can be read, and nothing changed"}
    answer = _told(Problem(status, codes.get(status, "fault"), details.get(status, "a fault of Shoal's own")))
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer
