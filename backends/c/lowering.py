"""From the nodes of a model to steps: what emitters see and write to.

Every value of the model is a :class:`Form`, which exists as a tensor in the standard's order of axes (``plain``), with
channels last (``last``), or both; the other is made when somebody asks. A value that an integer tensor stands for keeps
the integers and the grid: reading it as real numbers costs no memory, moving it around moves integers.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.backends.c.forms import Form
from whet.backends.c.program import Buffer, Grid, Kernel, Parameter, Program, Step, Tensor
from whet.backends.c.registry import Decline
from whet.backends.c.spelling import C_TYPES
from whet.backends.facts import Facts
from whet.backends.layouts import LAST, PLAIN, Layout, to_last, to_plain
from whet.backends.reading import Reading
from whet.ir.array import Array

__all__ = ["Lowering"]

_FEW = 16
"""Integers that four bits can tell apart."""


class Lowering(Reading):
    """One model on its way to C."""

    def __init__(self, facts: Facts) -> None:
        """Begin with the inputs."""
        super().__init__(facts)
        self.steps: list[Step] = []
        self.notes: list[str] = []
        self.integers = False
        """Whether an emitter rounds to a grid that is found while the model runs."""
        self._forms: dict[onnx_ir.Value, Form] = {}
        self._names: dict[Buffer, str] = {}
        self._constants: dict[tuple[str, bytes], Buffer] = {}
        self._label = ""
        self._begun = 0
        self._inputs: list[tuple[str, Tensor]] = []
        for value in facts.model.graph.inputs:
            if value.const_value is None:
                self._enter(value)

    # What emitters ask.

    def dtype(self, value: onnx_ir.Value) -> np.dtype[np.generic]:
        """Return the element type of a value as the model has it."""
        return self.facts.array(value).dtype

    def form(self, value: onnx_ir.Value | None) -> Form:
        """Return how a value exists; a constant comes into being when it is first read."""
        assert value is not None
        if value not in self._forms:
            array = self.known(value)
            assert array is not None, value.name
            self._forms[value] = Form(array.shape, {PLAIN: self.constant(array, value.name or "")})
        return self._forms[value]

    def tensor(self, value: onnx_ir.Value | None, layout: Layout = PLAIN) -> Tensor:
        """Return the elements of a value in a layout, which are moved if need be."""
        return self.laid_out(self.form(value), layout)

    def laid_out(self, form: Form, layout: Layout) -> Tensor:
        """Return the elements in a layout."""
        if layout not in form.tensors:
            (tensor,) = form.tensors.values()
            axes = to_last(form.rank) if layout == LAST else to_plain(form.rank)
            form.tensors[layout] = self.transposed(tensor, axes)
        return form.tensors[layout]

    def layout(self, *values: onnx_ir.Value | None) -> Layout:
        """Return the layout in which most is there already."""
        forms = [self.form(v) for v in values if v is not None]
        made = [f for f in forms if not f.constant and f.rank > 2]
        return LAST if made and all(LAST in f.tensors for f in made) else PLAIN

    def note_packed(self, integers: Array) -> None:
        """Say so if weights have fewer bits than they take here."""
        if integers.size > _FEW and int(integers.max()) - int(integers.min()) < _FEW:
            note = "Weights of four bits or fewer were unpacked: they take eight bits here."
            if note not in self.notes:
                self.notes.append(note)

    # What emitters make.

    def constant(self, array: Array, name: str) -> Tensor:
        """Return a constant tensor; equal ones are stored once."""
        if array.dtype.name not in C_TYPES:
            raise Decline(f"constant '{name}' is {array.dtype}, which C99 has no type for")
        kept = np.ascontiguousarray(array)
        key = (kept.dtype.name, kept.tobytes())
        buffer = self._constants.get(key)
        if buffer is None:
            buffer = Buffer(name, kept.nbytes, "constant", len(self._constants))
            self._constants[key] = buffer
            self._names[buffer] = name
        return Tensor(array.shape, kept.dtype, buffer, kept.reshape(array.shape))

    def make(self, shape: Sequence[int], dtype: np.dtype[np.generic], name: str = "") -> Tensor:
        """Return a tensor to be written."""
        if dtype.name not in C_TYPES:
            raise Decline(f"{dtype} is not supported; float32 models and int8 models are")
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return Tensor(tuple(shape), dtype, Buffer(name, size))

    def define(
        self,
        value: onnx_ir.Value,
        tensor: Tensor,
        layout: Layout = PLAIN,
        grid: Grid | None = None,
    ) -> None:
        """Say that a value is in a tensor."""
        if not tensor.buffer.name:
            tensor.buffer.name = value.name or ""
        self._forms[value] = Form(self.shape(value), {layout: tensor}, grid)

    def share(self, value: onnx_ir.Value, form: Form) -> None:
        """Say that a value is another one."""
        self._forms[value] = form

    def call(
        self,
        hint: str,
        parameters: Sequence[Parameter],
        body: str,
        *,
        in_place: Sequence[Tensor] = (),
        scratch: Sequence[Tensor] = (),
        fails: bool = False,
    ) -> None:
        """Add a step of one kernel."""
        self.calls([self.kernel(hint, parameters, body, fails=fails)], in_place, scratch)

    @staticmethod
    def kernel(
        hint: str, parameters: Sequence[Parameter], body: str, *, fails: bool = False
    ) -> tuple[Kernel, Sequence[Parameter]]:
        """Return a kernel and what it is called with."""
        kernel = Kernel(hint, tuple(p.declaration for p in parameters), body.strip(), fails)
        return kernel, parameters

    def calls(
        self,
        calls: Sequence[tuple[Kernel, Sequence[Parameter]]],
        in_place: Sequence[Tensor] = (),
        scratch: Sequence[Tensor] = (),
    ) -> None:
        """Add a step of several kernels, one after the other."""
        reads: list[Buffer] = []
        writes: list[Buffer] = []
        own = [t.buffer for t in scratch]
        made: list[tuple[Kernel, tuple[Parameter, ...]]] = []
        for kernel, parameters in calls:
            made.append((kernel, tuple(parameters)))
            for p in parameters:
                if isinstance(p.given, Tensor) and p.given.buffer not in own:
                    (writes if p.written else reads).append(p.given.buffer)
        given = [p.given.buffer for _, ps in made for p in ps if isinstance(p.given, Tensor)]
        kept = tuple(t.buffer for t in in_place if given.count(t.buffer) == 1)
        self.steps.append(Step(self._label, made, _once(reads), _once(writes), own, kept))

    def transposed(self, tensor: Tensor, axes: Sequence[int]) -> Tensor:
        """Return the elements in another order of axes: the same memory where that moves nothing."""
        shape = tuple(tensor.shape[a] for a in axes)
        moved = [a for a in axes if tensor.shape[a] != 1]
        if moved == sorted(moved):
            return tensor.reshaped(shape)
        if tensor.array is not None:
            return self.constant(tensor.array.transpose(axes), tensor.buffer.name)
        from whet.backends.c.copying import transpose

        result = self.make(shape, tensor.dtype, f"{tensor.buffer.name}, axes in another order")
        self.calls([transpose(tensor, result, axes)])
        return result

    # What the driver does.

    def begin(self, node: onnx_ir.Node) -> None:
        """Label what follows."""
        self._label = f"{node.op_type} {node.name}".strip()
        self._begun = len(self.steps)

    def forget(self) -> None:
        """Drop the steps of the node that was begun last."""
        del self.steps[self._begun :]

    def finish(self) -> Program:
        """Give outputs their places; return the program."""
        outputs: list[tuple[str, Tensor]] = []
        grids: dict[str, Grid] = {}
        for number, value in enumerate(self.facts.model.graph.outputs):
            name = value.name or f"output {number}"
            self._label = f"output {name}"
            outputs.append((name, self._output(value, number)))
            grid = self.form(value).grid
            if grid is not None:
                grids[name] = grid
        used = {b for step in self.steps for b in step.reads}
        constants = [
            (name, self._constant_tensor(buffer))
            for buffer, name in self._names.items()
            if buffer in used
        ]
        integers = self.integers or any(form.grid is not None for form in self._forms.values())
        return Program(
            self._inputs, outputs, self.steps, constants, grids, integers, list(self.notes)
        )

    def _constant_tensor(self, buffer: Buffer) -> Tensor:
        for (name, data), kept in self._constants.items():
            if kept is buffer:
                dtype = np.dtype(name)
                array = np.frombuffer(data, dtype)
                return Tensor(array.shape, dtype, buffer, array)
        raise AssertionError(buffer.name)

    def _enter(self, value: onnx_ir.Value) -> None:
        array = self.facts.array(value)
        name = value.name or f"input {len(self._inputs)}"
        if array.dtype.name not in C_TYPES:
            raise Decline(f"input '{name}' is {array.dtype}; float32 and integers are supported")
        buffer = Buffer(name, array.nbytes, "input", len(self._inputs))
        tensor = Tensor(array.shape, array.dtype, buffer)
        self._inputs.append((name, tensor))
        self._forms[value] = Form(array.shape, {PLAIN: tensor})

    def _output(self, value: onnx_ir.Value, number: int) -> Tensor:
        """Return an output's tensor in the caller's memory: the one that was made, or a copy of it."""
        from whet.backends.c.copying import copied, real

        form = self.form(value)
        tensor = self.laid_out(form, PLAIN)
        if form.grid is not None and self.dtype(value).kind == "f":
            result = self.make(form.shape, np.dtype(np.float32), value.name or "")
            self.calls([real(tensor, form.grid, result)])
            tensor = result
        elif tensor.buffer.place != "arena" or tensor.buffer.bytes != _bytes(tensor):
            result = self.make(form.shape, tensor.dtype, value.name or "")
            self.calls([copied(tensor, result)])
            tensor = result
        tensor.buffer.place, tensor.buffer.number = "output", number
        return tensor.reshaped(form.shape)


def _bytes(tensor: Tensor) -> int:
    return tensor.size * tensor.dtype.itemsize


def _once(buffers: Sequence[Buffer]) -> list[Buffer]:
    return list(dict.fromkeys(buffers))
