"""The rules and the dashboard of the page about alerts, with Prometheus' own tool."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import DOCS, blocks_of
from tests.docs.machine import need
from tests.metrics.support import numbers_of_all_kinds
from trio_jobs.metrics.families import families

PAGE = DOCS / "how-to/alert.md"
FILES = {block.name: block.text for block in blocks_of(PAGE) if block.kind == "yaml"}
RULES = FILES["alerts.yml"]
DASHBOARD: dict[str, Any] = json.loads((DOCS / "how-to/grafana.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
SERVER = 'job="trio-jobs", instance="a"'


def promtool(*arguments: str, folder: Path) -> str:
    """What promtool says; it must find nothing wrong."""
    need("promtool")
    ended = subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_promtool_accepts_the_configuration_and_the_rules(tmp_path: Path) -> None:
    for name in ("prometheus.yml", "alerts.yml"):
        (tmp_path / name).write_text(FILES[name])
    (tmp_path / "trio-jobs.token").touch()

    said = promtool("check", "config", "prometheus.yml", folder=tmp_path)

    number = RULES.count("- alert: ")
    assert f"SUCCESS: {number} rules found" in said


# For each alert: what a server tells each minute, after how many minutes the alert is looked for,
# and the labels that it has then. In promtool's notation, `1+2x3` is 1 3 5 7.
FIRES = {
    "TrioJobsDown": ({f"up{{{SERVER}}}": "0x30"}, 3, {}),
    "BufferNearlyFull": (
        {
            f"trio_jobs_buffer_used{{{SERVER}}}": "81x30",
            f"trio_jobs_buffer_size{{{SERVER}}}": "100x30",
        },
        10,
        {},
    ),
    "Refusing": (
        {f'trio_jobs_refused_total{{{SERVER}, reason="full"}}': "0+1x30"},
        15,
        {"reason": "full"},
    ),
    "WaitTooLong": ({f"trio_jobs_oldest_pending_seconds{{{SERVER}}}": "301x30"}, 10, {}),
    "Failing": (
        {
            f'trio_jobs_jobs_completed_total{{{SERVER}, type="email", outcome="succeeded"}}': (
                "0+8x30"
            ),
            f'trio_jobs_jobs_completed_total{{{SERVER}, type="email", outcome="timed_out"}}': (
                "0+2x30"
            ),
        },
        25,
        {"type": "email"},
    ),
    "NoProgress": (
        {
            f'trio_jobs_buffer_used{{{SERVER}, version="1"}}': "1x30",
            f'trio_jobs_jobs_completed_total{{{SERVER}, type="email", outcome="failed"}}': "7x30",
        },
        25,
        {"version": "1"},
    ),
    "StillPaused": (
        {
            f"trio_jobs_intake_paused{{{SERVER}}}": "0x60",
            f"trio_jobs_paused_types{{{SERVER}}}": "2x60",
        },
        40,
        {},
    ),
    "FailuresForgotten": (
        {f'trio_jobs_jobs_dropped_total{{{SERVER}, outcome="failed"}}': "0x10 1x20"},
        20,
        {"outcome": "failed"},
    ),
}

# The same servers in health.
SILENT = {
    "TrioJobsDown": {f"up{{{SERVER}}}": "0 1x30"},
    "BufferNearlyFull": {
        f"trio_jobs_buffer_used{{{SERVER}}}": "100 100 80x30",
        f"trio_jobs_buffer_size{{{SERVER}}}": "100x30",
    },
    "Refusing": {
        f'trio_jobs_refused_total{{{SERVER}, reason="full"}}': "5x30",
        f'trio_jobs_refused_total{{{SERVER}, reason="invalid"}}': "0+9x30",
    },
    "WaitTooLong": {f"trio_jobs_oldest_pending_seconds{{{SERVER}}}": "300x30"},
    "Failing": {
        f'trio_jobs_jobs_completed_total{{{SERVER}, type="email", outcome="succeeded"}}': "0+9x30",
        f'trio_jobs_jobs_completed_total{{{SERVER}, type="email", outcome="failed"}}': "0+1x30",
        f'trio_jobs_jobs_completed_total{{{SERVER}, type="idle", outcome="failed"}}': "3x30",
        f'trio_jobs_jobs_completed_total{{{SERVER}, type="x", outcome="cancelled"}}': "0+9x30",
    },
    "NoProgress": {
        f"trio_jobs_buffer_used{{{SERVER}}}": "1x30",
        f'trio_jobs_jobs_completed_total{{{SERVER}, type="email", outcome="failed"}}': "0+1x30",
    },
    "StillPaused": {
        f"trio_jobs_intake_paused{{{SERVER}}}": "1x20 0x40",
        f"trio_jobs_paused_types{{{SERVER}}}": "0x60",
    },
    "FailuresForgotten": {
        f'trio_jobs_jobs_dropped_total{{{SERVER}, outcome="succeeded"}}': "0+9x30",
        f'trio_jobs_jobs_dropped_total{{{SERVER}, outcome="failed"}}': "3x30",
    },
}


def rule_test(alert: str, told: dict[str, str], minutes: int, labels: object) -> dict[str, object]:
    """A test for promtool; JSON is YAML. ``labels`` is None if the alert must be silent."""
    series = [{"series": name, "values": values} for name, values in told.items()]
    [severity] = re.findall(rf"alert: {alert}\n.*?severity: (\w+)", RULES, re.DOTALL)
    fired = []
    if isinstance(labels, dict):
        fired = [
            {"exp_labels": {"job": "trio-jobs", "instance": "a", "severity": severity} | labels}
        ]
        [summary] = re.findall(rf'alert: {alert}\n.*?summary: "([^"]*)"', RULES, re.DOTALL)
        summary = summary.replace("{{ $labels.instance }}", "a")
        for name, value in labels.items():
            summary = summary.replace(f"{{{{ $labels.{name} }}}}", value)
        summary = summary.replace("{{ $value | humanizeDuration }}", "5m 1s")
        summary = summary.replace("{{ $value | humanizePercentage }}", "20%")
        fired[0]["exp_annotations"] = {"summary": summary}
    return {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": fired}],
    }


@pytest.mark.parametrize("alert", FIRES)
def test_alert_fires_and_stays_silent_in_health(alert: str, tmp_path: Path) -> None:
    told, minutes, labels = FIRES[alert]
    tests = {
        "rule_files": ["alerts.yml"],
        "evaluation_interval": "1m",
        "tests": [
            rule_test(alert, told, minutes, labels),
            *(rule_test(alert, SILENT[alert], each, None) for each in (minutes, 30)),
        ],
    }
    (tmp_path / "alerts.yml").write_text(RULES)
    (tmp_path / "tests.yml").write_text(json.dumps(tests))

    assert "SUCCESS" in promtool("test", "rules", "tests.yml", folder=tmp_path)


METRIC = re.compile(r"(trio_jobs_\w+)(?:\{([^}]*)\})?")
ADDED_BY_PROMETHEUS = {"job", "instance"}


async def test_rules_and_dashboard_ask_for_what_the_server_exports() -> None:
    exported: dict[str, set[str]] = {}
    for family in families(await numbers_of_all_kinds()):
        for sample in family.samples:
            exported.setdefault(sample.name, set()).update(sample.labels, ADDED_BY_PROMETHEUS)

    asked = METRIC.findall(RULES + "\n".join(QUERIES))
    assert len(asked) > 20
    for name, matchers in asked:
        assert name in exported
        assert set(re.findall(r"(\w+)(?:=|!=|=~)\"", matchers)) <= exported[name], (name, matchers)


def test_labels_in_rules_and_legends_are_those_of_their_queries() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in labels_of(target["expr"])
    for rule in RULES.split("- alert: ")[1:]:
        for label in re.findall(r"\$labels\.(\w+)", rule):
            assert label in labels_of(rule)


def labels_of(query: str) -> set[str]:
    """The labels that a query keeps, of those that Prometheus adds and those that it names."""
    kept = re.findall(r"sum by \(([^)]*)\)", query)
    return set(kept[0].split(", ")) if kept else ADDED_BY_PROMETHEUS


def test_page_says_what_to_do_about_each_alert() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]

    assert sorted(told) == sorted(re.findall(r"- alert: (\w+)", RULES))


def filled(query: str) -> str:
    """A query of the dashboard, as Grafana sends it."""
    return query.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")


def test_promtool_accepts_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"query:{n}", "expr": filled(each)} for n, each in enumerate(QUERIES)]
    (tmp_path / "queries.yml").write_text(
        json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})
    )

    said = promtool("check", "rules", "queries.yml", folder=tmp_path)

    assert f"{len(QUERIES)} rules found" in said


def test_dashboard_has_eight_panels_with_titles_and_units() -> None:
    assert len(DASHBOARD["panels"]) == 8
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({each["id"] for each in DASHBOARD["panels"]}) == 8
