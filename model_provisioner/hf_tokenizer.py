"""What the files beside a ``config.json`` say of a model's tokenizer and of its chat templates.

Decides which of several templates is the one that is used when nobody names one, as the transformers library does, and
what a tokenizer is called. Takes bytes, never touches a file. Whatever they are, it ends in a value or ConfigError.
"""

from __future__ import annotations

import hashlib
import re
from types import MappingProxyType

import msgspec

from model_provisioner import json_fields
from model_provisioner.json_fields import MAX_NUMBER, ConfigError, Shape

CONFIG = "tokenizer_config.json"
TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"

LIMITS: MappingProxyType[str, int] = MappingProxyType(
    {CONFIG: 8 << 20, TEMPLATE: 1 << 20, TEMPLATE_JSON: 2 << 20, TOKENIZER: 4 << 20}
)
"""The most of each file that is read, in bytes. All but TOKENIZER, of which this is the front, have to be shorter."""

_DEFAULT = "default"
_MAX_TEMPLATE_BYTES = 1 << 20
_CONFIG = Shape("tokenizer_class", "model_max_length", "chat_template")
_MODEL = re.compile(rb'"model"\s*:\s*\{\s*"type"\s*:\s*"([A-Za-z0-9_]{1,64})"')


class Tokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of the tokenizer; None where nothing is. ``limit`` is how many tokens it allows."""

    kind: str | None = None
    limit: int | None = None
    templates: dict[str, str] = msgspec.field(default_factory=dict)
    """The sha256 of each chat template, bare hex, by its name."""

    @property
    def default(self) -> str | None:
        """The template that is used when nobody names one."""
        return _DEFAULT if _DEFAULT in self.templates else None


class _Named(msgspec.Struct):
    name: msgspec.Raw
    template: msgspec.Raw


def config(data: bytes) -> Tokenizer:
    """Read a ``tokenizer_config.json``. Raises ConfigError."""
    fields = _CONFIG.read(data)
    kind, limit, template = (fields.get(name) for name in ("tokenizer_class", "model_max_length", "chat_template"))
    return Tokenizer(
        kind=None if kind is None else json_fields.name_in("tokenizer_class", kind),
        limit=None if limit is None else _limit(limit),
        templates={} if template is None else _templates(template),
    )


def template(data: bytes) -> dict[str, str]:
    """Read a ``chat_template.jinja``: it stands for all templates that are said elsewhere."""
    return {_DEFAULT: hashlib.sha256(data).hexdigest()} if data else {}


def template_json(data: bytes) -> dict[str, str]:
    """Read a ``chat_template.json``. Raises ConfigError."""
    found = _CONFIG.read(data).get("chat_template")
    return {} if found is None else _templates(found)


def kind_of_model(front: bytes) -> str | None:
    """The kind of a tokenizer, from the first bytes of its ``tokenizer.json``; None where they do not say it."""
    found = _MODEL.search(front)
    return None if found is None else found[1].decode()


def _limit(value: bytes) -> int | None:
    """Where there is none, the library writes 1e30 in many digits."""
    try:
        found = json_fields.number("model_max_length", value)
    except ConfigError:
        return None
    return int(found) if 0 < found <= MAX_NUMBER else None


def _templates(value: bytes) -> dict[str, str]:
    if value.startswith(b'"'):
        return _hashed({_DEFAULT: value})
    if not value.startswith(b"[") or len(value) > _MAX_TEMPLATE_BYTES:
        raise ConfigError("chat_template is neither a text nor a list of them")
    try:
        listed = msgspec.json.decode(value, type=list[_Named])
    except msgspec.DecodeError:
        raise ConfigError("chat_template lists something without a name and a template") from None
    named = {json_fields.name_in("chat_template.name", bytes(each.name)): bytes(each.template) for each in listed}
    return _hashed(named)


def _hashed(found: dict[str, bytes]) -> dict[str, str]:
    texts = {name: json_fields.text("chat_template", value, _MAX_TEMPLATE_BYTES) for name, value in found.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items() if text}
