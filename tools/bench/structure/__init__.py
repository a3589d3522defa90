"""Measure what passes that remove structure cost and gain: factors, dropped and shared blocks.

``python -m whet.tools.bench.structure``; needs a folder with models and data (``--assets``).
"""

from whet.tools.bench.structure.command import main

__all__ = ["main"]
