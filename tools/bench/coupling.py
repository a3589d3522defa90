"""Remove random groups from every architecture of the zoo, and compare with zeros in their place.

``python -m whet.tools.bench.coupling [NAMES]`` prints, for each architecture, the groups by kind, the share of weights
that can go, how many random removals agreed with the masked model, and what holds the most weights back.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir
from rich.console import Console
from rich.table import Table

from whet.analysis.coupling import Coupled
from whet.ir.bindings import Bindings, symbols
from whet.ir.execute import Executor
from whet.ir.values import Array, weight_count
from whet.passes.pipeline import Pipeline
from whet.passes.proof import compare
from whet.passes.proposal import FreshNames
from whet.passes.recipes import canonical, exact
from whet.passes.sparsity.prune_copying import Masking, Shrinking, replacement
from whet.passes.sparsity.prune_regions import find_regions
from whet.passes.workbench import Context

__all__ = ["Row", "difference", "main", "remove", "some_groups"]

RATIOS = (0.1, 0.4, 0.7)
SEEDS = (0, 1, 2)
LIMIT = 1e-5
"""Largest difference over the root mean square: float32 sums in another order."""


@dataclasses.dataclass
class Row:
    """What was seen of one architecture."""

    name: str
    kinds: Counter[str] = dataclasses.field(default_factory=Counter[str])
    left: list[float] = dataclasses.field(default_factory=list[float])
    """Share of the weights left, for each ratio."""
    proofs: int = 0
    worst: float = 0.0
    held: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])
    failure: str = ""
    seconds: float = 0.0


def some_groups(coupled: Coupled, ratio: float, seed: int) -> frozenset[int]:
    """Return the atoms of a random share of every family that leaves no axis empty."""
    rng = np.random.default_rng(seed)
    gone: set[int] = set()
    for family in coupled.families:
        count = min(round(ratio * len(family.groups)), len(family.groups) - 1)
        chosen = rng.permutation(len(family.groups))[:count]
        gone.update(family.groups[k].atom for k in chosen)
    while emptied := coupled.emptied(gone):
        for atoms in emptied:
            gone -= atoms[0]
    return frozenset(gone)


def remove(
    model: onnx_ir.Model, kind: type[Masking] | type[Shrinking], ratio: float, seed: int
) -> int:
    """Change a model in place by the same random removal for either kind; return how many regions changed."""
    coupled = Coupled(model.graph)
    gone = some_groups(coupled, ratio, seed)
    regions = find_regions(coupled, gone, model.graph)
    fresh = FreshNames(model)
    proposals = [replacement(r, kind(coupled, gone, r, fresh)) for r in regions]
    for proposal in proposals:
        proposal.commit("remove")
    return len(regions)


def difference(
    model: onnx_ir.Model, feeds: Mapping[str, Array], ratio: float, seed: int
) -> tuple[float, float]:
    """Return how far the smaller model is from the masked one, and its share of the weights."""
    masked, small = model.clone(), model.clone()
    remove(masked, Masking, ratio, seed)
    remove(small, Shrinking, ratio, seed)
    before, after = (Executor(onnx_ir.to_proto(m)).run(feeds) for m in (masked, small))
    worst = max(compare(a, b) for a, b in zip(before, after, strict=True))
    return worst, weight_count(small) / max(weight_count(masked), 1)


def check(name: str, seeds: Collection[int] = SEEDS) -> Row:
    """Build, capture and canonicalize one architecture and remove groups at random."""
    row, start = Row(name), time.perf_counter()
    try:
        model, feeds = _model(name)
        coupled = Coupled(model.graph)
        for family in coupled.families:
            row.kinds[family.kind.value] += len(family.groups)
        row.held = coupled.kept
        for seed in seeds:
            for ratio in RATIOS:
                error, left = difference(model, feeds, ratio, seed)
                row.worst = max(row.worst, error)
                row.proofs += error <= LIMIT
                if seed == min(seeds):
                    row.left.append(left)
    except Exception as problem:
        row.failure = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
    row.seconds = time.perf_counter() - start
    return row


def _model(name: str) -> tuple[onnx_ir.Model, Mapping[str, Array]]:
    from whet.preparation import prepare
    from whet.tools.sweep.children import quiet
    from whet.tools.sweep.zoo import architecture

    sample = architecture(name).build()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        found = prepare(
            sample.module, sample.inputs, dynamic_shapes=sample.dynamic_shapes, folder=Path(folder)
        )
        examples = {key: np.asarray(value) for key, value in found.examples.items()}
        bindings = Bindings((_sizes(found.model, examples),), examples)
        model, _ = Pipeline((canonical(), exact())).run(found.model, Context(bindings))
    return model, bindings.feeds(model, 0)


def _sizes(model: onnx_ir.Model, examples: Mapping[str, Array]) -> dict[str, int]:
    """Return the sizes of symbolic dimensions in the examples."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int):
                name = size.value or f"{value.name}.{axis}"
                found[name] = examples[value.name or ""].shape[axis]
    assert set(found) >= set(symbols(model))
    return found


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; 1 if any removal fails or differs."""
    parser = argparse.ArgumentParser(prog="python -m whet.tools.bench.coupling")
    parser.add_argument("names", nargs="*", help="architectures (default: all)")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="random removals per ratio")
    options = parser.parse_args(None if arguments is None else list(arguments))
    from whet.tools.sweep.zoo import architecture, architectures

    names = [architecture(name).name for name in options.names]
    names = names or [a.name for a in architectures()]
    console = Console(width=140)
    rows: list[Row] = []
    for name in names:
        rows.append(check(name, range(options.seeds)))
        told = rows[-1].failure or f"{rows[-1].proofs} agree"
        print(f"{name}: {told}, {rows[-1].seconds:.0f} s", file=sys.stderr)
    _show(rows, len(RATIOS) * options.seeds, console)
    return int(any(row.failure or row.proofs < len(RATIOS) * options.seeds for row in rows))


def _show(rows: Sequence[Row], wanted: int, console: Console) -> None:
    table = Table(box=None)
    for head in ("architecture", "groups", "weights left", "agree", "largest difference", "held"):
        table.add_column(head)
    for row in rows:
        if row.failure:
            table.add_row(row.name, "failed", "", "", "", row.failure)
            continue
        table.add_row(
            row.name,
            ", ".join(f"{count} {kind}" for kind, count in row.kinds.items()) or "none",
            " ".join(f"{share:.2f}" for share in row.left),
            f"{row.proofs} of {wanted}",
            f"{row.worst:.0e}",
            next(iter(row.held), ""),
        )
    console.print(table)
    good = sum(row.proofs for row in rows)
    console.print(f"{good} of {wanted * len(rows)} removals agree with zeros in their place")


if __name__ == "__main__":
    sys.exit(main())
