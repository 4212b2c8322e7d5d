"""docs/backup.md brings all of it to a new machine: its blocks are played on one that runs, and on an empty one."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from llama_orch.trial import haiku_model_path
from tests.contract.blocks import Command, commands
from tests.contract.test_documents import differs, run
from tests.support.installation import TOKEN, Daemon, Installation

pytestmark = [pytest.mark.req("OP-01"), pytest.mark.slow, pytest.mark.timeout(90), pytest.mark.needs("sqlite3", "tar")]
PAGE = [command for command in commands() if command.block.mark == "backup"]
BLOCKS = sorted({command.block.number for command in PAGE})
KEEP, PUT_BACK, AFTER = ([each for each in PAGE if each.block.number == number] for number in BLOCKS)


class Machine(Installation):
    """An installation whose configuration and token are where a user has them."""

    def __init__(self, root: Path, model: Path) -> None:
        super().__init__(root, model)
        written, self.config = self.config, root / ".config/llama-orch/config.yaml"
        self.config.parent.mkdir(parents=True)
        written.rename(self.config)
        token = self.config.with_name("api-token")
        token.write_text(TOKEN)
        token.chmod(0o600)
        del self.environ["LLORCH_API_TOKEN"]
        self.manager = Daemon("pool_managerd", self.config, self.environ)
        self.orchestrator = Daemon("orchestratord", self.config, self.environ)

    def forget(self) -> None:
        """As it is on a new machine, but that the ports of tests differ."""
        shutil.rmtree(self.root / ".config")


async def play(machine: Machine, block: list[Command]) -> str:
    """Type a block; what it prints."""
    printed, before = "", ""
    for command in block:
        said = await run(before + command.text, machine)
        assert differs(command, said, {}) == [], said
        printed += said
        if command.text.startswith("BACKUP="):
            before = command.text + "\n"
    return printed


async def test_tasks_receipts_artifacts_catalog_and_token_come_to_a_new_machine(tmp_path: Path) -> None:
    model = tmp_path / "haiku.gguf"
    shutil.copy(haiku_model_path(), model)
    async with Machine(tmp_path / "old", model) as old:
        await old.up()
        await old.run({"task_id": "kept", "prompt": "Write a haiku about snow.", "seed": 3})
        async with old.http.post("/v1/artifacts", json={"kind": "plan", "content": {"kept": True}}) as answer:
            artifact = (await answer.json())["id"]
        kept = await old.get("/v1/tasks/kept")
        models = await old.get("/v1/catalog/models")
        assert await play(old, KEEP) == "ok\n"
        await old.run({"task_id": "later", "prompt": "Write a haiku about rain."})
    backup = old.root / "llama-orch-backup"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700

    async with Machine(tmp_path / "new", model) as new:
        bind = json.loads(new.config.read_text())["server"]
        new.forget()
        backup.rename(new.root / backup.name)
        await play(new, PUT_BACK)
        new.config.write_text(json.dumps(json.loads(new.config.read_text()) | {"server": bind}))
        await new.up()
        assert await new.get("/v1/tasks/kept") == kept
        assert [task["task_id"] for task in (await new.get("/v1/tasks"))["tasks"]] == ["kept"]
        assert (await new.get(f"/v1/artifacts/{artifact}"))["content"] == {"kept": True}
        assert await new.get("/v1/catalog/models") == models
        await new.run({"task_id": "kept", "prompt": "Write a haiku about snow.", "seed": 3})
        await new.run({"task_id": "next", "prompt": "Write a haiku about the sea."})
        printed = await play(new, AFTER)
        assert "ready" in printed
        numbers = [each["content"]["number"] for each in (await new.get("/v1/receipts"))["receipts"]]
        assert numbers == [1, 2]
