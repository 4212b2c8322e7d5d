"""The ranges of user and group ids that rootless containers of this user may have.

Decides when they will do. Only podman without root needs any.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import field

from contracts.base import Message
from engine_provisioner.packages import Family
from llama_orch.doctor.base import Kind, Result, ok, skipped
from llama_orch.doctor.mends import install

CHECK = "subuid"
ENOUGH = 65_536

MISSING = Kind(
    id="subuid.missing",
    what="/etc/subuid or /etc/subgid gives this user no range, or a small one",
    why="the files of an image belong to many users; without a range rootless podman cannot unpack them",
    mend="sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER, then: podman system migrate",
)
NO_HELPER = Kind(
    id="subuid.no-helper",
    what="newuidmap or newgidmap is missing, or has no right to map ids",
    why="they set up the user namespace of every rootless container",
    mend="install the package uidmap (Debian, Ubuntu), shadow (Arch) or shadow-utils (Fedora) anew",
)
OVERLAP = Kind(
    id="subuid.overlap",
    what="the range of this user overlaps with that of another one",
    why="containers of the two can reach each other's files",
    mend="give each user a range of its own in /etc/subuid and /etc/subgid, then: podman system migrate",
    note=True,
)

_PACKAGE: Mapping[Family, str] = MappingProxyType(
    {Family.DEBIAN: "uidmap", Family.ARCH: "shadow", Family.FEDORA: "shadow-utils"}
)


class Facts(Message, frozen=True, kw_only=True):
    """What was seen."""

    user: str
    uid: int
    subuid: str = ""
    """The text of /etc/subuid."""
    subgid: str = ""
    helpers: dict[str, bool] = field(default_factory=dict)
    """Of newuidmap and newgidmap: whether it is there and may map."""
    other_source: bool = False
    """nsswitch.conf names another source than the files, such as sss."""


def judge(facts: Facts, pools: tuple[str, ...], distribution: Mapping[str, str], *, podman: bool) -> list[Result]:
    """``podman`` says whether it is installed."""
    if not pools:
        return [skipped(CHECK, "no pool runs in a container")]
    if facts.uid == 0:
        return [skipped(CHECK, "root has every id")]
    if not podman:
        return [skipped(CHECK, "podman is not installed")]
    found = []
    lacking = sorted(name for name, may in facts.helpers.items() if not may)
    if lacking:
        mend = install(_PACKAGE, "uidmap", distribution)
        found.append(NO_HELPER.found(f"{' and '.join(lacking)} cannot map ids", mend))
    counts = []
    for file, text in (("/etc/subuid", facts.subuid), ("/etc/subgid", facts.subgid)):
        own = [each for each in ranges(text) if each[0] in {facts.user, str(facts.uid)}]
        count = sum(each[2] for each in own)
        counts.append(count)
        if count < ENOUGH and not facts.other_source:
            found.append(MISSING.found(f"{file} gives {facts.user} {count or 'no'} ids, and {ENOUGH} are usual"))
        found += _overlaps(file, own, [each for each in ranges(text) if each not in own])
    text = "another source than the files has them" if facts.other_source else f"{min(counts)} ids for {facts.user}"
    return found or [ok(CHECK, text)]


def ranges(text: str) -> list[tuple[str, int, int]]:
    """The lines of a file: owner, first id, count."""
    found = []
    for line in text.splitlines():
        owner, _, rest = line.strip().partition(":")
        first, _, count = rest.partition(":")
        if owner and first.isdecimal() and count.isdecimal():
            found.append((owner, int(first), int(count)))
    return found


def _overlaps(file: str, own: list[tuple[str, int, int]], others: list[tuple[str, int, int]]) -> list[Result]:
    return [
        OVERLAP.found(f"{file}: {first}:{count} of {owner} is also {other}'s")
        for owner, first, count in own
        for other, its_first, its_count in others
        if first < its_first + its_count and its_first < first + count
    ]
