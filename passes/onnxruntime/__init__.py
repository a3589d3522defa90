"""Choose among ONNX Runtime's own operators, by measured time."""
