"""Compare ways to choose bits at equal bytes, and hold predicted losses against measured ones.

``python -m whet.tools.bench.mixtures --only resnet20`` and ``--only minilm``; needs a folder with models and data
(``--assets``), and torch. All choices are among the same candidates; the metric is measured on samples that no choice
has seen.
"""

from whet.tools.bench.mixtures.command import main

__all__ = ["main"]
