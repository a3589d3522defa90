"""How numbers, types, names and blocks are spelled in C99."""

import math
import re

import numpy as np

from whet.backends.c.registry import Decline
from whet.ir.array import Array

__all__ = ["C_TYPES", "c_type", "floating", "identifier", "indent", "integer", "listed", "literal"]

C_TYPES = {
    "float32": "float",
    "bool": "uint8_t",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""Element types that C code is generated for; truth values are bytes, 0 or 1."""
_WIDTH = 100


def c_type(dtype: np.dtype[np.generic]) -> str:
    """Return the C type of an element; raises Decline."""
    if dtype.name not in C_TYPES:
        raise Decline(f"{dtype} is not supported; float32, integers and truth values are")
    return C_TYPES[dtype.name]


def floating(number: float) -> str:
    """Spell a float so that it reads back to the same bits: ``0.1f``, ``1e-05f``."""
    value = np.float32(number)
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = f"{float(value):.9g}"
    short = str(value)
    if len(short) < len(text) and np.float32(short) == value:
        text = short
    return f"{text}f" if re.search(r"[.e]", text) else f"{text}.0f"


def integer(number: int) -> str:
    """Spell an integer of up to 64 bits; the most negative ones have no literal of their own."""
    if number == -(2**63):
        return "(-INT64_C(9223372036854775807) - 1)"
    if number == -(2**31):
        return "(-2147483647 - 1)"
    if number > 2**63 - 1:
        return f"UINT64_C({number})"
    if -(2**31) < number < 2**31:
        return str(number)
    return f"UINT32_C({number})" if 0 < number < 2**32 else f"INT64_C({number})"


def literal(value: object) -> str:
    """Spell one element of an array."""
    if isinstance(value, float | np.floating):
        return floating(float(value))
    return integer(int(value))  # type: ignore[call-overload]  # NumPy's integers and booleans


def listed(array: Array) -> str:
    """Spell all elements, in lines of a readable length."""
    flat = array.reshape(-1)
    if array.dtype.kind == "f":
        words = [floating(x) for x in flat.tolist()]
    else:
        words = [integer(int(x)) for x in flat.tolist()]
    lines: list[str] = []
    line = ""
    for word in words:
        if len(line) + len(word) + 2 > _WIDTH:
            lines.append(line.rstrip())
            line = ""
        line += f"{word}, "
    return "\n".join([*lines, line.rstrip().rstrip(",")])


def identifier(name: str) -> str:
    """Return the nearest name that C accepts."""
    text = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "x"
    return f"x{text}" if text[0].isdigit() else text


def indent(text: str) -> str:
    """Indent lines by the braces around them."""
    depth, lines = 0, list[str]()
    for raw in text.splitlines():
        line = raw.strip()
        if not line:
            continue
        depth -= line.startswith("}")
        lines.append("    " * depth + line)
        depth += line.endswith("{")
    return "\n".join(lines)
