"""The weights that layers multiply with: which slices of them read, what they cost."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import onnx_ir

from whet.analysis.activations import observed_shapes
from whet.analysis.coupling import Coupled, Slice, Slot
from whet.ir.values import attribute_int, is_op, static_shape
from whet.passes.kernels import kernel, noise
from whet.passes.proposal import Attribute, Builder
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


Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What every layer costs as it is, in one currency."""

    unit: str
    of: Mapping[Slot, float]
    measured: Callable[[Slot, Shape], float] | None = None
    """What a layer with a weight of another shape costs; without it, in proportion to its elements."""

    @property
    def whole(self) -> float:
        """Return what all layers cost."""
        return sum(self.of.values())

    def left(
        self, coupled: Coupled, gone: Collection[int], slots: Iterable[Slot] | None = None
    ) -> float:
        """Return what they, or only those given, cost without groups of these atoms."""
        atoms, total = frozenset(gone), 0.0
        for slot in self.of if slots is None else slots:
            if slot not in self.of:
                continue
            sizes = static_shape(slot.value) or ()
            remaining = coupled.remaining(slot.axes, atoms)
            pairs = zip(sizes, remaining, strict=True)
            shape = tuple(n if kept is None else int(kept.sum()) for n, kept in pairs)
            if self.measured is not None and shape != sizes:
                total += self.measured(slot, shape)
            else:
                total += self.of[slot] * math.prod(shape) / max(math.prod(sizes), 1)
        return total


def costs(coupled: Coupled, work: Workbench, unit: str) -> Cost:
    """Return the costs of all layers: ``parameters``, ``macs`` or ``milliseconds``, measured one by one."""
    slots = layer_weights(coupled)
    sizes = {slot: float(math.prod(static_shape(slot.value) or ())) for slot in slots}
    if unit == "parameters":
        return Cost(unit, sizes)
    nodes = [node for slot in slots for node in _layers(slot)]
    values = [v for node in nodes for v in (node.inputs[0], node.outputs[0]) if v is not None]
    shapes = observed_shapes(work.model, values, work.context.bindings, work.context.threads)
    if unit == "macs":
        return Cost(unit, {slot: _macs(slot, size, shapes) for slot, size in sizes.items()})

    def measured(slot: Slot, shape: Shape) -> float:
        return sum(_ms(node, shape, shapes, work) for node in _layers(slot))

    return Cost(
        unit, {slot: measured(slot, static_shape(slot.value) or ()) for slot in slots}, measured
    )


def _layers(slot: Slot) -> list[onnx_ir.Node]:
    return [node for node, place in slot.readers if _multiplies(node, place)]


def _macs(slot: Slot, size: float, shapes: Mapping[str, Shape]) -> float:
    return sum(_multiplications(node, size, shapes) for node in _layers(slot))


def _multiplications(
    node: onnx_ir.Node, size: float, shapes: Mapping[str, tuple[int, ...]]
) -> float:
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


def _ms(node: onnx_ir.Node, weight: Shape, shapes: Mapping[str, Shape], work: Workbench) -> float:
    """Return the measured milliseconds of a layer with a weight of this shape."""
    x = node.inputs[0]
    shape = None if x is None else shapes.get(x.name or "")
    if work.context.prices is None or shape is None:
        return 0.0
    attributes: dict[str, Attribute] = dict(node.attributes)
    shape = _read_shape(node, shape, weight)
    if attribute_int(node, "group", 1) > 1 and is_op(node, "Conv"):
        before = static_shape(node.inputs[1]) or weight
        groups = attribute_int(node, "group", 1) * weight[0] // max(before[0], 1)
        shape = (shape[0], groups * weight[1], *shape[2:])
        attributes["group"] = groups
    words = [f"{k}={_word(a)}" for k, a in sorted(attributes.items())]
    label = f"{node.op_type} {list(shape)} x {list(weight)} {' '.join(words)}".strip()

    def spelled(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        constant = build.constant(noise(weight, 1))
        return build.op(node.op_type, values[0], constant, attributes=attributes)

    made = kernel({"x": noise(shape)}, spelled, work.opset)
    return work.context.prices.lookup(label, {"float": made}).get("float", 0.0)


def _read_shape(node: onnx_ir.Node, shape: Shape, weight: Shape) -> Shape:
    """Return the shape of what a layer reads, with as many channels as a weight has."""
    if is_op(node, "Conv", "ConvTranspose"):
        return (shape[0], weight[0 if is_op(node, "ConvTranspose") else 1], *shape[2:])
    if is_op(node, "Gemm"):
        inputs = weight[attribute_int(node, "transB", 0)]
        return (inputs, shape[1]) if attribute_int(node, "transA", 0) else (shape[0], inputs)
    return (*shape[:-1], weight[-2])


def _word(attribute: Attribute) -> str:
    value = attribute.value if isinstance(attribute, onnx_ir.Attr) else attribute
    return str(value).replace(" ", "")
