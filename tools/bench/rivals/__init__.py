"""Compress the same models on the same data with whet and with other tools: bytes, accuracy, time against float32.

``python -m whet.tools.bench.rivals --assets FOLDER --tools FOLDER``. The other tools are no dependencies of whet. Each
lies in a folder of its own below ``--tools``, put there by ``pip install --no-deps --target FOLDER/onnxsim onnxsim``
(the same for ``nncf``, and for ``olive`` with ``olive-ai``, together with the packages that they ask for and the
environment lacks), and runs in a process of its own. What fails is told as what it said.
"""

from whet.tools.bench.rivals.command import main

__all__ = ["main"]
