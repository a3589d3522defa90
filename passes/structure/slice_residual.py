"""Delete the directions of a residual stream in which it hardly varies."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.activations import Sampler, first_samples
from whet.analysis.base import Analysis
from whet.analysis.output_damage import OutputError
from whet.analysis.residual_branches import find_branches
from whet.analysis.residual_streams import ResidualStream, find_residual_streams
from whet.analysis.statistics import Statistics
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array, constant, is_constant, rank
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.option import option
from whet.passes.proposal import Builder, FreshNames, Proposal
from whet.passes.quantization.algorithms.rotations import centering, principal_axes
from whet.passes.residual_turn import Bases, check_stream, turned
from whet.passes.structure.unit_grams import UnitGram
from whet.passes.workbench import Workbench

__all__ = ["SliceResidual"]

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class SliceResidual(Pass):
    """Delete the least principal directions of the residual stream of a pre-norm network.

    What writes into the stream becomes ``W Q``, what reads it ``Q' diag(g) W``, with Q the m leading principal axes of
    the normalized values on calibration data: rows and columns of all these weights go (SliceGPT, Ashkboos et al.
    2024). The values behind each block have axes of their own, and the way around a block multiplies with
    ``Q_i' Q_i+1``; ``shared`` takes the same axes everywhere and needs no such products. A LayerNormalization becomes
    RMSNormalization, its mean subtracted by the writers' weights. What a normalization behind the embeddings hands on,
    and outputs of the model, are multiplied with ``Q`` and ``Q'``. Declines post-norm networks, streams that anything
    else looks at, and what brings the outputs on data held out beyond ``limit``.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS | Change.TYPES
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    needs: ClassVar[tuple[type[Analysis[object]], ...]] = (Statistics,)
    gated: ClassVar[bool] = True

    share: float = option(0.1, at_least=0, below=1)
    """Share of the channels to delete; 0 only rotates."""
    shared: bool = False
    """Take the same axes everywhere."""
    untie: bool = False
    """Store a weight twice that the stream is both written and read with, as tied embeddings are."""
    limit: float = option(0.5, above=0)
    """The largest ||new - old|| / ||old|| of the model's outputs on data held out."""
    multiple: int = option(8, at_least=1)
    """What remains is a multiple of it."""

    def apply(self, work: Workbench) -> None:
        """Slice every residual stream."""
        chosen = set(work.nodes())
        for number, stream in enumerate(find_residual_streams(work.graph, open_ends=True)):
            root = stream.norms[0].node
            if root not in chosen:
                continue
            work.coverage.matched += 1
            try:
                self._slice(number, stream, work)
            except (Mismatch, CannotRun) as reason:
                work.decline(root, str(reason))

    def _slice(self, number: int, stream: ResidualStream, work: Workbench) -> None:
        for norm in stream.norms:
            if norm.node.metadata_props.get("whet.from", "").startswith(f"{self.name}:"):
                raise Mismatch("it is sliced already")
        check_stream(stream, work.opset, untie=self.untie)
        if not work.context.calibration:
            raise Mismatch("needs calibration data")
        left = self._left(stream.size)
        bases = _bases(stream, left, work, shared=self.shared)
        error = self._error(number, bases, work)
        if error > self.limit:
            raise Mismatch(
                f"with {left} of {stream.size} channels the outputs change by {error:.3g}, the limit is {self.limit:g}"
            )
        root = stream.norms[0].node
        proposal = _proposal(stream, bases, work.builder(root), work.graph)
        before, after = (_bytes(nodes) for nodes in (proposal.old, proposal.new))
        if self.share and after >= before:
            proposal.discard()
            raise Mismatch(
                f"with {left} of {stream.size} channels weights and bridges take {after:,} bytes, now {before:,}"
            )
        row = Damage(
            site=root.name or root.op_type,
            format=f"{left} of {stream.size} channels, {len(bases.matrices)} bases, outputs {error:.3g}",
            error=0.0,
            bytes_before=before,
            bytes_after=after,
        )
        work.propose(proposal, row, _samples(proposal, work))

    def _left(self, size: int) -> int:
        """Return how many channels remain; raises Mismatch where all do, though some should go."""
        wanted = size - self.share * size
        left = min(size, int(np.ceil(round(wanted / self.multiple, 9))) * self.multiple)
        if self.share and left == size:
            raise Mismatch(
                f"of {size} channels {self.share:g} are {size - wanted:g}: none goes, since a multiple of "
                f"{self.multiple} remains"
            )
        return left if self.share else size

    def _error(self, number: int, bases: Bases, work: Workbench) -> float:
        """Return how far the outputs of a sliced copy are from the source's."""
        copy = work.model.clone()
        stream = find_residual_streams(copy.graph, open_ends=True)[number]
        names = {value.name: basis for value, basis in bases.of.items()}
        of = {value: names[value.name] for value in stream.axes if value.name in names}
        root = stream.norms[0].node
        build = Builder(FreshNames(copy), root)
        _proposal(stream, Bases(bases.matrices, of), build, copy.graph).commit("trial")
        return OutputError(work.model, work.context).of(onnx_ir.to_proto(copy))


def _proposal(
    stream: ResidualStream, bases: Bases, build: Builder, graph: onnx_ir.Graph
) -> Proposal:
    try:
        return turned(stream, bases, build, graph)
    except Mismatch:
        Proposal((stream.norms[0].node,), (), tuple(build.nodes)).discard()
        raise


def _bases(stream: ResidualStream, left: int, work: Workbench, *, shared: bool) -> Bases:
    """Return the principal axes of each part of the stream, or of all parts together."""
    of = {} if shared else _parts(stream, work.graph)
    count = max(of.values(), default=0) + 1
    asked = UnitGram(stream.centered)
    seen: list[list[str]] = [[] for _ in range(count)]
    for norm in stream.norms:
        x = norm.node.inputs[0]
        assert x is not None
        seen[of.get(x, 0)].append(x.name or "")
    for value, number in of.items():
        last = stream.axes[value] == (rank(value) or 0) - 1
        if not seen[number] and last and not is_constant(value):
            seen[number].append(value.name or "")
    requests = frozenset((name, asked) for names in seen for name in names)
    found = work.analyses.get(Statistics(requests))
    matrices: list[Floats] = []
    for names in seen:
        if not names:
            raise Mismatch("a part of the stream has no values whose last axis is the channels")
        gram = np.asarray(sum(found.of(name, asked).matrix for name in dict.fromkeys(names)))
        center = centering(stream.size) if stream.centered else np.eye(stream.size)
        matrices.append(principal_axes(center @ gram @ center)[:, :left])
    return Bases(tuple(matrices), of)


def _parts(stream: ResidualStream, graph: onnx_ir.Graph) -> dict[onnx_ir.Value, int]:
    """Number the values of the stream so that the numbers differ in front of a block and behind it."""
    skips = {b.joint: b.skip for b in find_branches(graph) if b.skip in stream.axes}
    parent = {value: value for value in stream.axes if not is_constant(value)}

    def top(value: onnx_ir.Value) -> onnx_ir.Value:
        while parent[value] is not value:
            value = parent[value]
        return value

    moves = [*stream.joints, *(node for norm in stream.norms for node in norm.between)]
    for node in [*moves, *(norm.node for norm in stream.norms)]:
        near = [v for v in (*node.inputs, *node.outputs) if v is not None and v in parent]
        near = [v for v in near if v is not skips.get(node)]
        for value in near[1:]:
            parent[top(value)] = top(near[0])
    numbers: dict[onnx_ir.Value, int] = {}
    return {value: numbers.setdefault(top(value), len(numbers)) for value in parent}


def _bytes(nodes: Sequence[onnx_ir.Node]) -> int:
    """Return the bytes of the constants that nodes read."""
    read = dict.fromkeys(v for node in nodes for v in node.inputs if is_constant(v))
    return sum(array.nbytes for v in read if (array := constant(v)) is not None)


def _samples(proposal: Proposal, work: Workbench) -> Mapping[str, Array]:
    """Return real values for what the nodes read, on data to judge by."""
    made = {v for node in proposal.old for v in node.outputs}
    read = dict.fromkeys(
        v.name or ""
        for node in proposal.old
        for v in node.inputs
        if v is not None and v not in made and not is_constant(v)
    )
    batch = next(iter(work.context.judge))
    sample = Sampler(work.model, list(read), first_samples(work.model, batch), work.context.threads)
    return {name: array for name in read if (array := sample(name)) is not None}
