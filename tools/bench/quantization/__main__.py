"""``python -m whet.tools.bench.quantization``."""

from whet.tools.bench.quantization import main

raise SystemExit(main())
