"""The table of layers: of one result, and of two side by side."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from whet.tools.report.tables import Cell, Column, Table, big, finite, ms, number, share, text

__all__ = [
    "compared_layers",
    "layer_bars",
    "layer_table",
    "layer_times",
    "layers_of",
    "operators",
    "stem",
]

Record = Mapping[str, Any]
_COLUMNS = (
    Column("layer", "the operator, by name"),
    Column("format", "what it became"),
    Column("by", "the pass that changed it, or what kind of layer it is"),
    Column("bits", "on disk for each weight of the original, scales and tables included"),
    Column("zeros", "share of its weights that are zero"),
    Column("rank", "of the factors"),
    Column("error", "measured: ||new - old|| / ||old|| of its output"),
    Column("dB", "the same as a ratio of signal to noise"),
    Column("loss ≈", "what it adds to the loss, predicted"),
    Column("bytes before"),
    Column("bytes after"),
    Column("kernel ms before", "its kernel alone"),
    Column("kernel ms after", "its kernel alone"),
    Column("ms before", "inside the model, profiled"),
    Column("ms after", "inside the model, profiled"),
    Column("revert", "place among what to take back first: damage avoided against what that costs"),
    Column("avoids", "share of the predicted loss that taking it back avoids"),
    Column("why"),
)


def layer_table(record: Record) -> Table:
    """Return all layers of a result."""
    before, after = layer_times(record, "before"), layer_times(record, "after")
    decisions = (record["search"] or {}).get("decisions", ())
    because = {decision["site"]: decision["because"] for decision in decisions}
    rows = [_row(layer, before, after, because) for layer in layers_of(record)]
    keep = [
        k
        for k in range(len(_COLUMNS))
        if k < 2 or any(row[k].text not in ("", "–") for row in rows)
    ]
    return Table(
        "layers", [_COLUMNS[k] for k in keep], [[row[k] for k in keep] for row in rows], choices=1
    )


def _row(
    layer: Record,
    before: Mapping[str, float],
    after: Mapping[str, float],
    because: Mapping[str, str],
) -> list[Cell]:
    error = finite(layer["error"])
    own = stem(layer["site"])
    return [
        text(layer["site"], "name"),
        text(layer["format"]),
        text(layer["kind"]),
        number(layer["bits"], ".3g"),
        share(layer["sparsity"]) if layer["sparsity"] else number(None, ""),
        big(layer["rank"]),
        number(error, ".1e"),
        number(layer["sqnr"], ".1f"),
        number(layer["predicted_loss"], ".1e"),
        big(layer["bytes_before"]),
        big(layer["bytes_after"]),
        ms(layer["ms_before"]),
        ms(layer["ms_after"]),
        ms(before.get(own)),
        ms(after.get(own)),
        big(layer["revert"]),
        share(layer["avoided"]),
        text(because.get(layer["site"], layer["why"]), "why"),
    ]


def stem(name: str) -> str:
    """Return a name without the numbers that new nodes get behind a point."""
    return re.sub(r"(\.\d+)+$", "", name)


def layers_of(record: Record) -> list[dict[str, Any]]:
    """Return the layers of a report."""
    return _rows(record["layers"])


def operators(profile: Record | None, when: str) -> list[dict[str, Any]]:
    """Return the profiled operators of a report."""
    return [] if profile is None else _rows(profile[when])


def _rows(table: Record) -> list[dict[str, Any]]:
    """Read a long table, which is written as the names of its columns and rows of values."""
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def layer_times(record: Record, when: str) -> dict[str, float]:
    """Return profiled milliseconds by layer, all operators of the runtime that belong to it together."""
    found: dict[str, float] = {}
    for row in operators(record["profile"], when):
        key = stem(row["layer"])
        found[key] = found.get(key, 0.0) + row["ms"]
    return found


def layer_bars(records: Sequence[Record], unit: str) -> list[tuple[str, float, list[float]]]:
    """Return (layer, before, after in each record), in MB or in profiled milliseconds."""
    found: dict[str, tuple[float, list[float]]] = {}
    for k, record in enumerate(records):
        old, new = layer_times(record, "before"), layer_times(record, "after")
        for layer in layers_of(record):
            key = stem(layer["site"])
            if unit == "MB":
                before, after = layer["bytes_before"] / 1e6, layer["bytes_after"] / 1e6
            elif key in old or key in new:
                before, after = old.pop(key, 0.0), new.pop(key, 0.0)
            else:
                continue
            row = found.setdefault(layer["site"], (before, [0.0] * len(records)))
            row[1][k] += after
    return [
        (name, before, after) for name, (before, after) in found.items() if before or any(after)
    ]


def compared_layers(records: Sequence[Record], names: Sequence[str]) -> Table:
    """Return the layers of two results side by side, those that differ first."""
    sides = [{layer["site"]: layer for layer in layers_of(record)} for record in records]
    sites = list(dict.fromkeys(site for side in sides for site in side))
    rows: list[tuple[bool, list[Cell]]] = []
    for site in sites:
        pair = [side.get(site) for side in sides]
        formats = [None if layer is None else layer["format"] for layer in pair]
        cells = [text(site, "name")]
        for spell, key in (
            ("", "format"),
            (",.0f", "bytes_after"),
            (".1e", "error"),
            (".1e", "predicted_loss"),
        ):
            for layer in pair:
                value = None if layer is None else layer[key]
                cells.append(number(value, spell) if spell else text(value or "–"))
        cells.append(text("" if formats[0] == formats[1] else "differs"))
        rows.append((formats[0] == formats[1], cells))
    rows.sort(key=lambda row: row[0])
    titles = ("format", "bytes after", "error", "loss ≈")
    columns = [
        Column("layer"),
        *(Column(f"{t}, {n}") for t in titles for n in names),
        Column("format"),
    ]
    return Table("layers", columns, [cells for _, cells in rows], choices=len(columns) - 1)
