"""``whet inspect``: what is in a model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from whet.printing import new_table, titled
from whet.tools.cli import options
from whet.tools.cli.console import print_json, progress, results

if TYPE_CHECKING:
    import onnx_ir

    from whet.tools.inspection import Inspection, Port

__all__ = ["register"]

_EXAMPLES = """
[bold]Examples[/]

whet inspect model.onnx

whet inspect model.onnx --text --nodes 20
"""


_ROWS = 12


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect", epilog=_EXAMPLES)(_command)


def _command(
    model: options.Model,
    text: Annotated[
        bool, typer.Option("--text", help="Print the whole model as text instead.")
    ] = False,
    nodes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Rows of a table (12 without it); with --text, nodes (all without it).",
        ),
    ] = None,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Show inputs, operators, weights, sites where compression can act, and what blocks what.

    MODEL may be an artifact folder too.
    """
    from whet.tools.inspection import inspect_model, read_for_inspection

    with progress() as show:
        show("capture")
        found, origin = read_for_inspection(model, trust=trust)
        if text:
            inspection = None
        else:
            show("try every pass")
            inspection = inspect_model(found, origin)
    if inspection is None:
        _print_text(found, nodes)
    elif json:
        print_json(inspection.to_json())
    else:
        _print(inspection, results(), nodes or _ROWS)


def _print_text(model: "onnx_ir.Model", limit: int | None) -> None:
    from whet.ir.text import print_model, print_node

    text = print_model(model)
    if limit is None:
        print(text)
        return
    head = text[: text.index("{\n", text.index("\ngraph ")) + 1]
    lines = [f"  {print_node(node)}" for node in list(model.graph)[:limit]]
    rest = len(model.graph) - len(lines)
    print("\n".join([head, f"  # {len(model.graph.initializers)} weights", *lines]))
    print(f"  # {rest} more nodes\n}}" if rest else "}")


def _print(found: "Inspection", console: Console, limit: int) -> None:
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    console.print(f"[bold]{escape(found.origin)}[/]  opset {escape(opsets)}", soft_wrap=True)
    console.print(_ports(found))
    console.print(_operators(found, limit))
    console.print(_weights(found))
    if found.sites:
        console.print(_sites(found, limit))
    if found.subgraphs:
        console.print(f"{found.subgraphs} subgraph(s); passes leave what is inside as it is")
    for name, count in found.custom.items():
        console.print(f"custom operator {escape(name)} x{count}: an opaque barrier to passes")
    for target, reasons in found.refusals.items():
        state = escape("; ".join(reasons)) if reasons else "takes the model"
        console.print(f"target {target}: {state}")
    console.print(_prospects(found, limit))


def _ports(found: "Inspection") -> Group:
    table = new_table()
    for name in ("", "name", "type", "shape"):
        table.add_column(name)
    for what, ports in (("in", found.inputs), ("out", found.outputs)):
        for port in ports:
            table.add_row(what, escape(port.name), port.type, _shape(port))
    return titled("Inputs and outputs", table)


def _shape(port: "Port") -> str:
    if port.shape is None:
        return "any rank"
    listed = ", ".join("?" if size is None else f"{size}" for size in port.shape)
    return escape(f"[{listed}]") + (" (optional)" if port.optional else "")


def _operators(found: "Inspection", limit: int) -> str:
    shown = list(found.operators.items())[: 2 * limit]
    rest = len(found.operators) - len(shown)
    listed = ", ".join(f"{name} {count}" for name, count in shown)
    more = f", and {rest} more kinds" if rest > 0 else ""
    return f"{found.nodes:,} nodes: {escape(listed)}{more}"


def _weights(found: "Inspection") -> str:
    listed = ", ".join(
        f"{kind} {count:,} ({size:,} bytes)" for kind, (count, size) in found.parameters.items()
    )
    return f"weights: {listed or 'none'}"


def _sites(found: "Inspection", limit: int) -> Group:
    total = sum(size for _, size in found.parameters.values())
    title = f"Sites where compression can act: {len(found.sites)}, the largest first"
    table = new_table()
    for name in ("site", "kind", "operator", "weight"):
        table.add_column(name, overflow="fold")
    table.add_column("bytes", justify="right")
    table.add_column("share", justify="right")
    for site in found.sites[:limit]:
        table.add_row(
            escape(site.name),
            site.kind.value,
            site.op_type,
            escape(", ".join(site.weights)),
            f"{site.bytes:,}",
            f"{site.bytes / total:.1%}" if total else "-",
        )
    _caption(table, found.sites, limit)
    return titled(title, table)


def _prospects(found: "Inspection", limit: int) -> Group | str:
    if not found.prospects:
        return "no pass finds anything in the model as it is"
    table = new_table()
    table.add_column("pass")
    table.add_column("matches", justify="right")
    table.add_column("eligible", justify="right")
    table.add_column("what blocks the others", overflow="fold")
    for row in found.prospects:
        reasons = [f"{escape(why)} (x{count})" for why, count in list(row.blocked.items())[:2]]
        table.add_row(row.name, f"{row.matched}", f"{row.eligible}", "; ".join(reasons))
    return titled("What passes find in the model as it is", table)


def _caption(table: Table, rows: Sequence[object], limit: int) -> None:
    if len(rows) > limit:
        table.caption = f"{len(rows) - limit} more (--nodes {len(rows)})"
