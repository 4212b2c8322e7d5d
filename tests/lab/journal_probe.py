"""Logs what a daemon might, from inside of the unit that starts it. The test looks for its words."""

import logging
import sys

from contracts.config import Logging
from daemon_core import logs
from daemon_core.redaction import Redactor

SECRET = sys.argv[1]
LINES = 1_500
LONG = 300_000


def fail() -> None:
    raise ValueError(SECRET)


def main() -> None:
    logs.setup("probe", Logging(level="debug"), Redactor((SECRET,)))
    log = logging.getLogger("tests.lab.probe")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "level %s", logging.getLevelName(level))
    try:
        fail()
    except ValueError:
        extra = {"pool_id": "probe", "hidden": SECRET, "several": ["harmless", SECRET]}
        log.exception("it failed with %s", SECRET, extra=extra)
    log.info("%s %s", "x" * LONG, SECRET)
    for number in range(LINES):
        log.info("burst %d", number)
    logs.complain("probe: the end\n  hint: none")


main()
