"""Models from a web server that speaks TLS, on a real socket."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import pytest
from aiohttp import web

from contracts.config import Engine
from contracts.pools import Cause
from model_provisioner.sources.base import RemoteFile
from model_provisioner.transfer import Transfer
from tests.integration.model_provisioner.pulling import NOW, Puller
from tests.plugins.failures import OperatorSees
from tests.support.file_server import FileServer, Knobs, plain, serving
from tests.support.tls import Authority
from tests.unit.model_provisioner.heads import write_model


def write_split(folder: Path) -> dict[str, bytes]:
    """A model in three files, by their names."""
    write_model(folder / "haiku.gguf", split=1)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("haiku-*.gguf"))}


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.req("MP-01", "MP-04", "MP-06")
async def test_a_model_is_fetched_catalogued_and_recorded_and_then_needs_no_network(
    server: FileServer, puller: Puller, haiku: bytes
) -> None:
    server.files["/models/haiku.gguf"] = haiku
    ref = server.url("/models/haiku.gguf?token=sesame")
    model = await puller.pull(ref)
    assert (model.id, model.digest, model.ref) == ("haiku", digest(haiku), server.url("/models/haiku.gguf"))
    assert Path(model.local_path).read_bytes() == haiku
    assert Path(model.local_path).is_relative_to(puller.cache / "https")
    entry = puller.catalog.get("haiku")
    assert entry.fetched
    assert entry.source is not None
    assert hashlib.sha256(haiku).hexdigest() in entry.source
    (line,) = puller.journal()
    assert (line["source"], line["at_ms"], line["resolved"]) == (entry.source, NOW, model.local_path)
    asked = len(server.asked)
    assert await puller.pull(ref) == model
    assert len(server.asked) == asked
    assert server.sent["/models/haiku.gguf"] == len(haiku) + 1  # the one byte that was looked at
    assert not any("computing the digest" in line for line in puller.said)  # it was hashed as it came
    assert b"sesame" not in puller.everything()


async def test_how_far_it_is_is_told_for_each_file(server: FileServer, puller: Puller, epic: bytes) -> None:
    server.files["/epic.gguf"] = epic
    await puller.pull(server.url("/epic.gguf"))
    assert {(each.name, each.total_bytes) for each in puller.far} == {("epic.gguf", len(epic))}
    done = [each.done_bytes for each in puller.far]
    assert done == sorted(done)
    assert (len(done) > 3, done[-1]) == (True, len(epic))


@pytest.mark.req("MP-04")
async def test_a_split_model_is_fetched_by_its_first_part(server: FileServer, puller: Puller, tmp_path: Path) -> None:
    whole = write_split(tmp_path)
    server.files = {f"/m/{name}": data for name, data in whole.items()}
    first, second, _ = whole
    model = await puller.pull(server.url(f"/m/{first}"))
    assert (model.id, Path(model.local_path).name) == ("haiku", first)
    assert model.size_bytes == sum(map(len, whole.values()))
    error = await puller.refusal(server.url(f"/m/{second}"))
    assert (error.cause, error.hint) == (Cause.MODEL_INVALID, f"give the address of {first}")


@pytest.mark.req("MP-01")
async def test_a_refresh_says_what_changed_and_the_model_keeps_its_id(
    server: FileServer, puller: Puller, haiku: bytes, tmp_path: Path
) -> None:
    server.files["/haiku.gguf"] = haiku
    ref = server.url("/haiku.gguf")
    first = await puller.pull(ref)
    assert await puller.pull(ref, refresh=True) == first
    assert any(line.startswith(f"{ref} has not changed: ") for line in puller.said)
    server.files["/haiku.gguf"] = other = write_model(tmp_path / "other.gguf", name="Another").read_bytes()
    assert await puller.pull(ref) == first  # what is here is used
    second = await puller.pull(ref, refresh=True)
    assert (second.id, second.digest) == ("haiku", digest(other))
    assert any(line.startswith(f"{ref} has changed: it was {ref} (") for line in puller.said)
    assert Path(first.local_path).read_bytes() == haiku
    assert await puller.pull(ref) == second


@pytest.mark.req("MP-02", "MP-03")
async def test_a_wrong_digest_is_set_aside_and_not_fetched_again(
    server: FileServer, puller: Puller, haiku: bytes, operator_sees: OperatorSees
) -> None:
    server.files["/haiku.gguf"] = haiku
    ref = server.url("/haiku.gguf")
    error = await puller.refusal(ref, "a" * 64)
    assert error.cause is Cause.MODEL_DIGEST
    assert digest(haiku) in error.message
    assert f"sha256:{'a' * 64}" in error.message
    operator_sees("model/fetched-wrong-digest", error.render(), quarantined=puller.left()[0])
    (aside, note) = puller.left()
    assert (puller.cache / aside).read_bytes() == haiku
    assert aside in error.message
    assert b'"expected":"' + b"a" * 64 in (puller.cache / note).read_bytes()
    sent = server.sent["/haiku.gguf"]
    again = await puller.refusal(ref, "a" * 64)
    assert again.cause is Cause.MODEL_DIGEST
    assert server.sent["/haiku.gguf"] == sent + 1
    model = await puller.pull(ref, digest(haiku))  # the digest was mistyped: what was set aside comes back
    assert server.sent["/haiku.gguf"] == sent + 2
    assert Path(model.local_path).read_bytes() == haiku
    assert puller.catalog.get("haiku").verified_ms == NOW
    assert not any("quarantine" in name for name in puller.left())


@pytest.mark.req("MP-03")
async def test_a_digest_that_is_asked_for_later_is_compared_with_what_is_here(
    server: FileServer, puller: Puller, haiku: bytes
) -> None:
    server.files["/haiku.gguf"] = haiku
    model = await puller.pull(server.url("/haiku.gguf"))
    assert any(line.startswith("haiku.gguf was not verified, because no digest is configured") for line in puller.said)
    error = await puller.refusal(server.url("/haiku.gguf"), "b" * 64)
    assert error.cause is Cause.MODEL_DIGEST
    assert Path(model.local_path).exists(), "another pool may be using it"


async def test_a_fetched_file_that_was_changed_is_set_aside_and_fetched_anew(
    server: FileServer, puller: Puller, haiku: bytes
) -> None:
    server.files["/haiku.gguf"] = haiku
    ref = server.url("/haiku.gguf")
    model = await puller.pull(ref, digest(haiku))
    with Path(model.local_path).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    assert await puller.pull(ref, digest(haiku)) == model
    assert Path(model.local_path).read_bytes() == haiku
    assert "haiku.gguf is not what was fetched any more: it is set aside and fetched anew" in puller.said


async def test_what_is_no_model_is_not_catalogued_and_not_fetched_twice(server: FileServer, puller: Puller) -> None:
    server.files["/haiku.gguf"] = b"<html>please log in</html>"
    error = await puller.refusal(server.url("/haiku.gguf"))
    assert error.cause is Cause.MODEL_INVALID
    assert f"(fetched: {server.url('/haiku.gguf')} (" in error.message
    sent = server.sent["/haiku.gguf"]
    await puller.refusal(server.url("/haiku.gguf"))
    assert server.sent["/haiku.gguf"] == sent + 1


async def test_an_engine_that_cannot_load_it_is_said_before_it_is_fetched(
    server: FileServer, puller: Puller, haiku: bytes
) -> None:
    server.files["/haiku.gguf"] = haiku
    error = await puller.refusal(server.url("/haiku.gguf"), engine=Engine.VLLM)
    assert error.message.endswith("is a GGUF file, and vllm loads a directory with config.json and *.safetensors")
    assert server.sent["/haiku.gguf"] == 1


@pytest.mark.req("MP-02")
@pytest.mark.parametrize(
    ("status", "said", "mend", "retriable"),
    [
        (401, "the server answers 401 Unauthorized", "it wants a login or a signed address", False),
        (403, "the server answers 403 Forbidden", "it wants a login or a signed address", False),
        (404, "the server answers 404 Not Found", "it is not there (any more)", False),
        (429, "the server answers 429 Too Many Requests", "wait some minutes", True),
        (503, "the server answers 503 Service Unavailable", "see that it can be opened", True),
    ],
)
async def test_a_refusal_has_its_mend(
    status: int, said: str, mend: str, *, retriable: bool, server: FileServer, puller: Puller
) -> None:
    server.answers["/haiku.gguf"] = [plain(status)] * 3
    error = await puller.refusal(server.url("/haiku.gguf?token=sesame"))
    assert error.cause is Cause.MODEL_FETCH
    assert error.message == f"{server.url('/haiku.gguf')} cannot be fetched: {said}"
    assert mend in error.hint
    assert error.retriable is retriable


@pytest.mark.req("MP-02")
async def test_a_server_that_is_not_there_is_said(puller: Puller, operator_sees: OperatorSees) -> None:
    error = await puller.refusal("https://127.0.0.1:1/haiku.gguf")
    assert (error.cause, error.retriable) == (Cause.MODEL_FETCH, True)
    operator_sees("model/fetch-no-connection", error.render())


async def test_what_no_file_can_come_from_is_refused_without_asking(server: FileServer, puller: Puller) -> None:
    error = await puller.refusal(server.url("/models/"))
    assert error.message.endswith("does not name a .gguf file")
    assert server.asked == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a%2F..%2F..%2Fhaiku.gguf", "a-..-..-haiku.gguf"),
        ("/..%2Fhaiku.gguf", "haiku.gguf"),
        ("/%2ehaiku.gguf", "haiku.gguf"),
        ("/ha%20iku%00.GGUF", "ha iku.gguf"),
        ("/%F0%9F%8C%B8.gguf", "model.gguf"),
        (f"/{'x' * 400}.gguf", f"{'x' * 195}.gguf"),
    ],
)
async def test_a_name_in_an_address_never_leads_out(
    path: str, name: str, server: FileServer, puller: Puller, haiku: bytes
) -> None:
    server.answers = {}
    files = server.files

    class Any(dict[str, bytes]):
        def get(self, *_: object) -> bytes:
            return haiku

    server.files = Any(files)
    model = await puller.pull(f"{server.base}{path}")
    assert Path(model.local_path).name == name
    assert Path(model.local_path).resolve().is_relative_to(puller.cache.resolve())
    assert len(Path(model.local_path).relative_to(puller.cache).parts) == 5


# --- servers that misbehave -------------------------------------------------------------------------------------------


@pytest.mark.req("MP-02", "MP-04")
async def test_a_server_without_ranges_is_asked_for_the_whole_file_again(
    server: FileServer, puller: Puller, epic: bytes
) -> None:
    server.files["/epic.gguf"] = epic
    server.knobs["/epic.gguf"] = knobs = Knobs(ranges=False, cut_after=len(epic) // 2, released=puller.going)
    puller.on("trying again", lambda: setattr(knobs, "cut_after", None))
    model = await puller.pull(server.url("/epic.gguf"))
    assert model.digest == digest(epic)
    assert server.starts("/epic.gguf")[0] == 0


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
async def test_bytes_that_nobody_named_are_not_used_again(
    etag: str | None, server: FileServer, puller: Puller, epic: bytes
) -> None:
    server.files["/epic.gguf"] = epic
    server.knobs["/epic.gguf"] = knobs = Knobs(etag=etag, cut_after=len(epic) // 2, released=puller.going)
    puller.on("trying again", lambda: setattr(knobs, "cut_after", None))
    model = await puller.pull(server.url("/epic.gguf"))
    assert model.digest == digest(epic)
    assert server.starts("/epic.gguf") == [0, 0]


@pytest.mark.req("MP-02")
async def test_a_file_that_changes_while_it_is_fetched_is_fetched_from_its_beginning(
    server: FileServer, puller: Puller, epic: bytes, haiku: bytes
) -> None:
    server.files["/epic.gguf"] = epic
    server.knobs["/epic.gguf"] = knobs = Knobs(cut_after=len(epic) // 2, released=puller.going)

    def change() -> None:
        server.files["/epic.gguf"], knobs.cut_after = haiku, None

    puller.on("trying again", change)
    error = await puller.refusal(server.url("/epic.gguf"))
    assert error.message == f"{server.url('/epic.gguf')} has {len(haiku)} bytes, and {len(epic)} are wanted"
    assert (await puller.pull(server.url("/epic.gguf"))).digest == digest(haiku)


@pytest.mark.req("MP-02")
@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Content-Encoding": "gzip"}, "comes packed ('gzip') although it was asked for as it is"),
        ({"Content-Range": "bytes 5-6/7"}, None),
    ],
)
async def test_a_server_that_lies_is_not_believed(
    headers: dict[str, str], said: str | None, server: FileServer, puller: Puller, haiku: bytes
) -> None:
    server.files["/haiku.gguf"] = haiku
    look = plain(206, b"G", Content_Range=f"bytes 0-0/{len(haiku)}", ETag='"one"')
    server.answers["/haiku.gguf"] = [look, plain(200, haiku, **headers)]
    if said is None:
        assert (await puller.pull(server.url("/haiku.gguf"))).digest == digest(haiku)
    else:
        assert said in (await puller.refusal(server.url("/haiku.gguf"))).message


@pytest.mark.req("MP-02")
async def test_a_body_without_end_is_ended(server: FileServer, puller: Puller, haiku: bytes) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(haiku)
        return response

    look = plain(206, b"G", Content_Range=f"bytes 0-0/{len(haiku)}", ETag='"one"')
    server.answers["/haiku.gguf"] = [look, endless]
    error = await puller.refusal(server.url("/haiku.gguf"))
    assert error.message.endswith(f"goes on after the {len(haiku)} bytes that it should have")
    assert sum(path.stat().st_size for path in puller.cache.rglob("*.part")) <= len(haiku) + (2 << 20)


@pytest.mark.req("MP-02")
async def test_a_body_that_is_too_short_is_never_taken_for_the_whole(
    server: FileServer, puller: Puller, haiku: bytes
) -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(haiku[:-1])
        return response

    look = plain(206, b"G", Content_Range=f"bytes 0-0/{len(haiku)}", ETag='"one"')
    server.answers["/haiku.gguf"] = [look, *[short] * 6]
    error = await puller.refusal(server.url("/haiku.gguf"))
    assert error.message.endswith("cannot be fetched: the connection broke (6 attempts)")
    assert puller.left(".gguf") == []


async def test_headers_never_reach_a_second_server(
    server: FileServer, puller: Puller, haiku: bytes, authority: Authority
) -> None:
    async with serving({"/elsewhere": haiku}, tls=authority.server) as second:
        server.answers["/a"] = [plain(302, Location="/b")]
        server.answers["/b"] = [plain(302, Location=second.url("/elsewhere"))]
        file = RemoteFile(name="haiku.gguf", url=server.url("/a"), headers=(("X-Key", "sesame"),))
        target = puller.root / "haiku.gguf"
        assert await Transfer(puller.gate()).fetch(file, target) == digest(haiku).removeprefix("sha256:")
    assert [request.headers.get("X-Key") for request in server.asked] == ["sesame", "sesame"]
    assert [request.headers.get("X-Key") for request in second.asked] == [None]
