"""Judge sentence encoders on STS-B: pairs of sentences, and how alike people found them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from whet.backends.base import Runner, RuntimeOptions
from whet.backends.worker import Worker
from whet.tools.bench.quantization.contest import Feeds
from whet.tools.bench.quantization.minilm_models import package

__all__ = [
    "Pair", "calibration_tokens", "cosines", "rank_correlation", "read_pairs", "spearman", "spearman_of", "tokenizer",
]  # fmt: skip

Pair = tuple[str, str, float]
_LONGEST = 256
_BATCH = 32
_CALIBRATION = 256
"""Sentences that ranges are measured on."""


def read_pairs(folder: Path, part: str) -> list[Pair]:
    """Return sentences and scores; raises FileNotFoundError."""
    found = sorted(folder.glob(f"*{part}*.csv"))
    if not found:
        raise FileNotFoundError(f"no {part} pairs in '{folder}'")
    with found[0].open(newline="", encoding="utf-8") as file:
        return [(one, two, float(score)) for one, two, score in csv.reader(file)]


def tokenizer() -> Any:
    """Return the tokenizer of the model."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(package() / "tokenizer.json"))
    found.enable_truncation(_LONGEST)
    found.enable_padding()
    return found


def calibration_tokens(pairs: Sequence[Pair], tokens: Any, count: int = _CALIBRATION) -> Feeds:
    """Return the first sentence of some pairs spread over all of them, as stacked inputs."""
    chosen = pairs[:: max(1, len(pairs) // count)][:count]
    return _feeds(tokens, [pair[0] for pair in chosen])


def spearman(model: Path, pairs: Sequence[Pair], threads: int) -> float:
    """Return the rank correlation between cosines of embeddings and scores, for a file."""
    with Worker(model, RuntimeOptions(threads)) as worker:
        return spearman_of(worker, pairs)


def spearman_of(model: Runner, pairs: Sequence[Pair]) -> float:
    """Return the rank correlation between cosines of embeddings and scores, for a loaded model."""
    return rank_correlation(cosines(model, pairs), [score for *_, score in pairs])


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's correlation."""
    from scipy.stats import spearmanr

    return float(cast("Any", spearmanr(one, other)).statistic)


def cosines(model: Runner, pairs: Sequence[Pair]) -> list[float]:
    """Return the cosine of the embeddings of each pair."""
    sentences = sorted({s for pair in pairs for s in pair[:2]}, key=lambda s: (len(s), s))
    tokens = tokenizer()
    vectors: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
    for start in range(0, len(sentences), _BATCH):
        part = sentences[start : start + _BATCH]
        vectors.update(zip(part, _embed(model, _feeds(tokens, part)), strict=True))
    return [float(vectors[one] @ vectors[two]) for one, two, _ in pairs]


def _embed(model: Runner, feeds: Feeds) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the means of hidden states over tokens, of length one."""
    hidden = model.run(feeds)[0].astype(np.float64)
    mask = feeds["attention_mask"][..., None].astype(np.float64)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))


def _feeds(tokens: Any, sentences: Sequence[str]) -> Feeds:
    encoded = tokens.encode_batch(list(sentences))
    return {
        "input_ids": np.asarray([e.ids for e in encoded], np.int64),
        "attention_mask": np.asarray([e.attention_mask for e in encoded], np.int64),
    }
