"""The argument vector of llama-server: what we say, what the operator says, and who has the last word.

Decides EP-11: one spelling per flag, the last of duplicates wins, and what makes an engine ours (its model, address,
context, slots, endpoints, key) cannot be said in ``pools[].flags``. A flag that is not in the tables passes through
untouched and in its place: this program does not need to know all of llama-server. What a flag does to the promise of
profile home is ``gpu_only``'s to say. Never looks at an engine: ``known`` says which flags one has.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from types import MappingProxyType

import msgspec

from contracts.config import Pool, Profile
from contracts.engines import Finding
from engine_provisioner.gpu_only import ALL_LAYERS, judge

MODEL, HOST, PORT = "{model}", "{host}", "{port}"
"""Stand in an argument vector for what is only known when the engine is started."""

NO_ORIGIN = "http://llama-orch.invalid"
"""An origin that no page can have (RFC 6761). The engine's own default is every page of every browser."""


class Rule(StrEnum):
    """Who decides about a flag."""

    OPERATOR = "operator"
    OURS = "ours"
    """Taken out, with a note that says where it is decided."""
    SECRET = "secret"  # noqa: S105 - the name of a rule, not a secret
    """Refused: an argument vector can be read by every user of the machine, and this one stands in a file."""


class Flag(msgspec.Struct, frozen=True):
    """A flag of llama-server: every spelling of it, whether a value follows, and where it is decided if not here."""

    name: str
    aliases: tuple[str, ...] = ()
    value: bool = True
    off: tuple[str, ...] = ()
    """The spellings that switch it off, canonical one first."""
    rule: Rule = Rule.OPERATOR
    instead: str = ""
    bare: bool = False
    """Its value may be missing: older engines take none."""
    joins: bool = False
    """Said again it adds to its value, after a comma, where other flags replace it."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator should know about one configured flag. A refused one stops the preparation."""

    flag: str
    message: str
    hint: str
    refused: bool = False


class Configured(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's flags, in order: what we know (one setting per flag, by name), then the rest as it stood."""

    settings: tuple[tuple[str, ...], ...] = ()
    rest: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def tokens(self) -> tuple[str, ...]:
        """As an argument vector."""
        return (*(token for setting in self.settings for token in setting), *self.rest)

    def value(self, spelled: str) -> str | None:
        """What is set under the spelling of ours: a value, empty for a flag without one, None where it is not set."""
        return next(("".join(setting[1:]) for setting in self.settings if setting[0] == spelled), None)


def _ours(instead: str, *flags: Flag) -> list[Flag]:
    return [msgspec.structs.replace(flag, rule=Rule.OURS, instead=instead) for flag in flags]


_TABLE: tuple[Flag, ...] = (
    *_ours(
        "pools[].model says which model is served",
        Flag("--model", ("-m",)),
        Flag("--model-url", ("-mu",)),
        Flag("--hf-repo", ("-hf", "-hfr")),
        Flag("--hf-file", ("-hff",)),
        Flag("--docker-repo", ("-dr",)),
        Flag("--models-dir"),
        Flag("--models-preset"),
    ),
    *_ours(
        "llama-orch chooses the address: loopback, and a free port",
        Flag("--host"),
        Flag("--port"),
        Flag("--reuse-port", value=False),
        Flag("--api-prefix"),
        Flag("--ssl-key-file"),
        Flag("--ssl-cert-file"),
    ),
    *_ours("set pools[].ctx, in tokens for each slot", Flag("--ctx-size", ("-c",))),
    *_ours("set pools[].slots", Flag("--parallel", ("-np",))),
    *_ours("set pools[].tensor_split", Flag("--tensor-split", ("-ts",))),
    *_ours(
        "llama-orch decides it, because it relies on it",
        Flag("--metrics", value=False),
        Flag("--slots", value=False, off=("--no-slots",)),
        Flag("--ui", ("--webui",), value=False, off=("--no-ui", "--no-webui")),
        Flag("--cors-origins"),
        Flag("--fit", ("-fit",)),
    ),
    *_ours(
        "it makes the engine print something and end",
        Flag("--help", ("-h", "--usage"), value=False),
        Flag("--version", value=False),
        Flag("--list-devices", value=False),
        Flag("--cache-list", ("-cl",), value=False),
        Flag("--completion-bash", value=False),
    ),
    Flag("--api-key", rule=Rule.SECRET, instead="every start of an engine gets a fresh key by itself"),
    Flag("--api-key-file", rule=Rule.SECRET, instead="every start of an engine gets a fresh key by itself"),
    Flag("--hf-token", ("-hft",), rule=Rule.SECRET, instead="models are fetched before the engine starts"),
    Flag("--n-gpu-layers", ("-ngl", "--ngl", "--gpu-layers")),
    Flag("--n-gpu-layers-draft", ("-ngld", "--gpu-layers-draft", "--spec-draft-ngl")),
    Flag("--device", ("-dev",)),
    Flag("--device-draft", ("-devd", "--spec-draft-device")),
    Flag("--rpc"),
    Flag("--override-tensor", ("-ot",), joins=True),
    Flag("--override-tensor-draft", ("-otd", "--spec-draft-override-tensor"), joins=True),
    Flag("--split-mode", ("-sm",)),
    Flag("--main-gpu", ("-mg",)),
    Flag("--n-cpu-moe", ("-ncmoe",)),
    Flag("--cpu-moe", ("-cmoe",), value=False),
    Flag("--n-cpu-moe-draft", ("-ncmoed", "--spec-draft-n-cpu-moe", "--spec-draft-ncmoe")),
    Flag("--cpu-moe-draft", ("-cmoed", "--spec-draft-cpu-moe"), value=False),
    Flag("--n-cpu-ffn", ("-ncffn",)),
    Flag("--threads", ("-t",)),
    Flag("--threads-batch", ("-tb",)),
    Flag("--threads-http"),
    Flag("--batch-size", ("-b",)),
    Flag("--ubatch-size", ("-ub",)),
    Flag("--n-predict", ("-n", "--predict")),
    Flag("--cache-type-k", ("-ctk",)),
    Flag("--cache-type-v", ("-ctv",)),
    Flag("--cache-ram", ("-cram",)),
    Flag("--cache-reuse"),
    Flag("--cache-prompt", value=False, off=("--no-cache-prompt",)),
    Flag("--cont-batching", ("-cb",), value=False, off=("--no-cont-batching", "-nocb")),
    Flag("--kv-unified", ("-kvu",), value=False, off=("--no-kv-unified", "-no-kvu")),
    Flag("--kv-offload", ("-kvo",), value=False, off=("--no-kv-offload", "-nkvo")),
    Flag("--op-offload", value=False, off=("--no-op-offload",)),
    Flag("--flash-attn", ("-fa",), bare=True),
    Flag("--swa-full", value=False),
    Flag("--warmup", value=False, off=("--no-warmup",)),
    Flag("--embedding", ("--embeddings",), value=False),
    Flag("--reranking", ("--rerank",), value=False),
    Flag("--pooling"),
    Flag("--seed", ("-s",)),
    Flag("--alias", ("-a",)),
    Flag("--numa"),
    Flag("--mmproj", ("-mm",)),
    Flag("--mmproj-offload", value=False, off=("--no-mmproj-offload",)),
    Flag("--mmproj-device", ("-mmdev",)),
    Flag("--slot-save-path"),
    Flag("--timeout", ("-to",)),
    Flag("--sse-ping-interval"),
    Flag("--verbosity", ("-lv", "--log-verbosity")),
)


def _spellings() -> dict[str, tuple[Flag, str]]:
    table: dict[str, tuple[Flag, str]] = {}
    for flag in _TABLE:
        table |= dict.fromkeys((flag.name, *flag.aliases), (flag, flag.name))
        if flag.off:
            table |= dict.fromkeys(flag.off, (flag, flag.off[0]))
    return table


_SPELLINGS = MappingProxyType(_spellings())


def lookup(token: str) -> tuple[Flag, str] | None:
    """The flag that a token names, and how we spell it; llama-server takes ``_`` for ``-`` in long names, so do we."""
    name = token.replace("_", "-") if token.startswith("--") else token
    return _SPELLINGS.get(name)


def configured(flags: Sequence[str], profile: Profile) -> Configured:
    """What the operator's flags come to. Total: whatever the strings are, this does not raise.

    An element may be a flag, a value, ``--flag=value``, or a flag with its value after white space.
    """
    todo = deque(flags)
    settings: dict[str, tuple[str, ...]] = {}
    rest: list[str] = []
    notes: list[Note] = []
    while todo:
        token, value = _take(todo)
        found = lookup(token)
        if found is None:
            rest.append(token)
            continue
        flag, spelled = found
        if flag.value and value is None and not flag.bare:
            text = f"{token} needs a value"
            notes.append(Note(flag=flag.name, message=text, hint="add it, or remove the flag", refused=True))
        elif flag.rule is not Rule.OPERATOR:
            notes.append(_note_on(flag, token))
        elif flag.joins and flag.name in settings:
            settings[flag.name] = (spelled, f"{settings[flag.name][1]},{value}")
        else:
            settings[flag.name] = (spelled,) if value is None else (spelled, value)
    if profile is Profile.HOME:
        notes += _on_gpus_only(settings)
    return Configured(settings=tuple(settings[name] for name in sorted(settings)), rest=tuple(rest), notes=tuple(notes))


def llama_server_args(pool: Pool, profile: Profile, known: frozenset[str] | None = None) -> tuple[str, ...]:
    """The argument vector for this pool, with the placeholders for model, host and port.

    ``known`` are the flags of this engine (None: not known, and only what every llama-server has is used). The context
    is given over all slots, as llama-server counts it, so each slot has ``pool.ctx`` tokens of its own.
    """
    args = ["--model", MODEL, "--host", HOST, "--port", PORT]
    args += ["--ctx-size", str(pool.ctx * pool.slots), "--parallel", str(pool.slots), "--metrics", "--slots"]
    args += _in_its_spelling(known, ("--no-ui",), ("--no-webui",), default=("--no-webui",))
    args += _in_its_spelling(known, ("--cors-origins", NO_ORIGIN))
    # Fitting to free memory lowers the context and the offloaded layers without a word.
    args += _in_its_spelling(known, ("--fit", "off"))
    defaults: dict[str, tuple[str, ...]] = {}
    # Slots can be erased only with a directory to save them to. Nothing is saved, and nothing can be in this one.
    if erasing := _in_its_spelling(known, ("--slot-save-path", "/")):
        defaults["--slot-save-path"] = erasing
    if profile is Profile.HOME:
        defaults["--n-gpu-layers"] = ("--n-gpu-layers", ALL_LAYERS)
    if pool.slots == 1:
        defaults["--cont-batching"] = ("--no-cont-batching",)
    if pool.tensor_split and profile is Profile.HOME:
        defaults["--tensor-split"] = ("--tensor-split", ",".join(f"{share:g}" for share in pool.tensor_split))
    theirs = configured(pool.flags, profile)
    chosen = defaults | {_name_of(setting): setting for setting in theirs.settings}
    args += [token for name in sorted(chosen) for token in chosen[name]]
    return (*args, *theirs.rest)


def flag_findings(pool: Pool, profile: Profile) -> tuple[Finding, ...]:
    """The configured flags that must not reach an engine."""
    return tuple(
        Finding(check="flags", message=f"pools[{pool.id}].flags: {note.message}", why=_WHY, hint=note.hint)
        for note in configured(pool.flags, profile).notes
        if note.refused
    )


_WHY = "the engine would not start as configured, or not be safe or not compute where this pool may"

_HELP_LINE = re.compile(r"^\s*((?:-{1,2}[A-Za-z][\w-]*(?:,\s+)?)+)")
_FLAG = re.compile(r"-{1,2}[A-Za-z][\w-]*")


def flags_in_help(text: str) -> frozenset[str] | None:
    """The flags that an engine's ``--help`` lists; None where this is not the help of a llama-server."""
    heads = [match[1] for line in text.splitlines() if (match := _HELP_LINE.match(line))]
    found = frozenset(flag for head in heads for flag in _FLAG.findall(head))
    return found if {"--model", "--port"} <= found else None


def _take(todo: deque[str]) -> tuple[str, str | None]:
    """The next flag with its value, or the next token as it stands."""
    token = todo.popleft()
    if not token.startswith("-"):
        return token, None
    name, equals, inline = token.partition("=")
    found = lookup(name)
    if equals and found and found[0].value:
        return name, None if _names_a_flag(inline) else inline
    head, *tail = token.split(maxsplit=1)
    todo.extendleft(tail)
    found = lookup(head)
    takes_next = found is not None and found[0].value and bool(todo) and not _names_a_flag(todo[0])
    if takes_next and found is not None and found[0].bare:
        takes_next = todo[0] in _SWITCH_WORDS
    return head, todo.popleft() if takes_next else None


_SWITCH_WORDS = frozenset({"on", "off", "auto", "enabled", "disabled", "true", "false", "1", "0"})


def _names_a_flag(text: str) -> bool:
    """Whether this is the next flag rather than the value of the one before it."""
    words = text.partition("=")[0].split(maxsplit=1)
    return bool(words) and lookup(words[0]) is not None


def _note_on(flag: Flag, token: str) -> Note:
    if flag.rule is Rule.SECRET:
        text = f"{token} would put a secret into a file and into the process list"
        return Note(flag=flag.name, message=text, hint=f"remove it: {flag.instead}", refused=True)
    return Note(flag=flag.name, message=f"{token} in pools[].flags is left out", hint=flag.instead)


def _on_gpus_only(settings: dict[str, tuple[str, ...]]) -> list[Note]:
    """What is to be said of the settings in profile home; their numbers get the one spelling that is read alike."""
    notes = []
    for name, (spelled, *values) in settings.items():
        found = judge(spelled, values[0] if values else None)
        settings[name] = (spelled,) if found.value is None else (spelled, found.value)
        if found.message:
            notes.append(Note(flag=name, message=found.message, hint=found.hint, refused=found.refused))
    return notes


def _in_its_spelling(
    known: frozenset[str] | None, *choices: tuple[str, ...], default: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The first choice whose flag the engine has; ``default`` where its flags are not known."""
    if known is None:
        return default
    return next((choice for choice in choices if choice[0] in known), ())


def _name_of(setting: tuple[str, ...]) -> str:
    found = lookup(setting[0])
    return found[0].name if found else setting[0]
