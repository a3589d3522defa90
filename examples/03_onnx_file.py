"""Compile an ONNX file that somebody gave you.

``python examples/03_onnx_file.py model.onnx`` does with your file what one would do on the command line, and prints
each command before it runs it. Without a file it writes one first: a digits network as an older exporter leaves it,
with spelled-out shapes, unused outputs and weights stored twice.

The order is the point. First *look* (doctor, inspect), then *ask* (plan changes nothing), then compile exactly, which
needs nothing but the file, hold the result against the source, and only then think about what may be lost.
"""

import argparse
import importlib
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

NOTES = {
    "doctor": "What this machine and this installation can do, and what stands in the way of this model.",
    "inspect": "What is in the file: operators, weights by type, free dimensions, places where compression can act.",
    "plan": "What a compile would do, pass by pass, what it needs and what it would save. Nothing is changed.",
    "compile": "Only passes that keep what the model computes; every rewrite is executed before it is made.",
    "diff": "Both files on the same random inputs, in two processes. Exit code 1 if they differ.",
    "bench": "Latency, size and memory side by side, in alternating blocks: look at the ratio, not at the times.",
}


def write_file(path: Path) -> None:
    """Write the network of example 02 with the older exporter, which leaves much to tidy up."""
    import torch

    model = importlib.import_module("02_vision_model").trained(epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.ones(2, 1, 8, 8),),
            str(path),
            dynamo=False,
            opset_version=13,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=["x"],
            output_names=["scores"],
            dynamic_axes={"x": {0: "batch"}, "scores": {0: "batch"}},
        )


def show(*arguments: str | Path) -> None:
    """Print a command and what it is for; run it."""
    words = ["whet", *map(str, arguments)]
    print(f"\n# {NOTES[words[1]]}\n$ {shlex.join(words)}\n", flush=True)
    # In your shell it is just `whet …`; here the interpreter is named, so that it works without an installed script.
    subprocess.run([sys.executable, "-m", *words], check=True)


def main() -> None:
    """Look, ask, compile, compare, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="an ONNX file")
    parser.add_argument("--output", type=Path, default=Path("out/given"))
    options = parser.parse_args()
    model = options.model
    if model is None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        model = options.output.with_name("given.onnx")
        write_file(model)

    show("doctor", model)
    show("inspect", model)
    show("plan", model, "--recipe", "exact")

    # `exact` stands for all passes that are exact or only reorder floating-point sums. If the artifact's outputs
    # moved further than that, nothing would be written, and `whet bisect` would find the rewrite.
    show("compile", model, "-o", options.output, "--recipe", "exact")

    # The tolerance is relative, ||b - a|| / ||a||. Were it exceeded, the first value inside the graph that differs is
    # named.
    show("diff", model, options.output, "--tolerance", "1e-4")
    show("bench", model, options.output)

    print(f"\nnext: whet compile {model} -o {options.output} --calibration samples.npz")


if __name__ == "__main__":
    main()
