"""Small networks with everything that couples channels, and random removals from them."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir
from onnx import numpy_helper

from whet.ir.shapes import infer_shapes
from whet.ir.values import Array
from whet.tools.bench.coupling import difference

__all__ = ["GRAPHS", "draw", "feeds_of", "graph", "holds", "network"]

LIMIT = 1e-5


def draw(shape: tuple[int, ...], seed: int) -> Array:
    """Draw weights that neither let signals die nor explode."""
    rng = np.random.default_rng((seed, *shape))
    fan = max(int(np.prod(shape[1:])), 1) if len(shape) > 1 else 4
    return (rng.standard_normal(shape) / fan**0.5).astype(np.float32)


def network(
    text: str, shapes: Mapping[str, tuple[int, ...]], opset: int = 23, seed: int = 0
) -> onnx_ir.Model:
    """Parse a graph; ``shapes`` are those of its weights, and a name that starts with ``v`` is positive."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')
    for k, (name, shape) in enumerate(shapes.items()):
        array = draw(shape, seed + k)
        array = np.abs(array) + 0.5 if name.startswith("v") else array
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for k, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{k}"
    return infer_shapes(onnx_ir.serde.deserialize_model(proto))


GRAPHS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "shares": (
        """(float[N,6,8] x) => (float[N,5,8] y) <int64[1] axis = {2}> {
            a = Conv(x, w0)
            p = Abs(a)
            s = ReduceSum<keepdims=1>(p, axis)
            q = Div(p, s)
            r = Reciprocal(s)
            l = Log(s)
            m = Mul(r, l)
            z = Add(q, m)
            y = Conv(z, w1)
        }""",
        {"w0": (12, 6, 1), "w1": (5, 12, 1)},
    ),
    "residual": (
        """(float[N,3,8,8] x) => (float[N,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w0, b0)
            r = Relu(a)
            b = Conv<pads=[1,1,1,1]>(r, w1)
            n = BatchNormalization(b, s1, t1, m1, v1)
            c = Conv(r, w2, b2)
            d = Add(n, c)
            e = Relu(d)
            p = GlobalAveragePool(e)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w3, b3)
        }""",
        {
            **{"w0": (16, 3, 3, 3), "b0": (16,), "w1": (24, 16, 3, 3), "s1": (24,), "t1": (24,)},
            **{"m1": (24,), "v1": (24,), "w2": (24, 16, 1, 1), "b2": (24,), "w3": (5, 24)},
            "b3": (5,),
        },
    ),
    "padded shortcut": (
        """(float[N,3,8,8] x) => (float[N,4,4,4] y)
        <int64[1] zero = {0}, int64[2] starts = {0,0}, int64[2] ends = {9999,9999}, int64[2] axes = {2,3},
         int64[2] steps = {2,2}, int64[8] pads = {0,8,0,0,0,8,0,0}> {
            a = Conv<pads=[1,1,1,1]>(x, w0)
            r = Relu(a)
            b = Conv<pads=[1,1,1,1],strides=[2,2]>(r, w1, b1)
            s = Slice(r, starts, ends, axes, steps)
            p = Pad(s, pads)
            c = Add(b, p)
            e = Relu(c)
            y = Conv(e, w2)
        }""",
        {"w0": (16, 3, 3, 3), "w1": (32, 16, 3, 3), "b1": (32,), "w2": (4, 32, 1, 1)},
    ),
    "dense": (
        """(float[N,3,6,6] x) => (float[N,4,6,6] y) {
            a = Conv<pads=[1,1,1,1]>(x, w0)
            b = Conv<pads=[1,1,1,1]>(a, w1)
            c = Concat<axis=1>(a, b)
            n = BatchNormalization(c, s, t, m, v)
            r = Relu(n)
            d = Conv<pads=[1,1,1,1]>(r, w2)
            e = Concat<axis=1>(c, d)
            y = Conv(e, w3)
        }""",
        {
            **{"w0": (12, 3, 3, 3), "w1": (8, 12, 3, 3), "s": (20,), "t": (20,), "m": (20,)},
            **{"v": (20,), "w2": (8, 20, 3, 3), "w3": (4, 28, 1, 1)},
        },
    ),
    "inverted residual": (
        """(float[N,8,6,6] x) => (float[N,8,6,6] y) {
            a = Conv(x, w0, b0)
            r = HardSwish(a)
            d = Conv<pads=[1,1,1,1],group=32>(r, w1, b1)
            g = GlobalAveragePool(d)
            h = Conv(g, w2, b2)
            i = Relu(h)
            j = Conv(i, w3, b3)
            k = HardSigmoid(j)
            m = Mul(d, k)
            y = Conv(m, w4)
        }""",
        {
            **{"w0": (32, 8, 1, 1), "b0": (32,), "w1": (32, 1, 3, 3), "b1": (32,)},
            **{"w2": (8, 32, 1, 1), "b2": (8,), "w3": (32, 8, 1, 1), "b3": (32,)},
            "w4": (8, 32, 1, 1),
        },
    ),
    "grouped": (
        """(float[N,4,6,6] x) => (float[N,4,6,6] y) {
            a = Conv(x, w0)
            b = Conv<pads=[1,1,1,1],group=4>(a, w1, b1)
            r = Relu(b)
            y = Conv(r, w2)
        }""",
        {"w0": (32, 4, 1, 1), "w1": (16, 8, 3, 3), "b1": (16,), "w2": (4, 16, 1, 1)},
    ),
    "shuffle": (
        """(float[N,4,6,6] x) => (float[N,4,6,6] y)
        <int64[5] apart = {0,2,8,6,6}, int64[4] whole = {0,16,6,6}> {
            a = Conv(x, w0)
            b, c = Split<axis=1,num_outputs=2>(a)
            d = Conv(c, w1)
            e = Concat<axis=1>(b, d)
            f = Reshape(e, apart)
            g = Transpose<perm=[0,2,1,3,4]>(f)
            h = Reshape(g, whole)
            y = Conv(h, w2)
        }""",
        {"w0": (16, 4, 1, 1), "w1": (8, 8, 1, 1), "w2": (4, 16, 1, 1)},
    ),
    "group norm": (
        """(float[N,3,4,4] x) => (float[N,3,8,8] y) {
            a = Conv<pads=[1,1,1,1]>(x, w0)
            n = GroupNormalization<num_groups=4>(a, s, t)
            r = Relu(n)
            u = ConvTranspose<strides=[2,2],kernel_shape=[2,2]>(r, w1, b1)
            i = InstanceNormalization(u, s2, t2)
            y = Conv(i, w2)
        }""",
        {
            **{"w0": (16, 3, 3, 3), "s": (16,), "t": (16,), "w1": (16, 8, 2, 2), "b1": (8,)},
            **{"s2": (8,), "t2": (8,), "w2": (3, 8, 1, 1)},
        },
    ),
    "packed attention": (
        """(float[N,T,16] x) => (float[N,T,16] y)
        <int64[5] apart = {0,0,3,4,8}, int64[3] whole = {0,0,32}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}> {
            l = LayerNormalization(x, g, h)
            p = MatMul(l, w0)
            z = Add(p, b0)
            a = Reshape(z, apart)
            t = Transpose<perm=[2,0,3,1,4]>(a)
            q = Gather<axis=0>(t, i0)
            k = Gather<axis=0>(t, i1)
            v = Gather<axis=0>(t, i2)
            o = Attention(q, k, v)
            u = Transpose<perm=[0,2,1,3]>(o)
            f = Reshape(u, whole)
            m = MatMul(f, w1)
            y = Add(x, m)
        }""",
        {"g": (16,), "h": (16,), "w0": (16, 96), "b0": (96,), "w1": (32, 16)},
    ),
    "shared keys": (
        """(float[N,T,12] x) => (float[N,T,12] y) {
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            o = Attention<q_num_heads=8,kv_num_heads=2>(q, k, v)
            y = MatMul(o, wo)
        }""",
        {"wq": (12, 64), "wk": (12, 16), "wv": (12, 16), "wo": (64, 12)},
    ),
    "repeated keys": (
        """(float[N,T,12] x) => (float[N,T,12] y)
        <int64[4] hq = {0,0,8,8}, int64[4] hk = {0,0,2,8}, int64[1] two = {2}, int64[5] wide = {1,1,4,1,1},
         int64[4] flat = {0,8,-1,8}, int64[3] whole = {0,-1,64}, float c = {0.3}> {
            q0 = MatMul(x, wq)
            k0 = MatMul(x, wk)
            v0 = MatMul(x, wv)
            q1 = Reshape(q0, hq)
            k1 = Reshape(k0, hk)
            v1 = Reshape(v0, hk)
            q = Transpose<perm=[0,2,1,3]>(q1)
            k2 = Transpose<perm=[0,2,1,3]>(k1)
            v2 = Transpose<perm=[0,2,1,3]>(v1)
            k3 = Unsqueeze(k2, two)
            v3 = Unsqueeze(v2, two)
            k4 = Expand(k3, wide)
            v4 = Expand(v3, wide)
            k5 = Reshape(k4, flat)
            v = Reshape(v4, flat)
            k = Transpose<perm=[0,1,3,2]>(k5)
            s0 = MatMul(q, k)
            s1 = Mul(s0, c)
            s = Softmax(s1)
            o = MatMul(s, v)
            o1 = Transpose<perm=[0,2,1,3]>(o)
            o2 = Reshape(o1, whole)
            y = MatMul(o2, wo)
        }""",
        {"wq": (12, 64), "wk": (12, 16), "wv": (12, 16), "wo": (64, 12)},
    ),
    "stream": (
        """(int64[N,T] ids) => (float[N,T,20] y) {
            e = Gather(table, ids)
            n = RMSNormalization(e, g0)
            u = MatMul(n, w0)
            a = MatMul(n, w1)
            s = Sigmoid(a)
            h = Mul(a, s)
            m = Mul(h, u)
            d = MatMul(m, w2)
            r = Add(e, d)
            o = RMSNormalization(r, g1)
            t = Transpose<perm=[1,0]>(table)
            y = MatMul(o, t)
        }""",
        {
            "table": (20, 24),
            "g0": (24,),
            "w0": (24, 32),
            "w1": (24, 32),
            "w2": (32, 24),
            "g1": (24,),
        },
    ),
    "experts": (
        """(float[N,8] x) => (float[N,8] y) {
            r = MatMul(x, wr)
            p = Softmax(r)
            a = Einsum<equation="nd,edh->neh">(x, w1)
            g = Gelu(a)
            b = Einsum<equation="neh,ehd->ned">(g, w2)
            y = Einsum<equation="ned,ne->nd">(b, p)
        }""",
        {"wr": (8, 4), "w1": (4, 8, 16), "w2": (4, 16, 8)},
    ),
    "rotated": (
        """(float[N,T,8] x, int64[N,T] at) => (float[N,T,8] y)
        <int64[4] apart = {0,0,4,8}, int64[3] whole = {0,0,32}> {
            p = MatMul(x, w0)
            a = Reshape(p, apart)
            q = Transpose<perm=[0,2,1,3]>(a)
            r = RotaryEmbedding(q, cosines, sines, at)
            o = Attention(r, r, q)
            u = Transpose<perm=[0,2,1,3]>(o)
            f = Reshape(u, whole)
            y = MatMul(f, w1)
        }""",
        {"w0": (8, 32), "w1": (32, 8), "cosines": (16, 4), "sines": (16, 4)},
    ),
}
"""Name -> graph, and shapes of its weights."""


def graph(name: str, seed: int = 0) -> onnx_ir.Model:
    """Return one of the graphs with random weights."""
    text, shapes = GRAPHS[name]
    return network(text, shapes, seed=seed)


def feeds_of(model: onnx_ir.Model, seed: int = 0) -> dict[str, Array]:
    """Draw inputs with 2 samples and 5 positions."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        sizes = [d if isinstance(d, int) else {"N": 2, "T": 5}[str(d)] for d in value.shape]
        if value.dtype == onnx_ir.DataType.INT64:
            found[value.name or ""] = rng.integers(0, 12, sizes)
        else:
            found[value.name or ""] = rng.standard_normal(sizes).astype(np.float32)
    return found


def holds(model: onnx_ir.Model, ratio: float, seed: int) -> float:
    """Check a random removal; return the share of weights left."""
    error, left = difference(model, feeds_of(model, seed), ratio, seed)
    assert error <= LIMIT, f"zeros and removal differ by {error:.3g}"
    return left
