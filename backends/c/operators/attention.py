"""Attention of opset 23 and RotaryEmbedding."""

import math

import numpy as np
import onnx_ir

from whet.backends.c.copying import terms
from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import operand, sink
from whet.backends.c.program import Parameter, Tensor
from whet.backends.c.registry import Decline, emits
from whet.backends.c.spelling import floating
from whet.ir.values import attribute_float, attribute_int

__all__ = ["emit_attention"]


class _Heads:
    """Where the rows of an operand are: ``[batch, heads, length, size]``, or heads inside the last axis."""

    def __init__(self, shape: tuple[int, ...], heads: int) -> None:
        if len(shape) == 4:
            self.batch, self.heads, self.length, self.size = shape
            self.strides = (
                self.heads * self.length * self.size,
                self.length * self.size,
                self.size,
            )
        else:
            self.batch, self.length, width = shape
            self.heads, self.size = heads, width // max(heads, 1)
            self.strides = (self.length * width, self.size, width)

    def row(self, head: str, position: str) -> str:
        """Return where a row begins."""
        return terms(self.strides, ["n", head, position])


@emits(
    "Attention",
    note="masks of truth values or floats, causal, grouped heads, softcap; no past, no second output",
)
def emit_attention(low: Lowering, node: onnx_ir.Node) -> None:
    """Compute softmax(scale Q Kᵀ + mask) V row by row: one row of scores is all the memory it takes."""
    _check(node)
    values = [v for v in node.inputs[:3] if v is not None]
    heads = (attribute_int(node, "q_num_heads", 0), attribute_int(node, "kv_num_heads", 0))
    q, k, v = (
        _Heads(low.shape(value), count)
        for value, count in zip(values, (heads[0], heads[1], heads[1]), strict=True)
    )
    operands = [operand(low, name, value) for name, value in zip("qkw", values, strict=True)]
    y = sink(low, node)
    scores = low.make((k.length,), np.dtype(np.float32), "a row of scores")
    mask, mask_parameters = _mask(low, node, q, k)
    causal = attribute_int(node, "is_causal", 0) != 0
    scale = attribute_float(node, "scale", 0.0) or 1.0 / math.sqrt(q.size)
    cap = attribute_float(node, "softcap", 0.0)
    capped = f"u = {floating(cap)} * tanhf(u / {floating(cap)});" if cap > 0 else ""
    limit = f"(i < {k.length} ? i + 1 : {k.length})" if causal else str(k.length)
    head = "h" if q.heads == k.heads else f"h / {q.heads // k.heads}"
    out = _Heads(low.shape(node.outputs[0]), q.heads)
    qk = [operands[0].at(f"{q.row('h', 'i')} + d"), operands[1].at(f"{k.row('g', 'j')} + d")]
    body = f"""
    for (int n = 0; n < {q.batch}; ++n) {{
    for (int h = 0; h < {q.heads}; ++h) {{
    const int g = {head};
    for (int i = 0; i < {q.length}; ++i) {{
    const int seen = {limit};
    float most = -INFINITY;
    float total = 0.0f;
    for (int j = 0; j < seen; ++j) {{
    float u = 0.0f;
    for (int d = 0; d < {q.size}; ++d) {{
    u += {qk[0]} * {_factor(qk[1])};
    }}
    u *= {floating(scale)};
    {mask if cap <= 0 else ""}
    {capped}
    {mask if cap > 0 else ""}
    s[j] = u;
    most = u > most ? u : most;
    }}
    for (int j = 0; j < seen; ++j) {{
    s[j] = most > -INFINITY ? expf(s[j] - most) : 0.0f;
    total += s[j];
    }}
    const float over = total > 0.0f ? 1.0f / total : 0.0f;
    for (int d = 0; d < {v.size}; ++d) {{
    float v = 0.0f;
    for (int j = 0; j < seen; ++j) {{
    v += s[j] * {_factor(operands[2].at(f"{v.row('g', 'j')} + d"))};
    }}
    v *= over;
    {y.lines(f"{out.row('h', 'i')} + d")}
    }}
    }}
    }}
    }}
    """
    parameters = [p for x in operands for p in x.parameters]
    parameters += [*mask_parameters, pointer("s", scores, written=True), *y.parameters]
    low.call("attention", parameters, body, scratch=[scores])
    y.finish()


def _factor(text: str) -> str:
    return f"({text})" if " " in text.split("[")[0] or "* " in text.rsplit("]", 1)[-1] else text


def _check(node: onnx_ir.Node) -> None:
    if any(v is not None for v in node.inputs[4:]):
        raise Decline("past keys and values are not supported")
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        raise Decline("only the first output is supported")
    if attribute_int(node, "softmax_precision", 1) != 1:
        raise Decline("the softmax is computed in float32")


def _mask(low: Lowering, node: onnx_ir.Node, q: _Heads, k: _Heads) -> tuple[str, list[Parameter]]:
    """Return the statement that applies the mask to score ``u``."""
    value = node.inputs[3] if len(node.inputs) > 3 else None
    if value is None:
        return "", []
    tensor: Tensor = low.tensor(value)
    shape = (1,) * (4 - len(tensor.shape)) + tensor.shape
    if shape[-1] != k.length and shape[-1] != 1:
        raise Decline(f"the mask is for {shape[-1]} keys, there are {k.length}")
    strides = [0 if n == 1 else math.prod(shape[a + 1 :]) for a, n in enumerate(shape)]
    at = terms(strides, ["n", "h", "i", "j"])
    if tensor.dtype == np.bool_:
        return f"u = mask[{at}] ? u : -INFINITY;", [pointer("mask", tensor)]
    x = operand(low, "mask", value)
    assert q.length > 0
    return f"u += {x.at(at)};", x.parameters


@emits("RotaryEmbedding", note="with position ids or without; float32 or on a grid")
def emit_rotary(low: Lowering, node: onnx_ir.Node) -> None:
    """Turn pairs of elements by angles of their position."""
    x_value = node.inputs[0]
    assert x_value is not None
    x = operand(low, "x", x_value)
    cos, sin = (
        operand(low, n, v) for n, v in zip(("cosine", "sine"), node.inputs[1:3], strict=True)
    )
    ids = node.inputs[3] if len(node.inputs) > 3 else None
    heads = _Heads(low.shape(x_value), attribute_int(node, "num_heads", 0))
    if heads.heads == 0:
        raise Decline("num_heads is missing")
    turned = attribute_int(node, "rotary_embedding_dim", 0) or heads.size
    half = turned // 2
    y = sink(low, node)
    parameters = [*x.parameters, *cos.parameters, *sin.parameters]
    row = f"n * {heads.length} + i"
    check = ""
    if ids is not None:
        table = low.shape(node.inputs[1])[0] if node.inputs[1] is not None else 0
        positions = low.tensor(ids)
        parameters.append(pointer("ids", positions))
        check = f"const int at = (int)ids[{row}];\nif (at < 0 || at >= {table}) {{\nreturn 1;\n}}"
        row = "at"
    even = attribute_int(node, "interleaved", 0) != 0
    first, second = ("2 * d", "2 * d + 1") if even else ("d", f"d + {half}")
    base = heads.row("h", "i")
    rest = (
        f"""
    for (int d = {turned}; d < {heads.size}; ++d) {{
    float v = {x.at(f"{base} + d")};
    {y.lines(f"{base} + d")}
    }}"""
        if turned < heads.size
        else ""
    )
    body = f"""
    for (int n = 0; n < {heads.batch}; ++n) {{
    for (int h = 0; h < {heads.heads}; ++h) {{
    for (int i = 0; i < {heads.length}; ++i) {{
    {check}
    for (int d = 0; d < {half}; ++d) {{
    const float c = {cos.at(f"{row if row == 'at' else '(' + row + ')'} * {half} + d")};
    const float s = {sin.at(f"{row if row == 'at' else '(' + row + ')'} * {half} + d")};
    const float l = {x.at(f"{base} + {first}")};
    const float r = {x.at(f"{base} + {second}")};
    {{
    float v = c * l - s * r;
    {y.lines(f"{base} + {first}")}
    }}
    {{
    float v = s * l + c * r;
    {y.lines(f"{base} + {second}")}
    }}
    }}
    {rest}
    }}
    }}
    }}
    """
    low.call("rotate", [*parameters, *y.parameters], body, fails=ids is not None)
    y.finish()
