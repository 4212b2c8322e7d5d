import base64
import hashlib

import pytest

from contracts.pools import Cause
from model_provisioner.reference import S3Ref
from model_provisioner.sources import s3_words
from model_provisioner.sources.s3_words import Place

pytestmark = [pytest.mark.req("MP-02"), pytest.mark.req("MP-04")]

REF = S3Ref(bucket="models", key="llama/haiku.gguf")
PLACE = Place(ref=REF, host="s3.example.org", region="eu-west-1", anonymous=False)
NOBODY = Place(ref=REF, host="s3.example.org", region="eu-west-1", anonymous=True)


@pytest.mark.parametrize(
    ("code", "place", "cause", "words", "mend"),
    [
        ("NoSuchBucket", PLACE, Cause.MODEL_MISSING, "no bucket 'models'", "AWS_ENDPOINT_URL"),
        (
            "NoSuchKey",
            PLACE,
            Cause.MODEL_MISSING,
            "nothing at s3://models/llama/haiku.gguf",
            "aws s3 ls s3://models/llama/",
        ),
        ("AccessDenied", PLACE, Cause.MODEL_FETCH, "may not read", "s3:GetObject"),
        ("403", NOBODY, Cause.MODEL_FETCH, "no credentials were found", "names 169.254.169.254"),
        ("SignatureDoesNotMatch", PLACE, Cause.MODEL_FETCH, "does not know the credentials", "aws configure list"),
        ("ExpiredToken", PLACE, Cause.MODEL_FETCH, "have expired", "aws sso login"),
        ("RequestTimeTooSkewed", PLACE, Cause.MODEL_FETCH, "this machine's time", "timedatectl"),
        ("PermanentRedirect", PLACE, Cause.MODEL_FETCH, "in another region than eu-west-1", "AWS_REGION"),
        ("InvalidObjectState", PLACE, Cause.MODEL_FETCH, "in an archive", "restore-object"),
        ("SlowDown", PLACE, Cause.MODEL_FETCH, "answers SlowDown", "later"),
        ("Curious", PLACE, Cause.MODEL_FETCH, "answers Curious", "AWS_ENDPOINT_URL"),
        ("<b>X-Amz-Signature=", PLACE, Cause.MODEL_FETCH, "answers something that is no error", "AWS_ENDPOINT_URL"),
    ],
)
def test_each_refusal_has_its_mend(code: str, place: Place, cause: Cause, words: str, mend: str) -> None:
    error = s3_words.refusal(code, place)
    assert error.cause is cause
    assert words in error.message
    assert mend in error.hint
    assert "Signature=" not in error.render()


def test_only_a_checksum_of_the_whole_object_is_believed() -> None:
    digest = hashlib.sha256(b"x")
    checksum = base64.b64encode(digest.digest()).decode()
    assert s3_words.sha256_of(checksum, None) == digest.hexdigest()
    assert s3_words.sha256_of(checksum, "FULL_OBJECT") == digest.hexdigest()
    for text, kind in ((None, None), (checksum, "COMPOSITE"), (f"{checksum}-3", None), ("AAAA", None), ("é", None)):
        assert s3_words.sha256_of(text, kind) is None


def test_a_version_pins_an_object_else_its_etag_does() -> None:
    assert s3_words.revision_of("3sL4kqtJlcpXroDTDmJ", '"abc-5"') == "3sL4kqtJlcpXroDTDmJ"
    assert s3_words.revision_of("null", '"abc-5"') == "abc-5"
    assert s3_words.revision_of(None, '"abc-5"') == "abc-5"


@pytest.mark.parametrize("version", ["../../etc", "a/b", ".", "-x", "", "x" * 101, "a b", "\ud800"])
def test_a_revision_is_fit_for_a_folder(version: str) -> None:
    assert s3_words.fit(version) == hashlib.sha256(version.encode(errors="surrogatepass")).hexdigest()


def test_several_files_change_together() -> None:
    before = s3_words.together([("a", "1"), ("b", "2")])
    assert s3_words.together([("b", "2"), ("a", "1")]) == before
    assert s3_words.together([("a", "1"), ("b", "3")]) != before


@pytest.mark.parametrize(
    ("storage", "restore", "archived"),
    [
        ("", "", False),
        ("GLACIER_IR", "", False),
        ("GLACIER", "", True),
        ("DEEP_ARCHIVE", 'ongoing-request="true"', True),
        ("DEEP_ARCHIVE", 'ongoing-request="false", expiry-date="Fri, 21 Dec 2029 00:00:00 GMT"', False),
    ],
)
def test_an_archived_object_is_known(storage: str, restore: str, archived: bool) -> None:
    assert s3_words.is_archived(storage, restore) is archived
