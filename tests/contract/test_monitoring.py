"""examples/monitoring asks for nothing that llama-orch does not tell, and a real Prometheus works with it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from contracts.metrics import SERIES
from llama_orch.trial import haiku_model_path
from tests.contract.promql import known, wrong_with
from tests.support.installation import TOKEN, Installation
from tests.support.ports import HeldPort
from tools.grafana_dashboard import ROWS, dashboard

pytestmark = pytest.mark.req("HP-24", "OP-01")
FOLDER = Path(__file__).parents[2] / "examples/monitoring"
GROUPS = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: set(rule["labels"]) for rule in RULES if "record" in rule}
Ask = Callable[[str, str], Awaitable[dict[str, Any]]]
PANEL = 'queue_depth{pool_id=~"$pool"}'
"""One that has something to show, whatever was asked for."""
NEVER = '"lastEvaluation": "0001-01-01T'
"""How Prometheus says of rules that it has not looked at them yet."""
QUERIES = [query for _, row in ROWS for panel in row for query, _ in panel.queries]


def concrete(query: str) -> str:
    """A query of the dashboard as Grafana sends it."""
    return query.replace("$pool", ".*").replace("$__rate_interval", "1m")


async def said_by(*command: str | Path) -> str:
    """What a command that must succeed prints."""
    pipe, both = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    child = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=both)
    said, _ = await child.communicate()
    assert child.returncode == 0, said.decode()
    return said.decode()


def test_every_rule_and_every_panel_asks_for_metrics_and_labels_of_the_contract() -> None:
    names = known() | RECORDED
    queries = [rule["expr"] for rule in RULES] + [concrete(query) for query in QUERIES]
    assert [(query, wrong) for query in queries for wrong in wrong_with(query, names)] == []


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("queue_depht > 0", ["no metric queue_depht"]),
        ('queue_depth{pool="a"}', ["queue_depth has no label pool"]),
        ("sum by (pool_id, reason) (rate(tokens_out_total[5m]))", ["no metric of it has the label reason"]),
        ('sum by (le) (rate(latency_decode_ms_bucket{priority="x, y"}[5m]))', []),
        ("latency_decode_ms", ["no metric latency_decode_ms"]),
    ],
)
def test_a_wrong_name_and_a_wrong_label_are_noticed(query: str, wrong: list[str]) -> None:
    assert list(wrong_with(query, known())) == wrong


def test_the_dashboard_shows_every_metric_of_the_contract() -> None:
    shown = " ".join(QUERIES)
    assert [series.name for series in SERIES if series.name not in shown] == []


def test_grafana_can_place_and_import_the_dashboard() -> None:
    board = dashboard()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    inputs = {f"${{{each['name']}}}" for each in board["__inputs"]}
    assert set(re.findall(r"\$\{\w+\}", json.dumps(board))) == inputs
    assert {variable["name"] for variable in board["templating"]["list"]} == {"pool"}


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    assert [
        name for name, rule in ALERTS.items() if rule["labels"].get("severity") not in {"critical", "warning", "info"}
    ] == []
    assert [name for name, rule in ALERTS.items() if set(rule["annotations"]) != {"summary", "description"}] == []


def test_every_alert_fires_in_one_of_its_tests() -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    expected = json.dumps([each.get("exp_samples") for test in tests for each in test.get("promql_expr_test", ())])
    fired = set(re.findall(r'alertname=\\"(\w+)\\"', expected))
    fired |= {each["alertname"] for test in tests for each in test.get("alert_rule_test", ()) if each.get("exp_alerts")}
    assert fired == set(ALERTS)


def test_the_operators_page_names_every_alert() -> None:
    page = (FOLDER.parents[1] / "docs/operations.md").read_text()
    assert set(re.findall(r"`(LlamaOrch\w+)`", page)) == set(ALERTS)


def test_the_rules_know_the_pools_of_the_home_profile() -> None:
    home = yaml.safe_load((FOLDER.parent / "home-profile/config.yaml").read_text())
    assert {rule["labels"]["pool_id"] for rule in RULES if "record" in rule} == {pool["id"] for pool in home["pools"]}


@pytest.mark.needs("promtool")
async def test_promtool_runs_the_tests_of_the_alerts_and_reads_every_query(tmp_path: Path) -> None:
    await said_by("promtool", "test", "rules", FOLDER / "alerts_test.yml")
    recorded = [{"record": f"panel:{number}", "expr": concrete(query)} for number, query in enumerate(QUERIES)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    for rules in (FOLDER / "alerts.yml", tmp_path / "panels.yml"):
        await said_by("promtool", "check", "rules", "--lint=all", "--lint-fatal", rules)


@pytest.mark.needs("promtool")
async def test_the_tests_of_the_alerts_can_fail(tmp_path: Path) -> None:
    for name in ("alerts.yml", "alerts_test.yml"):
        (tmp_path / name).write_text((FOLDER / name).read_text().replace("[2m])) > 0", "[2m])) > 1000000"))
    with pytest.raises(AssertionError, match="LlamaOrchNoTokens"):
        await said_by("promtool", "test", "rules", tmp_path / "alerts_test.yml")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.needs("prometheus", "promtool")
async def test_a_real_prometheus_scrapes_a_running_product_and_answers_every_panel(tmp_path: Path) -> None:
    async with Installation(tmp_path / "home", haiku_model_path()) as house:
        await house.up()
        await house.run({"prompt": "Write a haiku about snow.", "max_tokens": 16})
        settings = settings_for(house, tmp_path / "prometheus")
        assert "SUCCESS" in await said_by("promtool", "check", "config", settings)
        async with prometheus(settings) as ask:

            async def told(query: str) -> dict[str, str]:
                """Whose figure it is, once there is one: a scrape without an answer in time takes all of them away."""
                while not (found := await ask("/api/v1/query", query))["result"]:
                    await asyncio.to_thread(lambda: None)
                return dict(found["result"][0]["metric"])

            assert (await told("tokens_out_total"))["pool_id"] == "trial"
            await told('up{job="llama-orch"} == 1')
            assert PANEL in QUERIES
            await told(concrete(PANEL))
            for query in QUERIES:
                await ask("/api/v1/query", concrete(query))
            while NEVER in json.dumps(groups := (await ask("/api/v1/rules", ""))["groups"]):
                await asyncio.to_thread(lambda: None)
            assert [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")] == []


def settings_for(house: Installation, folder: Path) -> Path:
    """The example as a user would put it in place: the token where Prometheus finds it, and this machine's port."""
    shutil.copytree(FOLDER, folder)
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    text = (folder / "prometheus.yml").read_text()
    for documented, here in {
        "/etc/prometheus/llama-orch-token": str(token),
        "127.0.0.1:8080": f"127.0.0.1:{house.port}",
        "_interval: 15s": "_interval: 1s",
    }.items():
        assert documented in text
        text = text.replace(documented, here)
    (folder / "prometheus.yml").write_text(text)
    return folder / "prometheus.yml"


@asynccontextmanager
async def prometheus(settings: Path) -> AsyncIterator[Ask]:
    """A Prometheus of its own with these settings, and a way to ask it."""
    held = HeldPort()
    child = await asyncio.create_subprocess_exec(
        "prometheus",
        *(f"--config.file={settings}", f"--storage.tsdb.path={settings.parent / 'data'}"),
        f"--web.listen-address=127.0.0.1:{held.number}",
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stderr is not None
    try:
        async for line in child.stderr:
            if b"Server is ready" in line:
                break
        url = f"http://127.0.0.1:{held.number}"
        async with aiohttp.ClientSession(url) as client, asyncio.TaskGroup() as group:
            draining = group.create_task(child.stderr.read())

            async def ask(path: str, query: str) -> dict[str, Any]:
                async with client.get(path, params={"query": query}) as answer:
                    said = await answer.json()
                    assert said["status"] == "success", said
                    return dict(said["data"])

            yield ask
            draining.cancel()
    finally:
        child.kill()
        await child.wait()
        held.close()
