"""The text form of a model: readable, stable, one node per line, long weights in short.

::

    model {ir_version=10, opset={"": 23}}

    graph mlp(x: float32[N, 4]) -> (y: float32[N, 2]) {
      fc.weight = float32[4, 2] {0.5, 1.0, 0.0, 2.0, -1.0, 0.25, 0.0, 1.0}
      fc.bias = float32[64] <sha256:9f3a0c41d2b85e77>
      h: float32[N, 2] = MatMul(x, fc.weight) @"/fc/MatMul"
      y = com.example::Scale(h, _, fc.bias) {alpha=0.5, axes=[0, 1]}
    }

Grammar (``name`` is bare or quoted, ``_`` a missing input or output, ``#`` starts a comment)::

    model      = "model" "{" fields "}" notes "graph" graph {function}
    function   = "function" name "::" name [":" name] signature ["with" "{" fields "}"] notes body
    graph      = [name] signature notes body
    signature  = "(" [value {"," value}] ")" "->" "(" [value {"," value}] ")"
    body       = "{" {statement} "}"
    statement  = value "=" (tensor | "?")
               | (value {"," value} | "()") "=" operator "(" names ")" ["{" attributes "}"] notes
    operator   = [name "::"] name [":" overload]
    value      = name [":" type] notes
    type       = dtype [shape] [denotation] | "?" [shape]
               | ("sequence" | "optional" | "sparse") "(" type ")"
    shape      = "[" {(integer | name | "?") [denotation]} "]"
    denotation = "~" name
    tensor     = dtype shape ("{" literals "}" | "<sha256:" hex ">")
    attribute  = name "=" (number | string | list | tensor | "graph" graph | "type" type
                           | "ref" name ":" KIND | "undefined")
    notes      = {"@" string | "@" "doc" string | "@" "{" string ":" string … "}"}

Types of graph inputs and outputs stand in the signature, all others where the value is defined.
An initializer without a type has that of its tensor. Attributes of type float are float32.

Not carried: doc strings of attributes, NaN payloads, quantization annotations and
device configurations.
"""

import difflib

import onnx_ir

from whet.ir.text_parser import Parser
from whet.ir.text_printer import Printer, number_values

DEFAULT_ELIDE = 16
"""Tensors of more elements than this are printed as a digest of their bytes."""


def print_model(model: onnx_ir.Model, *, elide: int = DEFAULT_ELIDE, renumber: bool = False) -> str:
    """Return the text form of a model; ``parse_model`` reads it back and prints the same.

    With ``renumber`` only what the model computes is printed: values are ``%0``, ``%1``, … by
    first appearance, and names of nodes, notes, producers and intermediate types are left out.
    """
    return Printer(elide, number_values(model) if renumber else None).model(model)


def print_node(node: onnx_ir.Node, *, elide: int = DEFAULT_ELIDE) -> str:
    """Return the text of one node, as in :func:`print_model`."""
    return Printer(elide).node(node, frozenset(), "")


def parse_model(text: str) -> onnx_ir.Model:
    """Read a model from its text form.

    An elided weight becomes a pseudo-random tensor seeded by its digest (see
    :func:`whet.ir.text_tensor.stand_in_tensor`); it prints as the same digest again.

    Raises:
        InvalidModel: If the text breaks the grammar or uses an unknown value; the message shows
            the line and the column.
    """
    return Parser(text).model()


def same_structure(first: onnx_ir.Model, second: onnx_ir.Model) -> bool:
    """Say whether two models have the same nodes, attributes and weights, whatever the names."""
    return print_model(first, renumber=True) == print_model(second, renumber=True)


def assert_same_text(actual: onnx_ir.Model, expected: onnx_ir.Model | str) -> None:
    """Raise an :class:`AssertionError` with a diff unless the structures are the same."""
    if isinstance(expected, str):
        expected = parse_model(expected)
    want = print_model(expected, renumber=True)
    have = print_model(actual, renumber=True)
    if want != have:
        lines = difflib.unified_diff(
            want.splitlines(), have.splitlines(), "expected", "actual", lineterm=""
        )
        raise AssertionError("the models differ\n" + "\n".join(lines))
