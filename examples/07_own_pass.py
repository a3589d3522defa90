"""Write a pass of your own in twenty lines, and run it by name.

``python examples/07_own_pass.py``. A pass is a frozen dataclass with a pattern and a replacement. Everything else is
done for it: the sweep over the graph, the proof of every single rewrite, fresh names, counting, the ledger, the
report. There is nothing to register: where a recipe has the name of a pass, ``module:Class`` does as well.

    whet compile model.onnx -o out --recipe '07_own_pass:SquareByProduct,exact'
    whet passes 07_own_pass:SquareByProduct
"""

import argparse
import dataclasses
from pathlib import Path
from typing import ClassVar

import onnx_ir
import torch
from rich.console import Console

import whet
from whet.extend import Builder, Fidelity, Match, Mismatch, Rewrite, op, var, weight


@dataclasses.dataclass(frozen=True)
class SquareByProduct(Rewrite):
    """Replace ``x ** 2`` by ``x * x``, which needs no logarithm."""

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (op("Pow", var("x"), weight("exponent")),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the product; decline other exponents."""
        exponent = found.array("exponent")
        if exponent.size != 1 or exponent.item() != 2:
            raise Mismatch(f"the exponent is {exponent.tolist()}, expected 2")
        return build.op("Mul", found["x"], found["x"])


@dataclasses.dataclass(frozen=True)
class CarelessSquare(Rewrite):
    """Do the same, but forget to look at the exponent."""

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (op("Pow", var("x"), weight("exponent")),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the product, right or wrong."""
        return build.op("Mul", found["x"], found["x"])


class Moments(torch.nn.Module):
    """Describe signals by variance, skewness and kurtosis: powers of two, three and four."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [batch, samples] to [batch, 3]."""
        x = x - x.mean(-1, keepdim=True)
        variance = x.pow(2).mean(-1)
        third, fourth = x.pow(3).mean(-1), x.pow(4).mean(-1)
        return torch.stack([variance, third / variance**1.5, fourth / variance.pow(2)], -1)


def main() -> None:
    """Run the right one, then the careless one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/own"))
    options = parser.parse_args()
    console = Console(width=100)
    signals = torch.randn(8, 4096)

    # Of five powers two are squares. The others are declined, each with the reason that the pass gave.
    for name in ("SquareByProduct", "CarelessSquare"):
        artifact = whet.compile(
            Moments(),
            (signals,),
            dynamic_shapes=({0: "batch"},),
            recipe=f"{__name__}:{name}",
            output=options.output / name,
        )
        # The careless pass gets away with nothing: where the exponent is not two, the proof has run both sides,
        # refused, and left a reproducer. The squares, where it happens to be right, are made all the same.
        step = artifact.report.steps[0]
        counted = step.coverage
        console.print(
            f"\n[bold]{step.name}[/]: {counted.matched} matched, {counted.changed} changed"
        )
        for site, reason in counted.declined.items():
            console.print(f"  declined at {site}: {reason}")
        for failure in counted.failures:
            console.print(f"  refused at {failure.site}: {failure.reason}")
        before, after = artifact.report.before, artifact.report.after
        if before.time is not None and after.time is not None:
            ratio = after.time.median / before.time.median
            console.print(f"  {ratio:.2f} of the time")


if __name__ == "__main__":
    main()
