"""``python -m whet.tools.bench.structure``."""

from whet.tools.bench.structure import main

raise SystemExit(main())
