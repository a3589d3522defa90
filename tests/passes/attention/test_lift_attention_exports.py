"""What torch's two exporters write for attention at operator sets that have no Attention."""

import io
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx.reference import ReferenceEvaluator

from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.ir.opset import raise_opset
from whet.ir.prepare import normalize
from whet.passes.attention.call import read_attention
from whet.passes.attention.drop_neutral_mask import DropNeutralMask
from whet.passes.attention.lift_attention import LiftAttention
from whet.passes.attention.lift_softmax import LiftSoftmax
from whet.passes.pipeline import Fixpoint, Pipeline
from whet.passes.proof import compare
from whet.passes.recipes import canonical
from whet.passes.workbench import Context

torch = pytest.importorskip("torch")
functional = torch.nn.functional

RECIPE = Fixpoint((*canonical().passes, LiftAttention(), LiftSoftmax(), DropNeutralMask()))
BATCHES, LENGTHS = (2, 3), (5, 8)
WIDTH, HEADS = 16, 2


class Functional(torch.nn.Module):
    """Torch's own operator between projections."""

    def __init__(self, *, causal: bool = False, single: bool = False) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.causal, self.single = causal, single

    def forward(self, x, mask=None):
        batch, length, _ = x.shape
        parts = self.qkv(x).reshape(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]
        if self.single:
            q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
        y = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)
        return y.reshape(batch, HEADS, length, -1).transpose(1, 2).reshape(batch, length, WIDTH)


class Written(torch.nn.Module):
    """Attention as people write it: scores divided, filled with minus infinity, masked, summed."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.query, self.key, self.value = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.style = style
        triangle = torch.ones(16, 16).tril().view(1, 1, 16, 16)
        self.register_buffer("triangle", triangle)

    def heads(self, x):
        return x.view(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2)

    def forward(self, x, mask=None):
        q, k, v = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        if self.style == "einsum":
            scores = torch.einsum("bhid,bhjd->bhij", q, k) * 0.3
            weights = scores.softmax(-1)
            y = torch.einsum("bhij,bhjd->bhid", weights, v)
        elif self.style == "bmm":
            q, k, v = (t.reshape(-1, t.shape[2], t.shape[3]) for t in (q, k, v))
            weights = functional.softmax(torch.bmm(q * 0.3, k.transpose(1, 2)), dim=-1)
            y = torch.bmm(weights, v).view(x.shape[0], HEADS, x.shape[1], -1)
        else:
            scores = q @ k.transpose(-2, -1) / 2.8
            if self.style == "causal":
                length = x.shape[1]
                hidden = self.triangle[:, :, :length, :length] == 0
                scores = scores.masked_fill(hidden, float("-inf"))
            if self.style == "padding":
                scores = scores + (1.0 - mask[:, None, None, :]) * torch.finfo(torch.float32).min
            if self.style == "exponentials":
                e = (scores - scores.amax(-1, keepdim=True)).exp()
                weights = e / e.sum(-1, keepdim=True)
            else:
                weights = functional.dropout(scores.softmax(-1), 0.1, self.training)
            y = weights @ v
        return y.transpose(1, 2).reshape(x.shape[0], x.shape[1], WIDTH)


class MultiHead(torch.nn.Module):
    """Torch's own layer, with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x, mask=None):
        padded = None if mask is None else mask < 0.5
        return self.inner(x, x, x, key_padding_mask=padded, need_weights=False)[0]


Mask = Callable[[int, int], np.ndarray] | None


def float_mask(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((batch, 1, length, length), np.float32)


def bool_mask(batch: int, length: int) -> np.ndarray:
    mask = np.random.default_rng(1).random((batch, 1, length, length)) > 0.4
    mask[..., 0] = True
    return mask


def padding(batch: int, length: int) -> np.ndarray:
    mask = np.ones((batch, length), np.float32)
    mask[0, -2:] = 0
    return mask


CASES: dict[str, tuple[Callable[[], torch.nn.Module], Mask]] = {
    "plain": (Functional, None),
    "causal": (lambda: Functional(causal=True), None),
    "one-axis": (lambda: Functional(single=True), None),
    "float-mask": (Functional, float_mask),
    "bool-mask": (Functional, bool_mask),
    "written": (lambda: Written("plain"), None),
    "written-causal": (lambda: Written("causal"), None),
    "written-padding": (lambda: Written("padding"), padding),
    "written-einsum": (lambda: Written("einsum"), None),
    "written-bmm": (lambda: Written("bmm"), None),
    "written-exponentials": (lambda: Written("exponentials"), None),
    "layer": (MultiHead, None),
    "layer-padding": (MultiHead, padding),
}


def arguments(mask: Mask, batch: int, length: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((batch, length, WIDTH), np.float32)
    return {"x": x} if mask is None else {"x": x, "mask": mask(batch, length)}


def dynamo(module: torch.nn.Module, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Export at opset 18 with batch and length free."""
    names = {"x": {0: "batch", 1: "length"}}
    if "mask" in feeds:
        wide = feeds["mask"].ndim == 4
        names["mask"] = (
            {0: "batch", 2: "length", 3: "length"} if wide else {0: "batch", 1: "length"}
        )
    shapes = {
        key: {axis: torch.export.Dim(name, min=2, max=16) for axis, name in axes.items()}
        for key, axes in names.items()
    }
    tensors = {key: torch.from_numpy(array) for key, array in feeds.items()}
    program = torch.onnx.export(
        module,
        kwargs=tensors,
        dynamo=True,
        opset_version=18,
        dynamic_shapes=shapes,
        verbose=False,
        optimize=False,
    )
    return program.model_proto


def script(module: torch.nn.Module, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Export at opset 17 through TorchScript, which writes the sizes of the layer into the graph."""
    axes = {"x": {0: "batch", 1: "length"}, "y": {0: "batch", 1: "length"}}
    if "mask" in feeds:
        wide = feeds["mask"].ndim == 4
        axes["mask"] = {0: "batch", 2: "length", 3: "length"} if wide else {0: "batch", 1: "length"}
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        tuple(torch.from_numpy(array) for array in feeds.values()),
        buffer,
        dynamo=False,
        opset_version=17,
        input_names=list(feeds),
        output_names=["y"],
        dynamic_axes=None if isinstance(module, MultiHead) else axes,
    )
    return onnx.load_from_string(buffer.getvalue())


BOTH = ("plain", "causal", "bool-mask", "written-causal", "written-bmm", "layer-padding")
"""What the exporters write differently; the rest is exported by the faster one only."""
FIXED = ("layer", "layer-padding")
"""Layers whose batch and length TorchScript writes into the graph."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", BOTH)
def test_dynamo(case: str) -> None:
    check(case, dynamo, 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_torchscript(case: str) -> None:
    check(case, script, 1 if case in FIXED else 2)


def check(case: str, exporter: Callable[..., onnx.ModelProto], sizes: int) -> None:
    """Export, lift, compare at one or two sizes: with the reference, as masks may be shared by all queries."""
    make, mask = CASES[case]
    torch.manual_seed(0)
    module = make().eval()
    feeds = arguments(mask, BATCHES[0], LENGTHS[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = exporter(module, feeds)
    model = normalize(raise_opset(normalize(onnx_ir.serde.deserialize_model(source))))
    pairs = list(zip(BATCHES, LENGTHS, strict=True))[:sizes]
    choices = tuple({"batch": batch, "length": length} for batch, length in pairs)
    model, steps = Pipeline((RECIPE,)).run(model, Context(bindings=Bindings(choices)))
    found = [node for node in model.graph if node.op_type == "Attention"]
    said = [dict(s.coverage.declined) | dict(s.coverage.near_misses) for s in steps]
    assert len(found) == 1, [sentences for sentences in said if sentences]
    assert "Softmax" not in {node.op_type for node in model.graph}
    read_attention(found[0])
    before = Executor(source)
    after = ReferenceEvaluator(onnx_ir.serde.serialize_model(model))
    for batch, length in pairs:
        feeds = arguments(mask, batch, length)
        (old,), (new,) = before.run(feeds), after.run(None, feeds)
        assert compare(old, new) <= 1e-5
