from pathlib import Path

import pytest

from contracts.config import Auth
from daemon_core.errors import TokenError
from daemon_core.token import FILE_NAME, ApiToken, create_token_file, find_token


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_first_place_counts(tmp_path: Path) -> None:
    home, credentials = tmp_path / "home", tmp_path / "credentials"
    home.mkdir()
    credentials.mkdir()
    write(home / FILE_NAME, "default\n")
    configured = write(tmp_path / "configured", "configured\n")
    write(credentials / FILE_NAME, "credential\n", 0o444)
    auth = Auth(token_file=str(configured))
    environ = {"HOME": str(tmp_path), "CREDENTIALS_DIRECTORY": str(credentials), "LLORCH_API_TOKEN": "variable"}

    found = []
    for gone in ("LLORCH_API_TOKEN", "CREDENTIALS_DIRECTORY", "HOME"):
        found.append(find_token(auth, environ, home))
        del environ[gone]
    found += [find_token(Auth(), environ, home), find_token(Auth(), environ, tmp_path)]

    assert [token and token.value for token in found] == ["variable", "credential", "configured", "default", None]
    assert [token and token.source for token in found[:4]] == [
        "the environment variable LLORCH_API_TOKEN",
        "the systemd credential api-token",
        str(configured),
        str(home / FILE_NAME),
    ]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "t", "secret-value", mode)
    with pytest.raises(TokenError) as caught:
        find_token(Auth(token_file=str(path)), {}, tmp_path)
    assert caught.value.render() == (
        f"the token file {path} can be used by others (mode {mode:04o})\n  hint: chmod 600 {path}"
    )
    assert caught.value.exit_code == 78


def test_a_directory_is_told_as_one_and_nobody_is_sent_to_close_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(TokenError) as caught:
        find_token(Auth(token_file=str(tmp_path)), {}, tmp_path)
    assert caught.value.render() == (
        f"the token file {tmp_path} is a directory\n  hint: name the file that holds the token"
    )


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / FILE_NAME, "\ufeffabc\r\n")
    token = find_token(Auth(), {}, tmp_path)
    assert token is not None
    assert token.value == "abc"


def test_a_configured_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"auth\.token_file: .*/nothing does not exist"):
        find_token(Auth(token_file="nothing"), {}, tmp_path)


@pytest.mark.parametrize("text", ["", " \n", "two words", "line\nbreak", "x" * 5000, "tökén"])
def test_what_is_no_token_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / FILE_NAME, text)
    with pytest.raises(TokenError) as caught:
        find_token(Auth(), {}, tmp_path)
    assert str(path) in caught.value.message
    assert not text.strip() or text not in caught.value.render()


def test_a_relative_path_and_a_tilde_count_from_where_one_expects(tmp_path: Path) -> None:
    write(tmp_path / "t", "abc")
    for name in ("t", "~/t"):
        token = find_token(Auth(token_file=name), {"HOME": str(tmp_path)}, tmp_path)
        assert token is not None
        assert token.value == "abc"


def test_a_new_token_is_private_long_and_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / FILE_NAME
    token = create_token_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(token.value) >= 40
    assert find_token(Auth(), {}, path.parent) == token
    with pytest.raises(FileExistsError):
        create_token_file(path)


@pytest.mark.req("ORCH-3811")
def test_a_token_does_not_show_itself() -> None:
    token = ApiToken(value="topsecret", source="/x")
    assert "topsecret" not in f"{token!r} {token}"
    assert token.fingerprint in repr(token)


def test_an_empty_credential_stands_for_none(tmp_path: Path) -> None:
    credentials, home = tmp_path / "credentials", tmp_path / "home"
    credentials.mkdir()
    home.mkdir()
    write(credentials / FILE_NAME, "\n", 0o444)
    write(home / FILE_NAME, "default\n")
    token = find_token(Auth(), {"HOME": str(tmp_path), "CREDENTIALS_DIRECTORY": str(credentials)}, home)
    assert token is not None
    assert token.value == "default"
