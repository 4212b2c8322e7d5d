"""Where unit files and examples are found."""

from pathlib import Path

import pytest

from daemon_core.errors import StartupError
from llama_orch import shipped

pytestmark = pytest.mark.req("OP-01")


def test_what_lies_beside_the_code_counts_whatever_else_lies_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = shipped.shipped(shipped.UNITS)
    assert (checkout / "llama-orch.target").is_file()
    (tmp_path / shipped.UNITS).mkdir()
    monkeypatch.setattr(shipped, "_BESIDE", tmp_path)  # as if installed; above it is a pyproject.toml all the same
    assert shipped.shipped(shipped.UNITS) == tmp_path / shipped.UNITS
    with pytest.raises(StartupError, match="lacks"):
        shipped.shipped(shipped.EXAMPLES)
