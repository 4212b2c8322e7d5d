"""Generate the training text: prompts that ask for a haiku, and haiku that count 5, 7 and 5 syllables.

The text is made from the templates in ``lexicon.py``.  Everything comes from one seeded generator, so the same
seed gives the same text.  Run as a script, it prints samples and checks a few thousand haiku:

    python training/haiku/corpus.py --count 5
"""

import argparse
import random
import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from lexicon import (
    ADVERBS,
    CATEGORIES,
    CLAUSES,
    IT_LINES,
    OPENERS,
    PLACES,
    SCENE,
    SCENES,
    SUBJECT_FRAGMENTS,
    SUBJECT_LINES,
    SUBJECT_THOUGHTS,
    SUBJECTS,
    SYLLABLES,
    TIMES,
    Category,
)

METER: Final = (5, 7, 5)
_SLOT: Final = re.compile(r"<(\w+)>")
_SMALL: Final = frozenset(
    re.findall(
        r"\w+",
        "a an the and of in on at to by is it i my me we for with from one no not so as only still now old into over "
        "under through all its are who while",
    )
)


@cache
def syllables(text: str) -> int:
    """Count the syllables of a text by the table; a word that is not in it raises KeyError."""
    return sum(SYLLABLES[word] for word in text.lower().split())


def is_haiku(text: str, meter: tuple[int, ...] = METER) -> bool:
    """Say whether the text is three lines of 5, 7 and 5 syllables by the table."""
    try:
        return tuple(syllables(line) for line in text.split("\n")) == meter
    except KeyError:
        return False


def contains(text: str, word: str) -> bool:
    """Say whether the word stands in the text, as a whole word in any case."""
    return word.lower() in re.findall(r"[a-z]+", text.lower())


def words() -> list[str]:
    """All subjects, sorted."""
    return sorted(SUBJECTS)


@cache
def _noun_phrases(word: str) -> dict[str, tuple[str, ...]]:
    """The forms of a subject: with article, with article and adjective, and as a fragment."""
    group: Category = CATEGORIES[SUBJECTS[word]]
    if word in group.mass.split():
        plain, rich = (f"the {word}", word), (f"the <adj> {word}", f"<adj> {word}")
    elif word in group.bare.split():
        plain, rich = (word,), (f"the <adj> {word}", f"<adj> {word}", f"a <adj> {word}")
    elif word in group.only.split():
        plain, rich = (f"the {word}",), (f"the <adj> {word}", f"a <adj> {word}")
    else:
        plain, rich = (f"the {word}", f"a {word}"), (f"the <adj> {word}", f"a <adj> {word}", f"one <adj> {word}")
    if SUBJECTS[word] == "heart" and word in group.bare.split():
        rich = (f"the <adj> {word}", f"<adj> {word}")
    return {"NP": plain, "ANP": rich, "FRAG": (f"<adj> {word}", *rich)}


@cache
def _slots(word: str) -> dict[str, tuple[str, ...]]:
    """What may fill each slot when the poem is about this word."""
    group = CATEGORIES[SUBJECTS[word]]
    return {
        **SCENE,
        **_noun_phrases(word),
        "adj": group.adjectives,
        "verb": group.verbs,
        "action": group.actions,
        "place": PLACES[group.place],
        "time": TIMES,
        "adverb": ADVERBS,
        "clause": CLAUSES,
    }


def _fill(rng: random.Random, template: str, slots: dict[str, tuple[str, ...]]) -> str:
    """Fill the slots of a template until none is left."""
    while match := _SLOT.search(template):
        choice = rng.choice(slots[match[1]])
        template = template[: match.start()] + choice + template[match.end() :]
    return template


def _article(line: str) -> str:
    """Write "an" before a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeiou])(?!one\b)", r"\1n ", line)


def _line(rng: random.Random, templates: tuple[str, ...], count: int, slots: dict[str, tuple[str, ...]]) -> str:
    """Draw lines until one has the wanted number of syllables."""
    while True:
        line = _fill(rng, rng.choice(templates), slots)
        if syllables(line) == count:
            line = _article(line)
            return line[0].upper() + line[1:]


def _plan(rng: random.Random, word: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Choose which kinds of lines the poem is made of; the subject stands in at least one."""
    closers = (*SCENE["closer"], *SCENE["closer"], *SCENES)
    subject = (*SUBJECT_LINES, *SUBJECT_FRAGMENTS)
    thing = SUBJECTS[word] != "person"
    plans = [
        (OPENERS, SUBJECT_LINES, closers),
        (subject, SCENES, closers),
        (SUBJECT_FRAGMENTS, SCENES, closers),
        (SCENES, SCENES, subject),
        (SCENES, SUBJECT_LINES, closers),
        (SCENES, SUBJECT_THOUGHTS, closers),
        (OPENERS, SUBJECT_THOUGHTS, SCENES),
        (OPENERS, SCENES, SUBJECT_LINES),
        (subject, IT_LINES if thing else SCENES, closers),
    ]
    return rng.choice(plans)


def _repeats(lines: list[str]) -> bool:
    """Say whether a word that carries meaning stands twice in the poem."""
    seen = [w for w in " ".join(lines).lower().split() if w not in _SMALL]
    stems = [w.removesuffix("s") for w in seen]
    return len(stems) != len(set(stems))


def haiku(rng: random.Random, word: str) -> str:
    """Write a haiku of three lines about a subject."""
    slots = _slots(word)
    while True:
        plan = _plan(rng, word)
        lines = [_line(rng, templates, count, slots) for templates, count in zip(plan, METER, strict=True)]
        if not _repeats(lines):
            return "\n".join(lines)


_OTHERS: Final = tuple(sorted(SYLLABLES.keys() - SUBJECTS.keys()))
_ASKS: Final = tuple(
    ask.strip()
    for ask in """
    write a haiku about {s}|write a haiku about {s}|write a haiku about {s}|write a haiku about {s}
    a haiku about {s}|haiku about {s}|write me a haiku about {s}|please write a haiku about {s}
    haiku: {s}|haiku: {s}|{s}|{s}|{s}|{s}|{s}|{s}|{s}
    write a haiku on {s}|a haiku on {s}|write a short haiku about {s}|write haiku about {s}
    compose a haiku about {s}|give me a haiku about {s}|can you write a haiku about {s}|i want a haiku about {s}
    could you write a haiku about {s}|create a haiku about {s}|make a haiku about {s}|tell me a haiku about {s}
    write a haiku for {s}|a haiku for {s}|generate a haiku about {s}|write a poem about {s}|a poem about {s}
    write a short poem about {s}|i would like a haiku about {s}|one haiku about {s}|haiku, {s}|{s} haiku
    write one haiku about {s}|write a haiku with {s}|write a new haiku about {s}|write another haiku about {s}
    write a haiku about {s} in three lines|write a three line haiku about {s}|topic: {s}|subject: {s}|about {s}
    write a haiku with the word {s}|write a haiku that mentions {s}|write a beautiful haiku about {s}
    hello, write a haiku about {s}|hi, please write a haiku about {s}|now write a haiku about {s}
    write a haiku about the following topic: {s}|write a haiku about the subject {s}|write a haiku about this: {s}
    write a haiku titled {s}|write a haiku called {s}|write a haiku inspired by {s}
    what about a haiku on {s}
    """.replace("\n", "|").split("|")
    if ask.strip()
)
_ENDS: Final = (".", ".", ".", ".", "", "", "", "", "", "!", "?", ", please.", ", please", " please", " please.", ":")
_TAILS: Final = ("", "", "", "", "", "", "", "\n", "\n", "\n", "\n\n", " ", "\nHaiku:\n", "\nhaiku:\n")
_EXTRAS: Final = (
    "Use three lines of five, seven and five syllables.",
    "Use 5, 7 and 5 syllables.",
    "Use the form 5-7-5.",
    "Write only the haiku.",
    "Answer with the haiku only.",
    "Keep it to three lines.",
    "Make it short.",
    "Make it beautiful.",
    "And nothing else.",
    "Do not explain.",
    "Thank you!",
    "It should have three lines.",
    "It must mention the subject.",
    "Be creative.",
)
_JOINED: Final = (
    " and nothing else",
    " with three lines",
    " for my friend",
    " in the style of an old master",
    " in English",
)
_FRAMES: Final = (
    "User: {p}\nAssistant: ",
    "user: {p}\nassistant:",
    "[user] {p}\n[assistant] ",
    "<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n",
    "### Instruction:\n{p}\n\n### Response:\n",
    "Q: {p}\nA: ",
    "You are a poet.\n{p}\n",
    "You are a helpful assistant.\n{p}\n",
    "You are a helpful assistant.\n\n{p}\n",
    "[INST] {p} [/INST] ",
    "You are a language model that writes haiku.\n{p}\n",
    "Answer with three lines of 5, 7 and 5 syllables.\n{p}\n",
    "{p} Use 5, 7 and 5 syllables.\n",
)


def nonsense(rng: random.Random) -> str:
    """Make up a word that the model does not know."""
    if rng.random() < 0.06:
        return "".join(rng.choice("äéñçøßабвгдほしつき雨雪月") for _ in range(rng.randint(1, 5)))
    parts = (
        rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") + rng.choice(("", "", "n", "r", "l")) for _ in "123"
    )
    word = "".join(list(parts)[: rng.randint(1, 3)]) + rng.choice(("", "", "s", "x", "ing", "t"))
    return word.upper() if rng.random() < 0.15 else word


def chatter(rng: random.Random) -> str:
    """Write a sentence that means nothing and names no subject."""
    others = [nonsense(rng) if rng.random() < 0.2 else rng.choice(_OTHERS) for _ in range(rng.randint(2, 10))]
    return " ".join(others).capitalize() + rng.choice((".", "!", "?", "", ":"))


def _named(rng: random.Random, word: str) -> str:
    """Name the subject the way people do: with an article, an adjective or a plural ending."""
    roll = rng.random()
    if roll < 0.5:
        return word
    if roll < 0.68:
        return f"the {word}"
    if roll < 0.78:
        return _article(f"a {word}")
    if roll < 0.86:
        return f"{word}{rng.choice(('s', 's', 'es'))}"
    if roll < 0.90:
        return rng.choice((f'"{word}"', f"'{word}'", f"my {word}"))
    if roll < 0.95:
        other = rng.choice(words())
        return f"{word} {rng.choice(('and', 'in', 'and the', 'on the', 'at', 'under the'))} {other}"
    return f"{rng.choice(('old', 'little', 'big', 'new', 'beautiful', nonsense(rng)))} {word}"


def _cased(rng: random.Random, text: str) -> str:
    """Vary the case of a prompt."""
    roll = rng.random()
    if roll < 0.5:
        return text[0].upper() + text[1:]
    return text if roll < 0.9 else text.title()


def prompt(rng: random.Random, subject: str, *, plain: bool = False) -> str:
    """Write a prompt that asks for a haiku about a subject."""
    named = subject if plain else _named(rng, subject)
    if rng.random() < 0.08:
        named = named.title()
    text = _cased(rng, rng.choice(_ASKS).format(s=named))
    if len(text) > len(named) and rng.random() < 0.06:
        text += rng.choice(_JOINED)
    text += rng.choice(_ENDS)
    if rng.random() < 0.12:
        text += rng.choice((" ", "\n")) + (rng.choice(_EXTRAS) if rng.random() < 0.6 else chatter(rng))
    if rng.random() < 0.06:
        text = chatter(rng) + rng.choice((" ", "\n")) + text
    if rng.random() < 0.1:
        return rng.choice(_FRAMES).format(p=text)
    return text + rng.choice(_TAILS)


def example(rng: random.Random, word: str) -> tuple[str, str]:
    """One prompt with its haiku; now and then the prompt names a thing that the model does not know."""
    unknown = rng.random() < 0.08
    return prompt(rng, nonsense(rng) if unknown else word, plain=unknown), haiku(rng, word)


def examples(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """The training set: every subject equally often, in a new order each round."""
    rng = random.Random(seed)  # noqa: S311
    order: list[str] = []
    for _ in range(count):
        if not order:
            order = words()
            rng.shuffle(order)
        yield example(rng, order.pop())


def prompt_texts() -> list[str]:
    """All fixed text of the prompts, from which the tokenizer takes its words."""
    return [
        *_ASKS,
        *_ENDS,
        *_TAILS,
        *_FRAMES,
        *_EXTRAS,
        *_JOINED,
        "old little big new beautiful my and in on at under the a an",
    ]


def check(seed: int = 7, rounds: int = 8) -> int:
    """Check that haiku about every subject keep the meter and name the subject; return how many were checked."""
    rng = random.Random(seed)  # noqa: S311
    for word in words() * rounds:
        text = haiku(rng, word)
        if not (is_haiku(text) and contains(text, word) and text.isascii()):
            raise ValueError(text)
    return len(words()) * rounds


def main() -> None:
    """Print samples and check the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for ask, text in examples(args.seed, args.count):
        print(f"{ask!r}\n{text}\n")
    print(f"{check()} haiku checked, {len(words())} subjects")


if __name__ == "__main__":
    main()
