"""Rotary positions, shared heads and caches as torch's exporters write them."""

import contextlib
import io
import warnings
from collections.abc import Callable

import onnx
import onnx_ir
import pytest
from rewriting import outputs_of

from whet.ir.bindings import Bindings
from whet.ir.opset import raise_opset
from whet.ir.prepare import normalize
from whet.passes.pipeline import Pipeline
from whet.passes.proof import compare
from whet.passes.recipes import canonical, exact
from whet.passes.workbench import Context

torch = pytest.importorskip("torch", reason="exports need torch")

HEADS, KEY_HEADS, LENGTH, SIZE, PAST = 4, 2, 5, 8, 7
BINDINGS = Bindings(
    ({"batch": 2, "seq": 3, "past": 4}, {"batch": 3, "seq": 5, "past": 2}),
)
Tensor = torch.Tensor


def angles(positions: Tensor) -> Tensor:
    rates = 10000.0 ** (-torch.arange(0, SIZE, 2).float() / SIZE)
    return positions[:, :, None].float() * rates


class Llama(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat((angles(positions), angles(positions)), -1)[:, None]
        return self.turn(q, both), self.turn(k, both)

    def turn(self, x: Tensor, both: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * both.cos() + torch.cat((-x[..., half:], x[..., :half]), -1) * both.sin()


class Tables(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        both = torch.cat((angles(torch.arange(16)[None]),) * 2, -1)[0]
        self.register_buffer("cos", both.cos())
        self.register_buffer("sin", both.sin())

    def forward(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos = self.cos[: q.shape[2]][positions].unsqueeze(1)
        sin = self.sin[: q.shape[2]][positions].unsqueeze(1)
        return self.turn(q, cos, sin), self.turn(k, cos, sin)

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin


class Neighbours(torch.nn.Module):
    """The first features only, neighbours as pairs, heads behind the positions."""

    def __init__(self) -> None:
        super().__init__()
        table = angles(torch.arange(16)[None])[0, :, :2]
        self.register_buffer("table", torch.cat((table.sin(), table.cos()), -1))

    def forward(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        sin, cos = torch.split(self.table[positions], 2, -1)
        sin = torch.repeat_interleave(sin[:, :, None], 2, 3)
        cos = torch.repeat_interleave(cos[:, :, None], 2, 3)
        return self.turn(q.transpose(1, 2), cos, sin), self.turn(k.transpose(1, 2), cos, sin)

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, rest = x[..., :4], x[..., 4:]
        turned = torch.stack((-first[..., 1::2], first[..., ::2]), -1).flatten(-2)
        return torch.cat((first * cos + turned * sin, rest), -1).permute(0, 2, 1, 3)


class Pairs(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        turns = angles(positions)[:, None]
        return self.turn(q, turns), self.turn(k, turns)

    def turn(self, x: Tensor, turns: Tensor) -> Tensor:
        cos, sin = turns.cos(), turns.sin()
        a, b = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def expanded(x: Tensor) -> Tensor:
    batch, heads, length, size = x.shape
    wide = x[:, :, None].expand(batch, heads, HEADS // KEY_HEADS, length, size)
    return wide.reshape(batch, HEADS, length, size)


class Shared(torch.nn.Module):
    def __init__(self, repeat: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.repeat = repeat

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        attention = torch.nn.functional.scaled_dot_product_attention
        return attention(q, self.repeat(k), self.repeat(v))


class Cached(torch.nn.Module):
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        k, v = torch.cat((past_k, k), 2), torch.cat((past_v, v), 2)
        seen = torch.arange(q.shape[2])[:, None] + past_k.shape[2]
        mask = torch.arange(k.shape[2])[None] <= seen
        attention = torch.nn.functional.scaled_dot_product_attention
        return attention(q, expanded(k), expanded(v), attn_mask=mask), k, v


def tensors(*heads: int, length: int = LENGTH) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, count, length, SIZE, generator=generator) for count in heads]


POSITIONS = torch.arange(LENGTH).expand(2, LENGTH).contiguous()
ROTARY = (
    (*tensors(HEADS, KEY_HEADS), POSITIONS),
    ({0: "batch", 2: "seq"},) * 2 + ({0: "batch", 1: "seq"},),
)
SHARED = (tuple(tensors(HEADS, KEY_HEADS, KEY_HEADS)), ({0: "batch", 2: "seq"},) * 3)
CACHED = (
    (*SHARED[0], *tensors(KEY_HEADS, KEY_HEADS, length=PAST)),
    (*SHARED[1], {0: "batch", 2: "past"}, {0: "batch", 2: "past"}),
)


Case = tuple[tuple[Tensor, ...], tuple[dict[int, str], ...]]


def exported(module: torch.nn.Module, case: Case, opset: int) -> onnx_ir.Model:
    """Export with torch.export, or below opset 18 with TorchScript."""
    inputs, sizes = case
    names = [f"in{k}" for k in range(len(inputs))]
    file = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if opset >= 18:
            dims = [{axis: torch.export.Dim(name) for axis, name in s.items()} for s in sizes]
            options = {"dynamo": True, "optimize": False, "dynamic_shapes": dims, "verbose": False}
        else:
            free = dict(zip(names, sizes, strict=True))
            options = {"dynamo": False, "dynamic_axes": free}
        torch.onnx.export(module, inputs, file, opset_version=opset, input_names=names, **options)
    return normalize(onnx_ir.from_proto(onnx.load_model_from_string(file.getvalue())))


def compiled(model: onnx_ir.Model) -> list[str]:
    """Run the exact recipe, compare outputs, and return the operators that are left."""
    model = raise_opset(model)
    context = Context(bindings=BINDINGS)
    before = outputs_of(model, context)
    model, steps = Pipeline((canonical(), exact())).run(model, context)
    assert not [failure for step in steps for failure in step.coverage.failures]
    for old, new in zip(before, outputs_of(model, context), strict=True):
        assert max(compare(a, b) for a, b in zip(old, new, strict=True)) <= 1e-5
    return [node.op_type for node in model.graph]


EXPORTS = [(module, 17) for module in (Llama, Tables, Neighbours, Pairs)]
EXPORTS += [(Neighbours, 18), *((module, 23) for module in (Llama, Tables, Neighbours, Pairs))]


@pytest.mark.parametrize(("module", "opset"), EXPORTS)
def test_rotary_positions(module: type[torch.nn.Module], opset: int) -> None:
    found = compiled(exported(module(), ROTARY, opset))
    assert found.count("RotaryEmbedding") == 2
    assert not {"Neg", "Concat", "Transpose", "Add"} & set(found)


def interleaved(x: Tensor) -> Tensor:
    return x.repeat_interleave(HEADS // KEY_HEADS, 1)


def indexed(x: Tensor) -> Tensor:
    return x[:, torch.arange(HEADS) // (HEADS // KEY_HEADS)]


REPEATS = [(repeat, opset) for repeat in (expanded, interleaved, indexed) for opset in (17, 23)]


@pytest.mark.parametrize(("repeat", "opset"), [*REPEATS, (expanded, 18)])
def test_shared_heads(repeat: Callable[[Tensor], Tensor], opset: int) -> None:
    assert compiled(exported(Shared(repeat), SHARED, opset)) == ["Attention"]


@pytest.mark.parametrize("opset", [17, 18, 23])
def test_a_decoder_step_with_a_past(opset: int) -> None:
    found = compiled(exported(Cached(), CACHED, opset))
    assert found.count("Attention") == 1
    assert not {"Concat", "Expand", "Reshape", "Transpose"} & set(found)
