"""Each tool the way its own documentation says, as a program that makes one file.

``python -m whet.tools.bench.rivals.makers TOOL TASK SOURCE DATA OUT`` runs in a process whose path has the tool in
front; ``DATA`` is an ``.npz`` with one array for each input.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx

from whet.ir.array import Array

__all__ = ["MAKERS", "TASKS", "main"]

Rows = Sequence[Mapping[str, Array]]
Maker = Callable[[str, Path, Rows, Path], None]
"""(task, source, calibration samples, destination)."""
TASKS = ("convolutions", "transformer")


class _Reader:
    """Hand samples to ONNX Runtime's calibrator."""

    def __init__(self, rows: Rows) -> None:
        self._left: Iterator[Mapping[str, Array]] = iter(rows)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._left, None)


def _ort_defaults(task: str, source: Path, rows: Rows, out: Path) -> None:
    """Call the quantizer that ONNX Runtime recommends for the kind of model, with no options."""
    tool = cast("Any", importlib.import_module("onnxruntime.quantization"))
    if task == "convolutions":
        tool.quantize_static(source, out, _Reader(rows))
    else:
        tool.quantize_dynamic(source, out)


def _ort_tuned(task: str, source: Path, rows: Rows, out: Path) -> None:
    """Do what is known to be best here: unsigned activations and scales per channel; transformers are fused first."""
    tool = cast("Any", importlib.import_module("onnxruntime.quantization"))
    kinds = tool.QuantType
    if task == "convolutions":
        tool.quantize_static(
            source,
            out,
            _Reader(rows),
            per_channel=True,
            activation_type=kinds.QUInt8,
            weight_type=kinds.QInt8,
        )
        return
    optimizer = cast("Any", importlib.import_module("onnxruntime.transformers.optimizer"))
    fused = out.with_name("fused.onnx")
    optimizer.optimize_model(
        str(source), model_type="bert", num_heads=12, hidden_size=384, opt_level=0
    ).save_model_to_file(str(fused))
    tool.quantize_dynamic(
        fused,
        out,
        per_channel=True,
        weight_type=kinds.QInt8,
        extra_options={"DefaultTensorType": 1},
    )


def _onnxsim(task: str, source: Path, rows: Rows, out: Path) -> None:
    """Simplify, then quantize, as its documentation advises."""
    tool = cast("Any", importlib.import_module("onnxsim"))
    model, _ = tool.simplify(onnx.load(source))
    if task == "convolutions":
        model = tool.quantize_static(model, [dict(row) for row in rows])
    else:
        model = tool.quantize_dynamic(model)
    onnx.save(model, out)


def _nncf(task: str, source: Path, rows: Rows, out: Path) -> None:
    """Quantize after training, with what it has for transformers."""
    tool = cast("Any", importlib.import_module("nncf"))
    kind = tool.ModelType.TRANSFORMER if task == "transformer" else None
    data = tool.Dataset([dict(row) for row in rows])
    onnx.save(tool.quantize(onnx.load(source), data, model_type=kind), out)


def _olive(task: str, source: Path, rows: Rows, out: Path) -> None:
    """Run one pass: static for convolutions, dynamic for transformers."""
    module = cast("Any", importlib.import_module("olive.passes.onnx.quantization"))
    create = cast("Any", importlib.import_module("olive.passes.olive_pass")).create_pass_from_dict
    handler = cast("Any", importlib.import_module("olive.model")).ONNXModelHandler
    if task == "convolutions":
        settings = {"data_config": _olive_data(rows)}
        step = create(module.OnnxStaticQuantization, settings, disable_search=True)
    else:
        step = create(module.OnnxDynamicQuantization, {}, disable_search=True)
    made = step.run(handler(str(source)), str(out.with_suffix("")))
    Path(made.model_path).replace(out)


def _olive_data(rows: Rows) -> Any:
    """Register the samples as a data set."""
    registry = cast("Any", importlib.import_module("olive.data.registry")).Registry
    config = cast("Any", importlib.import_module("olive.data.config"))

    class Samples:
        """Samples with a label that nobody looks at."""

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> tuple[dict[str, Array], int]:
            return {name: array[0] for name, array in rows[index].items()}, 0

    def samples(**_: object) -> Samples:
        return Samples()

    registry.register_dataset()(samples)
    part = config.DataComponentConfig
    return config.DataConfig(
        name="samples",
        load_dataset_config=part(type="samples"),
        dataloader_config=part(params={"batch_size": 1}),
    )


def _whet(task: str, source: Path, rows: Rows, out: Path) -> None:
    """Compile with the recipe auto."""
    from whet.compiler import compile

    del task
    stacked = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    sizes = {"batch": 1, "seq": next(iter(rows[0].values())).shape[1]}
    names = {
        d.dim_param for v in onnx.load(source).graph.input for d in v.type.tensor_type.shape.dim
    }
    folder = out.with_suffix("")
    chosen = {name: size for name, size in sizes.items() if name in names}
    compile(source, calibration=stacked, sizes=chosen, threads=2, page=False, output=folder)
    (folder / "model.onnx").replace(out)


MAKERS: Mapping[str, Maker] = {
    "whet": _whet,
    "onnxruntime": _ort_defaults,
    "onnxruntime, tuned": _ort_tuned,
    "onnxsim": _onnxsim,
    "nncf": _nncf,
    "olive": _olive,
}


def main(argv: Sequence[str]) -> None:
    """Make one file."""
    tool, task, source, data, out = argv
    with np.load(data) as file:
        arrays = {name: file[name] for name in file.files}
    count = len(next(iter(arrays.values())))
    rows = [{name: array[k : k + 1] for name, array in arrays.items()} for k in range(count)]
    MAKERS[tool](task, Path(source), rows, Path(out))


if __name__ == "__main__":
    main(sys.argv[1:])
