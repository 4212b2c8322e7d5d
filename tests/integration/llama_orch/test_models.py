"""`llama-orch models` on a machine without a daemon: its real catalog, its real files, a user's own models."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from catalog_core.models import FsModelCatalog
from llama_orch.cli import main
from llama_orch.commands.models.options import complete
from tests.integration.llama_orch.conftest import Outcome
from tests.unit.model_provisioner.heads import write_model

Models = Callable[..., Outcome]

CONFIG = """\
profile: trial
server: {bind: "127.0.0.1:9"}
pools:
  - {id: trial, engine: llamacpp, model: served.gguf, provisioning: {mode: package, package: {name: xllamacpp}}}
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """`llama-orch models`, in this process and in a home of its own."""
    for name in os.environ:
        if name.startswith(("LLORCH_", "XDG_", "CREDENTIALS_", "COLUMNS")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        return Outcome(main(["models", *arguments]), *capsys.readouterr())

    return call


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a configuration, a model that its pool is to serve and one of the user's own."""
    folder = tmp_path / ".config/llama-orch"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    for name in ("served", "own"):
        write_model(folder / f"{name}.gguf")
    return tmp_path


@pytest.fixture
def models(home: Path, program: Models) -> Models:
    return program


@pytest.fixture
def stocked(home: Path, models: Models) -> Models:
    """Both models are in the catalog."""
    for name in ("served", "own"):
        done = models("pull", f"{name}.gguf")
        assert done.status == 0, done.stderr
    return models


def test_an_empty_catalog_says_what_fills_it(models: Models) -> None:
    nothing = Outcome(0, "no models; llama-orch models pull REF fetches one\n", "")
    assert models("list") == nothing
    assert models() == nothing
    assert json.loads(models("list", "--json").stdout)["models"] == []


@pytest.mark.req("MP-01")
def test_a_file_of_the_users_own_is_cataloged_where_it_is(home: Path, models: Models) -> None:
    done = models("pull", "own.gguf", "--json")
    assert done.status == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["local_path"] == str(home / ".config/llama-orch/own.gguf")
    assert (document["id"], document["fetched"], document["pools"]) == ("own", False, [])
    heading, row = models("list").stdout.splitlines()
    assert heading.split("\t")[:3] == ["MODEL", "STATE", "SIZE"]
    assert row.split("\t")[:2] == ["own", "Active"]


def test_the_list_says_which_pools_use_a_model_and_can_be_narrowed(stocked: Models) -> None:
    stocked("retire", "own", "--reason", "too old")
    _, own, served = stocked("list").stdout.splitlines()
    assert own.split("\t")[1] == "Retired"
    assert served.split("\t")[6] == "trial"
    assert stocked("list", "--state", "active").stdout.splitlines()[1:] == [served]
    assert json.loads(stocked("list", "--state", "Retired", "--json").stdout)["models"][0]["id"] == "own"


def test_a_model_is_shown_by_its_id_and_by_its_reference(home: Path, stocked: Models) -> None:
    by_id = stocked("show", "served")
    assert by_id.status == 0
    assert stocked("show", "served.gguf") == by_id
    assert stocked("show", str(home / ".config/llama-orch/served.gguf")) == by_id
    told = dict(line.split(maxsplit=1) for line in by_id.stdout.splitlines()[1:])
    assert told["pools"] == "trial"
    assert told["kept"] == "your own file: never removed"
    assert told["digest"].startswith("sha256:")
    assert told["history"].endswith(": served.gguf")
    document = json.loads(stocked("show", "served", "--json").stdout)
    assert document["digest"] == told["digest"]
    assert [file["size_bytes"] for file in document["files"]] == [document["size_bytes"]]
    assert document["history"][0]["ref"] == "served.gguf"


def test_an_unknown_name_is_told_with_the_nearest(stocked: Models) -> None:
    for arguments in (["show", "swerved"], ["retire", "swerved"], ["rm", "--yes", "swerved"]):
        done = stocked(*arguments)
        assert (done.status, done.stdout) == (1, ""), arguments
        assert done.stderr == (
            "llama-orch: NOT_FOUND: there is no model 'swerved' in the catalog\n  hint: did you mean 'served'?\n"
        )


@pytest.mark.req("CAT-03")
def test_a_model_is_retired_and_taken_back(stocked: Models) -> None:
    retired = stocked("retire", "own", "--reason", "too old")
    assert retired == (0, "own is Retired (too old): it stays on the disk, and no pool starts with it\n", "")
    shown = stocked("show", "own").stdout
    assert "Retired: too old" in shown
    assert shown.splitlines()[-1].endswith(": retired: too old")
    assert stocked("activate", "own", "own") == (0, "own is Active\n", "")


@pytest.mark.req("CAT-03")
def test_what_a_pool_is_to_serve_is_neither_retired_nor_removed(home: Path, stocked: Models) -> None:
    forced = "; --force retires it all the same, and the pool gets no new task"
    for arguments, what, more in ((["retire"], "retired", forced), (["rm", "--yes"], "removed", "")):
        done = stocked(*arguments, "served")
        assert (done.status, done.stdout) == (1, "")
        assert done.stderr == (
            f"llama-orch: CONFLICT: served is used by pool trial, and is not {what}\n"
            "  hint: llama-orch reload trial --model OTHER gives the pool another one; or change the configuration"
            f"{more}\n"
        )
    assert json.loads(stocked("show", "served", "--json").stdout)["state"] == "Active"
    assert stocked("retire", "served", "--force").status == 0
    assert json.loads(stocked("show", "served", "--json").stdout)["state"] == "Retired"


def test_every_model_is_tried_and_json_is_one_document(stocked: Models) -> None:
    done = stocked("retire", "served", "own", "nobody", "--json")
    assert (done.status, done.stderr) == (1, "")
    served, own, nobody = json.loads(done.stdout)["results"]
    assert (served["id"], served["error"]["code"]) == ("served", "CONFLICT")
    assert own == {"id": "own", "state": "Retired", "reason": None}
    assert nobody["error"]["code"] == "NOT_FOUND"


@pytest.mark.req("MP-06")
def test_a_file_of_the_users_own_is_forgotten_and_never_removed(home: Path, stocked: Models) -> None:
    path = home / ".config/llama-orch/own.gguf"
    before = path.read_bytes()
    done = stocked("rm", "own", "--yes")
    assert done == (0, f"own is not in the catalog any more; {path} is your own file, and stays\n", "")
    assert path.read_bytes() == before
    assert stocked("show", "own").status == 1


@pytest.fixture
def fetched(home: Path, models: Models) -> Path:
    """A model that was fetched, in the cache and in the catalog."""
    path = home / ".cache/llama-orch/models/hf/org/repo/commit/big.gguf"
    path.parent.mkdir(parents=True)
    write_model(path)
    assert (models("pull", str(path))).status == 0
    catalog = FsModelCatalog(home / ".local/share/llama-orch/catalog")
    catalog.alter("big", lambda entry: replace(entry, ref="hf:org/repo/big.gguf", fetched=True))
    return path


@pytest.mark.req("MP-06")
def test_what_was_fetched_leaves_the_disk_and_the_bytes_are_told(fetched: Path, models: Models) -> None:
    assert models("rm", "hf:org/repo/big.gguf", "--yes") == (0, "removed big; 60.7 KiB freed\n", "")
    assert not fetched.exists()
    assert models("list").stdout.startswith("no models")


def test_what_was_fetched_can_be_forgotten_and_kept(fetched: Path, models: Models) -> None:
    done = models("rm", "big", "--yes", "--keep-files")
    assert done == (0, f"big is not in the catalog any more; its files stay: {fetched}\n", "")
    assert fetched.exists()


@pytest.mark.req("CAT-03")
def test_a_verification_tells_right_from_wrong_and_sets_aside_what_was_fetched(
    home: Path, stocked: Models, fetched: Path
) -> None:
    good = stocked("verify", "--all")
    assert good.status == 0, good.stderr
    assert [line.split(", ")[0] for line in good.stdout.splitlines()] == ["big: ok", "own: ok", "served: ok"]
    for path in (fetched, home / ".config/llama-orch/own.gguf"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    bad = stocked("verify", "own", "big", "own", "nobody", "--json")
    assert (bad.status, bad.stderr) == (1, "")
    document = json.loads(bad.stdout)
    own, big, nobody = document["results"]
    assert document["ok"] is False
    assert [(found["result"], found["reason"]) for found in (own, big, nobody)] == [
        ("failed", "digest_mismatch"),
        ("failed", "digest_mismatch"),
        ("failed", None),
    ]
    assert "quarantine" in big["message"]
    assert (fetched.exists(), (home / ".config/llama-orch/own.gguf").exists()) == (False, True)
    assert json.loads(stocked("show", "own", "--json").stdout)["state"] == "Retired"


def test_nothing_is_removed_unasked(stocked: Models) -> None:
    done = stocked("rm", "own")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == "llama-orch: rm asks before it removes, and nobody can answer here\n  hint: say --yes\n"
    assert stocked("show", "own").status == 0


def test_a_file_that_is_gone_is_told_with_its_mend(home: Path, stocked: Models) -> None:
    path = home / ".config/llama-orch/own.gguf"
    path.unlink()
    done = stocked("list")
    assert done.status == 0
    assert done.stderr == f"own: {path} is gone\n  hint: put it back; or llama-orch models rm own\n"
    assert f"{path} (gone)" in stocked("show", "own").stdout


@pytest.mark.req("MP-01")
def test_a_pull_by_name_takes_back_what_was_retired(stocked: Models) -> None:
    assert stocked("retire", "own").status == 0
    assert stocked("pull", "own.gguf").status == 0
    assert json.loads(stocked("show", "own", "--json").stdout)["state"] == "Active"


@pytest.mark.req("MP-04", "MP-06")
def test_all_parts_of_a_split_model_are_shown_and_removed(home: Path, models: Models) -> None:
    folder = home / ".cache/llama-orch/models/hf/org/repo/commit"
    folder.mkdir(parents=True)
    write_model(folder / "big.gguf", split=1)
    parts = sorted(folder.iterdir())
    assert len(parts) == 3
    assert models("pull", str(parts[0])).status == 0
    document = json.loads(models("show", str(parts[0]), "--json").stdout)
    assert [Path(file["path"]) for file in document["files"]] == parts
    catalog = FsModelCatalog(home / ".local/share/llama-orch/catalog")
    catalog.alter(document["id"], lambda entry: replace(entry, fetched=True))
    done = models("rm", document["id"], "--yes")
    assert done.status == 0, done.stderr
    assert list(folder.parent.rglob("*.gguf")) == []


@pytest.mark.req("CAT-04")
def test_a_broken_catalog_is_mended_and_said(home: Path, stocked: Models) -> None:
    (home / ".local/share/llama-orch/catalog/models.json").write_text("{")
    done = stocked("list")
    assert done.status == 0
    assert "models.json could not be read" in done.stderr
    assert "2 entries rebuilt" in done.stderr
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["MODEL", "own", "served"]


def test_a_shell_completes_ids(stocked: Models) -> None:
    assert list(complete("")) == ["own", "served"]
    assert list(complete("se")) == ["served"]


def test_nothing_is_completed_where_nothing_is_known(program: Models) -> None:
    assert list(complete("")) == []


def test_wrong_usage_is_2(models: Models) -> None:
    for arguments in (["verify"], ["verify", "a", "--all"], ["rm"], ["pull"], ["list", "--state", "Gone"], ["lst"]):
        done = models(*arguments)
        assert done.status == 2, arguments
        assert "Traceback" not in done.stderr


@pytest.mark.req("HP-26")
def test_no_configuration_and_a_wrong_one_are_78(tmp_path: Path, program: Models) -> None:
    none = program("list")
    assert none.status == 78
    assert "llama-orch init writes one" in none.stderr
    (tmp_path / "wrong.yaml").write_text("pools: []\n")
    for command in (["list"], ["pull", "m.gguf"], ["rm", "--yes", "m"], ["verify", "--all"]):
        done = program(*command, "--config", "wrong.yaml")
        assert (done.status, done.stdout) == (78, ""), command
        assert "wrong.yaml:1: pools: " in done.stderr


def test_a_reference_that_means_nothing_is_a_failure_with_the_forms_there_are(models: Models) -> None:
    done = models("pull", "http://host/m.gguf")
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith("llama-orch: MODEL_INVALID: ")
    assert "  hint: " in done.stderr
    as_json = models("pull", "nothing.gguf", "--json")
    assert (as_json.status, as_json.stderr) == (1, "")
    assert json.loads(as_json.stdout)["error"]["code"] == "MODEL_MISSING"


def test_a_file_in_the_folder_where_one_stands_is_pointed_at(models: Models, tmp_path: Path) -> None:
    write_model(tmp_path / "my model.gguf")
    for ref in ("my model.gguf", "file:my model.gguf"):
        done = models("pull", ref)
        assert done.status == 1
        assert done.stderr == (
            f"llama-orch: MODEL_MISSING: there is no model file {tmp_path}/.config/llama-orch/my model.gguf\n"
            f"  hint: here is one: give its whole path, '{tmp_path}/my model.gguf'\n"
        )
    assert "in " in models("pull", "nothing.gguf").stderr  # nothing is here either: what lies where it was looked for
