"""Find passes by looking, and read recipes."""

import dataclasses
import difflib
import functools
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, cast

from whet.errors import BrokenPass, UsageError
from whet.passes.base import Pass
from whet.passes.extensions import import_pass, installed_passes

__all__ = ["all_passes", "make_pass", "nearest", "parse_passes"]


@functools.cache
def all_passes() -> Mapping[str, type[Pass]]:
    """Return every pass by name; there is no list to edit.

    Every module below ``whet.passes`` is searched, then the entry points ``whet.passes`` of installed packages.
    """
    import whet.passes

    found: dict[str, type[Pass]] = {}
    for module in pkgutil.walk_packages(whet.passes.__path__, "whet.passes."):
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if (
                not issubclass(cls, Pass)
                or inspect.isabstract(cls)
                or cls.__module__ != module.name
            ):
                continue
            name = cls().name
            if name in found:
                raise BrokenPass(f"two passes are called '{name}': {found[name]} and {cls}")
            found[name] = cls
    for name, cls in installed_passes().items():
        if name in found:
            raise BrokenPass(f"two passes are called '{name}': {found[name]} and {cls}")
        found[name] = cls
    return types.MappingProxyType(dict(sorted(found.items())))


def make_pass(name: str, options: Mapping[str, object] | None = None) -> Pass:
    """Return the pass ``name`` with its options, which are checked against its fields and converted to their types.

    ``pkg.mod:Class`` is a pass that is not installed.
    """
    cls = _imported(name) if ":" in name else all_passes().get(name)
    if cls is None:
        raise UsageError(f"unknown pass '{name}'{nearest(name, all_passes())}")
    fields: dict[str, object] = {f.name: f.type for f in dataclasses.fields(cls)}
    values: dict[str, object] = {}
    for key, value in (options or {}).items():
        field = key.replace("-", "_")
        if field not in fields:
            raise UsageError(f"unknown option '{key}' of pass '{name}'{nearest(field, fields)}")
        values[field] = _convert(value, fields[field], f"option '{key}' of pass '{name}'")
    return cls(**cast("Any", values))


def _imported(place: str) -> type[Pass]:
    cls = import_pass(place)
    cls.place = place
    known = all_passes().get(cls().name, cls)
    if known is not cls:
        raise UsageError(f"'{place}' is called '{cls().name}', as {known.__module__} is")
    return cls


def parse_passes(text: str) -> tuple[Pass, ...]:
    """Read ``"pass,pass{option=1,other=x}"``."""
    found: list[Pass] = []
    rest = text.strip()
    while rest:
        head = re.match(r"\s*([A-Za-z0-9_.:-]+)\s*(?:\{([^}]*)\})?\s*(,|$)", rest)
        if head is None:
            raise UsageError(f"cannot read the recipe at '{rest}': expected pass{{option=value}}")
        name = head.group(1) if ":" in head.group(1) else head.group(1).replace("_", "-")
        found.append(make_pass(name, _options(head.group(2) or "")))
        rest = rest[head.end() :]
    if not found:
        raise UsageError("the recipe names no pass")
    return tuple(found)


def _options(text: str) -> dict[str, object]:
    options: dict[str, object] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, sign, value = part.partition("=")
        if not sign:
            raise UsageError(f"option '{part}' has no value: expected {part}=…")
        options[key.strip()] = value.strip()
    return options


def _convert(value: object, kind: object, where: str) -> object:
    if kind is bool:
        return _convert_bool(value, where)
    if kind is int or kind is float:
        return _convert_number(value, kind is int, where)
    if typing.get_origin(kind) is tuple:
        items = value.split("+") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise UsageError(f"{where} is {value!r}, expected a list")
        return tuple(str(item) for item in typing.cast("list[object]", items))
    if typing.get_origin(kind) is typing.Literal:
        allowed = {str(a): a for a in typing.get_args(kind)}
        return allowed.get(str(value), value)
    return str(value)


def _convert_bool(value: object, where: str) -> bool:
    text = str(value).lower()
    if text not in {"true", "false", "1", "0", "yes", "no"}:
        raise UsageError(f"{where} is '{value}', expected true or false")
    return text in {"true", "1", "yes"}


def _convert_number(value: object, whole: bool, where: str) -> int | float:
    try:
        return int(str(value)) if whole else float(str(value))
    except ValueError:
        kind = "an integer" if whole else "a number"
        raise UsageError(f"{where} is '{value}', expected {kind}") from None


_LISTED = 12
"""So many names are listed in an error; more would hide it."""


def nearest(name: str, known: Mapping[str, object]) -> str:
    """Return a hint for an unknown name: the closest known one, or all of them."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    if len(known) > _LISTED:
        return f"; there are {len(known)} (see: whet passes)"
    return f"; known: {', '.join(known)}" if known else " (it has none)"
