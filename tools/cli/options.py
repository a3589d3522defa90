"""The options that several commands share, each written once."""

from pathlib import Path
from typing import Annotated

import typer

from whet.tools.cli import completion

__all__ = [
    "AllowNoop",
    "Bind",
    "Calibration",
    "Candidates",
    "Device",
    "Drop",
    "Evaluate",
    "Feeds",
    "Flash",
    "Json",
    "Labels",
    "Latency",
    "Loss",
    "MaxRam",
    "Minimize",
    "Model",
    "NoMeasure",
    "NoPage",
    "NoVerify",
    "Optimization",
    "Ram",
    "Recipe",
    "SearchMinutes",
    "Seed",
    "Session",
    "Size",
    "Start",
    "Target",
    "Threads",
    "Triple",
    "Trust",
    "Tune",
    "Workers",
]

_DATA, _BUDGET, _RUN = "Data", "Budget", "How it runs"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="ONNX file, .pt2 program, or pkg.mod:factory.", show_default=False
    ),
]
Target = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What to lower to: onnxruntime, ort-mobile (model.ort for minimal builds of it), openvino "
        "('openvino{precision=bf16}'), c (C99 for small "
        "devices; 'c{name=net,weights=bin}'), tvm (a library of kernels), reference, or auto (the fastest that is "
        "installed; whet compile only).",
        autocompletion=completion.targets,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="What the result will run on: host (this machine), a known device such as raspberry-pi-4, cortex-m4 or "
        "nrf52840, or a FILE.toml; 'cortex-m4{ram=128KB}'. Nothing is timed for another machine.",
        autocompletion=completion.devices,
    ),
]
Triple = Annotated[
    str,
    typer.Option(
        metavar="TRIPLE",
        help="The kind of machine that the result will run on, as compilers name it: aarch64-linux-gnu. Short for the "
        "--device of that name, the plainest machine of the kind.",
        show_default=False,
    ),
]
Optimization = Annotated[
    str,
    typer.Option(
        metavar="LEVEL",
        rich_help_panel=_RUN,
        help="ONNX Runtime's own graph optimizations: none, basic, extended or all.",
    ),
]
Session = Annotated[
    list[str],
    typer.Option(
        metavar="KEY=VALUE",
        rich_help_panel=_RUN,
        help="Session configuration entry of ONNX Runtime; stored in the artifact. Repeatable.",
    ),
]
Recipe = Annotated[
    str,
    typer.Option(
        metavar="RECIPE",
        help="auto, exact (nothing lossy), a .toml file, or 'pass,pass{opt=1}' (see: whet passes).",
        autocompletion=completion.recipes,
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        metavar="F.npz",
        rich_help_panel=_DATA,
        help="Real inputs: one array per model input, the leading axis counts samples.",
    ),
]
Evaluate = Annotated[
    str | None,
    typer.Option(
        metavar="pkg.mod:fn",
        rich_help_panel=_DATA,
        help="Function from a runner to a metric, larger is better; or a metric of whet.evaluate, "
        "'top-k{k=5,data=F.npz}'.",
        autocompletion=completion.metrics,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="F.npz",
        rich_help_panel=_DATA,
        help="Inputs and an array 'labels': the metric is top-1 accuracy of the first output.",
    ),
]
Drop = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE", rich_help_panel=_BUDGET, help="Largest loss of the metric: 1% or 0.01."
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES", rich_help_panel=_BUDGET, help="On disk: 4MB, 300KiB, or 25% of the source."
    ),
]
Latency = Annotated[
    str | None,
    typer.Option(metavar="TIME", rich_help_panel=_BUDGET, help="Median of one run: 3ms or 250us."),
]
Ram = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        rich_help_panel=_BUDGET,
        help="Working memory of the device, with --target c and tvm: 256KB. Without it, what the --device has.",
    ),
]
Flash = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        rich_help_panel=_BUDGET,
        help="What is kept on the device, 1MB: constants and code with --target c, files with onnxruntime and tvm.",
    ),
]
Minimize = Annotated[
    str,
    typer.Option(
        metavar="WHAT",
        rich_help_panel=_BUDGET,
        help="What is made small within the budget: loss, latency or size. auto: the loss; with --drop the latency; "
        "with --drop and --latency the size.",
    ),
]
Candidates = Annotated[
    str,
    typer.Option(
        metavar="PASSES",
        rich_help_panel=_BUDGET,
        help="What is tried at every site, as 'pass{opt=1},pass'.",
    ),
]
Start = Annotated[
    list[str],
    typer.Option(
        metavar="RECIPE",
        rich_help_panel=_BUDGET,
        help="A recipe, such as 'prune-structure{ratio=0.25}', at whose result the search begins as well. Repeatable.",
        show_default=False,
    ),
]
Loss = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        rich_help_panel=_BUDGET,
        help="What is predicted: outputs (squared distance) or divergence (of logits).",
    ),
]
SearchMinutes = Annotated[
    float,
    typer.Option(
        metavar="N", min=0, rich_help_panel=_BUDGET, help="End the search after so many minutes."
    ),
]
Tune = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        rich_help_panel=_RUN,
        help="With --target tvm: choose the schedules of kernels by measurement, for so long: 10min, 90s, 1h. What is "
        "found is kept for later compiles on this machine; off ignores it. Ctrl-C ends it early.",
    ),
]
Workers = Annotated[
    str,
    typer.Option(
        metavar="WHERE",
        rich_help_panel=_BUDGET,
        help="Where losses are computed: here, N processes, or a Dask scheduler (tcp://…).",
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        rich_help_panel=_RUN,
        help="Threads of the runtime; 0 leaves it to the runtime.",
    ),
]
MaxRam = Annotated[
    str | None,
    typer.Option(
        "--max-ram",
        metavar="SIZE",
        rich_help_panel=_RUN,
        help="Memory that calibration should stay below: 2GB, 500MiB.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(metavar="N", min=0, rich_help_panel=_RUN, help="Seed of every random input."),
]
Bind = Annotated[
    list[str],
    typer.Option(
        metavar="NAME=N",
        rich_help_panel=_RUN,
        help="Size of a dynamic dimension, for proofs and timing; repeatable.",
    ),
]
NoVerify = Annotated[
    bool,
    typer.Option("--no-verify", help="Commit rewrites without executing them first."),
]
NoMeasure = Annotated[
    bool,
    typer.Option("--no-measure", help="Time nothing; the never-worse gate is off too."),
]
NoPage = Annotated[
    bool, typer.Option("--no-page", help="Write no report.html (whet report DIR does it later).")
]
AllowNoop = Annotated[
    bool,
    typer.Option("--allow-noop", help="Accept a pass that was asked for and changes nothing."),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Load a .pt2 program even if that could run code it brings."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines to stdout.")]
Feeds = Annotated[
    Path | None,
    typer.Option(
        metavar="F.npz",
        rich_help_panel=_DATA,
        help="Inputs: one array per model input. Without it they are drawn at random.",
    ),
]
