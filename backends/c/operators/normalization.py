"""Softmax and normalizations."""

import math

import numpy as np
import onnx_ir

from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import operand, sink
from whet.backends.c.program import Parameter
from whet.backends.c.registry import Decline, emits
from whet.backends.c.spelling import floating
from whet.backends.layouts import LAST, PLAIN
from whet.ir.values import attribute_float, attribute_int

__all__ = ["emit_batch_norm", "emit_group_norm", "emit_layer_norm", "emit_softmax"]


@emits("Softmax", "LogSoftmax", note="float32 or on a grid, any axis")
def emit_softmax(low: Lowering, node: onnx_ir.Node) -> None:
    """Subtract the largest, exponentiate, divide by the sum."""
    value = node.inputs[0]
    assert value is not None
    shape = low.shape(value)
    opset = low.facts.model.opset_imports.get("", 13)
    axis = attribute_int(node, "axis", -1 if opset >= 13 else 1) % len(shape)
    size = math.prod(shape[axis:]) if opset < 13 else shape[axis]
    inner = 1 if opset < 13 else math.prod(shape[axis + 1 :])
    x, y = operand(low, "x", value), sink(low, node)
    at = f"(o * {size} + k) * {inner} + i" if inner > 1 else f"o * {size} + k"
    if node.op_type == "LogSoftmax":
        total, each = f"total += expf({x.at(at)} - most);", f"{x.at(at)} - most - logf(total)"
        scratch = []
    else:
        row = low.make((size,), np.dtype(np.float32), "a row of exponentials")
        scratch = [row]
        total, each = f"row[k] = expf({x.at(at)} - most);\ntotal += row[k];", "row[k] / total"
    body = f"""
    for (int o = 0; o < {math.prod(shape[:axis])}; ++o) {{
    for (int i = 0; i < {inner}; ++i) {{
    float most = -INFINITY;
    float total = 0.0f;
    for (int k = 0; k < {size}; ++k) {{
    const float u = {x.at(at)};
    most = u > most ? u : most;
    }}
    for (int k = 0; k < {size}; ++k) {{
    {total}
    }}
    for (int k = 0; k < {size}; ++k) {{
    float v = {each};
    {y.lines(at)}
    }}
    }}
    }}
    """
    more = [pointer("row", row, written=True) for row in scratch]
    low.call(
        "softmax", [*x.parameters, *more, *y.parameters], body, scratch=scratch, in_place=[x.tensor]
    )
    y.finish()


@emits("LayerNormalization", "RMSNormalization", note="float32 or on a grid; one output")
def emit_layer_norm(low: Lowering, node: onnx_ir.Node) -> None:
    """Normalize along the last axes: (x - mean) / sqrt(variance + epsilon) scale + bias."""
    value = node.inputs[0]
    assert value is not None
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        raise Decline("only the first output is supported, not the mean and the deviation")
    shape = low.shape(value)
    axis = attribute_int(node, "axis", -1) % len(shape)
    size = math.prod(shape[axis:])
    x, y = operand(low, "x", value), sink(low, node)
    parameters = x.parameters
    mean, text = "0.0f", "(u - mean) * over"
    for name, given in zip(("scale", "bias"), node.inputs[1:3], strict=False):
        if given is None:
            continue
        other = operand(low, name, given)
        if other.tensor.size != size:
            raise Decline(f"{name} has {other.tensor.size} elements, expected {size}")
        parameters += other.parameters
        text += f" {'*' if name == 'scale' else '+'} {other.at('k')}"
    if node.op_type == "LayerNormalization":
        mean = f"total / {size}.0f"
    body = f"""
    for (int o = 0; o < {math.prod(shape[:axis])}; ++o) {{
    float total = 0.0f;
    float squares = 0.0f;
    for (int k = 0; k < {size}; ++k) {{
    total += {x.at(f"o * {size} + k")};
    }}
    const float mean = {mean};
    for (int k = 0; k < {size}; ++k) {{
    const float u = {x.at(f"o * {size} + k")} - mean;
    squares += u * u;
    }}
    const float over = 1.0f / sqrtf(squares / {size}.0f + {floating(attribute_float(node, "epsilon", 1e-5))});
    for (int k = 0; k < {size}; ++k) {{
    const float u = {x.at(f"o * {size} + k")};
    float v = {text};
    {y.lines(f"o * {size} + k")}
    }}
    }}
    """
    if mean == "0.0f":
        body = body.replace(
            f"for (int k = 0; k < {size}; ++k) {{\n    total += {x.at(f'o * {size} + k')};\n    }}",
            "",
        ).replace("float total = 0.0f;", "")
    low.call("normalize", [*parameters, *y.parameters], body, in_place=[x.tensor])
    y.finish()


@emits("BatchNormalization", note="fixed statistics; mostly folded into the convolution before")
def emit_batch_norm(low: Lowering, node: onnx_ir.Node) -> None:
    """Scale and shift each channel: the four parameters are two numbers a channel."""
    if attribute_int(node, "training_mode", 0):
        raise Decline("training mode is not supported")
    gamma, beta, mean, variance = (
        low.required(v, what).astype(np.float64)
        for v, what in zip(node.inputs[1:5], ("scale", "bias", "mean", "variance"), strict=True)
    )
    a = gamma / np.sqrt(variance + attribute_float(node, "epsilon", 1e-5))
    b = beta - mean * a
    value = node.inputs[0]
    assert value is not None
    shape = low.shape(value)
    layout = low.layout(value)
    x, y = operand(low, "x", value, layout), sink(low, node, layout)
    channels = shape[1] if len(shape) > 1 else 1
    rest = math.prod(shape[2:])
    if layout == LAST:
        outer, index, c = x.tensor.size // channels, f"o * {channels} + c", "c"
        inner = f"for (int c = 0; c < {channels}; ++c) {{"
    else:
        outer, index, c = x.tensor.size // rest, f"o * {rest} + i", f"o % {channels}"
        inner = f"for (int i = 0; i < {rest}; ++i) {{"
    parameters = [
        *x.parameters,
        pointer("m", low.constant(a.astype(np.float32), f"scale of {node.name}")),
        pointer("b", low.constant(b.astype(np.float32), f"bias of {node.name}")),
    ]
    body = f"""
    for (int o = 0; o < {outer}; ++o) {{
    {inner}
    float v = {x.at(index)} * m[{c}] + b[{c}];
    {y.lines(index)}
    }}
    }}
    """
    low.call("scale_channels", [*parameters, *y.parameters], body, in_place=[x.tensor])
    y.finish()


@emits("InstanceNormalization", "GroupNormalization", note="float32 or on a grid")
def emit_group_norm(low: Lowering, node: onnx_ir.Node) -> None:
    """Normalize groups of channels of each image."""
    value = node.inputs[0]
    assert value is not None
    batch, channels, *space = low.shape(value)
    single = node.op_type == "InstanceNormalization"
    groups = channels if single else attribute_int(node, "num_groups", 1)
    rest, each = math.prod(space), channels // groups
    x, y = operand(low, "x", value, PLAIN), sink(low, node, PLAIN)
    scale, bias = (
        operand(low, n, v) for n, v in zip(("scale", "bias"), node.inputs[1:3], strict=True)
    )
    per_channel = scale.tensor.size == channels
    c = f"g % {groups} * {each} + k / {rest}" if per_channel else f"g % {groups}"
    size = each * rest
    body = f"""
    for (int g = 0; g < {batch * groups}; ++g) {{
    float total = 0.0f;
    float squares = 0.0f;
    for (int k = 0; k < {size}; ++k) {{
    total += {x.at(f"g * {size} + k")};
    }}
    const float mean = total / {size}.0f;
    for (int k = 0; k < {size}; ++k) {{
    const float u = {x.at(f"g * {size} + k")} - mean;
    squares += u * u;
    }}
    const float over = 1.0f / sqrtf(squares / {size}.0f + {floating(attribute_float(node, "epsilon", 1e-5))});
    for (int k = 0; k < {size}; ++k) {{
    const int c = {c};
    float v = ({x.at(f"g * {size} + k")} - mean) * over * {scale.at("c")} + {bias.at("c")};
    {y.lines(f"g * {size} + k")}
    }}
    }}
    """
    parameters: list[Parameter] = [
        *x.parameters,
        *scale.parameters,
        *bias.parameters,
        *y.parameters,
    ]
    low.call("normalize_groups", parameters, body, in_place=[x.tensor])
    y.finish()
