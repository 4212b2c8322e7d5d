"""``python -m pool_managerd``: the same as the console script."""

from pool_managerd.app import main

raise SystemExit(main())
