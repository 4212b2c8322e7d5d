import json
from importlib import import_module
from pkgutil import iter_modules

import jsonschema
import msgspec
import pytest

from llama_orch.doctor import judge
from llama_orch.doctor.base import Kind, Result, Status, ok, skipped
from llama_orch.doctor.checks import CHECKS
from llama_orch.doctor.report import exit_status, journal_line, lines, report_of, summary
from tools.doctor_documents import PAGE, SCHEMA, page, schema

GONE = Kind(id="driver.gone", what="it is gone", why="nothing works", mend="bring it back")
ODD = Kind(id="clock.odd", what="it is odd", why="things drift", mend="look at it", note=True)
WRONG = Kind(id="config.wrong", what="it is wrong", why="it is read", mend="change it")


@pytest.mark.parametrize(
    ("results", "status"),
    [
        ([ok("driver", "fine"), ODD.found("odd"), skipped("token")], 0),
        ([GONE.found("gone")], 1),
        ([GONE.found("gone"), WRONG.found("wrong")], 78),
    ],
)
def test_the_exit_status(results: list[Result], status: int) -> None:
    assert exit_status(results) == status


def test_a_result_for_people_and_for_the_journal() -> None:
    gone = GONE.found("card 1 is gone", "reseat it")
    assert lines(gone) == [
        "FAILED   driver: card 1 is gone",
        "           why:  nothing works",
        "           mend: reseat it",
    ]
    assert lines(ODD.found("odd"))[-1] == "           next: look at it"
    assert journal_line(gone) == "<3>failed driver: card 1 is gone; why: nothing works; mend: reseat it"
    assert journal_line(ODD.found("a\nb")) == "<5>note clock: a b; why: things drift; mend: look at it"
    assert journal_line(ok("driver", "fine")) == "<6>ok driver: fine"
    assert journal_line(skipped("driver", "x")) == "<7>skipped driver: x"
    assert summary([ok("a", "b"), ODD.found("odd")]) == "nothing is wrong here, 1 to know"
    assert summary([gone, gone]) == "2 things are wrong here (driver)"


def test_the_document_keeps_to_its_schema_and_a_field_more_would_be_noticed() -> None:
    found = report_of([GONE.found("gone"), ok("clock", "fine"), skipped("token")], "1.0")
    document = json.loads(msgspec.json.encode(found))
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert document["ok"] is False
    assert document["checks"][0]["id"] == "driver.gone"
    assert document["checks"][1] == {
        "check": "clock",
        "id": "clock.ok",
        "status": "ok",
        "what": "fine",
        "why": None,
        "mend": None,
    }
    assert SCHEMA.read_text() == schema(), "make generate"


def test_the_page_has_every_kind_with_its_reason_and_its_mend() -> None:
    text = PAGE.read_text()
    assert text == page(text), "make generate"
    for kind in (kind for check in CHECKS for kind in check.kinds):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{kind.id}`"))
        assert all(part.replace("|", "\\|") in row for part in (kind.what, kind.why, kind.mend))


def test_every_kind_belongs_to_a_check_and_every_check_has_kinds() -> None:
    names = [check.name for check in CHECKS]
    found = [kind for check in CHECKS for kind in check.kinds]
    assert len({kind.id for kind in found}) == len(found)
    assert all(check.kinds for check in CHECKS)
    assert len(names) == len(set(names))
    judges = [import_module(f"{judge.__name__}.{module.name}") for module in iter_modules(judge.__path__)]
    assert {check.judge for check in CHECKS} == set(judges)
    assert {kind for module in judges for kind in vars(module).values() if isinstance(kind, Kind)} == set(found)
    assert Status.FAILED in {kind.status for kind in found}
