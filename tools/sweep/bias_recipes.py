"""Recipes for attention biases: the exact one, and it with each lossy pass that factors biases."""

from collections.abc import Mapping
from pathlib import Path

from whet.errors import UsageError
from whet.passes.registry import all_passes, make_pass

__all__ = ["RECIPES", "is_bias_pass", "write_recipe"]

RECIPES: Mapping[str, tuple[str, Mapping[str, object]] | None] = {
    "exact": None,
    "table": ("factor-bias-table", {}),
    "table-always": ("factor-bias-table", {"when": "always"}),
    "whole-table-always": ("factor-bias-table", {"when": "always", "energy": 1.0}),
    "fit": ("fit-bias-factors", {}),
}
"""Name -> the pass that follows the exact recipe, with its options."""


def is_bias_pass(name: str) -> bool:
    """Tell whether a pass deals with the biases of attentions."""
    return all_passes()[name].__module__.startswith(
        "whet.passes.attention."
    ) and "bias" in name.split("-")


def write_recipe(name: str, folder: Path, max_length: int = 0) -> str | Path | None:
    """Return a recipe as ``whet.compile`` takes it, kept in ``folder``; None where there is no such pass or option.

    Passes that want to know the greatest length, because a dynamic one has no end, are told ``max_length``.
    """
    spec = RECIPES[name]
    if spec is None:
        return name
    step, given = spec
    options = dict(given)
    try:
        built = make_pass(step, options)
    except UsageError:
        return None
    if max_length and "max_length" in built.options():
        options["max_length"] = max_length
    path = folder / f"{name}.toml"
    lines = ['base = "exact"', "allow_noop = true", "[[pass]]", f'name = "{step}"']
    lines += [f"{key} = {_toml(value)}" for key, value in options.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value}"
