"""``python -m whet.tools.bench.rivals``."""

from whet.tools.bench.rivals.command import main

raise SystemExit(main())
