"""``python -m whet.tools.bench.mixtures``."""

from whet.tools.bench.mixtures import main

raise SystemExit(main())
