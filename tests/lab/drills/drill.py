"""What a failure drill is, and how several of them are played on one throw-away host, one after the other.

A drill says what is done, and then holds the product to three claims: what its clients see, what the journal says and
what is left. They are data, for ``docs/drills.md`` is made of them (``book.py``): a reader of that page reads what was
proved. The functions that the scripts use are in ``drills.sh``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.lab.host import Lab
from tests.support.stream_grammar import Said, StreamWrongError, check

TOKENS = re.compile(r"(event: token\nid: \d+\ndata: .*\n\n)+")


OR = " || "
"""Between two things that the journal may say: either will do, where two parts of the product may be the first."""


class Files(dict[str, str]):
    """By their names. A drill that did not get to write one has failed, and is shown as one that has."""

    def __missing__(self, name: str) -> str:
        raise AssertionError(f"the script wrote no file {name}")


@dataclass(frozen=True, kw_only=True)
class Played:
    """What a drill left behind for the test that judges it."""

    name: str
    status: int
    files: Files
    """What the script wrote into its folder, the drill's part of the journal as well."""

    @property
    def journal(self) -> list[dict[str, Any]]:
        """The entries of the user's journal since the drill began."""
        return [json.loads(line) for line in self.files[".journal"].splitlines()]

    def said(self, unit: str | None = None) -> list[str]:
        """The messages of the journal as a person reads them, or those of one of our units."""
        entries = self.journal
        if unit is not None:
            entries = [entry for entry in entries if entry.get("_SYSTEMD_USER_UNIT") == f"{unit}.service"]
        return [readable(entry.get("MESSAGE")) for entry in entries]

    def stream(self, name: str) -> Said:
        """A stream that a client read to its end."""
        return self._held(name, self.files[name])

    def cut(self, name: str) -> Said:
        """A stream whose connection broke before it had an end: what of it came as a whole."""
        whole, _, _ = self.files[name].rpartition("\n\n")
        said = self._held(name, f"{whole}\n\n", whole=False)
        assert (said.end, said.error) == (None, None), f"{name} was not cut: it has an end"
        return said

    def resumed(self, name: str) -> Said:
        """A stream that broke and was read on behind its last token, as one: none is missing, none is there twice."""
        first = self.cut(name)
        after = first.tokens[-1].i
        rest = self._held(name, self.files[f"{name}.rest"], after=after)
        tokens = [*first.tokens, *rest.tokens]
        assert [token.i for token in tokens] == list(range(len(tokens)))
        return Said(
            names=first.names + rest.names,
            started=first.started,
            tokens=tokens,
            metrics=first.metrics + rest.metrics,
            end=rest.end,
            error=rest.error,
        )

    def _held(self, name: str, text: str, *, after: int = -1, whole: bool = True) -> Said:
        try:
            return check(text.encode(), after=after, whole=whole)
        except StreamWrongError as error:
            raise AssertionError(f"the stream {name}: {error}") from error

    def receipts(self, name: str = "receipts") -> list[dict[str, Any]]:
        """What receipts say, which stand in one chain: each names the one before it."""
        found = self.json(name)["receipts"]
        for before, after in pairwise(found):
            due = before["content"]["number"] + 1, before["id"]
            found_next = after["content"]["number"], after["content"]["previous"]
            assert found_next == due, "the receipts do not stand in one chain"
        return [each["content"] for each in found]

    def ended(self) -> list[str]:
        """The tasks of the drill in the order of their receipts: that in which they ended. None has two."""
        names = [each["task_id"].rpartition(".") for each in self.receipts()]
        return [name for drill, _, name in names if drill == self.name]

    def json(self, name: str) -> Any:  # noqa: ANN401 - JSON
        """A file that holds JSON."""
        return json.loads(self.files[name])

    def __str__(self) -> str:
        shown = {name: TOKENS.sub(tokens, text) for name, text in self.files.items() if name != ".journal"}
        shown["journal"] = "\n".join(self.said())
        return "\n".join(
            [f"exit status {self.status}", *(f"--- {name}\n{text[-6000:]}" for name, text in shown.items())]
        )


def well(said: Said) -> Said:
    """A stream that has an ``end``."""
    __tracebackhide__ = True
    if said.end is None:
        raise AssertionError(f"a stream that should have an end has {said.error}")
    return said


def broken(said: Said, code: str) -> None:
    """A stream that ends with this error, after which trying again helps."""
    __tracebackhide__ = True
    if said.error is None or (said.error.code, said.error.retriable) != (code, True):
        raise AssertionError(f"a stream that should end with {code}, retriable, has {said.error or said.end}")


def tokens(run: re.Match[str]) -> str:
    """What stands for the tokens of a stream where it is shown."""
    return f"({run[0].count('event: token')} tokens)\n\n"


def readable(message: str | list[int] | None) -> str:
    """The sentence of an entry, also where the entry is a line of JSON, or bytes."""
    text = bytes(message).decode(errors="replace") if isinstance(message, list) else message or ""
    if text.startswith('{"'):
        try:
            return str(json.loads(text)["message"])
        except (ValueError, KeyError):
            return text
    return text


def nothing_more(_played: Played) -> None:
    """For a drill whose script and journal say all."""


@dataclass(frozen=True, kw_only=True)
class Drill:
    """One failure, and what the product makes of it."""

    name: str
    done: str
    """What was done, as a sentence."""
    client: str
    """What clients see of it."""
    journal: tuple[str, ...]
    """What the journal says: words of entries that are there when the script is over. No quotes or backslashes."""
    left: str
    """What is left: that nothing is lost or orphaned."""
    script: str
    """bash, with the functions of drills.sh; it stops at the first command that fails. What it writes into the folder
    $here can be judged afterwards."""
    prove: Callable[[Played], None] = field(default=nothing_more)
    """Judges what the script left, where that is easier than in bash."""
    req: tuple[str, ...] = ("OP-01",)
    """The requirements that it proves."""

    def judge(self, played: Played) -> None:
        """Fail where the product did not do what the drill claims."""
        __tracebackhide__ = True
        assert played.status == 0, str(played)
        said = played.said()
        missing = [
            words
            for words in self.journal
            if not any(either in message for message in said for either in words.split(OR))
        ]
        assert not missing, f"the journal lacks {missing}\n{played}"
        try:
            self.prove(played)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{played}") from error


def play(
    lab: Lab,
    drills: tuple[Drill, ...],
    *,
    prepared: str,
    show: tuple[Path, ...],
    variables: Mapping[str, str],
    lan: bool = False,
    limit_s: int = 600,
) -> dict[str, Played]:
    """Play drills on one new host, in their order, until one fails; what became of those that were played.

    ``prepared`` is what the script does before the first.
    """
    lines = [f"{name}='{value}'" for name, value in variables.items()]
    lines += ['. "$CHECKOUT/tests/lab/drills/drills.sh"', prepared]
    for drill in drills:
        waits = "\n".join(
            "eventually 30 said " + " ".join(f'"{either}"' for either in words.split(OR)) for words in drill.journal
        )
        # Not `( ) ||`: what stands before that goes on after a command that fails.
        lines += [
            f"begin {drill.name}",
            f'set +e; (\nset -e\n{drill.script}\n{waits}\n) > "$here/.stdout" 2> "$here/.stderr"; status=$?; set -e',
            f"told {drill.name} $status",
            '[ "$status" = 0 ] || exit 0',
        ]
    outcome = lab.run("\n".join([*lines, ""]), limit_s=limit_s, lan=lan, show=show)
    played = {}
    for line in outcome.stdout.splitlines():
        told = json.loads(line) if line.startswith('{"name"') else None
        if told is not None:
            played[told["name"]] = Played(name=told["name"], status=told["status"], files=Files(told["files"]))
    assert outcome.rc == 0, str(outcome)
    return played
