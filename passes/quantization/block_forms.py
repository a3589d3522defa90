"""How a weight in blocks is executed, and which way is the fastest at a shape."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir

from whet.analysis.prices import KernelModel, Prices
from whet.backends.device import host
from whet.ir.values import Array
from whet.passes.kernels import Body, kernel, noise
from whet.passes.proposal import Builder
from whet.passes.quantization.algorithms.approximation import Blocks, Layer
from whet.passes.quantization.algorithms.formats import INT8, UINT8_WEIGHT
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.passes.quantization.block_spelling import (
    Shelf,
    as_integers,
    look_up,
    multiply,
    shelve,
)
from whet.passes.quantization.block_storage import store
from whet.passes.quantization.choice import FLOAT
from whet.passes.quantization.storage import spell

__all__ = [
    "DECODED", "EXACT_FORMS", "FORMS", "INTEGERS", "PACKED", "PACKED_INT8", "BlockPrices", "Form", "Kept",
]  # fmt: skip

_LARGEST = 1 << 26
"""Weights of more elements are measured on their first rows only, which does not change the order of the forms."""


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to execute a product or a lookup."""

    kind: Literal["decoded", "packed", "integers"]
    level: int = 0
    """Accuracy level of the packed product: 4 rounds the activations to eight bits, 0 does not."""

    def key(self, size: int) -> str:
        """Return the name of its price; only packed kernels depend on the size of the blocks."""
        return f"packed {size} level {self.level}" if self.kind == "packed" else self.kind

    def __str__(self) -> str:
        """Return what the report says."""
        return {
            "decoded": "decoded at load",
            "packed": f"packed, level {self.level}",
            "integers": "int8 dynamic",
        }[self.kind]


DECODED = Form("decoded")
"""An ordinary weight in memory."""
PACKED = Form("packed")
"""MatMulNBits or GatherBlockQuantized: the codes stay packed in memory."""
PACKED_INT8 = Form("packed", 4)
INTEGERS = Form("integers")
"""Decoded to int8 when the model is loaded, multiplied with activations that are quantized while it runs."""
FORMS = (DECODED, PACKED, PACKED_INT8, INTEGERS)
EXACT_FORMS = (DECODED, PACKED)
"""Those that leave activations in float32."""


@dataclasses.dataclass
class Kept:
    """A matrix W ``[outputs, inputs]`` in blocks, and what of it is in the graph so far."""

    blocks: Blocks
    name: str
    opset: int
    saturates: bool = False
    """Whether kernels for uint8 and int8 can overflow where it will run."""
    shelf: Shelf | None = None
    decoded: onnx_ir.Value | None = None
    decoders: tuple[onnx_ir.Node, ...] = ()
    """The nodes that decode it: a proof that did not execute them would draw the matrix at random."""

    def product(
        self,
        build: Builder,
        x: onnx_ir.Value,
        form: Form,
        integers: tuple[onnx_ir.Value, ...] = (),
    ) -> onnx_ir.Value:
        """Return x Wᵀ; ``integers`` are those of x with step and zero, where they are needed."""
        if form.kind == "packed":
            return multiply(build, x, self._shelf(build), form.level)
        turned = build.op("Transpose", self._matrix(build), attributes={"perm": [1, 0]})
        if form.kind == "decoded":
            return build.op("MatMul", x, turned)
        return self._in_integers(build, turned, integers)

    def lookup(self, build: Builder, ids: onnx_ir.Value, form: Form) -> onnx_ir.Value:
        """Return rows of W."""
        if form.kind == "packed":
            return look_up(build, self._shelf(build), ids)
        return build.op("Gather", self._matrix(build), ids)

    def _shelf(self, build: Builder) -> Shelf:
        if self.shelf is None:
            self.shelf = shelve(build, store(self.blocks), self.name)
        return self.shelf

    def _matrix(self, build: Builder) -> onnx_ir.Value:
        if self.decoded is None:
            before = len(build.nodes)
            self.decoded = spell(build, self.blocks, self.name, opset=self.opset)
            self.decoders = tuple(build.nodes[before:])
        return self.decoded

    def _in_integers(
        self, build: Builder, turned: onnx_ir.Value, integers: tuple[onnx_ir.Value, ...]
    ) -> onnx_ir.Value:
        """Return (q(x) Wᵀ8) * (s_x s_w), the way ONNX Runtime fuses it."""
        fmt = UINT8_WEIGHT if self.saturates else INT8
        largest = np.abs(self.blocks.values()).max(axis=1)
        scales = np.asarray(np.where(largest > 0, largest / fmt.reach, 1.0), np.float32)
        quantized, step, zero = integers
        middle = build.constant(np.asarray(fmt.zero, fmt.dtype)) if fmt.zero else None
        weight = as_integers(build, turned, scales, fmt)
        total = build.op("MatMulInteger", quantized, weight, zero, middle)
        real = build.op("Cast", total, attributes={"to": int(onnx_ir.DataType.FLOAT)})
        return build.op("Mul", real, build.op("Mul", step, build.constant(scales)))


_Spelled = Callable[[Builder, onnx_ir.Value, Kept, Form], onnx_ir.Value]


@dataclasses.dataclass(frozen=True)
class BlockPrices:
    """Measure the forms against float32 at a shape."""

    prices: Prices
    opset: int
    bits: int
    symmetric: bool

    def product(
        self, rows: int, shape: tuple[int, int], sizes: Sequence[int], forms: Sequence[Form]
    ) -> Mapping[str, float]:
        """Return milliseconds by :meth:`Form.key` for ``rows`` rows of activations and a weight (outputs, inputs)."""
        outputs, inputs = min(shape[0], max(1, _LARGEST // shape[1])), shape[1]

        def plain(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
            return build.op("MatMul", values[0], build.constant(noise((inputs, outputs), 1)))

        def spelled(build: Builder, x: onnx_ir.Value, kept: Kept, form: Form) -> onnx_ir.Value:
            codes = build.ops("DynamicQuantizeLinear", [x], 3) if form == INTEGERS else ()
            return kept.product(build, x, form, codes)

        models = {FLOAT: kernel({"x": noise((rows, inputs))}, plain, self.opset)}
        for form in forms:
            for size in sizes:
                body = self._body((outputs, inputs), size, form, spelled)
                models.setdefault(
                    form.key(size), kernel({"x": noise((rows, inputs))}, body, self.opset)
                )
        return self._look_up(f"MatMul [{rows},{inputs}] x [{inputs},{outputs}]", models, sizes)

    def lookup(
        self, indices: tuple[int, ...], shape: tuple[int, int], sizes: Sequence[int]
    ) -> Mapping[str, float]:
        """Return milliseconds by :meth:`Form.key` for indices into a table of (rows, columns)."""
        rows, columns = min(shape[0], max(1, _LARGEST // shape[1])), shape[1]
        ids: Array = np.random.default_rng(0).integers(0, rows, indices)

        def plain(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
            return build.op("Gather", build.constant(noise((rows, columns), 1)), values[0])

        def spelled(build: Builder, ids: onnx_ir.Value, kept: Kept, form: Form) -> onnx_ir.Value:
            return kept.lookup(build, ids, form)

        models = {FLOAT: kernel({"ids": ids}, plain, self.opset)}
        for size in sizes:
            body = self._body((rows, columns), size, PACKED, spelled)
            models[PACKED.key(size)] = kernel({"ids": ids}, body, self.opset)
        return self._look_up(f"Gather {list(indices)} from [{rows},{columns}]", models, sizes)

    def _body(self, shape: tuple[int, int], size: int, form: Form, spelled: _Spelled) -> Body:
        def body(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
            layer = Layer(np.asarray(noise(shape, 1), np.float32))
            blocks = round_to_nearest(
                layer, self.bits, size, symmetric=self.symmetric, clip="extremes", full=True
            )
            return spelled(build, values[0], Kept(blocks, "w", self.opset, host().saturates), form)

        return body

    def _look_up(
        self, work: str, models: Mapping[str, KernelModel], sizes: Sequence[int]
    ) -> Mapping[str, float]:
        kind = "" if self.symmetric else " with zero points"
        listed = "+".join(map(str, sizes))
        return self.prices.lookup(f"{work}, {self.bits} bits in {listed}{kind}", models)
