"""The committed documents say what the types say."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from contracts import errors, openapi
from contracts.config import Config
from tools.generate_contracts import documents, stale


@pytest.mark.req("HP-27")
def test_the_committed_documents_are_what_the_types_say() -> None:
    assert [path.name for path in stale(documents())] == []


def test_a_changed_document_is_noticed(tmp_path: Path) -> None:
    edited = tmp_path / "data.yaml"
    edited.write_text("openapi: 3.1.0\n")
    assert stale({edited: "openapi: 3.2.0\n", tmp_path / "missing.json": ""}) == [edited, tmp_path / "missing.json"]


def test_every_reference_in_the_api_resolves() -> None:
    document = openapi.document()
    names = set(document["components"]["schemas"])
    references = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert references <= names


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for path in openapi.document()["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def test_every_error_code_has_a_status() -> None:
    assert set(errors.STATUS) == set(errors.ErrorCode)


def test_the_schema_refuses_unknown_keys_at_every_level() -> None:
    schema = msgspec.json.schema(Config)
    loose = [name for name, part in schema["$defs"].items() if part.get("type") == "object" and "properties" in part]
    assert [name for name in loose if schema["$defs"][name].get("additionalProperties") is not False] == []
