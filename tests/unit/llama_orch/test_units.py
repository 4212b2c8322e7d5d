from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_orch.units.files import (
    Found,
    Standing,
    is_unit,
    ownership,
    rendered,
    stale,
    standing,
    version_of,
    why_not,
)
from llama_orch.units.manager import ServiceManager
from llama_orch.units.state import engines_of, read_states, row, state_text

TEMPLATE = """\
# @BINDIR@ stands here as a word
[Service]
ExecStart="@BINDIR@/orchestratord" --config %E/llama-orch/config.yaml
ExecReload="@BINDIR@/orchestratord" --check-config
"""


def unit(version: str = "1.0", template: str = TEMPLATE, bindir: str = "/opt/bin") -> str:
    return rendered("orchestratord.service", template, bindir, version)


def test_the_folder_of_the_programs_is_filled_in_where_it_counts() -> None:
    text = unit(bindir="/home/me/50% of it")
    assert 'ExecStart="/home/me/50%% of it/orchestratord" --config %E/' in text
    assert text.count("50%%") == 2
    assert "# @BINDIR@ stands here as a word" in text


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, Standing.MISSING),
        (Found(text=unit()), Standing.CURRENT),
        (Found(text=unit(version="0.9")), Standing.OLDER),
        (Found(text=unit(bindir="/elsewhere")), Standing.OLDER),
        (Found(text=unit().partition("\n")[2]), Standing.OLDER),  # by hand, from the same template
        (Found(text=unit().replace("--check-config", "--other")), Standing.EDITED),
        (Found(text=f"{unit()}\nNice=5\n"), Standing.EDITED),
        (Found(text="[Service]\nExecStart=/bin/true\n"), Standing.FOREIGN),
        (Found(text=""), Standing.FOREIGN),
        (Found(link="/dev/null"), Standing.LINK),
    ],
)
def test_a_file_says_whose_it_is(found: Found | None, expected: Standing) -> None:
    assert standing(found, unit()) is expected


@given(version=st.from_regex(r"[0-9a-z.+]{1,12}", fullmatch=True), body=st.text(alphabet="ab=[]\n #;%@", max_size=60))
def test_what_was_written_is_ours_until_somebody_changes_it(version: str, body: str) -> None:
    text = unit(version=version, template=body)
    assert ownership(Found(text=text)) is Standing.OLDER
    assert version_of(Found(text=text)) == version
    assert ownership(Found(text=f"{text}Nice=5\n")) is Standing.EDITED


def test_units_that_this_version_does_not_have_go_only_if_nobody_changed_them() -> None:
    found = {
        "old.service": Found(text=unit(version="0.1")),
        "edited.service": Found(text=f"{unit()}# mine\n"),
        "other.service": Found(text="[Unit]\n"),
        "orchestratord.service": Found(text=unit(version="0.1")),
    }
    assert stale(found, {"orchestratord.service": unit()}) == ("old.service",)


@pytest.mark.parametrize(("path", "fine"), [("/a b/50%/ü$", True), ('/a"b', False), ("/a\\b", False), ("/a\nb", False)])
def test_a_path_that_systemd_cannot_take_is_refused(path: str, fine: bool) -> None:
    assert (why_not(path) is None) is fine


@pytest.mark.parametrize(
    ("folder", "said", "read"),
    [
        (
            "/home/me/.config/systemd/user",
            "/run/user/1/systemd/user /home/me/.config/systemd/user /etc/systemd/user",
            True,
        ),
        ("/home/me/xdg/systemd/user", "/home/me/.config/systemd/user /etc/systemd/user", False),
        ("/home/me/systemd/user", "/home/me/systemd/user.control", False),
        ("/home/of me/systemd/user", '"/home/of me/systemd/user" /etc/systemd/user', True),  # told after writing
        ("/home/me/systemd/user", "", True),
    ],
)
def test_where_the_service_manager_looks_is_known_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, folder: str, said: str, *, read: bool
) -> None:
    manager = ServiceManager({})
    monkeypatch.setattr(manager, "ask", lambda *_: f"UnitPath={said}\n")
    assert manager.reads(Path(folder)) is read


def test_only_units_are_units() -> None:
    assert [
        name for name in ("a.service", "a.slice", "a.service.old", "a.service.d", ".a.service.7") if is_unit(name)
    ] == [
        "a.service",
        "a.slice",
    ]


SHOWN = """\
Id=orchestratord.service
LoadState=loaded
ActiveState=active
SubState=running
Result=success
ExecMainStatus=0
UnitFileState=static
FragmentPath=/home/me/.config/systemd/user/orchestratord.service
StateChangeTimestampMonotonic=51000000
ActiveEnterTimestampMonotonic=1000000
MainPID=42
NRestarts=3
WatchdogUSec=1min 30s
WatchdogTimestampMonotonic=60000000
MemoryCurrent=1048576
TasksCurrent=7
StatusText=2/2 pools ready, a=b
NeedDaemonReload=no
ControlGroup=/user.slice/app.slice/orchestratord.service

Id=pool-managerd.service
LoadState=loaded
ActiveState=failed
SubState=failed
Result=exit-code
ExecMainStatus=78
MainPID=0
NRestarts=0
WatchdogUSec=infinity
MemoryCurrent=[not set]
TasksCurrent=18446744073709551615
NeedDaemonReload=yes

Id=llama-orch-engine-gpu0-1.scope
LoadState=loaded
ActiveState=active
SubState=running
ControlGroup=/user.slice/llama.slice/llama-orch.slice/llama-orch-engines.slice/llama-orch-engine-gpu0-1.scope
MemoryCurrent=2147483648

Id=app-firefox.scope
LoadState=loaded
ActiveState=active
SubState=running
ControlGroup=/user.slice/app.slice/app-firefox.scope
"""


def test_what_the_service_manager_says_becomes_values() -> None:
    front, manager, engine, other = read_states(SHOWN, now_us=61_000_000)
    assert (front.pid, front.restarts, front.since_ms, front.watchdog_ms, front.fed_ms) == (
        42,
        3,
        60_000,
        90_000,
        1_000,
    )
    assert (front.memory_bytes, front.tasks, front.status) == (1 << 20, 7, "2/2 pools ready, a=b")
    assert (manager.pid, manager.memory_bytes, manager.tasks, manager.watchdog_ms) == (None, None, None, None)
    assert manager.needs_reload
    assert engines_of((front, manager, engine, other)) == (engine,)


def test_a_state_is_told_in_few_words() -> None:
    front, manager, engine, _ = read_states(SHOWN, now_us=61_000_000)
    assert [state_text(state) for state in (front, manager, engine)] == ["running", "failed: exit status 78", "running"]
    assert row(front) == ("orchestratord", "running", "1 min", 42, "1.0 MiB", 3, "1 min 30 s, fed 1 s ago")
    assert row(manager)[6] is None


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("LoadState=not-found\nActiveState=inactive\nSubState=dead", "not found"),
        ("LoadState=masked\nActiveState=inactive\nSubState=dead", "masked"),
        ("LoadState=loaded\nActiveState=inactive\nSubState=dead", "inactive"),
        ("LoadState=loaded\nActiveState=active\nSubState=active", "active"),
        ("LoadState=loaded\nActiveState=activating\nSubState=auto-restart", "activating (auto-restart)"),
        ("LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=watchdog", "failed: watchdog"),
    ],
)
def test_every_state_has_its_words(lines: str, text: str) -> None:
    (state,) = read_states(f"Id=a.service\n{lines}\n", now_us=1)
    assert state_text(state) == text


def test_nothing_said_is_nothing_known() -> None:
    assert read_states("", now_us=1) == ()
    assert read_states("nonsense\n\n\n", now_us=1) == ()
