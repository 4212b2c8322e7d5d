import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_provisioner.sources import oci_manifest
from model_provisioner.sources.oci_manifest import Artifact, Index, Manifest, ManifestError, NotAModelError

pytestmark = pytest.mark.req("MP-04")

Layer = dict[str, Any]
TITLE = "org.opencontainers.image.title"
DIGESTS = [f"sha256:{number:064x}" for number in range(20)]


def layer(
    number: int, title: str | None = None, media_type: str = "application/octet-stream", key: str = TITLE
) -> Layer:
    found: Layer = {"mediaType": media_type, "digest": DIGESTS[number], "size": 10 + number}
    return found | ({"annotations": {key: title}} if title is not None else {})


def encoded(*layers: Layer, **more: object) -> bytes:
    return msgspec.json.encode({"schemaVersion": 2, "layers": layers} | more)


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def artifact_of(*layers: Layer) -> Artifact:
    manifest = oci_manifest.read(encoded(*layers), None)
    assert isinstance(manifest, Manifest)
    return oci_manifest.artifact(manifest, "smollm2")


def names_of(found: Artifact) -> list[tuple[str, str]]:
    return [(name, each.digest) for name, each in found.files]


GGUF = "application/vnd.docker.ai.gguf.v3"
RAW = "application/vnd.cncf.model.weight.v1.raw"
CNCF = "org.cncf.model.filepath"


@pytest.mark.parametrize(
    ("layers", "names", "entry"),
    [
        ([layer(1, "haiku.gguf"), layer(2, "README.md")], {"haiku.gguf": 1}, "haiku.gguf"),
        (
            [layer(1, None, GGUF), layer(2, None, "application/vnd.docker.ai.license")],
            {"smollm2.gguf": 1},
            "smollm2.gguf",
        ),
        ([layer(1, None, "application/vnd.ollama.image.model")], {"smollm2.gguf": 1}, "smollm2.gguf"),
        ([layer(1, "model", GGUF)], {"smollm2.gguf": 1}, "smollm2.gguf"),
        ([layer(1, "q.gguf", GGUF), layer(2, "p.gguf", "application/vnd.docker.ai.mmproj")], {"q.gguf": 1}, "q.gguf"),
        (
            [layer(1, None, GGUF), layer(2, None, GGUF)],
            {"smollm2-00001-of-00002.gguf": 1, "smollm2-00002-of-00002.gguf": 2},
            "smollm2-00001-of-00002.gguf",
        ),
        (
            [layer(2, "a-00002-of-00002.gguf"), layer(1, "a-00001-of-00002.gguf")],
            {"a-00001-of-00002.gguf": 1, "a-00002-of-00002.gguf": 2},
            "a-00001-of-00002.gguf",
        ),
        (
            [
                layer(1, "config.json", RAW, CNCF),
                layer(2, "model.safetensors", RAW, CNCF),
                layer(3, "x.png", RAW, CNCF),
            ],
            {"config.json": 1, "model.safetensors": 2},
            None,
        ),
        (
            [layer(1, "out/phi/config.json"), layer(2, "out/phi/model.safetensors")],
            {"config.json": 1, "model.safetensors": 2},
            None,
        ),
    ],
)
def test_the_conventions_in_use(layers: list[Layer], names: dict[str, int], entry: str | None) -> None:
    found = artifact_of(*layers)
    assert (names_of(found), found.entry) == ([(name, DIGESTS[number]) for name, number in names.items()], entry)


TAR = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([layer(1, None, TAR), layer(2, None, TAR)], "is a container image, or files in archives"),
        ([layer(1, None, "application/vnd.docker.image.rootfs.diff.tar.gzip")], "is a container image"),
        (
            [layer(1, "model.safetensors"), layer(2, "c", "application/vnd.docker.ai.vllm.config.tar")],
            "are not unpacked",
        ),
        ([layer(1, "README.md")], "holds no model"),
        ([layer(1)], "holds no model"),
        ([], "holds no model"),
    ],
)
@pytest.mark.req("MP-02")
def test_what_is_not_a_model(layers: list[Layer], reason: str) -> None:
    with pytest.raises(NotAModelError, match=reason):
        artifact_of(*layers)


@pytest.mark.parametrize(
    "title",
    [
        "../../../etc/cron.d/x.gguf",
        "/etc/x.gguf",
        "a/../../x.gguf",
        ".x.gguf",
        "a\\..\\x.gguf",
        "x\n.gguf",
        "..gguf/.gguf",
    ],
)
@pytest.mark.req("MP-02")
def test_hostile_titles_are_refused(title: str) -> None:
    with pytest.raises(ManifestError, match="not safe on a disk"):
        artifact_of(layer(1, title))


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([layer(1, "a.gguf"), layer(2, "a.gguf")], "two layers of one name"),
        ([layer(1, "a.gguf"), layer(2, "b.gguf")], "holds 2 models"),
        ([layer(1, "a-00001-of-00002.gguf")], "lacks 1 of the 2 parts"),
    ],
)
@pytest.mark.req("MP-02")
def test_ambiguous_and_incomplete_artifacts_are_refused(layers: list[Layer], reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        artifact_of(*layers)


@pytest.mark.req("MP-03")
def test_a_manifest_must_be_the_one_that_was_asked_for() -> None:
    body = encoded(layer(1, "a.gguf"))
    assert oci_manifest.read(body, digest_of(body)).digest == digest_of(body)
    with pytest.raises(ManifestError, match=r"was asked for as sha256:0{64}, and what came is sha256:"):
        oci_manifest.read(body, DIGESTS[0])


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"null",
            b"[]",
            b"{",
            b"\xff",
            b"[" * 100_000,
            b'{"schemaVersion": 2}',
            b'{"schemaVersion": 1, "layers": []}',
        ),
        b'{"schemaVersion": 2, "layers": [], "manifests": []}',
        encoded({"digest": "sha256:../../x", "size": 1}),
        encoded({"digest": "md5:x", "size": 1}),
        encoded({"digest": DIGESTS[1], "size": -1}),
        encoded({"digest": DIGESTS[1], "size": 1 << 80}),
        encoded({"digest": DIGESTS[1], "size": "many"}),
        encoded({"digest": DIGESTS[1] + "\n", "size": 1}),
        encoded(*(layer(1, f"{number}.json") for number in range(4097))),
    ],
)
@pytest.mark.req("MP-02")
def test_what_is_no_manifest(body: bytes) -> None:
    with pytest.raises(ManifestError):
        oci_manifest.read(body, None)


@given(st.binary(max_size=200) | st.builds(encoded, st.from_type(dict[str, str | int])))
def test_any_bytes_are_a_manifest_or_an_error(body: bytes) -> None:
    try:
        found = oci_manifest.read(body, None)
    except ManifestError:
        return
    assert found.digest == digest_of(body)


def test_an_index_names_its_candidates() -> None:
    attested = {"digest": DIGESTS[2], "size": 1, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    body = msgspec.json.encode({"schemaVersion": 2, "manifests": [{"digest": DIGESTS[1], "size": 1}, attested]})
    index = oci_manifest.read(body, None)
    assert isinstance(index, Index)
    assert [each.digest for each in oci_manifest.candidates(index)] == [DIGESTS[1]]


@pytest.mark.parametrize("count", [0, 17])
def test_an_index_of_nothing_or_too_much_is_refused(count: int) -> None:
    descriptors = tuple(oci_manifest.Descriptor(digest=DIGESTS[number], size=1) for number in range(count))
    with pytest.raises(ManifestError):
        oci_manifest.candidates(Index(digest=DIGESTS[0], manifests=descriptors))
