"""Whether the units outlive a logout. Decides what is said; whether somebody wants it, nobody can see."""

from __future__ import annotations

from llama_orch.doctor.base import Kind, Result, ok, skipped

CHECK = "linger"

OFF = Kind(
    id="linger.off",
    what="the units are installed, and this user does not linger",
    why="systemd ends them when the last session of this user does, and starts none at boot",
    mend="loginctl enable-linger",
    note=True,
)


def judge(user: str, *, installed: bool, lingers: bool) -> list[Result]:
    """Only units need it."""
    if not installed:
        return [skipped(CHECK, "no unit of llama-orch is installed")]
    if lingers:
        return [ok(CHECK, f"{user} lingers: the units start at boot and outlive a logout")]
    return [OFF.found(f"{user} does not linger")]
