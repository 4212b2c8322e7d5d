import errno

import pytest
from msgspec.structs import replace

from daemon_core.certificate import refused, shaken, untried
from daemon_core.errors import StartupError
from llama_orch.doctor.judge import clock, daemons, environment, lan, linger, ports, session, units, versions
from llama_orch.errors import UNREACHABLE, ApiError
from llama_orch.units.files import Standing
from llama_orch.units.state import UnitState
from tests.unit.llama_orch.doctor.support import ids

BINDIR = "/home/ada/venv/bin"


def unit(
    standing: Standing = Standing.CURRENT,
    bindir: str = BINDIR,
    *,
    name: str = "orchestratord.service",
    there: bool = True,
) -> units.Unit:
    return units.Unit(name=name, standing=standing, program=f"{bindir}/orchestratord", program_there=there)


def state(active: str = "active", **more: object) -> UnitState:
    known = UnitState(name="orchestratord.service", loaded="loaded", active=active, sub="running")
    return replace(known, **more)


@pytest.mark.req("OP-01")
@pytest.mark.parametrize(
    ("installed", "states", "expected"),
    [
        ([unit()], [state()], ["ok"]),
        ([unit()], None, ["ok"]),
        ([unit(Standing.OLDER)], None, ["out-of-date"]),
        ([unit(), unit(Standing.MISSING, name="llama-orch-engines.slice")], None, ["out-of-date"]),
        ([unit(Standing.MISSING)], None, ["skipped"]),
        ([unit(Standing.EDITED)], None, ["edited"]),
        ([unit(Standing.FOREIGN)], None, ["edited"]),
        ([unit(Standing.LINK)], None, ["edited"]),
        ([unit(there=False)], None, ["no-program"]),
        ([unit(Standing.OLDER, "/opt/other/bin")], None, ["other-program"]),
        ([unit(Standing.OLDER, "/opt/other/bin", there=False)], None, ["no-program"]),
        ([unit()], [state(needs_reload=True)], ["not-reloaded"]),
        ([unit()], [state("failed", result="exit-code", exit_status=1)], ["failed"]),
        ([unit()], [state(restarts=3)], ["restarting"]),
        ([unit()], [state(restarts=2)], ["ok"]),
    ],
)
def test_installed_units(installed: list[units.Unit], states: list[UnitState] | None, expected: list[str]) -> None:
    assert ids(units.judge(installed, states, BINDIR)) == [f"units.{each}" for each in expected]


def test_units_that_cannot_be_looked_at_are_passed_over_with_the_reason() -> None:
    (passed,) = units.judge([], None, "", "this installation lacks them")
    assert (passed.id, passed.what) == ("units.skipped", "this installation lacks them")


def test_the_program_of_a_unit_is_read_as_systemd_reads_it() -> None:
    assert (
        units.program_of('[Service]\nExecStart="/opt/50%% of it/orchestratord" --x\n') == "/opt/50% of it/orchestratord"
    )
    assert units.program_of('[Service]\nExecStart="@BINDIR@/orchestratord" --x\n') is None
    assert units.program_of("[Unit]\nWants=x\n") is None


def program(here: str | None, there: str | None) -> environment.Program:
    return environment.Program(name="nvcc", here=here, there=there)


@pytest.mark.parametrize(
    ("here", "programs", "expected"),
    [
        ({}, [program("/a/nvcc", "/b/nvcc")], ["ok"]),
        ({}, [program("/opt/cuda/bin/nvcc", None)], ["not-on-path"]),
        ({}, [program(None, None)], ["ok"]),  # that it is missing, the check engine says
        ({"OPENAI_KEY": "secret"}, [], ["no-key"]),
        ({"HF_TOKEN": "secret", "https_proxy": "secret"}, [], ["only-here"]),
        ({"PATH": "/x", "EDITOR": "vi"}, [], ["ok"]),
    ],
)
def test_what_the_units_do_not_see(
    here: dict[str, str], programs: list[environment.Program], expected: list[str]
) -> None:
    found = environment.judge(here, {"PATH": "/usr/bin"}, programs, ["OPENAI_KEY"], installed=True)
    assert ids(found) == [f"environment.{each}" for each in expected]
    assert "secret" not in str(found)


def test_the_mend_of_a_path_writes_a_whole_one() -> None:
    (found,) = environment.judge({}, {"PATH": "/usr/bin"}, [program("/opt/cuda/bin/nvcc", None)], (), installed=True)
    assert (found.mend or "").startswith("echo 'PATH=\"/opt/cuda/bin:/usr/bin\"' >> ~/.config/llama-orch/environment")


def test_without_units_or_a_manager_there_is_nothing_to_compare() -> None:
    assert ids(environment.judge({}, {}, (), (), installed=False)) == ["environment.skipped"]
    assert ids(environment.judge({}, None, (), (), installed=True)) == ["environment.skipped"]


def test_environments_are_read_as_systemd_writes_and_reads_them() -> None:
    shown = "PATH=/usr/bin:/bin\nEMPTY=\nODD=$'a b\\n\\x41\\'\\\\'\nnonsense\n"
    assert environment.shown_environment(shown) == {"PATH": "/usr/bin:/bin", "EMPTY": "", "ODD": "a b\nA'\\"}
    text = "# c\nPATH=\"/a b:/c\"\n HF_TOKEN=x \nBAD NAME=1\nQ='one' 'two'\nOPEN='x\n"
    assert environment.file_environment(text) == {"PATH": "/a b:/c", "HF_TOKEN": "x", "Q": "onetwo", "OPEN": "'x"}


LOGIN = session.Facts(
    uid=1000,
    user="ada",
    home="/home/ada",
    home_owner=1000,
    runtime="/run/user/1000",
    runtime_owner=1000,
    manager="running",
)


def login(**more: object) -> session.Facts:
    return replace(LOGIN, **more)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (login(), ["ok"]),
        (login(manager=None), ["no-manager"]),
        (login(manager=None, systemd=False), ["ok"]),
        (login(runtime="", runtime_owner=None), ["no-runtime"]),
        (login(runtime_owner=None), ["foreign-runtime"]),
        (login(runtime_owner=0), ["foreign-runtime"]),
        (login(home_owner=1001), ["foreign-home"]),
        (login(home_owner=0), ["ok"]),  # as in many containers
        (login(home_owner=None), ["no-home"]),
        (login(uid=0, home_owner=0, runtime="", runtime_owner=None), ["root"]),
    ],
)
def test_a_login(facts: session.Facts, expected: list[str]) -> None:
    assert ids(session.judge(facts)) == [f"session.{each}" for each in expected]


def test_lingering_matters_for_units_alone() -> None:
    assert ids(linger.judge("ada", installed=False, lingers=False)) == ["linger.skipped"]
    assert ids(linger.judge("ada", installed=True, lingers=True)) == ["linger.ok"]
    assert ids(linger.judge("ada", installed=True, lingers=False)) == ["linger.off"]


DAY = 86_400.0


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (clock.Facts(now_s=10 * DAY, installed_s=5 * DAY, synchronized=True), "ok"),
        (clock.Facts(now_s=10 * DAY, installed_s=5 * DAY), "ok"),
        (clock.Facts(now_s=10 * DAY, installed_s=5 * DAY, synchronized=False), "unsynchronized"),
        (clock.Facts(now_s=10 * DAY, installed_s=5 * DAY, synchronized=False, in_container=True), "ok"),
        (clock.Facts(now_s=2 * DAY, installed_s=5 * DAY, synchronized=True), "behind"),
        (clock.Facts(now_s=4.5 * DAY, installed_s=5 * DAY, synchronized=True), "ok"),
    ],
)
def test_a_clock(facts: clock.Facts, expected: str) -> None:
    assert ids(clock.judge(facts, "1970-01-03")) == [f"clock.{expected}"]


def daemon(started_s: float, prefix: str | None = "/venv") -> versions.Daemon:
    return versions.Daemon(name="orchestratord", pid=7, started_s=started_s, prefix=prefix)


@pytest.mark.parametrize(
    ("running", "said", "expected"),
    [
        ([], {}, ["skipped"]),
        ([daemon(200)], {}, ["ok"]),
        ([daemon(200)], {"pool-managerd": "1.0"}, ["ok"]),
        ([daemon(50)], {"orchestratord": "1.0"}, ["older"]),
        ([daemon(50, None)], {}, ["older"]),
        ([daemon(200, "/opt/other")], {}, ["other"]),
        ([], {"pool-managerd": "1.0", "orchestratord": "0.9"}, ["protocol"]),
        ([daemon(200)], {"pool-managerd": "0.9", "orchestratord": "0.9"}, ["protocol", "protocol"]),
    ],
)
def test_daemons_of_another_version(running: list[versions.Daemon], said: dict[str, str], expected: list[str]) -> None:
    found = versions.judge(running, 100.0, "/venv", said, "1.0")
    assert ids(found) == [f"versions.{each}" for each in expected]


def test_a_daemon_of_another_machine_is_not_to_be_restarted_here() -> None:
    (result,) = versions.judge([], 100.0, "/venv", {"orchestratord on http://gpu:8080": "0.9"}, "1.0", elsewhere=True)
    assert result.what == "orchestratord on http://gpu:8080 is version 0.9, and this is 1.0"
    assert result.mend == versions.ELSEWHERE


TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1
   1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1
"""


def test_a_listening_socket_is_found_by_its_port() -> None:
    assert ports.listening_inodes(TABLE, 8080) == {"4711"}
    assert ports.listening_inodes(TABLE, 81) == frozenset()
    assert ports.listening_inodes("", 80) == frozenset()


@pytest.mark.parametrize(
    ("error", "owner", "expected", "mend"),
    [
        (None, None, "ok", None),
        (errno.EADDRINUSE, ports.Owner(pid=42, command="python3 -m http.server"), "taken", "kill 42"),
        (errno.EADDRINUSE, ports.Owner(pid=42, command="/v/bin/python /v/bin/orchestratord"), "ok", None),
        (errno.EADDRINUSE, ports.Owner(pid=42, command="python -m orchestratord --config x"), "ok", None),
        (errno.EADDRINUSE, ports.Owner(pid=42, command="grep -r orchestratord/http ."), "taken", "kill 42"),
        (errno.EADDRINUSE, ports.Owner(pid=9, command="/lib/systemd/systemd --user"), "ok", None),
        (errno.EADDRINUSE, None, "taken", "sudo ss -ltnp"),
        (errno.EACCES, None, "privileged", "above 1023"),
        (errno.EADDRNOTAVAIL, None, "not-here", "ip -brief"),
        (errno.EAFNOSUPPORT, None, "refused", "server.bind"),
    ],
)
def test_an_address(error: int | None, owner: ports.Owner | None, expected: str, mend: str | None) -> None:
    (found,) = ports.judge("127.0.0.1:8080", 8080, error, "no", owner)
    assert found.id == f"ports.{expected}"
    assert (mend or "") in (found.mend or "")


@pytest.mark.req("OP-02")
@pytest.mark.parametrize(
    ("bind", "certificate", "expected"),
    [
        ("127.0.0.1:8080", None, "ok"),
        ("[::1]:8080", None, "ok"),
        ("192.168.1.5:8080", None, "plain"),
        ("0.0.0.0:8080", lan.Certificate(path="c", validity=shaken(60 * DAY, 10 * DAY)), "ok"),
        ("0.0.0.0:8080", lan.Certificate(path="c", validity=shaken(23 * DAY, 10 * DAY)), "certificate-expires"),
        ("0.0.0.0:8080", lan.Certificate(path="c", validity=refused(10, "expired")), "certificate-expired"),
        ("0.0.0.0:8080", lan.Certificate(path="c", validity=refused(66, "ee key too small")), "certificate-refused"),
        ("0.0.0.0:8080", lan.Certificate(path="c", validity=untried("no shared cipher")), "skipped"),
        ("127.0.0.1:8080", StartupError("no such file", "name a PEM file"), "certificate-unusable"),
    ],
)
def test_what_other_machines_reach(
    bind: str, certificate: lan.Certificate | StartupError | None, expected: str
) -> None:
    assert ids(lan.judge(bind, certificate)) == [f"lan.{expected}"]


def test_what_the_daemons_say() -> None:
    assert ids(daemons.unreached("u", ApiError(UNREACHABLE, "refused"))) == ["daemons.unreachable"]
    assert ids(daemons.unreached("u", ApiError(UNREACHABLE, "refused"), untouched=True)) == ["daemons.not-started"]
    assert ids(daemons.unreached("u", ApiError(UNREACHABLE, "refused"), 42, untouched=True)) == ["daemons.unreachable"]
    (runs,) = daemons.unreached("u", ApiError(UNREACHABLE, "refused"), 42)
    assert "orchestratord runs (process 42)" in runs.what
    assert runs.mend is not None
    assert runs.mend.startswith("systemctl --user restart orchestratord")  # a start would do nothing
    (strange,) = daemons.unreached("u", ApiError("HTTP_502", "bad gateway"))
    assert (strange.id, strange.why) == ("daemons.refused", "something else answers there")
    (refused,) = daemons.unreached("u", ApiError("BAD_TOKEN", "no"))
    assert (refused.id, refused.why) == ("daemons.refused", "the daemon refuses this user")
