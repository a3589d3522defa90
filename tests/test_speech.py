"""silero-vad, a trained network inside If: what is left alone is named, and probabilities agree."""

import os
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from whet.compiler import compile
from whet.ir.execute import Executor

SHARED = Path(os.environ.get("WHET_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
FOLDER = SHARED / "assets" / "silero_vad"
CHUNK, CONTEXT = 512, 64


def probabilities(
    path: Path, sound: np.ndarray, seen: Callable[[dict[str, np.ndarray]], None] = lambda _: None
) -> np.ndarray:
    """Return the probability of speech in each chunk; the state goes from one to the next."""
    executor, found = Executor(path, optimization="all"), []
    state = np.zeros((2, 1, 128), np.float32)
    before = np.zeros(CONTEXT, np.float32)
    for start in range(0, len(sound) - CHUNK + 1, CHUNK):
        heard = np.concatenate([before, sound[start : start + CHUNK]])
        feeds = {"input": heard[None], "state": state, "sr": np.array(16000, np.int64)}
        seen(feeds)
        probability, state = executor.run(feeds)
        before = heard[-CONTEXT:]
        found.append(float(probability.item()))
    return np.array(found)


@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_op18_ifless.onnx"])
def test_probabilities_agree_and_what_is_left_alone_is_named(name: str, tmp_path: Path) -> None:
    if not (FOLDER / name).exists():
        pytest.skip(f"{FOLDER / name} is not here")
    with wave.open(str(FOLDER / "test.wav")) as file:
        pcm = np.frombuffer(file.readframes(CHUNK * 150), np.int16)
    sound = pcm.astype(np.float32) / 2**15
    calls: list[dict[str, np.ndarray]] = []
    expected = probabilities(FOLDER / name, sound, calls.append)
    assert 0.2 < expected.mean() < 0.99
    stacked = {n: np.stack([feeds[n] for feeds in calls[::10]]) for n in calls[0]}
    artifact = compile(
        FOLDER / name, calibration=stacked, measure=False, output=tmp_path / "compiled"
    )
    found = probabilities(tmp_path / "compiled" / "model.onnx", sound)
    assert np.abs(found - expected).max() <= 0.02
    assert artifact.report is not None
    for body in ("then_branch", "else_branch"):
        (enclosed,) = [e for e in artifact.report.enclosed if e.body == body]
        assert sum(layer.startswith("Conv ") for layer in enclosed.layers) == 6
        assert enclosed.bytes > 900_000
    assert "not looked into" in str(artifact.report)
