import pytest
from msgspec.structs import replace

from engine_provisioner.gpu_faults import Nvml, driver_fault
from llama_orch.doctor.judge.driver import Card, Facts, judge, library_version, module_version
from tests.unit.llama_orch.doctor.support import ARCH, DEBIAN, FEDORA, ids

CARD = Card(address="0000:01:00.0", driver="nvidia")


def facts(error: Nvml | None = None, **more: object) -> Facts:
    fault = None if error is None else driver_fault(error, "NVML's words")
    return replace(Facts(error=error, fault=fault), **more)


NO_LIBRARY, NO_MODULE = Nvml.LIBRARY_NOT_FOUND, Nvml.DRIVER_NOT_LOADED


@pytest.mark.req("ORCH-3803")
@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (facts(version="550.163.01", cuda=12040), "driver.ok"),
        (facts(Nvml.LIB_RM_VERSION_MISMATCH, module_version="550.163.01"), "driver.mismatch"),
        (facts(Nvml.NO_PERMISSION), "driver.broken"),
        (facts(Nvml.UNKNOWN), "driver.broken"),
        (facts(hangs=True), "driver.hangs"),
        (facts(NO_LIBRARY), "driver.no-card"),
        (facts(NO_LIBRARY, cards=(Card(address="1", driver="nouveau"),)), "driver.nouveau"),
        (facts(NO_MODULE, cards=(Card(address="1", driver="nouveau"),), has_module=True), "driver.nouveau"),
        (facts(NO_MODULE, cards=(Card(address="1", driver="vfio-pci"),)), "driver.given-away"),
        (facts(NO_MODULE, cards=(Card(address="1"),), has_module=None), "driver.kernel-gone"),
        (facts(NO_MODULE, cards=(Card(address="1"),), has_module=True), "driver.not-loaded"),
        (facts(NO_MODULE, cards=(Card(address="1"),), has_module=True, secure_boot=True), "driver.secure-boot"),
        (facts(NO_MODULE, cards=(Card(address="1"),), has_module=False), "driver.not-built"),
        (facts(NO_LIBRARY, cards=(Card(address="1"),), has_module=False), "driver.not-installed"),
        (facts(NO_LIBRARY, in_container=True), "driver.broken"),
        (facts(NO_LIBRARY, cards=(CARD,), modules=frozenset({"nvidia"})), "driver.broken"),
    ],
)
def test_each_way_in_which_a_driver_is_no_good_has_a_name(seen: Facts, expected: str) -> None:
    assert ids(judge(seen, DEBIAN)) == [expected]


def test_a_mismatch_names_both_versions_and_the_mend_is_a_reboot() -> None:
    seen = facts(Nvml.LIB_RM_VERSION_MISMATCH, module_version="550.163.01", library_version="555.58.02")
    (found,) = judge(seen, DEBIAN)
    assert found.what == "the kernel module is 550.163.01 and the driver's libraries are 555.58.02"
    assert found.mend == "reboot"


def test_a_missing_uvm_device_is_a_note_and_none_in_a_container() -> None:
    assert ids(judge(facts(version="1", uvm=False), DEBIAN)) == ["driver.ok", "driver.no-uvm"]
    assert ids(judge(facts(version="1", uvm=False, in_container=True), DEBIAN)) == ["driver.ok"]


@pytest.mark.parametrize(
    ("distribution", "words"),
    [
        (DEBIAN, ["apt install nvidia-driver linux-headers-amd64", "update-initramfs"]),
        (ARCH, ["pacman -S nvidia-open-dkms nvidia-utils linux-headers", "mkinitcpio"]),
        (FEDORA, ["dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda", "dracut"]),
        ({}, ["install the NVIDIA driver", "ramdisk"]),
    ],
)
def test_the_mend_of_nouveau_is_in_the_distributions_words(distribution: dict[str, str], words: list[str]) -> None:
    (found,) = judge(facts(NO_LIBRARY, cards=(Card(address="0000:01:00.0", driver="nouveau"),)), distribution)
    assert found.what == "nouveau has the card 0000:01:00.0"
    assert all(word in (found.mend or "") for word in [*words, "blacklist nouveau", "reboot"])


def test_the_versions_are_read_from_what_the_kernel_shows() -> None:
    proprietary = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.163.01  Tue Apr  8 12:41:17 UTC 2025"
    opened = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"
    assert module_version(proprietary) == "550.163.01"
    assert module_version(opened) == "580.95.05"
    assert module_version("") is None
    maps = "7f0-7f1 r--p 0 08:01 1 /usr/lib/x86_64-linux-gnu/nvidia/current/libnvidia-ml.so.555.58.02\n"
    assert library_version(maps) == "555.58.02"
    assert library_version("libnvidia-ml.so.1") is None
