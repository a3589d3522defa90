"""Let blocks read the weights of a neighbour, so that they are stored once."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import onnx_ir

from whet.analysis.output_damage import OutputError
from whet.analysis.residual_branches import Branch, find_branches
from whet.errors import UsageError
from whet.ir.execute import CannotRun
from whet.ir.values import constant
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.proposal import Builder, FreshNames, Proposal
from whet.passes.structure.blocks import Drop, measure_closeness
from whet.passes.workbench import Workbench

__all__ = ["ShareBlocks"]

_KINDS = ("attention", "mlp", "convolution")


@dataclasses.dataclass(frozen=True)
class ShareBlocks(Pass):
    """Let the weights of a branch ``x + f(x)`` be those of a neighbour's f, stored once.

    Branches of the same kind, operators and shapes are neighbours if none like them lies between. Of those whose input
    and output have the highest mean cosine on calibration data, and so matter least, each is tried with the weights of
    the neighbour in front of it and behind it; the one stays with which the model's outputs on data held out change
    least, up to ``count`` (FoldGPT, Liu et al. 2024). Norms and biases remain each branch's own. No sharing stays that
    would bring the change above ``limit``.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    gated: ClassVar[bool] = True

    count: int = 1
    """How many branches give their weights up, those of earlier runs included."""
    kinds: tuple[str, ...] = ("attention", "mlp", "convolution")
    """Which branches may."""
    limit: float = 0.25
    """The largest ||new - old|| / ||old|| of the model's outputs on data held out, of all sharing."""
    tries: int = 6
    """So many of the most similar are tried before one gives its weights up."""

    def apply(self, work: Workbench) -> None:
        """Share one branch after the other."""
        self._check_options()
        chosen = set(work.nodes("Add"))
        branches = [b for b in find_branches(work.graph) if b.kind in self.kinds]
        pairs = [pair for pair in _pairs(branches) if pair.own.joint in chosen]
        joints = [b.joint for b in branches if b.joint in chosen]
        work.coverage.matched += len(joints)
        reason = "" if work.context.calibration else "needs calibration data"
        for joint in joints:
            if reason or not any(pair.own.joint is joint for pair in pairs):
                work.decline(joint, reason or "no other branch has weights of the same shapes")
        if not pairs or reason:
            return
        try:
            _Run(self, work, pairs).share()
        except CannotRun as error:
            for joint in joints:
                work.decline(joint, str(error))

    def _check_options(self) -> None:
        for kind in self.kinds:
            if kind not in _KINDS:
                raise UsageError(
                    f"option 'kinds' of pass '{self.name}' has '{kind}', expected some of {', '.join(_KINDS)}"
                )
        for name, value in (("count", self.count), ("tries", self.tries), ("limit", self.limit)):
            if value <= 0:
                raise UsageError(
                    f"option '{name}' of pass '{self.name}' is {value}, expected more than 0"
                )


@dataclasses.dataclass(frozen=True, eq=False)
class _Pair:
    """A branch, and one whose weights it could have."""

    own: Branch
    other: Branch

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


def _pairs(branches: Sequence[Branch]) -> list[_Pair]:
    """Return each branch with the nearest ones of its form in front of it and behind it."""
    forms: dict[object, list[Branch]] = {}
    for branch in branches:
        forms.setdefault(_form(branch), []).append(branch)
    found: list[_Pair] = []
    for alike in forms.values():
        for k, branch in enumerate(alike):
            near = [alike[n] for n in (k - 1, k + 1) if 0 <= n < len(alike)]
            found += [_Pair(branch, other) for other in near if _differ(branch, other)]
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


class _Run:
    """One run over one model."""

    def __init__(self, options: ShareBlocks, work: Workbench, pairs: Sequence[_Pair]) -> None:
        self._pass = options
        self._work = work
        context = work.context
        owners = list(dict.fromkeys(pair.own for pair in pairs))
        drops = [Drop(b.kind, (b,), b.output, b.skip) for b in owners]
        found = measure_closeness(work.model, drops, context.calibration, context.threads)
        self._near = dict(zip(owners, found, strict=True))
        self._pairs = sorted(pairs, key=lambda pair: -self._near[pair.own].cosine)
        self._judge = OutputError(work.model, context)

    def share(self) -> None:
        """Share while there is a branch that keeps the limit."""
        marked = sum(_is_shared(b, self._pass.name) for b in find_branches(self._work.graph))
        for _ in range(self._pass.count - marked):
            if not self._share_one():
                return
        for pair in self._pairs:
            reason = f"{self._pass.count} share already" if marked else "others change less"
            near = self._near[pair.own]
            self._work.decline(pair.own.joint, f"{reason}: cosine {near.cosine:.4f}")

    def _share_one(self) -> bool:
        owners = list(dict.fromkeys(pair.own for pair in self._pairs))[: self._pass.tries]
        tried = [(self._error(pair), pair) for pair in self._pairs if pair.own in owners]
        if not tried:
            return False
        error, pair = min(tried, key=lambda one: one[0])
        if error > self._pass.limit:
            for lost, other in reversed(tried):
                self._work.decline(
                    other.own.joint,
                    f"with the weights of '{other.other.joint.name}' the outputs change by {lost:.3g}, "
                    f"the limit is {self._pass.limit:g}",
                )
            return False
        self._commit(pair, error)
        # Neither has weights of its own any more that could be given up, or be taken by others that give theirs up.
        self._pairs = [
            p
            for p in self._pairs
            if p.own not in (pair.own, pair.other) and p.other is not pair.own
        ]
        return True

    def _error(self, pair: _Pair) -> float:
        """Return how far the outputs are from the source's with one more branch on shared weights."""
        copy = self._work.model.clone()
        nodes = {node.name: node for node in copy.graph}
        fresh = FreshNames(copy)
        for node, weight in pair.taken():
            mine = nodes[node.name]
            other = copy.graph.initializers[weight.name or ""]
            _reading(mine, other, Builder(fresh, mine)).commit("trial")
        return self._judge.of(onnx_ir.to_proto(copy))

    def _commit(self, pair: _Pair, error: float) -> None:
        work, size = self._work, pair.bytes
        before = work.coverage.changed
        site = pair.own.linears[0].name or pair.own.linears[0].op_type
        for node, weight in list(pair.taken()):
            proposal = _reading(node, weight, work.builder(node))
            work.accept(proposal, "error of the outputs on data held out")
        if work.coverage.changed == before:
            return
        work.coverage.max_error = max(work.coverage.max_error, error)
        near = self._near[pair.own]
        row = Damage(
            site=site,
            format=f"{pair.own.kind} of '{pair.other.joint.name}', cosine {near.cosine:.4f}",
            error=error,
            bytes_before=size,
            bytes_after=0,
            measured_on="held-out data" if work.context.held_out else "calibration data",
        )
        work.coverage.damage.append(row)


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
