"""Say of every architecture with an attention bias, at several lengths, whether the bias was factored, or why not.

``python -m whet.tools.sweep.bias [NAME …] [--lengths N …] [--markdown FILE]``: two blocks with 8 heads of 32, random
weights. Each is compiled with the ``exact`` recipe and with each lossy pass for biases that there is.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from whet.ir.values import Array, attribute_int
from whet.printing import new_table, summarize
from whet.tools.sweep.bias_recipes import RECIPES, is_bias_pass, write_recipe
from whet.tools.sweep.children import gather, quiet, serve

__all__ = ["Row", "added_rank", "check_bias", "main", "markdown"]

_TEXT = (128, 512, 1024, 2048)
_LENGTHS: Mapping[str, tuple[int, ...]] = {
    "beit": (196, 576, 1024, 2304),
    "beit-smooth": (196, 576, 1024, 2304),
    "swin": (49, 144, 576, 1024),
    "swin-smooth": (49, 144, 576, 1024),
    "swinv2": (49, 64, 256, 576),
    "pairformer": (128, 256, 512, 1024),
}
"""Squares for images, whose positions are patches; pairs of more than a thousand take gigabytes."""
_RECIPES = ("exact", "table", "fit")
_SAMPLES = 4


@dataclasses.dataclass
class Row:
    """One architecture at one length with one recipe."""

    name: str
    length: int
    recipe: str
    changed: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    """Pass for biases -> attentions it rewrote."""
    rank: int = 0
    """The largest number of columns that were appended."""
    reasons: list[str] = dataclasses.field(default_factory=list[str])
    """Why attentions were left as they are, and what was taken back."""
    ms_before: float = math.nan
    ms_after: float = math.nan
    mb_before: float = 0.0
    mb_after: float = 0.0
    error: float = math.nan
    absent: bool = False
    """The recipe's pass does not exist."""
    failure: str = ""

    @property
    def good(self) -> bool:
        """Tell whether the bias was factored, or it is said why not."""
        return self.absent or (
            not self.failure and bool(self.reasons or any(self.changed.values()))
        )

    @property
    def outcome(self) -> str:
        """Return what happened, in a few words."""
        made = [f"{step} x{count}" for step, count in self.changed.items() if count]
        return ", ".join(made) if made else "declined"


def check_bias(name: str, length: int, recipe: str, threads: int = 2, measure: bool = True) -> Row:
    """Compile one architecture at one length; whatever goes wrong becomes the row's failure."""
    row = Row(name, length, recipe)
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            _check(row, Path(folder), threads, measure)
    except Exception as problem:
        notes = " ".join(getattr(problem, "__notes__", []))
        row.failure = f"{type(problem).__name__}: {' '.join(str(problem).split())} {notes}"
    return row


def _check(row: Row, folder: Path, threads: int, measure: bool) -> None:
    import whet
    from whet.tools.sweep.zoo import at_length

    recipe = write_recipe(row.recipe, folder, row.length)
    row.absent = recipe is None
    if recipe is None:
        return
    sample = at_length(row.name, row.length).build()
    artifact = whet.compile(
        sample.module,
        sample.inputs,
        dynamic_shapes=sample.dynamic_shapes,
        recipe=recipe,
        calibration=None if row.recipe == "exact" else _calibration(sample),
        measure=measure,
        threads=threads,
        output=folder / "artifact",
    )
    report = artifact.report
    assert report is not None
    _read_steps(row, report.steps)
    row.rank = added_rank(folder / "artifact" / "model.onnx") if any(row.changed.values()) else 0
    row.error = report.worst_error
    row.mb_before, row.mb_after = report.before.peak_bytes / 1e6, report.after.peak_bytes / 1e6
    if report.before.time is not None and report.after.time is not None:
        row.ms_before, row.ms_after = report.before.time.median, report.after.time.median


def _calibration(sample: Any) -> dict[str, Array]:
    """Return a few samples like the example: floats and ids drawn anew, masks as they are."""
    rng = np.random.default_rng(0)
    names = list(sample.kwargs) or [f"input_{k}" for k in range(len(sample.args))]
    found: dict[str, Array] = {}
    for name, (tensor, _) in zip(names, sample.axes(), strict=True):
        example = tensor.numpy()[:1].repeat(_SAMPLES, 0)
        if example.dtype.kind == "f":
            example = rng.normal(example.mean(), example.std(), example.shape).astype(np.float32)
        elif example.max() > 1:
            example = rng.choice(example.reshape(-1), example.shape)
        found[name] = example
    return found


def _read_steps(row: Row, steps: Sequence[Any]) -> None:
    """Collect what the passes for biases did and said."""
    for step in steps:
        if not is_bias_pass(step.name):
            continue
        done = 0 if step.reverted else step.coverage.changed
        row.changed[step.name] = row.changed.get(step.name, 0) + done
        refused = {failure.site: failure.reason for failure in step.coverage.failures}
        for part in (step.coverage.declined, step.coverage.near_misses, refused):
            row.reasons += [f"{step.name}: {reason}" for reason in summarize(part)]
        if step.reverted:
            row.reasons.append(f"{step.name}: taken back: {step.reverted}")
        if not step.coverage.matched and not step.coverage.near_misses:
            row.reasons.append(f"{step.name}: no attention has a bias of its kind")
    if not any(row.changed.values()):
        row.reasons += _unlifted(steps)


def _unlifted(steps: Sequence[Any]) -> list[str]:
    """Return why there is no attention to begin with, where a pass says so."""
    return [
        f"{step.name}: {reason}"
        for step in steps
        if step.name.startswith("lift-") and "attention" in step.name
        for part in (step.coverage.declined, step.coverage.near_misses)
        for reason in summarize(part)
    ]


def added_rank(path: Path) -> int:
    """Return by how much queries are wider than values in the attentions of a file, at most."""
    from whet.ir.files import load_model
    from whet.ir.shapes import infer_shapes

    model = load_model(path)
    infer_shapes(model)
    kinds = {"Attention", "MultiHeadAttention", "GroupQueryAttention"}
    found = [_added(node) for node in model.graph if node.op_type in kinds]
    return max(found, default=0)


def _added(node: onnx_ir.Node) -> int:
    heads = attribute_int(node, "num_heads", 1)
    query, value = node.inputs[0], node.inputs[2]
    if query is None or value is None or query.shape is None or value.shape is None:
        return 0
    wide, narrow = query.shape[-1], value.shape[-1]
    if not (isinstance(wide, int) and isinstance(narrow, int)):
        return 0
    return (wide - narrow) // (heads if len(query.shape) == 3 else 1)


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; 1 if one fails, or is neither factored nor declined with a reason."""
    from whet.tools.sweep.zoo.lengthened import BIASED

    parser = argparse.ArgumentParser(prog="python -m whet.tools.sweep.bias", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BIASED)}")
    parser.add_argument("--lengths", type=int, nargs="+", help="in place of each one's own")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(_RECIPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-measure", action="store_true", help="time nothing: all will decline")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.serve:
        serve(options.names, lambda item: _answer(item, options))
        return 0
    unknown = [name for name in options.names if name not in BIASED]
    if unknown:
        parser.error(f"no biased architecture is called '{unknown[0]}'; known: {', '.join(BIASED)}")
    items = list(_items(options.names or list(BIASED), options.lengths, options.recipes))
    rows = [row for row in _rows(items, options) if not row.absent]
    _show(rows)
    if options.json is not None:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    if options.markdown is not None:
        options.markdown.write_text(markdown(rows))
    return int(not all(row.good for row in rows))


def _items(
    names: Sequence[str], lengths: Sequence[int] | None, recipes: list[str]
) -> Iterator[str]:
    for name in names:
        for length in lengths or _LENGTHS.get(name, _TEXT):
            yield from (f"{name}@{length}@{recipe}" for recipe in recipes)


def _answer(item: str, options: argparse.Namespace) -> dict[str, Any]:
    row = check_bias(*_parts(item), options.threads, not options.no_measure)
    return dataclasses.asdict(row)


def _parts(item: str) -> tuple[str, int, str]:
    name, length, recipe = item.split("@")
    return name, int(length), recipe


def _rows(items: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    flags = ["--threads", f"{options.threads}"] + ["--no-measure"] * options.no_measure
    answers = gather("whet.tools.sweep.bias", items, flags)
    for item, data in track(answers, "factoring", len(items), console=Console(stderr=True)):
        yield Row(*_parts(item), failure="the process died") if data is None else Row(**data)


_HEADS = ("architecture", "N", "recipe", "outcome", "rank", "ms before", "after", "MB", "error")


def _cells(row: Row) -> list[str]:
    head = [row.name, f"{row.length}", row.recipe]
    if row.failure:
        return [*head, "failed", *[""] * 5]
    timed = [f"{row.ms_before:.3g}", f"{row.ms_after:.3g}"]
    rank = f"{row.rank}" if row.rank else ""
    memory = f"{row.mb_before:.0f} → {row.mb_after:.0f}"
    return [*head, row.outcome, rank, *timed, memory, f"{row.error:.0e}"]


def _show(rows: Sequence[Row]) -> None:
    console = Console(width=120)
    table = new_table()
    for head in _HEADS:
        left = head in {"architecture", "recipe", "outcome"}
        table.add_column(head, justify="left" if left else "right")
    for row in rows:
        table.add_row(*map(escape, _cells(row)))
    console.print(table)
    for row in rows:
        for line in [row.failure] if row.failure else row.reasons:
            place = f"{row.name} {row.length} {row.recipe}"
            console.print(f"{place}: {line}", markup=False, highlight=False)


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for the documentation, each row with its first reason."""
    lines = [
        f"| {' | '.join((*_HEADS, 'why not, or not all'))} |",
        f"|{'---|' * (len(_HEADS) + 1)}",
    ]
    for row in rows:
        reason = row.failure or "; ".join(row.reasons[:1])
        lines.append(f"| {' | '.join((*_cells(row), reason.replace('|', chr(92) + '|')))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
