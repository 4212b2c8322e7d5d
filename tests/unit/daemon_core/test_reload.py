"""Reloads of a real file by the real task, with a notification socket that is read."""

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from contracts.config import Config
from daemon_core import config_file
from daemon_core.entry import DaemonContext
from daemon_core.errors import EXIT_CONFIG, StartupError
from daemon_core.notify import Notifier
from daemon_core.paths import Paths
from daemon_core.redaction import Redactor
from daemon_core.reload import Reloadable, follow_reloads
from tests.unit.daemon_core.test_notify import heard

pytestmark = [pytest.mark.req("OP-01"), pytest.mark.req("HP-26")]

POOL = {"id": "a", "engine": "llamacpp", "model": "x", "devices": [0]}


class House:
    """A daemon that does nothing but reload."""

    def __init__(self, context: DaemonContext, listener: socket.socket) -> None:
        self.context = context
        self.applied: list[Config] = []
        self.renewed = 0
        self.no_room_for = ""
        self._listener = listener

    def refuse(self, config: Config) -> None:
        if config.pools[0].model == self.no_room_for:
            raise StartupError(f"no room for {self.no_room_for}", "buy some", EXIT_CONFIG)

    def renew(self) -> None:
        self.renewed += 1

    async def reload(self, **document: object) -> list[str]:
        """Change the file and send SIGHUP; what systemd hears."""
        self.context.config_path.write_text(json.dumps({"pools": [POOL], **document}))
        self.context.reload.set()
        said: list[str] = []
        while not any(line.startswith("READY=1") for line in said):
            await asyncio.sleep(0)
            said += heard(self._listener)
        return said


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    path = str(tmp_path / "notify")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(path)
    listener.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    return listener


@asynccontextmanager
async def reloading(tmp_path: Path, systemd: socket.socket) -> AsyncIterator[House]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"pools": [POOL]}))
    config = config_file.load(path)
    context = DaemonContext(
        config=config,
        config_path=path,
        paths=Paths.resolve(config.paths, {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}),
        redactor=Redactor(("hidden-value-1",)),
        notifier=Notifier(os.environ),
        environ={},
        stopping=asyncio.Event(),
        returning=asyncio.Event(),
        reload=asyncio.Event(),
    )
    house = House(context, systemd)
    at_once = {"limits", "server.drain_ms", "pools.queue"}
    what = Reloadable(
        at_once=at_once,
        elsewhere={"models"},
        refuse=house.refuse,
        apply=house.applied.append,
        beside=(house.renew,),
    )
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    with systemd:
        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow_reloads(context, "testd", what))
            try:
                yield house
            finally:
                following.cancel()
                logging.getLogger().handlers[:] = handlers
                logging.getLogger().setLevel(level)
                context.notifier.close()


async def test_what_can_be_is_applied_and_the_rest_is_named_with_its_daemon(
    tmp_path: Path, systemd: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloading(tmp_path, systemd) as house:
        said = await house.reload(
            server={"drain_ms": 5, "bind": "127.0.0.1:1"},
            limits={"requests_per_minute": 3},
            models={"max_bytes": 10},
            pools=[POOL | {"queue": {"capacity": 2}, "ctx": 64}],
        )
        assert [line.partition("\n")[0] for line in said] == [
            "RELOADING=1",
            "STATUS=running; a restart is needed for server.bind; pool a: ctx",
            "READY=1",
        ]
        (config,) = house.applied
        assert (config.server.drain_ms, config.server.bind) == (5, "127.0.0.1:8080")
        assert config.limits.requests_per_minute == 3
        assert (config.pools[0].queue.capacity, config.pools[0].ctx) == (2, house.context.config.pools[0].ctx)
        assert config.models.max_bytes is None
        assert "these changes wait for a restart of testd: server.bind; pool a: ctx" in caplog.text
        said = await house.reload(server={"drain_ms": 5}, limits={"requests_per_minute": 3}, pools=[POOL])
        assert not any("a restart is needed" in line for line in said)
        assert "nothing waits for a restart" in caplog.text
        assert house.renewed == 2


async def test_a_broken_file_changes_nothing_and_shows_until_a_good_one_comes(
    tmp_path: Path, systemd: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloading(tmp_path, systemd) as house:
        house.context.notifier.status("1/1 pools ready")
        said = await house.reload(profile="hidden-value-1")
        trouble = next(line for line in said if line.startswith("STATUS=1/1 pools ready; the configuration was not"))
        assert f"{house.context.config_path}:1: profile: " in trouble
        assert "hidden-value-1" not in trouble
        assert "the configuration stays as it was" in caplog.text
        assert house.applied == []
        house.context.notifier.status("0/1 pools ready")
        assert "; the configuration was not reloaded: " in heard(systemd)[0]
        assert "STATUS=0/1 pools ready" in await house.reload()


async def test_a_file_that_a_start_would_refuse_is_refused_in_its_words(
    tmp_path: Path, systemd: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloading(tmp_path, systemd) as house:
        house.no_room_for = "x"
        assert "STATUS=running; the configuration was not reloaded: no room for x" in await house.reload()
        assert "the configuration stays as it was: no room for x\n  hint: buy some" in caplog.text
        assert house.applied == []
        house.no_room_for = ""
        said = await house.reload()
        assert not any("was not reloaded" in line for line in said)
        assert len(house.applied) == 1
