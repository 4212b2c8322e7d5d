"""Logs what a daemon might, from inside of the unit that starts it. The test looks for its words."""

import logging
import sys

from contracts.config import Logging
from daemon_core import logs
from daemon_core.redaction import Redactor

LINES = 1_500
LONG = 300_000


def fail(secret: str) -> None:
    raise ValueError(secret)


def main(secret: str) -> None:
    logs.setup("probe", Logging(level="debug"), Redactor((secret,)))
    log = logging.getLogger("tests.lab.probe")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "level %s", logging.getLevelName(level))
    try:
        fail(secret)
    except ValueError:
        extra = {"pool_id": "probe", "hidden": secret, "several": ["harmless", secret]}
        log.exception("it failed with %s", secret, extra=extra)
    log.info("%s %s", "x" * LONG, secret)
    for number in range(LINES):
        log.info("burst %d", number)
    logs.complain("probe: the end\n  hint: none")


if __name__ == "__main__":
    main(sys.argv[1])
