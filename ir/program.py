"""Load ``.pt2`` programs that are data only.

``torch.export.load`` unpickles whatever is pickled in the archive, evaluates its symbolic
expressions with sympy (that is, with ``eval``) and loads compiled libraries. A program is loaded
without ``trust`` only when it has none of these.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from whet.errors import InvalidModel, UnsafeModel, UsageError

if TYPE_CHECKING:
    import torch

_FUNCTIONS = frozenset(
    """
    Symbol Integer Float Rational Add Mul Pow Max Min Mod Abs FloorDiv ModularIndexing Where
    PythonMod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatPow
    FloatTrueDiv IntTrueDiv TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat Identity
    IsNonOverlappingAndDenseIndicator Eq Ne Lt Le Gt Ge And Or Not ceiling floor sqrt
    true false True False positive integer nonnegative
    """.split()  # noqa: SIM905
)
_SYMBOL = re.compile(r"[a-z]{1,4}\d+\Z")
_TOKEN = re.compile(r"\s*(?:[A-Za-z_]\w*|\d+(?:\.\d*)?(?:e[+-]?\d+)?|'[a-z]+\d+'|[-+*/%(),<>=&|~])")
_TARGET = re.compile(
    r"(?:torch\.ops\.\w+\.\w+(?:\.\w+)?|torch\.sym_\w+|_operator\.\w+|math\.\w+)\Z"
)
_PLAIN_TORCH = frozenset({"torch._C._set_grad_enabled", "torch._sym_sqrt"})


def is_program(path: str) -> bool:
    """Tell whether ``path`` is a zip archive laid out as a saved torch.export program."""
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = [name.rsplit("/", 1)[-1] for name in archive.namelist()]
    return "archive_format" in names or "serialized_exported_program.json" in names


def load_program(path: str, *, trust: bool = False) -> "torch.export.ExportedProgram":
    """Load a program saved by ``torch.export.save``.

    Raises UnsafeModel when that could run code of the file and ``trust`` is not set.
    """
    import torch

    if not trust:
        check_program(path)
    try:
        return torch.export.load(path)
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror or error}") from error
    except Exception as error:
        raise InvalidModel(f"'{path}' is not a program this torch can load: {error}") from error


def check_program(path: str) -> None:
    """Raise UnsafeModel unless the archive holds plain tensors and plain expressions only."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len({name.lower() for name in names}) < len(names):
                raise _unsafe(path, "holds two entries of one name")
            for name in names:
                _check_entry(path, name, archive)
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidModel(f"'{path}' is truncated or not a program: {error}") from error


def _unsafe(path: str, reason: str) -> UnsafeModel:
    return UnsafeModel(
        f"'{path}' {reason}; loading it could run code. Pass trust=True if you made the file"
    )


def _check_entry(path: str, name: str, archive: zipfile.ZipFile) -> None:
    inner = name.lower().split("/", 1)[-1]
    last = inner.rsplit("/", 1)[-1]
    if inner.startswith("extra/"):
        return
    if inner.startswith("data/aotinductor/"):
        raise _unsafe(path, f"holds compiled code ('{inner}')")
    if "custom_obj_" in inner or "opaque_obj_" in inner:
        raise _unsafe(path, f"holds a pickled object ('{inner}')")
    if last.endswith(".pt"):
        _check_artifact(path, inner, archive.read(name))
    elif last.endswith(".json") or inner.startswith("models/"):
        _check_description(path, archive.read(name))


def _check_description(path: str, data: bytes) -> None:
    for imported in (b"default_factory_module", b"__enum__"):
        if imported in data:
            raise _unsafe(path, f"imports a module by name ('{imported.decode()}')")
    for key, value in _entries(json.loads(data)):
        _check_value(path, key, value)


def _check_artifact(path: str, name: str, data: bytes) -> None:
    """Load what torch would unpickle with the restricted unpickler, and refuse what it refuses."""
    import torch

    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        raise _unsafe(path, f"holds more than tensors in '{name}'") from error


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, at all depths; list items come under their list's key."""
    pending: list[tuple[str, Any]] = [("", tree)]
    while pending:
        key, value = pending.pop()
        yield key, value
        if isinstance(value, dict):
            pending.extend((str(k), v) for k, v in value.items())
        elif isinstance(value, list):
            pending.extend((key, v) for v in value)


def _check_value(path: str, key: str, value: Any) -> None:
    if key == "use_pickle" and value:
        raise _unsafe(path, "holds pickled tensors")
    if key == "path_name" and not re.fullmatch(r"(?:weight|tensor)_\d+", str(value)):
        raise _unsafe(path, f"refers to the payload {str(value)[:80]!r}")
    if key == "expr_str" and not (isinstance(value, str) and _plain_expression(value)):
        raise _unsafe(path, f"holds the expression {str(value)[:80]!r}")
    if key == "target" and isinstance(value, str) and not _plain_target(value):
        raise _unsafe(path, f"calls {value[:80]!r}")


def _plain_target(target: str) -> bool:
    return target in _PLAIN_TORCH or _TARGET.match(target) is not None or "." not in target


def _plain_expression(text: str) -> bool:
    """Tell whether ``text`` is arithmetic on size symbols: no other name, attribute or string."""
    position = 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return False
        token = match.group().strip()
        named = token[0].isalpha() or token[0] == "_"
        if named and token not in _FUNCTIONS and not _SYMBOL.match(token):
            return False
        position = match.end()
    return True
