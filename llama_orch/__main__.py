"""``python -m llama_orch``: the same as the console script."""

from llama_orch.cli import main

raise SystemExit(main())
