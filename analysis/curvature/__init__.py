"""Second-order information: how the loss bends when weights move, for PyTorch and ONNX inputs alike, through the twin.

``mfac`` and ``block_inverse`` work on arrays of gradients and need no torch; everything else differentiates the twin.
"""
