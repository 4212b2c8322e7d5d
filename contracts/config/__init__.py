"""The configuration file: its shape, its defaults, and the contradictions that no type can express.

Decides what a valid configuration is. Never reads a file or an environment variable: ``daemon_core.config_file`` does,
and adds line numbers to what is found here.
"""

from __future__ import annotations

from contracts.config.contradictions import TRIAL_WHEEL, is_loopback, problems, split_bind
from contracts.config.document import (
    Artifacts,
    Auth,
    Config,
    Limits,
    Logging,
    Models,
    Outbound,
    Paths,
    Policy,
    Server,
    Sessions,
)
from contracts.config.pools import (
    Binary,
    ContainerImage,
    External,
    Package,
    Pool,
    Provisioning,
    Queue,
    Restart,
    SourceBuild,
    Timeouts,
)
from contracts.config.values import (
    END,
    IDENTIFIER,
    MODES,
    SHA256,
    Engine,
    FullPolicy,
    Id,
    Millis,
    Mode,
    Profile,
    Verdict,
)

__all__ = [
    "END",
    "IDENTIFIER",
    "MODES",
    "SHA256",
    "TRIAL_WHEEL",
    "Artifacts",
    "Auth",
    "Binary",
    "Config",
    "ContainerImage",
    "Engine",
    "External",
    "FullPolicy",
    "Id",
    "Limits",
    "Logging",
    "Millis",
    "Mode",
    "Models",
    "Outbound",
    "Package",
    "Paths",
    "Policy",
    "Pool",
    "Profile",
    "Provisioning",
    "Queue",
    "Restart",
    "Server",
    "Sessions",
    "SourceBuild",
    "Timeouts",
    "Verdict",
    "is_loopback",
    "problems",
    "split_bind",
]
