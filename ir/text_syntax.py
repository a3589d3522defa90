"""Spelling of the text form, shared by printer and parser: names, strings, types, numbers."""

import functools
import json
import re
from collections.abc import Sequence

import numpy as np
import onnx_ir

MISSING = "_"
"""Stands for an input that is not given, or an output that nobody wants."""

UNKNOWN = "?"
"""Stands for an unnamed dimension, an untyped element or an initializer without data."""

_BARE = re.compile(r"[A-Za-z_%/$][A-Za-z0-9_.%/$]*")
_DTYPE_TO_WORD = {dtype: dtype.name.lower() for dtype in onnx_ir.DataType} | {
    onnx_ir.DataType.FLOAT: "float32",
    onnx_ir.DataType.DOUBLE: "float64",
}
WORD_TO_DTYPE = {word: dtype for dtype, word in _DTYPE_TO_WORD.items()}


def quote(text: str) -> str:
    """Spell a string in double quotes on one line (JSON escapes)."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


@functools.lru_cache(maxsize=1 << 16)
def spell_name(name: str) -> str:
    """Spell a name bare when it can stand without quotes, else quoted."""
    return name if _BARE.fullmatch(name) and name != MISSING else quote(name)


def spell_bytes(data: bytes | str) -> str:
    """Spell a string that is stored as bytes; bytes that are no UTF-8 become ``b"hex"``."""
    if isinstance(data, str):
        return quote(data)
    try:
        return quote(data.decode("utf-8"))
    except UnicodeDecodeError:
        return f'b"{data.hex()}"'


def spell_floats(values: Sequence[float]) -> list[str]:
    """Spell float32 numbers with the fewest digits that read back to the same float32."""
    with np.errstate(over="ignore"):
        return [str(number) for number in np.asarray(values, dtype=np.float32)]


def spell_dtype(dtype: onnx_ir.DataType) -> str:
    """Spell an element type as in numpy: ``float32``, ``int64``, ``bfloat16``, ``int4``."""
    return _DTYPE_TO_WORD[dtype]


def spell_shape(shape: onnx_ir.Shape | None) -> str:
    """Spell a shape as ``[2, N, ?]``; an unknown rank is nothing at all."""
    if shape is None:
        return ""
    dims = (_spell_dim(dim, shape.get_denotation(axis)) for axis, dim in enumerate(shape))
    return f"[{', '.join(dims)}]"


def spell_type(type_: onnx_ir.TypeProtocol | None, shape: onnx_ir.Shape | None) -> str:
    """Spell a type with its shape: ``float32[2, N]``, ``sequence(int64[?])``, ``?[3]``."""
    match type_:
        case None:
            return UNKNOWN + spell_shape(shape)
        case onnx_ir.SequenceType():
            return f"sequence({spell_type(type_.elem_type, shape)})"
        case onnx_ir.OptionalType():
            return f"optional({spell_type(type_.elem_type, shape)})"
        case onnx_ir.SparseTensorType():
            return f"sparse({spell_dtype(type_.dtype)}{spell_shape(shape)})"
        case _:
            text = spell_dtype(type_.dtype) + spell_shape(shape)
            return text + _spell_denotation(type_.denotation)


def _spell_dim(dim: int | onnx_ir.SymbolicDim, denotation: str | None) -> str:
    if isinstance(dim, int):
        text = str(dim)
    else:
        text = UNKNOWN if dim.value is None else spell_name(dim.value)
    return text + _spell_denotation(denotation)


def _spell_denotation(denotation: str | None) -> str:
    return "" if denotation is None else f"~{spell_name(denotation)}"
