import base64
import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_provisioner.sources import oci_auth
from model_provisioner.sources.oci_auth import Challenge, Login

pytestmark = pytest.mark.req("MP-04")


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def file(**content: object) -> tuple[str, bytes]:
    return "auth.json", json.dumps(content).encode()


FILE = file(
    auths={
        "registry.example.org": basic("everyone", "1"),
        "registry.example.org/org": basic("org", "2"),
        "registry.example.org/org/haiku": basic("haiku", "3:4"),
        "registry.example.org:5000": {"username": "port", "password": "5"},
        "https://index.docker.io/v1/": basic("hub", "6"),
    }
)


@pytest.mark.parametrize(
    ("registry", "repository", "user", "password"),
    [
        ("registry.example.org", "other/model", "everyone", "1"),
        ("registry.example.org", "org/other", "org", "2"),
        ("registry.example.org", "org/haiku", "haiku", "3:4"),
        ("registry.example.org:5000", "org/haiku", "port", "5"),
        ("docker.io", "ai/smollm2", "hub", "6"),
    ],
)
def test_the_narrowest_entry_counts(registry: str, repository: str, user: str, password: str) -> None:
    login = oci_auth.login_for([FILE], registry, repository)
    assert login is not None
    assert (login.user, login.password, login.problem) == (user, password, None)


@pytest.mark.parametrize("registry", ["example.org", "registry.example.org.evil.example", "registry.example.org:443"])
def test_no_login_is_given_to_another_host(registry: str) -> None:
    assert oci_auth.login_for([FILE], registry, "org/haiku") is None


def test_the_first_file_that_knows_the_registry_counts() -> None:
    one, two = (file(auths={"r.example": basic(user, "x")}) for user in ("one", "two"))
    login = oci_auth.login_for([file(auths={}), one, two], "r.example", "m")
    assert login is not None
    assert login.user == "one"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"auths": {"r.example": {}}, "credsStore": "desktop"}, "credential helper 'desktop', which is not asked"),
        ({"credHelpers": {"r.example": "ecr-login"}}, "credential helper 'ecr-login', which is not asked"),
        (
            {"auths": {"r.example": {"identitytoken": "secret"}}},
            "an identity token for the registry, which is not supported",
        ),
        ({"auths": {"r.example": {"auth": "no base64!"}}}, "an entry for the registry that cannot be read"),
        ({"auths": {"r.example": basic("a\r\nX: y", "b")}}, "an entry for the registry that cannot be read"),
        ({"auths": {"r.example": 7}}, "an entry for the registry that cannot be read"),
        ([], "cannot be read as a login file"),
    ],
)
def test_a_login_that_cannot_be_used_is_said(content: object, problem: str) -> None:
    login = oci_auth.login_for([("auth.json", json.dumps(content).encode())], "r.example", "m")
    assert login is not None
    assert login.problem is not None
    assert "auth.json" in login.problem
    assert problem in login.problem
    assert "secret" not in repr(login)


def test_a_login_that_can_be_used_beats_one_that_cannot() -> None:
    files = [("broken", b"{"), file(credsStore="x"), file(auths={"r.example": basic("me", "x")})]
    login = oci_auth.login_for(files, "r.example", "m")
    assert login is not None
    assert (login.user, login.problem) == ("me", None)


def test_a_login_shows_no_password() -> None:
    assert "hush" not in repr(Login(user="me", password="hush"))


@given(st.binary(max_size=100) | st.from_type(dict[str, dict[str, str]]).map(lambda value: json.dumps(value).encode()))
def test_any_login_file_is_read_or_said_to_be_unreadable(content: bytes) -> None:
    oci_auth.login_for([("auth.json", content)], "r.example", "m")


def test_where_logins_are_looked_for() -> None:
    environ = {"HOME": "/home/me", "XDG_RUNTIME_DIR": "/run/user/1000", "REGISTRY_AUTH_FILE": "/srv/auth.json"}
    assert oci_auth.login_files(environ) == tuple(
        PurePosixPath(path)
        for path in (
            "/srv/auth.json",
            "/run/user/1000/containers/auth.json",
            "/home/me/.config/containers/auth.json",
            "/home/me/.docker/config.json",
        )
    )
    assert oci_auth.login_files({"DOCKER_CONFIG": "/d", "XDG_CONFIG_HOME": "relative"}) == (
        PurePosixPath("/d/config.json"),
    )
    assert oci_auth.login_files({}) == ()


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        ('Bearer realm="https://auth.example/token",service="r",scope="a:b:pull"', "https://auth.example/token"),
        ("bearer realm=https://auth.example/token", "https://auth.example/token"),
        ('Basic realm="lab, with a comma"', ""),
    ],
)
def test_a_challenge(header: str, challenge: str) -> None:
    scheme = header.partition(" ")[0].lower()
    assert oci_auth.challenge_of(header) == Challenge(scheme=scheme, realm=challenge)


@pytest.mark.parametrize("header", [None, "", "Negotiate", "Bearer", 'Bearer service="x"', "\x00", 'Digest realm="x"'])
def test_what_is_no_challenge_that_is_known(header: str | None) -> None:
    assert oci_auth.challenge_of(header) is None
