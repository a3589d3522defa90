"""Measure attention with a bias: as it is, with factors in the place of the bias, and with no bias at all.

``python -m whet.tools.bench.attention_bias [--quick] [--causal] [--json FILE]``: plain operators, each kernel of ONNX
Runtime that takes the bias, PyTorch's scaled_dot_product_attention, and the factors in each of these kernels. Every
contender has a process of its own; they are timed in alternating blocks as long as they fit into memory together,
else one after the other, forwards and back.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from whet.backends.measure import Timing, compare_speed
from whet.ir.execute import CannotRun
from whet.printing import new_table, titled
from whet.tools.bench.attention_contender import TORCH, Contender
from whet.tools.bench.attention_models import FUSED, Case, Means

__all__ = ["Row", "crossing", "main", "measure"]

Key = tuple[str, Means, int]
"""Kernel, how the bias comes in, rank (0 where that does not matter)."""
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
_QUICK = 1024
_SHARE = 0.7
"""Of the free memory, what contenders may take."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One contender at one size."""

    length: int
    head: int
    rank: int
    """0 where the bias comes as a tensor, or not at all."""
    kernel: str
    means: Means
    time: Timing | None = None
    bytes: int = 0
    """Largest resident size of its process, less what the libraries take."""
    error: float = math.nan
    skipped: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to measure."""

    heads: int = 8
    causal: bool = False
    threads: int = 2
    rounds: int = 7
    block_seconds: float = 0.15


def measure(length: int, head: int, ranks: Sequence[int], plan: Plan) -> list[Row]:
    """Measure all contenders at one length and head size."""
    case = Case(length, head, ranks[0], plan.heads, plan.causal)
    needs = {key: _need(case, *key) for key in _contenders(ranks)}
    free = _SHARE * _free_memory()
    fits = {key: need <= free for key, need in needs.items()}
    rows = [_short(case, key, needs[key]) for key, fit in fits.items() if not fit]
    wanted = [key for key, fit in fits.items() if fit]
    together = sum(needs[key] for key in wanted) <= free
    makers = {key: _make(case, key, plan) for key in wanted}
    rows += (_together if together else _alone)(makers, plan)
    order = list(needs)
    return sorted(rows, key=lambda row: order.index((row.kernel, row.means, row.rank)))


def _contenders(ranks: Sequence[int]) -> Iterator[Key]:
    for kernel in ("plain", *FUSED, TORCH):
        yield kernel, "bias", 0
    for kernel in FUSED:
        yield kernel, "nothing", 0
    for rank in ranks:
        for kernel in FUSED:
            yield kernel, "factors", rank


def _make(case: Case, key: Key, plan: Plan) -> tuple[Row, Contender]:
    kernel, means, rank = key
    own = dataclasses.replace(case, rank=rank or case.rank)
    row = Row(case.length, case.head, rank, kernel, means)
    return row, Contender(kernel, means, own, plan.threads)


def _together(makers: Mapping[Key, tuple[Row, Contender]], plan: Plan) -> list[Row]:
    """Hold all contenders at once, and time them in alternating blocks."""
    found: list[Row] = []
    running: list[tuple[Row, Contender]] = []
    try:
        for row, contender in makers.values():
            try:
                contender.load()
                running.append((row, contender))
            except CannotRun as error:
                found.append(dataclasses.replace(row, skipped=str(error)))
        times = _race([contender for _, contender in running], plan, plan.rounds)
        ended = zip(running, times, strict=True)
        return found + [_finished(row, [time], contender) for (row, contender), time in ended]
    finally:
        for _, contender in makers.values():
            contender.close()


def _alone(makers: Mapping[Key, tuple[Row, Contender]], plan: Plan) -> list[Row]:
    """Hold one contender at a time, each of them twice: a drift of the machine's speed falls on all alike."""
    found: dict[Key, Row] = {}
    first: dict[Key, Timing] = {}
    for key in [*makers, *reversed(list(makers))]:
        row, contender = makers[key]
        if key in found:
            continue
        try:
            contender.load()
            (time,) = _race([contender], plan, -(-plan.rounds // 2))
            if key in first:
                found[key] = _finished(row, [first[key], time], contender)
            first[key] = time
        except CannotRun as error:
            found[key] = dataclasses.replace(row, skipped=str(error))
        finally:
            contender.close()
    return list(found.values())


def _race(contenders: Sequence[Contender], plan: Plan, rounds: int) -> list[Timing]:
    feeds: list[dict[str, np.ndarray]] = [{} for _ in contenders]
    return compare_speed(contenders, feeds, rounds=rounds, block_seconds=plan.block_seconds)


def _finished(row: Row, times: Sequence[Timing], contender: Contender) -> Row:
    """Ask for the memory before the error, whose check takes some itself."""
    return dataclasses.replace(
        row, time=_merged(times), bytes=contender.memory(), error=contender.error()
    )


def _merged(times: Sequence[Timing]) -> Timing:
    """Return the mean of the medians, within the widest quartiles."""
    return Timing(
        float(np.mean([t.median for t in times])),
        min(t.low for t in times),
        max(t.high for t in times),
        sum(t.runs for t in times),
    )


def _need(case: Case, kernel: str, means: Means, _rank: int) -> int:
    """Return about how many bytes a contender takes: so many times the scores, which are as large as B."""
    scores = 2 if means != "bias" else 4 if kernel == "plain" else 3
    return scores * case.bias_bytes + (100 << 20)


def _free_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 1 << 33
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024


def _short(case: Case, key: Key, need: int) -> Row:
    kernel, means, rank = key
    reason = f"needs about {need / 1e9:.1f} GB, {_free_memory() / 1e9:.1f} GB are free"
    return Row(case.length, case.head, rank, kernel, means, skipped=reason)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The best of each group at one size and rank."""

    length: int
    head: int
    rank: int
    bias: Row
    factors: Row
    nothing: Row

    @property
    def gain(self) -> float:
        """Return how many times faster the factors are than the best kernel that takes the bias."""
        return _ms(self.bias) / _ms(self.factors)

    @property
    def overhead(self) -> float:
        """Return the time of the factors over that of the same attention with no bias."""
        return _ms(self.factors) / _ms(self.nothing)


def _compare(rows: Sequence[Row]) -> list[Comparison]:
    """Compare what ran: the bias in ONNX Runtime (plain operators count), factors of each rank, no bias."""
    found: list[Comparison] = []
    for length, head, rank in dict.fromkeys((r.length, r.head, r.rank) for r in rows if r.rank):
        here = [r for r in rows if (r.length, r.head) == (length, head) and r.time is not None]
        bias = [r for r in here if r.means == "bias" and r.kernel != TORCH]
        factors = [r for r in here if r.rank == rank]
        nothing = [r for r in here if r.means == "nothing"]
        if bias and factors and nothing:
            best = [min(group, key=_ms) for group in (bias, factors, nothing)]
            found.append(Comparison(length, head, rank, *best))
    return sorted(found, key=lambda c: (c.head, c.rank, c.length))


def _ms(row: Row) -> float:
    assert row.time is not None
    return row.time.median


def crossing(lengths: Sequence[int], gains: Sequence[float]) -> float | None:
    """Return the length from which on the gain stays above one, or None if the last is not.

    Between two lengths the logarithm of the gain is taken as linear in that of the length.
    """
    if gains[-1] <= 1:
        return None
    k = len(gains) - 1
    while k > 0 and gains[k - 1] > 1:
        k -= 1
    if k == 0:
        return float(lengths[0])
    below, above = math.log(gains[k - 1]), math.log(gains[k])
    share = -below / (above - below)
    step = math.log(lengths[k] / lengths[k - 1])
    return lengths[k - 1] * math.exp(share * step)


def _break_even(found: Sequence[Comparison]) -> list[str]:
    lines: list[str] = []
    for head, rank in dict.fromkeys((c.head, c.rank) for c in found):
        part = [c for c in found if (c.head, c.rank) == (head, rank)]
        lengths = [c.length for c in part]
        length = crossing(lengths, [c.gain for c in part])
        if length is None:
            said = f"not faster at {lengths[-1]}"
        elif length == lengths[0]:
            said = f"faster from {lengths[0]} on, the shortest measured"
        else:
            said = f"faster from about {length:.0f} on"
        lines.append(f"break-even, d {head}, rank {rank}: {said}")
    return lines


def _contender_table(rows: Sequence[Row]) -> Table:
    table = new_table()
    for name in ("N", "d", "bias as", "rank", "kernel", "median (quartiles)", "MB", "error"):
        table.add_column(name, justify="left" if name in {"bias as", "kernel"} else "right")
    for r in rows:
        head = (f"{r.length}", f"{r.head}", r.means, f"{r.rank or ''}", r.kernel)
        if r.time is None:
            table.add_row(*head, "skipped", "", "")
        else:
            table.add_row(*head, str(r.time), f"{r.bytes / 1e6:,.0f}", f"{r.error:.0e}")
    return table


def _comparison_table(found: Sequence[Comparison], rows: Sequence[Row]) -> Table:
    table = new_table()
    heads = (
        "d",
        "rank",
        "N",
        "with bias",
        "factors",
        "no bias",
        "torch",
        "gain",
        "of no bias",
        "MB",
    )
    for name in heads:
        table.add_column(name, justify="right")
    for c in found:
        same = [r for r in rows if (r.length, r.head, r.kernel) == (c.length, c.head, TORCH)]
        torch = same[0].time if same else None
        table.add_row(
            *(f"{c.head}", f"{c.rank}", f"{c.length}", _cell(c.bias), _cell(c.factors)),
            *(_cell(c.nothing), "-" if torch is None else f"{torch.median:.3g}"),
            *(f"{c.gain:.2f}x", f"{c.overhead:.2f}x"),
            f"{c.bias.bytes / 1e6:,.0f} → {c.factors.bytes / 1e6:,.0f}",
        )
    return table


def _cell(row: Row) -> str:
    return f"{_ms(row):.3g} {''.join(c for c in row.kernel if c.isupper()) or row.kernel}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"lengths up to {_QUICK}, few rounds")
    parser.add_argument("--causal", action="store_true", help="queries see earlier keys only")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--head-sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="store the numbers in this file")
    options = parser.parse_args(argv)
    plan = Plan(options.heads, options.causal, options.threads)
    if options.quick:
        plan = dataclasses.replace(plan, rounds=3, block_seconds=0.05)
    lengths = [n for n in options.lengths if n <= _QUICK or not options.quick]
    console = Console()
    rows: list[Row] = []
    for head in options.head_sizes:
        for length in lengths:
            rows += measure(length, head, options.ranks, plan)
            console.print(f"d {head}, N {length}: measured", highlight=False)
            if options.json is not None:
                options.json.write_text(_to_json(rows))
    _print(rows, console, plan)
    return 0


def _print(rows: Sequence[Row], console: Console, plan: Plan) -> None:
    what = f"{plan.heads} heads, {plan.threads} threads{', causal' if plan.causal else ''}"
    console.print(titled(f"Attention with a bias, {what}", _contender_table(rows)))
    for reason in dict.fromkeys(f"{r.kernel}, {r.means}: {r.skipped}" for r in rows if r.skipped):
        console.print(f"skipped: {reason}", markup=False, highlight=False)
    found = _compare(rows)
    title = "Milliseconds of the best kernel of each group; gain: with bias / factors"
    console.print(titled(title, _comparison_table(found, rows)))
    for line in _break_even(found):
        console.print(line, highlight=False)


def _to_json(rows: Sequence[Row]) -> str:
    ratios = [
        {
            "length": c.length,
            "head": c.head,
            "rank": c.rank,
            "gain": c.gain,
            "of_no_bias": c.overhead,
        }
        for c in _compare(rows)
    ]
    plain = {"rows": [dataclasses.asdict(row) for row in rows], "comparisons": ratios}
    return json.dumps(plain, indent=1) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
