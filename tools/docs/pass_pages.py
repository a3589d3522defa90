"""A page for each pass, made from what it declares, from its docstring and from its source."""

import ast
import inspect
import sys
import typing
from collections.abc import Iterator

from whet.passes.base import Pass
from whet.passes.pipeline import flatten
from whet.passes.recipes import read_recipe
from whet.passes.registry import all_passes
from whet.tools.docs.docstrings import cell, documented_fields, markdown

__all__ = ["FAMILIES", "family", "pass_index", "pass_pages"]

FAMILIES = {
    "canonical": "Clean-up",
    "fusion": "Folding and fusion",
    "attention": "Attention",
    "quantization": "Quantization",
    "sparsity": "Sparsity and pruning",
    "structure": "Structure",
    "experts": "Experts",
    "recovery": "Recovery",
    "onnxruntime": "ONNX Runtime's operators",
}
"""Folder below ``passes/`` -> its title."""
_FIDELITY = {
    "exact": "**Exact**: the result has the same bits; the proof allows no difference.",
    "rounding": "**Rounding**: the same real numbers; the proof allows max|Δ| ≤ 1e-5 of the root mean square, in "
    "float64 where kernels allow.",
    "lossy": "**Lossy**: an approximation; its error is measured and reported, site by site.",
}
_DECLINING = {"Mismatch", "decline", "near_miss"}


def family(cls: type[Pass]) -> str:
    """Return the folder that a pass lies in."""
    return cls.__module__.split(".")[2]


def pass_pages() -> dict[str, str]:
    """Return the page of every pass, by name."""
    return {name: _page(cls()) for name, cls in all_passes().items()}


def pass_index() -> str:
    """Return the table of all passes."""
    lines = ["# Passes", "", f"{len(all_passes())} passes. `whet passes NAME` prints the same.", ""]
    for folder, title in FAMILIES.items():
        lines += [f"## {title}", "", "| pass | fidelity | what it does |", "|---|---|---|"]
        for name, cls in all_passes().items():
            if family(cls) == folder:
                summary = cell(markdown(cls().summary))
                lines.append(f"| [{name}]({name}.md) | {cls.fidelity.value} | {summary} |")
        lines.append("")
    return "\n".join(lines)


def _page(step: Pass) -> str:
    cls = type(step)
    parts = [
        f"# {step.name}",
        markdown(cls.__doc__ or ""),
        "```\n" + _command(step) + "\n```",
        "## What it promises",
        "\n".join(f"- {line}" for line in _promises(cls)),
        "## Options",
        _options(step),
    ]
    reasons = list(dict.fromkeys(_reasons(cls)))
    if reasons:
        parts += [
            "## When it declines",
            "A place is left as it is, and the report says why, when",
            "\n".join(f"- {reason}" for reason in reasons),
        ]
    parts.append(f"Source: `{cls.__module__.removeprefix('whet.').replace('.', '/')}.py`")
    return "\n\n".join(parts) + "\n"


def _command(step: Pass) -> str:
    data = " --calibration c.npz" if _needs_data(type(step)) else ""
    return f"whet compile model.onnx -o out{data} --recipe {step.name}"


def _needs_data(cls: type[Pass]) -> bool:
    return bool({"Ranges", "Statistics"} & {analysis.__name__ for analysis in cls.needs})


def _promises(cls: type[Pass]) -> Iterator[str]:
    yield _FIDELITY[cls.fidelity.value]
    if cls.gated:
        yield "Measured as a whole: taken back if the file gets larger or the model slower."
    if _needs_data(cls):
        yield "Uses calibration data (`--calibration`); samples held out judge what it did."
    inside = [name for name in ("exact", "auto") if cls().name in _steps(name)]
    yield f"Part of the recipes {' and '.join(inside)}." if inside else "Runs when it is asked for."


def _steps(recipe: str) -> set[str]:
    from whet.backends.base import find_target

    return {
        s.name for s in flatten(read_recipe(recipe).pipeline(find_target("onnxruntime")).stages)
    }


def _options(step: Pass) -> str:
    said = documented_fields(type(step))
    lines = ["| option | values | default | |", "|---|---|---|---|"]
    for field in type(step).fields():
        default = getattr(step, field.name)
        shown = "+".join(default) if isinstance(default, tuple) else str(default)
        shown = shown.lower() if isinstance(default, bool) else shown
        values = cell(_values(field.type))
        shown = f"`{shown}`" if shown else ""
        lines.append(f"| `{field.name}` | {values} | {shown} | {cell(said.get(field.name, ''))} |")
    return "\n".join(lines)


def _values(kind: object) -> str:
    """Return the choices, or the type."""
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "names, joined by `+`"
    if kind is bool:
        return "`true`, `false`"
    return {int: "integer", float: "number"}.get(typing.cast("type", kind), "text")


def _reasons(cls: type[Pass]) -> Iterator[str]:
    """Yield the reasons to decline that stand in the module of the pass."""
    tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node.func) in _DECLINING and node.args:
            text = _words(node.args[-1])
            if " " in text.strip("… "):
                yield markdown(text)


def _called(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _words(node: ast.expr) -> str:
    """Return a message as it stands in the source, an ellipsis for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _words(node.left) + _words(node.right)
    return "…"
