"""From the nodes of a model to Relax: what emitters see and write to.

Every value exists as a tensor in the standard's order of axes (``PLAIN``), with channels last (``LAST``), or both; the
other is made when somebody asks. Constants are parameters of the Relax function, laid out as the kernels read them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir

from whet.backends.facts import Facts
from whet.backends.layouts import LAST, PLAIN, Layout, to_last, to_plain
from whet.backends.reading import Reading
from whet.backends.tvm.api import Expr, relax, te
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.registry import Decline
from whet.backends.tvm.schedules import Schedules, spell
from whet.ir.array import Array
from whet.ir.values import attribute_ints

if TYPE_CHECKING:
    from whet.backends.tvm.works.work import Packing

__all__ = ["TYPES", "Lowering", "ints"]

TYPES = frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
"""Element types that are computed with."""


def ints(node: onnx_ir.Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    """Return a list-of-integers attribute or its default."""
    found = attribute_ints(node, name, default)
    assert found is not None
    return tuple(int(n) for n in found)


class Lowering(Reading):
    """One model on its way to Relax."""

    def __init__(self, facts: Facts, builder: Any, machine: Machine, schedules: Schedules) -> None:
        """Begin with the inputs."""
        super().__init__(facts)
        self.machine = machine
        self._schedules = schedules
        self.inputs: list[Any] = []
        self.weights: dict[str, Array] = {}
        """Constants by the name of their parameter, in order."""
        self._builder = builder
        self._parameters: dict[str, Any] = {}
        self._forms: dict[onnx_ir.Value, dict[Layout, Any]] = {}
        self._functions: dict[object, Any] = {}
        for value in facts.model.graph.inputs:
            if value.const_value is None:
                self._enter(value)

    # What emitters ask.

    def dtype(self, value: onnx_ir.Value | None) -> str:
        """Return the element type of a value."""
        assert value is not None
        return self.facts.array(value).dtype.name

    def has(self, value: onnx_ir.Value, layout: Layout = PLAIN) -> bool:
        """Tell whether a value was computed already, and is there in a layout."""
        return layout in self._forms.get(value, {})

    def tensor(self, value: onnx_ir.Value | None, layout: Layout = PLAIN) -> Any:
        """Return a value in a layout; it is transposed if need be, at compile time where it is constant."""
        assert value is not None
        forms = self._forms.setdefault(value, {})
        if layout in forms:
            return forms[layout]
        array = self.known(value)
        rank = len(self.shape(value))
        axes = to_last(rank) if layout == LAST else to_plain(rank)
        if array is not None:
            moved = array.transpose(axes) if layout == LAST else array
            forms[layout] = self.constant(moved)
        elif rank < 3:
            forms[layout] = next(iter(forms.values()))
        else:
            from whet.backends.tvm.operators.movement import transposed

            forms[layout] = self.te(transposed(axes), next(iter(forms.values())), name="transpose")
        return forms[layout]

    def layout(self, *values: onnx_ir.Value | None) -> Layout:
        """Return the layout in which what is computed is there already."""
        made = [self._forms[v] for v in values if v is not None and v in self._forms]
        made = [forms for forms in made if not self._parameters_only(forms)]
        return LAST if made and all(LAST in forms for forms in made) else PLAIN

    def _parameters_only(self, forms: Mapping[Layout, Any]) -> bool:
        return all(any(form is p for p in self._parameters.values()) for form in forms.values())

    # What emitters make.

    def constant(self, array: Array) -> Any:
        """Return a constant as a parameter of the function; equal ones are stored once."""
        if array.dtype.name not in TYPES:
            raise Decline(f"a constant is {array.dtype}, which is not supported")
        kept = np.ascontiguousarray(array).reshape(array.shape)
        digest = hashlib.sha256(kept.tobytes()).hexdigest()
        key = f"{kept.dtype.name}{kept.shape}{digest}"
        if key not in self._parameters:
            name = f"w{len(self.weights)}"
            self._parameters[key] = relax.Var(name, relax.TensorType(kept.shape, kept.dtype.name))
            self.weights[name] = kept
        return self._parameters[key]

    def te(self, function: Callable[..., Any], *arguments: Any, name: str = "") -> Any:
        """Return what a function of TE tensors makes of tensors."""
        hint = {"primfunc_name_hint": name} if name else {}
        return self._builder.emit_te(function, *arguments, **hint)

    def call(
        self,
        key: object,
        make: Callable[[], Any],
        arguments: Sequence[Any],
        shape: Sequence[int],
        dtype: str = "float32",
    ) -> Any:
        """Return the result of a kernel; those of equal ``key`` are one function."""
        if key not in self._functions:
            function = make().without_attr("global_symbol").with_attr("whet.kernel", 1)
            name = str(key[0]) if isinstance(key, tuple) and key else "kernel"
            self._functions[key] = self._builder.add_func(function, name)
        result = relax.TensorType(tuple(shape), dtype)
        return self._builder.emit(relax.call_tir(self._functions[key], list(arguments), result))

    def cut(self, work: "Packing", x: Any, weights: Array) -> Any:
        """Return the result of a kernel for ``x`` and fixed weights, cut as was measured or calculated to be best."""
        schedule = self._schedules.find(work)
        packed = self.constant(work.pack(weights, schedule))
        arguments = [x, packed, *work.ending.tensors]
        key = (work.name, work.key, spell(schedule))
        return self.call(key, lambda: work.function(schedule), arguments, *work.result)

    def reshaped(self, tensor: Any, shape: Sequence[int]) -> Any:
        """Return a view of the same elements in another shape."""
        return self._builder.emit(relax.op.reshape(tensor, tuple(shape)))

    def define(self, value: onnx_ir.Value, tensor: Any, layout: Layout = PLAIN) -> None:
        """Say which tensor a value is."""
        self._forms.setdefault(value, {})[layout] = tensor

    def finish(self) -> tuple[list[Any], Any]:
        """Return the parameters, inputs first, and the outputs."""
        used: set[int] = set()
        outputs: list[Any] = []
        given = [*self.inputs, *self._parameters.values()]
        for value in self.facts.model.graph.outputs:
            tensor = self.tensor(value)
            if any(tensor is p for p in given) or id(tensor) in used:
                tensor = self.te(_copy, tensor, name="copy")
            used.add(id(tensor))
            outputs.append(self._builder.emit_output(tensor))
        return [*self.inputs, *self._parameters.values()], relax.Tuple(outputs)

    def _enter(self, value: onnx_ir.Value) -> None:
        array = self.facts.array(value)
        if array.dtype.name not in TYPES:
            raise Decline(f"input '{value.name}' is {array.dtype}, which is not supported")
        kind = relax.TensorType(tuple(array.shape), array.dtype.name)
        variable = relax.Var(f"x{len(self.inputs)}", kind)
        self.inputs.append(variable)
        self._forms[value] = {PLAIN: variable}


def _copy(x: Expr) -> Expr:
    return te.compute(x.shape, lambda *i: x(*i), name="copy")
