import pytest

from contracts.config import Auth
from daemon_core.errors import ConfigFileError, LocatedProblem, PathsError, TokenError
from llama_orch.doctor.judge import configuration, disk, filesystem, paths, permissions
from llama_orch.doctor.needs import Needs
from tests.unit.llama_orch.doctor.support import GIB, ids

MOUNTINFO = r"""
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
23 22 0:21 / /run/user/1000 rw,nosuid,nodev - tmpfs tmpfs rw,size=1g
24 22 0:40 / /srv/nas rw,relatime shared:1 - nfs4 nas:/home rw,vers=4.2
25 22 0:41 / /srv/my\040disk rw,noexec - ext4 /dev/sdb1 rw
26 22 0:42 / /mnt/broken rw - ext4 /dev/sdc1 ro,errors=remount-ro
27 24 0:43 / /srv/nas/local rw - xfs /dev/sdd1 rw
28 22 0:44 / /srv/nas rw - fuse.sshfs host: rw
nonsense
"""
MOUNTS = filesystem.mounts_in(MOUNTINFO)
NEEDS = Needs(programs=("p0",))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/ada/.cache", "ext4"),
        ("/run/user/1000/llama-orch", "tmpfs"),
        ("/run/user/10001", "ext4"),
        ("/srv/nas/x", "fuse.sshfs"),  # what was mounted over it later
        ("/srv/nas/local/x", "xfs"),
        ("/srv/my disk", "ext4"),
    ],
)
def test_a_path_lies_on_the_deepest_and_latest_mount(path: str, kind: str) -> None:
    mount = filesystem.mount_of(path, MOUNTS)
    assert mount is not None
    assert mount.kind == kind
    assert filesystem.mount_of(path, ()) is None


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({"cache": "/home/ada", "data": "/home/ada", "state": "/home/ada", "runtime": "/run/user/1000"}, ["ok"]),
        ({"data": "/srv/nas/x"}, ["tasks-on-network"]),
        ({"cache": "/srv/nas/x"}, ["cache-on-network"]),
        ({"runtime": "/srv/nas/x"}, ["socket-on-network"]),
        ({"state": "/srv/nas/x"}, ["ok"]),
        ({"cache": "/srv/my disk/x"}, ["noexec"]),
        ({"data": "/srv/my disk/x"}, ["ok"]),
        ({"data": "/mnt/broken/x"}, ["read-only"]),
        ({"data": "/srv/nas/x", "cache": "/srv/nas/x"}, ["tasks-on-network", "cache-on-network"]),
    ],
)
def test_a_file_system_that_cannot_carry_what_lies_on_it(places: dict[str, str], expected: list[str]) -> None:
    assert ids(filesystem.judge(places, MOUNTS, NEEDS)) == [f"filesystem.{each}" for each in expected]


def test_what_is_not_needed_cannot_fail() -> None:
    assert ids(filesystem.judge({"cache": "/srv/my disk/x"}, MOUNTS, Needs())) == ["filesystem.ok"]
    memory = Needs(tasks_are_kept=False)
    assert ids(filesystem.judge({"data": "/srv/nas/x"}, MOUNTS, memory)) == ["filesystem.ok"]


@pytest.mark.parametrize(
    ("reference", "gib"),
    [
        ("hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", 4.6),
        ("hf:org/Llama-70B-GGUF/Llama-70B-Q8_0.gguf", 69),
        ("hf:Qwen/Qwen2.5-7B-Instruct", 13),
        ("hf:Qwen/Qwen2.5-7B-Instruct-AWQ", 3.7),
        ("hf:neuralmagic/Meta-Llama-3.1-8B-FP8", 7.9),
        ("hf:mistralai/Mixtral-8x7B-v0.1@main", 104),
        ("hf:Qwen/Qwen2.5-0.5B", 0.93),
        ("hf:HuggingFaceTB/SmolLM-135M", 0.25),
        ("hf:unsloth/Qwen3-30B-A3B-GGUF/Qwen3-30B-A3B-IQ2_XXS.gguf", 10),
    ],
)
def test_the_size_of_a_model_is_estimated_from_its_name(reference: str, gib: float) -> None:
    size = disk.estimate(reference)
    assert size is not None
    assert size / GIB == pytest.approx(gib, rel=0.1)


def test_a_name_without_a_size_tells_none() -> None:
    assert disk.estimate("hf:org/phi-2") is None
    assert disk.estimate("hf:openai/gpt-oss") is None
    assert disk.estimate("https://host/b4-m2.gguf") is None


def place(free: float, name: str = "cache", files: int | None = None) -> disk.Place:
    return disk.Place(name=name, path="/x", free=int(free * GIB), files=files)


BIG = "hf:org/Llama-70B-GGUF/Llama-70B-Q4_K_M.gguf"  # 40 GiB


@pytest.mark.parametrize(
    ("places", "missing", "expected"),
    [
        ([place(10)], [], ["ok"]),
        ([place(0.5)], [], ["full"]),
        ([place(0.5, "state")], [], ["full"]),
        ([place(10, files=0)], [], ["no-inodes"]),
        ([place(10, files=5)], [], ["ok"]),
        ([place(100)], [BIG], ["ok"]),
        ([place(20)], [BIG], ["too-small"]),
        ([place(40)], [BIG], ["tight"]),
        ([place(70)], [BIG, BIG], ["ok"]),  # two pools, one file
        ([place(0.5)], [BIG], ["full"]),
        ([place(20)], ["hf:org/phi"], ["ok"]),
    ],
)
def test_room_for_what_is_to_come(places: list[disk.Place], missing: list[str], expected: list[str]) -> None:
    assert ids(disk.judge(places, missing)) == [f"disk.{each}" for each in expected]


def file(path: str, owner: int = 1000, mode: int = 0o600) -> permissions.File:
    return permissions.File(path=path, owner=owner, mode=mode)


@pytest.mark.parametrize(
    ("config", "secret", "kept", "expected"),
    [
        ([file("/c", mode=0o644)], None, [], ["ok"]),
        ([file("/c", mode=0o664)], None, [], ["config-writable"]),
        ([file("/tmp", mode=0o1777)], None, [], ["ok"]),
        ([], file("/e"), [], ["ok"]),
        ([], file("/e", mode=0o644), [], ["secrets-readable"]),
        ([], None, [file("/k/a", owner=0), file("/k/b", owner=0)], ["foreign"]),
        ([file("/c", owner=0)], None, [], ["foreign"]),
    ],
)
def test_what_is_private_and_whose_it_is(
    config: list[permissions.File], secret: permissions.File | None, kept: list[permissions.File], expected: list[str]
) -> None:
    assert ids(permissions.judge(1000, config, secret, kept)) == [f"permissions.{each}" for each in expected]


def test_the_mend_of_foreign_files_names_them_and_can_be_typed() -> None:
    (found,) = permissions.judge(1000, [], None, [file(f"/k/a {number}", owner=0) for number in range(5)])
    assert found.what == "/k/a 0 and 4 more belong to user 0, and this is user 1000"
    assert found.mend == "sudo chown -R 1000: '/k/a 0' '/k/a 1' '/k/a 2' ..."


def test_directories_and_the_length_of_the_sockets_path() -> None:
    good = paths.Place(name="cache", path="/h/c", there="/h", writable=True)
    bad = paths.Place(name="data", path="/h/d", there="/h", writable=False)
    assert ids(paths.judge([good], "/s", 107)) == ["paths.ok"]
    assert ids(paths.judge([good, bad], "/s", 108)) == ["paths.not-writable", "paths.long-socket"]


def test_the_configuration_and_its_token() -> None:
    problem = LocatedProblem(file="c", line=1, column=1, path="pools", message="none")
    assert ids(configuration.judge_config("c", "home", ("a",), None)) == ["config.ok"]
    assert ids(configuration.judge_config("c", "", (), ConfigFileError((problem, problem)))) == 2 * ["config.unusable"]
    assert ids(configuration.judge_config("c", "", (), PathsError("no", "hint"))) == ["config.unusable"]
    loopback, lan = "127.0.0.1:1", "0.0.0.0:1"
    optional = Auth(optional=True)
    assert ids(configuration.judge_token("abc from file", None, Auth(), lan)) == ["token.ok"]
    assert ids(configuration.judge_token(None, None, Auth(), loopback)) == ["token.none"]
    assert ids(configuration.judge_token(None, None, optional, loopback)) == ["token.ok"]
    assert ids(configuration.judge_token(None, None, optional, lan)) == ["token.none"]
    assert ids(configuration.judge_token(None, TokenError("open", "chmod"), Auth(), lan)) == ["token.unusable"]
