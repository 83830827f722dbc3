"""Rules and dashboard: every metric that they ask for is one that a server exports, and every alert is explained."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import RUNBOOK, first_cells

from gateway.watching.metrics import Metrics
from paligemma_engine.metrics import FAMILIES, MetricKind
from parts.serve.metrics import FAMILIES as SUPERVISOR_FAMILIES

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
DASHBOARD = json.loads((REPOSITORY / "deploy" / "grafana" / "dashboards" / "paligemma.json").read_text())
DATASOURCES = REPOSITORY / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
OF_TRITON = {"nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes", "nv_gpu_utilization"}  # its docs: metrics.md
OF_PROMETHEUS = {"up", "ALERTS"}
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"}
TEXT = re.compile(r'"[^"]*"')
NO_METRICS = re.compile(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|without|on|ignoring)\s*\([^)]*\)|\b[0-9][\w.]*")
NAME = re.compile(r"[a-zA-Z_:][\w:]*(?!\w|\s*\()")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[str]:
    return [rule["alert"] for rule in rules() if "alert" in rule]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def names_in(expression: str) -> set[str]:
    return set(NAME.findall(NO_METRICS.sub(" ", TEXT.sub("", expression)))) - WORDS


def histogram(name: str) -> set[str]:
    return {f"{name}_{suffix}" for suffix in ("bucket", "count", "sum")}


def exported() -> set[str]:
    names = OF_TRITON | OF_PROMETHEUS | {family.name for family in SUPERVISOR_FAMILIES}
    for family in FAMILIES:
        names |= histogram(family.name) if family.kind is MetricKind.HISTOGRAM else {family.name}
    for metric in Metrics().registry.collect():
        names |= {
            "counter": {f"{metric.name}_total"},
            "gauge": {metric.name},
            "histogram": histogram(metric.name),
        }[metric.type]
    return names | {rule["record"] for rule in rules() if "record" in rule}


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_metric_is_exported(where: str, expression: str) -> None:
    names = names_in(expression)
    assert names, where
    assert names <= exported()


def test_the_names_in_an_expression_are_found() -> None:
    """What the test above rests on."""
    expression = 'sum by (le) (rate(a_b:c{x="y", z=~"{q}|w"}[5m])) / (d_total > 10e9 or vector(0)) and on (e) f'
    assert names_in(expression) == {"a_b:c", "d_total", "f"}


def test_the_dashboard_asks_the_provisioned_source() -> None:
    (source,) = yaml.safe_load(DATASOURCES.read_text())["datasources"]
    asked = {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]}
    assert asked == {source["uid"]}


@pytest.mark.parametrize("alert", alerts())
def test_every_alert_has_a_test_and_a_word_in_the_runbook(alert: str) -> None:
    tests = yaml.safe_load((PROMETHEUS / "rules.test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if case["exp_alerts"]}
    assert alert in fired
    assert alert in first_cells(RUNBOOK, "Alerts")
