"""Let blocks read the weights of a neighbour, so that they are stored once."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir

from whet.analysis.residual_branches import Branch, find_branches
from whet.ir.values import constant
from whet.passes.base import Damage
from whet.passes.proposal import Builder, FreshNames, Proposal
from whet.passes.structure.blocks import Drop
from whet.passes.structure.greedy import Greed, GreedyPass
from whet.passes.workbench import Workbench

__all__ = ["ShareBlocks"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Pair:
    """A branch, and one whose weights it could have."""

    own: Branch
    other: Branch
    drop: Drop
    """The branch, to be compared with what goes into it."""

    @property
    def joint(self) -> onnx_ir.Node:
        """Return the addition that ends the branch."""
        return self.own.joint

    @property
    def told(self) -> str:
        """Return how the model would be."""
        return f"with the weights of '{self.other.joint.name}'"

    def taken(self) -> Iterator[tuple[onnx_ir.Node, onnx_ir.Value]]:
        """Yield the operators of the branch, and the weight of the other that each would read."""
        for mine, theirs in zip(self.own.linears, self.other.linears, strict=True):
            weight = theirs.inputs[1]
            assert weight is not None
            yield mine, weight

    @property
    def bytes(self) -> int:
        """Return the bytes of the weights that nobody would read any more."""
        mine = dict.fromkeys(node.inputs[1] for node in self.own.linears)
        alone = [v for v in mine if v is not None and set(v.consumers()) <= set(self.own.linears)]
        return sum(v.const_value.nbytes for v in alone if v.const_value is not None)


@dataclasses.dataclass(frozen=True)
class ShareBlocks(GreedyPass[_Pair]):
    """Let the weights of a branch ``x + f(x)`` be those of a neighbour's f, stored once.

    Branches of the same kind, operators and shapes are neighbours if none like them lies between. Of those whose input
    and output have the highest mean cosine on calibration data, and so matter least, each is tried with the weights of
    the neighbour in front of it and behind it; the one stays with which the model's outputs on data held out change
    least, up to ``count`` (FoldGPT, Liu et al. 2024). Norms and biases remain each branch's own. No sharing stays that
    would bring the change above ``limit``.
    """

    def places(self, graph: onnx_ir.Graph) -> Mapping[onnx_ir.Node, Sequence[_Pair]]:
        """Return each branch's neighbours by the addition that ends it."""
        branches = [branch for branch in find_branches(graph) if branch.kind in self.kinds]
        found: dict[onnx_ir.Node, list[_Pair]] = {branch.joint: [] for branch in branches}
        for pair in _pairs(branches):
            found[pair.joint].append(pair)
        return found

    def begin(self, work: Workbench, found: Sequence[_Pair]) -> Greed[_Pair]:
        """Return a run over these branches and neighbours."""
        return _Run(self, work, found)


def _pairs(branches: Sequence[Branch]) -> list[_Pair]:
    """Return each branch with the nearest ones of its form in front of it and behind it."""
    forms: dict[object, list[Branch]] = {}
    for branch in branches:
        forms.setdefault(_form(branch), []).append(branch)
    found: list[_Pair] = []
    for alike in forms.values():
        for k, branch in enumerate(alike):
            near = [alike[n] for n in (k - 1, k + 1) if 0 <= n < len(alike)]
            drop = Drop(branch.kind, (branch,), branch.output, branch.skip)
            found += [_Pair(branch, other, drop) for other in near if _differ(branch, other)]
    return found


def _form(branch: Branch) -> object:
    """Return what must agree for weights to fit: operators, their order, shapes and types."""
    parts: list[object] = [branch.kind]
    for node in branch.linears:
        array = constant(node.inputs[1])
        attributes = sorted((k, str(a.value)) for k, a in node.attributes.items())
        shape = None if array is None else (array.shape, array.dtype.name)
        parts.append((node.op_type, shape, tuple(attributes)))
    return tuple(parts)


def _differ(one: Branch, other: Branch) -> bool:
    pairs = zip(one.linears, other.linears, strict=True)
    return any(a.inputs[1] is not b.inputs[1] for a, b in pairs)


class _Run(Greed[_Pair]):
    """One run over one model."""

    def done(self) -> int:
        """Return how many share since earlier runs."""
        return sum(_is_shared(b, self._pass.name) for b in find_branches(self._work.graph))

    def trial(self, candidate: _Pair) -> onnx_ir.Model:
        """Return a copy of the model with one more branch on shared weights."""
        copy = self._work.model.clone()
        nodes = {node.name: node for node in copy.graph}
        fresh = FreshNames(copy)
        for node, weight in candidate.taken():
            mine = nodes[node.name]
            other = copy.graph.initializers[weight.name or ""]
            _reading(mine, other, Builder(fresh, mine)).commit("trial")
        return copy

    def row(self, candidate: _Pair, cosine: float, error: float) -> Damage:
        """Return whose weights are read, and what is no longer stored."""
        first = candidate.own.linears[0]
        return Damage(
            site=first.name or first.op_type,
            format=f"{candidate.own.kind} of '{candidate.other.joint.name}', cosine {cosine:.4f}",
            error=error,
            bytes_before=candidate.bytes,
            bytes_after=0,
        )

    def change(self, candidate: _Pair) -> None:
        """Let every operator of the branch read the other's weight."""
        for node, weight in list(candidate.taken()):
            proposal = _reading(node, weight, self._work.builder(node))
            self._work.accept(proposal, "error of the outputs on data held out")

    def excludes(self, taken: _Pair, other: _Pair) -> bool:
        """Tell whether the other has no weights left to give up, or to take from one that gave them up."""
        return other.own in (taken.own, taken.other) or other.other is taken.own


def _reading(node: onnx_ir.Node, weight: onnx_ir.Value, build: Builder) -> Proposal:
    """Return the proposal that an operator reads another weight."""
    inputs = [node.inputs[0], weight, *node.inputs[2:]]
    made = build.op(node.op_type, *inputs, attributes=dict(node.attributes))
    return Proposal((node,), ((node.outputs[0], made),), tuple(build.nodes))


def _is_shared(branch: Branch, name: str) -> bool:
    return any(
        (node.metadata_props.get("whet.from") or "").startswith(f"{name}:")
        for node in branch.linears
    )
