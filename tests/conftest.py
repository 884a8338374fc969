"""What all tests share: where the open data lies, and how a missing part is treated."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import Broker, Unavailable, obtain

ROOT = Path(__file__).resolve().parent.parent
CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def missing(part: str, how: str) -> None:
    """A real part is not there: fail in CI, skip loudly elsewhere."""
    message = f"{part} is not available: {how}"
    if CI:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes, each with its own kind: what waits for a broker or a server, first and in one place, beside
    what computes."""
    waits = [any(item.get_closest_marker(part) for part in ("kafka", "prometheus")) for item in items]
    for item, real in zip(items, waits, strict=True):
        if real:
            item.add_marker(pytest.mark.xdist_group("real"))
    order = sorted(
        range(len(items)), key=lambda at: (not waits[at], "test_wheel" not in items[at].nodeid, at)
    )
    items[:] = [items[at] for at in order]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the open data files; tests that need it are skipped where it does not exist."""
    folder = Path(os.environ.get("SHOAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"open data not found at {folder}: set SHOAL_DATA")
    return folder


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One real Apache Kafka for the whole session; ended only if the tests started it."""
    try:
        found = obtain(tmp_path_factory.mktemp("kafka"))
    except Unavailable as error:
        missing("a Kafka broker", str(error))
        raise
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    yield found
    found.close()


@pytest.fixture(params=["kafka-python", "confluent"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs once with each Kafka client library: every configuration that it makes names it."""
    from kafka_kit import with_client

    with_client(request.param, monkeypatch)
