"""The dashboard, the alerts and the runbook speak of metrics, files, keys and exit codes that exist.

That they also have data is shown with a real Prometheus, in test_prometheus.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations

import yaml
from conftest import ROOT

from shoal.stream import ports
from shoal.stream.cli import VERBS
from shoal.stream.config import keys, load
from shoal.stream.ports import ShoalError
from shoal.stream.watching.metric_table import METRICS, markdown

DEPLOY = ROOT / "deploy"
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
DASHBOARD = json.loads((DEPLOY / "grafana" / "shoal.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = yaml.safe_load((DEPLOY / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
RUNBOOK = (DEPLOY / "RUNBOOK.md").read_text("utf-8")


def expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of every panel and every alert."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


def names_in(expression: str) -> set[str]:
    """Names of our metrics, without the suffixes that histograms and summaries add."""
    found = set(re.findall(r"\bshoal_[a-z0-9_]+", expression))
    split = {m.name for m in METRICS if m.kind in ("histogram", "summary")}
    return {re.sub(r"_(bucket|sum|count)$", "", n) if n.rpartition("_")[0] in split else n for n in found}


def test_panels_and_alerts_ask_only_for_metrics_that_exist() -> None:
    known = {metric.name for metric in METRICS}
    for where, expression in expressions():
        assert names_in(expression) <= known, where
        assert names_in(expression) or "up{" in expression, where


def test_every_metric_has_a_panel() -> None:
    shown = set().union(*(names_in(target["expr"]) for panel in PANELS for target in panel["targets"]))
    assert {metric.name for metric in METRICS} - shown == {"shoal_process_virtual_memory_bytes"}


def test_the_list_of_metrics_is_up_to_date() -> None:
    """Write it anew with `python -m shoal.stream.watching.metric_table > deploy/METRICS.md`."""
    assert (DEPLOY / "METRICS.md").read_text("utf-8") == markdown()


def test_label_values_in_expressions_can_occur() -> None:
    values = {m.name: {label: {row[i] for row in m.values} for i, label in enumerate(m.labels) if m.values != ((),)}
              for m in METRICS}  # fmt: skip
    seen = 0
    for where, expression in expressions():
        for name, selector in re.findall(r"\b(shoal_[a-z0-9_]+)\{([^}]*)\}", expression):
            for label, value in re.findall(r'(\w+)="([^"$]*)"', selector):
                assert value in values[name][label], where
                seen += 1
    assert seen >= 2


def test_the_dashboard_uses_the_provisioned_data_source() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"][0]
    wanted = {"type": "prometheus", "uid": source["uid"]}
    assert all(panel["datasource"] == wanted for panel in PANELS)
    assert all(target["datasource"] == wanted for panel in PANELS for target in panel["targets"])
    assert DASHBOARD["templating"]["list"][0]["datasource"] == wanted
    assert source["url"] == "http://prometheus:9090"
    interval = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval


def test_the_dashboard_lies_where_grafana_looks_for_it() -> None:
    folder = DEPLOY / "grafana" / "provisioning" / "dashboards"
    provider = yaml.safe_load((folder / "shoal.yml").read_text("utf-8"))["providers"][0]
    path = f"{provider['options']['path']}/shoal.json"
    assert f"./grafana/shoal.json:{path}:ro" in SERVICES["grafana"]["volumes"]
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == path


def test_no_two_panels_overlap_and_each_has_a_title_and_an_instance() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for a, b in combinations(boxes, 2):
        apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_x or apart_y, (a, b)
        assert a["x"] + a["w"] <= 24
    for panel in PANELS:
        assert panel["title"]
        for target in panel["targets"]:
            selectors = re.findall(r"\bshoal_[a-z0-9_]+(\{[^}]*\})?", target["expr"])
            assert all('instance=~"$instance"' in selector for selector in selectors), panel["title"]


def test_prometheus_scrapes_the_engine_of_compose() -> None:
    port = load(DEPLOY / "shoal.toml", environ={}).http.port
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    assert scrape == [{"job_name": "shoal", "static_configs": [{"targets": [f"shoal:{port}"]}]}]


# --- the runbook --------------------------------------------------------------------------------------------


def test_every_alert_has_its_section_in_the_runbook() -> None:
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)}
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"RUNBOOK.md#{rule['alert'].lower()}"
        assert rule["alert"].lower() in headings
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_every_exit_code_is_in_the_runbook() -> None:
    errors = [e for e in vars(ports).values() if isinstance(e, type) and issubclass(e, ShoalError)]
    assert len({error.exit_code for error in errors}) == len(errors)
    for error in errors:
        assert re.search(rf"^\| {error.exit_code} \| `{error.__name__}` \|", RUNBOOK, re.MULTILINE), error


def test_the_runbook_names_only_keys_metrics_and_verbs_that_exist() -> None:
    known_keys = {key.path for key in keys()}
    sections = "|".join(sorted({key.section for key in keys()}))
    for key in re.findall(rf"`((?:{sections})\.[a-z_]+)`", RUNBOOK):
        assert key in known_keys, key
    assert names_in(RUNBOOK) <= {metric.name for metric in METRICS}
    for verb in re.findall(r"`shoal (\w+)", RUNBOOK):
        assert verb in VERBS, verb
