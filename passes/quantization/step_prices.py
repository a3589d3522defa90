"""What steps cost in float and in integers, and what it costs to cross between the two."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir

from whet.analysis.prices import KernelModel, Prices
from whet.errors import Mismatch
from whet.ir.values import Array, attribute_int, constant
from whet.passes.kernels import kernel, noise
from whet.passes.proposal import Builder
from whet.passes.quantization.algorithms.arrays import affine, quantize
from whet.passes.quantization.algorithms.formats import IntegerFormat
from whet.passes.quantization.choice import FLOAT
from whet.passes.quantization.integer_spelling import decode, encode, in_integers, moved
from whet.passes.quantization.integer_steps import Kind, Step
from whet.passes.quantization.weight_codes import Weights, nearest_codes

__all__ = ["INTEGER", "StepPrices"]

INTEGER = "integer"
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StepPrices:
    """Look up kernels at given shapes."""

    prices: Prices
    shapes: Mapping[str, Shape]
    """Of every value, by name."""
    opset: int
    weights: IntegerFormat

    def step(self, step: Step, fmt: IntegerFormat) -> Mapping[str, float]:
        """Return milliseconds of the float and the integer form; empty where a shape is not known."""
        shapes = [shape for v in step.reads if (shape := self._shape(v)) is not None]
        try:
            rest = self._rest(step)
        except Mismatch:
            return {}
        if len(shapes) < len(step.reads):
            return {}
        label = f"{fmt.name} {self.weights.name}" if step.has_weights else fmt.name
        models = {
            FLOAT: self._in_float(step, shapes, rest),
            INTEGER: self._in_integers(step, shapes, rest, fmt),
        }
        return self.prices.lookup(f"{_work_of(step, shapes, rest)} static {label}", models)

    def volume(self, step: Step) -> int:
        """Return about how much the step works: elements read times weights; for ranking only."""
        weights = step.node.inputs[1] if step.has_weights else None
        size = 1 if weights is None or weights.const_value is None else weights.const_value.size
        return math.prod(self._shape(step.reads[0]) or (0,)) * int(size)

    def crossing(
        self, values: Iterable[onnx_ir.Value], fmt: IntegerFormat
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Return what it costs to quantize and to dequantize each value, by name."""
        enter: dict[str, float] = {}
        leave: dict[str, float] = {}
        for value in dict.fromkeys(values):
            shape = self._shape(value)
            if shape is None:
                continue
            found = self.prices.lookup(
                f"Quantize {list(shape)} {fmt.name}", self._crossing_models(shape, fmt)
            )
            enter[value.name or ""] = found.get("enter", 0.0)
            leave[value.name or ""] = found.get("leave", 0.0)
        return enter, leave

    def _shape(self, value: onnx_ir.Value) -> Shape | None:
        return self.shapes.get(value.name or "")

    def _rest(self, step: Step) -> dict[int, Array | None]:
        """Return the operands that are not data by position; those that are computed are known if they are sizes."""
        found: dict[int, Array | None] = {}
        for position, value in enumerate(step.node.inputs):
            if position in step.data:
                continue
            found[position] = None if value is None else constant(value)
            if value is not None and found[position] is None:
                found[position] = self._sizes(step, position)
        return found

    def _sizes(self, step: Step, position: int) -> Array:
        shape = self._shape(step.writes[0])
        if shape is None or (step.node.op_type, position) not in {("Resize", 3), ("Reshape", 1)}:
            raise Mismatch("an operand is computed")
        return np.asarray(shape, np.int64)

    def _in_float(
        self, step: Step, shapes: Sequence[Shape], rest: Mapping[int, Array | None]
    ) -> KernelModel:
        def body(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
            left = iter(values)
            operands = [
                next(left) if k in step.data else _copied(build, rest[k])
                for k in range(len(step.node.inputs))
            ]
            attributes = dict(step.node.attributes)
            count = len(step.node.outputs)
            result = build.ops(step.node.op_type, operands, count, attributes=attributes)[0]
            if step.added is not None:
                bias = Weights.of(step.node, step.added).bias
                result = build.op("Add", result, _copied(build, bias))
            if step.tail is None:
                return result
            limits = [_copied(build, constant(v)) for v in step.tail.inputs[1:]]
            return build.op(step.tail.op_type, result, *limits)

        return kernel({f"x{k}": noise(s, k) for k, s in enumerate(shapes)}, body, self.opset)

    def _in_integers(
        self,
        step: Step,
        shapes: Sequence[Shape],
        rest: Mapping[int, Array | None],
        fmt: IntegerFormat,
    ) -> KernelModel:
        grid = affine(-3.0, 3.0, fmt)

        def body(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
            if step.kind is Kind.MOVE:
                others = [_copied(build, array) for array in rest.values()]
                return moved(build, step, values[0], grid, others)[0]
            codes = None
            if step.has_weights:
                codes = nearest_codes(
                    Weights.of(step.node, step.added), self.weights, float(grid.scale)
                )
            reads = [decode(build, v, grid, "x") for v in values]
            result = in_integers(build, step, reads, grid, codes, "w", self.opset)
            return encode(build, result, grid, "y")

        feeds = {f"x{k}": quantize(noise(s, k), grid) for k, s in enumerate(shapes)}
        return kernel(feeds, body, self.opset)

    def _crossing_models(self, shape: Shape, fmt: IntegerFormat) -> dict[str, KernelModel]:
        grid, real = affine(-3.0, 3.0, fmt), noise(shape)
        return {
            "enter": kernel({"x": real}, lambda b, v: encode(b, v[0], grid, "x"), self.opset),
            "leave": kernel(
                {"x": quantize(real, grid)}, lambda b, v: decode(b, v[0], grid, "x"), self.opset
            ),
        }


def _copied(build: Builder, array: Array | None) -> onnx_ir.Value | None:
    return None if array is None else build.constant(array)


def _work_of(step: Step, shapes: Sequence[Shape], rest: Mapping[int, Array | None]) -> str:
    """Describe the step's work: operator, shapes, attributes, as the key under which prices are kept."""
    attributes = ", ".join(f"{k}={a.value}" for k, a in sorted(step.node.attributes.items()))
    weights = ""
    if step.has_weights:
        array = Weights.of(step.node).array
        biased = " + bias" if len(step.node.inputs) > 2 or step.added is not None else ""
        weights = f" * {list(array.shape)}{biased} group {attribute_int(step.node, 'group', 1)}"
    else:
        weights = "".join(f" {_shown(array)}" for array in rest.values())
    tail = "" if step.tail is None else f" {step.tail.op_type}"
    listed = " ".join(str(list(shape)) for shape in shapes)
    return f"{step.node.op_type} {listed}{weights}{tail} ({attributes})"


def _shown(array: Array | None) -> object:
    if array is None or array.size <= 16:
        return None if array is None else array.tolist()
    return f"{array.dtype}{list(array.shape)}"
