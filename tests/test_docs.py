"""The documentation names everything a user can set, watch, call or meet; figures come from commands."""

import inspect
import re

import pytest
from conftest import ROOT

from shoal.stream import ports
from shoal.stream.cli import VERBS
from shoal.stream.config import keys
from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MANIFEST, MEMBERS, REJECTED, Reason

pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").exists(), reason="only the source tree has its README"
)


def _readme() -> str:
    return (ROOT / "README.md").read_text()


@pytest.mark.parametrize("key", keys(), ids=lambda key: key.path)
def test_every_configuration_key_is_documented(key):
    """The README's table has the key, its default and its reason."""
    row = next((line for line in _readme().splitlines() if line.startswith(f"| `{key.path}` |")), "")
    assert key.text.split(";")[0].split(",")[0] in row.replace("\\|", "|")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_documented(verb):
    """The README names each command, and each command has help of its own."""
    assert f"`shoal {verb}`" in _readme()
    from click.testing import CliRunner

    from shoal.stream.cli import shoal

    done = CliRunner().invoke(shoal, [verb, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.output


def test_every_metric_is_documented():
    """Each metric stands in the metrics reference, and the README points to it."""
    from shoal.stream.watching.metric_table import METRICS

    text = (ROOT / "deploy" / "METRICS.md").read_text()
    assert "deploy/METRICS.md" in _readme()
    for metric in METRICS:
        assert metric.name in text


def test_every_topic_and_reason_is_documented():
    """Subscribers find every topic, operators every reason."""
    text = _readme()
    for topic in (CHANGES, MEMBERS, CATALOG, LINEAGE, REJECTED, MANIFEST):
        assert f"`{topic}`" in text
    for reason in Reason:
        assert f"`{reason.value}`" in text


def test_every_exit_code_is_documented_and_its_own():
    """No two failures share an exit code; the README and the runbook name them all."""
    errors = [c for _, c in inspect.getmembers(ports, inspect.isclass) if issubclass(c, ports.ShoalError)]
    codes = [error.exit_code for error in errors if error is not ports.ShoalError]
    assert len(codes) == len(set(codes))
    runbook = (ROOT / "deploy" / "RUNBOOK.md").read_text()
    sentence = re.search(r"Exit codes: .*?\n\n", _readme(), re.S)
    assert sentence
    for code in codes:
        assert re.search(rf"\b{code} [a-z]", sentence.group())
        assert re.search(rf"\| *`?{code}`? *\|", runbook), f"exit code {code} is not in the runbook's table"


def test_links_lead_somewhere():
    """Every file that the documentation names is there."""
    for name in ("README.md", "CONTRIBUTING.md", "DESIGN.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text()
        for path in re.findall(r"`((?:deploy|tests|stream|encoders|sinks)/[A-Za-z0-9_./-]+)`", text):
            assert (ROOT / path).exists(), f"{name} names {path}"
