"""What plan, preflight and ensure found out, as an operator reads it and as a program does.

Decides the words, the exit status and what is left out: a secret that is known is shown as ``***`` everywhere, what
looks like one where an engine's arguments and environment are shown, and never in our own sentences. Never asks a
provider anything.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from contracts.base import Message, writable
from contracts.engines import ContainerRun, Finding, Plan, PreparedEngine
from contracts.pools import Cause
from daemon_core.errors import EXIT_FAILURE, EXIT_RETRY
from daemon_core.redaction import Redactor
from engine_provisioner.errors import ProvisionError, render


class Failure(Message, frozen=True, kw_only=True):
    """Why a pool has no engine. ``retriable``: the same command may succeed later."""

    cause: Cause
    message: str
    hint: str
    findings: tuple[Finding, ...] = ()
    retriable: bool = False


class Result(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What a command found out about one pool; only its own field is set, or ``error``."""

    pool_id: str
    plan: Plan | None = None
    findings: tuple[Finding, ...] | None = None
    engine: PreparedEngine | None = None
    error: Failure | None = None

    @property
    def good(self) -> bool:
        """Whether nothing is in the way."""
        return self.error is None and not self.findings


def failed(pool_id: str, error: ProvisionError) -> Result:
    """The result for a pool whose provider gave up."""
    failure = Failure(
        cause=error.cause,
        message=error.message,
        hint=error.hint,
        findings=error.findings,
        retriable=error.retriable,
    )
    return Result(pool_id=pool_id, error=failure)


def exit_status(results: Sequence[Result]) -> int:
    """0 where nothing is in the way, 75 where all that is may go away by itself, else 1."""
    bad = [result for result in results if not result.good]
    if not bad:
        return 0
    return EXIT_RETRY if all(result.error is not None and result.error.retriable for result in bad) else EXIT_FAILURE


def readable(result: Result, redactor: Redactor) -> str:
    """The lines about one pool, without a line break at the end."""
    return redactor.prose("\n".join(_lines(result, redactor)))


def document(results: Sequence[Result], redactor: Redactor) -> str:
    """The JSON document about all pools."""
    shown = [_shown(msgspec.to_builtins(result), redactor) for result in results]
    return msgspec.json.format(msgspec.json.encode(shown)).decode()


def _shown(result: dict[str, object], redactor: Redactor) -> dict[str, object]:
    """A result in built-in types: its engine is values throughout, all else is prose."""
    return {name: redactor.value(item) if name == "engine" else _prose(item, redactor) for name, item in result.items()}


def _prose(item: object, redactor: Redactor) -> object:
    match item:
        case str():
            return redactor.prose(writable(item))
        case dict():
            return {name: _prose(value, redactor) for name, value in item.items()}
        case list() | tuple():
            return [_prose(value, redactor) for value in item]
        case _:
            return item


def _lines(result: Result, redactor: Redactor) -> list[str]:
    name = result.pool_id
    if result.error is not None:
        error = result.error
        failure = ProvisionError(error.cause, error.message, error.hint, error.findings)
        return [f"{name}: failed", failure.render()]
    if result.plan is not None:
        steps = enumerate(result.plan.steps, start=1)
        return [f"{name}:", *(f"  {number}. {step.detail}" for number, step in steps)]
    if result.findings is not None:
        found = result.findings
        return [f"{name}: {len(found)} found", *map(render, found)] if found else [f"{name}: nothing is in the way"]
    return [name] if result.engine is None else _engine_lines(name, result.engine, redactor)


def _engine_lines(name: str, engine: PreparedEngine, redactor: Redactor) -> list[str]:
    version = engine.engine_version.removeprefix(f"{engine.engine} ")
    if engine.build_ref and engine.build_ref != version and engine.container is None:
        version = f"{version} {engine.build_ref}"
    argv = (*((engine.bin_or_entry,) if engine.bin_or_entry else ()), *engine.args)
    facts = [
        ("endpoint", engine.url),
        *(_container_facts(engine.container) if engine.container else ()),
        ("command", redactor.text(shlex.join(argv))),
        ("env", _environment(engine, redactor)),
        ("key", f"a new one at each start, in {engine.key_env}" if engine.key_env and engine.url is None else None),
        ("digest", engine.engine_digest),
        ("catalog", engine.engine_catalog_id),
    ]
    return [
        f"{name}: {engine.engine} {version}, mode {engine.provisioning_mode}",
        *(f"  {label + ':':<9} {value}" for label, value in facts if value),
    ]


def _container_facts(run: ContainerRun) -> list[tuple[str, str | None]]:
    return [
        ("image", f"{run.image}@{run.digest}" + (f" (tag {run.tag})" if run.tag else "")),
        ("runtime", f"{run.runtime}: {run.runtime_reason}"),
    ]


def _environment(engine: PreparedEngine, redactor: Redactor) -> str:
    return " ".join(f"{name}={redactor.member(name, value)}" for name, value in sorted(engine.env.items()))
