"""placeholder"""

import onnx_ir


def raise_opset(model: onnx_ir.Model, to: int = 23) -> onnx_ir.Model:
    """X."""
    return model
