"""Run a graph node by node: our kernels where there is one, a session of ONNX Runtime for every other node."""

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper, numpy_helper

from whet.ir.execute import CannotRun, Executor
from whet.ir.float64.activations import ACTIVATIONS
from whet.ir.float64.attention import ATTENTIONS
from whet.ir.float64.kernel import Kernel
from whet.ir.float64.normalizations import NORMALIZATIONS
from whet.ir.float64.windows import WINDOWS
from whet.ir.values import Array

_KERNELS: Mapping[tuple[str, str], Kernel] = {
    **WINDOWS,
    **ACTIVATIONS,
    **NORMALIZATIONS,
    **ATTENTIONS,
}
"""(domain, operator) -> kernel."""


class Float64Executor:
    """Run a graph whose floating-point types are all float64, node by node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Accept models with a node that has a kernel here; the rest are better run as a whole."""
        if not any((node.domain, node.op_type) in _KERNELS for node in model.graph.node):
            raise CannotRun("no node needs a float64 kernel of our own")
        self._model = model
        self._constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._sessions: dict[tuple[int, tuple[str, ...]], Executor] = {}

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Return the outputs; raises :class:`~whet.ir.execute.CannotRun`."""
        values: dict[str, Array] = {**self._constants, **feeds}
        for index, node in enumerate(self._model.graph.node):
            made = [name for name in node.output if name]
            values.update(zip(made, self._step(index, node, made, values), strict=True))
        return [values[name] for name in outputs]

    def _step(
        self, index: int, node: onnx.NodeProto, made: list[str], values: Mapping[str, Array]
    ) -> Sequence[Array]:
        kernel = _KERNELS.get((node.domain, node.op_type))
        if kernel is None:
            feeds = {name: values[name] for name in node.input if name}
            return self._session(index, node, feeds).run(feeds, made)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        found = kernel(attributes, *(values[name] if name else None for name in node.input))
        wanted = [k for k, name in enumerate(node.output) if name]
        if wanted and wanted[-1] >= len(found):
            raise CannotRun(f"output {wanted[-1]} of {node.op_type} has no float64 kernel")
        return [found[k] for k in wanted]

    def _session(self, index: int, node: onnx.NodeProto, feeds: Mapping[str, Array]) -> Executor:
        key = (index, tuple(str(array.dtype) for array in feeds.values()))
        if key not in self._sessions:
            inputs = [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
                )
                for name, array in feeds.items()
            ]
            outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
            graph = helper.make_graph([node], "step", inputs, outputs)
            self._sessions[key] = Executor(
                helper.make_model(
                    graph,
                    opset_imports=list(self._model.opset_import),
                    ir_version=self._model.ir_version,
                )
            )
        return self._sessions[key]
