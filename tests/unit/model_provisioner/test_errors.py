"""What stands in an error can be sent and written, whatever files are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contracts.engines import Finding
from contracts.pools import Cause
from daemon_core.redaction import Redactor
from engine_provisioner.errors import ProvisionError
from engine_provisioner.report import Result, document, failed
from model_provisioner import local


@pytest.mark.req("MP-01")
def test_a_name_that_is_no_text_is_an_escape_in_what_is_said_of_a_missing_model(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.gguf").touch()
    error = local.unusable(tmp_path / "cafe.gguf", FileNotFoundError())
    assert error.hint == f"in {tmp_path} there is: caf\\udce9.gguf"
    assert str(local.unusable(tmp_path / "caf\udce9", NotADirectoryError())).endswith("/caf\\udce9")


@pytest.mark.req("EP-20")
def test_such_a_name_breaks_no_document_about_a_pool() -> None:
    finding = Finding(
        check="disk", message="/caf\udce9 cannot be read", why="it is needed", hint="chmod a+r /caf\udce9"
    )
    [told] = json.loads(document([Result(pool_id="gpu0", findings=(finding,))], Redactor()))
    assert told["findings"][0]["message"] == "/caf\\udce9 cannot be read"
    error = ProvisionError(Cause.ENGINE_FETCH, "/caf\udce9 is in the way", "rm /caf\udce9")
    [told] = json.loads(document([failed("gpu0", error)], Redactor()))
    assert told["error"]["hint"] == "rm /caf\\udce9"
