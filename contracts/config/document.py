"""The configuration file as a whole, and those of its sections that are not about one pool.

Decides their shape and their defaults.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from contracts.base import Strict
from contracts.config.pools import Pool
from contracts.config.values import END, Durability, Millis, Profile, Verdict


class Tls(Strict, frozen=True, kw_only=True):
    """The certificate of the HTTP listener: PEM files, read again on SIGHUP.

    ``~`` is expanded; a relative path counts from the directory of the configuration.
    """

    cert_file: Annotated[
        str, Meta(min_length=1, description="The certificate, and behind it those of its authorities.")
    ]
    key_file: Annotated[str, Meta(min_length=1, description="Its key, without a passphrase; mode 0600.")]


class Server(Strict, frozen=True, kw_only=True):
    """The HTTP listener of orchestratord, and the limits it puts on its clients."""

    bind: Annotated[str, Meta(description="host:port; [host]:port for IPv6")] = "127.0.0.1:8080"
    """Where it listens; an address that others can reach needs a token."""
    tls: Tls | None = None
    """With it the listener speaks HTTPS alone, TLS 1.2 or newer."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may use the API from a browser, such as ``https://chat.lan``; none by default."""
    max_connections: Annotated[int, Meta(ge=1)] = 4_096
    """Connections at a time, of all clients together."""
    max_connections_per_client: Annotated[int, Meta(ge=1)] = 1_024
    """Of one address; of IPv6 one /64. Behind a trusted proxy its connections are not counted so."""
    max_headers: Annotated[int, Meta(ge=8, le=1_000)] = 100
    """Headers of a request."""
    max_header_bytes: Annotated[int, Meta(ge=1_024, le=1 << 20)] = 16_384
    """Request line and headers together."""
    header_timeout_ms: Millis = 10_000
    """A client that has not sent request line and headers within this time is cut off; a TLS handshake likewise."""
    body_timeout_ms: Millis = 30_000
    """A client whose request body does not come on within this time is cut off; the whole of it may take four times as
    long, and a second more for each 4 KiB of it."""
    keep_alive_ms: Millis = 180_000
    """How long a connection may be idle between two requests. Longer than a proxy keeps its own ones. One that has
    shown no token yet has ``header_timeout_ms``, unless a trusted proxy made it."""
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 4 * 1024 * 1024
    """Bytes of a request's body; more is answered with PAYLOAD_TOO_LARGE."""
    max_streams_per_client: Annotated[int, Meta(ge=1)] = 768
    """Streams that one client may have open at a time: one address, as of connections, behind a trusted proxy the one
    that it forwards."""
    disconnect_grace_ms: Annotated[int, Meta(ge=0)] = 5_000
    """How long an interactive task lives on after its last listener left."""
    ping_interval_ms: Millis = 15_000
    """A stream in which nothing happens gets a comment this often, so that proxies and clients keep it open."""
    slow_reader_ms: Millis = 30_000
    """A reader that does not take what was written for it within this time is cut off; it may come back."""
    keep_finished: Annotated[int, Meta(ge=1)] = 1_000
    """How many finished tasks, with their streams, can still be read."""
    drain_ms: Annotated[int, Meta(ge=0, le=600_000)] = 20_000
    """At a stop or a restart running tasks have so long to end by themselves."""


class Auth(Strict, frozen=True, kw_only=True):
    """Who may talk to orchestratord. The token itself never stands in this file."""

    token_file: str | None = None
    """A file with the token, mode 0600; a relative path counts from this file. Left out: ``api-token`` beside it. The
    environment's LLORCH_API_TOKEN, the file that LLORCH_API_TOKEN_FILE names and a systemd credential named
    ``api-token`` come first, in this order."""
    optional: bool = False
    """Clients on this machine need no token. Everybody else still does."""
    trust_proxy: bool = False
    """Believe ``X-Forwarded-For``: only where nobody can reach the listener but through the proxy."""
    failures_per_minute: Annotated[int, Meta(ge=1)] = 10
    """So many wrong tokens of one address are looked at in a minute; what comes beyond them waits. The same wrong
    token, sent again and again, keeps nobody out who has the right one."""


class Outbound(Strict, frozen=True, kw_only=True):
    """Which remote hosts and schemes may be spoken to: globs such as ``*.example.org`` or ``hf:``."""

    default: Verdict = Verdict.ALLOW
    """What holds for a host that no list names."""
    allow: tuple[str, ...] = ()
    """Patterns that may be spoken to; a private address must be named here exactly."""
    deny: tuple[str, ...] = ()
    """Patterns that may not; they count before ``allow``."""


class Policy(Strict, frozen=True, kw_only=True):
    """What llama-orch may do to the outside and to this machine."""

    outbound: Outbound = Outbound()
    """Which hosts and schemes may be spoken to."""
    hook: str | None = None
    """An executable that is asked as well: JSON on its standard input, exit status 0 allows."""
    allow_package_installs: bool = False
    """Mode ``package`` may install what is missing, with pacman and with the rights it has."""
    allow_binary_downloads: bool = False
    """Mode ``binary`` may fetch a program by its url and sha256."""


class Paths(Strict, frozen=True, kw_only=True):
    """Overrides of the XDG defaults; ``~`` is expanded."""

    cache: str | None = None
    """Sources, builds and fetched models. Left out: ``~/.cache/llama-orch``."""
    data: str | None = None
    """Catalog, tasks, artifacts, provenance, proofs. Left out: ``~/.local/share/llama-orch``."""
    state: str | None = None
    """Logs of engines, and what a restarted daemon needs. Left out: ``~/.local/state/llama-orch``."""
    runtime: str | None = None
    """The socket, pid files and hand-off files. Left out: ``$XDG_RUNTIME_DIR/llama-orch``."""


class Limits(Strict, frozen=True, kw_only=True):
    """What one client, told from others by its token, may ask for in a minute; left out, there is no such limit."""

    requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    """Tasks that a client may submit."""
    tokens_per_minute: Annotated[int, Meta(ge=1)] | None = None
    """Prompt tokens and the new ones that were asked for; what was not generated is given back."""


class Sessions(Strict, frozen=True, kw_only=True):
    """How long a conversation keeps its place, and what it may use up."""

    ttl_ms: Annotated[int, Meta(ge=1, le=600_000)] = 600_000
    """Since its last turn ended."""
    max_turns: Annotated[int, Meta(ge=1)] = 8
    """Turns of a session; the next one is refused."""
    max_sessions: Annotated[int, Meta(ge=1)] = 1_024
    """The one that was used least recently makes room for another."""
    affinity_wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 1_000
    """At most so long a turn waits for the replica that has its session's KV cache while another one is free."""
    token_budget: Annotated[int, Meta(ge=1)] | None = None
    """Tokens, read and generated, of all turns of a session together."""
    time_budget_ms: Millis | None = None
    """Time that the turns of a session keep slots busy, together."""


class Artifacts(Strict, frozen=True, kw_only=True):
    """What is kept on disk of finished tasks and of what clients store; the oldest goes first."""

    max_bytes: Annotated[int, Meta(ge=1)] = 256 * 1024 * 1024
    """All artifacts together take no more on the disk."""
    max_age_ms: Millis = 7 * 24 * 3600 * 1000
    """What was stored longer ago is let go."""
    records: bool = True
    """Whether each task leaves a record: its request without secrets, who served it, and its transcript."""


class Models(Strict, frozen=True, kw_only=True):
    """What is kept of the models that were fetched. Files of the user's own are never counted and never removed."""

    max_bytes: Annotated[int, Meta(ge=1)] | None = None
    """Fetched models together take no more; the least recently used goes first. Left out, nothing is removed."""
    pinned: tuple[str, ...] = ()
    """References of models that are never removed to make room, beside those of the pools."""


class Store(Strict, frozen=True, kw_only=True):
    """The task store: what is kept of tasks, their streams and their receipts, and for how long."""

    durability: Durability = Durability.PROCESS
    """What an admitted task, its stream and its receipt outlive, once an answer has told of them."""
    max_bytes: Annotated[int, Meta(ge=1 << 20)] = 1 << 30
    """Ended tasks and receipts together take no more on the disk; the oldest go first."""
    max_age_ms: Annotated[int, Meta(ge=1)] = 30 * 24 * 3600 * 1000
    """What ended longer ago is let go."""


class Logging(Strict, frozen=True, kw_only=True):
    """Lines: ``auto`` is a sentence with fields in the journal, readable on a terminal, and JSON elsewhere."""

    format: Annotated[str, Meta(pattern="^(auto|json|text)" + END)] = "auto"
    """``json``, ``text``, or ``auto``."""
    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)" + END)] = "info"
    """The least important lines that are written."""


class Config(Strict, frozen=True, kw_only=True):
    """The one configuration file."""

    pools: Annotated[tuple[Pool, ...], Meta(min_length=1)]
    """The engines: one entry for each."""
    profile: Profile = Profile.HOME
    """What the whole installation is for."""
    server: Server = Server()
    auth: Auth = Auth()
    policy: Policy = Policy()
    paths: Paths = Paths()
    models: Models = Models()
    limits: Limits = Limits()
    sessions: Sessions = Sessions()
    artifacts: Artifacts = Artifacts()
    store: Store = Store()
    logging: Logging = Logging()
