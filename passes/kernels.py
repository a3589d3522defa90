"""Tiny models of one operator or a few, whose milliseconds tell which spelling the runtime executes fastest."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir

from whet.analysis.prices import KernelModel
from whet.ir.values import Array
from whet.passes.proposal import Builder, FreshNames

__all__ = ["Body", "kernel", "noise"]

Body = Callable[[Builder, Sequence[onnx_ir.Value]], onnx_ir.Value]
"""Spells the operator with a builder on the model's inputs."""


def kernel(
    inputs: Mapping[str, Array],
    body: Body,
    opset: int,
) -> KernelModel:
    """Return a maker of the model ``y = body(build, inputs)``, fed with ``inputs``."""

    def make() -> tuple[bytes, Mapping[str, Array]]:
        values = [
            onnx_ir.Value(
                name=name,
                shape=onnx_ir.Shape(array.shape),
                type=onnx_ir.TensorType(onnx_ir.DataType.from_numpy(array.dtype)),
            )
            for name, array in inputs.items()
        ]
        opsets = {"": opset, "com.microsoft": 1}
        graph = onnx_ir.Graph(values, [], nodes=[], opset_imports=opsets, name="kernel")
        model = onnx_ir.Model(graph, ir_version=min(onnx.IR_VERSION, 10))
        near = onnx_ir.Node("", "Identity", [], num_outputs=1, name="kernel")
        build = Builder(FreshNames(model), near)
        result = body(build, values)
        graph.extend(build.nodes)
        for weight in build.initializers:
            graph.register_initializer(weight)
        graph.outputs.append(result)
        proto = _typed(onnx_ir.to_proto(model))
        return proto.SerializeToString(), dict(inputs)

    return make


def _typed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Give the output a type, which ONNX demands and inference finds."""
    name = proto.graph.output[0].name
    del proto.graph.output[:]
    bare = onnx.shape_inference.infer_shapes(proto)
    found = [info for info in bare.graph.value_info if info.name == name]
    proto.graph.output.extend(found or [onnx.ValueInfoProto(name=name)])
    return proto


def noise(shape: Sequence[int], seed: int = 0) -> Array:
    """Return standard normal float32 data."""
    return np.random.default_rng(seed).standard_normal(tuple(shape)).astype(np.float32)
