"""The weights that layers multiply with: which slices of them read, what they cost."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import onnx_ir

from whet.analysis.activations import observed_shapes
from whet.analysis.coupling import Coupled, Slice, Slot
from whet.ir.values import Array, attribute_int, constant, is_op, static_shape
from whet.passes.kernels import kernel, noise
from whet.passes.workbench import Workbench

__all__ = ["LAYERS", "Cost", "costs", "layer_weights", "reading_axis"]

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def layer_weights(coupled: Coupled) -> list[Slot]:
    """Return the constants that layers multiply with, in graph order."""
    return [slot for slot in coupled.slots if any(_multiplies(*place) for place in slot.readers)]


def _multiplies(node: onnx_ir.Node, place: int) -> bool:
    return is_op(node, *LAYERS) and place == 1


def reading_axis(part: Slice) -> bool:
    """Tell whether a slice lies along the axis of a weight that is summed over."""
    return any(_summed(node, place) == part.axis for node, place in part.slot.readers)


def _summed(node: onnx_ir.Node, place: int) -> int | None:
    if not _multiplies(node, place):
        return None
    if is_op(node, "Conv"):
        return 1 if attribute_int(node, "group", 1) == 1 else None
    if is_op(node, "Gemm"):
        return attribute_int(node, "transB", 0)
    shape = static_shape(node.inputs[1]) or ()
    return 0 if is_op(node, "ConvTranspose") else len(shape) - 2


@dataclasses.dataclass(frozen=True)
class Cost:
    """What every layer costs as it is, in one currency."""

    unit: str
    of: Mapping[Slot, float]

    @property
    def whole(self) -> float:
        """Return what all layers cost."""
        return sum(self.of.values())

    def left(self, coupled: Coupled, gone: Iterable[int]) -> float:
        """Return what they cost without groups of these atoms, in proportion to their elements."""
        atoms, total = frozenset(gone), 0.0
        for slot, cost in self.of.items():
            remaining = coupled.remaining(slot.axes, atoms)
            total += cost * math.prod(1.0 if kept is None else kept.mean() for kept in remaining)
        return total


def costs(coupled: Coupled, work: Workbench, unit: str) -> Cost:
    """Return the costs of all layers: ``parameters``, ``macs`` or ``milliseconds``, measured one by one."""
    slots = layer_weights(coupled)
    sizes = {slot: float(math.prod(static_shape(slot.value) or ())) for slot in slots}
    if unit == "parameters":
        return Cost(unit, sizes)
    nodes = [node for slot in slots for node, place in slot.readers if _multiplies(node, place)]
    values = [v for node in nodes for v in (node.inputs[0], node.outputs[0]) if v is not None]
    shapes = observed_shapes(work.model, values, work.context.bindings, work.context.threads)
    found = {
        slot: sum(
            _macs(node, size, shapes) if unit == "macs" else _ms(node, shapes, work)
            for node, place in slot.readers
            if _multiplies(node, place)
        )
        for slot, size in sizes.items()
    }
    return Cost(unit, found)


def _macs(node: onnx_ir.Node, size: float, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the multiplications of a layer: its elements, as often as they are used."""
    shape = shapes.get(node.outputs[0].name or "", ())
    if is_op(node, "ConvTranspose") and node.inputs[0] is not None:
        shape = shapes.get(node.inputs[0].name or "", ())
    if not shape:
        return size
    channels = shape[1] if is_op(node, "Conv", "ConvTranspose") else shape[-1]
    weight = static_shape(node.inputs[1]) or ()
    copies = math.prod(weight[:-2]) if is_op(node, "MatMul") else 1
    return size * math.prod(shape) / max(channels, 1) / copies


def _ms(node: onnx_ir.Node, shapes: Mapping[str, tuple[int, ...]], work: Workbench) -> float:
    """Return the measured milliseconds of a layer."""
    x, weight = node.inputs[0], constant(node.inputs[1])
    shape = None if x is None else shapes.get(x.name or "")
    if work.context.prices is None or shape is None or weight is None:
        return 0.0
    words = [f"{k}={_word(a)}" for k, a in sorted(node.attributes.items())]
    label = f"{node.op_type} {list(shape)} x {list(weight.shape)} {' '.join(words)}".strip()
    made = kernel({"x": noise(shape)}, lambda b, v: _spelled(b, v, node, weight), work.opset)
    return work.context.prices.lookup(label, {"float": made}).get("float", 0.0)


def _word(attribute: onnx_ir.Attr) -> str:
    return str(attribute.value).replace(" ", "")


def _spelled(build: object, values: object, node: onnx_ir.Node, weight: Array) -> onnx_ir.Value:
    from whet.passes.proposal import Builder

    assert isinstance(build, Builder)
    assert isinstance(values, list | tuple)
    return build.op(
        node.op_type,
        values[0],
        build.constant(noise(weight.shape, 1)),
        attributes=dict(node.attributes),
    )
