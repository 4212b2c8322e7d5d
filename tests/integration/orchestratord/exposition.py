"""What Prometheus reads from a page of metrics, held against the documented list."""

from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from contracts.catalog import VerifyReason, VerifyResult
from contracts.engines import ModelState
from contracts.errors import ErrorCode
from contracts.labels import PolicyLabel
from contracts.metrics import SERIES, Series, SeriesKind
from contracts.pools import Cause
from contracts.tasks import Priority

CLOSED: dict[str, set[str]] = {
    "priority": set(Priority),
    "state": set(ModelState),
    "cause": {*Cause, "unknown"},
    "pinned": {"true", "false"},
    "fallback": {"true", "false"},
    "outcome": {"placed"},
    "quantile": {"0.5", "0.9"},
    "result": set(VerifyResult),
    "policy": set(PolicyLabel),
    "engine": {"llamacpp", "vllm", "tgi", "triton", "openai", "unknown", "none"},
}
"""Labels whose values are the same on every machine."""
REASONS: dict[str, set[str]] = {
    "tasks_rejected_total": set(ErrorCode),
    "tasks_canceled_total": {"client", "disconnect"},
    "catalog_verifications_total": set(VerifyReason),
}
BELONGS = {
    SeriesKind.COUNTER: ("",),
    SeriesKind.GAUGE: ("",),
    SeriesKind.HISTOGRAM: ("_bucket", "_sum", "_count"),
}


def families(page: str) -> dict[str, tuple[str, list[Sample]]]:
    """The type and the samples of every family, by the name that the page gives it."""
    found = {}
    for family in text_string_to_metric_families(page):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, [each for each in family.samples if not each.name.endswith("_created")])
    return found


def wrong_with(page: str, bound: Iterable[str]) -> list[str]:
    """Everything in which a page differs from the list. ``bound``: what the other labels may be, from configuration."""
    here, known, names = families(page), {series.name: series for series in SERIES}, set(bound)
    wrong = [f"{name} is not in the list" for name in sorted(here.keys() - known.keys())]
    wrong += [f"{name} is missing" for name in sorted(known.keys() - here.keys())]
    for name in here.keys() & known.keys():
        kind, samples = here[name]
        if kind != known[name].kind:
            wrong.append(f"{name} is a {kind}")
        wrong += [text for sample in samples for text in _wrong_with_sample(known[name], sample, names)]
    return wrong


def _wrong_with_sample(series: Series, sample: Sample, names: set[str]) -> list[str]:
    wrong = []
    if sample.name.removeprefix(series.name) not in BELONGS[series.kind]:
        wrong.append(f"{sample.name} does not belong to {series.name}")
    labels = {key: value for key, value in sample.labels.items() if key != "le"}
    if set(labels) != set(series.labels):
        wrong.append(f"{sample.name} has the labels {sorted(labels)}")
    for key, value in labels.items():
        allowed = REASONS[series.name] if key == "reason" else CLOSED.get(key)
        if allowed is not None and value not in allowed:
            wrong.append(f"{sample.name}: {key} is {value!r}")
        if allowed is None and value not in names:
            wrong.append(f"{sample.name}: {key} is {value!r}, which no configuration has")
    return wrong
