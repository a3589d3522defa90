"""Torch modules, programs, factories and ONNX models all come in; none of them is changed."""

import json
import shutil
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import parser

from whet.errors import InvalidModel, UnsafeModel, UnsupportedModel, UsageError
from whet.ir.capture import Captured, capture
from whet.ir.execute import Executor
from whet.ir.files import save_model

torch = pytest.importorskip("torch")

ONNX = """<ir_version: 8, opset_import: ["" : 13]>
g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }"""


def outputs(captured: Captured, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    data = onnx_ir.to_proto(captured.model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds or captured.feeds), strict=True))


def shapes(captured: Captured) -> dict[str, list[object]]:
    return {
        v.name: [d if isinstance(d, int) else d.value for d in v.shape]
        for v in captured.model.graph.inputs
    }


class Nested(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x, extra, flag=True, scale=None):
        y = self.drop(self.first(x))
        y = y + extra["add"][0] if flag else y
        return {"sum": y if scale is None else y * scale, "parts": [y * 2, extra["mul"] * y]}


def nested_inputs(batch: int = 3):
    generator = torch.Generator().manual_seed(0)
    x, a, m = (torch.randn(batch, 5, 4, generator=generator) for _ in range(3))
    return x, {"add": [a], "mul": m}


def test_nested_inputs_and_outputs():
    module = Nested()
    x, extra = nested_inputs()
    captured = capture(module, (x, extra))
    assert list(captured.feeds) == [v.name for v in captured.model.graph.inputs]
    assert [a.shape for a in captured.feeds.values()] == [(3, 5, 4)] * 3
    want = module.eval()(x, extra)
    got = outputs(captured)
    assert list(got) == ["sum", "parts_0", "parts_1"]
    for a, b in zip([want["sum"], *want["parts"]], got.values(), strict=True):
        np.testing.assert_allclose(b, a.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_weights_keep_their_names_and_the_module_its_flags():
    module = Nested()
    module.first.weight.requires_grad_(False)
    module.drop.eval()
    captured = capture(module, nested_inputs())
    assert set(captured.model.graph.initializers) == {"first.weight", "first.bias"}
    assert (module.training, module.first.training, module.drop.training) == (True, True, False)
    assert (module.first.weight.requires_grad, module.first.bias.requires_grad) == (False, True)


def test_flags_come_back_after_a_failure(capfd: pytest.CaptureFixture[str]):
    class Branches(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    module = Branches(2, 2)
    with pytest.raises(UnsupportedModel, match=r"torch\.export cannot export") as caught:
        capture(module, (torch.ones(2, 2),))
    assert caught.value.__cause__ is not None
    assert "torch.cond" in caught.value.__notes__[0]
    assert (module.training, module.weight.requires_grad) == (True, True)
    assert capfd.readouterr() == ("", "")


def test_keyword_inputs_with_named_dimensions():
    x, extra = nested_inputs()
    free = {"x": {0: "batch"}, "extra": {"add": [{0: "batch"}], "mul": {0: "batch"}}}
    captured = capture(Nested(), {"x": x, "extra": extra}, dynamic_shapes=free)
    assert list(shapes(captured).values()) == [["batch", 5, 4]] * 3
    module_in, more = nested_inputs(7)
    feeds = dict(zip(captured.feeds, (module_in, more["add"][0], more["mul"]), strict=True))
    got = outputs(captured, **{name: t.numpy() for name, t in feeds.items()})
    assert got["sum"].shape == (7, 5, 4)


def test_shapes_are_static_unless_asked():
    assert list(shapes(capture(Nested(), nested_inputs())).values()) == [[3, 5, 4]] * 3


def test_torch_dims_and_auto():
    dim = torch.export.Dim("rows")
    captured = capture(torch.nn.Linear(4, 2), (torch.ones(3, 4),), dynamic_shapes=({0: dim},))
    assert shapes(captured) == {"input": ["rows", 4]}
    captured = capture(torch.nn.Linear(4, 2), torch.ones(3, 4), dynamic_shapes="auto")
    assert shapes(captured) == {"input": ["input_0", 4]}


def test_a_free_dimension_that_the_program_fixes():
    with pytest.raises(UnsupportedModel) as caught:
        capture(torch.nn.Linear(4, 2), (torch.ones(3, 4),), dynamic_shapes={"input": {1: "width"}})
    assert "Example sizes" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"inputs": {0: "n"}}, "did you mean 'input'"),
        ({"input": {5: "n"}}, "no axis 5"),
        ("batch", "must be 'auto'"),
        (({}, {}), "each of the 1 positional"),
    ],
)
def test_wrong_dynamic_shapes(asked: object, message: str):
    with pytest.raises(UsageError, match=message):
        capture(torch.nn.Linear(4, 2), (torch.ones(3, 4),), dynamic_shapes=asked)


class Tied(torch.nn.Module):
    """Is a decoder in miniature: the head's weight is the embedding's."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(11, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.query = torch.nn.Linear(8, 8)
        self.head = torch.nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids, mask):
        x = self.embed(input_ids)
        q = self.query(self.norm(x)).unflatten(-1, (2, 4)).transpose(1, 2)
        y = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        return self.head(x + y.transpose(1, 2).flatten(-2))


def tied_inputs():
    return {"input_ids": torch.arange(10).reshape(2, 5), "mask": torch.zeros(2, 1, 5, 5)}


TIED_FREE = {"input_ids": {0: "batch", 1: "seq"}, "mask": {0: "batch", 2: "seq", 3: "seq"}}


def test_tied_weights_and_attention():
    module = Tied()
    captured = capture(module, tied_inputs(), dynamic_shapes=TIED_FREE)
    (alias,) = captured.aliases.items()
    assert set(alias) == {"head.weight", "embed.weight"}
    assert alias[1] in captured.model.graph.initializers
    assert alias[0] not in captured.model.graph.initializers
    assert "Attention" in [node.op_type for node in captured.model.graph]
    assert shapes(captured)["mask"] == ["batch", 1, "seq", "seq"]
    want = module.eval()(**tied_inputs()).detach().numpy()
    np.testing.assert_allclose(next(iter(outputs(captured).values())), want, rtol=1e-4, atol=1e-5)


def test_fx_graph_module():
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    graph = torch.fx.symbolic_trace(module)
    captured = capture(graph, (torch.ones(2, 4),))
    assert captured.origin.startswith("torch.fx graph")
    assert list(captured.model.graph.initializers) == ["0.weight", "0.bias"]
    with pytest.raises(UsageError, match="needs example inputs"):
        capture(graph)


def program(module: object = None) -> object:
    return torch.export.export(module or Tied(), (), tied_inputs())


def test_exported_program():
    captured = capture(program())
    assert sorted(captured.feeds) == ["input_ids", "mask"]
    assert captured.aliases
    with pytest.raises(UsageError, match="own inputs"):
        capture(program(), (torch.ones(1),))


@pytest.fixture(scope="module")
def saved_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "m.pt2"
    dim = torch.export.Dim("batch")
    free = {"input_ids": {0: dim}, "mask": {0: dim}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Tied(), (), tied_inputs(), dynamic_shapes=free), path)
    return path


@pytest.fixture
def pt2(saved_program: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(saved_program, tmp_path))


def test_saved_program(pt2: Path):
    captured = capture(pt2)
    assert captured.origin == f"torch program {pt2}"
    assert sorted(captured.feeds) == ["input_ids", "mask"]
    assert captured.aliases
    assert next(iter(outputs(captured).values())).shape == (2, 5, 11)


def rewrite(source: Path, target: Path, change) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            changed = change(name, old.read(name))
            if changed is not None:
                new.writestr(name, changed)
    return target


def replace_in(name_end: str, old: bytes, new: bytes):
    def change(name: str, data: bytes) -> bytes:
        if name.endswith(name_end):
            assert old in data
            return data.replace(old, new)
        return data

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            replace_in("models/model.json", b'"expr_str": "Symbol', b'"expr_str": "__import__'),
            "the expression",
        ),
        (
            replace_in("weights_config.json", b'"use_pickle": false', b'"use_pickle": true'),
            "pickled",
        ),
        (replace_in("weights_config.json", b'"weight_0"', b'"custom_obj_0"'), "payload"),
        (replace_in("model.json", b'"torch.ops.aten', b'"torch.os.aten'), "calls 'torch.os"),
        (replace_in("model.json", b'"graph_module"', b'"__enum__"'), "imports a module"),
        (lambda n, d: b"\x80\x04cos\nsystem\n." if n.endswith("model.pt") else d, "more than"),
    ],
)
def test_programs_that_could_run_code_are_refused(pt2: Path, change, message: str):
    path = rewrite(pt2, pt2.with_name("evil.pt2"), change)
    with pytest.raises(UnsafeModel, match=message):
        capture(path)


def test_broken_program(pt2: Path):
    path = rewrite(pt2, pt2.with_name("b.pt2"), lambda n, d: b"{" if n.endswith("l.json") else d)
    with pytest.raises(InvalidModel):
        capture(path)
    missing = rewrite(
        pt2, pt2.with_name("c.pt2"), lambda n, d: None if "weights_config" in n else d
    )
    with pytest.raises(InvalidModel, match=r"truncated|not a program"):
        capture(missing, trust=True)


def test_a_checkpoint_is_refused(tmp_path: Path):
    path = tmp_path / "m.pt"
    torch.save(Tied().state_dict(), path)
    with pytest.raises(UnsafeModel, match="pickle"):
        capture(path, trust=True)


def test_onnx_in_every_form(tmp_path: Path):
    proto = parser.parse_model(ONNX)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    model = onnx_ir.from_proto(parser.parse_model(ONNX))
    before = proto.SerializeToString()
    for source in (path, str(path), proto, before, model):
        captured = capture(source)
        assert captured.model.opset_imports[""] == 23
        assert captured.feeds == {}
        np.testing.assert_array_equal(outputs(captured, x=np.ones(2, np.float32))["y"], [2, 3])
        captured.model.graph.initializers["w"].name = "other"
    assert proto.SerializeToString() == before
    assert list(model.graph.initializers) == ["w"]
    assert model.opset_imports[""] == 13


def test_an_unsorted_model_is_copied_sorted():
    text = ONNX.replace("y = Add (x, w)", "t = Add (x, w)\n y = Relu (t)")
    model = onnx_ir.from_proto(parser.parse_model(text))
    first = model.graph[0]
    model.graph.remove(first)
    model.graph.append(first)
    captured = capture(model)
    assert [n.op_type for n in model.graph] == ["Relu", "Add"]
    assert [n.op_type for n in captured.model.graph] == ["Add", "Relu"]
    weight = model.graph.initializers["w"].const_value
    assert captured.model.graph.initializers["w"].const_value is weight


FACTORY = """
import torch
def bare(): return torch.nn.Linear(2, 3)
def pair(): return torch.nn.Linear(2, 3), (torch.ones(4, 2),)
def triple(): return torch.nn.Linear(2, 3), {"input": torch.ones(4, 2)}, {"input": {0: "n"}}
def four(): return 1, 2, 3, 4
class Models:
    @staticmethod
    def inner(): return pair()
number = 3
"""


def test_factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "whet_test_zoo.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "whet_test_zoo", raising=False)
    search = list(sys.path)
    captured = capture("whet_test_zoo:Models.inner")
    assert (captured.origin, shapes(captured)) == (
        "factory whet_test_zoo:Models.inner",
        {"input": [4, 2]},
    )
    assert shapes(capture("whet_test_zoo:triple")) == {"input": ["n", 2]}
    assert shapes(capture("whet_test_zoo:bare", (torch.ones(5, 2),))) == {"input": [5, 2]}
    with pytest.raises(UsageError, match="tuple of 4"):
        capture("whet_test_zoo:four")
    with pytest.raises(UsageError, match="expected a callable"):
        capture("whet_test_zoo:number")
    with pytest.raises(UsageError, match="cannot import"):
        capture("whet_no_such_module:pair")
    assert sys.path == search


def test_wrong_sources(tmp_path: Path):
    with pytest.raises(UsageError, match=r"cannot capture a builtins\.int"):
        capture(3)
    with pytest.raises(UsageError, match="no such file"):
        capture(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="inputs belong to a torch module"):
        capture(parser.parse_model(ONNX), (1,))
    with pytest.raises(UsageError, match="do not fit"):
        capture(torch.nn.Linear(2, 2), (torch.ones(2), torch.ones(2)))


def test_without_torch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"pip install whet\[torch\]"):
        capture(torch.nn.Linear(2, 2), (torch.ones(2),))


@dataclass
class Output:
    logits: object
    hidden: object


class Modelish(torch.nn.Module):
    def forward(self, x):
        return Output(x * 2, (x + 1, x - 1))


def test_dataclass_outputs():
    torch.export.register_dataclass(Output)
    got = outputs(capture(Modelish(), (torch.ones(3),)))
    assert list(got) == ["logits", "hidden_0", "hidden_1"]


def test_two_captures_save_the_same_bytes(tmp_path: Path):
    torch.manual_seed(0)
    module = Tied()
    for name in ("a", "b"):
        captured = capture(module, tied_inputs(), dynamic_shapes=TIED_FREE)
        save_model(captured.model, tmp_path / f"{name}.onnx")
    data = (tmp_path / "a.onnx").read_bytes()
    assert data == (tmp_path / "b.onnx").read_bytes()
    assert __file__.encode() not in data


def test_numpy_inputs_and_nothing_printed(capfd: pytest.CaptureFixture[str]):
    captured = capture(torch.nn.Linear(2, 2), {"input": np.ones((3, 2), np.float32)})
    assert captured.feeds["input"].shape == (3, 2)
    assert capfd.readouterr() == ("", "")
    onnx.checker.check_model(onnx_ir.to_proto(captured.model))
    assert json.dumps(captured.origin)


class Tagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 4, bidirectional=True, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


def test_a_recurrent_layer_keeps_its_free_length():
    torch.manual_seed(0)
    module = Tagger().eval()
    found = capture(module, (torch.randn(2, 5, 3),), dynamic_shapes=({0: "batch", 1: "time"},))
    assert found.model.graph.inputs[0].shape == onnx_ir.Shape(["batch", "time", 3])
    session = Executor(onnx_ir.to_proto(found.model))
    for size in ((2, 5, 3), (1, 9, 3)):
        x = torch.randn(*size)
        (y,) = session.run({found.model.graph.inputs[0].name: x.numpy()})
        np.testing.assert_allclose(y, module(x).detach().numpy(), rtol=1e-4, atol=1e-6)
