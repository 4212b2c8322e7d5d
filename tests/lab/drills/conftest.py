"""What the drills have in common: the machine that they are played on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.lab.drills.drill import Drill, Played, play
from tests.lab.host import Lab
from tests.support import gpu_llama_server
from tests.support.nvml import build
from tests.support.tiny_gguf import write_tiny_gguf

HERE = Path(__file__).parent
GATE, PASS = "/home/lab/gate", 20
"""See gate.c: while this file is there, no answer gets further than so many tokens."""
Play = Callable[..., dict[str, Played]]


@pytest.fixture(scope="session")
def drills(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """``play`` of drill.py, for a host with two GPUs, a server that computes on them and a model that is slow."""
    shown = tmp_path_factory.mktemp("shown")
    shown.chmod(0o755)
    model = write_tiny_gguf(shown / "patient.gguf", layers=8, dim=512, ctx=16_384)
    server = gpu_llama_server.write(shown / "llama-server")
    library = build(shown)
    clock = compiled(HERE / "wallclock.c", shown)
    gate = compiled(HERE.parent / "gate.c", shown, f'-DGATE="{GATE}"', f"-DPASS={PASS}")
    gated = shown / "gated-llama-server"
    gated.write_text(f'#!/bin/sh\nLD_PRELOAD={gate} exec {server} "$@"\n')
    variables = {
        "MODEL": str(model),
        "SERVER": str(gated),
        "NVML": str(shown),
        "CLOCK": str(clock),
        "GATE": GATE,
        "PASS": str(PASS),
    }
    for path in (model, library, gated):
        path.chmod(0o755)
    return partial(play, lab, show=(shown,), variables=variables)


def compiled(source: Path, place: Path, *flags: str) -> Path:
    """A library for LD_PRELOAD."""
    library = place / f"{source.stem}.so"
    always = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run(["gcc", *always, *flags, "-o", str(library), str(source)], check=True, timeout=60)
    library.chmod(0o755)
    return library


def chosen(drills: tuple[Drill, ...], request: pytest.FixtureRequest) -> tuple[Drill, ...]:
    """Those that this run is to judge: each can be played without the others."""
    names = {item.name for item in request.session.items if item.path == request.path}
    return tuple(drill for drill in drills if any(name.endswith(f"[{drill.name}]") for name in names))


def each(drills: tuple[Drill, ...]) -> list[ParameterSet]:
    """The parameters of a test that judges them: their names, and the requirements that they prove."""
    return [pytest.param(drill, id=drill.name, marks=pytest.mark.req(*drill.req)) for drill in drills]


def judge(drill: Drill, played: dict[str, Played]) -> None:
    """Hold the product to what the drill claims."""
    __tracebackhide__ = True
    assert drill.name in played, f"not played, for an earlier one failed; played were: {', '.join(played)}"
    drill.judge(played[drill.name])
