"""Examples of artifacts.

Decides which requests and answers show what a client meets that keeps something.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from contracts.artifacts import Artifact, ArtifactInfo, ArtifactKind
from contracts.errors import ErrorCode
from contracts.examples.base import Example, Given, refusal

KEEP: dict[str, Any] = {"method": "post", "path": "/v1/artifacts"}
PLAN_ID = "sha256:a13fb5b5ab716eeb963773a92b7bc4583f9d33fda3e5cc0008989a6028421574"
SHOW: dict[str, Any] = {
    "method": "get",
    "path": "/v1/artifacts/{artifact_id}",
    "parameters": {"artifact_id": PLAN_ID},
}
PLAN = {"kind": "plan", "content": {"steps": ["read", "write"]}, "tags": ["monday"]}
KEPT: dict[str, Any] = {
    "id": PLAN_ID,
    "kind": ArtifactKind.PLAN,
    "created_ms": 1_796_000_000_000,
    "size_bytes": 26,
    "tags": ("monday",),
}
NOWHERE = f"sha256:{'0' * 64}"
_ROOM = "make room for /srv/artifacts and let this user write there, or lower artifacts.max_bytes"

EXAMPLES = (
    Example(
        **KEEP,
        name="plan",
        summary="A plan",
        status=201,
        body=PLAN,
        answer=ArtifactInfo(**KEPT),
        headers={"Location": f"/v1/artifacts/{PLAN_ID}"},
    ),
    Example(
        **KEEP,
        name="no-kind",
        summary="A kind that is none",
        status=400,
        body=PLAN | {"kind": "poem"},
        answer=refusal(
            ErrorCode.INVALID_PARAMS,
            "kind: 'poem' is not one of: plan, summary, diff, trace, transcript, logs, proof, other",
            field="kind",
        ),
    ),
    Example(
        **KEEP,
        name="no-disk",
        summary="A disk that refuses",
        given=Given.NO_DISK,
        status=500,
        body=PLAN,
        answer=refusal(ErrorCode.INTERNAL, "artifacts cannot be written in /srv/artifacts: Not a directory", _ROOM),
    ),
    Example(
        **SHOW,
        name="plan",
        summary="What was kept",
        given=Given.ARTIFACT,
        status=200,
        answer=Artifact(**KEPT, content=Raw(b'{"steps":["read","write"]}')),
    ),
    Example(
        **SHOW | {"parameters": {"artifact_id": NOWHERE}},
        name="unknown",
        summary="One that is not here, or no more",
        status=404,
        answer=refusal(
            ErrorCode.NOT_FOUND,
            f"there is no artifact '{NOWHERE}'",
            "artifacts.max_age_ms and store.max_age_ms say how long they are kept; newer ones may need the room",
        ),
    ),
    Example(
        **SHOW,
        name="unreadable",
        summary="One that the disk does not give back",
        given=Given.ARTIFACT_UNREADABLE,
        status=500,
        answer=refusal(ErrorCode.INTERNAL, "artifacts cannot be read in /srv/artifacts: Not a directory", _ROOM),
    ),
)
