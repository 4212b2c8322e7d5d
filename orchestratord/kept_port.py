"""The port that stays open while orchestratord is restarted: the service manager keeps the listening socket meanwhile.

Decides that a socket is taken over where it listens on the very address that is configured, and closed otherwise. Never
serves anything, and never says that an address is taken: ``listener`` does.
"""

from __future__ import annotations

import ipaddress
import logging
import socket

from daemon_core.descriptors import KeptSockets, name_of
from daemon_core.entry import DaemonContext
from orchestratord.accepting import BACKLOG

log = logging.getLogger(__name__)

PURPOSE = "http"


def kept_port(context: DaemonContext, host: str, port: int) -> socket.socket | None:
    """The listening socket of the former run, or a new one that the next run gets.

    None where nobody would keep it, where ``host`` is a name, which may stand for several addresses, or where the
    address is of no use.
    """
    name = name_of(PURPOSE, f"{host}-{port}")
    kept = KeptSockets(context.environ)
    found = kept.take(name)
    for gone in kept.close_rest():
        context.notifier.let_go(gone)
        log.info("closed %s, which the last run had open: server.bind names another address", gone)
    if found is not None:
        log.info("took over the socket of the last run: who has connected meanwhile is answered now")
        return found
    family = _family(host)
    if family is None or not context.notifier.heard:
        return None
    try:
        made = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError:
        return None
    context.notifier.keep(name, made.fileno())
    return made


def _family(host: str) -> socket.AddressFamily | None:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return socket.AF_INET6 if version == 6 else socket.AF_INET
