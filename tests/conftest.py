"""What all tests share: where the open data lies, and how a missing part is treated."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """With `-n 2`: files that need a broker or a server in one process, in order, beside all that only computes."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPart(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "real" if _is_real(config.rootpath / file) else file

    return ByPart(config, log)


@cache
def _is_real(file: Path) -> bool:
    text = file.read_text()
    return "kafka" in file.name or any(f"pytest.mark.{part}" in text for part in ("kafka", "prometheus"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: what waits for a broker, and the whole suite against the wheel."""
    items.sort(key=lambda item: (not _is_real(item.path), item.path.name != "test_wheel.py"))


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
