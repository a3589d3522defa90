"""What changed in ONNX's operators from opset 7 to 23, one function for each change.

An adapter rewrites one node, in place, from the opset before the one it is registered for. It
raises Mismatch when the node's meaning cannot be kept. Operators that are not listed only gained
types, or attributes and inputs whose defaults mean what was meant before.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir

from whet.errors import Mismatch

Adapter = Callable[[onnx_ir.Node, "Edit"], None]
ADAPTERS: dict[tuple[str, int], Adapter] = {}
"""Maps an operator and the opset that changed it to the function that follows the change."""


class Edit:
    """Inserts nodes into a model, with names that are not taken."""

    def __init__(self, model: onnx_ir.Model) -> None:
        bodies = [model.graph, *(f.graph for f in model.functions.values())]
        self._taken = {
            value.name
            for body in bodies
            for graph in (body, *body.subgraphs())
            for value in (*graph.inputs, *graph.initializers.values())
        }
        for body in bodies:
            for node in onnx_ir.traversal.RecursiveGraphIterator(body):
                self._taken |= {node.name, *(value.name for value in node.outputs)}

    def name(self, wanted: str) -> str:
        """Return ``wanted`` or, when it is taken, the same with a number."""
        candidate, number = wanted, 0
        while candidate in self._taken:
            number += 1
            candidate = f"{wanted}_{number}"
        self._taken.add(candidate)
        return candidate

    def insert(
        self,
        before: onnx_ir.Node,
        op_type: str,
        inputs: Sequence[onnx_ir.Value | None],
        attributes: Sequence[onnx_ir.Attr] = (),
        dtype: onnx_ir.DataType | None = None,
    ) -> onnx_ir.Value:
        """Insert a node with one output before another and return the output."""
        graph = before.graph
        assert graph is not None
        name = self.name(f"{before.name}_{op_type}")
        output = onnx_ir.Value(name=self.name(f"{name}_output"))
        if dtype is not None:
            output.type = onnx_ir.TensorType(dtype)
        graph.insert_before(
            before, onnx_ir.Node("", op_type, inputs, attributes, outputs=[output], name=name)
        )
        return output

    def constant(
        self, before: onnx_ir.Node, data: object, dtype: onnx_ir.DataType = onnx_ir.DataType.INT64
    ) -> onnx_ir.Value:
        """Insert a Constant before a node and return its value."""
        tensor = onnx_ir.Tensor(np.asarray(data, dtype=dtype.numpy()), dtype=dtype)
        value = self.insert(before, "Constant", [], [onnx_ir.AttrTensor("value", tensor)], dtype)
        value.shape = onnx_ir.Shape(tensor.shape.numpy())
        return value


def _follows(version: int, *op_types: str) -> Callable[[Adapter], Adapter]:
    def register(adapter: Adapter) -> Adapter:
        for op_type in op_types:
            ADAPTERS[op_type, version] = adapter
        return adapter

    return register


def _decline(node: onnx_ir.Node, reason: str) -> Mismatch:
    return Mismatch(f"{node.op_type} '{node.name}': {reason}")


def _attribute(node: onnx_ir.Node, name: str) -> onnx_ir.Attr | None:
    attribute = node.attributes.get(name)
    if attribute is not None and attribute.is_ref():
        raise _decline(node, f"attribute '{name}' is a parameter of a function")
    return attribute


def _int(node: onnx_ir.Node, name: str, default: int) -> int:
    attribute = _attribute(node, name)
    return default if attribute is None else attribute.as_int()


def _text(node: onnx_ir.Node, name: str, default: str) -> str:
    attribute = _attribute(node, name)
    return default if attribute is None else attribute.as_string()


def _input(node: onnx_ir.Node, index: int) -> onnx_ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _set_input(node: onnx_ir.Node, index: int, value: onnx_ir.Value | None) -> None:
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def _known(value: onnx_ir.Value | None) -> np.ndarray | None:
    """Return the value if it is a constant that no caller can override."""
    if value is None:
        return None
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        return producer.attributes["value"].as_tensor().numpy()
    if value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def _used(value: onnx_ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _to_input(node: onnx_ir.Node, edit: Edit, name: str, index: int) -> None:
    """Turn an attribute of integers into an input."""
    attribute = _attribute(node, name)
    if attribute is None:
        return
    ints = attribute.as_ints() if attribute.type == onnx_ir.AttributeType.INTS else None
    data = list(ints) if ints is not None else [attribute.as_int()]
    del node.attributes[name]
    _set_input(node, index, edit.constant(node, data))


def _float_to_input(node: onnx_ir.Node, edit: Edit, name: str, index: int) -> None:
    """Turn a float attribute into an input of the type of the first input."""
    attribute = _attribute(node, name)
    if attribute is None:
        return
    data = _input(node, 0)
    if data is None or data.dtype is None:
        raise _decline(node, "the type of its input is not known")
    del node.attributes[name]
    _set_input(node, index, edit.constant(node, attribute.as_float(), data.dtype))


@_follows(9, "BatchNormalization")
def _batch_norm_9(node: onnx_ir.Node, edit: Edit) -> None:
    if _int(node, "spatial", 1) != 1:
        raise _decline(node, "statistics for every position (spatial=0) are gone")
    node.attributes.pop("spatial", None)


@_follows(14, "BatchNormalization")
def _batch_norm_14(node: onnx_ir.Node, edit: Edit) -> None:
    if any(_used(value) for value in node.outputs[1:]):
        raise _decline(node, "it is in training mode: its statistics are used")
    node.resize_outputs(1)


@_follows(9, "Upsample")
def _upsample_9(node: onnx_ir.Node, edit: Edit) -> None:
    scales = _attribute(node, "scales")
    if scales is None:
        raise _decline(node, "it has no scales")
    del node.attributes["scales"]
    constant = edit.constant(node, list(scales.as_floats()), onnx_ir.DataType.FLOAT)
    _set_input(node, 1, constant)


@_follows(10, "Upsample")
def _upsample_10(node: onnx_ir.Node, edit: Edit) -> None:
    """``Upsample`` became ``Resize``."""
    node.op_type = "Resize"


@_follows(11, "Resize")
def _resize_11(node: onnx_ir.Node, edit: Edit) -> None:
    """Opset 10 scaled ``x_old = x_new / scale``; to the nearest it rounded towards the larger."""
    scales = _known(_input(node, 1))
    mode = _text(node, "mode", "nearest")
    if mode == "nearest":
        if scales is None:
            raise _decline(node, "its scales are not constant, so its rounding is not known")
        if (scales < 1).any() and (scales > 1).any():
            raise _decline(node, "it enlarges one axis and shrinks another")
        rounding = "ceil" if (scales < 1).any() else "floor"
        node.attributes["nearest_mode"] = onnx_ir.AttrString("nearest_mode", rounding)
    transformation = "coordinate_transformation_mode"
    node.attributes[transformation] = onnx_ir.AttrString(transformation, "asymmetric")
    data, factor = node.inputs[0], _input(node, 1)
    node.resize_inputs(3)
    node.replace_input_with(0, data)
    node.replace_input_with(1, edit.constant(node, [], onnx_ir.DataType.FLOAT))
    node.replace_input_with(2, factor)


@_follows(13, "Resize")
def _resize_13(node: onnx_ir.Node, edit: Edit) -> None:
    """Scales and sizes may no longer be given both: an empty tensor of scales is left out."""
    mode = _text(node, "coordinate_transformation_mode", "half_pixel")
    if mode == "tf_half_pixel_for_nn":
        raise _decline(node, "coordinate_transformation_mode 'tf_half_pixel_for_nn' is gone")
    if _input(node, 3) is None:
        return
    scales = _known(_input(node, 2))
    if scales is None or scales.size:
        raise _decline(node, "it has sizes, and scales that are not known to be empty")
    node.replace_input_with(2, None)


@_follows(9, "Scan")
def _scan_9(node: onnx_ir.Node, edit: Edit) -> None:
    raise _decline(node, "the batch axis and sequence lengths of opset 8 are gone")


@_follows(12, "Dropout")
def _dropout_12(node: onnx_ir.Node, edit: Edit) -> None:
    """Without ``training_mode`` the ratio has no effect; the mask was zeros and became ones."""
    if any(_used(value) for value in node.outputs[1:]):
        raise _decline(node, "its mask is used and changed its meaning")
    node.resize_outputs(1)
    node.attributes.pop("ratio", None)


@_follows(10, "Slice")
def _slice_10(node: onnx_ir.Node, edit: Edit) -> None:
    for index, name in enumerate(("starts", "ends", "axes"), 1):
        _to_input(node, edit, name, index)


@_follows(10, "TopK")
def _top_k_10(node: onnx_ir.Node, edit: Edit) -> None:
    _to_input(node, edit, "k", 1)


@_follows(11, "Clip")
def _clip_11(node: onnx_ir.Node, edit: Edit) -> None:
    for index, name in enumerate(("min", "max"), 1):
        _float_to_input(node, edit, name, index)


@_follows(11, "Pad")
def _pad_11(node: onnx_ir.Node, edit: Edit) -> None:
    _to_input(node, edit, "pads", 1)
    _float_to_input(node, edit, "value", 2)


@_follows(11, "Scatter")
def _scatter_11(node: onnx_ir.Node, edit: Edit) -> None:
    node.op_type = "ScatterElements"


@_follows(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax_13(node: onnx_ir.Node, edit: Edit) -> None:
    """Up to opset 12 all axes from ``axis`` on were taken together; now it is one axis."""
    axis = _int(node, "axis", 1)
    data = node.inputs[0]
    assert data is not None
    if data.shape is not None:
        first = axis + len(data.shape) if axis < 0 else axis
        if first < len(data.shape) and all(dim == 1 for dim in list(data.shape)[first + 1 :]):
            node.attributes["axis"] = onnx_ir.AttrInt64("axis", axis)
            return
    flat = edit.insert(node, "Flatten", [data], [onnx_ir.AttrInt64("axis", axis)], data.dtype)
    last = onnx_ir.AttrInt64("axis", -1)
    result = edit.insert(node, node.op_type, [flat], [last], data.dtype)
    shape = edit.insert(node, "Shape", [data], dtype=onnx_ir.DataType.INT64)
    node.op_type = "Reshape"
    node.attributes.clear()
    node.replace_input_with(0, result)
    _set_input(node, 1, shape)


@_follows(13, "Squeeze", "Unsqueeze", "ReduceSum")
@_follows(
    18,
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
def _axes_to_input(node: onnx_ir.Node, edit: Edit) -> None:
    _to_input(node, edit, "axes", 1)


@_follows(13, "Split")
def _split_13(node: onnx_ir.Node, edit: Edit) -> None:
    _to_input(node, edit, "split", 1)


@_follows(18, "Split")
def _split_18(node: onnx_ir.Node, edit: Edit) -> None:
    """Equal parts must now be asked for."""
    if _input(node, 1) is None:
        count = onnx_ir.AttrInt64("num_outputs", len(node.outputs))
        node.attributes["num_outputs"] = count


@_follows(16, "RoiAlign")
def _roi_align_16(node: onnx_ir.Node, edit: Edit) -> None:
    mode = "coordinate_transformation_mode"
    node.attributes[mode] = onnx_ir.AttrString(mode, "output_half_pixel")


@_follows(20, "DFT")
def _dft_20(node: onnx_ir.Node, edit: Edit) -> None:
    axis = _int(node, "axis", 1)
    node.attributes.pop("axis", None)
    _set_input(node, 2, edit.constant(node, axis))


@_follows(20, "GridSample")
def _grid_sample_20(node: onnx_ir.Node, edit: Edit) -> None:
    mode = _text(node, "mode", "bilinear")
    renamed = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    node.attributes["mode"] = onnx_ir.AttrString("mode", renamed)


@_follows(21, "GroupNormalization")
def _group_norm_21(node: onnx_ir.Node, edit: Edit) -> None:
    """Scale and bias had one entry for a group, now they have one for a channel."""
    groups, data = _int(node, "num_groups", 0), node.inputs[0]
    channels = data.shape[1] if data is not None and data.shape is not None else None
    if not isinstance(channels, int) or groups <= 0 or channels % groups:
        raise _decline(node, f"{channels} channels in {groups} groups")
    for index in (1, 2):
        value = node.inputs[index]
        dtype = value.dtype if value is not None else None
        column = edit.insert(node, "Unsqueeze", [value, edit.constant(node, [1])], dtype=dtype)
        size = edit.constant(node, [groups, channels // groups])
        table = edit.insert(node, "Expand", [column, size], dtype=dtype)
        flat = edit.insert(node, "Reshape", [table, edit.constant(node, [-1])], dtype=dtype)
        node.replace_input_with(index, flat)


@_follows(
    22,
    "GlobalLpPool",
    "MaxRoiPool",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "RoiAlign",
)
def _without_kernel_22(node: onnx_ir.Node, edit: Edit) -> None:
    """Only types were added, but ONNX Runtime (1.31) runs these up to opset 21."""
    raise _decline(node, "ONNX Runtime has no kernel for it from opset 22 on")
