"""``llama-orch receipts`` against a stand-in for the daemon, whose chain and route are real."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.artifacts import ArtifactKind, canonical
from contracts.errors import ErrorCode
from contracts.events import StreamError
from contracts.examples.receipts import RECEIPT
from contracts.receipts import SlotUse
from contracts.tasks import TaskState
from daemon_core.chain import read_line
from orchestratord.shelf import Head, Sealed, sealed
from tests.integration.llama_orch.conftest import Cli
from tests.unit.llama_orch.fake import FakeDaemon

pytestmark = [
    pytest.mark.req("HP-21", "OP-03"),
    pytest.mark.timeout(120),
]  # programs start one after the other

MANY = 1201
"""More than two pages."""


def leave(fake: FakeDaemon, task_id: str = "poem-1", **changes: Any) -> Sealed:  # noqa: ANN401 - any field of a receipt
    """A task leaves its receipt."""
    place = fake.ledger.next
    receipt = msgspec.structs.replace(
        RECEIPT, number=place.number, previous=place.previous, task_id=task_id, created_ms=0, ended_ms=0, **changes
    )
    made = sealed(canonical(receipt), Head(kind=ArtifactKind.TRACE, created_ms=0, tags=("task",)))
    fake.ledger.write(made)
    fake.left[task_id] = made.id
    return made


# --- list -------------------------------------------------------------------------------------------------------------


async def test_receipts_are_listed_newest_first(fake: FakeDaemon, cli: Cli) -> None:
    ids = [leave(fake, f"poem-{number}").id for number in range(MANY)]
    done = await cli("receipts", "list", "--limit", "700", TZ="UTC")
    heading, *rows = done.stdout.splitlines()
    assert heading.split("\t") == ["NUMBER", "TASK", "STATE", "ENDED", "POOL", "TOKENS", "END", "RECEIPT"]
    first = [str(MANY), f"poem-{MANY - 1}", "done", "1970-01-01 00:00:00", "trial", "3", "length", ids[-1]]
    assert (rows[0].split("\t"), len(rows)) == (first, 700)
    assert [row.split("\t")[-1] for row in rows] == ids[:-701:-1]
    document = json.loads((await cli("receipts", "list", "--limit", "2", "--json")).stdout)
    assert [each["id"] for each in document["receipts"]] == [ids[-1], ids[-2]]


async def test_one_that_never_ran_and_one_that_failed_are_listed_too(fake: FakeDaemon, cli: Cli) -> None:
    error = StreamError(code=ErrorCode.WORKER_RESET, message="the engine is gone", retriable=True)
    leave(fake, state=TaskState.FAILED, end=None, error=error, engine=None, slot=None, sent=None)
    [row] = (await cli("receipts", "list")).stdout.splitlines()[1:]
    assert row.split("\t")[4:7] == ["-", "-", "WORKER_RESET"]


@pytest.mark.parametrize("command", [("list",), ("verify",), ("export", "-o", "chain.jsonl")])
async def test_where_there_is_none_that_is_said(cli: Cli, command: tuple[str, ...]) -> None:
    done = await cli("receipts", *command)
    assert done.status == 0
    assert "there are no receipts yet: a task leaves one when it ends" in done.stdout


# --- show -------------------------------------------------------------------------------------------------------------


async def test_a_receipt_is_shown_to_a_person(fake: FakeDaemon, cli: Cli) -> None:
    first = leave(fake, "poem-0")
    made = leave(fake)
    done = await cli("receipts", "show", "poem-1", TZ="UTC")
    assert done.status == 0
    assert (
        done.stdout
        == f"""\
receipt 2, {made.id}
  task        poem-1, job-e0699c5b4540627b52b22e59
  asked       1970-01-01 00:00:00 by token:553d00, 8c678526-816c-4bf2-9729-1912a9ecc5c0
  ended       1970-01-01 00:00:00, done
  request     completion of haiku, interactive, best_effort, seed 7
  max_tokens  3
  prompt      Write a haiku about snow.
  sent        {canonical(RECEIPT.sent).decode()}
  served by   pool trial, replica trial-0
  engine      llamacpp xllamacpp-2026.10.11549
  its digest  sha256:78dcbbfcc861ee3377554325dc12864829a76ec3de6f1882886d4a82a2def7f5
  model       /srv/models/haiku.gguf
  its digest  sha256:a20aab39b2c815fee19fc844c0e2c8ada55bec90da5c2f37b15f4f86d44d84f0
  sampler     v1
  GPUs        none
  driver      none
  started as  CUDA_VISIBLE_DEVICES= /usr/bin/python3 -P /opt/llama-orch/engine_provisioner/wheel_server.py --model \
/srv/models/haiku.gguf --host 127.0.0.1 --port '{{port}}' --ctx-size 512
  slot        number 0, of 1; 1 tokens of the prompt were there already
  queue       place 0, start foretold in 0 ms, waited 0 ms, first token after 3 ms
  end         length, 7 tokens in, 3 out in 2 ms, 3 pieces
  answer      My mind is
  stream      sha256 1621e540325b950b150ec0b7cd49d914b965c8055962d2f94efc7514e3aad82a
  before it   {first.id}
"""
    )


async def test_what_one_should_know_of_a_receipt_is_said(fake: FakeDaemon, cli: Cli) -> None:
    error = StreamError(code=ErrorCode.WORKER_RESET, message="it ended", retriable=True)
    cold = SlotUse(slot=None, cache_prompt=False, cached_tokens=None)
    leave(
        fake, interrupted=True, redacted=True, cut=True, error=error, end=None, slot=cold, attempts=2, transcript="a\nb"
    )
    shown = (await cli("receipts", "show", "1")).stdout
    for words in (
        "  error       WORKER_RESET: it ended\n",
        "  slot        the engine's choice, of 1; without what was computed before\n",
        "  attempts    2\n",
        "  answer      a\n              b\n",
        "  before it   none: it is the first that ever was\n",
        "  note: orchestratord ended while it ran",
        "  note: a secret was taken out",
        "  note: texts were too long",
    ):
        assert words in shown


async def test_a_receipt_is_found_by_task_id_number_and_after_its_task_was_forgotten(
    fake: FakeDaemon, cli: Cli
) -> None:
    made = [leave(fake, f"poem-{number}") for number in range(3)]
    del fake.left["poem-1"]
    digits = made[1].name
    for name in ("poem-1", "2", digits, f"sha256:{digits}"):
        document = json.loads((await cli("receipts", "show", name, "--json")).stdout)
        assert document["id"] == made[1].id
        assert document["content"]["number"] == 2


async def test_a_task_without_a_receipt_says_why(fake: FakeDaemon, cli: Cli) -> None:
    fake.left = {"poem-1": None}
    fake.ended = TaskState.RUNNING
    done = await cli("receipts", "show", "poem-1")
    assert (done.status, done.stderr) == (
        1,
        "llama-orch: NOT_FOUND: task 'poem-1' is running: its receipt comes with its end\n",
    )
    fake.ended = TaskState.DONE
    assert "NOT_FOUND: task 'poem-1' left no receipt\n" in (await cli("receipts", "show", "poem-1")).stderr
    assert "NOT_FOUND: there is no task 'poem-9'\n" in (await cli("receipts", "show", "poem-9")).stderr


@pytest.mark.req("OP-02")
async def test_a_number_behind_the_end_of_the_chain_says_where_that_is(fake: FakeDaemon, cli: Cli) -> None:
    fake.left = {"poem-1": None}
    none = "llama-orch: NOT_FOUND: there is no receipt 9\n  hint: there are no receipts yet: "
    assert (await cli("receipts", "show", "9")).stderr.startswith(none)
    for number in range(3):
        leave(fake, f"poem-{number}")
    told = "llama-orch: NOT_FOUND: there is no receipt 9\n  hint: the chain has 1 to 3\n"
    for command in (("receipts", "show"), ("replay",), ("proof",)):
        assert (await cli(*command, "9")).stderr == told


# --- export and verify ------------------------------------------------------------------------------------------------


async def test_what_was_exported_is_the_chain_line_by_line_and_verifies_without_a_daemon(
    fake: FakeDaemon, cli: Cli, tmp_path: Path
) -> None:
    made = [leave(fake, f"poem-{number}") for number in range(MANY)]
    done = await cli("receipts", "export", "-o", "chain.jsonl")
    assert done.stdout == f"{MANY} receipts in chain.jsonl\n"
    file = tmp_path / "chain.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = file.read_bytes().splitlines()
    copies = [read_line(line) for line in lines]
    assert [None if copy is None else (copy.id, bytes(copy.receipt)) for copy in copies] == [
        (each.id, each.content) for each in made
    ]
    away = {"LLORCH_URL": "http://127.0.0.1:1"}
    done = await cli("receipts", "verify", "--file", "chain.jsonl", **away)
    expected = (
        f"{MANY} receipts hold: numbers 1 to {MANY}\n"
        f"the newest is {made[-1].id}: keep it elsewhere, and ask for it with --expect\n"
    )
    assert (done.status, done.stdout) == (0, expected)
    piped = await cli("receipts", "export", "--after", str(MANY - 2))
    assert piped.stdout.encode() == b"".join(line + b"\n" for line in lines[-2:])
    done = await cli("receipts", "verify", "--file", "-", stdin=piped.stdout, **away)
    assert f"2 receipts hold: numbers {MANY - 1} to {MANY}\nthose before were let go, or left out\n" in done.stdout


async def test_a_chain_is_verified_where_it_is(fake: FakeDaemon, cli: Cli) -> None:
    made = [leave(fake, f"poem-{number}") for number in range(MANY)]
    fake.ledger.forget(7)
    done = await cli("receipts", "verify")
    assert (done.status, done.stdout.splitlines()[0]) == (0, f"{MANY - 7} receipts hold: numbers 8 to {MANY}")
    verdict = json.loads((await cli("receipts", "verify", "--json")).stdout)
    assert verdict == {"holds": MANY - 7, "first": 8, "last": MANY, "last_id": made[-1].id, "breaks": []}


async def test_a_break_is_named_and_is_exit_status_1(fake: FakeDaemon, cli: Cli, tmp_path: Path) -> None:
    for number in range(5):
        leave(fake, f"poem-{number}")
    await cli("receipts", "export", "-o", "chain.jsonl")
    lines = (tmp_path / "chain.jsonl").read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"My mind is", b"My mind was")
    del lines[3]
    (tmp_path / "chain.jsonl").write_bytes(b"".join(lines))
    done = await cli("receipts", "verify", "--file", "chain.jsonl")
    changed, missing, total = done.stdout.splitlines()
    assert done.status == 1
    assert changed.startswith("number 2: its bytes have the id sha256:")
    assert missing == "number 4: it is missing: number 5 stands there"
    assert total == "the chain is broken in 2 places; 2 receipts of numbers 1 to 5 hold"
    verdict = json.loads((await cli("receipts", "verify", "--file", "chain.jsonl", "--json")).stdout)
    assert [(each["number"], each["fault"]) for each in verdict["breaks"]] == [(2, "content"), (4, "missing")]


async def test_a_daemon_that_changed_a_receipt_is_found_out(fake: FakeDaemon, cli: Cli) -> None:
    made = [leave(fake, f"poem-{number}") for number in range(3)]
    forged = msgspec.structs.replace(made[1], content=made[1].content.replace(b"My mind is", b"My mind was"))
    fake.ledger.tamper(1, forged)
    done = await cli("receipts", "verify")
    assert (done.status, done.stdout.count("number 2: its bytes have the id")) == (1, 1)
    done = await cli("receipts", "show", "2")
    assert (done.status, done.stderr) == (
        1,
        "llama-orch: what stands in it does not have this id: it was changed\n",
    )


async def test_a_receipt_that_stands_elsewhere_than_it_says_ends_the_reading(
    fake: FakeDaemon, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = [leave(fake, f"poem-{number}") for number in range(3)][-1]
    kept, asked = fake.ledger.read, []

    def read(after: int, limit: int) -> list[Sealed]:
        asked.append(after)
        assert len(asked) < 9, "it is read without end"
        return kept(after, limit) or [last]  # its row has the largest number that there is

    monkeypatch.setattr(fake.ledger, "read", read)
    done = await cli("receipts", "verify")
    assert (done.status, done.stdout.splitlines()[0]) == (1, "number 3: it stands where number 4 should")
    assert (await cli("receipts", "export")).stdout.count("poem-2") == 2, "as it stands there"


async def test_one_that_cannot_be_read_hides_no_other_one_of_the_list(fake: FakeDaemon, cli: Cli) -> None:
    made = [leave(fake, f"poem-{number}") for number in range(3)]
    fake.ledger.tamper(1, msgspec.structs.replace(made[1], content=b'{"number":2}'))
    done = await cli("receipts", "list")
    assert done.status == 0
    rows = [row.split("\t") for row in done.stdout.splitlines()[1:]]
    assert [row[1] for row in rows] == ["poem-2", "(no receipt)", "poem-0"]
    assert (rows[1][0], rows[1][-1]) == ("2", made[1].id)
    done = await cli("receipts", "verify")
    assert (done.status, done.stdout.splitlines()[0]) == (1, "number 2: what stands there is no receipt")


async def test_many_breaks_are_counted(fake: FakeDaemon, cli: Cli, tmp_path: Path) -> None:
    leave(fake)
    (tmp_path / "chain.jsonl").write_text("not a receipt\n" * 30)
    done = await cli("receipts", "verify", "--file", "chain.jsonl")
    assert (done.status, len(done.stdout.splitlines())) == (1, 22)
    assert "and 10 more\n" in done.stdout


async def test_an_id_that_was_kept_elsewhere_anchors_the_chain(fake: FakeDaemon, cli: Cli) -> None:
    kept = leave(fake, "poem-1")
    leave(fake, "poem-2")
    assert (await cli("receipts", "verify", "--expect", kept.id)).status == 0
    assert (await cli("receipts", "verify", "--expect", kept.name)).status == 0
    fake.ledger.forget(2)
    anew = await cli("receipts", "verify", "--expect", kept.id)
    assert anew.status == 1
    assert f"the receipt {kept.id} is not in this chain" in anew.stdout
    leave(fake, "poem-3")
    anew = await cli("receipts", "verify", "--expect", kept.id)
    assert anew.stdout.endswith("1 receipt holds: number 3; it is not the chain that was expected\n")
    wrong = await cli("receipts", "verify", "--expect", "sha256:short")
    assert (wrong.status, wrong.stdout) == (2, "")
    assert "'sha256:short' is no id of a receipt" in wrong.stderr


async def test_a_file_that_is_not_there_or_cannot_be_written_is_told(
    fake: FakeDaemon, cli: Cli, tmp_path: Path
) -> None:
    leave(fake)
    done = await cli("receipts", "verify", "--file", "nowhere.jsonl")
    assert (done.status, done.stderr) == (1, "llama-orch: nowhere.jsonl: No such file or directory\n")
    done = await cli("receipts", "export", "-o", "nowhere/chain.jsonl")
    assert done.status == 1
    assert "No such file or directory" in done.stderr
    (tmp_path / "empty.jsonl").touch()
    assert (await cli("receipts", "verify", "--file", "empty.jsonl")).stdout == "there are no receipts\n"


async def test_an_export_that_broke_leaves_what_was_there(fake: FakeDaemon, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "chain.jsonl").write_text("the former one\n")
    done = await cli("receipts", "export", "-o", "chain.jsonl", LLORCH_URL="http://127.0.0.1:1")
    assert done.status == 75
    assert (tmp_path / "chain.jsonl").read_text() == "the former one\n"
    assert [each.name for each in tmp_path.iterdir()] == ["chain.jsonl"]
