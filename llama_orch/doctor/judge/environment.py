"""What programs that the service manager starts get to see, beside what this shell sees.

Decides which differences matter: programs that pools need, and variables that change how things are fetched. Only names
of variables are told, never their values.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from contracts.base import Message
from llama_orch.doctor.base import Kind, Result, ok, skipped
from llama_orch.doctor.mends import quoted

CHECK = "environment"
FILE = "~/.config/llama-orch/environment"

NOT_ON_PATH = Kind(
    id="environment.not-on-path",
    what="a program that a pool needs is on this shell's PATH, and not on that of the units",
    why="pool-managerd runs with the service manager's PATH: it does not find what you find",
    mend=f"write the PATH into {FILE} (mode 0600), then: systemctl --user restart pool-managerd",
)
NO_KEY = Kind(
    id="environment.no-key",
    what="the key of an external endpoint is in this shell's environment, and not in that of the units",
    why="the endpoint refuses what orchestratord asks without it",
    mend=f"write the variable into {FILE} (mode 0600), then: systemctl --user restart llama-orch.target",
)
ONLY_HERE = Kind(
    id="environment.only-here",
    what="variables that change how models are fetched and built are set in this shell, and not in the units",
    why="what works by hand may fail in the daemons: gated models, proxies, another CUDA toolkit",
    mend=f"write them into {FILE} (mode 0600), then: systemctl --user restart llama-orch.target",
    note=True,
)

TELLING = frozenset(
    {
        *("HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "HUGGING_FACE_HUB_TOKEN"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
        *("CUDACXX", "CUDA_HOME", "CUDA_PATH", "CUDAToolkit_ROOT", "CC", "CXX", "NVCC_CCBIN", "CUDAHOSTCXX"),
        *("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
        *("DOCKER_HOST", "CONTAINER_HOST", "REGISTRY_AUTH_FILE"),
    }
)
"""Set in the shell alone, each of these explains why the daemons do something else."""

_ANSI = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|(.))", re.DOTALL)
_NAMED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b", "s": " "}


class Program(Message, frozen=True, kw_only=True):
    """One program that a pool needs, and where it is found with each PATH."""

    name: str
    here: str | None
    there: str | None


def shown_environment(text: str) -> dict[str, str]:
    """What ``systemctl --user show-environment`` printed: NAME=value, or NAME=$'value with escapes'."""
    found = {}
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator:
            ansi = value.startswith("$'") and value.endswith("'")
            found[name] = _ANSI.sub(_unescaped, value[2:-1]) if ansi else _plain(value)
    return found


def file_environment(text: str) -> dict[str, str]:
    """The variables of an EnvironmentFile; lines that are none are passed over."""
    found = {}
    for line in text.splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and re.fullmatch(r"[A-Za-z_]\w*", name):
            found[name] = _plain(value.strip())
    return found


def judge(
    here: Mapping[str, str],
    there: Mapping[str, str] | None,
    programs: Sequence[Program],
    keys: Sequence[str],
    *,
    installed: bool,
) -> list[Result]:
    """``there`` is the environment of the units; None where no service manager answers."""
    if not installed:
        return [skipped(CHECK, "no unit of llama-orch is installed")]
    if there is None:
        return [skipped(CHECK, "the user's service manager does not answer")]
    found = []
    lacking = {program.name: program.here for program in programs if program.here and not program.there}
    if lacking:
        text = ", ".join(f"{name} is {path}" for name, path in lacking.items())
        folders = dict.fromkeys(path.rpartition("/")[0] for path in lacking.values() if path)
        path = ":".join([*folders, there.get("PATH", "/usr/local/bin:/usr/bin:/bin")])
        line = shlex.quote(f"PATH={quoted(path)}")
        mend = f"echo {line} >> {FILE}; chmod 600 {FILE}; systemctl --user restart pool-managerd"
        found.append(NOT_ON_PATH.found(f"{text} here, and the units find none", mend))
    if missing := [key for key in keys if here.get(key) and not there.get(key)]:
        found.append(NO_KEY.found(f"{', '.join(missing)} is set here, and not in the units"))
    if only_here := sorted(name for name in TELLING if here.get(name) and not there.get(name)):
        found.append(ONLY_HERE.found(f"{', '.join(only_here)} is set here, and not in the units"))
    return found or [ok(CHECK, f"the units find what is found here; their PATH: {there.get('PATH', 'the usual one')}")]


def _plain(value: str) -> str:
    try:
        return "".join(shlex.split(value))
    except ValueError:
        return value


def _unescaped(match: re.Match[str]) -> str:
    code, octal, other = match[1], match[2], match[3]
    if code:
        return chr(int(code, 16))
    return chr(int(octal, 8)) if octal else _NAMED.get(other, other)
