import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import Mode, Profile
from contracts.pools import Gpu
from daemon_core import config_file
from daemon_core.errors import StartupError
from llama_orch import trial
from llama_orch.demo import Answer, differ, sha256, summary
from llama_orch.home_profile import home_config
from llama_orch.output import Output, clean
from llama_orch.session import url_of
from tests.unit.llama_orch.fake import end, started

GPUS = st.lists(
    st.builds(
        Gpu,
        index=st.integers(0, 15),
        uuid=st.uuids().map(lambda uuid: f"GPU-{uuid}"),
        name=st.text(max_size=30),
        vram_total_bytes=st.integers(0, 200 << 30),
        vram_used_bytes=st.just(0),
        driver=st.just("580"),
    ),
    min_size=1,
    max_size=8,
    unique_by=(lambda gpu: gpu.index, lambda gpu: gpu.uuid),
)


@given(GPUS)
def test_the_first_configuration_is_valid_whatever_the_gpus(gpus: list[Gpu]) -> None:
    config = config_file.parse(home_config(tuple(gpus), "file:///schema.json"), "config.yaml")
    assert config.profile is Profile.HOME
    assert config.server.bind == "127.0.0.1:8080"
    assert [pool.devices for pool in config.pools] == [(gpu.uuid,) for gpu in gpus]


@given(st.text(min_size=1, max_size=40).filter(lambda text: "\0" not in text))
def test_the_trial_configuration_is_valid_wherever_the_model_is(name: str) -> None:
    config = config_file.parse(trial.trial_config(Path("/") / name, "127.0.0.1:4711"), "config.yaml")
    (pool,) = config.pools
    assert (config.profile, config.server.bind) == (Profile.TRIAL, "127.0.0.1:4711")
    assert (pool.id, pool.mode, pool.model, pool.ctx, pool.slots) == (
        "trial",
        Mode.PACKAGE,
        str(Path("/") / name),
        512,
        1,
    )


def test_both_texts_name_a_schema_that_is_there() -> None:
    schema = Path(trial.schema_reference().removeprefix("file://"))
    assert schema.is_file()
    assert home_config((), "file:///x").startswith("# yaml-language-server: $schema=file:///x\n")
    assert trial.trial_config(Path("/m")).startswith(f"# yaml-language-server: $schema=file://{schema}\n")


def test_a_lacking_model_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MODEL_FILE", "nothing.gguf")
    with pytest.raises(StartupError, match=r"this installation lacks .*nothing\.gguf"):
        trial.haiku_model_path()


def test_the_subjects_are_words() -> None:
    subjects = trial.subjects()
    assert len(subjects) > 20
    assert all(subject == subject.strip() and "\n" not in subject for subject in subjects)


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:1", "http://127.0.0.1:1"),
        ("[::]:2", "http://[::1]:2"),
        ("[fe80::1]:3", "http://[fe80::1]:3"),
        ("host.lan:4", "http://host.lan:4"),
    ],
)
def test_the_url_of_a_bind_address(bind: str, url: str) -> None:
    assert url_of(bind) == url


@given(st.text())
def test_no_text_drives_the_terminal(text: str) -> None:
    assert not any((ord(sign) < 32 and sign not in "\n\t") or 127 <= ord(sign) < 160 for sign in clean(text))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "shown"), [(io.StringIO(), "a\x1b[2Jb\n"), (Terminal(), "a[2Jb\n")], ids=["pipe", "terminal"]
)
def test_a_pipe_gets_the_text_as_it_is(stream: io.StringIO, shown: str) -> None:
    Output(as_json=False, stdout=stream).line("a\x1b[2Jb")
    assert stream.getvalue() == shown


def test_a_table_is_columns_in_a_pipe_and_a_table_on_a_terminal() -> None:
    pipe, terminal, nothing, as_json = io.StringIO(), Terminal(), io.StringIO(), io.StringIO()
    for stream in (pipe, terminal):
        Output(as_json=False, stdout=stream).table(("A", "B"), [("1", None), ("[bold]", 2)], "none")
    Output(as_json=False, stdout=nothing).table(("A", "B"), [], "none")
    Output(as_json=True, stdout=as_json).table(("A", "B"), [], "none")
    assert pipe.getvalue() == "A\tB\n1\t-\n[bold]\t2\n"
    assert "[bold]" in terminal.getvalue()
    assert (nothing.getvalue(), as_json.getvalue()) == ("none\n", "")


def test_what_names_a_row_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    task, model, terminal = "cli-" + "0123456789abcdef" * 2, "hf:org/" + "very-" * 12 + "long.gguf", Terminal()
    columns = ("TASK", "STATE", "PRIORITY", "POOL", "CREATED", "QUEUED MS", "TOKENS", "MODEL")
    row = (task, "running", "interactive", "gpu0", "12:00:00", 123456, 12, model)
    Output(as_json=False, stdout=terminal).table(columns, [row], "none")
    assert task in terminal.getvalue()
    assert "…" not in terminal.getvalue()


def answer(text: str) -> Answer:
    return Answer(text=text, started=started("t"), end=end(text))


def test_the_demo_notices_a_difference() -> None:
    same, other = answer("a"), answer("b")
    lying = Answer(text="a", started=started("t"), end=end("b"))
    assert differ(same, answer("a")) == ""
    assert differ(same, other) == "'a' and 'b'"
    assert differ(same, lying) == f"sha256 {sha256('a')} and {sha256('b')}"


def test_the_demos_line() -> None:
    assert summary(answer("a")) == (
        "queue position 0 | first token after 3 ms | 4 tokens, 500 tokens/s | llamacpp b1 | "
        f"model sha256 abababababab | stream sha256 {sha256('a')}"
    )
