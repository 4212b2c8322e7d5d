import os
import shutil
import subprocess
from pathlib import Path

from daemon_core.procfs import boot_id, stat_of, stats


def test_a_process_is_told_by_parent_group_session_and_start() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as child:
        seen, own = stat_of(child.pid), stat_of(os.getpid())
        everybody = {stat.pid: stat for stat in stats()}
        child.communicate()
    assert seen is not None
    assert own is not None
    assert (seen.alive, seen.parent, seen.group, seen.session) == (True, os.getpid(), child.pid, child.pid)
    assert (own.parent, own.group, own.session) == (os.getppid(), os.getpgrp(), os.getsid(0))
    assert 0 < own.start_time_ticks <= seen.start_time_ticks
    assert everybody[child.pid] == seen
    assert stat_of(child.pid) is None


def test_a_zombie_is_there_and_not_alive() -> None:
    child = subprocess.Popen(["true"], stdin=subprocess.DEVNULL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    seen = stat_of(child.pid)
    child.wait()
    assert seen is not None
    assert not seen.alive


def test_a_name_with_blanks_parentheses_and_bytes_that_are_no_text_confuses_nobody(tmp_path: Path) -> None:
    program = tmp_path / os.fsdecode(b") Z 1 \xff(")
    shutil.copy(shutil.which("cat") or "", program)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as child:
        seen = stat_of(child.pid)
        child.communicate()
    assert seen is not None
    assert (seen.alive, seen.parent) == (True, os.getpid())


def test_a_boot_has_one_name() -> None:
    name = boot_id()
    assert name == boot_id()
    assert len(name) == len("00000000-0000-0000-0000-000000000000")
