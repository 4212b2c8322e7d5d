"""``s3://`` against a real object store (moto's), as far as finding goes."""

import hashlib
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from contracts.config import Outbound, Policy
from contracts.pools import Cause
from daemon_core.python_packages import install_hint
from model_provisioner.errors import FetchError, ModelError, Trouble
from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.reference import S3Ref
from model_provisioner.sources import s3
from model_provisioner.sources.base import Located, RemoteFile
from model_provisioner.sources.s3 import S3Source
from tests.plugins.failures import OperatorSees
from tests.support.object_store import BUCKET, KEY_ID, SECRET, ObjectStore, nobody, object_store, use

pytestmark = [pytest.mark.req("MP-04"), pytest.mark.timeout(120)]  # the store starts in the first of them

DATA = b"GGUF" + bytes(1000)
LOOPBACK = Policy(outbound=Outbound(allow=("127.0.0.1",)))


@pytest.fixture(scope="module")
def opened() -> Iterator[ObjectStore]:
    with object_store() as found:
        yield found


@pytest.fixture
def store(opened: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    opened.empty()
    use(opened.url, monkeypatch, str(tmp_path))
    return opened


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the environment of somebody with credentials for the store at a URL."""
    return lambda url, **more: use(url, monkeypatch, str(tmp_path), **more)


async def locate(key: str, bucket: str = BUCKET, policy: Policy = LOOPBACK) -> Located:
    return await S3Source(OutboundGate(policy=policy).require).locate(S3Ref(bucket=bucket, key=key))


async def refused(key: str, bucket: str = BUCKET) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await locate(key, bucket)
    assert SECRET not in caught.value.render()
    assert "Signature" not in caught.value.render()
    return caught.value


async def fetched(file: RemoteFile, **headers: str) -> tuple[int, bytes]:
    """What the address of a file brings; what it was signed with is in it alone."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(file.url, headers=dict(file.headers) | headers) as response,
    ):
        return response.status, await response.read()


async def test_a_file_is_found_with_all_that_is_known_of_it(store: ObjectStore) -> None:
    store.put("llama/haiku.gguf", DATA, ChecksumAlgorithm="SHA256")
    located = await locate("llama/haiku.gguf")
    (file,) = located.files
    assert (located.entry, file.name, file.size_bytes) == ("haiku.gguf", "haiku.gguf", len(DATA))
    assert file.sha256 == hashlib.sha256(DATA).hexdigest()
    assert located.revision == hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    assert located.source == f's3://models/llama/haiku.gguf at {store.address}, ETag "{located.revision}"'
    assert await fetched(file) == (200, DATA)
    assert await fetched(file, Range="bytes=1000-") == (206, DATA[1000:])


async def test_a_signed_address_is_shown_nowhere(store: ObjectStore, caplog: pytest.LogCaptureFixture) -> None:
    store.put("haiku.gguf", DATA)
    with caplog.at_level(logging.DEBUG):
        located = await locate("haiku.gguf")
    assert "X-Amz-Signature" in located.files[0].url
    for text in (repr(located), located.source, caplog.text):
        assert "X-Amz" not in text
        assert "Credential=" not in text
        assert SECRET not in text
        assert KEY_ID not in text


async def test_what_was_signed_for_one_content_does_not_bring_another(store: ObjectStore) -> None:
    store.put("haiku.gguf", DATA)
    before = await locate("haiku.gguf")
    store.put("haiku.gguf", DATA[::-1])
    status, _ = await fetched(before.files[0])
    assert status == 412
    after = await locate("haiku.gguf")
    assert after.revision != before.revision
    assert await fetched(after.files[0]) == (200, DATA[::-1])


async def test_a_version_stays_what_it_was(store: ObjectStore) -> None:
    store.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    store.put("haiku.gguf", DATA)
    before = await locate("haiku.gguf")
    store.put("haiku.gguf", b"another")
    assert (await locate("haiku.gguf")).revision != before.revision
    assert await fetched(before.files[0]) == (200, DATA)


async def test_the_first_part_of_a_split_model_brings_all(store: ObjectStore) -> None:
    names = [f"big-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    for name in names:
        store.put(f"m/{name}", name.encode())
    located = await locate(f"m/{names[0]}")
    assert [file.name for file in located.files] == names
    assert located.entry == names[0]
    store.put(f"m/{names[2]}", b"changed")
    assert (await locate(f"m/{names[0]}")).revision != located.revision
    error = await refused(f"m/{names[1]}")
    assert (error.cause, error.hint) == (Cause.MODEL_INVALID, f"give its first: s3://models/m/{names[0]}")
    store.client.delete_object(Bucket=BUCKET, Key=f"m/{names[1]}")
    assert (await refused(f"m/{names[0]}")).cause is Cause.MODEL_MISSING


@pytest.mark.parametrize("key", ["phi", "phi/"])
async def test_a_folder_with_safetensors_is_a_directory(store: ObjectStore, key: str) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "onnx/model.onnx", ""):
        store.put(f"phi/{name}", name.encode())
    store.put("phi-2/config.json", b"{}")
    located = await locate(key)
    assert [file.name for file in located.files] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert located.entry is None
    assert await fetched(located.files[1]) == (200, b"model.safetensors")


async def test_more_objects_than_a_page_has(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAGE_KEYS", 2)
    for name in ("a.txt", "b.txt", "c.txt", "d.txt", "z.gguf"):
        store.put(f"many/{name}", b"")
    assert (await locate("many")).entry == "z.gguf"


@pytest.mark.req("MP-02")
@pytest.mark.parametrize(
    ("key", "bucket", "cause", "words"),
    [
        ("haiku.gguf", "no-such-bucket", Cause.MODEL_MISSING, "has no bucket 'no-such-bucket'"),
        ("folder", "no-such-bucket", Cause.MODEL_MISSING, "has no bucket 'no-such-bucket'"),
        ("other.gguf", BUCKET, Cause.MODEL_MISSING, "has nothing at s3://models/other.gguf"),
        ("nothing", BUCKET, Cause.MODEL_MISSING, "has nothing at s3://models/nothing"),
        ("two", BUCKET, Cause.MODEL_INVALID, "holds 2 models: a.gguf, b.gguf"),
        ("text", BUCKET, Cause.MODEL_INVALID, "holds no model"),
        ("hidden/.x.gguf", BUCKET, Cause.MODEL_INVALID, "not safe on a disk: .x.gguf"),
    ],
)
async def test_what_cannot_be_found_is_said(
    store: ObjectStore, key: str, bucket: str, cause: Cause, words: str
) -> None:
    for name in ("two/a.gguf", "two/b.gguf", "text/README.md", "hidden/.x.gguf"):
        store.put(name, b"")
    error = await refused(key, bucket)
    assert error.cause is cause
    assert words in error.message
    assert error.hint


# --- who we are -----------------------------------------------------------------------------------------------------


async def test_credentials_that_the_store_does_not_know(
    environ: Callable[..., None], operator_sees: OperatorSees
) -> None:
    with object_store() as strict:
        environ(strict.url)
        await require_credentials(strict)
        error = await refused("haiku.gguf")
    assert error.message.startswith(f"{strict.address} does not know the credentials that were found")
    operator_sees("model/s3-wrong-credentials", error.render())


async def test_nobody_reads_what_is_not_open(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, operator_sees: OperatorSees
) -> None:
    store.put("haiku.gguf", DATA)
    nobody(monkeypatch, str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    error = await refused("haiku.gguf")
    assert error.message == "s3://models/haiku.gguf is not open to everybody, and no credentials were found"
    assert "aws configure" in error.hint
    operator_sees("model/s3-no-credentials", error.render())


async def test_nobody_reads_what_is_open(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store.put("haiku.gguf", DATA, ACL="public-read")
    nobody(monkeypatch, str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
    (file,) = (await locate("haiku.gguf")).files
    assert "Signature" not in file.url
    assert await fetched(file) == (200, DATA)


async def test_a_profile_has_its_credentials_store_and_region(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.put("haiku.gguf", DATA)
    nobody(monkeypatch, str(tmp_path))
    folder = tmp_path / ".aws"
    folder.mkdir()
    (folder / "config").write_text(f"[profile lab]\nregion = eu-west-1\nendpoint_url = {store.url}\n")
    (folder / "credentials").write_text(f"[lab]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    (file,) = (await locate("haiku.gguf")).files
    assert f"{KEY_ID}%2F" in file.url
    assert "%2Feu-west-1%2Fs3%2F" in file.url


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"AWS_PROFILE": "nobody-wrote-this"}, "cannot be had (ProfileNotFound)"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "cannot be had (PartialCredentialsError)"),
        ({"AWS_ENDPOINT_URL": "no address"}, "settings of the AWS client are not usable (ValueError)"),
    ],
)
@pytest.mark.req("MP-02")
async def test_settings_that_do_not_work_are_said(
    environ: Callable[..., None], given: dict[str, str], words: str
) -> None:
    environ("http://127.0.0.1:1", **given)
    error = await refused("haiku.gguf")
    assert error.cause is Cause.MODEL_FETCH
    assert words in error.message


# --- where it goes --------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-23")
async def test_policy_is_asked_before_each_request(store: ObjectStore) -> None:
    store.put("phi/haiku.gguf", DATA)
    asked: list[str] = []
    await S3Source(asked.append).locate(S3Ref(bucket=BUCKET, key="phi"))
    assert [url.partition("?")[0] for url in asked] == [f"{store.url}/models", f"{store.url}/models/phi/haiku.gguf"]


@pytest.mark.req("HP-23")
async def test_a_store_on_a_private_address_is_refused_unless_it_is_allowed(store: ObjectStore) -> None:
    with pytest.raises(FetchError) as caught:
        await locate("haiku.gguf", policy=Policy())
    assert caught.value.trouble is Trouble.POLICY
    assert "127.0.0.1 may not be reached" in caught.value.message


@pytest.mark.req("HP-23")
async def test_policy_is_asked_of_the_service_that_lends_a_role(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nobody(monkeypatch, str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(
        "[profile lent]\nrole_arn = arn:aws:iam::123456789012:role/reader\nsource_profile = own\nregion = eu-west-1\n"
        f"[profile own]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "lent")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", store.url.replace("127.0.0.1", "localhost"))
    policy = Policy(outbound=Outbound(allow=("127.0.0.1",), deny=("localhost",)))
    with pytest.raises(FetchError) as caught:
        await locate("haiku.gguf", policy=policy)
    assert "localhost may not be reached: policy.outbound.deny: localhost" in caught.value.message


METADATA_ROLE = "/latest/meta-data/iam/security-credentials/"


@pytest.mark.req("HP-23")
@pytest.mark.parametrize("source", ["", "[default]\nrole_arn = arn:x\ncredential_source = Ec2InstanceMetadata\n"])
async def test_the_metadata_service_is_not_contacted_unless_policy_allows_it(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    store.put("haiku.gguf", DATA, ACL="public-read")
    nobody(monkeypatch, str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(source)
    async with answering(200, "{}") as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url.replace("127.0.0.1", "localhost"))
        if source:
            assert "cannot be had" in (await refused("haiku.gguf")).message
        else:
            await locate("haiku.gguf")
        assert service.asked == []
        allowed = Policy(outbound=Outbound(allow=("127.0.0.1", "localhost")))
        if not source:
            await locate("haiku.gguf", policy=allowed)
            assert service.asked[0] == "/latest/api/token"


@pytest.mark.req("HP-23")
async def test_a_containers_credentials_are_asked_for_only_where_policy_allows_it(environ: Callable[..., None]) -> None:
    environ("http://127.0.0.1:1", AWS_CONTAINER_CREDENTIALS_RELATIVE_URI="/secret")
    with pytest.raises(FetchError) as caught:
        await locate("haiku.gguf")
    assert "169.254.170.2 may not be reached" in caught.value.message


@pytest.mark.req("HP-23")
async def test_a_redirect_is_not_followed_to_where_policy_was_not_asked(environ: Callable[..., None]) -> None:
    moved = "<Error><Code>PermanentRedirect</Code><Endpoint>models.evil.example</Endpoint></Error>"
    headers = {"Location": "http://evil.example/", "x-amz-bucket-region": "eu-central-1"}
    asked: list[str] = []
    async with answering(301, moved, headers) as other:
        environ(other.url)
        with pytest.raises(ModelError) as caught:
            await S3Source(asked.append).locate(S3Ref(bucket=BUCKET, key="haiku.gguf"))
    assert {url.partition("/models")[0] for url in asked} == {other.url}
    assert caught.value.message == "the bucket 'models' is in another region than us-east-1"


# --- what else can go wrong -----------------------------------------------------------------------------------------


@pytest.mark.req("MP-02")
@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "RequestTimeTooSkewed", "does not accept this machine's time"),
        (403, "ExpiredToken", "have expired"),
        (403, "AccessDenied", "may not read s3://models/haiku.gguf"),
        (503, "SlowDown", "answers SlowDown"),
    ],
)
async def test_a_stores_refusals(environ: Callable[..., None], status: int, code: str, words: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>StringToSign AKIA</Message></Error>"
    async with answering(status, body) as other:
        environ(other.url)
        error = await refused("haiku.gguf")
    assert words in error.message
    assert "StringToSign" not in error.render()
    assert error.retriable is (status == 503)


@pytest.mark.req("EP-13")
async def test_the_password_in_a_stores_address_is_not_shown(environ: Callable[..., None]) -> None:
    environ(f"http://me:open-barley@127.0.0.1:{unused_port()}")
    assert "open-barley" not in (await refused("haiku.gguf")).render()


@pytest.mark.req("MP-02")
async def test_a_store_that_cannot_be_reached(environ: Callable[..., None], operator_sees: OperatorSees) -> None:
    environ(f"http://127.0.0.1:{unused_port()}")
    error = await refused("haiku.gguf")
    assert "cannot be reached" in error.message
    assert "AWS_ENDPOINT_URL" in error.hint
    operator_sees("model/s3-unreachable", error.render())


@pytest.mark.req("MP-02")
async def test_a_store_that_is_something_else(environ: Callable[..., None]) -> None:
    async with answering(200, "<html>welcome</html>") as other:
        environ(other.url)
        error = await refused("folder")
    assert error.cause in {Cause.MODEL_MISSING, Cause.MODEL_FETCH}


@pytest.mark.req("MP-02")
def test_without_the_extra_it_is_said_how_to_get_it(operator_sees: OperatorSees) -> None:
    script = (
        "import asyncio, sys\n"
        "sys.modules['botocore'] = None\n"
        "from model_provisioner.errors import ModelError\n"
        "from model_provisioner.reference import S3Ref\n"
        "from model_provisioner.sources.s3 import S3Source\n"
        "try: asyncio.run(S3Source(lambda _: ()).locate(S3Ref(bucket='models', key='x.gguf')))\n"
        "except ModelError as error: print(error.render())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout == (
        "model_fetch: s3:// needs the Python package botocore, which is not installed\n"
        f"  hint: {install_hint('botocore')}\n"
    )
    operator_sees("model/s3-not-installed", done.stdout)


class Answering:
    """A server that says one thing, and notes what it was asked for."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []


@asynccontextmanager
async def answering(status: int, body: str, headers: dict[str, str] | None = None) -> AsyncIterator[Answering]:
    found = Answering()

    async def answer(request: web.Request) -> web.Response:
        found.asked.append(request.path)
        return web.Response(status=status, text=body, headers=headers, content_type="application/xml")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        found.url = str(server.make_url("")).rstrip("/")
        yield found


async def require_credentials(store: ObjectStore) -> None:
    url = f"{store.url}/moto-api/reset-auth"
    async with aiohttp.ClientSession() as session, session.post(url, data=b"0") as response:
        assert response.status == 200
