"""Metrics are held against their definitions, computed another way; wrong data are named."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

import whet
from whet.errors import CalibrationError, UsageError
from whet.evaluate import find_metric
from whet.ir.execute import CannotRun
from whet.metric import Metric

RNG = np.random.default_rng(0)


class Model:
    """Returns what it is told for inputs, which it takes apart again."""

    inputs, outputs = ("x",), ("y", "z")

    def __init__(self, function, most=1000):
        self.function, self.most = function, most

    def run(self, feeds):
        if any(len(a) > self.most for a in feeds.values()):
            raise CannotRun("too many")
        return [self.function(feeds), -self.function(feeds)]


def linear(feeds):
    return feeds["x"]


def test_accuracy_and_top_k() -> None:
    scores = RNG.standard_normal((50, 10))
    labels = RNG.integers(0, 10, 50)
    data = {"x": scores, "labels": labels}
    ranks = (scores > scores[np.arange(50), labels][:, None]).sum(1)
    for k in (1, 3, 10):
        found = whet.evaluate.top_k(data, k=k, batch=7)(Model(linear))
        assert np.array_equal(found, ranks < k)
    assert np.array_equal(whet.evaluate.accuracy(data)(Model(linear)), ranks < 1)
    other = whet.evaluate.accuracy(data, output="z")(Model(linear))
    assert np.array_equal(other, scores.argmin(1) == labels)


def test_several_positions_count_by_share() -> None:
    scores = RNG.standard_normal((6, 4, 3))
    labels = scores.argmax(-1)
    labels[0, :2] = (labels[0, :2] + 1) % 3
    found = whet.evaluate.accuracy({"x": scores, "labels": labels})(Model(linear))
    assert found.tolist() == [0.5, 1, 1, 1, 1, 1]


def test_errors_of_arrays() -> None:
    x, targets = RNG.random((5, 3, 4)), RNG.random((5, 3, 4))
    data = {"x": x, "targets": targets}
    errors = ((x - targets) ** 2).reshape(5, -1).mean(1)
    assert np.allclose(whet.evaluate.mean_squared_error(data)(Model(linear)), -errors)
    ratio = whet.evaluate.psnr(data, peak=2.0)(Model(linear))
    assert np.allclose(ratio, 20 * np.log10(2) - 10 * np.log10(errors))
    same = whet.evaluate.psnr({"x": x, "targets": x})(Model(linear))
    assert np.allclose(same, 100)
    a, b = x.reshape(5, -1), targets.reshape(5, -1)
    cosines = [u @ v / np.sqrt(u @ u * (v @ v)) for u, v in zip(a, b, strict=True)]
    assert np.allclose(whet.evaluate.cosine(data)(Model(linear)), cosines)


def test_rank_correlations() -> None:
    x, scores = RNG.standard_normal((40, 1)), RNG.integers(0, 5, 40)
    found = whet.evaluate.spearman({"x": x, "scores": scores}, batch=3)(Model(linear))
    assert found == pytest.approx(spearmanr(x[:, 0], scores).statistic)
    first, second = RNG.standard_normal((2, 40, 8))
    cosines = [
        u @ v / np.linalg.norm(u) / np.linalg.norm(v) for u, v in zip(first, second, strict=True)
    ]
    data = {"first.x": first, "second.x": second, "scores": scores}
    found = whet.evaluate.similarity(data)(Model(linear))
    assert found == pytest.approx(spearmanr(cosines, scores).statistic)


def test_encodings_are_pooled_over_what_is_no_padding() -> None:
    states = RNG.standard_normal((2, 6, 4, 3))
    mask = np.asarray([[1, 1, 0, 0], [1, 1, 1, 1]] * 3)
    scores = np.arange(6)

    def cosine(u, v):
        return u @ v / np.linalg.norm(u) / np.linalg.norm(v)

    means = [[s[m == 1].mean(0) for s, m in zip(side, mask, strict=True)] for side in states]
    expected = {
        "mean": [cosine(u, v) for u, v in zip(*means, strict=True)],
        "first": [cosine(u[0], v[0]) for u, v in zip(*states, strict=True)],
    }
    data = {f"{side}.{name}": array for side, s in zip(("first", "second"), states, strict=True)
            for name, array in (("x", s), ("attention_mask", mask))}  # fmt: skip
    for pooling, cosines in expected.items():
        found = whet.evaluate.similarity({**data, "scores": scores}, pooling=pooling)(Model(linear))
        assert found == pytest.approx(spearmanr(cosines, scores).statistic)


def test_likelihoods_of_tokens_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    logits = RNG.standard_normal((4, 6, 9)).astype(np.float32)
    ids = RNG.integers(0, 9, (4, 6))
    mask = np.ones((4, 6), np.int64)
    mask[1, 4:] = 0

    def model(feeds):
        rows = [np.flatnonzero((ids == row).all(1))[0] for row in feeds["input_ids"]]
        return logits[rows]

    hidden = np.where(mask == 1, ids, -100)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits[:, :-1]).transpose(1, 2),
        torch.from_numpy(hidden[:, 1:]),
        reduction="none",
    ).numpy()
    counts = (hidden[:, 1:] != -100).sum(1)
    masked = {"input_ids": ids, "attention_mask": mask}
    labelled = {"input_ids": ids, "labels": hidden}
    for data in (masked, labelled):
        rows = whet.evaluate.log_likelihood(data, batch=3)(Model(model))
        assert np.allclose(rows, -expected.sum(1) / counts, rtol=1e-6)
        whole = whet.evaluate.perplexity(data, batch=3)(Model(model))
        assert whole == pytest.approx(-np.exp(expected.sum() / counts.sum()), rel=1e-6)


def test_a_search_sees_every_other_sample() -> None:
    metric = whet.evaluate.accuracy({"x": np.eye(5), "labels": np.asarray([0, 0, 2, 3, 0])})
    assert metric(Model(linear), part="search").tolist() == [1, 1, 0]
    assert metric(Model(linear), part="unseen").tolist() == [0, 1]
    used = Metric(None, metric, 4, split=True)
    assert used.search(Model(linear)).samples.tolist() == [1, 1, 0]
    assert used.of(Model(linear)).samples.tolist() == [0, 1]
    assert used.stamp == metric.stamp != ""


def test_other_data_have_another_stamp() -> None:
    make = whet.evaluate.top_k
    x, y = np.eye(5), np.arange(5)
    stamps = [
        make({"x": x, "labels": y}).stamp,
        make({"x": x, "labels": y[::-1]}).stamp,
        make({"x": 2 * x, "labels": y}).stamp,
        make({"x": x, "labels": y}, k=2).stamp,
    ]
    assert len(set(stamps)) == 4


def test_the_command_line_makes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, x=np.eye(6), labels=np.arange(6))
    metric = find_metric(f"top_k{{k=2, data={path}}}")
    assert metric(Model(linear)).all()
    again = find_metric(str(metric))
    assert (again.stamp, str(again)) == (metric.stamp, str(metric))
    assert str(whet.evaluate.accuracy({"x": np.eye(6), "labels": np.arange(6)})) == "…"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acuracy{data=v.npz}", "did you mean 'accuracy'"),
        ("top-k{n=3,data=v.npz}", "unknown option 'n=3'"),
        ("top-k{k=x,data=v.npz}", "option 'k' of metric 'top-k' is 'x', expected int"),
        ("top-k{k=0,data=v.npz}", "k is 0"),
        ("accuracy", "has no data"),
        ("accuracy{data=none.npz}", "cannot read 'none.npz'"),
        ("accuracy{batch=0,data=v.npz}", "batch is 0"),
    ],
)
def test_a_mistake_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("v.npz", x=np.eye(6), labels=np.arange(6))
    with pytest.raises(UsageError, match=said):
        find_metric(text)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"x": np.eye(5)}, "no array 'labels'"),
        ({"x": np.eye(5), "labels": np.arange(4)}, "numbers of samples differ"),
        ({"labels": np.arange(4)}, "no inputs"),
        ({}, "numbers of samples"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: dict, said: str) -> None:
    with pytest.raises(CalibrationError, match=said):
        whet.evaluate.accuracy(data)


def test_outputs_that_do_not_fit_are_refused() -> None:
    x, y = np.eye(5), np.arange(5)
    for metric, said in (
        (whet.evaluate.accuracy({"x": x, "labels": x}), "one axis more"),
        (whet.evaluate.mean_squared_error({"x": x, "targets": y}), "differ in shape"),
        (whet.evaluate.spearman({"x": x, "scores": y}), "not one number for each"),
        (whet.evaluate.perplexity({"x": x, "labels": x}), "expected .rows, tokens"),
    ):
        with pytest.raises(CalibrationError, match=said):
            metric(Model(linear))
    with pytest.raises(UsageError, match="looks at output 'w'"):
        whet.evaluate.accuracy({"x": x, "labels": y}, output="w")(Model(linear))
    with pytest.raises(UsageError, match=r"5 samples at a time .batch=….: too many"):
        whet.evaluate.accuracy({"x": x, "labels": y}, batch=5)(Model(linear, most=2))
    with pytest.raises(CalibrationError, match=r"expected 'first\.NAME'"):
        whet.evaluate.similarity({"first.x": x, "scores": y})
    with pytest.raises(UsageError, match="leave none for 'unseen'"):
        whet.evaluate.accuracy({"x": x[:1], "labels": y[:1]})(Model(linear), part="unseen")
