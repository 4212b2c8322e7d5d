"""What a model reference means: a file on this machine, or a place to fetch it from.

Decides the grammar below, and how a reference that is none is answered. Never looks at a disk or a network: ``~`` and
symbolic links are left as they are, and nothing is known to exist.

    haiku.gguf, ./haiku.gguf, /models/haiku.gguf, ~/haiku.gguf      a file; relative to the configuration's folder
    file:haiku.gguf, file:///models/haiku.gguf                      the same; %20 is a blank after file://
    hf:org/repo[/path/file.gguf][@revision]                         Hugging Face
    https://host/path/file.gguf                                     any web server
    s3://bucket/key                                                 an object store; a folder may end in /
    oci://registry/repository[:tag][@sha256:hex]                    a registry
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import assert_never
from urllib.parse import unquote, urlsplit

import msgspec

from model_provisioner.errors import ReferenceInvalidError


class LocalFile(msgspec.Struct, frozen=True, kw_only=True, tag="file"):
    """A file on this machine. ``path`` is absolute or begins with ``~``."""

    path: str


class HfRef(msgspec.Struct, frozen=True, kw_only=True, tag="hf"):
    """A repository on Hugging Face, or one file in it; ``path`` may have folders. No revision means the default one."""

    org: str
    repo: str
    path: str | None = None
    revision: str | None = None


class HttpsRef(msgspec.Struct, frozen=True, kw_only=True, tag="https"):
    """A file on a web server. The query of ``url`` may hold a signature: show ``shown`` to people."""

    url: str
    host: str

    @property
    def shown(self) -> str:
        """The address without its query."""
        return self.url.partition("?")[0]


class S3Ref(msgspec.Struct, frozen=True, kw_only=True, tag="s3"):
    """An object in an object store."""

    bucket: str
    key: str


class OciRef(msgspec.Struct, frozen=True, kw_only=True, tag="oci"):
    """An artifact in a registry. ``registry`` is ``host[:port]``, ``digest`` is ``sha256:<hex>``."""

    registry: str
    repository: str
    tag_name: str | None = None
    digest: str | None = None


RemoteRef = HfRef | HttpsRef | S3Ref | OciRef
Reference = LocalFile | RemoteRef

FORMS: MappingProxyType[str, str] = MappingProxyType(
    {
        "file": "file:///models/name.gguf",
        "hf": "hf:org/repo/name.gguf",
        "https": "https://host/name.gguf",
        "s3": "s3://bucket/name.gguf",
        "oci": "oci://registry/repository:tag",
    }
)
"""The schemes there are, with an example each."""

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?P<rest>.*)", re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_HF = re.compile(
    r"(?P<org>[A-Za-z0-9][\w.-]{0,95})/(?P<repo>[A-Za-z0-9][\w.-]{0,95})"
    r"(?:/(?P<path>[^@]+))?(?:@(?P<revision>[\w.][\w./-]*))?",
    re.ASCII,
)
_S3 = re.compile(r"(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+)")
_OCI = re.compile(
    r"(?P<registry>localhost|[A-Za-z0-9.-]+\.[A-Za-z0-9.-]+|[A-Za-z0-9.-]+(?=:))(?P<port>:[0-9]{1,5})?"
    r"/(?P<repository>[a-z0-9][a-z0-9._/-]*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_PART = re.compile(r"-[0-9]{5}-of-[0-9]{5}\Z")
_SEGMENTS_THAT_LEAD_AWAY = {"", ".", ".."}


def parse(text: str, base_dir: PurePosixPath) -> Reference:
    """Read a reference as it stands in a configuration or a request.

    ``base_dir`` is the absolute folder that relative paths start from. Raises ReferenceInvalidError.
    """
    if not text.strip():
        raise ReferenceInvalidError("the model reference is empty", _valid())
    if found := _UNPRINTABLE.search(text):
        raise ReferenceInvalidError(f"the model reference {text!r} holds {found[0]!r}", "leave it out")
    match = _SCHEME.fullmatch(text)
    if match is None:
        return _local(text, base_dir)
    scheme, rest = match["scheme"].lower(), match["rest"]
    match scheme:
        case "file":
            return _file(text, rest, base_dir)
        case "hf":
            return _hf(text, rest)
        case "https":
            return _https(text)
        case "s3":
            return _s3(text, rest)
        case "oci":
            return _oci(text, rest)
        case _:
            message = f"{scheme + ':'!r} in the model reference {_shown(text)!r} is not one of: {', '.join(FORMS)}"
            hint = f"a file whose name has a colon is written ./{_shown(text)}"
            if rest.startswith("//"):
                hint = _valid() if scheme != "http" else "use https://, or download the file and give its path"
            raise ReferenceInvalidError(message, hint)


def render(reference: Reference) -> str:
    """The reference in its shortest form, which parses to the same value whatever the base."""
    match reference:
        case LocalFile(path=path):
            return path
        case HfRef(org=org, repo=repo, path=file, revision=revision):
            return f"hf:{org}/{repo}" + (f"/{file}" if file else "") + (f"@{revision}" if revision else "")
        case HttpsRef(url=url):
            return url
        case S3Ref(bucket=bucket, key=key):
            return f"s3://{bucket}/{key}"
        case OciRef(registry=registry, repository=repository, tag_name=tag, digest=digest):
            return f"oci://{registry}/{repository}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
        case _:
            assert_never(reference)


def shown(reference: Reference) -> str:
    """The reference for messages and logs: without what may be a secret."""
    return reference.shown if isinstance(reference, HttpsRef) else render(reference)


def name_of(reference: Reference) -> str:
    """What a model is likely to be called, before anybody has seen it."""
    match reference:
        case LocalFile(path=path):
            name = PurePosixPath(path).name
        case HfRef(repo=repo, path=file):
            name = PurePosixPath(file).name if file else repo
        case HttpsRef():
            name = PurePosixPath(reference.shown).name
        case S3Ref(key=key):
            name = PurePosixPath(key).name
        case OciRef(repository=repository):
            name = PurePosixPath(repository).name
        case _:
            assert_never(reference)
    return model_id(PurePosixPath(name if name.lower().endswith(".gguf") else f"{name}.d"))


def model_id(path: PurePosixPath) -> str:
    """The id of a model in a file: the file's stem, with what does not fit into a URL or a label made a dash.

    Which part of a split model the file is does not belong to it.
    """
    stem = _PART.sub("", path.stem)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model"


def _local(path: str, base_dir: PurePosixPath) -> LocalFile:
    if path.startswith("~"):
        return LocalFile(path=str(PurePosixPath(path)))
    return LocalFile(path=str(base_dir / path))


def _file(text: str, rest: str, base_dir: PurePosixPath) -> LocalFile:
    if not rest.startswith("//"):
        return _local_or_refuse(text, rest, base_dir)
    host, slash, path = rest[2:].partition("/")
    if host not in {"", "localhost"}:
        raise ReferenceInvalidError(
            f"the model reference {text!r} names the host {host!r}",
            f"a file has three slashes, file:///{host}/{path}, or none, file:{host}/{path}",
        )
    decoded = unquote(slash + path, errors="surrogateescape")
    if _UNPRINTABLE.search(decoded):
        raise ReferenceInvalidError(f"the path in {text!r} is no UTF-8 text", "write the path without file://")
    return _local_or_refuse(text, decoded, base_dir)


def _local_or_refuse(text: str, path: str, base_dir: PurePosixPath) -> LocalFile:
    if not path.strip():
        raise ReferenceInvalidError(f"the model reference {text!r} has no path", f"for example {FORMS['file']}")
    return _local(path, base_dir)


def _hf(text: str, rest: str) -> HfRef:
    match = _HF.fullmatch(rest.removeprefix("//"))
    if match is None or _leads_away(match["path"]) or _leads_away(match["revision"]):
        raise _malformed(text, "hf:org/repo[/path/file.gguf][@revision]")
    return HfRef(org=match["org"], repo=match["repo"], path=match["path"], revision=match["revision"])


def _https(text: str) -> HttpsRef:
    form = "https://host/path/file.gguf"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _malformed(text, form) from error
    if not host or not parts.path.strip("/") or parts.fragment or any(mark.isspace() for mark in text):
        raise _malformed(text, form)
    if parts.username is not None or parts.password is not None:
        raise ReferenceInvalidError(
            f"the model reference for the host {host!r} holds a user name or a password",
            "leave them out: a reference is shown and logged",
        )
    return HttpsRef(url=f"https{text[5:]}", host=host)


def _s3(text: str, rest: str) -> S3Ref:
    match = _S3.fullmatch(rest.removeprefix("//"))
    if match is None or _leads_away(match["key"].removesuffix("/")):
        raise _malformed(text, "s3://bucket/key")
    return S3Ref(bucket=match["bucket"], key=match["key"])


def _oci(text: str, rest: str) -> OciRef:
    match = _OCI.fullmatch(rest.removeprefix("//"))
    if match is None or _leads_away(match["repository"]):
        raise _malformed(text, "oci://registry/repository[:tag][@sha256:hex]")
    registry = match["registry"] + (match["port"] or "")
    return OciRef(registry=registry, repository=match["repository"], tag_name=match["tag"], digest=match["digest"])


def _leads_away(path: str | None) -> bool:
    """Whether a remote path has a segment that would mean another place once it is a path on this disk."""
    return path is not None and not _SEGMENTS_THAT_LEAD_AWAY.isdisjoint(path.split("/"))


def _malformed(text: str, form: str) -> ReferenceInvalidError:
    return ReferenceInvalidError(f"the model reference {_shown(text)!r} does not have the form {form}", _valid())


def _shown(text: str) -> str:
    # What could not be parsed may still hold a signature or a password.
    return re.sub(r"//[^/@]*@", "//", text.partition("?")[0])


def _valid() -> str:
    return f"valid: a path, or {', '.join(FORMS.values())}"
