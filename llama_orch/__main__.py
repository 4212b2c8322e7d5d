"""``llama-orch`` and ``python -m llama_orch``: the program, from its first moment.

Decides that Ctrl-C ends it without a traceback also while it is still being loaded, which is most of a short command.
"""

from llama_orch.errors import EXIT_INTERRUPTED


def main() -> int:
    """The console script ``llama-orch``; the answer is the exit status."""
    try:
        from llama_orch.cli import main as program  # noqa: PLC0415 - to load it takes its time

        return program()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
