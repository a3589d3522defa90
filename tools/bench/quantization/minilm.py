"""all-MiniLM-L6-v2 in int8 against ONNX Runtime's own optimizer and quantizer: milliseconds, bytes, STS-B."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from whet.compiler import compile
from whet.tools.bench.quantization.contest import Feeds, contest
from whet.tools.bench.quantization.minilm_models import export, optimized_export, quantized_peers
from whet.tools.bench.quantization.sentences import (
    calibration_tokens,
    read_pairs,
    spearman,
    tokenizer,
)

__all__ = ["minilm"]

_SHAPES = ((1, 32), (1, 128), (32, 128))


def minilm(
    assets: Path, folder: Path, threads: int, shapes: tuple[tuple[int, int], ...] = _SHAPES
) -> Iterator[str]:
    """Yield one line per shape and contender: time, ratio to the best peer, bytes, Spearman on STS-B dev."""
    source = folder / "minilm.onnx"
    export(source)
    exact = folder / "exact"
    compile(source, recipe="exact", threads=threads, output=exact)
    peers = quantized_peers(optimized_export(folder), folder)
    calibration = calibration_tokens(read_pairs(assets / "stsb", "train"), tokenizer())
    pairs = read_pairs(assets / "stsb", "dev")
    judged: dict[Path, float] = {}
    for batch, length in shapes:
        sizes = {"batch": batch, "seq": length}
        ids = np.random.default_rng(0).integers(1000, 20000, (batch, length))
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        name, peer = _best(peers, feeds, threads)
        plain, calibrated = (folder / f"{kind}{batch}x{length}" for kind in ("auto", "calibrated"))
        compile(source, sizes=sizes, threads=threads, output=plain)
        compile(source, sizes=sizes, threads=threads, calibration=calibration, output=calibrated)
        models = {
            name: peer,
            "float32": source,
            "exact": exact / "model.onnx",
            "whet": plain / "model.onnx",
            "whet calibrated": calibrated / "model.onnx",
        }
        times = contest(models, feeds, threads, rounds=3, opened=3)
        for label, path in models.items():
            if path not in judged:
                judged[path] = spearman(path, pairs, threads)
            yield (
                f"minilm {batch:2}x{length:3} {label:18} {times[label]!s:26} "
                f"{times[label].median / times[name].median:.2f} of the peer, "
                f"{_bytes(path):,} bytes, Spearman {100 * judged[path]:.2f}"
            )


def _best(peers: Mapping[str, Path], feeds: Feeds, threads: int) -> tuple[str, Path]:
    """Return the fastest of the peer's settings at this shape."""
    times = contest(peers, feeds, threads, opened=2)
    name = min(times, key=lambda one: times[one].median)
    return name, peers[name]


def _bytes(path: Path) -> int:
    beside = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
