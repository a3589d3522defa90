"""The reference of the public modules, made from signatures and docstrings."""

import dataclasses
import importlib
import inspect
import re
import types
from collections.abc import Iterator

from whet.tools.docs.docstrings import documented_fields, markdown

__all__ = ["MODULES", "api_pages", "undocumented"]

MODULES = ("whet", "whet.evaluate", "whet.extend", "whet.errors", "whet.options")
"""What is public: a name that is in ``__all__`` of one of these."""
_UNSPOKEN = re.compile(r"<(?:function|object|class).*?>|<factory>")
_QUALIFIED = re.compile(
    r"\b(?:typing|pathlib|collections\.abc|onnx_ir\._core|whet(?:\.\w+)+)\.(?=[A-Z])"
)
_ARRAY = "numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.generic]]"


def api_pages() -> dict[str, str]:
    """Return the page of every public module, by its name."""
    return {name: _page(name) for name in MODULES}


def undocumented() -> list[str]:
    """Return the public names, and public members of public classes, that have no docstring."""
    found: list[str] = []
    for name in MODULES:
        for public, thing in _public(name):
            where = f"{name}.{public}"
            if _has_docstring(thing) and not _words(thing):
                found.append(where)
            if inspect.isclass(thing):
                found += [f"{where}.{m}" for m, member in _members(thing) if not _words(member)]
    return found


def _page(name: str) -> str:
    module = importlib.import_module(name)
    parts = [f"# {name}", markdown(module.__doc__ or "")]
    for public, thing in _public(name):
        if not isinstance(thing, types.ModuleType) and _has_docstring(thing):
            parts += _entry(public, thing)
    return "\n\n".join(parts) + "\n"


def _public(name: str) -> Iterator[tuple[str, object]]:
    module = importlib.import_module(name)
    for public in sorted(module.__all__, key=str.lower):
        yield public, getattr(module, public)


def _has_docstring(thing: object) -> bool:
    return inspect.isclass(thing) or inspect.isroutine(thing) or isinstance(thing, types.ModuleType)


def _words(thing: object) -> str:
    if isinstance(thing, property):
        return thing.fget.__doc__ or "" if thing.fget is not None else ""
    return (
        thing.__dict__.get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)
    ) or ""


def _entry(name: str, thing: object) -> Iterator[str]:
    yield f"## {name}"
    yield f"```python\n{_signature(name, thing)}\n```"
    yield markdown(_words(thing))
    if not inspect.isclass(thing):
        return
    fields = _fields(thing)
    if fields:
        yield "\n".join(fields)
    for member, function in _members(thing):
        yield f"### {name}.{member}"
        if inspect.isroutine(function):
            yield f"```python\n{_signature(member, function)}\n```"
        yield markdown(_words(function))


def _signature(name: str, thing: object) -> str:
    if inspect.isclass(thing) and issubclass(thing, Exception):
        bases = ", ".join(base.__name__ for base in thing.__bases__)
        return f"class {name}({bases})"
    try:
        found = inspect.signature(thing)  # type: ignore[arg-type]  # classes and routines only
    except (TypeError, ValueError):
        return name
    word = "class " if inspect.isclass(thing) else "def "
    text = f"{word}{name}{found}"
    if len(text) > 88:
        text = f"{word}{name}(\n" + "".join(f"    {p},\n" for p in _parameters(found)) + ")"
        if found.return_annotation is not inspect.Signature.empty:
            text += f" -> {inspect.formatannotation(found.return_annotation)}"
    text = _QUALIFIED.sub("", _UNSPOKEN.sub("…", text).replace(_ARRAY, "Array"))
    return text.replace("-> None", "") if word == "class " else text


def _parameters(found: inspect.Signature) -> Iterator[str]:
    starred = False
    for parameter in found.parameters.values():
        if parameter.name.startswith("_"):
            continue
        keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if keyword and not starred:
            yield "*"
        starred = starred or keyword or parameter.kind is inspect.Parameter.VAR_POSITIONAL
        yield str(parameter)


def _fields(cls: type) -> list[str]:
    if not dataclasses.is_dataclass(cls):
        return []
    said = documented_fields(cls)
    return [
        f"- `{field.name}`: {' '.join(said[field.name].split())}"
        for field in dataclasses.fields(cls)
        if field.name in said and not field.name.startswith("_")
    ]


def _members(cls: type) -> Iterator[tuple[str, object]]:
    fields = (
        {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set[str]()
    )
    for name, member in vars(cls).items():
        if (
            name not in fields
            and not name.startswith("_")
            and (inspect.isroutine(member) or isinstance(member, property))
        ):
            yield name, member
