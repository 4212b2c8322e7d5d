from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_provisioner.wheel_server import (
    FLAGS,
    SWITCHES,
    TEXTS,
    VALUES,
    build_parser,
    check_model,
    main,
    server_params,
    version_text,
)

xllamacpp = pytest.importorskip("xllamacpp")


def params(*argv: str, key: str | None = None) -> Any:  # noqa: ANN401 - the wheel has no types
    return server_params(xllamacpp, build_parser().parse_args(["--model", "m.gguf", *argv]), key)


def test_every_flag_is_parsed_and_none_is_abbreviated() -> None:
    known = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", build_parser().format_help(), re.MULTILINE))
    assert known == {*FLAGS, "--help"}
    assert set(VALUES) >= TEXTS
    assert not set(VALUES) & set(SWITCHES)


def test_the_flags_reach_the_server() -> None:
    found = params(
        *("--host", "127.0.0.2", "--port", "1234", "--ctx-size", "512", "--parallel", "2", "--threads", "3"),
        *("--batch-size", "64", "--ubatch-size", "32", "--alias", "a", "--metrics", "--slots", "--no-cont-batching"),
        *("--cors-origins", "http://x.invalid", "--cache-ram", "0", "--sse-ping-interval", "5", "--timeout", "9"),
        *("--verbosity", "1", "--no-warmup", "--slot-save-path", "/tmp/slots"),
        key="sesame",
    )
    assert found.model.path == "m.gguf"
    assert (found.hostnames, found.port, found.n_ctx, found.n_parallel) == (["127.0.0.2"], 1234, 512, 2)
    assert (found.cpuparams.n_threads, found.cpuparams_batch.n_threads) == (3, 3)
    assert (found.n_batch, found.n_ubatch, found.model_alias) == (64, 32, {"a"})
    assert (found.endpoint_metrics, found.endpoint_slots, found.cont_batching, found.warmup) == (
        True,
        True,
        False,
        False,
    )
    assert (found.cache_ram_mib, found.sse_ping_interval, found.timeout_read, found.timeout_write) == (0, 5, 9, 9)
    assert found.slot_save_path == "/tmp/slots/"
    assert (found.cors_origins, found.verbosity, found.api_keys) == ("http://x.invalid", 1, ["sesame"])


@pytest.mark.parametrize(
    ("argv", "embedding", "pooling"),
    [
        ((), False, "UNSPECIFIED"),
        (("--embedding",), True, "UNSPECIFIED"),
        (("--embeddings", "--pooling", "mean"), True, "MEAN"),
        (("--rerank",), True, "RANK"),
        (("--reranking", "--pooling", "mean"), True, "RANK"),
    ],
)
def test_what_it_is_there_for(argv: tuple[str, ...], embedding: bool, pooling: str) -> None:
    found = params(*argv)
    assert found.embedding is embedding
    assert found.pooling_type == getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling}")


def test_without_flags_it_is_closed_and_on_the_cpu() -> None:
    found = params()
    assert (found.ui, found.cors_origins, found.cors_credentials, found.fit_params) == (False, "", False, False)
    assert (found.n_gpu_layers, found.endpoint_metrics, found.api_keys) == (0, False, [])
    assert (found.cpuparams.n_threads, found.cpuparams_batch.n_threads) == (1, 1)
    assert params("--no-slots").endpoint_slots is False


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--mod", "x"], "unrecognized arguments: --mod x"),
        (["--ctx-size", "many"], "invalid int value: 'many'"),
        (["--port", "99999"], "99999 is no port"),
        (["--port", "-1"], "-1 is no port"),
        (["--pooling", "most"], "invalid choice: 'most'"),
        (["--model"], "expected one argument"),
        ([], "--model is missing"),
        (["--model", "/nowhere/m.gguf"], "cannot read the model /nowhere/m.gguf: No such file or directory"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_1(
    argv: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_version_reads_as_that_of_llama_server() -> None:
    build = {"build_number": 5, "commit": "abc", "compiler": "GNU 10", "build_target": "Linux x86_64"}
    first, second = version_text(build).splitlines()
    assert first.startswith("version: ")
    assert first.endswith(" (build 5, commit abc)")
    assert second == "built with GNU 10 for Linux x86_64"


@given(st.binary(max_size=8))
def test_a_file_that_does_not_begin_as_gguf_is_no_model(tmp_path_factory: pytest.TempPathFactory, head: bytes) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "model"
    path.write_bytes(head)
    assert (check_model(path) is None) == head.startswith(b"GGUF")
