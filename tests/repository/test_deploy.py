"""The files in deploy/: every metric in them exists, and the tools that read them accept them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from contextlib import closing

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from firelock import Cron, Firelock
from firelock.errors import SchemaMismatch, StorageError
from firelock.integrations.prometheus import Prometheus
from firelock.server import job_counters
from firelock.server.supervisor import EXIT_USAGE, exit_code_of
from firelock.testing.movable_clock import movable
from firelock_dashboard import Dashboard
from tests.core.fakes import until
from tests.dashboard.browser import Browser
from tests.ports import HOST, free_port
from tests.repository.sources import ROOT

DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "firelock-alerts.yml"
BOARD = DEPLOY / "grafana" / "firelock.json"
PAGE = ROOT / "docs" / "probes-and-metrics.md"
METRIC = re.compile(r"\bfirelock_[a-z_]+\b")
LABELLED = re.compile(r"\b(firelock_[a-z_]+)\{([^}]*)\}")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
OF_PROMETHEUS = {"instance", "job", "alertname"}  # labels that Prometheus adds itself


def add(left: int, right: int) -> int:
    return left + right


@pytest.fixture(scope="module")
def pages():
    """Return the labels, by name, of every sample that a server and a dashboard show after a run."""
    # this process resets its counters
    previous, port = job_counters._of_this_process, free_port()  # noqa: SLF001
    job_counters._of_this_process = job_counters._ProcessCounters()  # noqa: SLF001
    with (
        Firelock("memory://", plugins=[Prometheus(CollectorRegistry())]) as fire,
        closing(Dashboard(fire)) as dashboard,
        closing(Browser(dashboard)) as browser,
    ):
        task = fire.task(name="shop.add")(add)
        task.recur("nightly", Cron("0 2 * * *"), 1, 2)
        task.using(queue="bulk").enqueue(1, 2)
        movable(fire.storage).clock_offset += 86_400_000_000  # the recurring job is due
        with fire.server(workers=1, queues=["default"], probe_port=port):
            fire.limits.set("tenant", concurrent=4)
            task.enqueue(1, 2).result(timeout=10)
            until(lambda: fire.jobs.find(state="succeeded", recurring="nightly").jobs)
            with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as reply:
                texts = [reply.read().decode(), browser.get("/metrics").text]
    job_counters._of_this_process = previous  # noqa: SLF001
    found: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def alert_rules():
    """Return every rule of the alerts."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def board_panels():
    """Return every panel of the board that is not a row."""
    return [panel for panel in json.loads(BOARD.read_text())["panels"] if panel["type"] != "row"]


def test_unit_does_not_restart_after_a_permanent_error():
    """A usage error and an unsupported layout both cause the exit code that prevents a restart."""
    unit = (DEPLOY / "systemd" / "firelock.service").read_text(encoding="utf-8")
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and line[0] != "#")

    assert exit_code_of(SchemaMismatch("layout 100")) == EXIT_USAGE != exit_code_of(StorageError("away"))
    assert ("on-failure", str(EXIT_USAGE)) == (settings["Restart"], settings["RestartPreventExitStatus"])


EXPRESSIONS = [
    *[pytest.param(rule["expr"], id=rule["alert"]) for rule in alert_rules()],
    *[
        pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
        for panel in board_panels()
        for target in panel["targets"]
    ],
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_metrics_in_expressions_exist(pages, expression):
    """A server or a dashboard provides each metric in an alert or a panel, with the labels used there."""
    names = set(METRIC.findall(expression))

    assert names - set(pages) == set()
    for name, selected in LABELLED.findall(expression):
        labels = {re.split("[=!]", part)[0].strip() for part in selected.split('",') if part}
        assert labels - OF_PROMETHEUS - pages[name] == set(), name
    known = set().union(OF_PROMETHEUS, *(pages[name] for name in names))
    for grouped in GROUPED.findall(expression):
        assert {label.strip() for label in grouped.split(",")} - known == set()


def test_page_lists_exactly_the_existing_metrics(pages):
    """The tables contain the metrics of servers and of the cluster."""
    named = set(re.findall(r"^\| `(firelock_[a-z_]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in pages}

    assert named == shown


def test_limits_are_on_the_board_and_in_the_alerts(pages):
    """All metrics of limits are on the board.

    The alerts cover waiting jobs, which the latency of a queue does not show.
    """
    limits = {name for name in pages if name.startswith("firelock_limit_")} | {"firelock_queue_held"}
    drawn = {
        name for panel in board_panels() for one in panel["targets"] for name in METRIC.findall(one["expr"])
    }
    mentioned = {name for rule in alert_rules() for name in METRIC.findall(rule["expr"])}

    assert limits - drawn == set()
    assert {"firelock_limit_paused", "firelock_limit_waiting"} - mentioned == set()


def test_page_lists_every_alert():
    """The page lists each alert with its severity, in the order of the file."""
    rows = re.findall(r"^\| `(Firelock\w+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    assert [(rule["alert"], rule["labels"]["severity"]) for rule in alert_rules()] == rows


def test_alert_describes_problem_and_fix():
    """Each alert also has a severity and a unique name."""
    rules = alert_rules()

    assert len(rules) == len({rule["alert"] for rule in rules})
    for rule in rules:
        assert rule["labels"]["severity"] in {"warning", "critical"}, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]


def test_panels_of_the_board_do_not_overlap():
    """Each panel has an id and a selectable data source."""
    panels = json.loads(BOARD.read_text())["panels"]
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells

    assert len(panels) == len({panel["id"] for panel in panels})
    for panel in board_panels():
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@pytest.mark.heavy("promtool, of Debian's prometheus")
class TestPromtool:
    """Checks by Prometheus' own tool."""

    @pytest.fixture(autouse=True)
    def promtool(self):
        if shutil.which("promtool") is None:
            pytest.skip("promtool is not installed: it is in Debian's package prometheus")

    @staticmethod
    def run(*words, cwd):
        ran = subprocess.run(["promtool", *words], cwd=cwd, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr

    def test_alert_rules_are_valid(self):
        """Prometheus can read the alerts as rules."""
        self.run("check", "rules", ALERTS.name, cwd=ALERTS.parent)

    def test_each_alert_fires_only_for_its_problem(self):
        """The test series are in the file next to the alerts, which covers every alert."""
        tests = ALERTS.parent / "firelock-alerts-test.yml"

        assert {rule["alert"] for rule in alert_rules()} <= set(
            re.findall(r"\bFirelock\w+", tests.read_text())
        )
        self.run("test", "rules", tests.name, cwd=ALERTS.parent)

    def test_expressions_of_the_board_are_valid_promql(self, tmp_path):
        """Before the check, Grafana's variables are replaced."""
        expressions = [target["expr"] for panel in board_panels() for target in panel["targets"]]
        rules = [
            {"record": f"panel{number}", "expr": re.sub(r"\$__rate_interval", "5m", expression)}
            for number, expression in enumerate(expressions)
        ]
        (tmp_path / "board.yml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))

        self.run("check", "rules", "board.yml", cwd=tmp_path)
