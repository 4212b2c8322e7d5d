"""Whose models are meant, and what is said of a daemon that does not tell what its pools use."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.engines import ModelState
from llama_orch.errors import ApiError
from llama_orch.models.find import find_shelf
from llama_orch.models.here import HereShelf
from llama_orch.models.remote import RemoteShelf
from llama_orch.models.values import Wish
from llama_orch.progress import Unseen
from llama_orch.trial import trial_config
from tests.unit.llama_orch.fake import TOKEN, FakeDaemon, serving
from tests.unit.model_provisioner.heads import write_model


@pytest.fixture
async def daemon() -> AsyncIterator[str]:
    async with serving(FakeDaemon()) as address:
        yield address


@pytest.fixture
def config(tmp_path: Path, daemon: str) -> Path:
    """The configuration of the daemon."""
    path = tmp_path / "config.yaml"
    path.write_text(trial_config(tmp_path / "haiku.gguf", daemon.removeprefix("http://")))
    write_model(tmp_path / "haiku.gguf")
    return path


def environ(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.environ["PATH"], **more}


@pytest.mark.parametrize(
    ("by_option", "by_variable", "here"),
    [
        (None, None, True),
        ("{own}", None, True),
        ("{own}/", None, True),
        (None, "{own}", True),
        ("http://other:8080", None, False),
        (None, "http://other:8080", False),
        ("{own}", "http://other:8080", True),
    ],
)
async def test_another_url_than_the_configurations_means_another_machine(
    *, config: Path, daemon: str, tmp_path: Path, by_option: str | None, by_variable: str | None, here: bool
) -> None:
    variable = {} if by_variable is None else {"LLORCH_URL": by_variable.format(own=daemon)}
    url = None if by_option is None else by_option.format(own=daemon)
    shelf = find_shelf(config, url, environ(tmp_path, **variable))
    assert isinstance(shelf, HereShelf if here else RemoteShelf)
    assert (shelf.place is None) == here


async def test_another_machine_needs_no_configuration_here(tmp_path: Path) -> None:
    assert find_shelf(None, "http://other:8080", environ(tmp_path)).place == "http://other:8080"


@pytest.mark.req("CAT-03")
async def test_a_daemon_that_does_not_tell_keeps_from_what_cannot_be_undone(config: Path, tmp_path: Path) -> None:
    shelf = find_shelf(config, None, environ(tmp_path, LLORCH_API_TOKEN="another"))
    pulled = await shelf.pull(Wish(ref="haiku.gguf"), Unseen())
    assert pulled.known.model.pools == ("trial",)
    stock = await shelf.stock()
    assert stock.notices
    assert "a token is needed" in stock.notices[-1]
    for work in (
        shelf.remove("haiku", keep_files=False),
        shelf.set_state("haiku", ModelState.RETIRED),
    ):
        with pytest.raises(ApiError) as caught:
            await work
        assert caught.value.code == "MISSING_TOKEN"
    shelf = find_shelf(config, None, environ(tmp_path, LLORCH_API_TOKEN=TOKEN))
    assert (await shelf.stock()).notices == ()
