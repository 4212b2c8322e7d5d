"""The throw-away host of the lab suite: what it needs, and how a test runs a script in it.

The host itself is made by the program `labhost` beside this file; its head says what is real in it.
"""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
LABHOST = HERE / "labhost"
# Hooks: a registry on 127.0.0.1:5000, and one on 127.0.0.1:5002 that wants a login; a docker daemon that the host's
# user may talk to. containers.sh has the functions for scripts that use them.
REGISTRY = HERE / "registry.hook"
DOCKER = HERE / "docker.hook"
# Starting the host and collecting its journal, on top of the script's own time. Takes a second; it is for what hangs.
OVERHEAD_S = 180

# A file of each package in tests/lab/PACKAGES, by which one sees that it is installed.
EVIDENCE = {
    "systemd": Path("/lib/systemd/systemd-journald"),
    "dbus-user-session": Path("/usr/lib/systemd/user/dbus.socket"),
    "uidmap": Path("/usr/bin/newuidmap"),
    "util-linux": Path("/usr/bin/unshare"),
    "mount": Path("/bin/mount"),
    "iproute2": Path("/bin/ip"),
    "procps": Path("/usr/bin/pgrep"),
    "curl": Path("/usr/bin/curl"),
    "gcc": Path("/usr/bin/gcc"),
    "libc6-dev": Path("/usr/include/stdio.h"),
    "podman": Path("/usr/bin/podman"),
    "crun": Path("/usr/bin/crun"),
    "netavark": Path("/usr/lib/podman/netavark"),
    "slirp4netns": Path("/usr/bin/slirp4netns"),
    "catatonit": Path("/usr/bin/catatonit"),
    "docker.io": Path("/usr/sbin/dockerd"),
    "iptables": Path("/usr/sbin/iptables"),
    "docker-registry": Path("/usr/bin/docker-registry"),
    "busybox-static": Path("/bin/busybox"),
}


def missing() -> tuple[str, ...]:
    """What this machine lacks for the lab: Debian packages, or a right."""
    packages = tuple(package for package, path in EVIDENCE.items() if not path.exists())
    if packages:
        return packages
    if os.geteuid() != 0:
        return ("root",)
    # A container may withhold it from its root.
    made = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False)
    return () if made.returncode == 0 else ("CAP_SYS_ADMIN",)


def mend(lacking: tuple[str, ...]) -> str:
    """What to do about it, in one line."""
    match lacking:
        case ("root",):
            return "lab needs: root, for namespaces of its own; sudo -E .venv/bin/python -m pytest tests/lab"
        case ("CAP_SYS_ADMIN",):
            return "lab needs: CAP_SYS_ADMIN, for namespaces of its own; start the container with --privileged"
        case packages:
            return f"lab needs: {' '.join(packages)}; apt-get install {' '.join(packages)}"


def readable_paths() -> list[Path]:
    """What the host must show for this checkout's programs to run: the checkout, its venv, the interpreter below it."""
    base = Path(sys.base_prefix)
    wanted = dict.fromkeys(
        [CHECKOUT, Path(sys.prefix), base, base.resolve(), Path(sys.executable).resolve().parents[1]]
    )
    always_there = Path("/usr")
    return [path for path in wanted if path != always_there]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a script ended: exit status, its output, and everything the host's journal holds."""

    rc: int
    stdout: str
    stderr: str
    journal: str

    def __str__(self) -> str:
        parts = {"stdout": self.stdout, "stderr": self.stderr, "journal": self.journal}
        return "\n".join([f"exit status {self.rc}", *(f"--- {name}\n{text}" for name, text in parts.items())])


class Lab:
    """Runs scripts, each on a new host."""

    def run(
        self,
        script: str,
        *,
        limit_s: int = 600,
        gpus: int = 0,
        hook: Path | tuple[Path, ...] | None = None,
        lan: bool = False,
        show: tuple[Path, ...] = (),
    ) -> Outcome:
        """Runs a bash script as the host's user and returns its outcome, whatever it is.

        The script has the functions of lib.sh, stops at the first failing command, and finds the variables CHECKOUT,
        PREFIX (the venv) and PYTHON. After `limit_s` it is ended with status 124. A `hook`, or several of them one
        after the other, runs as root before it. With `lan` there is a second machine on a cable. `show` makes more
        files readable for the script, under their own names.
        """
        with TemporaryDirectory(prefix="lab-") as scratch:
            journal = Path(scratch, "journal")
            # A file, not an argument: so that looking for processes by their command line does not find the script.
            code = Path(scratch, "script")
            code.write_text(prologue() + script)
            code.chmod(0o644)
            options = ["--limit", str(limit_s), "--gpus", str(gpus), "--journal", str(journal), "--show", str(code)]
            for path in (*readable_paths(), *show):
                options += ["--show", str(path)]
            options += ["--lan"] if lan else []
            for path in (hook,) if isinstance(hook, Path) else hook or ():
                options += ["--hook", str(path)]
            # The host ends with this process, even when that is killed.
            done = subprocess.run(
                ["setpriv", "--pdeathsig", "TERM", str(LABHOST), *options, "--", "bash", str(code)],
                capture_output=True,
                check=False,
                encoding="utf-8",
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=limit_s + OVERHEAD_S,
            )
            return Outcome(
                rc=done.returncode,
                stdout=done.stdout,
                stderr=done.stderr,
                journal=journal.read_text(errors="replace") if journal.exists() else "",
            )

    def check(
        self,
        script: str,
        *,
        limit_s: int = 600,
        gpus: int = 0,
        hook: Path | tuple[Path, ...] | None = None,
        lan: bool = False,
        show: tuple[Path, ...] = (),
    ) -> Outcome:
        """As `run`, for a script that must succeed."""
        outcome = self.run(script, limit_s=limit_s, gpus=gpus, hook=hook, lan=lan, show=show)
        assert outcome.rc == 0, str(outcome)
        return outcome


def prologue() -> str:
    """The first lines of every script."""
    variables = {"CHECKOUT": CHECKOUT, "PREFIX": sys.prefix, "PYTHON": sys.executable}
    lines = ["set -eu -o pipefail"]
    lines += [f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()]
    lines += ['. "$CHECKOUT/tests/lab/lib.sh"', ""]
    return "\n".join(lines)
