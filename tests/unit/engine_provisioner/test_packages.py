from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_provisioner.packages import Family, family_of, install_hint, is_package_name, pacman_install


@pytest.mark.req("EP-09")
@pytest.mark.parametrize(
    ("distribution", "command"),
    [
        ({"ID": "arch"}, "sudo pacman -S llama.cpp"),
        ({"ID": "cachyos", "ID_LIKE": "arch"}, "sudo pacman -S llama.cpp"),
        ({"ID": "debian"}, "sudo apt install llama.cpp"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "sudo apt install llama.cpp"),
        ({"ID": "fedora"}, "sudo dnf install llama.cpp"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "sudo dnf install llama.cpp"),
        ({"ID": "opensuse-tumbleweed", "ID_LIKE": "opensuse suse"}, "sudo zypper install llama.cpp"),
        ({"ID": "alpine"}, "doas apk add llama.cpp"),
        ({"ID": "gentoo"}, "sudo emerge --noreplace llama.cpp"),
        ({"ID": "nixos"}, "nix profile install nixpkgs#llama.cpp"),
        ({"ID": "void", "PRETTY_NAME": "Void"}, "install llama.cpp with the package manager of Void"),
        ({}, "install llama.cpp with the package manager of this system"),
    ],
)
def test_each_distribution_is_told_its_own_command(distribution: dict[str, str], command: str) -> None:
    assert install_hint("llama.cpp", distribution) == command


def test_what_a_distribution_is_counts_more_than_what_it_is_like() -> None:
    assert family_of({"ID": "debian", "ID_LIKE": "arch"}) is Family.DEBIAN
    assert family_of({"ID": "unknown", "ID_LIKE": "other fedora arch"}) is Family.FEDORA
    assert family_of({"ID": "archlike"}) is None


@pytest.mark.parametrize("name", ["llama.cpp", "llama-cpp-cuda", "extra/llama.cpp", "app-misc/llama-cpp", "gtk+3.0"])
def test_names_that_packages_have(name: str) -> None:
    assert is_package_name(name)


@pytest.mark.req("EP-09")
@pytest.mark.parametrize(
    "name",
    [
        "",
        "-Rdd",
        "--root=/",
        "a b",
        "a\n",
        "a;b",
        "$(x)",
        "`x`",
        "a&b",
        "a|b",
        "../x",
        "a/../b",
        "/x",
        "~/x",
        "x" * 129,
    ],
)
def test_nothing_but_a_name_stands_in_a_command(name: str) -> None:
    assert not is_package_name(name)


@given(st.text(max_size=20) | st.text(alphabet="a-./$;'\" \n@", max_size=8))
def test_an_accepted_name_is_one_word_and_no_option(name: str) -> None:
    if is_package_name(name):
        assert shlex.split(f"x {name}") == ["x", name]
        assert not name.startswith(("-", "/", ".", "~"))


@pytest.mark.req("EP-09")
def test_pacman_is_run_without_a_question_and_without_other_rights() -> None:
    assert pacman_install("llama.cpp") == ("pacman", "-S", "--noconfirm", "--needed", "llama.cpp")
