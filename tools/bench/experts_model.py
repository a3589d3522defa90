"""A small mixture of experts as a graph, spelled like an exported one: the tests' and the benchmark's model."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir
from onnx import numpy_helper

from whet.ir.values import Array

__all__ = ["moe_model", "random_weights"]

Weights = dict[str, Array]


def random_weights(
    experts: int = 4,
    units: int = 16,
    width: int = 8,
    *,
    seed: int = 0,
    biases: bool = False,
    inputs: int = 0,
    outputs: int = 0,
) -> Weights:
    """Draw the weights of :func:`moe_model`: a router ``wr``, stacks ``gu`` and ``dn``, and what else is asked for."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "wr": (experts, width),
        "gu": (experts, 2 * units, width),
        "dn": (experts, width, units),
    }
    if biases:
        shapes |= {"br": (experts,), "bg": (experts, 2 * units), "bd": (experts, width)}
    if inputs:
        shapes |= {"wi": (inputs, width), "wo": (width, outputs)}
    return {
        name: (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in shapes.items()
    }


def moe_model(
    weights: Mapping[str, Array], k: int = 2, *, router: str = "softmax", fused: bool = True
) -> onnx_ir.Model:
    """Return ``y = x + sum of the k chosen experts`` (SwiGLU), between two products if ``wi`` and ``wo`` are there.

    ``router`` is ``softmax`` (before TopK), ``late`` (after it) or ``sigmoid`` (with a correction ``cr`` added to
    choose by); gate and up are one stack ``gu``, or two unless ``fused``; biases ``br``, ``bg``, ``bd`` are looked up
    too.
    """
    held = dict(weights)
    width = held["wr"].shape[1]
    units = held["dn"].shape[2]
    if not fused:
        held["ga"], held["up"] = np.split(held.pop("gu"), 2, 1)
    whole = {
        "k": [k],
        "last": [-1],
        "one": [1],
        "flat": [-1],
        "copies": [1, k, 1],
        "rows": [-1, width, 1],
        "column": [-1, 1],
        "slots": [-1, k, width],
        "halves": [units, units],
    }
    held |= {f"c_{name}": np.asarray(numbers, np.int64) for name, numbers in whole.items()}
    held["c_two"] = np.asarray(2.5, np.float32)
    first, size = ("i", held["wi"].shape[0]) if "wi" in held else ("x", width)
    lines = ["i = MatMul(x, wi)"] if "wi" in held else []
    lines += [_routing(first, router, "br" in held), _expert(first, fused, "bg" in held)]
    lines += [f"z = Add({first}, f)", "y = MatMul(z, wo)" if "wo" in held else "y = Identity(z)"]
    ends = held["wo"].shape[1] if "wo" in held else width
    text = f"(float[N,{size}] x) => (float[N,{ends}] y) {{ {' '.join(lines)} }}"
    return _parse(text, held)


def _routing(data: str, router: str, biased: bool) -> str:
    product = f"l = Gemm<transB=1>({data}, wr, br)" if biased else f"l = Gemm<transB=1>({data}, wr)"
    if router == "late":
        return f"{product} v, e = TopK<axis=-1>(l, c_k) w = Softmax<axis=-1>(v)"
    if router == "sigmoid":
        return (
            f"{product} p = Sigmoid(l) t = Add(p, cr) u, e = TopK<axis=-1>(t, c_k) "
            "v = GatherElements<axis=-1>(p, e) s = ReduceSum(v, c_last) d = Div(v, s) w = Mul(d, c_two)"
        )
    return (
        f"{product} p = Softmax<axis=-1>(l) v, e = TopK<axis=-1>(p, c_k) "
        "s = ReduceSum(v, c_last) w = Div(v, s)"
    )


def _expert(data: str, fused: bool, biased: bool) -> str:
    begin = (
        f"j = Reshape(e, c_flat) xu = Unsqueeze({data}, c_one) xe = Expand(xu, c_copies) "
        "xs = Reshape(xe, c_rows) "
    )
    if fused:
        begin += "g = Gather<axis=0>(gu, j) a = MatMul(g, xs) b0 = Squeeze(a, c_last) "
        if biased:
            begin += "gb = Gather<axis=0>(bg, j) b = Add(b0, gb) "
        begin += f"ha, hb = Split<axis=1>({'b' if biased else 'b0'}, c_halves) "
    else:
        begin += (
            "g = Gather<axis=0>(ga, j) a = MatMul(g, xs) ha = Squeeze(a, c_last) "
            "g2 = Gather<axis=0>(up, j) a2 = MatMul(g2, xs) hb = Squeeze(a2, c_last) "
        )
    end = (
        "sg = Sigmoid(ha) si = Mul(ha, sg) h = Mul(si, hb) dg = Gather<axis=0>(dn, j) "
        "hu = Unsqueeze(h, c_last) o = MatMul(dg, hu) q0 = Squeeze(o, c_last) "
    )
    if biased:
        end += "db = Gather<axis=0>(bd, j) q = Add(q0, db) "
    return (
        begin
        + end
        + f"ws = Reshape(w, c_column) ow = Mul({'q' if biased else 'q0'}, ws) r = Reshape(ow, c_slots) "
        "f = ReduceSum<keepdims=0>(r, c_one)"
    )


def _parse(text: str, constants: Mapping[str, Array]) -> onnx_ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> moe {text}')
    read = {name for node in proto.graph.node for name in node.input}
    for name, array in constants.items():
        if name in read:
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for k, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{k}"
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    return onnx_ir.from_proto(proto)
