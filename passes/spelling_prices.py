"""Price a rewrite before it is made: the old and the new spelling as small models, at the shapes that were seen."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir
from onnx import helper

from whet.analysis.activations import observed_shapes
from whet.analysis.prices import KernelModel
from whet.errors import Mismatch
from whet.ir.bindings import Bindings, random_tensor
from whet.ir.values import Array, constant, is_constant
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench

__all__ = ["PLAIN", "SeenShapes", "SpellingPrices"]

PLAIN = "plain"
"""The format under which the operators that are there now are measured."""
_WORTH = 0.95
"""Another spelling must take less than this share of the time of the one that is there."""
_REAL = 256
"""Constants of up to this many elements are measured as they are, because what they hold can decide what the runtime
fuses; larger ones are noise of their shape."""
_LIMIT = 1 << 28
"""Constants of more bytes are not measured: they would be held several times."""

Shape = tuple[int, ...]


class SeenShapes:
    """Look up shapes at every binding: computed where the model says enough, else seen in a run."""

    def __init__(self, work: Workbench, values: Iterable[onnx_ir.Value] = ()) -> None:
        """Find the shapes of ``values`` at once; others are found when they are asked for."""
        self._model = work.model
        self._context = work.context
        self._found: tuple[dict[str, Shape], ...] = tuple({} for _ in self._choices)
        self._find(values)

    def every(self, value: onnx_ir.Value) -> tuple[Shape, ...]:
        """Return the shape at each binding; raises Mismatch where it is not known."""
        tensor = value.const_value
        if tensor is not None:
            return (tuple(int(d) for d in tensor.shape.numpy()),) * len(self._choices)
        name = value.name or ""
        if name not in self._found[0]:
            self._find([value])
        if not all(name in shapes for shapes in self._found):
            raise Mismatch(f"the shape of '{name}' is not known")
        return tuple(shapes[name] for shapes in self._found)

    def first(self, value: onnx_ir.Value) -> Shape:
        """Return the shape at the first binding, where everything is measured; raises Mismatch."""
        return self.every(value)[0]

    @property
    def _choices(self) -> Sequence[Mapping[str, int]]:
        return self._context.bindings.choices

    def _find(self, values: Iterable[onnx_ir.Value]) -> None:
        wanted = [value for value in values if not is_constant(value)]
        for choice, shapes in zip(self._choices, self._found, strict=True):
            bindings = Bindings((choice,), self._context.bindings.examples)
            shapes |= observed_shapes(self._model, wanted, bindings, self._context.threads)


class SpellingPrices:
    """Measure what a proposal takes away against what it brings."""

    def __init__(self, work: Workbench, shapes: SeenShapes) -> None:
        """Measure with the prices of ``work``."""
        self._prices = work.context.prices
        self._shapes = shapes
        self._opsets = {"com.microsoft": 1, **work.graph.opset_imports}

    def demand_faster(self, proposal: Proposal, name: str) -> None:
        """Raise Mismatch unless the new spelling, called ``name``, was measured to be clearly faster."""
        old, new = self.measure(proposal, name)
        if new >= old * _WORTH:
            raise Mismatch(f"{name} takes {new:.3g} ms, the plain operators {old:.3g} ms")

    def measure(self, proposal: Proposal, name: str) -> tuple[float, float]:
        """Return the milliseconds of what is there now and of the new spelling, called ``name``; raises Mismatch."""
        if self._prices is None:
            raise Mismatch("nothing may be measured here, so the plain operators stay")
        kept = _survivors(proposal)
        outputs = [old for old, _ in proposal.outputs]
        seen = [*proposal.old, *proposal.new]
        read = [v for node in kept for v in node.outputs if _read_outside(v, seen)]
        plain = _Spelling(_ordered(proposal.old), [*outputs, *read])
        other = _Spelling(
            _ordered([*kept, *proposal.new]), [*(new for _, new in proposal.outputs), *read]
        )
        models = {PLAIN: self._model(plain, plain), name: self._model(other, plain)}
        times = self._prices.lookup(f"{self._text(plain)} | {self._text(other)}", models)
        if PLAIN not in times or name not in times:
            missing = name if PLAIN in times else "what is there now"
            raise Mismatch(f"the runtime does not run {missing} by itself")
        return times[PLAIN], times[name]

    def _text(self, spelling: "_Spelling") -> str:
        """Return operators, shapes and attributes: all that the time may depend on."""
        labels = {value: self._label(value) for value in spelling.inputs}
        numbered = {
            v: f"x{k}" for k, v in enumerate(v for v in spelling.inputs if not is_constant(v))
        }
        for value, number in numbered.items():
            labels[value] = number + labels[value]
        words: list[str] = []
        for node in spelling.nodes:
            operands = [("_" if v is None else labels[v]) for v in node.inputs]
            operands += [f"{k}={_plain(node.attributes[k])}" for k in sorted(node.attributes)]
            words.append(f"{node.op_type}({', '.join(operands)})")
            for value in node.outputs:
                labels[value] = f"%{len(labels) - len(spelling.inputs)}"
        shown = ", ".join(labels[value] for value in spelling.outputs)
        return f"{' '.join(words)} -> {shown}"

    def _label(self, value: onnx_ir.Value) -> str:
        array = constant(value)
        if array is not None and array.size == 1 and not _is_scale(value):
            return f"{array.reshape(-1)[0]:g}"
        plain = value.dtype in {None, onnx_ir.DataType.FLOAT}
        kind = "" if plain else f":{value.dtype}".lower()
        sizes = ",".join(map(str, self._shapes.first(value)))
        return f"{'w' if array is not None else ''}{kind}[{sizes}]"

    def _model(self, spelling: "_Spelling", plain: "_Spelling") -> KernelModel:
        """Return a maker of the model; its weights are drawn when it is called."""
        fed = [value for value in plain.inputs if not is_constant(value)]
        shapes = {value: self._shapes.first(value) for value in [*fed, *spelling.inputs]}
        weights = [value for value in spelling.inputs if is_constant(value)]
        if sum(v.const_value.nbytes for v in weights if v.const_value is not None) > _LIMIT:
            raise Mismatch(f"its weights take more than {_LIMIT:,} bytes, too many to measure")
        nodes = [onnx_ir.serde.serialize_node(node) for node in spelling.nodes]
        outputs = [
            _declare(value, like)
            for value, like in zip(spelling.outputs, plain.outputs, strict=True)
        ]
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]

        def make() -> tuple[bytes, Mapping[str, Array]]:
            feeds = {v.name or "": _draw(v, shapes[v], k) for k, v in enumerate(fed)}
            used = {v.name for v in spelling.inputs}
            inputs = [_input(name, array) for name, array in feeds.items() if name in used]
            initializers = [_weight(v, shapes[v], k) for k, v in enumerate(weights)]
            graph = helper.make_graph(nodes, "kernel", inputs, outputs, initializers)
            model = helper.make_model(
                graph, opset_imports=opsets, ir_version=min(onnx.IR_VERSION, 10)
            )
            return model.SerializeToString(), {n: a for n, a in feeds.items() if n in used}

        return make


class _Spelling:
    """Nodes in order, what they read from outside, and what is read of them."""

    def __init__(self, nodes: Sequence[onnx_ir.Node], outputs: Sequence[onnx_ir.Value]) -> None:
        made = {value for node in nodes for value in node.outputs}
        read = [value for node in nodes for value in node.inputs if value is not None]
        self.nodes = nodes
        self.inputs = [value for value in dict.fromkeys(read) if value not in made]
        self.outputs = list(dict.fromkeys(outputs))


def _is_scale(value: onnx_ir.Value) -> bool:
    """Tell whether a number is a quantization scale: no time depends on which one it is."""
    standard = [(node, place) for node, place in value.uses() if not node.domain]
    return bool(standard) and all(
        node.op_type in {"DequantizeLinear", "QuantizeLinear"} and place == 1
        for node, place in standard
    )


def _ordered(nodes: Iterable[onnx_ir.Node]) -> list[onnx_ir.Node]:
    """Return the nodes so that each comes after those it reads."""
    left = dict.fromkeys(nodes)
    found: list[onnx_ir.Node] = []

    def visit(node: onnx_ir.Node) -> None:
        del left[node]
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer in left:
                visit(producer)
        found.append(node)

    while left:
        visit(next(iter(left)))
    return found


def _survivors(proposal: Proposal) -> list[onnx_ir.Node]:
    """Return the old nodes that stay, because something that is not replaced is read elsewhere."""
    replaced = {old for old, _ in proposal.outputs}
    gone = list(proposal.old)
    while True:
        kept = [
            node
            for node in gone
            if not any(_read_outside(v, gone) for v in node.outputs if v not in replaced)
        ]
        if len(kept) == len(gone):
            return [node for node in proposal.old if node not in gone]
        gone = kept


def _read_outside(value: onnx_ir.Value, nodes: Sequence[onnx_ir.Node]) -> bool:
    return value.is_graph_output() or any(user not in nodes for user in value.consumers())


def _draw(value: onnx_ir.Value, shape: Shape, seed: int) -> Array:
    if value.dtype is None:
        raise Mismatch(f"the type of '{value.name}' is not known")
    return random_tensor(value.dtype, shape, np.random.default_rng(seed))


def _weight(value: onnx_ir.Value, shape: Shape, seed: int) -> onnx.TensorProto:
    array = constant(value)
    if array is None or array.size > _REAL:
        array = _draw(value, shape, seed)
    return onnx.numpy_helper.from_array(np.asarray(array), value.name)


def _input(name: str, array: Array) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, array.shape)


def _declare(value: onnx_ir.Value, like: onnx_ir.Value) -> onnx.ValueInfoProto:
    if like.dtype is None:
        raise Mismatch(f"the type of '{like.name}' is not known")
    return helper.make_tensor_value_info(value.name or "", int(like.dtype), None)


def _plain(attribute: onnx_ir.Attr) -> str:
    value = attribute.value
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
