"""Rewrite chosen steps one after the other; what neighbours exchange stays in integers."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import Array
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.algorithms.arrays import Affine, dequantize, quantize
from whet.passes.quantization.integer_spelling import decode, encode, in_integers, moved, source
from whet.passes.quantization.integer_steps import Kind, Step
from whet.passes.quantization.weight_codes import Codes, Weights

__all__ = ["CodesOf", "Names", "Rewriting"]

CodesOf = Callable[[int, Weights, Affine], Codes]
"""From the number of a step, its weights and the grid of its input to the integers."""


@dataclasses.dataclass(frozen=True)
class Names:
    """What the values around a step were called before anything was rewritten."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @classmethod
    def of(cls, step: Step) -> "Names":
        """Read them."""
        return cls(*(tuple(v.name or "" for v in values) for values in (step.reads, step.writes)))


@dataclasses.dataclass(frozen=True)
class Written:
    """A step in integers, not yet in the graph."""

    proposal: Proposal
    reads: Mapping[onnx_ir.Value, onnx_ir.Value]
    """Operand -> the same, rounded to its grid."""
    real: tuple[onnx_ir.Value, ...]
    """Outputs behind which there are integers."""
    grids: tuple[Affine, ...]
    """Of the operands."""
    new_bytes: int


class Rewriting:
    """The state of one rewriting: which values are known in integers, and on which grids."""

    def __init__(
        self,
        steps: Sequence[Step],
        chosen: Collection[int],
        grids: Mapping[str, Affine],
        codes: CodesOf,
        builder: Callable[[onnx_ir.Node], Builder],
        opset: int,
    ) -> None:
        """Begin with all steps in float. ``grids`` are those of values by name; moves overrule them."""
        self._steps = steps
        self._grids = dict(grids)
        self._codes = codes
        self._builder = builder
        self._opset = opset
        self.names = [Names.of(step) for step in steps]
        self._wanted = {name for k in chosen for name in self.names[k].reads}
        """Values that some step reads in integers."""
        self._decoded: dict[onnx_ir.Value, onnx_ir.Value] = {}
        """Real value -> its DequantizeLinear; outputs of those map to themselves."""

    def write(self, number: int) -> Written:
        """Return the step in integers; raises Mismatch, leaving nothing behind."""
        build = self._builder(self._steps[number].node)
        try:
            return self._write(number, build)
        except (Mismatch, ValueError) as reason:
            Proposal(self._steps[number].nodes, (), tuple(build.nodes)).discard()
            raise Mismatch(str(reason)) from None

    def made(self, written: Written) -> None:
        """Take note that a step is in the graph."""
        self._decoded.update({real: real for real in written.real})
        self._decoded.update(written.reads)

    def samples(self, written: Written, data: Sequence[Array]) -> dict[str, Array]:
        """Return real data for everything that a proof may meet: operands, rounded operands and their integers."""
        found: dict[str, Array] = {}
        for (value, real), grid, array in zip(
            written.reads.items(), written.grids, data, strict=True
        ):
            integers = quantize(array, grid)
            found[source(real).name or ""] = integers
            found[real.name or ""] = dequantize(integers, grid)
            found.setdefault(value.name or "", array)
        return found

    def _write(self, number: int, build: Builder) -> Written:
        step, names = self._steps[number], self.names[number]
        operands = dict(zip(step.reads, names.reads, strict=True))
        reads = {value: self._enter(build, value, name) for value, name in operands.items()}
        if step.kind is Kind.MOVE:
            real = self._move(build, step, names, reads)
        else:
            real = self._compute(build, number, reads)
        proposal = Proposal(
            step.nodes,
            tuple(zip(step.writes, real, strict=True)),
            tuple(build.nodes),
            tuple(build.initializers),
        )
        size = sum(v.const_value.nbytes for v in build.initializers if v.const_value is not None)
        integer = tuple(v for v in real if (p := v.producer()) and p.op_type == "DequantizeLinear")
        grids = tuple(self._grid(name) for name in operands.values())
        return Written(proposal, reads, integer, grids, size)

    def _move(
        self,
        build: Builder,
        step: Step,
        names: Names,
        reads: Mapping[onnx_ir.Value, onnx_ir.Value],
    ) -> tuple[onnx_ir.Value, ...]:
        grid = self._grid(names.reads[0])
        self._grids.update(dict.fromkeys(names.writes, grid))
        integers = source(next(iter(reads.values())))
        outputs = moved(build, step, integers, grid, step.node.inputs[1:])
        return tuple(
            decode(build, value, grid, name)
            for value, name in zip(outputs, names.writes, strict=True)
        )

    def _compute(
        self, build: Builder, number: int, reads: Mapping[onnx_ir.Value, onnx_ir.Value]
    ) -> tuple[onnx_ir.Value, ...]:
        step, names = self._steps[number], self.names[number]
        grid = self._grid(names.reads[0])
        weights = Weights.of(step.node, step.added) if step.has_weights else None
        codes = None if weights is None else self._codes(number, weights, grid)
        rounded = [reads[value] for value in step.reads]
        name = "" if weights is None else weights.name
        result = in_integers(build, step, rounded, grid, codes, name, self._opset)
        out = names.writes[0]
        if step.may_stay_wide and out not in self._wanted:
            return (result,)
        after = self._grid(out)
        return (decode(build, encode(build, result, after, out), after, out),)

    def _enter(self, build: Builder, value: onnx_ir.Value, name: str) -> onnx_ir.Value:
        """Return the operand rounded to its grid, by an earlier step or by new nodes."""
        known = self._decoded.get(value)
        if known is not None:
            return known
        grid = self._grid(name)
        return decode(build, encode(build, value, grid, name), grid, name)

    def _grid(self, name: str) -> Affine:
        if name not in self._grids:
            raise Mismatch(f"the range of '{name}' could not be observed")
        return self._grids[name]
