"""Run the sweep over architectures."""

import sys

from whet.tools.sweep.architectures import main

sys.exit(main())
