"""Raising the opset keeps what a model computes, or keeps the opset."""

import itertools
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import onnxruntime.capi.onnxruntime_pybind11_state
import pytest
from onnx import TensorProto, helper, numpy_helper

from whet.errors import WhetError
from whet.ir.files import load_model
from whet.ir.opset import OPSET_KEPT, raise_opset
from whet.ir.opset_adapters import ADAPTERS

SHARED = Path(
    os.environ.get("WHET_SHARED", str(Path(__file__).resolve().parents[2].parent / "shared"))
)
SAMPLE = 6
"""Every so many of the shared models are run (all are converted elsewhere)."""

X = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)


def session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def one_node(
    opset: int,
    op_type: str,
    inputs: dict[str, np.ndarray],
    weights: dict[str, np.ndarray] | None = None,
    outputs: int = 1,
    names: list[str] | None = None,
    **attributes: object,
) -> onnx.ModelProto:
    weights = weights or {}
    given = names if names is not None else [*inputs, *weights]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op_type, given, results, name="node", **attributes)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in inputs.items()
    ]
    values = [onnx.ValueInfoProto(name=name) for name in results]
    tensors = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = helper.make_graph([node], "g", infos, values, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def assert_raised(
    proto: onnx.ModelProto, feeds: dict[str, np.ndarray], to: int = 23, **tolerance: float
) -> None:
    model = onnx_ir.from_proto(proto)
    raised = raise_opset(model)
    assert raised is not model, model.meta.get(OPSET_KEPT)
    assert (OPSET_KEPT in raised.meta) == (to != 23)
    assert raised.opset_imports[""] == to
    assert model.opset_imports[""] == proto.opset_import[0].version
    data = onnx_ir.to_proto(raised)
    want = session(proto.SerializeToString()).run(None, feeds)
    got = session(data.SerializeToString()).run(None, feeds)
    for a, b in zip(want, got, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, **({"rtol": 0, "atol": 0} | tolerance))


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


STEP = np.array([1, 2], np.int64)
CASES: dict[str, tuple[int, str, dict[str, object]]] = {
    "softmax default": (11, "Softmax", {}),
    "softmax inner": (9, "Softmax", {"axis": 2}),
    "softmax first": (12, "Softmax", {"axis": 0}),
    "softmax last": (12, "Softmax", {"axis": 3}),
    "softmax negative": (11, "Softmax", {"axis": -2}),
    "logsoftmax": (11, "LogSoftmax", {"axis": 1}),
    "hardmax": (11, "Hardmax", {"axis": 1}),
    "squeeze": (11, "Unsqueeze", {"axes": [0, 2]}),
    "reduce sum": (11, "ReduceSum", {"axes": [1, -1], "keepdims": 0}),
    "reduce all": (11, "ReduceSum", {}),
    "reduce mean": (13, "ReduceMean", {"axes": [1]}),
    "reduce max": (17, "ReduceMax", {"axes": [-1], "keepdims": 0}),
    "reduce logsumexp": (11, "ReduceLogSumExp", {"axes": [0]}),
    "reduce l2": (17, "ReduceL2", {}),
    "slice": (9, "Slice", {"starts": [0, 1], "ends": [2, 9], "axes": [0, 2]}),
    "slice plain": (7, "Slice", {"starts": [1, 0], "ends": [2, -1]}),
    "clip": (10, "Clip", {"min": -0.5, "max": 0.5}),
    "clip one side": (7, "Clip", {"max": 0.25}),
    "clip none": (7, "Clip", {}),
    "pad": (10, "Pad", {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 1.5}),
    "pad reflect": (7, "Pad", {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "mode": "reflect"}),
    "dropout": (7, "Dropout", {"ratio": 0.3}),
    "upsample nearest": (7, "Upsample", {"scales": [1.0, 1.0, 2.0, 3.0]}),
    "upsample linear": (8, "Upsample", {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}),
    "average pool": (7, "AveragePool", {"kernel_shape": [2, 2]}),
    "average pool padded": (
        11,
        "AveragePool",
        {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1, "strides": [2, 2]},
    ),
    "average pool counted": (
        10,
        "AveragePool",
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "max pool": (8, "MaxPool", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    "lp pool": (11, "LpPool", {"kernel_shape": [2, 2], "p": 2}),
    "depth to space": (10, "SpaceToDepth", {"blocksize": 1}),
    "argmax": (11, "ArgMax", {"axis": 2}),
    "shape": (13, "Shape", {}),
    "flatten": (9, "Flatten", {"axis": 2}),
    "cast": (9, "Cast", {"to": TensorProto.FLOAT16}),
    "gelu-like": (8, "Elu", {"alpha": 0.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_one_input(case: str):
    opset, op_type, attributes = CASES[case]
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if "Pool" in op_type else {}
    assert_raised(one_node(opset, op_type, {"x": X}, **attributes), {"x": X}, **tolerance)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [2.0, 1.5, 0.5])
@pytest.mark.parametrize(("opset", "op_type"), [(9, "Upsample"), (10, "Resize")])
def test_resize(opset: int, op_type: str, mode: str, factor: float):
    if op_type == "Upsample" and factor < 1:
        pytest.skip("Upsample only enlarges")
    scales = {"s": floats(1, 1, factor, factor)}
    assert_raised(one_node(opset, op_type, {"x": X}, scales, mode=mode), {"x": X}, atol=1e-6)


def test_resize_to_sizes():
    weights = {
        "roi": floats(),
        "scales": floats(),
        "sizes": np.array([2, 3, 8, 7], np.int64),
    }
    assert_raised(one_node(11, "Resize", {"x": X}, weights, mode="linear"), {"x": X})


def test_several_outputs():
    assert_raised(one_node(11, "Split", {"x": X}, outputs=2, axis=2), {"x": X})
    assert_raised(one_node(9, "Split", {"x": X}, outputs=2, axis=3, split=[2, 3]), {"x": X})
    assert_raised(one_node(13, "Split", {"x": X}, outputs=3, axis=1), {"x": X})
    assert_raised(one_node(9, "TopK", {"x": X}, outputs=2, k=2, axis=3), {"x": X})


def test_normalizations():
    rng = np.random.default_rng(1)
    per_channel = {n: rng.random(3).astype(np.float32) + 0.5 for n in ("s", "b", "m", "v")}
    for opset in (7, 9, 13):
        assert_raised(one_node(opset, "BatchNormalization", {"x": X}, per_channel), {"x": X})
    x = rng.standard_normal((2, 6, 5)).astype(np.float32)
    groups = {n: rng.random(3).astype(np.float32) for n in ("s", "b")}
    proto = one_node(18, "GroupNormalization", {"x": x}, groups, num_groups=3)
    assert_raised(proto, {"x": x}, atol=1e-6)


def test_regions_and_grids():
    boxes = {"r": floats(0, 0, 3, 3, 1, 1, 4, 3).reshape(2, 4), "i": np.array([0, 1], np.int64)}
    options = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
    assert_raised(one_node(10, "RoiAlign", {"x": X}, boxes, **options), {"x": X}, to=21, atol=1e-6)
    grid = np.random.default_rng(2).uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)
    for mode in ("bilinear", "bicubic", "nearest"):
        proto = one_node(16, "GridSample", {"x": X, "g": grid}, mode=mode)
        assert_raised(proto, {"x": X, "g": grid}, atol=1e-6)
    signal = X[..., :1].copy()
    for axis in (1, 2):
        assert_raised(one_node(17, "DFT", {"x": signal}, axis=axis), {"x": signal}, atol=1e-5)


def test_scatter():
    weights = {"i": np.array([[1, 0]], np.int64), "u": floats(7, 8).reshape(1, 2)}
    x = X[0, 0]
    assert_raised(one_node(9, "Scatter", {"x": x}, weights, axis=1), {"x": x})


def test_custom_domains_and_subgraphs_survive():
    body = helper.make_graph(
        [
            helper.make_node("Squeeze", ["x"], ["flat"], axes=[0]),
            helper.make_node("Softmax", ["flat"], ["r"], axis=1),
        ],
        "then",
        [],
        [onnx.ValueInfoProto(name="r")],
    )
    other = helper.make_graph(
        [helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"),
         helper.make_node("Squeeze", ["g"], ["r"], axes=[0])],
        "else", [], [onnx.ValueInfoProto(name="r")],
    )  # fmt: skip
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=other)
    x = X[:1]
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape[1:])],
    )
    imports = [helper.make_opsetid("", 11), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=8)
    for condition in (True, False):
        assert_raised(proto, {"c": np.array(condition), "x": x})


def test_functions_are_raised_with_their_own_opset():
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2, 3] x) => (float[2] y) { y = local.total (x) }
        <domain: "local", opset_import: ["" : 11]>
        total (x) => (y) { y = ReduceSum <axes: ints = [1], keepdims: int = 0> (x) }"""
    raised = raise_opset(onnx_ir.from_proto(onnx.parser.parse_model(text)))
    (function,) = raised.functions.values()
    assert (raised.opset_imports[""], function.opset_imports[""]) == (23, 23)
    assert [n.op_type for n in function] == ["Constant", "ReduceSum"]


KEPT = {
    "too old": (one_node(6, "Relu", {"x": X}), "older than 7"),
    "not yet": (one_node(13, "Gelu", {"x": X}), "no operator of opset 13"),
    "mask": (one_node(10, "Dropout", {"x": X}, outputs=2), "mask"),
    "statistics": (
        one_node(8, "BatchNormalization", {"x": X}, {n: X[0, :, 0, 0] for n in "sbmv"}, spatial=0),
        "spatial=0",
    ),
    "scales": (
        one_node(10, "Resize", {"x": X, "s": floats(1, 1, 2, 2)}),
        "its scales are not constant",
    ),
    "both ways": (one_node(10, "Resize", {"x": X}, {"s": floats(1, 1, 2, 0.5)}), "enlarges one"),
}


def test_every_operator_still_has_a_kernel():
    """Where ONNX Runtime runs an older version of an operator, it runs what we raise it to."""
    kernels: dict[str, list[tuple[int, int]]] = {}
    for kernel in onnxruntime.capi.onnxruntime_pybind11_state.get_all_opkernel_def():
        if (kernel.provider, kernel.domain) == ("CPUExecutionProvider", ""):
            kernels.setdefault(kernel.op_name, []).append(tuple(kernel.version_range))
    declined = {op for (op, _), f in ADAPTERS.items() if f.__name__ == "_without_kernel_22"}
    missing = {op for op, ranges in kernels.items() if not runs(op, 23, ranges)}
    assert missing - {"Scatter", "Upsample"} == declined
    assert {op for op in missing if not runs(op, 21, kernels[op])} == {"Scatter", "Upsample"}


def runs(op_type: str, opset: int, ranges: list[tuple[int, int]]) -> bool:
    try:
        version = onnx.defs.get_schema(op_type, opset, "").since_version
    except onnx.defs.SchemaError:
        return True  # no operator of ONNX's at that opset: it is left alone
    return any(
        first == version if last == 2**31 - 1 else first <= version <= last
        for first, last in ranges
    )


@pytest.mark.parametrize("case", KEPT)
def test_kept_with_a_reason(case: str):
    proto, reason = KEPT[case]
    model = onnx_ir.from_proto(proto)
    before = onnx_ir.to_proto(model).SerializeToString()
    assert raise_opset(model) is model
    assert reason in model.meta[OPSET_KEPT]
    assert onnx_ir.to_proto(model).SerializeToString() == before


def test_there_already():
    model = onnx_ir.from_proto(one_node(24, "Relu", {"x": X}))
    assert raise_opset(model) is model
    assert OPSET_KEPT not in model.meta


def test_weights_are_shared():
    model = onnx_ir.from_proto(one_node(13, "MatMul", {"x": X}, {"w": X[0, 0].T.copy()}))
    raised = raise_opset(model)
    weight = model.graph.initializers["w"].const_value
    assert raised.graph.initializers["w"].const_value is weight


TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def feeds_for(run: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes: dict[str, int] = {}
    feeds = {}
    for info in run.get_inputs():
        dtype = np.dtype(TYPES[info.type])
        shape = [
            d if isinstance(d, int) and d >= 0 else sizes.setdefault(str(d), 2 + len(sizes) % 2)
            for d in info.shape
        ]
        random = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        feeds[info.name] = random.astype(dtype)
    return feeds


def same(want: object, got: object) -> bool:
    if isinstance(want, list) and isinstance(got, list):
        return len(want) == len(got) and all(map(same, want, got))
    if isinstance(want, np.ndarray) and isinstance(got, np.ndarray):
        alike = want.dtype == got.dtype and want.shape == got.shape
        if want.dtype.kind == "f":
            return alike and np.allclose(want, got, rtol=1e-6, atol=1e-7, equal_nan=True)
        return alike and np.array_equal(want, got)
    return type(want) is type(got) and want == got


def shared_models() -> list[Path]:
    return sorted((SHARED / "assets").rglob("*.onnx"))


@pytest.mark.skipif(not shared_models(), reason=f"no models under {SHARED}/assets")
def test_shared_models_are_converted_or_kept_with_a_reason():
    counts = dict.fromkeys(("refused", "there", "kept", "raised"), 0)
    for path in shared_models():
        try:
            model = load_model(path)
            raised = raise_opset(model)
        except WhetError:
            counts["refused"] += 1
            continue
        if raised is model:
            counts["kept" if OPSET_KEPT in model.meta else "there"] += 1
        else:
            assert raised.opset_imports[""] == (21 if OPSET_KEPT in raised.meta else 23), path
            counts["raised"] += 1
    assert counts["raised"] > 400
    assert counts["kept"] < 20
    assert counts["refused"] < 25


@pytest.mark.skipif(not shared_models(), reason=f"no models under {SHARED}/assets")
def test_shared_models_compute_the_same():
    compared = 0
    for path in itertools.islice(shared_models(), 0, None, SAMPLE):
        try:
            model = load_model(path)
            raised = raise_opset(model)
            before = session(path.read_bytes())
            feeds = feeds_for(before)
            want = before.run(None, feeds)
        except Exception:
            continue
        if raised is model or not same(want, before.run(None, feeds)):
            continue
        got = session(onnx_ir.to_proto(raised).SerializeToString()).run(None, feeds)
        assert same(want, got), path
        compared += 1
    assert compared > 50
