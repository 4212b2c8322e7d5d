"""Mode package. No pacman can be had here, so a program that answers as pacman does stands on PATH."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from contracts.config import Mode, Package, Policy, Pool, Profile, Provisioning
from contracts.engines import PreparedEngine
from contracts.pools import Cause
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host
from engine_provisioner.registry import provider_for
from tests.plugins.failures import OperatorSees
from tests.unit.engine_provisioner.conftest import MakeHost, MakeServer, a_pool

ALLOWED = Policy(allow_package_installs=True)
ARCH = 'ID=arch\nPRETTY_NAME="Arch Linux"'
CACHYOS = "ID=cachyos\nID_LIKE=arch"
DEBIAN = "ID=debian"
NO_RIGHTS = "echo 'error: you cannot perform this operation unless you are root.' >&2\nexit 1\n"


def package_pool(name: str = "llama.cpp", version: str | None = None) -> Pool:
    return a_pool(provisioning=Provisioning(mode=Mode.PACKAGE, package=Package(name=name, version=version)))


class Machine:
    """A machine whose distribution and pacman are made to order."""

    def __init__(self, root: Path, make_host: MakeHost, make_server: MakeServer) -> None:
        self.root = root
        self.server = make_server
        self._make_host = make_host
        self.said: list[str] = []

    def host(self, os_release: str, policy: Policy) -> Host:
        (self.root / "os-release").write_text(os_release)
        return self._make_host(os_release=self.root / "os-release", policy=policy)

    def pacman(self, then: str) -> None:
        """A pacman that notes its arguments, and then does this."""
        for name in ("pacman", "sudo", "pkexec", "doas", "apt", "apt-get"):
            rest = then if name == "pacman" else ""
            self.server(f"bin/{name}", script=f'#!/bin/sh\necho "{name} $*" >> {self.root}/ran\n{rest}')

    def installing_pacman(self) -> None:
        self.server("elsewhere/llama-server")
        self.pacman(f"/bin/cp {self.root}/elsewhere/llama-server {self.root}/bin/llama-server\n")

    @property
    def ran(self) -> list[str]:
        ran = self.root / "ran"
        return ran.read_text().splitlines() if ran.exists() else []

    async def prepare(self, pool: Pool, os_release: str = ARCH, policy: Policy = ALLOWED) -> PreparedEngine:
        return await provider_for(pool, Profile.HOME, self.host(os_release, policy)).ensure(pool, self.said.append)

    async def refusal(self, pool: Pool, os_release: str = ARCH, policy: Policy = ALLOWED) -> ProvisionError:
        with pytest.raises(ProvisionError) as caught:
            await self.prepare(pool, os_release, policy)
        return caught.value


@pytest.fixture
def machine(tmp_path: Path, make_host: MakeHost, make_server: MakeServer) -> Machine:
    return Machine(tmp_path, make_host, make_server)


@pytest.mark.req("EP-18")
@pytest.mark.parametrize("os_release", [ARCH, DEBIAN, ""])
async def test_a_server_that_is_installed_is_used_without_any_policy(os_release: str, machine: Machine) -> None:
    path = machine.server()
    machine.pacman("")
    engine = await machine.prepare(package_pool(), os_release, Policy())
    assert (engine.bin_or_entry, engine.provisioning_mode) == (str(path), Mode.PACKAGE)
    assert f"{path} is installed" in machine.said
    assert machine.ran == []


@pytest.mark.req("EP-09", "EP-18")
@pytest.mark.parametrize("os_release", [ARCH, CACHYOS])
async def test_a_missing_one_is_installed_by_pacman_where_that_is_allowed(os_release: str, machine: Machine) -> None:
    machine.installing_pacman()
    pool = package_pool()
    provider = provider_for(pool, Profile.HOME, machine.host(os_release, ALLOWED))
    assert await provider.preflight(pool) == ()
    assert machine.ran == []
    first = await machine.prepare(pool, os_release)
    assert first.bin_or_entry == str(machine.root / "bin" / "llama-server")
    assert "running pacman -S --noconfirm --needed llama.cpp" in machine.said
    assert await machine.prepare(pool, os_release) == first
    assert machine.ran == ["pacman -S --noconfirm --needed llama.cpp"]


@pytest.mark.req("EP-09")
async def test_without_the_policy_nothing_is_installed_and_both_mends_are_named(
    machine: Machine, operator_sees: OperatorSees
) -> None:
    machine.installing_pacman()
    error = await machine.refusal(package_pool(), ARCH, Policy())
    operator_sees("package/installs-not-allowed", error.render())
    assert error.cause is Cause.POLICY_DENIED
    assert error.message == "there is no llama-server on PATH, and policy does not allow to install llama.cpp"
    assert error.hint == "set policy.allow_package_installs: true, or run: sudo pacman -S llama.cpp"
    (finding,) = await provider_for(package_pool(), Profile.HOME, machine.host(ARCH, Policy())).preflight(
        package_pool()
    )
    assert (finding.message, finding.hint) == (error.message, error.hint)
    assert machine.ran == []


@pytest.mark.req("EP-09")
@pytest.mark.parametrize(
    ("os_release", "command"),
    [
        (DEBIAN, "sudo apt install llama.cpp"),
        ("ID=fedora", "sudo dnf install llama.cpp"),
        ("", "install llama.cpp with the package manager of this system"),
    ],
)
@pytest.mark.parametrize("policy", [ALLOWED, Policy()], ids=["allowed", "not allowed"])
async def test_elsewhere_the_command_is_for_the_operator(
    os_release: str, command: str, policy: Policy, machine: Machine, operator_sees: OperatorSees
) -> None:
    machine.installing_pacman()
    error = await machine.refusal(package_pool(), os_release, policy)
    if os_release == DEBIAN:
        operator_sees("package/not-installed", error.render())
    assert (error.cause, error.message) == (Cause.ENGINE_MISSING, "there is no llama-server on PATH")
    assert error.hint == f"{command} (for you to run: llama-orch installs packages on Arch-like systems only)"
    assert machine.ran == []


@pytest.mark.req("EP-09")
async def test_an_install_for_which_the_rights_are_missing_is_left_to_the_operator(
    machine: Machine, operator_sees: OperatorSees
) -> None:
    machine.pacman(NO_RIGHTS)
    error = await machine.refusal(package_pool())
    operator_sees("package/no-rights", error.render())
    assert error.cause is Cause.ENGINE_FETCH
    assert "status 1: error: you cannot perform this operation unless you are root." in error.message
    assert error.hint == "run it yourself, llama-orch takes no other rights: sudo pacman -S llama.cpp"
    assert machine.ran == ["pacman -S --noconfirm --needed llama.cpp"]  # neither sudo nor anything like it


@pytest.mark.req("EP-09")
@pytest.mark.parametrize("times", [1, 2])
async def test_an_install_that_is_given_up_is_not_left_half_done(machine: Machine, times: int) -> None:
    for name in ("started", "go"):
        os.mkfifo(machine.root / name)
    steps = f"echo x > {machine.root}/started; read x < {machine.root}/go; echo whole >> {machine.root}/ran"
    machine.pacman(f"{steps}\n")
    task = asyncio.get_running_loop().create_task(machine.prepare(package_pool()))
    await asyncio.to_thread((machine.root / "started").read_text)
    for _ in range(times):
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    await asyncio.to_thread((machine.root / "go").write_text, "x\n")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert machine.ran[-1] == "whole"
    assert machine.said[-1] == "waiting until pacman has ended"


async def test_an_install_that_hangs_is_given_up_at_last(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine_provisioner.providers.package.FINISH_S", 0.1)
    os.mkfifo(machine.root / "started")
    machine.pacman(f"echo $$ > {machine.root}/started; exec /bin/sleep 600\n")
    task = asyncio.get_running_loop().create_task(machine.prepare(package_pool()))
    pid = int(await asyncio.to_thread((machine.root / "started").read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not Path(f"/proc/{pid}").exists()


async def test_a_package_without_a_server_is_said(machine: Machine, operator_sees: OperatorSees) -> None:
    machine.pacman("")
    error = await machine.refusal(package_pool("cowsay"))
    operator_sees("package/without-a-server", error.render())
    assert error.message == "cowsay is installed, and there is still no llama-server on PATH"


async def test_an_arch_without_pacman_is_said(machine: Machine) -> None:
    error = await machine.refusal(package_pool())
    assert error.message == "there is no llama-server on PATH, and no pacman either that could install llama.cpp"
    assert error.hint == "put pacman on PATH, or run: sudo pacman -S llama.cpp"


async def test_a_pacman_that_cannot_be_started_is_said(machine: Machine) -> None:
    machine.server("bin/pacman", script="\x7fELF nonsense")
    error = await machine.refusal(package_pool())
    assert (error.cause, error.message) == (Cause.ENGINE_FETCH, "pacman cannot be started: Exec format error")
    assert error.hint == "run it yourself, llama-orch takes no other rights: sudo pacman -S llama.cpp"


@pytest.mark.req("EP-09")
@pytest.mark.parametrize("name", ["-Rdd", "--config=/tmp/x", "a b", "a;reboot", ""])
async def test_what_is_no_name_reaches_no_command(name: str, machine: Machine) -> None:
    machine.installing_pacman()
    error = await machine.refusal(package_pool(name))
    assert error.message == f"provisioning.package.name {name!r} is no name of a package"
    assert machine.ran == []


async def test_a_pool_without_its_block_is_told_the_block(machine: Machine) -> None:
    error = await machine.refusal(a_pool(provisioning=Provisioning(mode=Mode.PACKAGE)))
    assert error.hint == 'package: {name: "llama.cpp"}'


@pytest.mark.parametrize(("version", "fits"), [("0.5.0-dev", True), ("b11549", True), ("b11550", False)])
async def test_the_version_must_be_the_configured_one(
    version: str, fits: bool, machine: Machine, operator_sees: OperatorSees
) -> None:
    machine.installing_pacman()
    if fits:
        assert (await machine.prepare(package_pool(version=version))).engine_version == "0.5.0-dev"
    else:
        error = await machine.refusal(package_pool(version=version))
        assert "is version 0.5.0-dev, and the pool asks for b11550" in error.message
        operator_sees("package/another-version", error.render())
