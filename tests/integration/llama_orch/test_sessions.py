"""``llama-orch sessions`` and ``run --session`` against a stand-in for the daemon."""

from __future__ import annotations

import json

from contracts.sessions import SessionBudgets, SessionInfo
from tests.integration.llama_orch.conftest import Cli
from tests.unit.llama_orch.fake import FakeDaemon

WARM = SessionInfo(
    session_id="moon",
    model_ref="haiku",
    ttl_ms_remaining=598_400,
    turns=3,
    turns_max=8,
    kv_tokens=512,
    kv_bytes=3 << 20,
    kv_warmth=True,
    replica_id="trial-0",
    budgets=SessionBudgets(tokens_remaining=420, time_remaining_ms=1500),
)
COLD = SessionInfo(
    session_id="sun",
    model_ref="haiku",
    ttl_ms_remaining=600_000,
    turns=1,
    turns_max=8,
    kv_tokens=0,
    kv_bytes=0,
    kv_warmth=False,
    replica_id=None,
)


async def test_a_task_is_a_turn_of_the_session_that_is_named(fake: FakeDaemon, cli: Cli) -> None:
    assert (await cli("run", "x", "--session", "moon")).status == 0
    assert [request.session_id for request in fake.requests] == ["moon"]


async def test_a_session_is_shown(fake: FakeDaemon, cli: Cli) -> None:
    fake.conversations = {"moon": WARM, "sun": COLD}
    done = await cli("sessions", "show", "moon")
    assert (
        done.stdout
        == """\
moon
  model        haiku
  turns        3 of 8
  ends in      598 s
  KV cache     512 tokens, 3.0 MiB, on trial-0
  last turn    warm
  tokens left  420
  time left    1.5 s
"""
    )
    assert "  KV cache   none\n  last turn  cold\n" in (await cli("sessions", "show", "sun")).stdout
    document = json.loads((await cli("sessions", "show", "moon", "--json")).stdout)
    assert (document["kv_tokens"], document["budgets"]["tokens_remaining"]) == (512, 420)


async def test_sessions_are_ended(fake: FakeDaemon, cli: Cli) -> None:
    fake.conversations = {"moon": WARM, "sun": COLD}
    done = await cli("sessions", "rm", "moon", "sun")
    assert (done.status, done.stdout) == (0, "ended moon\nended sun\n")
    assert not fake.conversations
    done = await cli("sessions", "rm", "moon")
    assert (done.status, done.stderr) == (
        1,
        "llama-orch: NOT_FOUND: there is no session 'moon'\n  hint: it has ended\n",
    )
