"""Loading refuses what is not whole or not safe; saving is deterministic and atomic."""

import errno
import os
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet.ir.atomic
from whet.errors import InvalidModel, UnsafeModel, UnsupportedModel, UsageError
from whet.ir.files import load_model, parse_model, save_model

WEIGHT = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def proto(**options) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
            helper.make_node("Add", ["y", "b"], ["z"], name="sum"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(WEIGHT[0], "b")],
    )
    options.setdefault("opset_imports", [helper.make_opsetid("", 23)])
    return helper.make_model(graph, **{"ir_version": 10, **options})


def external(folder: Path, location: str = "m.bin", **info: object) -> Path:
    model = proto()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **info}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def weights(model: onnx_ir.Model) -> dict[str, np.ndarray]:
    return {name: v.const_value.numpy() for name, v in model.graph.initializers.items()}


def assert_same_weights(model: onnx_ir.Model) -> None:
    found = weights(model)
    np.testing.assert_array_equal(found["w"], WEIGHT)
    np.testing.assert_array_equal(found["b"], WEIGHT[0])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(proto().SerializeToString())
    return path


def test_load_missing(tmp_path: Path):
    with pytest.raises(UsageError, match="no such file"):
        load_model(tmp_path / "none.onnx")


def test_load_folder(tmp_path: Path):
    with pytest.raises(UsageError, match="is a folder"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"these are only words, many of them", "not an ONNX model"),
        (b"\x08\x0a", "no graph"),
        (b"\0\0\0\0ORTM rest", "ORT's own format"),
    ],
)
def test_load_not_a_model(tmp_path: Path, data: bytes, message: str):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(InvalidModel, match=message):
        load_model(path)


def test_load_truncated_anywhere(tmp_path: Path):
    data = proto().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(data), 997):
        path.write_bytes(data[:length])
        with pytest.raises(InvalidModel):
            load_model(path)


def test_load_truncated_between_fields(tmp_path: Path):
    model = proto()
    del model.opset_import[:]
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModel, match="imports no opset"):
        load_model(path)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["WHET_TEST_BOMB"],))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_load_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int):
    monkeypatch.setenv("WHET_TEST_BOMB", str(tmp_path / "bomb"))
    path = tmp_path / "m.onnx"
    path.write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(UnsafeModel, match="pickle"):
        load_model(path)
    assert not (tmp_path / "bomb").exists()


def test_load_torch_checkpoint(tmp_path: Path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps({}))
    with pytest.raises(UnsafeModel, match="pickle"):
        load_model(path)


def test_load_other_archive(tmp_path: Path):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(InvalidModel, match="zip archive"):
        load_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("whet.json", "{}")
    with pytest.raises(InvalidModel, match="is a packed artifact: whet pack"):
        load_model(path)


def test_load_newer_versions(tmp_path: Path):
    path = tmp_path / "m.onnx"
    path.write_bytes(proto(ir_version=onnx.IR_VERSION + 1).SerializeToString())
    with pytest.raises(UnsupportedModel, match=f"IR version {onnx.IR_VERSION + 1}"):
        load_model(path)
    path.write_bytes(proto(opset_imports=[helper.make_opsetid("", 999)]).SerializeToString())
    with pytest.raises(UnsupportedModel, match="opset 999"):
        load_model(path)


def test_load_external_lazily(tmp_path: Path):
    path = external(tmp_path)
    (tmp_path / "m.bin").write_bytes(WEIGHT.tobytes())
    model = load_model(path)
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, onnx_ir.ExternalTensor)
    assert tensor.raw is None
    assert_same_weights(model)


def test_load_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    external(tmp_path)
    (tmp_path / "m.bin").write_bytes(WEIGHT.tobytes())
    monkeypatch.chdir(tmp_path)
    model = load_model("m.onnx")
    monkeypatch.chdir("/")
    assert_same_weights(model)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({}, "needs bytes 0..16384, file has 16380"),
        ({"offset": 64}, "needs bytes 64..16448"),
        ({"offset": -4}, "non-negative, got -4"),
        ({"length": 12}, "takes 16384 bytes"),
        ({"offset": "zero"}, "zero"),
    ],
)
def test_load_external_too_short(tmp_path: Path, info: dict[str, object], message: str):
    path = external(tmp_path, **info)
    (tmp_path / "m.bin").write_bytes(WEIGHT.tobytes()[:-4])
    with pytest.raises(InvalidModel, match=message):
        load_model(path)


def test_load_external_missing(tmp_path: Path):
    with pytest.raises(InvalidModel, match=r"'w' at 'm.bin': no such file"):
        load_model(external(tmp_path))


def test_load_external_outside(tmp_path: Path):
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    for location in ("../secret.bin", "a/../../secret.bin", str(tmp_path / "secret.bin")):
        with pytest.raises(UnsafeModel, match=r"leaves the model's folder|relative path"):
            load_model(external(folder, location))


def test_load_external_through_links(tmp_path: Path):
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "m.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(UnsafeModel, match="symbolic link"):
        load_model(external(folder))
    (folder / "m.bin").unlink()
    os.link(tmp_path / "secret.bin", folder / "m.bin")
    with pytest.raises(UnsafeModel, match="hard links"):
        load_model(external(folder))


def test_load_link_inside_the_folder(tmp_path: Path):
    (tmp_path / "real.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "m.bin").symlink_to("real.bin")
    assert_same_weights(load_model(external(tmp_path)))


def test_parse_refuses_external(tmp_path: Path):
    with pytest.raises(UsageError, match="give the path"):
        parse_model(external(tmp_path).read_bytes())


@pytest.mark.parametrize("indices", [[1, 4], [[0, 1], [1, 1]]])
def test_load_sparse(indices: list[object]):
    model = proto()
    values = numpy_helper.from_array(np.array([2.0, 3.0], np.float32), "s")
    places = numpy_helper.from_array(np.array(indices, np.int64), "s_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2, 3]))
    model.graph.node.append(helper.make_node("Identity", ["s"], ["t"]))
    dense = parse_model(model.SerializeToString()).graph.initializers["s"].const_value
    np.testing.assert_array_equal(dense.numpy(), [[0, 2, 0], [0, 3, 0]])


def test_load_sparse_outside_its_shape():
    model = proto()
    values = numpy_helper.from_array(np.array([2.0], np.float32), "s")
    places = numpy_helper.from_array(np.array([7], np.int64), "s_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2, 3]))
    with pytest.raises(InvalidModel, match="index outside"):
        parse_model(model.SerializeToString())


def test_load_sparse_constant():
    model = proto()
    values = numpy_helper.from_array(np.array([5], np.int64), "")
    places = numpy_helper.from_array(np.array([2], np.int64), "")
    sparse = helper.make_sparse_tensor(values, places, [3])
    model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))
    node = parse_model(model.SerializeToString()).graph[-1]
    np.testing.assert_array_equal(node.attributes["value"].as_tensor().numpy(), [0, 0, 5])


def test_load_sorts_nodes():
    model = proto()
    first = model.graph.node.pop(0)
    model.graph.node.append(first)
    assert [n.name for n in parse_model(model.SerializeToString()).graph] == ["product", "sum"]


@pytest.mark.parametrize("threshold", [1 << 31, 0])
def test_save_round_trip(saved: Path, tmp_path: Path, threshold: int):
    model = load_model(saved)
    before = model.graph.initializers["w"].const_value
    out = tmp_path / "out.onnx"
    save_model(model, out, external_threshold=threshold)
    assert (tmp_path / "out.onnx.data").exists() == (threshold == 0)
    assert model.graph.initializers["w"].const_value is before
    onnx.checker.check_model(str(out), full_check=True)
    assert_same_weights(load_model(out))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("threshold", [1 << 31, 0])
def test_save_twice_gives_the_same_bytes(saved: Path, tmp_path: Path, threshold: int):
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_model(load_model(saved), tmp_path / folder / "m.onnx", external_threshold=threshold)
        files.append([p.read_bytes() for p in sorted((tmp_path / folder).iterdir())])
    assert files[0] == files[1]
    again = tmp_path / "a" / "m.onnx"
    save_model(load_model(again), again, external_threshold=threshold)
    assert [p.read_bytes() for p in sorted((tmp_path / "a").iterdir())] == files[0]


def test_save_over_the_mapped_file(saved: Path):
    save_model(load_model(saved), saved, external_threshold=0)
    model = load_model(saved)
    old = model.graph.initializers["w"].const_value
    model.graph.initializers["b"].const_value = onnx_ir.tensor(np.tile(WEIGHT[1], 40), name="b")
    model.graph.initializers["a"] = onnx_ir.Value(name="a", const_value=onnx_ir.tensor(WEIGHT))
    save_model(model, saved, external_threshold=0)
    np.testing.assert_array_equal(weights(model)["w"], WEIGHT)
    np.testing.assert_array_equal(weights(load_model(saved))["w"], WEIGHT)
    np.testing.assert_array_equal(weights(load_model(saved))["b"], np.tile(WEIGHT[1], 40))
    with pytest.raises(ValueError, match="invalidated"):
        old.numpy()
    save_model(model, saved, external_threshold=0)
    np.testing.assert_array_equal(weights(load_model(saved))["w"], WEIGHT)


def test_save_inline_over_external(saved: Path):
    save_model(load_model(saved), saved, external_threshold=0)
    model = load_model(saved)
    save_model(model, saved)
    os.remove(f"{saved}.data")
    assert_same_weights(load_model(saved))


def test_save_many_types(tmp_path: Path):
    rng = np.random.default_rng(1)
    arrays = {
        "bf16": onnx_ir.tensor(rng.standard_normal(4000).astype(ml_dtypes.bfloat16)),
        "int4": onnx_ir.tensor(rng.integers(-8, 8, 4001).astype(ml_dtypes.int4)),
        "bool": onnx_ir.tensor(rng.integers(0, 2, 4000).astype(bool)),
        "empty": onnx_ir.tensor(np.zeros((0, 3), np.float32)),
        "scalar": onnx_ir.tensor(np.float32(3)),
        "text": onnx_ir.StringTensor([b"a"] * 2000, shape=onnx_ir.Shape([2000])),
    }
    model = parse_model(proto().SerializeToString())
    for name, tensor in arrays.items():
        model.graph.register_initializer(onnx_ir.Value(name=name, const_value=tensor))
    for threshold in (0, 1 << 31):
        path = tmp_path / f"{threshold}.onnx"
        save_model(model, path, external_threshold=threshold)
        found = load_model(path).graph.initializers
        for name, tensor in arrays.items():
            loaded = found[name].const_value
            assert (loaded.dtype, loaded.shape) == (tensor.dtype, tensor.shape)
            np.testing.assert_array_equal(loaded.numpy(), tensor.numpy())


def test_save_drops_stack_traces(saved: Path, tmp_path: Path):
    model = load_model(saved)
    node = model.graph[0]
    node.metadata_props["pkg.torch.onnx.stack_trace"] = "File /home/me/model.py"
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['layer']"
    out = tmp_path / "out.onnx"
    save_model(model, out)
    assert b"/home/me" not in out.read_bytes()
    assert load_model(out).graph[0].metadata_props == {"pkg.torch.onnx.name_scopes": "['layer']"}
    assert "pkg.torch.onnx.stack_trace" in node.metadata_props
    save_model(model, out, stack_traces=True)
    assert b"/home/me" in out.read_bytes()


class FullDisk:
    """Writes like the file it wraps until ``room`` bytes are used up."""

    def __init__(self, file, room: int):
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.mark.parametrize("threshold", [1 << 31, 0])
@pytest.mark.parametrize("room", [0, 300, 9000])
def test_save_on_a_full_disk(
    saved: Path, monkeypatch: pytest.MonkeyPatch, threshold: int, room: int
):
    model = load_model(saved)
    save_model(model, saved, external_threshold=threshold)
    before = {p.name: p.read_bytes() for p in saved.parent.iterdir()}

    def full(path: str, mode: str):
        return FullDisk(open(path, mode), room)

    monkeypatch.setattr(whet.ir.atomic, "open", full, raising=False)
    with pytest.raises(UsageError, match=r"m\.onnx.*No space left"):
        save_model(model, saved, external_threshold=threshold)
    assert {p.name: p.read_bytes() for p in saved.parent.iterdir()} == before
    monkeypatch.undo()
    assert_same_weights(load_model(saved))


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("existing", [True, False])
def test_save_when_the_move_fails(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, existing: bool
):
    model = load_model(saved)
    out = tmp_path / "out.onnx"
    if existing:
        save_model(model, out, external_threshold=0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    move, calls = os.replace, []

    def replace(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) == failing:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        move(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UsageError, match="Permission denied"):
        save_model(model, out, external_threshold=0)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_save_to_a_bad_place(saved: Path, tmp_path: Path):
    model = load_model(saved)
    with pytest.raises(UsageError, match="no folder"):
        save_model(model, tmp_path / "none" / "m.onnx")
    with pytest.raises(UsageError, match="is a folder"):
        save_model(model, tmp_path)


def test_save_restores_the_model_when_it_fails(saved: Path, tmp_path: Path):
    model = load_model(saved)
    tensor = model.graph.initializers["w"].const_value
    model.graph.initializers["b"].const_value = None
    with pytest.raises(UnsupportedModel, match="'b' has no data"):
        save_model(model, tmp_path / "out.onnx")
    assert model.graph.initializers["w"].const_value is tensor
    assert not (tmp_path / "out.onnx").exists()
