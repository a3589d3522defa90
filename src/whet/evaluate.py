"""Metrics to hold a model to: ``whet.compile(…, evaluate=whet.evaluate.accuracy("test.npz"))``.

Each function takes data (a path to an ``.npz`` or arrays by name, whose leading axis counts samples) and returns what
``evaluate=`` takes; on the command line it is ``--evaluate 'top-k{k=5,data=test.npz}'``. Larger is always better:
errors are negative. Metrics that are a mean over samples return one number for each, which gives drops a confidence
interval.

Inputs are the arrays with the names of the model's inputs. The truth lies beside them: ``labels`` for classes,
``targets`` for arrays, ``scores`` for numbers. ``output`` names the output that is looked at (the first without),
``batch`` is the number of samples that are run at once.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from scipy.special import log_softmax
from scipy.stats import spearmanr

from whet.errors import CalibrationError, UsageError
from whet.evaluation import Data, Evaluation, Feeds, Rows, read_arrays
from whet.ir.array import Array
from whet.passes.registry import nearest
from whet.solve.allocation import Doubles

__all__ = [
    "accuracy",
    "cosine",
    "find_metric",
    "log_likelihood",
    "mean_squared_error",
    "perplexity",
    "psnr",
    "similarity",
    "spearman",
    "top_k",
]

_IGNORED = -100
"""The label of a token that does not count."""


def accuracy(data: Data, *, output: str = "", batch: int = 32) -> Evaluation:
    """Return the share of samples whose largest score is at the label: ``mean_i [argmax_c z_ic = y_i]``.

    Scores ``[samples, …, classes]``, ``labels [samples, …]``; of several positions in a sample, the share.
    """
    return top_k(data, k=1, output=output, batch=batch)


def top_k(data: Data, *, k: int = 5, output: str = "", batch: int = 32) -> Evaluation:
    """Return the share of samples whose label is among the k largest scores.

    That is ``mean_i [rank of z_i,y_i in z_i <= k]``; scores ``[samples, …, classes]``, ``labels [samples, …]``.
    """
    if k < 1:
        raise UsageError(f"k is {k}, expected 1 or more")

    def rows(outputs: list[Array], _: list[Feeds], labels: Array) -> Array:
        scores = outputs[0]
        if scores.ndim != labels.ndim + 1:
            raise CalibrationError(
                f"scores {list(scores.shape)} need one axis more than labels {list(labels.shape)}"
            )
        best = np.argsort(-scores.astype(np.float64), axis=-1, kind="stable")[..., :k]
        return _by_sample((best == labels[..., None]).any(-1))

    name = "accuracy" if k == 1 else "top-k"
    return _made(name, {"k": k} if k > 1 else {}, data, "labels", rows, output, batch)


def mean_squared_error(data: Data, *, output: str = "", batch: int = 32) -> Evaluation:
    """Return minus the mean squared error: ``-mean_i |z_i - t_i|² / n``, n numbers in a sample.

    Output and ``targets`` have the same shape, ``[samples, …]``.
    """

    def rows(outputs: list[Array], _: list[Feeds], targets: Array) -> Array:
        return -_squared_errors(outputs[0], targets)

    return _made("mean-squared-error", {}, data, "targets", rows, output, batch)


def psnr(data: Data, *, peak: float = 1.0, output: str = "", batch: int = 1) -> Evaluation:
    """Return the peak signal-to-noise ratio in dB, the mean over samples of ``10 log10(peak² n / |z_i - t_i|²)``.

    Output and ``targets`` have the same shape, ``[samples, …]``; a sample without any error counts as 100 dB.
    """

    def rows(outputs: list[Array], _: list[Feeds], targets: Array) -> Array:
        errors = np.maximum(_squared_errors(outputs[0], targets), peak**2 * 1e-10)
        return 10 * np.log10(peak**2 / errors)

    return _made("psnr", {"peak": peak}, data, "targets", rows, output, batch)


def cosine(data: Data, *, output: str = "", batch: int = 32) -> Evaluation:
    """Return the mean cosine between outputs and ``targets``, ``mean_i <z_i, t_i> / (|z_i| |t_i|)``.

    Targets are often what the uncompressed model says, ``[samples, …]`` both.
    """

    def rows(outputs: list[Array], _: list[Feeds], targets: Array) -> Array:
        return _cosines(outputs[0], targets)

    return _made("cosine", {}, data, "targets", rows, output, batch)


def spearman(data: Data, *, output: str = "", batch: int = 32) -> Evaluation:
    """Return the rank correlation between outputs and ``scores``: ``ρ = corr(rank(z), rank(s))``.

    One number for each sample, ``[samples]`` or ``[samples, 1]``; equal ones share their mean rank (Spearman 1904).
    """

    def rows(outputs: list[Array], _: list[Feeds], scores: Array) -> Array:
        if outputs[0].size != len(scores):
            raise CalibrationError(
                f"output {list(outputs[0].shape)} has not one number for each of {len(scores)} samples"
            )
        return outputs[0].reshape(-1)

    return _made("spearman", {}, data, "scores", rows, output, batch, finish=_rank_correlation)


def similarity(
    data: Data,
    *,
    pooling: Literal["none", "mean", "first"] = "none",
    output: str = "",
    batch: int = 32,
) -> Evaluation:
    """Return the rank correlation of the cosine of two encodings with ``scores``, as sentence encoders are judged.

    Inputs carry the names of the model's behind ``first.`` and ``second.``, as ``first.input_ids [pairs, tokens]``.
    Encodings are ``[pairs, size]``; with ``pooling`` the output is ``[pairs, tokens, size]``, of which the mean
    over ``attention_mask`` (``mean``) or the first token (``first``) is taken.
    """

    def rows(outputs: list[Array], groups: list[Feeds], _: Array) -> Array:
        first, second = (_pooled(z, g, pooling) for z, g in zip(outputs, groups, strict=True))
        return _cosines(first, second)

    options: dict[str, object] = {} if pooling == "none" else {"pooling": pooling}
    found = _made("similarity", options, data, "scores", rows, output, batch, _rank_correlation)
    return dataclasses.replace(found, groups=_pairs(found.groups[0]))


def log_likelihood(data: Data, *, output: str = "", batch: int = 8) -> Evaluation:
    """Return the mean log-likelihood of the next token in nats: ``mean_i mean_t log softmax(z_it)[y_i,t+1]``.

    Logits ``[rows, tokens, vocabulary]``; ``labels [rows, tokens]`` are the tokens themselves, -100 where one does not
    count; without them ``input_ids``, and no token counts that ``attention_mask`` hides. One number for each row.
    """

    def rows(outputs: list[Array], groups: list[Feeds], labels: Array) -> Array:
        sums, counts = _token_likelihoods(outputs[0], groups[0], labels)
        return np.asarray(sums / np.maximum(counts, 1))

    return _made("log-likelihood", {}, data, "labels", rows, output, batch, truth_from="input_ids")


def perplexity(data: Data, *, output: str = "", batch: int = 8) -> Evaluation:
    """Return minus the perplexity: ``-exp(-Σ_it log softmax(z_it)[y_i,t+1] / Σ_it 1)``.

    Data as for :func:`log_likelihood`, which gives budgets a confidence interval; this is one number for all rows.
    """

    def rows(outputs: list[Array], groups: list[Feeds], labels: Array) -> Array:
        return np.stack(_token_likelihoods(outputs[0], groups[0], labels), axis=1)

    def finish(found: Array, _: Array) -> float:
        total, count = found.sum(0)
        return -float(np.exp(-total / max(count, 1)))

    return _made(
        "perplexity", {}, data, "labels", rows, output, batch, finish, truth_from="input_ids"
    )


def find_metric(text: str) -> Evaluation:
    """Read ``name{option=value,data=F.npz}``, as ``--evaluate`` takes it.

    Raises:
        UsageError: an unknown metric or option, with the nearest name; no data.
    """
    found = re.fullmatch(r"\s*([a-z_-]+)\s*(?:\{([^{}]*)\})?\s*", text)
    known = {name.replace("_", "-"): globals()[name] for name in __all__ if name != "find_metric"}
    name = "" if found is None else found.group(1).replace("_", "-")
    if found is None or name not in known:
        raise UsageError(
            f"unknown metric '{text}'{nearest(name, known)}; expected pkg.mod:fn, or name{{data=F.npz}}"
        )
    make: Callable[..., Evaluation] = known[name]
    defaults = {n: p.default for n, p in inspect.signature(make).parameters.items()}
    options: dict[str, Any] = {}
    for part in filter(None, (found.group(2) or "").split(",")):
        key, sign, value = (item.strip() for item in part.partition("="))
        if not sign or key not in defaults:
            raise UsageError(f"unknown option '{part}' of metric '{name}'{nearest(key, defaults)}")
        options[key] = _converted(value, defaults[key], f"option '{key}' of metric '{name}'")
    if "data" not in options:
        raise UsageError(f"metric '{name}' has no data: expected {name}{{data=F.npz}}")
    return make(**options)


def _converted(text: str, default: object, where: str) -> object:
    kind = type(default) if isinstance(default, int | float) else str
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{where} is '{text}', expected {kind.__name__}") from None


def _made(
    name: str,
    options: dict[str, object],
    data: Data,
    truth: str,
    rows: Rows,
    output: str,
    batch: int,
    finish: Callable[[Array, Array], float] | None = None,
    *,
    truth_from: str = "",
) -> Evaluation:
    """Put data and a metric together; the truth may be one of the inputs."""
    if batch < 1:
        raise UsageError(f"batch is {batch}, expected 1 or more")
    arrays, known, digest = read_arrays(data, truth)
    expected = known.get(truth, arrays.get(truth_from))
    if expected is None:
        raise CalibrationError(f"evaluate: there is no array '{truth}' beside {list(arrays)}")
    said = {**options, **({"output": output} if output else {})}
    stamp = f"{name} {said} {digest}"
    more = {**said, "batch": batch, "data": data}
    spelling = f"{name}{{{','.join(f'{k}={v}' for k, v in more.items())}}}"
    plain = spelling if isinstance(data, str | Path) else ""
    return Evaluation(plain, (arrays,), expected, rows, finish, output, batch, stamp)


def _pairs(arrays: Feeds) -> tuple[Feeds, Feeds]:
    first, second = (
        {n.removeprefix(p): a for n, a in arrays.items() if n.startswith(p)}
        for p in ("first.", "second.")
    )
    if first.keys() != second.keys() or len(arrays) != 2 * len(first):
        raise CalibrationError(
            f"evaluate: inputs {list(arrays)}, expected 'first.NAME' and 'second.NAME' for each"
        )
    return first, second


def _by_sample(found: Array) -> Doubles:
    wide: Doubles = found.astype(np.float64)
    return np.asarray(wide.reshape(len(wide), -1).mean(1))


def _squared_errors(found: Array, targets: Array) -> Doubles:
    if found.shape != targets.shape:
        raise CalibrationError(
            f"evaluate: output {list(found.shape)} and targets {list(targets.shape)} differ in shape"
        )
    return _by_sample((found.astype(np.float64) - targets.astype(np.float64)) ** 2)


def _cosines(one: Array, other: Array) -> Doubles:
    if one.shape != other.shape:
        raise CalibrationError(
            f"evaluate: {list(one.shape)} and {list(other.shape)} differ in shape"
        )
    a, b = (x.astype(np.float64).reshape(len(x), -1) for x in (one, other))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny))


def _pooled(states: Array, feeds: Mapping[str, Array], pooling: str) -> Array:
    if pooling == "none":
        return states
    if pooling == "first":
        return states[:, 0]
    if pooling != "mean":
        raise UsageError(f"pooling is '{pooling}', expected none, mean or first")
    mask = feeds.get("attention_mask", np.ones(states.shape[:2]))[..., None].astype(np.float64)
    wide: Doubles = states.astype(np.float64)
    return np.asarray((wide * mask).sum(1) / np.maximum(mask.sum(1), 1e-9))


def _rank_correlation(found: Array, scores: Array) -> float:
    return float(cast("Any", spearmanr(found, scores)).statistic)


def _token_likelihoods(logits: Array, feeds: Feeds, labels: Array) -> tuple[Doubles, Array]:
    """Return for each row the sum of the log-likelihoods of tokens 1, 2, …, and how many count."""
    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        raise CalibrationError(
            f"evaluate: logits {list(logits.shape)}, expected [rows, tokens, vocabulary] for {list(labels.shape)}"
        )
    following = labels[:, 1:]
    counts = following != _IGNORED
    mask = feeds.get("attention_mask")
    if mask is not None and mask.shape == labels.shape:
        counts &= mask[:, 1:] != 0
    likely = log_softmax(logits[:, :-1].astype(np.float64), axis=-1)
    chosen = np.where(counts, following, 0)[..., None]
    found = np.take_along_axis(likely, chosen, axis=-1)[..., 0]
    return (found * counts).sum(1), counts.sum(1)
