"""What docs/operations.md and docs/upgrade.md say to type, typed on a host of its own, in their order."""

import json

import pytest

from tests.contract.blocks import Command, commands
from tests.lab.host import Lab

pytestmark = [pytest.mark.req("OP-01", "HP-27"), pytest.mark.timeout(900), pytest.mark.slow]

TYPED = [command for command in commands() if command.block.mark == "lab"]
PREPARED = r"""
. "$CHECKOUT/tests/lab/product.sh"
export PATH="$PREFIX/bin:$PATH" SYSTEMD_PAGER=
llama-orch init --trial > /dev/null
token=$(llama-orch token --show)
type_this() {
  local status=0 printed
  printed=$(bash -c "$1" 2>&1) || status=$?
  "$PYTHON" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$1" "$status" "$printed"
}
"""
SERVES = "eventually 60 pool_is_ready\n"
"""A pool takes a moment after a start; a person would look twice."""


def script(typed: list[Command]) -> str:
    """The commands one after the other; after one that starts something, the pool is waited for."""
    lines = []
    for command in typed:
        quoted = command.text.replace("'", "'\\''")
        lines.append(f"type_this '{quoted}'\n")
        if " start " in command.text or " restart " in command.text:
            lines.append(SERVES)
    return PREPARED + "".join(lines)


def test_the_operators_pages_are_typed_as_they_stand(lab: Lab) -> None:
    outcome = lab.check(script(TYPED), limit_s=600)
    said = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [text for text, _, _ in said] == [command.text for command in TYPED]
    assert [(text, status, printed) for text, status, printed in said if status != "0"] == []
    printed = {text: printed for text, _, printed in said}
    wrong = [
        (command.text, line)
        for command in TYPED
        for line in command.printed
        if line not in printed[command.text].splitlines()
    ]
    assert wrong == []
    assert "trial" in printed["llama-orch pools"]
