"""The real orchestratord, but for one thing: it names a job for an hour after its end, and not for 0.2 s.

An engine says the last of a job when that is over. Where everything stands still just then, pool-managerd may hear that
nobody's work is done any more before it reads that line; who looks for the id in it must not depend on that.
"""

from __future__ import annotations

import sys

from orchestratord import jobs
from orchestratord.app import main

if __name__ == "__main__":
    jobs.LINGER_S = 3_600.0
    sys.exit(main())
