from pathlib import Path

import pytest

from contracts import config
from daemon_core.errors import PathsError
from daemon_core.paths import Paths, default_config_path, make_private_dir

HOME = {"HOME": "/home/ann"}


def test_the_defaults_are_those_of_xdg() -> None:
    paths = Paths.resolve(config.Paths(), {**HOME, "XDG_RUNTIME_DIR": "/run/user/1000"})
    places = (
        (paths.models, "/home/ann/.cache/llama-orch/models"),
        (paths.catalog, "/home/ann/.local/share/llama-orch/catalog"),
        (paths.tasks_db, "/home/ann/.local/share/llama-orch/tasks.sqlite3"),
        (paths.artifacts, "/home/ann/.local/share/llama-orch/artifacts"),
        (paths.provenance, "/home/ann/.local/share/llama-orch/provenance"),
        (paths.proof, "/home/ann/.local/share/llama-orch/proof"),
        (paths.logs, "/home/ann/.local/state/llama-orch/logs"),
        (paths.handles, "/home/ann/.local/state/llama-orch/handles"),
        (paths.prepared, "/home/ann/.local/state/llama-orch/prepared"),
        (paths.engines, "/run/user/1000/llama-orch/engines"),
        (paths.socket, "/run/user/1000/llama-orch/pool-managerd.sock"),
    )
    assert [(str(path), expected) for path, expected in places] == [(expected, expected) for _, expected in places]
    assert default_config_path(HOME) == Path("/home/ann/.config/llama-orch/config.yaml")


def test_xdg_variables_count_when_they_are_absolute() -> None:
    environ = {
        **HOME,
        "XDG_CACHE_HOME": "/c",
        "XDG_DATA_HOME": "relative",
        "XDG_STATE_HOME": "/s",
        "XDG_CONFIG_HOME": "/e",
    }
    paths = Paths.resolve(config.Paths(), environ)
    assert (paths.cache, paths.data) == (Path("/c/llama-orch"), Path("/home/ann/.local/share/llama-orch"))
    assert default_config_path(environ) == Path("/e/llama-orch/config.yaml")


def test_without_a_runtime_directory_it_stands_below_the_state() -> None:
    assert Paths.resolve(config.Paths(), HOME).runtime == Path("/home/ann/.local/state/llama-orch/run")
    assert Paths.resolve(config.Paths(state="~/s"), HOME).runtime == Path("/home/ann/s/run")


def test_an_override_replaces_a_root_as_it_is() -> None:
    overrides = config.Paths(cache="/big/disk", data="~/data", runtime="/r")
    paths = Paths.resolve(overrides, HOME)
    assert (paths.cache, paths.data, paths.socket) == (
        Path("/big/disk"),
        Path("/home/ann/data"),
        Path("/r/pool-managerd.sock"),
    )


def test_a_relative_override_is_refused() -> None:
    with pytest.raises(PathsError) as caught:
        Paths.resolve(config.Paths(data="here"), HOME)
    assert caught.value.render() == "paths.data: 'here' is not absolute\n  hint: start it with / or ~/"


def test_a_private_directory_is_closed_to_others(tmp_path: Path) -> None:
    new, old = tmp_path / "a" / "b", tmp_path / "open"
    old.mkdir(mode=0o755)
    assert [make_private_dir(path).stat().st_mode & 0o777 for path in (new, old, new)] == [0o700] * 3


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PathsError, match=r"cannot use the directory .*file/x: Not a directory"):
        make_private_dir(tmp_path / "file" / "x")
