"""What a verification comes to: what was seen on the disk, held against what the catalog says.

Decides result and reason, and whether the model is taken out of use. A missing digest is a warning, a wrong one never
is. That a model is away, or cannot be read right now, says nothing about its content: its entry stays as it is.
"""

from __future__ import annotations

from contracts.base import Message
from contracts.catalog import VerifyReason, VerifyResult
from contracts.engines import ModelEntry


class Seen(Message, frozen=True, kw_only=True):
    """What was found where the catalog says the model is.

    Either ``digest`` is set, or ``size_bytes`` alone where the size tells already, or ``trouble`` with its ``message``.
    """

    size_bytes: int | None = None
    digest: str | None = None
    trouble: VerifyReason | None = None
    """MISSING, UNREADABLE, CHANGED; DIGEST_MISMATCH where it can be read no more, which it could once."""
    message: str = ""


class Verdict(Message, frozen=True, kw_only=True):
    """The outcome."""

    result: VerifyResult
    reason: VerifyReason
    message: str
    hint: str | None = None
    digest: str | None = None
    """What was read, where it was."""

    @property
    def retires(self) -> bool:
        """Whether the content is known to be wrong, so that nobody may load it."""
        return self.reason in {VerifyReason.DIGEST_MISMATCH, VerifyReason.SIZE_CHANGED}


def judge(entry: ModelEntry, seen: Seen) -> Verdict:
    """Hold what was seen against the entry."""
    if seen.trouble is not None:
        return Verdict(
            result=VerifyResult.FAILED, reason=seen.trouble, message=seen.message, hint=_mend(entry, seen.trouble)
        )
    if size_tells(entry, seen.size_bytes):
        text = f"{entry.local_path} has {seen.size_bytes} bytes, and {entry.size_bytes} when it was catalogued"
        return _wrong(entry, VerifyReason.SIZE_CHANGED, text)
    if not entry.digest:
        text = f"nobody knew the digest of {entry.id}; it is {seen.digest}, which proves nothing about what is here"
        hint = "compare it with what the publisher says"
        return Verdict(
            result=VerifyResult.WARNING,
            reason=VerifyReason.NO_DIGEST,
            message=text,
            hint=hint,
            digest=seen.digest,
        )
    if seen.digest != entry.digest:
        text = f"{entry.local_path} has the digest {seen.digest}, and {entry.digest} when it was catalogued"
        return _wrong(entry, VerifyReason.DIGEST_MISMATCH, text, seen.digest)
    return Verdict(
        result=VerifyResult.OK,
        reason=VerifyReason.MATCHED,
        message=f"{entry.id} has the digest {entry.digest}",
        digest=seen.digest,
    )


def size_tells(entry: ModelEntry, size_bytes: int | None) -> bool:
    """Whether the size alone shows that the content is wrong, so that nothing need be read."""
    return bool(entry.digest) and size_bytes != entry.size_bytes


def _wrong(entry: ModelEntry, reason: VerifyReason, text: str, digest: str | None = None) -> Verdict:
    hint = _mend(entry, reason)
    return Verdict(result=VerifyResult.FAILED, reason=reason, message=text, hint=hint, digest=digest)


def _mend(entry: ModelEntry, reason: VerifyReason) -> str:
    match reason:
        case VerifyReason.CHANGED:
            return "wait until it is whole, then verify it again"
        case VerifyReason.UNREADABLE:
            return "see that the user of pool-managerd may read it, and whether the disk is well (`dmesg`)"
        case _ if entry.fetched:
            return "`llama-orch models pull` with its reference fetches it again"
        case VerifyReason.MISSING:
            return "put it back, or forget it: `llama-orch models rm`"
        case _:
            return "put the right file back; if this one is right, `llama-orch models pull` takes it as it is"
