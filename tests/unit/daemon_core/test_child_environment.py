"""What a child gets of its daemon's environment."""

from __future__ import annotations

import pytest

from daemon_core.child_environment import child_env


@pytest.mark.req("EP-13")
def test_what_is_the_daemons_own_stays_with_it() -> None:
    own = (
        *("LLORCH_API_TOKEN", "HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "A_PASSWORD_2", "X_CREDENTIALS"),
        *(
            "LLAMA_ARG_MODEL",
            "CREDENTIALS_DIRECTORY",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "LISTEN_FDS",
            "SYSTEMD_EXEC_PID",
        ),
    )
    kept = (
        *("PATH", "HOME", "TOKENIZERS_PARALLELISM", "SSH_AUTH_SOCK", "GIT_SSH_COMMAND", "CUDA_HOME", "CCACHE_DIR"),
        *("http_proxy", "HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE"),
    )
    assert child_env(dict.fromkeys((*own, *kept), "x")) == dict.fromkeys(kept, "x")


@pytest.mark.req("EP-13")
def test_a_layer_may_give_what_the_daemon_does_not_and_the_last_one_wins() -> None:
    assert child_env({"A": "1", "HF_TOKEN": "x"}, {"A": "2", "HF_TOKEN": "y"}, {"A": "3"}) == {
        "A": "3",
        "HF_TOKEN": "y",
    }
