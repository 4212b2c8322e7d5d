"""What a shell's completion calls: ``llama-orch __complete --line LINE``, or ``__complete -- WORD...``.

Decides how a line is taken apart that is still being typed, and that nothing but candidates is ever printed: a line
each, with its meaning behind a tab.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from llama_orch.completion.grammar import Candidate, wanted
from llama_orch.completion.reading import grammar
from llama_orch.output import clean


def main(arguments: Sequence[str]) -> int:
    """Print what fits; the answer is the exit status, which is 0 unless somebody looks for a defect."""
    try:
        for candidate in candidates(_words(arguments)):
            sys.stdout.write(f"{clean(candidate.word)}\t{_flat(candidate.help)}\n")
        sys.stdout.flush()
    except Exception:
        if os.environ.get("LLORCH_DEBUG"):
            raise
    return 0


def candidates(words: Sequence[str]) -> list[Candidate]:
    """All that fits in the place of the last word."""
    command = next((word for word in words[:-1] if not word.startswith("-")), None)
    found = wanted(grammar(command), words)
    result = list(found.words)
    if found.kind is not None:
        from llama_orch.completion.names import names  # noqa: PLC0415 - it loads a client, which most Tabs do not need

        known = names(found.kind, found.given)
        result += [
            Candidate(word=f"{found.prefix}{each.word}", help=each.help)
            for each in known
            if each.word.startswith(found.start)
        ]
    return result


def split(line: str) -> list[str]:
    """The words of a line up to the cursor, without the program; the last may be empty, and a quote may be open."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        ends = line[-1:].isspace() and not closing
        return [*words[1:], *([""] if ends or len(words) < 2 else [])]
    return [""]


def _words(arguments: Sequence[str]) -> list[str]:
    if arguments[:1] == ["--line"]:
        return split(" ".join(arguments[1:]))
    return list(arguments[1:] if arguments[:1] == ["--"] else arguments) or [""]


def _flat(text: str) -> str:
    return clean(text).replace("\t", " ").replace("\n", " ")
