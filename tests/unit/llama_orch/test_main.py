"""The program before anything of it is loaded."""

import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

from llama_orch.__main__ import main


class _Interrupted:
    """Ctrl-C comes while this module is being loaded."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> None:
        if name == self.name:
            raise KeyboardInterrupt


@pytest.mark.parametrize("module", ["llama_orch.cli", "typer"])
def test_ctrl_c_while_the_program_is_being_loaded_is_no_traceback(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    for name in ("llama_orch.cli", module):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Interrupted(module), *sys.meta_path])
    assert main() == 130
