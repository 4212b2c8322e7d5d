"""``python -m orchestratord``: the same as the console script."""

from orchestratord.app import main

raise SystemExit(main())
