"""tools/check_pure.py finds what a deciding module must not do, and nothing else."""

from pathlib import Path

import pytest

from tools.check_pure import check, expand


def tree(root: Path, **modules: str) -> Path:
    """A source tree; `a__b` is the module a.b."""
    for name, source in modules.items():
        file = root.joinpath(*name.split("__")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(source)
    return root


@pytest.mark.parametrize(
    "source",
    [
        "import math, hashlib\nfrom collections.abc import Mapping\n",
        "import msgspec\nfrom msgspec import Struct\n",
        "from pathlib import PurePosixPath\nfrom urllib.parse import urlsplit\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncio\n",
        "def f(now): return now.timestamp()\n",
        "from random import Random\n",
        "class P:\n    async def declared(self) -> int: ...\n",
    ],
)
def test_values_are_fine(tmp_path: Path, source: str) -> None:
    assert check(["p.m"], tree(tmp_path, p__m=source)) == []


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ("import asyncio", "imports asyncio"),
        ("import os.path", "imports os.path"),
        ("from time import monotonic", "imports time.monotonic"),
        ("from pathlib import Path", "imports pathlib.Path"),
        ("import random", "imports random"),
        ("import aiohttp", "imports aiohttp"),
        ("import yaml", "imports yaml"),
        ("def f():\n    import subprocess", "imports subprocess"),
        ("from datetime import datetime, UTC\nx = datetime.now(UTC)", "reads the clock with datetime.now"),
        ("import datetime\nx = datetime.date.today()", "reads the clock with datetime.date.today"),
        ("x = open('f')", "calls open()"),
        ("async def f(x):\n    await x", "waits"),
        ("async def f(x):\n    async with x: ...", "waits"),
    ],
)
def test_effects_are_found(tmp_path: Path, source: str, finding: str) -> None:
    (line,) = check(["p.m"], tree(tmp_path, p__m=source))
    assert line.startswith(f"p/m.py:{source.count(chr(10)) + 1}: {finding}")


def test_a_detour_is_found_with_its_way(tmp_path: Path) -> None:
    tree(tmp_path, p__m="from p import helper", p__helper="from p.deep import x", p__deep="import time\nx = 1")
    assert check(["p.m"], tmp_path) == ["p/deep.py:1: imports time (by p.m -> p.helper -> p.deep)"]


def test_a_relative_import_and_the_package_itself_are_followed(tmp_path: Path) -> None:
    tree(tmp_path, p__m="from .helper import x", p__helper="x = 1")
    (tmp_path / "p/__init__.py").write_text("import socket")
    assert check(["p.m"], tmp_path) == ["p/__init__.py:1: imports socket (by p.m -> p)"]


def test_a_listed_module_must_exist(tmp_path: Path) -> None:
    assert check(["p.gone"], tree(tmp_path, p__m="")) == ["p.gone: listed as deciding, but there is no such module"]


def test_a_package_is_listed_whole(tmp_path: Path) -> None:
    tree(tmp_path, p__a="", p__sub__c="")
    assert expand(["p.*"], tmp_path) == ["p", "p.a", "p.sub", "p.sub.c"]
