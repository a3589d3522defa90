"""Time the solver: ``python -m whet.tools.bench.allocation``.

Problems are drawn: sites of very different sizes and sensitivities, each with twelve formats of 1 to 16 bits whose
losses fall fourfold with every bit, milliseconds that follow bytes loosely, and slopes that are correlated between
neighbours, so that interactions matter.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from whet.solve.allocation import Decision, Limits, Option, Plan, Problem
from whet.solve.program import solve

__all__ = ["drawn", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print seconds and how far the loss is from the bound, for each kind of limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=500)
    parser.add_argument("--options", type=int, default=12)
    parser.add_argument("--draws", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(argv)
    table = Table(title=f"{options.sites} sites with {options.options} candidates each")
    for column in ("limits", "interactions", "seconds (median, most)", "loss", "bytes", "ms"):
        table.add_column(column, justify="right")
    for draws in (0, options.draws):
        problems = [
            drawn(seed, options.sites, options.options, draws) for seed in range(options.seeds)
        ]
        for share in ({"bytes": 0.3}, {"bytes": 0.3, "ms": 0.35}):
            found = [_timed(problem, share) for problem in problems]
            seconds = [s for s, _, _ in found]
            _, problem, plan = found[0]
            table.add_row(
                " and ".join(share),
                "yes" if draws else "no",
                f"{np.median(seconds):.2f}, {max(seconds):.2f}",
                f"{problem.loss(plan):.4g}",
                f"{problem.bytes(plan):,}",
                f"{problem.ms(plan) or 0:.4g}",
            )
    Console().print(table)
    return 0


def drawn(seed: int, sites: int, options: int, draws: int) -> Problem:
    """Return a problem; ``draws`` 0 leaves interactions out."""
    rng = np.random.default_rng(seed)
    along = rng.standard_normal((sites, draws)) if draws else None
    decisions: list[Decision] = []
    for site in range(sites):
        count = int(np.exp(rng.uniform(np.log(1e3), np.log(1e6))))
        sensitivity = np.exp(rng.normal(0, 1.5))
        found: list[Option] = []
        for k in range(options):
            bits = 1 + 15 * k / max(1, options - 1)
            loss = float(sensitivity * 4**-bits * rng.uniform(0.7, 1.4))
            direction = None
            if along is not None:
                mixed = 0.8 * along[site] + 0.6 * along[site - 1]
                direction = np.sqrt(2 * loss) * mixed / np.sqrt(np.mean(mixed**2))
            ms = count * 1e-6 * (0.3 + bits / 16 * rng.uniform(0.6, 1.2))
            found.append(Option(f"{bits:.3g} bits", loss, int(count * bits / 8), ms, direction))
        decisions.append(Decision(f"site{site}", tuple(found)))
    return Problem(tuple(decisions))


def _timed(problem: Problem, share: dict[str, float]) -> tuple[float, Problem, Plan]:
    """Solve with limits that are shares of what the largest options take."""
    largest = Plan(tuple(len(d.options) - 1 for d in problem.decisions))
    ms = problem.ms(largest)
    limits = Limits(
        bytes=int(share["bytes"] * problem.bytes(largest)),
        ms=share["ms"] * ms if "ms" in share and ms is not None else None,
    )
    start = time.perf_counter()
    plan = solve(problem, limits, "loss").plan
    return time.perf_counter() - start, problem, plan


if __name__ == "__main__":
    raise SystemExit(main())
