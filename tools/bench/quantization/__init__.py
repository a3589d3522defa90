"""Measure int8 against float32 and against ONNX Runtime's own quantizer: size, agreement, milliseconds.

``python -m whet.tools.bench.quantization`` runs on ResNet-20 (CIFAR-10) and on all-MiniLM-L6-v2. The first needs a
folder with ``resnet_cifar10/resnet20.onnx`` and ``cifar10/*.npz`` (``--assets``), the second the ``dev`` extra.
"""

from whet.tools.bench.quantization.command import main

__all__ = ["main"]
