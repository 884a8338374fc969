"""The engine's HTTP side: /metrics, /healthz, /readyz and a page for people, on a thread of its own.

It only reads what the metrics hold; it can slow nothing down and change nothing. starlette and uvicorn are
imported when it starts, so that a run without HTTP does not pay for them.
"""

from __future__ import annotations

import errno
import html
import socket
import threading
from typing import TYPE_CHECKING, Any

from ..config import Http
from ..ports import ConfigError

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

    from .metrics import Metrics

CONNECTIONS_MAX = 64
"""Connections at one time; beyond it uvicorn answers 503."""
SEGMENTS_SHOWN_MAX = 64
STOP_TIMEOUT_S = 5.0

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}
_STYLE = "body{font:16px/1.5 sans-serif;margin:2em}td,th{padding:0 1em 0 0;text-align:left}"


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


def start(config: Http, metrics: Metrics) -> Server:
    """Serve `metrics` in the background, at `http.port`; connections are accepted when this returns.

    In the configuration port 0 means "off": whoever starts an engine does not call this then. Here it takes
    any free port. Raises ConfigError when the address cannot be had.
    """
    import uvicorn

    listener = _listen(config.host, config.port)
    metrics.health.limits = config
    server = uvicorn.Server(
        uvicorn.Config(
            application(metrics),
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


def application(metrics: Metrics) -> Starlette:
    """The routes, as an ASGI application that a test can call without a socket."""
    from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    async def show_metrics(request: Request) -> Response:
        return Response(metrics.render(), headers={**_HEADERS, "Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def show_health(request: Request) -> Response:
        verdict = metrics.health.alive()
        return PlainTextResponse(verdict.text + "\n", 200 if verdict.ok else 503, _HEADERS)

    async def show_ready(request: Request) -> Response:
        verdict = metrics.health.ready()
        return PlainTextResponse(verdict.text + "\n", 200 if verdict.ok else 503, _HEADERS)

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page(metrics), headers=_HEADERS)

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/metrics", show_metrics),
            Route("/healthz", show_health),
            Route("/readyz", show_ready),
        ]
    )


def page(metrics: Metrics) -> str:
    """What a person who opens the address sees. Every value is escaped."""
    status, health = metrics.status, metrics.health
    facts = [
        ("phase", health.phase.value),
        ("health", health.alive().text),
        ("readiness", health.ready().text),
        ("step", status.step),
        ("users", status.users),
        ("segments", len(status.sizes or {})),
    ]
    sizes = sorted((status.sizes or {}).items(), key=lambda item: (-item[1], item[0]))
    segments = _table(sizes[:SEGMENTS_SHOWN_MAX], ("segment", "users"))
    links = "".join(f'<li><a href="{path}">{path}</a></li>' for path in ("/metrics", "/healthz", "/readyz"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Shoal</title>'
        f"<style>{_STYLE}</style></head><body><h1>Shoal</h1>{_table(facts)}"
        f"<h2>Segments</h2>{segments}<ul>{links}</ul></body></html>"
    )


def _table(rows: list[tuple[str, Any]] | list[tuple[str, int]], head: tuple[str, ...] = ()) -> str:
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"] if head else []
    lines += [
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    ]
    return f"<table>{''.join(lines)}</table>"
