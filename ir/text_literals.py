"""Read the leaves of the text form: numbers, tensors, types and notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import onnx_ir

from whet.ir.text_lexer import Kind, Lexer
from whet.ir.text_syntax import UNKNOWN, WORD_TO_DTYPE
from whet.ir.text_tensor import element_count, stand_in_tensor, tensor_from_elements

T = TypeVar("T")

_MAX_ELEMENTS = 1 << 31


@dataclass
class Notes:
    """Holds what follows ``@``: the name of a node, a doc string, metadata."""

    name: str = ""
    doc: str | None = None
    metadata: dict[str, str] | None = None


class LiteralParser:
    """Reads what holds no values of a graph."""

    def __init__(self, source: str) -> None:
        self._lexer = Lexer(source)

    def _notes(self) -> Notes:
        lexer, notes = self._lexer, Notes()
        while lexer.accept("@"):
            if lexer.at("{"):
                notes.metadata = dict(self._sequence("{", "}", self._pair))
            elif lexer.accept("doc"):
                notes.doc = lexer.string("a quoted string")
            else:
                notes.name = lexer.string("a quoted name, 'doc' or '{'")
        return notes

    def _pair(self) -> tuple[str, str]:
        key = self._lexer.string("a quoted key")
        self._lexer.expect(":")
        return key, self._lexer.string("a quoted string")

    def _tensor(self) -> onnx_ir.TensorProtocol:
        lexer = self._lexer
        token = lexer.token
        dtype = self._dtype()
        shape = self._sequence("[", "]", self._integer) if lexer.at("[") else []
        count = element_count(dtype, shape)
        if count > _MAX_ELEMENTS or any(dim < 0 for dim in shape):
            lexer.fail(f"shape {shape} is negative or too large", token)
        if lexer.token.kind is Kind.DIGEST:
            digest = lexer.advance().text.removeprefix("<sha256:").removesuffix(">")
            return stand_in_tensor(dtype, shape, digest)
        elements = self._sequence("{", "}", self._element)
        if len(elements) != count:
            lexer.fail(f"shape {shape} needs {count} elements, found {len(elements)}", token)
        try:
            return tensor_from_elements(dtype, shape, elements)
        except (ValueError, TypeError, OverflowError) as error:
            lexer.fail(str(error), token)

    def _element(self) -> bool | int | float | bytes:
        lexer = self._lexer
        if lexer.token.kind is Kind.STRING:
            return lexer.string("a string").encode()
        if lexer.token.kind is Kind.BYTES:
            return bytes.fromhex(lexer.advance().text[2:-1])
        if lexer.accept("true"):
            return True
        return False if lexer.accept("false") else self._number()

    def _type(self) -> tuple[onnx_ir.TypeProtocol | None, onnx_ir.Shape | None]:
        lexer = self._lexer
        if lexer.accept(UNKNOWN):
            return None, self._shape()
        for word, wrapper in _WRAPPERS.items():
            if lexer.accept(word):
                lexer.expect("(")
                token = lexer.token
                inner, shape = self._type()
                if inner is None:
                    lexer.fail(f"'{word}' needs an element type", token)
                lexer.expect(")")
                return wrapper(inner), shape
        dtype, shape = self._dtype(), self._shape()
        return onnx_ir.TensorType(dtype, denotation=self._denotation()), shape

    def _denotation(self) -> str | None:
        return self._lexer.name("a denotation") if self._lexer.accept("~") else None

    def _shape(self) -> onnx_ir.Shape | None:
        if not self._lexer.at("["):
            return None
        dims = self._sequence("[", "]", lambda: (self._dim(), self._denotation()))
        return onnx_ir.Shape([dim for dim, _ in dims], [note for _, note in dims])

    def _dim(self) -> int | onnx_ir.SymbolicDim:
        if self._lexer.accept(UNKNOWN):
            return onnx_ir.SymbolicDim(None)
        if self._lexer.token.kind is Kind.NUMBER:
            return self._integer()
        return onnx_ir.SymbolicDim(self._lexer.name("a dimension"))

    def _dtype(self) -> onnx_ir.DataType:
        token = self._lexer.token
        word = self._lexer.take(Kind.NAME, "an element type")
        if word not in WORD_TO_DTYPE:
            self._lexer.fail(f"unknown element type '{word}'", token)
        return WORD_TO_DTYPE[word]

    def _integer(self) -> int:
        token = self._lexer.token
        number = self._number()
        if not isinstance(number, int):
            self._lexer.fail(f"expected an integer, found '{token.text}'", token)
        return number

    def _number(self) -> int | float:
        lexer = self._lexer
        for word in ("inf", "nan"):
            if lexer.accept(word):
                return float(word)
        text = lexer.take(Kind.NUMBER, "a number")
        return int(text) if text.lstrip("-").isdigit() else float(text)

    def _sequence(self, opener: str, closer: str, item: Callable[[], T]) -> list[T]:
        lexer, items = self._lexer, list[T]()
        lexer.expect(opener)
        while not lexer.accept(closer):
            if items:
                lexer.expect(",")
            items.append(item())
        return items


def _sparse(inner: onnx_ir.TypeProtocol) -> onnx_ir.SparseTensorType:
    return onnx_ir.SparseTensorType(inner.dtype)


_WRAPPERS: dict[str, Callable[[onnx_ir.TypeProtocol], onnx_ir.TypeProtocol]] = {
    "sequence": onnx_ir.SequenceType,
    "optional": onnx_ir.OptionalType,
    "sparse": _sparse,
}
