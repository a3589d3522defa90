"""A function of one integer of 8 bits is a table of 256: no mathematics is left for the device.

The table is what ONNX Runtime computes for the nodes themselves, so it is right by construction.
"""

import numpy as np
import onnx
import onnx_ir

from whet.backends.c.activations import activation
from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.operands import read_grid
from whet.backends.c.program import Grid
from whet.backends.layouts import Layout
from whet.ir.array import Array
from whet.ir.execute import Executor, newest_ir_version

__all__ = ["tabulate"]


def tabulate(low: Lowering, node: onnx_ir.Node, grid: Grid, layout: Layout) -> bool:
    """Emit a node and what follows up to a QuantizeLinear to 8 bits as one table; False where none follows."""
    if grid.dtype.itemsize != 1:
        return False
    chain = _chain(low, node)
    target = None if chain is None else read_grid(low, chain[-1])
    if chain is None or target is None or target.dtype.itemsize != 1:
        return False
    first, last = grid.limits
    table = _values(low, chain, grid, np.arange(first, last + 1))
    x = low.tensor(node.inputs[0], layout)
    result = low.make(x.shape, target.dtype)
    body = f"for (int i = 0; i < {x.size}; ++i) {{\ny[i] = table[x[i] - ({first})];\n}}"
    stored = low.constant(table, f"table of {node.op_type} {node.name}")
    parameters = [pointer("x", x), pointer("table", stored), pointer("y", result, written=True)]
    low.call("look_up", parameters, body, in_place=[x])
    low.done.update(chain)
    low.define(chain[-1].outputs[0], result, layout)
    return True


def _chain(low: Lowering, node: onnx_ir.Node) -> list[onnx_ir.Node] | None:
    """Return the nodes up to the QuantizeLinear."""
    found = [node]
    while True:
        reader = low.sole_reader(found[-1].outputs[0])
        if reader is None or reader.inputs[0] is not found[-1].outputs[0]:
            return None
        found.append(reader)
        if reader.op_type == "QuantizeLinear":
            return found
        if activation(low, reader) is None:
            return None


def _values(low: Lowering, chain: list[onnx_ir.Node], grid: Grid, integers: Array) -> Array:
    """Run the nodes on every integer of the grid."""
    codes = integers.astype(grid.dtype)
    weights = {
        "codes": codes,
        "scale": np.float32(grid.scale),
        "zero": np.asarray(grid.zero, grid.dtype),
    }
    nodes = [onnx.helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["v0"])]
    for k, node in enumerate(chain):
        copy = onnx_ir.to_proto(node)
        assert isinstance(copy, onnx.NodeProto)
        for position, value in enumerate(node.inputs[1:], 1):
            known = low.known(value)
            if known is not None:
                copy.input[position] = f"c{k}.{position}"
                weights[copy.input[position]] = known
        copy.input[0], copy.output[0] = f"v{k}", f"v{k + 1}"
        nodes.append(copy)
    result = onnx.ValueInfoProto(name=f"v{len(chain)}")
    constants = [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in weights.items()]
    graph = onnx.helper.make_graph(nodes, "table", [], [result], constants)
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in low.facts.model.opset_imports.items()]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=newest_ir_version())
    return Executor(model).run({})[0]
