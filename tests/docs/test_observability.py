"""The catalogue of metrics is what the documentation, the dashboard and the alerts speak of."""

import json
import re
from typing import Any

import pytest
import yaml

from perdure.entities.metrics import CATALOGUE, MetricKind

from .blocks import ROOT, python_blocks

_NAME = re.compile(r"\bperdure_\w+")
_LABELLED = re.compile(r"(perdure_\w+)\{([^}]*)\}")
_BY = re.compile(r"\bby \(([^)]*)\)")
_SHOWN = {
    metric.name + suffix: metric
    for metric in CATALOGUE
    for suffix in (("_bucket", "_sum", "_count") if metric.kind is MetricKind.HISTOGRAM else ("",))
}


def dashboard() -> list[str]:
    found: dict[str, Any] = json.loads((ROOT / "deploy/grafana/perdure.json").read_text())
    return [target["expr"] for panel in found["panels"] for target in panel["targets"]]


def alerts() -> list[str]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    return [rule["expr"] for group in found["groups"] for rule in group["rules"]]


def test_the_table_is_the_catalogue() -> None:
    page = (ROOT / "docs/observability.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `perdure_")]
    assert rows == [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.all_labels)} | {one.help} |"
        for one in CATALOGUE
    ]


@pytest.mark.parametrize("expression", [*dashboard(), *alerts()])
def test_expressions_use_the_catalogue(expression: str) -> None:
    names = _NAME.findall(expression)
    assert names
    assert set(names) <= _SHOWN.keys()
    for name, conditions in _LABELLED.findall(expression):
        given = {condition.split("=")[0].strip("~! ") for condition in conditions.split(",")}
        assert given <= set(_SHOWN[name].all_labels)
    grouped = {label.strip() for labels in _BY.findall(expression) for label in labels.split(",")} - {"le"}
    assert grouped <= {label for name in names for label in _SHOWN[name].all_labels}
    assert expression.count("(") == expression.count(")")


def test_counters_end_as_counters_do() -> None:
    for metric in CATALOGUE:
        assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
        assert bool(metric.bounds) == (metric.kind is MetricKind.HISTOGRAM)
        assert list(metric.bounds) == sorted(metric.bounds)


def test_every_alert_says_what_to_do() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_outside_of_turns_nothing_is_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    [block] = python_blocks(ROOT / "docs/observability.md")
    exec(block, {})
    assert capsys.readouterr().out == "begins {}\n"
