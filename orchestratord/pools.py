"""The pools as orchestratord knows them: configured here, reported by pool-managerd.

Decides which adapter speaks to a pool's running engine, and what is known of that engine. Reports are taken over as
they come (the link hands them on in their order), and what a model was called outlasts its being staged anew. Never
talks to pool-managerd (``pool_link`` does), never queues.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from enum import Enum

import msgspec

from adapters.base import Adapter, EngineError, Props
from adapters.parameters import WORKLOADS
from contracts.config import Config, Mode, Pool
from contracts.pools import Endpoint, PoolSnapshot, PoolState
from contracts.tasks import Workload
from orchestratord.admission import PoolView

log = logging.getLogger(__name__)

UNKNOWN_VERSION = "unknown"
"""What pool-managerd says of an engine that it did not prepare."""

AdapterFactory = Callable[[Pool, Endpoint], Adapter]


class LinkState(Enum):
    """Whether pool-managerd can be reached."""

    UP = "up"
    DOWN = "down"


class PoolEntry:
    """One pool: its configuration, its latest report and its engine's adapter."""

    def __init__(self, config: Pool) -> None:
        self.config = config
        self.snapshot = PoolSnapshot(
            pool_id=config.id,
            revision=0,
            state=PoolState.STOPPED,
            replica_id=f"{config.id}-0",
            engine=config.engine,
            provisioning_mode=config.mode,
            model_ref=config.model,
            ctx_max=config.ctx,
            slots=config.slots,
            devices=tuple(str(device) for device in config.devices),
            sampler_profile_version=config.sampler_profile_version,
        )
        self.adapter: Adapter | None = None
        self.props: Props | None = None
        """What the running engine said of itself; None until it has."""
        self.start = 0
        """Which start of the engine this is: an answer of an earlier one is worth nothing."""
        self.asked = False
        """Whether this start was asked what it is."""
        self.mute: str | None = None
        """Why it will not say, where asking again does not help."""
        self.heard = asyncio.Event()
        """Set when it has said what it is, or is mute."""
        self.model: str | None = None
        """What an engine that somebody else runs said that it serves, when pool-managerd had found it ready."""
        self.seen = False
        """Whether the present pool-managerd has said more than that it is stopped: it may not have begun with it."""
        self.suspect = False
        """A generation just failed in a way that a dead engine would explain; nothing is sent until that is settled."""

    @property
    def id(self) -> str:
        """The pool's id."""
        return self.config.id

    @property
    def usable(self) -> bool:
        """Whether a generation may be sent right now."""
        return self.introducible and self.props is not None and not self.suspect

    @property
    def introducible(self) -> bool:
        """Whether its engine can be asked what it is."""
        return self.snapshot.ready and self.adapter is not None

    @property
    def engine_version(self) -> str | None:
        """As the manager prepared it, else as the running engine says; None while nobody knows."""
        prepared = self.snapshot.engine_version
        return self._said.engine_version if prepared in {None, UNKNOWN_VERSION} else prepared

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """What the running engine said that it serves; nothing before it did."""
        return self._said.workloads

    @property
    def features(self) -> tuple[str, ...]:
        """Likewise."""
        return self._said.features

    @property
    def ctx_max(self) -> int:
        """The context that one task has. Of an engine that somebody else started its own word counts alone."""
        said, reported = self._said.ctx_max, self.snapshot.ctx_max
        if said is None or said < 1:
            return reported
        return said if self.snapshot.provisioning_mode is Mode.EXTERNAL else min(said, reported)

    @property
    def slots(self) -> int:
        """How many generations it gets at a time: what is configured, and never more than the engine says it has."""
        said, reported = self._said.slots, self.snapshot.slots
        return reported if said is None or said < 1 else min(said, reported)

    @property
    def view(self) -> PoolView:
        """This pool as admission sees it."""
        snapshot = self.snapshot
        if (self.ctx_max, self.slots) != (snapshot.ctx_max, snapshot.slots):
            snapshot = msgspec.structs.replace(snapshot, ctx_max=self.ctx_max, slots=self.slots)
        return PoolView(
            snapshot=snapshot,
            workloads=self._possible if self.props is None else self.props.workloads,
            features=None if self.props is None else self.props.features,
            mute=self.mute,
        )

    def restarted(self) -> None:
        """Another engine, or the same one anew: what the former said holds no more."""
        self.props, self.mute, self.asked = None, None, False
        self.start += 1
        self.heard.clear()

    @property
    def _said(self) -> Props:
        return self.props or Props()

    @property
    def _possible(self) -> tuple[Workload, ...]:
        """What such an engine may turn out to serve; nothing where no adapter speaks to it."""
        return () if self.snapshot.live and self.adapter is None else WORKLOADS[self.snapshot.engine]


class PoolDirectory:
    """Every configured pool."""

    def __init__(self, config: Config, adapter_for: AdapterFactory) -> None:
        self._entries = {pool.id: PoolEntry(pool) for pool in config.pools}
        self._adapter_for = adapter_for
        self.managed = False
        """Whether pool-managerd can be reached; without it the last known state stands."""
        self.ever_managed = False
        self.notices: tuple[str, ...] = ()
        """What pool-managerd says that an operator should know."""

    def __iter__(self) -> Iterator[PoolEntry]:
        return iter(self._entries.values())

    def __getitem__(self, pool_id: str) -> PoolEntry:
        return self._entries[pool_id]

    def reconfigure(self, config: Config) -> None:
        """The same pools are configured otherwise from now on, in what no engine knows of."""
        for pool in config.pools:
            self._entries[pool.id].config = pool

    def get(self, pool_id: str) -> PoolEntry | None:
        """A pool by its id."""
        return self._entries.get(pool_id)

    def report(self, snapshot: PoolSnapshot) -> PoolEntry | None:
        """Take over a report; None for a pool that this configuration does not have."""
        entry = self._entries.get(snapshot.pool_id)
        if entry is None:
            return None
        before = entry.snapshot
        entry.snapshot = snapshot = _named(snapshot, before)
        entry.seen = entry.seen or snapshot.state is not PoolState.STOPPED
        if snapshot.endpoint != before.endpoint:
            entry.adapter = self._adapter(entry, snapshot.endpoint)
            entry.restarted()
        if _life(snapshot) != _life(before):
            entry.suspect, entry.model = False, None
            if snapshot.ready:
                entry.restarted()
        return entry

    def _adapter(self, entry: PoolEntry, endpoint: Endpoint | None) -> Adapter | None:
        try:
            return None if endpoint is None else self._adapter_for(entry.config, endpoint)
        except EngineError as error:  # one pool that cannot be spoken to must not end the others
            log.warning("pool %s: %s", entry.id, error.message)
            return None

    def linked(self, state: LinkState) -> None:
        """Whether pool-managerd can be reached has changed."""
        self.managed = state is LinkState.UP
        if self.managed:
            for entry in self:
                entry.seen = False
        self.ever_managed = self.ever_managed or self.managed

    def noticed(self, notices: tuple[str, ...]) -> None:
        """Take over what an operator should know."""
        self.notices = notices

    def views(self) -> list[PoolView]:
        """Every pool as admission sees it."""
        return [entry.view for entry in self]

    def of(self, pool_ids: Iterable[str]) -> list[PoolEntry]:
        """Some pools, in the order of the configuration."""
        wanted = set(pool_ids)
        return [entry for entry in self if entry.id in wanted]


def _named(snapshot: PoolSnapshot, before: PoolSnapshot) -> PoolSnapshot:
    """A pool that starts anew stages its model first: until that is done it is called what it was called before."""
    if snapshot.model_id is not None or snapshot.model_ref != before.model_ref:
        return snapshot
    return msgspec.structs.replace(snapshot, model_id=before.model_id, model_digest=before.model_digest)


def _life(snapshot: PoolSnapshot) -> object:
    """What changes when an engine is started, stopped or replaced, and stays when only a measurement moves."""
    endpoint = None if snapshot.endpoint is None else msgspec.structs.astuple(snapshot.endpoint)
    return snapshot.state, snapshot.restarts, endpoint
