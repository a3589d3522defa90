"""Measure int8 against float32 and against ONNX Runtime's own quantizer: size, agreement, milliseconds.

``python -m whet.tools.bench.quantization`` runs on ResNet-20 and ResNet-8 (CIFAR-10), on RLFN and NGswin
(super-resolution) and on all-MiniLM-L6-v2. All but the last need a folder with models and data (``--assets``), the
last the ``dev`` extra.
"""

from whet.tools.bench.quantization.command import main

__all__ = ["main"]
