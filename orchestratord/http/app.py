"""The aiohttp application: the edge and both planes' routes.

Decides nothing.
"""

from __future__ import annotations

from aiohttp import web

from contracts.config import Config
from daemon_core.redaction import Redactor
from orchestratord.archive import Archive
from orchestratord.auth import Authenticator
from orchestratord.catalog import CatalogView
from orchestratord.failures import Failures
from orchestratord.http.artifacts import ArtifactRoutes
from orchestratord.http.catalog import CatalogRoutes
from orchestratord.http.control import ControlRoutes
from orchestratord.http.cors import Cors
from orchestratord.http.door import Door
from orchestratord.http.edge import make_edge, stamp
from orchestratord.http.expecting import unanswered
from orchestratord.http.receipts import ReceiptRoutes
from orchestratord.http.sessions import SessionRoutes
from orchestratord.http.stream import Streams
from orchestratord.http.tasks import TaskRoutes
from orchestratord.ledger import Ledger
from orchestratord.metrics import Metrics
from orchestratord.orchestrator import Orchestrator
from orchestratord.pool_link import PoolLink
from orchestratord.pools import PoolDirectory


def make_http_app(
    config: Config,
    authenticator: Authenticator,
    *,
    orchestrator: Orchestrator,
    pools: PoolDirectory,
    link: PoolLink,
    metrics: Metrics,
    catalog: CatalogView,
    archive: Archive,
    ledger: Ledger,
    redactor: Redactor,
) -> web.Application:
    """Everything that is served over HTTP."""
    cors = Cors(config.server.cors_origins)
    edge = make_edge(Door(authenticator, Failures(config.auth.failures_per_minute), cors), cors, redactor)
    app = web.Application(middlewares=[edge], client_max_size=config.server.max_body_bytes)
    app.on_response_prepare.append(stamp)
    if cors.origins:
        app.on_response_prepare.append(cors.stamp)
    streams = Streams(orchestrator, config.server)
    sessions = SessionRoutes(orchestrator.turns)
    app.on_response_prepare.append(sessions.tell_budgets)
    routes = [
        *TaskRoutes(orchestrator, streams, redactor).table(),
        *sessions.table(),
        *ControlRoutes(pools, orchestrator, link, metrics, catalog=catalog).table(),
        *CatalogRoutes(catalog, link).table(),
        *ArtifactRoutes(archive, ledger).table(),
        *ReceiptRoutes(ledger).table(),
    ]
    app.add_routes(unanswered(routes))
    return app
