"""Docstrings as Markdown, and the documentation of fields, which stands below them in the source."""

import ast
import inspect
import re
import textwrap

__all__ = ["cell", "documented_fields", "markdown"]

_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_LITERAL = re.compile(r"``(.+?)``", re.S)


def markdown(text: str) -> str:
    """Return a docstring as Markdown: roles and double quotes become code, Raises a list."""
    text = _ROLE.sub(lambda m: f"`{m.group(1).rsplit('.', 1)[-1]}`", inspect.cleandoc(text))
    text = _LITERAL.sub(lambda m: "`" + " ".join(m.group(1).split()) + "`", text)
    found: list[str] = []
    section = False
    for line in text.splitlines():
        if line in {"Raises:", "Returns:"}:
            found += [f"**{line[:-1]}**", ""]
            section = True
        elif section and re.match(r"    \w", line):
            found.append("- " + line.strip())
        elif section and line.startswith("      "):
            found.append("  " + line.strip())
        else:
            section = section and not line.strip()
            found.append(line.replace("::", ":") if line.endswith("::") else line)
    return _equations("\n".join(found))


def _equations(text: str) -> str:
    """Set indented blocks as code, whatever stands around them."""
    blocks = re.split(r"\n\s*\n", text)
    shown = [
        f"```text\n{textwrap.dedent(block)}\n```" if block.startswith("    ") else block
        for block in blocks
    ]
    return "\n\n".join(shown)


def cell(text: str) -> str:
    """Return text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def documented_fields(cls: type) -> dict[str, str]:
    """Return what stands in the source below each field of a class, its bases included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        if base.__module__.startswith("whet."):
            found.update(_in_source(base))
    return found


def _in_source(cls: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = markdown(str(text.value.value))
    return found
