"""The code blocks of the README and of docs/ do what they say: commands are played, configurations are read."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from daemon_core.config_file import parse
from llama_orch.trial import haiku_model_path
from tests.contract.blocks import CANNOT, MARKS, PAGES, ROOT, Block, Command, blocks, commands, configurations
from tests.contract.documented import VOLATILE, unlike
from tests.plugins.told import Told
from tests.support.installation import Installation
from tests.support.stream_grammar import check
from tests.support.terminal import terminal

pytestmark = pytest.mark.req("HP-27")
SCHEMA = json.loads((ROOT / "contracts/config.schema.json").read_text())
WRITTEN_BY_A_MODEL = "haiku about"
"""What a command prints whose answer a model writes: the words are its own, only the last line is ours."""


@pytest.mark.req("HP-26")
@pytest.mark.parametrize(("block", "document"), configurations(), ids=lambda each: getattr(each, "id", "") or None)
def test_a_configuration_of_the_documents_is_one(block: Block, document: dict[str, object]) -> None:
    jsonschema.validate(document, SCHEMA)
    parse(yaml.safe_dump(document), block.id)


def test_every_reason_not_to_play_a_command_is_needed() -> None:
    texts = [command.text for command in commands()]
    assert [pattern for pattern in CANNOT if not any(re.search(pattern, text) for text in texts)] == []


def test_every_mark_of_a_block_is_known_and_needed() -> None:
    assert {block.mark for block in blocks("console")} - {""} == set(MARKS)


def test_every_link_between_the_pages_leads_somewhere() -> None:
    pages = {*PAGES, *(ROOT / "docs").glob("*.md")}
    dead = [
        f"{page.name}: {link}"
        for page in sorted(pages)
        for link in re.findall(
            r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        )
        if not link.startswith(("http:", "https:")) and not leads(page, link)
    ]
    assert dead == []


def leads(page: Path, link: str) -> bool:
    """Whether there is such a file, and in it such a heading."""
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not anchor or not target.exists():
        return target.exists()
    headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_page_can_be_found_from_the_first_one() -> None:
    folder = ROOT / "docs"
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (folder / "README.md").read_text()))
    assert {page.name for page in folder.glob("*.md")} - {"README.md"} <= linked


@pytest.mark.slow
@pytest.mark.timeout(600)  # it starts a hundred programs, one after the other
async def test_the_commands_of_the_documents_print_what_they_say(tmp_path: Path, told: Told) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for name in ("haiku", "epic"):
        shutil.copy(haiku_model_path(), models / f"{name}.gguf")
    wrong, played, known = [], 0, ""
    async with Installation(tmp_path / "home", models / "haiku.gguf") as house:
        await house.up()
        configured = house.root / ".config/llama-orch/config.yaml"
        configured.parent.mkdir(parents=True)
        shutil.copy(house.config, configured)
        places = {"127.0.0.1:8080": f"127.0.0.1:{house.port}", "/srv/models": str(models)}
        for command in (each for each in commands() if each.reason is None):
            text = _replaced(command.text, places)
            played += 1
            if variable := re.match(r"([A-Z]+)=", text):
                value = await run(f'{known}{text}; printf %s "${variable[1]}"', house)
                known += f"{variable[1]}={shlex.quote(value)}\n"
                continue
            refused = bool(command.printed) and command.printed[0].startswith("llama-orch: ")
            printed = await run(known + text, house, refused=refused)
            wrong += [f"{command.block.id}: {command.text}: {found}" for found in differs(command, printed, places)]
    told(f"code blocks of the documents: {played} commands played")
    assert not wrong, "\n".join(wrong)


async def run(text: str, house: Installation, *, refused: bool = False) -> str:
    """What a shell prints on a terminal in the user's home, with our programs on its path, and ends well unless so."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{house.environ['PATH']}"
    environ = house.environ | {"PATH": path, "HOME": str(house.root)}
    async with terminal(["bash", "-c", text], environ, ROOT, columns=400) as running:
        printed = await running.all_written()
        status = await running.ended()
        assert status not in {2, 126, 127}, f"{text} is no command of ours: {printed}"
        assert bool(status) is refused, f"{text} ended with status {status}: {printed}"
        return printed


def differs(command: Command, printed: str, places: dict[str, str]) -> list[str]:
    """How what was printed differs from the document, but for what differs from run to run."""
    printed = _replaced(printed, {real: documented for documented, real in places.items()})
    if not command.printed:
        return []
    if command.printed[0].startswith("event: "):
        return _other_events(command, printed)
    if command.printed[0].startswith("{"):
        loose = VOLATILE | {"correlation_id"}
        return list(unlike(json.loads(command.printed[0]), json.loads(printed), loose))
    expected = command.printed[-1:] if WRITTEN_BY_A_MODEL in command.text else command.printed
    got = [_shape(line) for line in printed.splitlines()]
    return [f"no line like {line!r} in {printed!r}" for line in expected if _shape(line) not in got]


def _other_events(command: Command, printed: str) -> list[str]:
    """How the events of a stream differ from the documented ones; of tokens there may be more or less."""
    seen = re.search(r"Last-Event-ID: (\d+)", command.text)
    names = check(printed.encode(), after=int(seen[1]) if seen else -1).names
    documented = [line.removeprefix("event: ") for line in command.printed if line.startswith("event: ")]
    wanted, got = (list(dict.fromkeys(name for name in each if name != "metrics")) for each in (documented, names))
    return [] if wanted == got else [f"events {names}"]


def _shape(line: str) -> str:
    """A line without its numbers, and without how wide its columns are."""
    return re.sub(r"\s+", " ", re.sub(r"[0-9]+([.,][0-9]+)*", "#", line)).strip()


def _replaced(text: str, places: dict[str, str]) -> str:
    for one, other in places.items():
        text = text.replace(one, other)
    return text
