"""Two small convolutions in place of a large one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_ints
from whet.passes.proposal import Attribute, Builder
from whet.passes.quantization.algorithms.approximation import LowRank
from whet.passes.quantization.layers import Weight
from whet.passes.structure.algorithms.factorization import (
    Factored,
    Separable,
    low_rank,
    separable,
)
from whet.passes.structure.factoring import Factoring, Form, Weights

__all__ = ["FactorConvolution"]


@dataclasses.dataclass(frozen=True)
class FactorConvolution(Factoring):
    """Replace a convolution by two: k x k taps into r channels and 1 x 1 behind, or k x 1 taps and then 1 x k.

    ``pointwise`` is the truncated singular value decomposition of the kernel as a matrix over patches, ``W ~ L R`` with
    R of r kernels, fitted to the Gram matrix of patches on calibration data (Zhang et al. 2015); ``separable`` is
    ``W[o,i,a,b] ~ Σ_r V[i,a,r] U[r,o,b]`` (Jaderberg et al. 2014; Tai et al. 2016), its U the least squares solution
    for these patches. ``auto`` takes what loses less in the same bytes, or what is smaller at the same energy. A kernel
    stays where its factors are not smaller, or, where milliseconds are measured, not faster.
    """

    op_types: ClassVar[tuple[str, ...]] = ("Conv",)

    form: Literal["auto", "pointwise", "separable"] = "auto"
    """How kernels are split."""

    def forms(self, weight: Weight) -> Sequence[Form]:
        """Return the forms that the kernel has room for."""
        found: list[Form] = []
        reasons: list[str] = []
        makers: dict[str, Callable[[Weight], Form]] = {
            "pointwise": _pointwise,
            "separable": _separable,
        }
        for name, make in makers.items():
            if self.form not in ("auto", name):
                continue
            try:
                found.append(make(weight))
            except Mismatch as reason:
                reasons.append(str(reason))
        if not found:
            raise Mismatch("; ".join(reasons))
        return found


def _pointwise(weight: Weight) -> Form:
    outputs, inputs, *kernel = weight.shape
    taps = inputs * int(np.prod(kernel))
    return Form("pointwise", low_rank, weight.groups * taps + outputs, _spell_pointwise)


def _separable(weight: Weight) -> Form:
    outputs, inputs, *kernel = weight.shape
    if len(kernel) != 2 or min(kernel) < 2:
        raise Mismatch(f"a kernel of {kernel} taps has no two axes to split")
    if weight.groups != 1:
        raise Mismatch(f"a kernel of {weight.groups} groups is not split along its axes")
    height, width = kernel
    size = inputs * height + outputs * width
    return Form("separable", separable((height, width)), size, _spell_separable)


def _spell_pointwise(
    build: Builder, node: onnx_ir.Node, factors: Factored, weights: Weights
) -> onnx_ir.Value:
    """Return a convolution into r channels for each group, and one of 1 x 1 behind it, which has the bias."""
    parts = [part for part in factors.parts if isinstance(part, LowRank)]
    shape = tuple(_array_shape(node)[1:])
    right = np.concatenate([part.right.reshape(-1, *shape) for part in parts])
    ones = (1,) * (len(shape) - 1)
    left = np.concatenate([part.left.reshape(-1, factors.rank, *ones) for part in parts])
    many = build.op("Conv", node.inputs[0], weights(build, "right", right), attributes=_kept(node))
    behind: dict[str, Attribute] = {"group": len(parts)}
    return build.op("Conv", many, weights(build, "left", left), *node.inputs[2:], attributes=behind)


def _spell_separable(
    build: Builder, node: onnx_ir.Node, factors: Factored, weights: Weights
) -> onnx_ir.Value:
    """Return vertical kernels, then horizontal ones, which have the bias."""
    (part,) = factors.parts
    assert isinstance(part, Separable)
    down = weights(build, "vertical", part.vertical[:, :, :, None])
    along = weights(build, "horizontal", part.horizontal[:, :, None, :])
    first = build.op("Conv", node.inputs[0], down, attributes=_along(node, 0))
    return build.op("Conv", first, along, *node.inputs[2:], attributes=_along(node, 1))


def _array_shape(node: onnx_ir.Node) -> tuple[int, ...]:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    return tuple(int(d) for d in weight.const_value.shape.numpy())


def _kept(node: onnx_ir.Node) -> Mapping[str, Attribute]:
    return dict(node.attributes)


def _along(node: onnx_ir.Node, axis: int) -> Mapping[str, Attribute]:
    """Return the attributes of a convolution that works along one of two axes."""
    found: dict[str, Attribute] = {k: v for k, v in node.attributes.items() if k == "auto_pad"}
    kernel = [1, 1]
    kernel[axis] = _array_shape(node)[2 + axis]
    found["kernel_shape"] = kernel
    for name, plain in (("strides", 1), ("dilations", 1)):
        given = attribute_ints(node, name)
        if given is not None:
            found[name] = [n if k == axis else plain for k, n in enumerate(given)]
    pads = attribute_ints(node, "pads")
    if pads is not None:
        found["pads"] = [n if k % 2 == axis else 0 for k, n in enumerate(pads)]
    return found
