"""An artifact as one file: the same bits come back, fewer bytes lie on the disk, nothing foreign is written."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from folding import build

import whet
from whet.errors import InvalidModel, UsageError
from whet.packing import pack, unpack

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a compiled network of which nine tenths of the weights are zero, stored without them."""
    w = RNG.standard_normal((256, 256)).astype(np.float32) * (RNG.random((256, 256)) < 0.1)
    model = build("(float[N,256] x) => (float[N,256] y) { y = MatMul (x, w) }", {"w": w})
    path = tmp_path_factory.mktemp("packing") / "sparse"
    whet.compile(model, recipe="store-sparse", output=path, measure=False, page=False)
    return path


def test_a_packed_artifact_runs_like_the_folder(artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.whet"
    members = pack(artifact, path)
    assert [m.name for m in members] == ["model.onnx", "whet.json"]
    assert path.stat().st_size < (artifact / "model.onnx").stat().st_size
    assert path.stat().st_size > members[0].packed > 0
    x = RNG.standard_normal((3, 256)).astype(np.float32)
    loaded = whet.load(path)
    np.testing.assert_array_equal(loaded.run(x)[0], whet.load(artifact).run(x)[0])
    folder = loaded.folder
    del loaded
    assert not folder.exists()


def test_a_packed_file_is_a_function_of_the_artifact(artifact: Path, tmp_path: Path) -> None:
    for name in ("one.whet", "two.whet"):
        pack(artifact, tmp_path / name)
    assert (tmp_path / "one.whet").read_bytes() == (tmp_path / "two.whet").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.whet", "two.whet"]


def test_a_bit_mask_takes_its_entropy(tmp_path: Path) -> None:
    """One number in ten: 0.47 bits of entropy for each bit of the mask."""
    (tmp_path / "artifact").mkdir()
    mask = np.packbits(RNG.random(1 << 20) < 0.1).tobytes()
    (tmp_path / "artifact" / "mask").write_bytes(mask)
    manifest = {"files": {"mask": {"bytes": len(mask), "sha256": ""}}}
    (tmp_path / "artifact" / "whet.json").write_text(json.dumps(manifest))
    member = pack(tmp_path / "artifact", tmp_path / "x.whet")[0]
    assert 0.47 < member.packed / member.bytes < 0.56


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not an artifact: it has no whet\.json"):
        pack(tmp_path, tmp_path / "x.whet")
    (tmp_path / "text.whet").write_text("text")
    with pytest.raises(InvalidModel, match="no packed artifact"):
        whet.load(tmp_path / "text.whet")
    assert [p.name for p in tmp_path.iterdir()] == ["text.whet"]


@pytest.mark.parametrize(
    ("files", "members", "why"),
    [
        ({"../evil": 3}, {"../evil": b"abc"}, "expected a plain name"),
        ({"model.onnx": 3}, {"model.onnx": b"abc", "more": b"x"}, "other files than its manifest"),
        ({"model.onnx": 3}, {"model.onnx": b"abcd"}, "more than the 3 bytes"),
        ({"model.onnx": 3}, {"model.onnx": b"abx"}, "digest differs"),
    ],
)
def test_foreign_files_are_not_written(
    tmp_path: Path, files: dict[str, int], members: dict[str, bytes], why: str
) -> None:
    path, inside = tmp_path / "x.whet", tmp_path / "inside"
    inside.mkdir()
    manifest = {"files": {n: {"bytes": size, "sha256": "0"} for n, size in files.items()}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("whet.json", json.dumps(manifest))
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(InvalidModel, match=why):
        whet.load(path)
    if "digest" not in why:
        with pytest.raises(InvalidModel, match=why):
            unpack(path, inside)
    assert not (tmp_path / "evil").exists()
