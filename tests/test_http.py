"""The HTTP side: paths for machines, pages for people, and nothing else."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal.stream.config import Http
from shoal.stream.ports import ConfigError, Phase, Saved
from shoal.stream.watching.http import CONNECTIONS_MAX, Server, start
from shoal.stream.watching.metrics import Metrics, Status


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def server(metrics: Metrics) -> Iterator[Server]:
    server = start(Http(port=0, stuck_after_s=5), metrics)
    yield server
    server.stop()


def get(url: str, method: str = "GET") -> tuple[int, str]:
    try:
        with urlopen(Request(url, method=method), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_metrics_are_served_in_prometheus_text_format(server: Server, metrics: Metrics) -> None:
    metrics.snapshot_saved(Saved(4, 0.5, 4096, 0.01))
    with urlopen(server.url + "/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = {f.name: f for f in text_string_to_metric_families(answer.read().decode())}
    assert families["shoal_state_bytes"].samples[0].value == 4096


def test_readiness_follows_the_phase(server: Server, metrics: Metrics) -> None:
    metrics.phase(Phase.RECOVERING)
    status, text = get(server.url + "/readyz")
    assert (status, "recovering" in text) == (503, True)
    assert get(server.url + "/healthz")[0] == 200
    metrics.phase(Phase.RUNNING)
    metrics.alive({0: 0})
    assert get(server.url + "/readyz")[0] == 200


def test_a_stuck_engine_is_unhealthy_within_the_configured_bound() -> None:
    now = [0.0]
    metrics = Metrics(clock_s=lambda: now[0])
    server = start(Http(port=0, stuck_after_s=5), metrics)
    try:
        metrics.phase(Phase.RUNNING)
        metrics.alive({})
        now[0] = 5.5
        status, text = get(server.url + "/healthz")
    finally:
        server.stop()
    assert (status, "stuck" in text) == (503, True)


def test_the_answers_may_not_be_cached_or_sniffed(server: Server) -> None:
    for path in ("/", "/metrics", "/healthz", "/readyz"):
        try:
            headers = urlopen(server.url + path, timeout=5).headers
        except HTTPError as error:
            headers = error.headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "server" not in headers


def test_nothing_else_is_served_and_nothing_can_be_written(server: Server) -> None:
    assert get(server.url + "/docs")[0] == 404
    assert get(server.url + "/metrics/../../etc/passwd")[0] == 404
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert get(server.url + "/metrics", method)[0] == 405


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.text: list[str] = []
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_for_people_says_how_the_engine_is_also_when_nothing_answers(
    server: Server, metrics: Metrics
) -> None:
    """It links the rest, and shows the sizes of the last step."""
    metrics.status = Status(17, 1234, {"1": 1000, "2": 234})
    status, text = get(server.url + "/")
    tags = Tags()
    tags.feed(text)
    assert status == 200
    assert {"/metrics", "/healthz", "/readyz", "/v1/segments", "/v1/openapi.json"} <= set(tags.links)
    assert {"17", "1234", "1000", "starting"} <= set(tags.text)


def test_connections_are_bounded(server: Server) -> None:
    assert server._server.config.limit_concurrency == CONNECTIONS_MAX


def test_it_listens_on_loopback_unless_configured() -> None:
    assert Http().host == "127.0.0.1"


def test_start_serves_on_the_configured_port_and_stop_frees_it(metrics: Metrics) -> None:
    port = free_port()
    for _ in range(2):
        server = start(Http(port=port), metrics)
        assert server.url == f"http://127.0.0.1:{port}"
        assert get(server.url + "/healthz")[0] == 200
        server.stop()
    assert not any(thread.name == "shoal-http" for thread in threading.enumerate())


def test_a_busy_port_is_a_configuration_error_that_says_what_to_do(metrics: Metrics, server: Server) -> None:
    with pytest.raises(ConfigError, match=rf"http.port = {server.port}.*another process.*0 for no HTTP"):
        start(Http(port=server.port), metrics)


def test_an_address_of_another_machine_is_a_configuration_error(metrics: Metrics) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        start(Http(host="192.0.2.1", port=0), metrics)


def test_half_a_request_does_not_keep_others_waiting(server: Server) -> None:
    """A client that never finishes its request line blocks nobody but itself."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
        slow.sendall(b"GET /metr")
        assert get(server.url + "/healthz")[0] == 200


def test_a_giant_header_is_refused(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.putrequest("GET", "/healthz")
    connection.putheader("X-Filler", "x" * 300_000)
    try:
        connection.endheaders()
        assert connection.getresponse().status == 400
    except (BrokenPipeError, ConnectionResetError):
        pass  # hung up before we had finished: refused just as well
    finally:
        connection.close()
    assert get(server.url + "/healthz")[0] == 200


def test_a_run_without_http_does_not_import_the_server() -> None:
    """starlette and uvicorn are imported when the server starts, not before."""
    code = (
        "import sys; from shoal.stream.watching import http, metrics; metrics.Metrics().render(); "
        "sys.exit(any(name in sys.modules for name in ('uvicorn', 'starlette')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
