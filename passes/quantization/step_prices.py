"""What steps cost in float and in integers, and what it costs to cross between the two."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir

from whet.analysis.prices import KernelModel, Prices
from whet.ir.values import Array, constant
from whet.passes.kernels import kernel, noise
from whet.passes.proposal import Builder
from whet.passes.quantization.arrays import affine, quantize
from whet.passes.quantization.choice import FLOAT
from whet.passes.quantization.formats import IntegerFormat
from whet.passes.quantization.integer_spelling import Weights, decode, encode, in_integers
from whet.passes.quantization.integer_steps import Step, work_of

__all__ = ["INTEGER", "StepPrices"]

INTEGER = "integer"


@dataclasses.dataclass(frozen=True)
class StepPrices:
    """Look up kernels at given shapes."""

    prices: Prices
    shapes: Mapping[str, tuple[int, ...]]
    """Of every value, by name."""
    opset: int
    weights: IntegerFormat

    def step(self, step: Step, fmt: IntegerFormat) -> Mapping[str, float]:
        """Return milliseconds of the float and the integer form; empty where a shape is not known."""
        shapes = [shape for v in step.reads if (shape := self._shape(v)) is not None]
        if len(shapes) < len(step.reads):
            return {}
        label = f"{fmt.name} {self.weights.name}" if step.is_convolution else fmt.name
        models = {
            FLOAT: self._in_float(step, shapes),
            INTEGER: self._in_integers(step, shapes, fmt),
        }
        return self.prices.lookup(f"{work_of(step, shapes)} static {label}", models)

    def volume(self, step: Step) -> int:
        """Return about how much the step works: elements read times weights; for ranking only."""
        weights = step.node.inputs[1] if step.is_convolution else None
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

    def _shape(self, value: onnx_ir.Value) -> tuple[int, ...] | None:
        return self.shapes.get(value.name or "")

    def _in_float(self, step: Step, shapes: list[tuple[int, ...]]) -> KernelModel:
        def body(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
            rest = [_copied(build, v) for v in step.node.inputs[len(values) :]]
            attributes = dict(step.node.attributes)
            result = build.op(step.node.op_type, *values, *rest, attributes=attributes)
            if step.tail is None:
                return result
            limits = [_copied(build, v) for v in step.tail.inputs[1:]]
            return build.op(step.tail.op_type, result, *limits)

        feeds = {f"x{k}": noise(shape, k) for k, shape in enumerate(shapes)}
        return kernel(feeds, body, self.opset)

    def _in_integers(
        self, step: Step, shapes: list[tuple[int, ...]], fmt: IntegerFormat
    ) -> KernelModel:
        grid = affine(-3.0, 3.0, fmt)
        weights = Weights.of(step.node) if step.is_convolution else None

        def body(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
            reads = [decode(build, v, grid, "x") for v in values]
            rest = [_copied(build, v) for v in step.rest]
            result = in_integers(build, step, reads, grid, rest, weights, self.weights)
            return encode(build, result, grid, "y")

        feeds: dict[str, Array] = {
            f"x{k}": quantize(noise(shape, k), grid) for k, shape in enumerate(shapes)
        }
        return kernel(feeds, body, self.opset)

    def _crossing_models(
        self, shape: tuple[int, ...], fmt: IntegerFormat
    ) -> dict[str, KernelModel]:
        grid, real = affine(-3.0, 3.0, fmt), noise(shape)
        return {
            "enter": kernel({"x": real}, lambda b, v: encode(b, v[0], grid, "x"), self.opset),
            "leave": kernel(
                {"x": quantize(real, grid)}, lambda b, v: decode(b, v[0], grid, "x"), self.opset
            ),
        }


def _copied(build: Builder, value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    array = constant(value)
    return None if array is None else build.constant(array)
