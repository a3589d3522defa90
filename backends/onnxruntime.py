"""Lower to ONNX Runtime."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from whet.backends.base import Runner, RuntimeOptions, Target
from whet.backends.device import Device
from whet.ir.execute import Executor, newest_ir_version

if TYPE_CHECKING:
    import onnx
    import onnx_ir

    from whet.passes.base import Pass
    from whet.passes.pipeline import Fixpoint

__all__ = ["OnnxRuntime", "largest_constants", "lean", "runtime_fusions"]


_ONE_FILE = 1 << 29
"""Models of more bytes get a data file, which the runtime maps; it would hold a single file twice while loading."""
_STREAMED = {
    "session.disable_prepacking": "1",
    "session.optimized_model_external_initializers_file_name": "optimized.data",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}
"""Session entries with which ONNX Runtime saves a model without holding its weights."""


class OnnxRuntime(Target):
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"
    counts_flash: ClassVar[bool] = True
    priced: ClassVar[str] = "onnxruntime"
    contends: ClassVar[bool] = True

    def __init__(self, newest_opset: int | None = None) -> None:
        """Lower to opsets up to ``newest_opset``; None leaves a model at its own."""
        self.newest_opset = newest_opset

    def on(self, device: Device) -> Self:
        """Return the target for a device whose runtime may be older than a model's opset."""
        super().on(device)
        return type(self)(device.newest_opset)

    def legalize(self) -> "tuple[Pass | Fixpoint, ...]":
        """Return the passes that choose among ONNX Runtime's own operators."""
        from whet.passes.recipes import legalization

        return legalization("onnxruntime")

    def refuses(self, model: "onnx_ir.Model") -> list[str]:
        """Name operators of domains that a stock ONNX Runtime does not have."""
        known = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.ms.internal.nhwc"}
        own = {key[0] for key in model.functions}
        found = Counter(
            (node.domain, node.op_type)
            for node in model.graph.all_nodes()
            if node.domain not in known | own
        )
        return [
            f"{domain}.{kind} ({count} node{'s'[: count > 1]}): no such operator in ONNX Runtime"
            for (domain, kind), count in found.items()
        ]

    def lower(self, model: "onnx_ir.Model", folder: Path) -> list[str]:
        """Write ``model.onnx``, with ``model.onnx.data`` beside it when the weights are large."""
        from whet.ir.saving import save_model

        save_model(self.readable(model), folder / "model.onnx", external_threshold=_ONE_FILE)
        return sorted(path.name for path in folder.iterdir())

    def readable(self, model: "onnx_ir.Model") -> "onnx_ir.Model":
        """Return the model in an opset that the device's runtime reads; raises UnsupportedTarget."""
        if self.newest_opset is None:
            return lean(model)
        from whet.ir.opset_lower import lower_opset

        return lean(lower_opset(model, self.newest_opset))

    def over(self, folder: Path, ram: int | None, flash: int | None) -> list[str]:
        """Return whether the files are larger than the device's flash, with the largest tensors."""
        size = sum(path.stat().st_size for path in folder.glob("model*"))
        if flash is None or size <= flash:
            return []
        return [
            f"flash is {size:,} bytes of files, the budget {flash:,}; the largest constants are "
            f"{largest_constants(folder / 'model.onnx')}"
        ]

    def open(self, path: Path, options: RuntimeOptions) -> Runner:
        """Make a session."""
        return Executor(
            path,
            optimization=options.optimization,
            threads=options.threads,
            spin=True,
            config=dict(options.config),
        )

    def versions(self) -> dict[str, str]:
        """Return ONNX Runtime's version."""
        from importlib.metadata import version

        return {"onnxruntime": version("onnxruntime")}


def largest_constants(path: Path, shown: int = 4) -> str:
    """Name the largest initializers of a file."""
    import onnx_ir

    tensors = [v.const_value for v in onnx_ir.load(path).graph.initializers.values()]
    found = sorted((-t.nbytes, t.name or "") for t in tensors if t is not None)
    return ", ".join(f"'{name}' {-size:,}" for size, name in found[:shown]) or "none"


def lean(model: "onnx_ir.Model") -> "onnx_ir.Model":
    """Return a copy without what the runtime does not read: metadata, and the shapes it infers by itself.

    Outputs of operators of other domains keep their types, because nobody else can infer them.
    """
    copy = model.clone()
    copy.doc_string = ""
    copy.ir_version = min(copy.ir_version, newest_ir_version())
    for graph in (copy.graph, *copy.graph.subgraphs()):
        for value in graph.initializers.values():
            value.metadata_props.clear()
            if not value.is_graph_input() and not value.is_graph_output():
                value.type = value.shape = None  # its tensor has both
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = ""
            _forget(node)
    return copy


def _forget(node: "onnx_ir.Node") -> None:
    for value in node.outputs:
        value.metadata_props.clear()
        if node.domain == "" and not value.is_graph_output():
            value.type = None
            value.shape = None


def runtime_fusions(path: Path) -> Mapping[str, int]:
    """Return what ONNX Runtime itself makes of a model: fused operator -> nodes that the file does not have.

    The runtime writes its own form beside ``path`` for a moment, weights in a file of their own: they pass through
    without being held in memory, and models beyond a protobuf's limit work.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix=".whet-", dir=path.parent) as folder:
        out = Path(folder) / "optimized.onnx"
        Executor(path, optimization="extended", save_optimized=out, config=_STREAMED)
        after = _count(onnx.load(out, load_external_data=False))
    before = _count(onnx.load(path, load_external_data=False))
    return dict(sorted((after - before).items()))


def _count(model: "onnx.ModelProto") -> Counter[str]:
    return Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for node in model.graph.node
    )
