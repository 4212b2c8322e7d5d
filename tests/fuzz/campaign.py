"""One target under a coverage-guided fuzzer: `python -m tests.fuzz.campaign TARGET HOW FOLDER [libFuzzer's flags]`.

HOW is ``bytes``, which begins from the corpus, or ``built``, which takes the fuzzer's bytes as choices of what to
build. FOLDER keeps what was found interesting, and what went wrong in FOLDER/wrong. It ends as libFuzzer does.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import atheris

with atheris.instrument_imports(include=["model_provisioner"]):
    from tests.fuzz import pieces, targets
    from tests.fuzz.corpus import SEEDS

T = TypeVar("T")


class Fuzzed:
    """Choices that the fuzzer's bytes make."""

    def __init__(self, data: bytes) -> None:
        self._provider: Any = atheris.FuzzedDataProvider(data)

    def number(self, low: int, high: int) -> int:
        return int(self._provider.ConsumeIntInRange(low, high))

    def pick(self, things: Sequence[T]) -> T:
        return things[self.number(0, len(things) - 1)]

    def some_bytes(self, most: int) -> bytes:
        return bytes(self._provider.ConsumeBytes(self.number(0, most)))


def one(target: str, how: str, folder: Path) -> Callable[[bytes], None]:
    """What the fuzzer calls: what goes wrong is written down as the document that it came from."""
    run, build = targets.TARGETS[target], pieces.BUILDERS[target]

    def test(data: bytes) -> None:
        document = data if how == "bytes" else build(Fuzzed(data))
        try:
            run(document)
        except Exception:
            wrong = folder / "wrong" / hashlib.sha256(document).hexdigest()[:16]
            wrong.parent.mkdir(exist_ok=True)
            wrong.write_bytes(document)
            raise

    return test


def main(target: str, how: str, folder: Path, *flags: str) -> None:
    """Run until a flag or something wrong ends it."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    if how == "bytes":
        for number, seed in enumerate(SEEDS[target]):
            (corpus / f"seed{number}").write_bytes(seed)
    argv = [sys.argv[0], *flags, f"-artifact_prefix={folder}/", str(corpus)]
    atheris.Setup(argv, one(target, how, folder))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
