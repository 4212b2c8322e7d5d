"""Every line of docs/rpc.md, said to the running pool-managerd."""

from __future__ import annotations

import json
import shutil
from asyncio import open_unix_connection
from pathlib import Path

import pytest

from contracts.examples.rpc import EXAMPLES
from contracts.rpc import MAX_FRAME_BYTES, Method, RpcCode
from llama_orch.trial import haiku_model_path
from pool_managerd.rpc_methods import ANSWERED
from tests.contract.documented import OF_A_JOB, VOLATILE, unlike
from tests.integration.pool_managerd.support import Peer
from tests.support.installation import Installation

CHANGING = {"revision", "url", "api_key", "state", "jobs", "version", *VOLATILE, *OF_A_JOB}
"""Beside what always differs: the state of a pool or a job, which may be further on when it is looked at."""


@pytest.mark.req("HP-27", "PM-05")
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_the_manager_answers_as_documented(tmp_path: Path) -> None:
    for name in ("haiku", "epic"):
        shutil.copy(haiku_model_path(), tmp_path / f"{name}.gguf")
    wrong = []
    async with Installation(tmp_path / "home", tmp_path / "haiku.gguf") as installation:
        await installation.manager.start()
        await installation.manager.logged("probing -> ready")
        socket = installation.root / "run/llama-orch/pool-managerd.sock"

        async def connect() -> Peer:
            return Peer(*await open_unix_connection(socket, limit=MAX_FRAME_BYTES))

        usual = await connect()
        for example in EXAMPLES:
            peer = await connect() if example.new_connection else usual
            await peer.send(example.sent.replace("/srv/models", str(tmp_path)).encode() + b"\n")
            while "method" in (got := await peer.read()):
                pass  # a notification
            told = json.loads(json.dumps(got).replace(str(tmp_path), "/srv/models"))
            wrong += [f"{example.summary}: {found}" for found in unlike(example.answer, told, CHANGING)]
            if example.new_connection:
                peer.writer.close()
        usual.writer.close()
    assert not wrong, "\n".join(wrong)


def test_every_method_and_every_error_of_the_protocol_has_an_example() -> None:
    sent = "\n".join(example.sent for example in EXAMPLES)
    assert [method for method in ANSWERED if f'"method":"{method}"' not in sent] == []
    assert set(ANSWERED) <= set(Method)
    codes = {example.answer["error"]["code"] for example in EXAMPLES if "error" in example.answer}
    ours = {value for name, value in vars(RpcCode).items() if name.isupper()}
    assert ours - codes == {RpcCode.METHOD_NOT_FOUND, RpcCode.INTERNAL, RpcCode.FRAME_TOO_LARGE}, "see test_rpc_server"
