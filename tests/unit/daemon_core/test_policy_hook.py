"""The operator's own program decides: exit status 0 allows, and nothing else does."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from daemon_core.policy_hook import objection


def hook(folder: Path, script: str) -> str:
    path = folder / "hook"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def asked(path: str, timeout_s: float = 50.0) -> str | None:
    environ = {"PATH": "/usr/bin:/bin", "HF_TOKEN": "sesame"}
    url = "https://me:sesame@a.example/x?sesame#sesame"
    return objection(path, "model", url, "a.example", environ, timeout_s=timeout_s)


@pytest.mark.req("HP-23")
def test_it_is_told_what_is_asked_and_no_secret(tmp_path: Path) -> None:
    assert asked(hook(tmp_path, f"cat > {tmp_path}/asked; env > {tmp_path}/environ")) is None
    assert json.loads((tmp_path / "asked").read_text()) == {
        "action": "model",
        "url": "https://a.example/x",
        "host": "a.example",
    }
    assert "sesame" not in (tmp_path / "environ").read_text()


@pytest.mark.req("HP-23")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 1", "exit status 1"),
        ("echo; echo ' not today '; echo more; exit 3", "exit status 3, 'not today'"),
        ("echo why >&2; exit 2", "exit status 2, 'why'"),
        ("kill -9 $$", "exit status -9"),
        ("printf '\\377'; exit 1", "exit status 1, '\ufffd'"),
    ],
)
def test_every_other_end_denies(tmp_path: Path, script: str, said: str) -> None:
    assert asked(hook(tmp_path, script)) == said


@pytest.mark.req("HP-23")
def test_what_it_says_is_not_kept_however_much_it_is(tmp_path: Path) -> None:
    script = "echo no; head -c 400000000 /dev/zero; exit 1"
    tracemalloc.start()
    try:
        assert asked(hook(tmp_path, script)) == "exit status 1, 'no'"
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 << 20
    endless = asked(hook(tmp_path, "exec yes"), timeout_s=0.2)
    assert endless == "it did not answer within 0.2 s"


def test_no_answer_and_no_program_deny(tmp_path: Path) -> None:
    assert asked(hook(tmp_path, "read line; read more < /dev/zero"), timeout_s=0.2) == "it did not answer within 0.2 s"
    assert asked(str(tmp_path / "nothing")) == "it cannot be started: No such file or directory"
    (tmp_path / "text").write_text("no program")
    assert asked(str(tmp_path / "text")) == "it cannot be started: Permission denied"
    assert asked(hook(tmp_path, "exec 0<&-; exit 0")) is None  # it need not read the question
