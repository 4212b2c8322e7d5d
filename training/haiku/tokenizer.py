"""The vocabulary of the model, and an encoder that splits text as llama.cpp does.

Whole words are USER_DEFINED tokens: llama.cpp cuts them out of a text before anything else, the longest first, and
writes them back as they are.  A word inside a line carries its leading space, the first word of a line is
capitalised and carries none, so that the text of a reply starts clean.  All else falls back to single characters
and bytes.
"""

import re
from enum import IntEnum
from typing import Final

from corpus import prompt_texts
from lexicon import SUBJECTS, SYLLABLES

UNK: Final = 0
BOS: Final = 1
EOS: Final = 2
SPACE: Final = "\u2581"  # how the vocabulary writes a space in a NORMAL token
_STARTS: Final = re.findall(
    r"\w+", "write haiku please compose give can could create make tell generate topic subject about one"
)


class Kind(IntEnum):
    """Token types as GGUF numbers them."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    BYTE = 6


def forms(word: str) -> list[str]:
    """The tokens of a word that a prompt may name in any way."""
    return [f" {word}", word.capitalize(), word, f" {word.capitalize()}"]


def _word_tokens() -> list[str]:
    """All whole-word tokens, in a fixed order and each once."""
    texts: list[str] = []
    for word in sorted(SUBJECTS):
        texts += forms(word)
    for word in sorted(SYLLABLES):
        texts += [f" {word}", word.capitalize()]
    texts += [" I", " Sunday"]
    for word in sorted(set(re.findall(r"[a-z]+", " ".join(prompt_texts()).lower()))):
        texts += [f" {word}", f" {word.capitalize()}", word.capitalize()]
    for word in _STARTS:
        texts.append(word)
    return [text for text in dict.fromkeys(texts) if len(text) > 1]


class Tokenizer:
    """Text to token numbers and back."""

    def __init__(self) -> None:
        """Lay out the vocabulary: controls, bytes, characters, words."""
        control = [("<unk>", Kind.UNKNOWN), ("<s>", Kind.CONTROL), ("</s>", Kind.CONTROL)]
        bytes_ = [(f"<0x{byte:02X}>", Kind.BYTE) for byte in range(256)]
        chars = [(char, Kind.NORMAL) for char in (SPACE, "\n", *map(chr, range(33, 127)))]
        words = [(text, Kind.USER_DEFINED) for text in _word_tokens()]
        self.tokens: list[tuple[str, Kind]] = [*control, *bytes_, *chars, *words]
        self.ids: dict[str, int] = {text: number for number, (text, _) in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            raise ValueError("a token stands twice in the vocabulary")
        self._words = frozenset(text for text, _ in words)
        self._longest = max(map(len, self._words))

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.tokens)

    def _known(self, text: str) -> list[str]:
        """The whole words that stand anywhere in a text, the longest first."""
        size = len(text)
        spans = {text[a:b] for a in range(size) for b in range(a + 2, min(size, a + self._longest) + 1)}
        return sorted(spans & self._words, key=lambda word: (-len(word), word))

    def _characters(self, text: str) -> list[int]:
        """Encode text that holds no whole word."""
        numbers: list[int] = []
        for char in text.replace(" ", SPACE):
            if char in self.ids:
                numbers.append(self.ids[char])
            else:
                numbers += [3 + byte for byte in char.encode()]
        return numbers

    def encode(self, text: str) -> list[int]:
        """Split a text into token numbers, without BOS."""
        pieces: list[str | int] = [text]
        for word in self._known(text):
            split: list[str | int] = []
            for piece in pieces:
                if isinstance(piece, int) or word not in piece:
                    split.append(piece)
                    continue
                first, *rest = piece.split(word)
                split.append(first)
                for part in rest:
                    split += [self.ids[word], part]
            pieces = split
        numbers: list[int] = []
        for piece in pieces:
            numbers += [piece] if isinstance(piece, int) else self._characters(piece)
        return numbers

    def encode_haiku(self, text: str) -> list[int]:
        """Split a haiku into one token for each word and line break, ending in EOS."""
        numbers: list[int] = []
        for line in text.split("\n"):
            first, *rest = line.split(" ")
            numbers += [self.ids[first], *(self.ids[f" {word}"] for word in rest), self.ids["\n"]]
        return [*numbers[:-1], EOS]

    def decode(self, numbers: list[int]) -> str:
        """Join token numbers to a text, leaving controls and bytes out."""
        texts = (self.tokens[number] for number in numbers)
        return "".join(text.replace(SPACE, " ") for text, kind in texts if kind in (Kind.NORMAL, Kind.USER_DEFINED))
