"""examples/monitoring/grafana-dashboard.json: what ``contracts.metrics`` tells, as a dashboard that Grafana imports.

Decides the panels and where they stand. Which names and labels there are is the contract's, and a test
holds each query to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from contracts import metrics as m

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "examples" / "monitoring" / "grafana-dashboard.json"
SOURCE = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
POOL = 'pool_id=~"$pool"'
RATE = "$__rate_interval"
WIDTH, HEIGHT = 24, 8


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One picture: its queries, each with the text of its legend."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    text: str = ""
    width: int = 8
    stacked: bool = False
    top: float | None = None


def per_second(series: m.Series, by: str, where: str = POOL) -> str:
    """How fast a counter grows."""
    return f"sum by ({by}) (rate({series.name}{{{where}}}[{RATE}]))"


def per_minute(series: m.Series, by: str, where: str = "") -> str:
    """How often a minute something rare happens."""
    return f"60 * sum by ({by}) (rate({series.name}{{{where}}}[{RATE}]))"


def quantile(share: float, series: m.Series) -> str:
    """A quantile of a histogram, by pool and priority."""
    return f"histogram_quantile({share}, sum by (pool_id, priority, le) (rate({series.name}_bucket{{{POOL}}}[{RATE}])))"


def quantiles(series: m.Series) -> tuple[tuple[str, str], ...]:
    """The middle and the slow end."""
    legend = "{{pool_id}} {{priority}}"
    return ((quantile(0.5, series), f"{legend} p50"), (quantile(0.95, series), f"{legend} p95"))


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Now",
        (
            Panel(title="orchestratord", kind="stat", width=4, queries=(('up{job="llama-orch"}', "{{instance}}"),)),
            Panel(
                title="Waiting",
                kind="stat",
                width=5,
                queries=((f"sum by (priority) ({m.QUEUE_DEPTH.name}{{{POOL}}})", "{{priority}}"),),
                text="A task that several pools may run is counted in each of them.",
            ),
            Panel(
                title="Tokens a second",
                kind="stat",
                width=5,
                queries=((per_second(m.TOKENS_OUT, "pool_id"), "{{pool_id}}"),),
                text="Counted when a task ends.",
            ),
            Panel(
                title="Refused a minute",
                kind="stat",
                width=5,
                queries=((per_minute(m.REJECTED, "reason"), "{{reason}}"),),
            ),
            Panel(
                title="Models",
                kind="stat",
                width=5,
                queries=((f"sum by (state) ({m.MODEL_STATE.name})", "{{state}}"),),
            ),
        ),
    ),
    (
        "Tasks",
        (
            Panel(
                title="Queue",
                queries=((f"{m.QUEUE_DEPTH.name}{{{POOL}}}", "{{pool_id}} {{priority}}"),),
                stacked=True,
            ),
            Panel(
                title="Tasks that came and that started, a second",
                queries=(
                    (per_second(m.ENQUEUED, "pool_id"), "{{pool_id}} came"),
                    (per_second(m.STARTED, "pool_id"), "{{pool_id}} started"),
                ),
            ),
            Panel(
                title="Tokens a second",
                queries=(
                    (per_second(m.TOKENS_OUT, "pool_id"), "{{pool_id}} out"),
                    (per_second(m.TOKENS_IN, "pool_id"), "{{pool_id}} in"),
                ),
                text="Counted when a task ends.",
            ),
            Panel(title="Until the first token", unit="ms", queries=quantiles(m.FIRST_TOKEN)),
            Panel(title="From the first token to the last", unit="ms", queries=quantiles(m.DECODE)),
            Panel(
                title="Error of the predicted start",
                unit="ms",
                queries=((f"{m.PREDICTION_ERROR.name}{{{POOL}}}", "{{pool_id}} p{{quantile}}"),),
            ),
        ),
    ),
    (
        "Refused, canceled, placed",
        (
            Panel(title="Refused a minute, by code", queries=((per_minute(m.REJECTED, "reason"), "{{reason}}"),)),
            Panel(
                title="429 a minute, by policy",
                queries=((per_minute(m.BACKPRESSURE, "engine, policy"), "{{engine}} {{policy}}"),),
            ),
            Panel(
                title="Canceled a minute",
                queries=((per_minute(m.CANCELED, "pool_id, reason", POOL), "{{pool_id}} {{reason}}"),),
            ),
            Panel(
                title="Slots given a second",
                queries=(
                    (per_second(m.PLACEMENTS, "pinned, fallback", ""), "pinned {{pinned}}, fallback {{fallback}}"),
                ),
            ),
            Panel(
                title="Engine restarts an hour",
                kind="timeseries",
                queries=(
                    (f"sum by (pool_id, cause) (increase({m.RESTARTS.name}{{{POOL}}}[1h]))", "{{pool_id}} {{cause}}"),
                ),
            ),
            Panel(
                title="Models verified a day",
                queries=(
                    (f"sum by (result, reason) (increase({m.VERIFICATIONS.name}[1d]))", "{{result}}: {{reason}}"),
                ),
            ),
        ),
    ),
    (
        "GPUs",
        (
            Panel(
                title="Utilization",
                unit="percentunit",
                top=1,
                queries=((f"{m.GPU_UTILIZATION.name}{{{POOL}}}", "{{pool_id}} {{device}}"),),
            ),
            Panel(
                title="VRAM in use, by whomever",
                unit="bytes",
                queries=((f"{m.VRAM_USED.name}{{{POOL}}}", "{{pool_id}} {{device}}"),),
            ),
            Panel(
                title="KV cache",
                unit="percentunit",
                top=1,
                queries=((f"{m.KV_CACHE_USAGE.name}{{{POOL}}}", "{{pool_id}}"),),
                text="Of llama-server and vLLM, while their pool is ready; other engines do not tell.",
            ),
        ),
    ),
)


def documents() -> dict[Path, str]:
    """The dashboard as JSON."""
    return {PAGE: json.dumps(dashboard(), indent=1) + "\n"}


def dashboard() -> dict[str, Any]:
    """The whole of it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _at(0, y, WIDTH, 1)})
        x, y = 0, y + 1
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + HEIGHT
            panels.append(_panel(panel, _at(x, y, panel.width, HEIGHT if panel.kind != "stat" else 4)))
            x += panel.width
        y += HEIGHT if row[0].kind != "stat" else 4
    return {
        "__inputs": [
            {
                "name": "DS_PROMETHEUS",
                "label": "Prometheus",
                "description": "The Prometheus that scrapes llama-orch",
                "type": "datasource",
                "pluginId": "prometheus",
                "pluginName": "Prometheus",
            }
        ],
        "__requires": [
            {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "9.0.0"},
            {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
        ],
        "title": "llama-orch",
        "uid": "llama-orch",
        "description": "Made by `make generate` from contracts/metrics.py.",
        "tags": ["llama-orch"],
        "schemaVersion": 36,
        "editable": True,
        "timezone": "browser",
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_variable()]},
        "annotations": {"list": []},
        "panels": [panel | {"id": number} for number, panel in enumerate(panels, 1)],
    }


def _variable() -> dict[str, Any]:
    query = f"label_values({m.QUEUE_DEPTH.name}, pool_id)"
    return {
        "name": "pool",
        "label": "Pool",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": "pools"},
        "definition": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _at(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.top is not None:
        defaults["max"] = panel.top
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name", "colorMode": "value"}
    if panel.stacked:
        defaults["custom"] = {"fillOpacity": 20, "stacking": {"mode": "normal", "group": "A"}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for number, (expression, legend) in enumerate(panel.queries)
        ],
    }
