"""What a weight with zeros is stored as: dense, sparse, and in how many bits."""

import dataclasses

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.array import Array
from whet.passes.proposal import Builder
from whet.passes.quantization.algorithms.approximation import Doubles, Floats, Layer
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.passes.quantization.storage import spell_integers
from whet.passes.sparsity.algorithms.encoding import Encoding, encode
from whet.passes.sparsity.spelling import OVERHEAD, spell_sparse
from whet.passes.sparsity.targets import Target

__all__ = ["Form", "form_of", "spell_form"]

_BY_CHANNEL = 13
_FLOAT = int(onnx_ir.DataType.FLOAT)


@dataclasses.dataclass(frozen=True)
class Form:
    """Numbers in the shape that the model has them in, and how they are stored."""

    array: Array
    """float32, or int8 codes."""
    share: float
    """How many are not zero."""
    bits: int
    encoding: Encoding | None
    """None where all numbers are stored."""
    scales: Floats | None = None
    """One for each output, in a shape that broadcasts; of codes only."""

    @property
    def nbytes(self) -> int:
        """Return the bytes of what is stored."""
        scales = 0 if self.scales is None else self.scales.nbytes
        if self.encoding is not None:
            return self.encoding.nbytes + scales
        return -(-self.array.size * self.bits // 8) + scales

    @property
    def told(self) -> str:
        """Return what the report says behind the method."""
        grid = "" if self.bits == 32 else f", {self.bits} bits"
        return grid + ("" if self.encoding is not None else ", stored densely")


def form_of(target: Target, matrix: Floats, bits: int, *, store: bool) -> Form:
    """Return the smallest form of a matrix ``[outputs, inputs]``, or the dense one where nothing is to be packed."""
    share = float(np.count_nonzero(matrix) / matrix.size)
    array: Array = target.stored(matrix)
    scales = None
    if bits < 32:
        codes, steps = _rounded(target, matrix, bits)
        turned = target.weight.transposed
        array = np.ascontiguousarray(codes.T if turned else codes.reshape(array.shape))
        ends = (1,) * (array.ndim - 1)
        scales = steps.reshape((1, -1) if turned else (-1, *ends))
    zero = np.zeros((), array.dtype)
    array = np.where(array == 0, zero, array)
    form = Form(array, share, bits, None, scales)
    found = encode(array, zero, None if bits == 32 else bits)
    packed = dataclasses.replace(form, encoding=found)
    return packed if store and packed.nbytes + OVERHEAD < form.nbytes else form


def _rounded(target: Target, matrix: Floats, bits: int) -> tuple[Array, Floats]:
    """Round to a symmetric grid for each output; zeros stay zero."""
    grams: tuple[Doubles | None, ...] = target.grams or (None,) * target.weight.groups
    parts = [
        round_to_nearest(Layer(matrix[rows], gram), bits)
        for rows, gram in zip(target.groups, grams, strict=True)
    ]
    codes = np.concatenate([part.codes for part in parts])
    return codes, np.concatenate([part.scales[:, 0] for part in parts])


def spell_form(build: Builder, form: Form, target: Target, opset: int) -> onnx_ir.Value:
    """Return the float32 weight; raises Mismatch where the opset cannot decode it."""
    name = target.name or "weight"
    if form.encoding is not None:
        value = spell_sparse(build, form.encoding, name, opset=opset)
    elif form.bits == 8 and form.scales is not None:
        return _grid(build, form, name, opset)
    elif form.bits < 32:
        shape = form.array.shape
        value = spell_integers(build, form.array, form.bits, shape, name, opset=min(opset, 20))
    else:
        return build.constant(form.array, name)
    if form.scales is None:
        return value
    real = build.op("Cast", value, attributes={"to": _FLOAT})
    return build.op("Mul", real, build.constant(form.scales, f"{name}.scale"))


def _grid(build: Builder, form: Form, name: str, opset: int) -> onnx_ir.Value:
    """Spell what is stored in whole bytes as the standard does, so that nobody folds it."""
    if opset < _BY_CHANNEL:
        raise Mismatch(
            f"opset {opset} has one scale for all outputs, opset {_BY_CHANNEL} one for each"
        )
    assert form.scales is not None
    axis = form.scales.shape.index(form.scales.size)
    codes = build.constant(form.array, f"{name}.codes")
    scales = build.constant(form.scales.reshape(-1), f"{name}.scale")
    return build.op("DequantizeLinear", codes, scales, attributes={"axis": axis})
