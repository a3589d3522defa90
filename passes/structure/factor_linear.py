"""Two thin products in place of a wide one."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.ir.values import attribute_int
from whet.passes.proposal import Attribute, Builder
from whet.passes.quantization.algorithms.approximation import LowRank
from whet.passes.quantization.layers import Weight
from whet.passes.structure.algorithms.factorization import Factored, low_rank
from whet.passes.structure.factoring import Factoring, Form, Weights

__all__ = ["FactorLinear"]


@dataclasses.dataclass(frozen=True)
class FactorLinear(Factoring):
    """Replace the matrix of MatMul and Gemm by two thin ones: ``W x ~ L (R x)``.

    With H the Gram matrix of the inputs on calibration data, ``L R`` is the truncated singular value decomposition of
    ``W H^½``, times ``H^-½``: of all matrices of its rank it changes the outputs least (ASVD, Yuan et al. 2023;
    SVD-LLM, Wang et al. 2024). H is damped as far as samples held out want it; without data the weights alone decide.
    The rank is the smallest that keeps ``energy`` of the outputs' energy on data held out, or follows from ``ratio``. A
    matrix stays where its factors are not smaller, or, where milliseconds are measured, not faster.
    """

    op_types: ClassVar[tuple[str, ...]] = ("MatMul", "Gemm")

    def forms(self, weight: Weight) -> Sequence[Form]:
        """Return the only form that there is."""
        return [Form("two products", low_rank, sum(weight.shape), _spell)]


def _spell(
    build: Builder, node: onnx_ir.Node, factors: Factored, weights: Weights
) -> onnx_ir.Value:
    """Return (x Rᵀ) Lᵀ; what a Gemm adds and multiplies stays with the second product."""
    (part,) = factors.parts
    assert isinstance(part, LowRank)
    right = weights(build, "right", np.ascontiguousarray(part.right.T))
    left = weights(build, "left", np.ascontiguousarray(part.left.T))
    if node.op_type == "MatMul":
        return build.op("MatMul", build.op("MatMul", node.inputs[0], right), left)
    turned = attribute_int(node, "transA", 0)
    first: dict[str, Attribute] = {"transA": 1} if turned else {}
    small = build.op("Gemm", node.inputs[0], right, attributes=first)
    kept = {k: v for k, v in node.attributes.items() if k in ("alpha", "beta")}
    return build.op("Gemm", small, left, *node.inputs[2:], attributes=kept)
