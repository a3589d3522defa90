"""Prove a rewrite: execute what it replaces and what it puts there on the same data, and compare.

Only the cut is executed: the old nodes, the new nodes, and as much upstream context as it takes until every value at
the boundary can be drawn at random (a float tensor of known shape), is a constant, or is an input of the model. The
cut is run at every binding of the symbolic dimensions.
"""

import dataclasses
import enum
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx import helper, numpy_helper

from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun, Executor
from whet.ir.float64 import Float64Executor
from whet.ir.residency import release
from whet.ir.values import Array, constant
from whet.passes.base import Fidelity
from whet.passes.proposal import Proposal
from whet.passes.structural_key import nodes_key, tensor_key

__all__ = ["Prover", "Verdict", "VerdictKind", "compare", "relative_error", "save_reproducer"]

_EMBED = 256
"""Constants of up to this many elements are part of the cut; larger ones are fed, which copies nothing."""
_GROWTH = 400
"""A cut that needs more context nodes than this is given up."""
_FLOATS: dict[int, int] = dict.fromkeys(
    (int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.FLOAT16), int(onnx.TensorProto.BFLOAT16)),
    int(onnx.TensorProto.DOUBLE),
)


class VerdictKind(enum.Enum):
    """Say how a proof ended."""

    PROVEN = "proven"
    REFUTED = "refuted"
    OPEN = "open"
    """The cut could not be executed; nothing is known."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What executing both sides showed."""

    kind: VerdictKind
    reason: str = ""
    error: float = 0.0
    oracle: str = ""
    cut: onnx.ModelProto | None = None
    feeds: dict[str, Array] = dataclasses.field(default_factory=dict[str, Array])


def compare(old: Array, new: Array) -> float:
    """Return max |new - old| / rms(old); infinite when shape, type, NaNs or infinities differ.

    Zeros of either sign are equal; other data than numbers are equal or not.
    """
    if old.shape != new.shape or old.dtype != new.dtype:
        return float("inf")
    if old.dtype.kind not in "fVc":
        return 0.0 if np.array_equal(old, new) else float("inf")
    if old.tobytes() == new.tobytes():
        return 0.0
    number = np.complex128 if old.dtype.kind == "c" else np.float64
    before, after = old.astype(number), new.astype(number)
    finite = np.isfinite(before)
    if not np.array_equal(finite, np.isfinite(after)):
        return float("inf")
    if not np.array_equal(before[~finite], after[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    before, after = before[finite], after[finite]
    worst = float(np.max(np.abs(after - before)))
    if worst == 0.0:
        return 0.0
    scale = float(np.sqrt(np.mean(np.abs(before) ** 2)))
    return worst / scale if scale > 0 else float("inf")


def relative_error(old: Array, new: Array) -> float:
    """Return ||new - old|| / ||old||; infinite when shape or type differ or ``new`` is not finite where ``old`` is."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return float("inf")
    if old.dtype.kind not in "fVc":
        return 0.0 if np.array_equal(old, new) else float("inf")
    before, after = old.astype(np.float64), new.astype(np.float64)
    finite = np.isfinite(before)
    if not np.isfinite(after[finite]).all():
        return float("inf")
    distance = float(np.linalg.norm(after[finite] - before[finite]))
    length = float(np.linalg.norm(before[finite]))
    return distance / length if length > 0 else (0.0 if distance == 0 else float("inf"))


class Prover:
    """Execute proposals on their cut-out subgraphs."""

    def __init__(
        self,
        model: onnx_ir.Model,
        bindings: Bindings,
        seed: int = 0,
        proven: dict[Hashable, Verdict] | None = None,
    ) -> None:
        """Draw data from ``bindings``; the same seed gives the same data.

        ``proven`` remembers proofs by structure: the same operators on the same constants and the same shapes need
        no second execution.
        """
        self._proven: dict[Hashable, Verdict] = {} if proven is None else proven
        self._model = model
        self._bindings = bindings
        self._seed = seed

    def check(
        self,
        proposal: Proposal,
        fidelity: Fidelity,
        tolerance: float,
        samples: Mapping[str, Array] | None = None,
    ) -> Verdict:
        """Execute both sides and compare; grow the cut upstream while it cannot be executed.

        A lossy rewrite is judged by :func:`relative_error`, on ``samples`` if they name every value that would be
        drawn at random.
        """
        if samples and fidelity is Fidelity.LOSSY:
            verdict = self._try(_Cut(proposal, self._bindings, samples), fidelity, tolerance)
            if verdict.kind is not VerdictKind.OPEN:
                return verdict
        return self._try(_Cut(proposal, self._bindings), fidelity, tolerance)

    def _try(self, cut: "_Cut", fidelity: Fidelity, tolerance: float) -> Verdict:
        reason = ""
        for _ in range(4):
            try:
                cut.close()
                if fidelity is Fidelity.LOSSY:
                    return self._approximate(cut, tolerance)
                return self._look_up(cut, fidelity, tolerance)
            except CannotRun as error:
                reason = reason or str(error)
            try:
                if not cut.grow():
                    break
            except CannotRun:
                break
        return Verdict(VerdictKind.OPEN, reason)

    def _look_up(self, cut: "_Cut", fidelity: Fidelity, tolerance: float) -> Verdict:
        structure = cut.key()
        if structure is None:
            try:
                return self._execute(cut, fidelity, tolerance)
            finally:
                release(cut.fed)
        opsets = tuple(sorted(self._model.graph.opset_imports.items()))
        key = (structure, opsets, fidelity, tolerance, self._seed)
        verdict = self._proven.get(key)
        if verdict is None:
            verdict = self._execute(cut, fidelity, tolerance)
            if verdict.kind is VerdictKind.PROVEN:
                self._proven[key] = verdict
        return verdict

    def _execute(self, cut: "_Cut", fidelity: Fidelity, tolerance: float) -> Verdict:
        """Compare both sides on the best oracle that can run them."""
        reason = "no oracle"
        for start in self._runners(cut, wide=fidelity is not Fidelity.EXACT):
            try:
                runner = start()
                verdict = self._compare(cut, runner, tolerance)
            except CannotRun as error:
                reason = str(error)
                continue
            return verdict if runner.loadable else self._loadable(cut, verdict)
        raise CannotRun(reason)

    def _loadable(self, cut: "_Cut", verdict: Verdict) -> Verdict:
        """Give a refutation by our own kernels a reproducer that ONNX Runtime loads."""
        if verdict.kind is not VerdictKind.REFUTED:
            return verdict
        proto = cut.proto(dict(self._model.graph.opset_imports), self._model.ir_version, wide=False)
        types = {_name(v): v.dtype.numpy() for v in [*cut.drawn, *cut.fed] if v.dtype is not None}
        feeds = {name: array.astype(types[name]) for name, array in verdict.feeds.items()}
        return dataclasses.replace(verdict, cut=proto, feeds=feeds)

    def _compare(self, cut: "_Cut", runner: "_Runner", tolerance: float) -> Verdict:
        """Run both sides at every binding; stop at the first difference that is too large."""
        worst = 0.0
        for index in range(max(2, len(self._bindings.choices))):
            choice = index % len(self._bindings.choices)
            feeds = self._feeds(cut, choice, index, wide=runner.wide)
            try:
                old, new = runner.run(feeds)
                if _uninformative(old):
                    feeds = self._feeds(cut, choice, index, wide=runner.wide, positive=True)
                    old, new = runner.run(feeds)
            except CannotRun as failure:
                if not self._old_side_runs(cut, runner, feeds):
                    raise
                reason = f"the replacement does not run, what it replaces does: {failure}"
                return self._refuted(runner, choice, feeds, np.inf, reason)
            error = max((compare(o, n) for o, n in zip(old, new, strict=True)), default=0.0)
            worst = max(worst, error)
            if error > tolerance:
                reason = f"outputs differ by {error:.3g}, allowed {tolerance:.3g}"
                return self._refuted(runner, choice, feeds, error, reason)
        return Verdict(VerdictKind.PROVEN, "", worst, runner.oracle)

    def _approximate(self, cut: "_Cut", tolerance: float) -> Verdict:
        """Measure the error of a rewrite that is meant to have one."""
        real = bool(cut.samples)
        if real and not all(_name(v) in cut.samples for v in cut.drawn):
            raise CannotRun("there is real data for some of the operands only")
        opsets = dict(self._model.graph.opset_imports)
        runner = _Runner(
            cut.proto(opsets, self._model.ir_version, wide=False), cut, Executor, wide=False
        )
        count = 1 if real else max(2, len(self._bindings.choices))
        worst = 0.0
        for index in range(count):
            feeds = self._feeds(cut, index % len(self._bindings.choices), index, wide=False)
            old, new = runner.run(feeds)
            error = max((relative_error(o, n) for o, n in zip(old, new, strict=True)), default=0.0)
            worst = max(worst, error)
            if not error <= tolerance:
                reason = f"its output changes by {error:.3g} of its norm, allowed {tolerance:.3g}"
                return self._refuted(
                    runner, index % len(self._bindings.choices), feeds, error, reason
                )
        return Verdict(VerdictKind.PROVEN, "", worst, "calibration" if real else runner.oracle)

    def _refuted(
        self, runner: "_Runner", choice: int, feeds: dict[str, Array], error: float, reason: str
    ) -> Verdict:
        place = f"{reason}, at {dict(self._bindings.choices[choice])}"
        return Verdict(VerdictKind.REFUTED, place, error, runner.oracle, runner.proto, feeds)

    def _old_side_runs(self, cut: "_Cut", runner: "_Runner", feeds: dict[str, Array]) -> bool:
        """Tell whether what is replaced runs where both sides together failed."""
        if not runner.loadable:
            return False
        opsets = dict(self._model.graph.opset_imports)
        proto = cut.proto(opsets, self._model.ir_version, wide=runner.wide, new_side=False)
        try:
            Executor(proto).run(feeds)
        except CannotRun:
            return False
        return True

    def _runners(self, cut: "_Cut", *, wide: bool) -> Iterable[Callable[[], "_Runner"]]:
        """Yield makers: float64 in ONNX Runtime, float64 with our kernels, and the types as they are."""
        opsets = dict(self._model.graph.opset_imports)
        version = self._model.ir_version
        if wide:
            yield lambda: _Runner(cut.proto(opsets, version, wide=True), cut, Executor, wide=True)
            yield lambda: _Runner(
                cut.proto(opsets, version, wide=True), cut, Float64Executor, wide=True
            )
        yield lambda: _Runner(cut.proto(opsets, version, wide=False), cut, Executor, wide=False)

    def _feeds(
        self, cut: "_Cut", choice: int, draw: int, *, wide: bool, positive: bool = False
    ) -> dict[str, Array]:
        rng = np.random.default_rng((self._seed, draw))
        feeds: dict[str, Array] = {}
        for value in cut.drawn:
            tensor = cut.samples.get(_name(value))
            if tensor is None:
                tensor = self._bindings.draw(
                    value, self._bindings.choices[choice], rng, positive=positive
                )
            if tensor is None:
                raise CannotRun(f"the shape of '{value.name}' is not known")
            feeds[_name(value)] = tensor
        for value in cut.fed:
            array = constant(value)
            assert array is not None
            feeds[_name(value)] = array
        if wide:
            feeds = {k: v.astype(np.float64) if _is_float(v) else v for k, v in feeds.items()}
        return feeds


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _uninformative(outputs: Sequence[Array]) -> bool:
    """Tell whether most of the output is NaN or infinite, which would prove nothing."""
    floats = [o for o in outputs if o.dtype.kind == "f" and o.size]
    return bool(floats) and all(np.isfinite(o).mean() < 0.5 for o in floats)


class _Cut:
    """The subgraph that contains both sides of a proposal."""

    def __init__(
        self, proposal: Proposal, bindings: Bindings, samples: Mapping[str, Array] | None = None
    ) -> None:
        self._proposal = proposal
        self._bindings = bindings
        self.samples = samples or {}
        self._graph = proposal.old[0].graph
        self._context: dict[onnx_ir.Node, None] = dict.fromkeys(proposal.old)
        inside = {v for node in proposal.old for v in node.inputs}
        for _, new in proposal.outputs:
            producer = new.producer()
            if producer is not None and producer not in proposal.new and new not in inside:
                self._context[producer] = None
        self.drawn: list[onnx_ir.Value] = []
        self.fed: list[onnx_ir.Value] = []
        self._embedded: list[onnx_ir.Value] = []

    def close(self) -> None:
        """Grow until every boundary value is a constant, can be drawn, or is an input of the model."""
        while True:
            self.drawn, self.fed, self._embedded = [], [], []
            missing = self._sort_boundary()
            if not missing:
                return
            for value in missing:
                self._include(value)

    def grow(self) -> bool:
        """Take in the producers of everything drawn; False when there is nothing left to take in."""
        before = len(self._context)
        for value in self.drawn:
            producer = value.producer()
            if producer is not None and producer.graph is self._graph:
                self._include(value)
        return len(self._context) > before

    def _include(self, value: onnx_ir.Value) -> None:
        producer = value.producer()
        if producer is None or producer.graph is not self._graph:
            raise CannotRun(f"the type or shape of '{value.name}' is not known")
        self._context[producer] = None
        if len(self._context) > _GROWTH:
            raise CannotRun(f"more than {_GROWTH} nodes would have to be executed")

    def _sort_boundary(self) -> list[onnx_ir.Value]:
        made = {v for node in self._all() for v in node.outputs}
        missing: list[onnx_ir.Value] = []
        new_outputs = [new for _, new in self._proposal.outputs]
        for value in _unique([*_read(self._all()), *new_outputs]):
            if value in made:
                continue
            if value.const_value is not None and not value.is_graph_input():
                small = value.const_value.size <= _EMBED
                (self._embedded if small else self.fed).append(value)
            elif self._drawable(value):
                self.drawn.append(value)
            else:
                missing.append(value)
        return missing

    def _drawable(self, value: onnx_ir.Value) -> bool:
        if not isinstance(value.type, onnx_ir.TensorType):
            return False
        dtype = value.type.dtype
        if value.name in self.samples:
            return True
        from_model = value.producer() is None
        if not (dtype.is_floating_point() or dtype == onnx_ir.DataType.BOOL or from_model):
            return False
        return all(self._bindings.shape(value, b) is not None for b in self._bindings.choices)

    def _all(self) -> list[onnx_ir.Node]:
        return [*self._context, *self._proposal.new]

    def proto(
        self, opsets: dict[str, int], ir_version: int, *, wide: bool, new_side: bool = True
    ) -> onnx.ModelProto:
        """Return a model with the old and the new side, outputs ``old_k`` and ``new_k``."""
        order = _topological(self._all() if new_side else list(self._context))
        nodes = [onnx_ir.serde.serialize_node(node) for node in order]
        outputs: list[onnx.ValueInfoProto] = []
        for k, (old, new) in enumerate(self._proposal.outputs):
            for side, value in (("old", old), ("new", new))[: 2 if new_side else 1]:
                nodes.append(helper.make_node("Identity", [_name(value)], [f"{side}_{k}"]))
                outputs.append(_declare(f"{side}_{k}", old, wide=wide, shaped=False))
        inputs = [
            _declare(_name(v), v, wide=wide, shaped=v in self.fed) for v in [*self.drawn, *self.fed]
        ]
        weights = [_embed(v, wide=wide) for v in self._embedded]
        graph = helper.make_graph(nodes, "cut", inputs, outputs, weights)
        if wide:
            _widen(graph)
        domains = {node.domain for node in nodes} | {""}
        imports = [helper.make_opsetid(d, opsets.get(d, 1)) for d in sorted(domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)

    def key(self) -> Hashable | None:
        """Return what the proof depends on, without names; None where weights are fed or operators are opaque."""
        if self.fed:
            return None
        numbers: dict[onnx_ir.Value, int] = {}
        nodes = nodes_key(_topological(self._all()), numbers)
        constants = [(numbers.get(v), _constant_key(v)) for v in self._embedded]
        if nodes is None or any(key is None for _, key in constants):
            return None
        drawn = tuple((numbers.get(v), v.dtype, self._data_key(v)) for v in self.drawn)
        outputs = tuple((numbers.get(o), numbers.get(n)) for o, n in self._proposal.outputs)
        return tuple(nodes), tuple(constants), drawn, outputs

    def _data_key(self, value: onnx_ir.Value) -> Hashable:
        """Return the shapes that are drawn, and the name where real data are drawn from."""
        shapes = tuple(self._bindings.shape(value, b) for b in self._bindings.choices)
        return shapes, value.name if value.name in self._bindings.examples else None

    @property
    def pairs(self) -> int:
        """Return the number of compared outputs."""
        return len(self._proposal.outputs)


class _Runner:
    """Execute a cut."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        cut: _Cut,
        kind: Callable[[onnx.ModelProto], Executor | Float64Executor],
        *,
        wide: bool,
    ) -> None:
        self.proto = proto
        self.wide = wide
        self.oracle = "float64" if wide else "as is"
        self.loadable = kind is Executor
        self._names = [f"{side}_{k}" for side in ("old", "new") for k in range(cut.pairs)]
        self._executor = kind(proto)

    def run(self, feeds: dict[str, Array]) -> tuple[list[Array], list[Array]]:
        found = self._executor.run(feeds, self._names)
        half = len(found) // 2
        return found[:half], found[half:]


def _constant_key(value: onnx_ir.Value) -> Hashable | None:
    return None if value.const_value is None else tensor_key(value.const_value)


def _name(value: onnx_ir.Value) -> str:
    assert value.name is not None
    return value.name


def _unique(values: Iterable[onnx_ir.Value]) -> list[onnx_ir.Value]:
    return list(dict.fromkeys(values))


def _read(nodes: Iterable[onnx_ir.Node]) -> Iterable[onnx_ir.Value]:
    """Yield every value the nodes read, captures of their subgraphs included."""
    for node in nodes:
        yield from (v for v in node.inputs if v is not None)
        for attribute in node.attributes.values():
            if attribute.type == onnx_ir.AttributeType.GRAPH:
                yield from _captured(attribute.as_graph())
            elif attribute.type == onnx_ir.AttributeType.GRAPHS:
                for graph in attribute.as_graphs():
                    yield from _captured(graph)


def _captured(graph: onnx_ir.Graph) -> Iterable[onnx_ir.Value]:
    inner = [graph, *graph.subgraphs()]
    own: set[onnx_ir.Value] = set()
    for part in inner:
        own.update(part.inputs)
        own.update(part.initializers.values())
        own.update(v for node in part for v in node.outputs)
    for part in inner:
        for node in part:
            yield from (v for v in node.inputs if v is not None and v not in own)
        yield from (v for v in part.outputs if v not in own)


def _topological(nodes: Sequence[onnx_ir.Node]) -> list[onnx_ir.Node]:
    makers = {v: node for node in nodes for v in node.outputs}
    order: dict[onnx_ir.Node, None] = {}
    pending: set[onnx_ir.Node] = set()
    stack = list(reversed(nodes))
    while stack:
        node = stack[-1]
        if node in order:
            stack.pop()
            continue
        pending.add(node)
        before = [makers[v] for v in _read([node]) if v in makers and makers[v] not in order]
        before = [maker for maker in before if maker is not node]
        if any(maker in pending for maker in before):
            raise CannotRun(f"'{node.name}' depends on itself")
        if before:
            stack.extend(before)
            continue
        pending.discard(node)
        order[node] = None
        stack.pop()
    return list(order)


def _declare(name: str, value: onnx_ir.Value, *, wide: bool, shaped: bool) -> onnx.ValueInfoProto:
    if not isinstance(value.type, onnx_ir.TensorType):
        raise CannotRun(f"the type of '{value.name}' is not known")
    kind = int(value.type.dtype)
    if wide:
        kind = _FLOATS.get(kind, kind)
    shape: list[int | None] | None = None
    if shaped and value.const_value is not None:
        shape = [int(d) for d in value.const_value.shape.numpy()]
    elif value.shape is not None and not shaped:
        shape = [None for _ in value.shape]
    return helper.make_tensor_value_info(name, kind, shape)


def _embed(value: onnx_ir.Value, *, wide: bool) -> onnx.TensorProto:
    tensor = value.const_value
    assert tensor is not None
    if wide and int(tensor.dtype) in _FLOATS:
        return numpy_helper.from_array(tensor.numpy().astype(np.float64), _name(value))
    proto = onnx_ir.serde.serialize_tensor(tensor)
    proto.name = _name(value)
    return proto


def _widen(graph: onnx.GraphProto) -> None:
    """Turn float32 into float64 where attributes say float32 (Cast, ConstantOfShape, Constant, …)."""
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}:
            raise CannotRun("quantization has no float64 form")
        for attribute in node.attribute:
            if attribute.name in {"to", "dtype", "output_dtype", "stash_type"}:
                attribute.i = _FLOATS.get(attribute.i, attribute.i)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                if attribute.t.data_type in _FLOATS:
                    array = numpy_helper.to_array(attribute.t).astype(np.float64)
                    attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))
            elif attribute.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}:
                raise CannotRun("a subgraph has no float64 form")


def save_reproducer(verdict: Verdict, folder: Path, name: str) -> Path:
    """Write ``NAME.onnx`` (outputs ``old_k`` and ``new_k`` should agree) and ``NAME.npz`` (its inputs)."""
    folder.mkdir(parents=True, exist_ok=True)
    assert verdict.cut is not None
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    model, data = folder / f"{safe}.onnx", folder / f"{safe}.npz"
    model.write_bytes(verdict.cut.SerializeToString())
    np.savez(data, allow_pickle=False, **verdict.feeds)
    return model
