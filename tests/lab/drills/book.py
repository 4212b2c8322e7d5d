"""Writes docs/drills.md from the drills: `.venv/bin/python -m tests.lab.drills.book`. A test compares it with them.

Decides the order of the page: from what happens most often to what happens least.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from textwrap import fill

from tests.lab.drills.drill import OR, Drill

PAGE = Path(__file__).parents[3] / "docs/drills.md"
PAGES = (
    ("acceptance", "The whole way"),
    ("restarts", "Restarts and a stop while work goes on"),
    ("reboot", "The machine goes down"),
    ("killed", "A part is killed"),
    ("hung", "A part hangs"),
    ("configuration", "A broken configuration, and a second daemon"),
    ("disk", "The disk"),
    ("gpus", "GPUs and their driver"),
    ("network", "The network"),
    ("clock", "The clock"),
)
HEAD = """\
# What happens when something breaks

Each section is a drill: something is broken on a throw-away host with a real `systemd --user`, a real journal, both
daemons, a real engine and NVML's stand-in, while clients are at work. It says what was done, what clients saw of it,
what the journal says, and what was left. The tests below `tests/lab/drills` hold the product to all of it, and this
page is written by `.venv/bin/python -m tests.lab.drills.book`: change the drills, not the page. One alone is played by
`.venv/bin/python -m pytest tests/lab/drills -k engine-killed`, as root.

Where a time is short here (a watchdog of 8 s, an idle limit of 1 s), it is so for the drill's sake; the units and the
defaults have longer ones. [failures.md](failures.md) has the texts of single failures, [durability.md](durability.md)
what outlives what.
"""


def families() -> dict[str, tuple[Drill, ...]]:
    """The drills by the name of their test module."""
    modules = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    return {name: import_module(f"tests.lab.drills.test_{name}").DRILLS for name in sorted(modules)}


def page() -> str:
    """The page as the drills have it. Raises where a family has no place on it."""
    found = families()
    parts = [HEAD]
    for name, title in PAGES:
        parts.append(f"\n## {title}\n")
        parts += [section(drill, name) for drill in found.pop(name)]
    if found:
        raise ValueError(f"these have no place on the page: {', '.join(found)}")
    return "".join(parts)


def section(drill: Drill, family: str) -> str:
    """One drill."""
    said = "\n".join(f"- {', or '.join(f'`{words}`' for words in line.split(OR))}" for line in drill.journal)
    return f"""
### {drill.name}

{lines(drill.done)}

{lines(f"**Clients:** {drill.client}")}

**The journal:**

{said}

{lines(f"**Left:** {drill.left}")}

Shown by `tests/lab/drills/test_{family}.py`, drill `{drill.name}`.
"""


def lines(text: str) -> str:
    """A paragraph, in lines that can be read in the file itself."""
    return fill(text, 120, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(page())
