"""What the hub's answers mean to somebody who wants a model.

Decides the cause and the mend of each refusal, from its status and from the hub's own word for it (``X-Error-Code``).
Never sees a token.
"""

from __future__ import annotations

from contracts.pools import Cause
from daemon_core.outbound import without_secrets
from model_provisioner.errors import ModelError
from model_provisioner.reference import HfRef

_TOKENS = "a token comes from the hub's page Settings, Access Tokens"


def refusal(ref: HfRef, status: int, code: str | None, *, endpoint: str, has_token: bool) -> ModelError:
    """Why the hub does not give what ``ref`` names."""
    repo = f"{ref.org}/{ref.repo}"
    page = f"{without_secrets(endpoint)}/{repo}"
    wanted = f"{ref.path} in {repo}" if ref.path else repo
    at = f" at revision {ref.revision}" if ref.revision else ""
    match status, code:
        case _, "GatedRepo":
            message = f"{repo} is gated: its terms have to be accepted before anything is fetched"
            if has_token:
                return _error(message, f"accept them at {page} with the account of the token that is set (HF_TOKEN)")
            return _error(message, f"accept them at {page}, then set HF_TOKEN to a token of that account; {_TOKENS}")
        case _, "RevisionNotFound":
            return _error(f"{repo} has no revision {ref.revision or 'main'!r}", f"{page}/branches lists them")
        case _, "EntryNotFound":
            return _error(f"there is no {wanted}{at}", f"{page}/tree/{ref.revision or 'main'} lists what there is")
        case 401, _ if has_token and code != "RepoNotFound":
            return _error(f"the hub does not accept the token that is set ({wanted})", f"set HF_TOKEN anew; {_TOKENS}")
        case (401 | 404, _):
            who = "the account of HF_TOKEN may not see it" if has_token else "it is private and wants HF_TOKEN"
            return _error(f"there is no {wanted}{at} on the hub, or {who}", f"see {page}")
        case 403, _:
            return _error(f"the hub does not give {wanted} to this account", f"see {page}, and the rights of HF_TOKEN")
        case 429, _:
            more = "" if has_token else ", or set HF_TOKEN: with one the hub allows more"
            return _error("the hub is asked too often from here (429)", f"wait some minutes{more}", retriable=True)
        case _ if status >= 500:
            return _error(f"the hub is out of order: it answers {status}", "try again later", retriable=True)
        case _:
            return _error(f"the hub answers {status} when asked for {wanted}{at}", f"see {page}")


def _error(message: str, hint: str, *, retriable: bool = False) -> ModelError:
    return ModelError(Cause.MODEL_FETCH, message, hint, retriable=retriable)
