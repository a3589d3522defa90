"""Make a digits network small enough for a microcontroller: half of its channels, eight bits, every byte accounted for.

``python examples/06_microcontroller.py``. On such a chip flash holds the weights and every kilobyte counts, so what
matters is where the bytes are. The recipe is a file, 06_microcontroller.toml, because that is what one keeps under
version control.

``--target`` says for what the artifact is made. The graph of the result is standard ONNX with QuantizeLinear and
DequantizeLinear around integer operators, which is also what other code generators read.
"""

import argparse
import importlib
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import whet


def main() -> None:
    """Train, prune, recover, quantize, account."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_suffix(".toml"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("out/microcontroller"))
    options = parser.parse_args()
    console = Console(width=100)
    vision = importlib.import_module("02_vision_model")
    (x, _), (test_x, test_y) = vision.images()

    # The batch is one image and stays one: a fixed shape is what a chip without an allocator needs. Calibration data
    # do three jobs here: they say which channels matter, they are what the smaller network is tuned on, and they set
    # the integer grids. None of that needs labels; those only judge.
    artifact = whet.compile(
        vision.trained(options.epochs),
        (torch.from_numpy(x[:1]),),
        calibration={"x": x[:512]},
        labels={"x": test_x, "labels": test_y},
        recipe=options.recipe,
        target=options.target,
        measure=False,
        output=options.output,
    )
    report = artifact.report

    # The ledger has a line for each pass: what it changed, how far it moved the outputs on held-out images, and what
    # the metric was before and after. If pruning took too much, that line says so, not a surprise at the end.
    report.print(console)

    # Bytes by layer. What is no layer (shapes, grids, names, the graph itself) is listed too: in small networks it is
    # a good part of the file, and a generator for the chip drops most of it.
    table = Table("layer", "format", "bytes before", "after", title="where the bytes are", box=None)
    after = 0
    for row in report.layers:
        if row.bytes_after:
            after += row.bytes_after
            table.add_row(row.site, row.format, f"{row.bytes_before:,}", f"{row.bytes_after:,}")
    table.add_row("all else", "", "", f"{report.after.bytes - after:,}")
    table.add_row("the file", "", f"{report.before.bytes:,}", f"{report.after.bytes:,}")
    console.print(table)


if __name__ == "__main__":
    main()
