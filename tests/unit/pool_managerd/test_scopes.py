import pytest

from pool_managerd import scopes

MANAGER = "/user.slice/user-1000.slice/user@1000.service"
SLICE = f"{MANAGER}/llama.slice/llama-orch.slice/llama-orch-engines.slice"
SERVICE = f"{MANAGER}/app.slice/pool-managerd.service"


@pytest.mark.req("OP-01")
def test_only_what_the_users_service_manager_started_itself_is_a_service() -> None:
    ours = {"MANAGERPID": "7", "SYSTEMD_EXEC_PID": "42"}
    assert scopes.is_service(ours, 42)
    assert not scopes.is_service(ours, 43)  # a shell below one has its variables
    assert not scopes.is_service({"SYSTEMD_EXEC_PID": "42"}, 42)  # of the system's manager, not of the user's
    assert not scopes.is_service({}, 42)


@pytest.mark.parametrize(
    ("group", "unit", "slice_"),
    [
        (SERVICE, "pool-managerd.service", SLICE),
        (f"{MANAGER}/llama.slice/pool-managerd.service/", "pool-managerd.service", SLICE),
        ("/user.slice/user-1000.slice/session-1.scope", None, None),
        ("/", None, None),
        ("", None, None),
    ],
)
def test_a_control_group_says_whose_it_is(group: str, unit: str | None, slice_: str | None) -> None:
    assert scopes.own_unit(group) == unit
    assert scopes.slice_of(group) == slice_


def test_an_engines_scope_is_told_from_every_other_group() -> None:
    assert scopes.is_engines(f"{SLICE}/llama-orch-engine-gpu0-1.scope")
    assert not scopes.is_engines(SERVICE)
    assert not scopes.is_engines(f"{MANAGER}/not-llama-orch-engines.slice.d")


@pytest.mark.req("OP-01", "PM-07")
def test_a_scope_has_a_name_of_its_own_is_in_the_slice_and_stops_after_the_service() -> None:
    argv = scopes.scope_argv("gpu0.green", "ab12", "pool-managerd.service")
    assert argv[:3] == ("systemd-run", "--user", "--scope")
    assert argv[-1] == "--"
    assert {
        "--unit=llama-orch-engine-gpu0.green-ab12.scope",
        "--slice=llama-orch-engines.slice",
        "--property=Before=pool-managerd.service",
        "--collect",
    } <= set(argv)
    trial = scopes.scope_argv("gpu0", "ab12", "a.service", trial=True)
    assert "--description=llama-orch: whether engines get a scope, for gpu0" in trial
    assert "--unit=llama-orch-trial-gpu0-ab12.scope" in trial
    assert scopes.scope_argv("gpu0", "ab13", "a.service") != scopes.scope_argv("gpu0", "ab12", "a.service")


@pytest.mark.req("EP-16")
def test_nothing_of_systemd_runs_environment_stays_in_the_engines() -> None:
    daemon = {"XDG_RUNTIME_DIR": "/run/user/1", "DBUS_SESSION_BUS_ADDRESS": "unix:/bus", "LLORCH_API_TOKEN": "t"}
    env = {"PATH": "/bin", "XDG_RUNTIME_DIR": "/run/of/the/engine"}
    given = scopes.with_bus(env, daemon)
    assert given == {
        "PATH": "/bin",
        "XDG_RUNTIME_DIR": "/run/user/1",
        "DBUS_SESSION_BUS_ADDRESS": "unix:/bus",
    }
    before = (
        "env",
        "--unset=DBUS_SESSION_BUS_ADDRESS",
        "--unset=INVOCATION_ID",
        "XDG_RUNTIME_DIR=/run/of/the/engine",
    )
    assert scopes.as_it_was(env, given, "/opt/engine") == before
    assert scopes.as_it_was(env, given, "/opt/v=2/engine") == (*before, "nice", "-n", "0")
