import json
from pathlib import Path

import numpy as np
import pytest
from folding import build

from whet.ir.saving import save_model
from whet.tools.bench import stories

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)


def write_model(folder: Path) -> None:
    """Write a language model of one layer, whose tokens follow what it predicts."""
    text = """(int64[batch,seq] input_ids) => (float[batch,seq,32] logits)
    { h = Gather(e, input_ids) g = MatMul(h, w) r = Relu(g) logits = MatMul(r, v) }"""
    constants = {
        "e": RNG.standard_normal((32, 48)).astype(np.float32),
        "w": RNG.standard_normal((48, 96)).astype(np.float32) * 0.2,
        "v": (RNG.standard_t(4, (96, 32)) * 0.2).astype(np.float32),
    }
    (folder / "stories260k").mkdir()
    save_model(build(text, constants, opset=18), folder / "stories260k" / "stories260k.onnx")
    scores = np.maximum(constants["e"] @ constants["w"], 0) @ constants["v"]
    tokens = np.empty((32, 24), np.int64)
    tokens[:, 0] = np.arange(32)
    for k in range(1, 24):
        noise = RNG.gumbel(size=(32, 32))
        tokens[:, k] = (scores[tokens[:, k - 1]] + noise).argmax(1)
    np.savez(folder / "stories260k" / "tokens_dev.npz", input_ids=tokens)


def test_the_table_on_a_small_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path)
    out = tmp_path / "lines.json"
    argv = [
        "--assets",
        str(tmp_path),
        "--calibrate",
        "16",
        "--judge",
        "16",
        "--bits",
        "3",
        "--rank",
        "2",
    ]
    assert stories.main([*argv, "--json", str(out)]) == 0
    lines = json.loads(out.read_text())
    assert len(lines) == 1 + 2 * len(stories._METHODS) + 1
    assert len(capsys.readouterr().out.splitlines()) == len(lines)
    by = {line["what"]: line for line in lines}
    assert by["float32"]["nats per token"] < np.log(32)
    errors = {name: line["mean output error"] for name, line in by.items()}
    rough = errors["RTN (extremes), 3 bits"]
    assert errors["LeanQuant, 3 bits"] < errors["GPTQ, 3 bits"] < rough
    assert errors["LeanQuant, 3 bits + EoRA rank 2"] < errors["LeanQuant, 3 bits"]
    codes = 3 * (48 * 96 + 96 * 32) + 16 * 8 * (96 + 32)
    assert by["LeanQuant, 3 bits"]["bits per weight"] == codes / (48 * 96 + 96 * 32)


def test_loss_is_that_of_torch() -> None:
    logits = RNG.standard_normal((3, 5, 7)) * 4
    tokens = RNG.integers(0, 7, (3, 5))
    wanted = torch.nn.functional.cross_entropy(
        torch.tensor(logits).reshape(-1, 7), torch.tensor(tokens).reshape(-1), reduction="sum"
    )
    assert stories._nats(logits, tokens) == pytest.approx(float(wanted))


def test_without_data_it_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stories.main(["--assets", str(tmp_path)]) == 0
    assert "skipped: no folder" in capsys.readouterr().out
