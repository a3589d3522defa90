"""Compare ways to choose bits at equal bytes, and hold predicted losses against measured ones."""

import contextlib
import functools
import itertools
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
from rich.console import Console
from rich.table import Table

from whet.analysis.calibration import batch_size, read_dataset
from whet.analysis.kernel_prices import KernelPrices
from whet.backends.base import RuntimeOptions, find_target
from whet.backends.probe import find_bindings
from whet.backends.worker import Worker
from whet.errors import Impossible
from whet.offering import Offered, make_yardstick, offered
from whet.options import Options
from whet.passes.pipeline import Pipeline
from whet.passes.recipes import canonical, exact
from whet.passes.workbench import Context
from whet.preparation import Prepared, prepare
from whet.solve.allocation import Limits, Plan
from whet.solve.correction import spearman
from whet.solve.grafting import Grafter
from whet.solve.judging import Budgets
from whet.solve.search import Search
from whet.solve.trials import Trials
from whet.tools.bench.arguments import argument_parser
from whet.tools.bench.mixtures.rivals import rivals
from whet.tools.bench.mixtures.subjects import SUBJECTS, Subject

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table of the metric by bytes and choice, and the rank correlation over random plans."""
    parser = argument_parser(__doc__)
    parser.add_argument("--only", choices=list(SUBJECTS), default="resnet20")
    parser.add_argument("--sizes", default="12.5,18,25", help="bytes, in percent of float32")
    parser.add_argument("--plans", type=int, default=100, help="random plans that are measured")
    parser.add_argument("--loss", choices=["outputs", "divergence"], default="outputs")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    if not options.assets.is_dir():
        print(f"mixtures: skipped: no folder '{options.assets}'")
        return 0
    sizes = [float(part) for part in options.sizes.split(",")]
    with tempfile.TemporaryDirectory() as name:
        subject = SUBJECTS[options.only](options.assets, Path(name), options.threads)
        with _Bench(subject, Path(name), options.threads, options.loss) as bench:
            found = bench.run(sizes, options.plans)
    _show(options.only, found)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


class _Bench(contextlib.ExitStack):
    """One model, prepared, with its candidates."""

    def __init__(self, subject: Subject, folder: Path, threads: int, loss: str) -> None:
        super().__init__()
        self._subject = subject
        self._folder = folder
        self._target = find_target("onnxruntime")
        self._start = time.monotonic()
        work = folder / "prepared"
        work.mkdir()
        prepared = prepare(subject.source, folder=work)
        self._bytes = prepared.cost.bytes
        self._context = _context(prepared, subject, threads)
        self.model, _ = Pipeline((canonical(), exact())).run(prepared.model, self._context)
        version = self._target.versions()["onnxruntime"]
        self._context.prices = self.enter_context(KernelPrices(RuntimeOptions(threads), version))
        same, everything = (
            Options(threads=threads, candidates=candidates, loss=loss)
            for candidates in (subject.candidates, "auto")
        )
        self._yardstick = make_yardstick(self._target, same, self._context)
        self._same, self._all = (
            offered(self.model, self._context, self._target, options, self._yardstick)
            for options in (same, everything)
        )

    def run(self, sizes: Sequence[float], plans: int) -> dict[str, Any]:
        """Return all numbers."""
        seconds = time.monotonic() - self._start
        predicted, measured = self._correlation(plans)
        return {
            "seconds_to_price": seconds,
            "rank_correlation": spearman(predicted, measured),
            "predicted": predicted,
            "measured": measured,
            "float32": self._subject.metric(self._subject.source),
            "rows": [row for size in sizes for row in self._rows(size)],
        }

    def _correlation(self, plans: int) -> tuple[list[float], list[float]]:
        """Return predicted and measured losses of random plans, by the prices as they are before any correction."""
        start = self._same
        rng = np.random.default_rng(1)
        counts = [len(decision.options) for decision in start.problem.decisions]
        drawn = [Plan(tuple(int(rng.integers(n)) for n in counts)) for _ in range(plans)]
        pieces = (start.market.chosen(plan.choices) for plan in drawn)
        measured = [seen.loss for seen in self._yardstick.losses(self.model, pieces)]
        return [start.problem.loss(plan) for plan in drawn], measured

    def _rows(self, size: float) -> Iterator[dict[str, Any]]:
        """Yield one row for each way to choose, at the same limit on bytes of the finished file."""
        limit = int(self._bytes * size / 100)
        for name, start, choose in self._ways:
            print(f"{size:g} %: {name}", file=sys.stderr, flush=True)
            try:
                plan = self._within(start, choose, limit)
            except Impossible as reason:
                yield {"size": size, "way": name, "metric": None, "why": str(reason)}
                continue
            path = self._written(start, plan)
            yield {
                "size": size,
                "way": name,
                "metric": self._subject.metric(path),
                "agreement": self._subject.agreement(path),
                "share": path.stat().st_size / self._bytes,
                "loss": self._loss(start, plan),
            }

    def _loss(self, start: Offered, plan: Plan) -> float:
        """Return the loss on the samples that searches see."""
        pieces = start.market.chosen(plan.choices)
        (seen,) = self._yardstick.losses(self.model, [pieces])
        return seen.loss

    @functools.cached_property
    def _ways(self) -> Sequence[tuple[str, Offered, Callable[[Limits], Plan]]]:
        same, everything = self._same, self._all
        batches = list(itertools.islice(self._context.judge, 4))
        others = rivals(self.model, same.market, same.problem, batches)
        return [
            *((name, same, choose) for name, choose in others.items()),
            ("whet, the same candidates", same, functools.partial(self._searched, same)),
            ("whet, all its candidates", everything, functools.partial(self._searched, everything)),
        ]

    def _searched(self, start: Offered, limits: Limits) -> Plan:
        trials = Trials(self.model, start.market, self._yardstick, Pipeline(()), store=start.store)
        budgets = Budgets(bytes=limits.bytes)
        found = Search(start.problem, trials, budgets, objective="loss", as_fast=False).run()
        if found.best is None or found.reason:
            raise Impossible(found.reason, "bytes", float(limits.bytes or 0), 0.0)
        return found.best.plan

    def _within(self, start: Offered, choose: Callable[[Limits], Plan], limit: int) -> Plan:
        """Tighten the limit until the finished file keeps it: predictions leave out a little."""
        asked, over = limit, 0
        for _ in range(6):
            plan = choose(Limits(bytes=asked))
            over = self._written(start, plan).stat().st_size - limit
            if over <= 0:
                return plan
            asked -= over
        raise Impossible(f"no plan was found with {limit:,} bytes", "bytes", limit, limit + over)

    def _written(self, start: Offered, plan: Plan) -> Path:
        pieces = [c.piece for c in start.market.chosen(plan.choices)]
        model: onnx_ir.Model = Grafter(self.model).replace(pieces)
        folder = self._folder / "plan"
        folder.mkdir(exist_ok=True)
        self._target.lower(model, folder)
        return folder / "model.onnx"


def _context(prepared: Prepared, subject: Subject, threads: int) -> Context:
    data = read_dataset(subject.calibration, prepared.model, "calibration data", lambda _: None)
    with Worker(prepared.source, RuntimeOptions(threads)) as worker:
        example = dict(data.batches(batch_size(prepared.model, default=1))[0])
        bindings = find_bindings(prepared.model, worker, example, {})
    fit, judge = data.held_out()
    size = batch_size(prepared.model)
    return Context(
        bindings=bindings,
        calibration=fit.batches(size),
        held_out=judge.batches(size),
        threads=threads,
    )


def _show(name: str, found: dict[str, Any]) -> None:
    table = Table(title=f"{name}: metric at equal bytes (float32 {found['float32']:.4f})")
    for column in ("limit", "choice", "bytes", "loss", "agreement", "metric"):
        table.add_column(column, justify="left" if column == "choice" else "right")
    for row in found["rows"]:
        metric = row["metric"]
        table.add_row(
            f"{row['size']:g} %",
            row["way"],
            "-" if metric is None else f"{row['share']:.4f}x",
            "-" if metric is None else f"{row['loss']:.2e}",
            "-" if metric is None else f"{row['agreement']:.4f}",
            row["why"] if metric is None else f"{metric:.4f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"rank correlation of predicted and measured losses over {len(found['measured'])} random plans: "
        f"{found['rank_correlation']:.3f}; candidates and prices took {found['seconds_to_price']:.0f} s"
    )
