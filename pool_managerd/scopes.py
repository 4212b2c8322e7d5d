"""Decides how an engine gets a control group that outlives pool-managerd: what is typed for systemd-run.

Under the user's service manager everything that pool-managerd starts belongs to its unit, and is killed with it. An
engine in a transient scope below a slice of ours is not. Values in, values out; never asks the service manager.
"""

from __future__ import annotations

from collections.abc import Mapping

SLICE = "llama-orch-engines.slice"
"""A unit of ours: a stop of llama-orch.target clears it, after pool-managerd has ended."""
LAST_RESORT_S = 10
"""How long an engine that pool-managerd did not end has between TERM and KILL, when the slice is cleared."""
BUS = ("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR")
"""By these systemd-run finds the user's service manager."""
_SAID_BY_SYSTEMD_RUN = ("INVOCATION_ID",)


def is_service(environ: Mapping[str, str], pid: int) -> bool:
    """Whether this process was started by the user's service manager, and not a shell that inherited its variables."""
    return "MANAGERPID" in environ and environ.get("SYSTEMD_EXEC_PID") == str(pid)


def own_unit(cgroup: str) -> str | None:
    """The service that this control group is; None where it is none."""
    name = cgroup.rstrip("/").rpartition("/")[2]
    return name if name.endswith(".service") else None


def slice_of(cgroup: str) -> str | None:
    """The control group of our slice, beside the one of a service of the same manager; None outside of one."""
    before, manager, _ = cgroup.partition("/user@")
    if not manager:
        return None
    user = cgroup[len(before) :].split("/")[1]
    parts = SLICE.removesuffix(".slice").split("-")
    slices = ["-".join(parts[: number + 1]) + ".slice" for number in range(len(parts))]
    return "/".join([before, user, *slices])


def is_engines(cgroup: str) -> bool:
    """Whether this control group is in our slice."""
    return SLICE in cgroup.split("/")


def scope_argv(instance: str, token: str, service: str, *, trial: bool = False) -> tuple[str, ...]:
    """What stands before a program that is to run in a scope of its own: it keeps the pid and every open file.

    ``token`` makes the name unique, because a former scope of the same place may still be there. At a stop ``service``,
    which is ours, comes first: it has ended its engines when the scope's turn comes. ``trial``: no engine will run in
    it, which whoever reads the service manager's log should see.
    """
    kind, about = ("trial", "whether engines get a scope, for") if trial else ("engine", "engine of")
    return (
        "systemd-run",
        "--user",
        "--scope",
        "--quiet",
        "--collect",
        f"--slice={SLICE}",
        f"--unit=llama-orch-{kind}-{instance}-{token}.scope",
        f"--description=llama-orch: {about} {instance}",
        f"--property=Before={service}",
        f"--property=TimeoutStopSec={LAST_RESORT_S}s",
        "--",
    )


def without_bus(environ: Mapping[str, str]) -> dict[str, str]:
    """A daemon's environment without the way to its user's session, which is no business of an engine."""
    return {name: value for name, value in environ.items() if name != BUS[0]}


def with_bus(env: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of systemd-run: a program's own, and the way to the service manager."""
    return {**env, **{name: environ[name] for name in BUS if name in environ}}


def as_it_was(env: Mapping[str, str], given: Mapping[str, str], program: str) -> tuple[str, ...]:
    """What stands between systemd-run, which was ``given`` this, and a program, so that that gets ``env`` as it is."""
    added = (name for name in (*BUS, *_SAID_BY_SYSTEMD_RUN) if name not in env)
    changed = (f"{name}={env[name]}" for name in BUS if name in env and env[name] != given[name])
    # env takes a path with such a sign in it for a variable to set. nice does not, and alters nothing.
    keeps_off = ("nice", "-n", "0") if "=" in program else ()
    return ("env", *(f"--unset={name}" for name in added), *changed, *keeps_off)
