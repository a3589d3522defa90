"""Rotate the residual stream of a network into a basis that quantizes better."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.base import Analysis
from whet.analysis.residual_streams import (
    NormReader,
    ResidualStream,
    find_residual_streams,
    tied_table,
)  # fmt: skip
from whet.analysis.statistics import Gram, Statistics
from whet.errors import Mismatch
from whet.ir.values import attribute_float, constant, is_constant, is_op
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.linear import Linear
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.algorithms.rotations import (
    centering,
    hadamard,
    principal_axes,
    random_orthogonal,
)
from whet.passes.quantization.scaled_region import checked, positions
from whet.passes.workbench import Workbench

__all__ = ["RotateResidual"]

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class RotateResidual(Pass):
    """Rotate the residual stream of a pre-norm network by an orthogonal matrix Q, absorbed into weights.

    Everything that writes into the stream becomes ``W Q``, everything that reads it ``Q' diag(g) W``, with g the scale
    of the normalization in between: RMSNormalization of ``x Q`` is RMSNormalization of x, rotated. A LayerNormalization
    becomes RMSNormalization: its mean is subtracted by the writers' weights, its bias goes into the readers. Outlying
    channels are spread over all of them, which a grid for many weights or activations needs. Declines post-norm
    networks, and streams that anything but a normalization or a linear operator looks at. Ashkboos et al. 2024 (QuaRot,
    SliceGPT).
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Statistics,)

    basis: Literal["hadamard", "random", "principal"] = "hadamard"
    """``principal`` takes the principal axes of the stream's values on calibration data."""
    untie: bool = False
    """Store a weight twice that the stream is both written and read with, as tied embeddings are."""

    def apply(self, work: Workbench) -> None:
        """Rotate every residual stream."""
        for stream in find_residual_streams(work.graph):
            work.coverage.matched += 1
            root = stream.norms[0].node
            build = work.builder(root)
            try:
                self._check(stream, work)
                proposal = _rotated(stream, self._matrix(stream, work), build, work)
            except Mismatch as reason:
                Proposal((root,), (), tuple(build.nodes)).discard()
                work.decline(root, str(reason))
                continue
            work.propose(proposal)

    def _check(self, stream: ResidualStream, work: Workbench) -> None:
        for reason in stream.obstacles.values():
            raise Mismatch(reason)
        for norm in stream.norms:
            if norm.node.metadata_props.get("whet.from", "").startswith(f"{self.name}:"):
                raise Mismatch("it is rotated already")
        if stream.centered and stream.readers:
            name = stream.readers[0].name
            raise Mismatch(f"'{name}' reads the stream without subtracting its mean")
        if stream.centered and work.opset < 23:
            raise Mismatch(f"opset {work.opset} has no RMSNormalization, opset 23 has")
        if not self.untie:
            _check_tied(stream)

    def _matrix(self, stream: ResidualStream, work: Workbench) -> Floats:
        rng = np.random.default_rng((work.context.seed, stream.size))
        if self.basis == "hadamard":
            return hadamard(stream.size, rng)
        if self.basis == "random":
            return random_orthogonal(stream.size, rng)
        if not work.context.calibration:
            raise Mismatch("principal axes need calibration data")
        names = [norm.node.inputs[0] for norm in stream.norms]
        requests = frozenset((v.name or "", Gram()) for v in names if v is not None)
        seen = work.analyses.get(Statistics(requests))
        total = sum(_normed(seen.of(name, gram).matrix) for name, gram in sorted(requests, key=str))
        center = centering(stream.size) if stream.centered else np.eye(stream.size)
        return principal_axes(center @ np.asarray(total) @ center)


def _normed(gram: Floats) -> Floats:
    return gram / max(float(np.trace(gram)), 1e-30)


def _check_tied(stream: ResidualStream) -> None:
    nodes = [*stream.writers, *stream.readers, *(r for n in stream.norms for r in n.readers)]
    for node in nodes:
        weight = node.inputs[0 if is_op(node, "Gather") else 1]
        if weight is not None and len(weight.uses()) > 1:
            raise Mismatch(
                f"weight '{weight.name}' is shared: it would be stored twice (untie accepts that)"
            )


def _rotated(stream: ResidualStream, q: Floats, build: Builder, work: Workbench) -> Proposal:
    turn = _Turn(stream, q, build)
    norms = {norm.node: norm for norm in stream.norms}
    moved = {node for norm in stream.norms for node in norm.between}
    reads = {node: norm for norm in stream.norms for node in norm.readers}
    nodes = {*stream.writers, *stream.joints, *norms, *moved, *reads, *stream.readers}
    order = positions(work.graph)
    for node in sorted(nodes, key=lambda n: order[n]):
        written = node in stream.writers
        if node in norms:
            turn.norm(norms[node])
        elif node in reads or node in stream.readers:
            turn.read(node, reads.get(node), written=written)
        elif written:
            turn.write(node)
        else:
            turn.copy(node)
        turn.placed(node)
    root = stream.norms[0].node
    tied = {
        made for node in (*reads, *stream.readers) if (made := _turned_weight(node)) is not None
    }
    return Proposal(
        (root, *sorted((nodes | tied) - {root}, key=lambda n: -order[n])),
        turn.outputs(nodes),
        tuple(build.nodes),
        tuple(build.initializers),
        turn.places,
    )


def _turned_weight(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """Return the node that transposes a tied table for a product."""
    weight = node.inputs[1] if tied_table(node) is not None else None
    return None if weight is None else weight.producer()


class _Turn:
    """Write every node of a stream once more, on rotated values."""

    def __init__(self, stream: ResidualStream, q: Floats, build: Builder) -> None:
        self._stream = stream
        self._q = q
        self._into = centering(stream.size) @ q if stream.centered else q
        self._build = build
        self._new: dict[onnx_ir.Value, onnx_ir.Value] = {}
        self.places: dict[onnx_ir.Node, onnx_ir.Node] = {}

    def placed(self, old: onnx_ir.Node) -> None:
        """Note that the nodes added since stand for ``old``."""
        self.places.update((n, old) for n in self._build.nodes if n not in self.places)

    def outputs(self, nodes: set[onnx_ir.Node]) -> tuple[tuple[onnx_ir.Value, onnx_ir.Value], ...]:
        """Return the values that others read, and what takes their place."""
        for old, new in self._new.items():
            new.type, new.shape = old.type, old.shape
        return tuple(
            (old, new)
            for old, new in self._new.items()
            if old.is_graph_output() or any(node not in nodes for node in old.consumers())
        )

    def write(self, node: onnx_ir.Node) -> None:
        """Rotate what a linear operator or a table writes."""
        if is_op(node, "Gather"):
            table = _constant(self._turned(node.inputs[0], 1), node.inputs[0], self._build)
            made = self._build.op("Gather", table, node.inputs[1], attributes=node.attributes)
        else:
            made = _linear(node).turned_behind(self._into, self._build)
        self._new[node.outputs[0]] = made

    def norm(self, norm: NormReader) -> None:
        """Normalize rotated values, with a scale of one; the readers have the rest."""
        node = norm.node
        scale = constant(node.inputs[1])
        assert scale is not None
        ones = self._build.constant(np.ones(self._stream.size, scale.dtype))
        attributes = {
            k: v for k, v in node.attributes.items() if k in ("axis", "epsilon", "stash_type")
        }
        kind = "RMSNormalization" if is_op(node, "LayerNormalization") else node.op_type
        x = node.inputs[0]
        assert x is not None
        y = self._build.op(kind, self._new[x], ones, domain=node.domain, attributes=attributes)
        self._new[node.outputs[0]] = y

    def read(self, node: onnx_ir.Node, norm: NormReader | None, *, written: bool) -> None:
        """Rotate back in the weights of a reader."""
        if written:
            raise Mismatch(f"'{node.name}' reads the stream and writes into it without an addition")
        before, shift = self._q.T, None
        if norm is not None:
            scale, bias = (_vector(v, self._stream.size) for v in (*norm.node.inputs[1:], None)[:2])
            before = self._q.T if scale is None else self._q.T * scale
            shift = bias
        x = node.inputs[0]
        assert x is not None
        table = tied_table(node)
        if table is None:
            made = _linear(node).turned_before(before, shift, self._new[x], self._build)
        else:
            made = self._untied(table, before, shift, self._new[x])
        self._new[node.outputs[0]] = made

    def _untied(
        self, table: onnx_ir.Value, before: Floats, shift: Floats | None, x: onnx_ir.Value
    ) -> onnx_ir.Value:
        """Return the product with a table of its own, where it was that of the embedding."""
        array = constant(table)
        assert array is not None
        weight = array.astype(np.float64).T
        made = self._build.op("MatMul", x, _constant(before @ weight, table, self._build))
        if shift is None or not shift.any():
            return made
        return self._build.op("Add", made, _constant(shift @ weight, table, self._build))

    def copy(self, node: onnx_ir.Node) -> None:
        """Repeat an addition or a movement; constants that it adds are rotated."""
        inputs = [
            self._rotated_constant(v)
            if v in self._stream.axes and is_constant(v)
            else (None if v is None else self._new.get(v, v))
            for v in node.inputs
        ]
        made = self._build.ops(
            node.op_type, inputs, len(node.outputs), domain=node.domain, attributes=node.attributes
        )
        self._new.update(zip(node.outputs, made, strict=True))

    def _rotated_constant(self, value: onnx_ir.Value | None) -> onnx_ir.Value:
        assert value is not None
        return _constant(self._turned(value, self._stream.axes[value]), value, self._build)

    def _turned(self, value: onnx_ir.Value | None, axis: int) -> Floats:
        """Return a constant times the rotation along ``axis``; one number stands for all channels."""
        array = constant(value)
        assert array is not None
        lead = max(-axis, 0)
        wide = array.astype(np.float64).reshape((1,) * lead + array.shape)
        place = axis + lead
        shape = list(wide.shape)
        if shape[place] not in (1, self._stream.size):
            raise Mismatch(f"the constant of shape {array.shape} does not lie along the channels")
        shape[place] = self._stream.size
        turned = np.tensordot(np.broadcast_to(wide, shape), self._into, axes=(place, 0))
        return np.asarray(np.moveaxis(turned, -1, place))


def _constant(array: Floats, like: onnx_ir.Value | None, build: Builder) -> onnx_ir.Value:
    assert like is not None
    assert like.dtype is not None
    return build.constant(array.astype(like.dtype.numpy()), like.name or "")


def _vector(value: onnx_ir.Value | None, size: int) -> Floats | None:
    array = constant(value)
    return None if array is None else np.broadcast_to(array.astype(np.float64).reshape(-1), (size,))


def _linear(node: onnx_ir.Node) -> Linear:
    weight = node.inputs[1]
    assert weight is not None
    if is_op(node, "Gemm") and attribute_float(node, "beta", 1.0) != 1.0:
        raise Mismatch(f"the bias of '{node.name}' is scaled")
    return checked(Linear(node, weight, node.inputs[2] if len(node.inputs) > 2 else None))
