"""What a reference, a server or a link must never reach: private addresses, other files, other programs."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from contracts.config import Outbound, Policy, Verdict
from contracts.pools import Cause
from model_provisioner.sources.base import RemoteFile
from model_provisioner.transfer import Transfer
from tests.integration.model_provisioner.pulling import Puller, child
from tests.plugins.failures import OperatorSees
from tests.support.file_server import FileServer, Knobs, plain, serving
from tests.support.hub import Hub
from tests.support.tls import Authority

NAMED = Policy(outbound=Outbound(allow=("models.example",)))


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Names:
    """A resolver that knows these names, and counts how often it was asked."""

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = {name.replace("_", "."): found for name, found in addresses.items()}
        self.asked: Counter[str] = Counter()

    def __call__(self, host: str, port: int) -> tuple[str, ...]:
        self.asked[host] += 1
        if not self.addresses.get(host):
            raise OSError(-2, "Name or service not known")
        found = self.addresses[host]
        return (found.pop(0) if len(found) > 1 else found[0],)


# --- private addresses ------------------------------------------------------------------------------------------------


@pytest.mark.req("MP-02", "HP-23")
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104 - nothing is bound
        "224.0.0.1",
        "[::1]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[ff02::1]",
        "[::]",
    ],
)
async def test_a_private_address_is_not_spoken_to(host: str, puller: Puller) -> None:
    puller.policy = Policy(outbound=Outbound(allow=("*", "https:")))  # names none of them
    error = await puller.refusal(f"https://{host}/haiku.gguf")
    assert error.cause is Cause.POLICY_DENIED
    assert "may not be reached: it is " in error.message
    assert "to policy.outbound.allow" in error.hint


@pytest.mark.req("MP-02", "HP-23")
async def test_a_name_that_comes_to_a_private_address_is_not_connected_to(
    server: FileServer, puller: Puller, operator_sees: OperatorSees, haiku: bytes
) -> None:
    server.files["/haiku.gguf"] = haiku
    puller.lookup = Names(models_example=["127.0.0.1"])
    puller.policy = Policy()
    ref = server.url("/haiku.gguf").replace("127.0.0.1", "models.example")
    error = await puller.refusal(ref)
    assert error.cause is Cause.POLICY_DENIED
    operator_sees("model/fetch-private-address", error.render())
    assert server.asked == []
    puller.policy = NAMED
    assert (await puller.pull(ref)).digest == digest(haiku)


@pytest.mark.req("MP-02", "HP-23")
@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("https://169.254.169.254/latest/meta-data", "169.254.169.254 may not be reached: it is link-local"),
        ("https://[::ffff:10.0.0.1]/x", "10.0.0.1 may not be reached: it is private"),
        (
            "https://metadata.example/x",
            "metadata.example may not be reached: its address 169.254.169.254 is link-local",
        ),
        ("https://127.0.0.1/x", "redirects to this machine"),
        ("https://0x7f.1/x", "this address may not be reached: it is no valid address"),
        ("http://models.example/x", "redirects to an address without TLS"),
        ("file:///etc/passwd", "redirects to no address of a server"),
    ],
)
async def test_a_redirect_to_a_private_address_is_not_followed(
    location: str, said: str, server: FileServer, puller: Puller
) -> None:
    server.answers["/haiku.gguf"] = [plain(302, Location=location)]
    puller.lookup = Names(models_example=["127.0.0.1"], metadata_example=["169.254.169.254"])
    puller.policy = NAMED
    error = await puller.refusal(server.url("/haiku.gguf").replace("127.0.0.1", "models.example"))
    assert said in error.message
    assert len(server.asked) == 1


@pytest.mark.req("MP-02", "HP-23")
async def test_a_name_that_means_something_else_a_moment_later_gains_nothing(
    server: FileServer, puller: Puller, haiku: bytes
) -> None:
    server.files["/haiku.gguf"] = haiku
    puller.lookup = names = Names(rebinding_example=["127.0.0.1", "127.0.0.2"])
    puller.policy = Policy(outbound=Outbound(allow=("127.0.0.1",)))  # the address alone
    ref = server.url("/haiku.gguf").replace("127.0.0.1", "rebinding.example")
    error = await puller.refusal(ref)
    assert error.message.startswith("rebinding.example may not be reached: its address 127.0.0.2 is this machine")
    assert names.asked["rebinding.example"] == 2, (
        "what was judged is what is connected to: one look for each connection"
    )
    assert len(server.asked) == 1


async def test_a_proxy_of_the_environment_is_connected_to_and_judges_names_itself(
    puller: Puller, haiku: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    puller.environ["HF_ENDPOINT"] = "http://hub.example"
    puller.policy = Policy()
    async with serving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.base)
        proxy.answers["/api/models/org/poems/revision/main"] = [plain(404, X_Error_Code="RepoNotFound")]
        error = await puller.refusal("hf:org/poems")
        assert error.message.startswith("there is no org/poems on the hub")
        assert [request.host for request in proxy.asked] == ["hub.example"]
        for endpoint in ("http://169.254.169.254", "http://localhost:1", "http://[::1]:1"):
            puller.environ["HF_ENDPOINT"] = endpoint
            assert (await puller.refusal("hf:org/poems")).cause is Cause.POLICY_DENIED
        puller.policy = Policy(outbound=Outbound(default=Verdict.DENY))
        puller.environ["HF_ENDPOINT"] = "http://hub.example"
        assert (await puller.refusal("hf:org/poems")).cause is Cause.POLICY_DENIED
        assert len(proxy.asked) == 1


@pytest.mark.req("HP-23")
async def test_the_hook_of_the_operator_is_asked_before_each_connection(
    server: FileServer, puller: Puller, haiku: bytes, tmp_path: Path, operator_sees: OperatorSees
) -> None:
    server.files["/haiku.gguf"] = haiku
    hook, asked = tmp_path / "hook", tmp_path / "asked"
    hook.write_text(f'#!/bin/sh\ncat >> {asked}\n[ ! -e {tmp_path}/closed ] || {{ echo "not on a Sunday"; exit 1; }}\n')
    hook.chmod(0o755)
    puller.policy = Policy(outbound=Outbound(allow=("127.0.0.1",)), hook=str(hook))
    (tmp_path / "closed").touch()
    error = await puller.refusal(server.url("/haiku.gguf?sesame"))
    assert error.cause is Cause.POLICY_DENIED
    operator_sees("model/fetch-hook-denies", error.render())
    assert server.asked == []
    (tmp_path / "closed").unlink()
    await puller.pull(server.url("/haiku.gguf?sesame"))
    line = f'{{"action": "model", "url": "{server.url("/haiku.gguf")}", "host": "127.0.0.1"}}'
    assert asked.read_text().splitlines() == [line] * 3


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.req("MP-02")
@pytest.mark.parametrize("place", ["https", "https/127.0.0.1", ".locks", ".fetched", "quarantine"])
async def test_no_directory_of_the_cache_may_be_a_link(
    place: str, server: FileServer, puller: Puller, haiku: bytes, operator_sees: OperatorSees
) -> None:
    server.files["/haiku.gguf"] = haiku
    outside = puller.root / "outside"
    outside.mkdir()
    (puller.cache / place).parent.mkdir(parents=True, exist_ok=True)
    (puller.cache / place).symlink_to(outside)
    error = await puller.refusal(server.url("/haiku.gguf"), "a" * 64)
    assert "it is a symbolic link, and none is followed there" in error.message
    assert list(outside.iterdir()) == []
    if place == "https":
        operator_sees("model/fetch-link", error.render())


@pytest.mark.req("MP-02")
@pytest.mark.parametrize("name", ["haiku.gguf.part", "haiku.gguf.part.json", "haiku.gguf"])
async def test_no_file_of_a_fetch_may_be_a_link(
    name: str, server: FileServer, puller: Puller, haiku: bytes, tmp_path: Path
) -> None:
    server.files["/haiku.gguf"] = haiku
    folder = Path((await puller.pull(server.url("/haiku.gguf"))).local_path).parent
    (folder / "haiku.gguf").unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (folder / name).symlink_to(victim)
    error = await puller.refusal(server.url("/haiku.gguf"))
    assert "it is a symbolic link, and none is followed there" in error.message
    assert victim.read_bytes() == b"precious"
    (folder / name).unlink()
    assert Path((await puller.pull(server.url("/haiku.gguf"))).local_path).read_bytes() == haiku


async def test_the_cache_itself_may_be_a_link(server: FileServer, puller: Puller, haiku: bytes, tmp_path: Path) -> None:
    server.files["/haiku.gguf"] = haiku
    (tmp_path / "large-disk").mkdir()
    puller.cache.symlink_to(tmp_path / "large-disk")
    model = await puller.pull(server.url("/haiku.gguf"))
    assert Path(model.local_path).is_relative_to(tmp_path / "large-disk")
    assert not any("computing the digest" in line for line in puller.said)


# --- real disks -------------------------------------------------------------------------------------------------------

SMALL_DISK = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


@pytest.mark.req("MP-02")
@pytest.mark.needs("unshare")
async def test_a_small_disk_is_told_before_and_a_full_one_while_it_fills(
    server: FileServer, puller: Puller, epic: bytes, authority: Authority, operator_sees: OperatorSees
) -> None:
    server.files["/epic.gguf"] = epic
    puller.root.joinpath("disk").mkdir()
    disk = puller.root / "disk"
    script = f'mount -t tmpfs -o size=2m none {disk} && "$@"; ls -R {disk}/cache; exit 0'
    env = {"SSL_CERT_FILE": str(authority.authorities)}
    before = (*SMALL_DISK, script, "sh")
    async with child(disk, server.url("/epic.gguf"), env=env, before=before) as process:
        _, errors = await process.communicate()
    operator_sees("model/fetch-no-room", errors.decode())
    assert server.starts("/epic.gguf") == []

    server.knobs["/epic.gguf"] = Knobs(ranges=False, length=False)
    async with child(disk, server.url("/epic.gguf"), "--spare", "0", env=env, before=before) as process:
        output, errors = await process.communicate()
    assert "No space left on device" in errors.decode()
    assert "make room on that disk" in errors.decode()
    assert "epic.gguf.part" in output.decode()


# --- whose credentials ------------------------------------------------------------------------------------------------


@pytest.mark.req("MP-04", "EP-13")
async def test_what_netrc_says_of_a_host_is_not_sent_and_does_not_stand_in_the_way_of_a_token(
    the_hub: Hub, puller: Puller, haiku: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = puller.root / "netrc"
    login.write_text("machine 127.0.0.1 login me password sesame\n")
    login.chmod(0o600)
    monkeypatch.setenv("NETRC", str(login))
    the_hub.add("org/poems", {"haiku.gguf": haiku})
    puller.environ["HF_TOKEN"] = the_hub.token
    await puller.pull("hf:org/poems/haiku.gguf")
    assert {each.headers.get("Authorization") for each in the_hub.server.asked} == {f"Bearer {the_hub.token}"}
    assert {each.headers.get("Authorization") for each in the_hub.cdn.asked} == {None}


@pytest.mark.req("MP-04", "EP-13")
async def test_a_redirect_does_not_say_who_we_are(server: FileServer, puller: Puller, haiku: bytes) -> None:
    server.files["/haiku.gguf"] = haiku
    server.answers["/there"] = [plain(302, Location=server.url("/haiku.gguf").replace("//", "//me:sesame@"))]
    file = RemoteFile(name="haiku.gguf", url=server.url("/there"), headers=(("Authorization", "Bearer ours"),))
    await Transfer(puller.gate()).fetch(file, puller.root / "haiku.gguf")
    assert [each.headers.get("Authorization") for each in server.asked] == ["Bearer ours", "Bearer ours"]
