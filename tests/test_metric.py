import numpy as np
import pytest
from folding import build

from whet.analysis.calibration import read_dataset
from whet.comparison import hits
from whet.errors import UsageError
from whet.metric import Metric, interval
from whet.solve.measuring import Scores

X = np.arange(12, dtype=np.float32).reshape(6, 2)


class Runner:
    """Says the first class for even samples, by their first number."""

    def run(self, feeds):
        first = feeds["x"][:, :1] % 4 == 0
        return [np.concatenate([first, ~first], 1).astype(np.float32)]


def data(labels):
    model = build("(float[N,2] x) => (float[N,2] y) { y = Relu(x) }", {})
    return read_dataset({"x": X, "labels": np.asarray(labels)}, model, "labels file")


def test_hits_are_counted_by_sample() -> None:
    assert hits(Runner(), data([0, 1, 0, 1, 1, 0]), 4).tolist() == [1, 1, 1, 1, 0, 0]


def test_a_search_sees_every_other_sample() -> None:
    metric = Metric(data([0, 1, 0, 1, 1, 0]), None, 4, split=True)
    assert metric.search(Runner()).samples.tolist() == [1, 1, 0]
    assert metric.of(Runner()).samples.tolist() == [1, 1, 0]
    assert metric.of_source(Runner()).metric == pytest.approx(2 / 3)
    whole = Metric(data([0, 1, 0, 1, 1, 0]), None, 4)
    assert len(whole.of(Runner()).samples) == 6


def test_other_labels_have_another_stamp() -> None:
    one, same, other = (Metric(data(y), None, 4).stamp for y in ([0] * 6, [0] * 6, [1] * 6))
    assert one == same != other
    assert Metric(None, lambda _: 1.0, 4).stamp is None


def test_the_interval_needs_samples() -> None:
    right = np.asarray([1.0, 1, 0, 1])
    found = interval(Scores(0.75, right), Scores(0.5, np.asarray([1.0, 0, 0, 1])), 0)
    assert found is not None
    assert found.drop == pytest.approx(0.25)
    assert interval(Scores(0.75), Scores(0.5), 0) is None


def test_a_file_without_labels_is_refused() -> None:
    model = build("(float[N,2] x) => (float[N,2] y) { y = Relu(x) }", {})
    with pytest.raises(UsageError, match="no array 'labels'"):
        hits(Runner(), read_dataset({"x": X}, model, "labels file"), 4)


def test_a_function_is_told_which_samples_to_take() -> None:
    asked: list[str] = []

    def right(runner, part):
        asked.append(part)
        return hits(runner, data([0, 1, 0, 1, 1, 0]), 4)

    metric = Metric(None, right, 4, split=True)
    assert metric.search(Runner()).metric == pytest.approx(2 / 3)
    assert metric.of(Runner()).samples.tolist() == [1, 1, 1, 1, 0, 0]
    assert Metric(None, right, 4).of(Runner()).metric == pytest.approx(2 / 3)
    assert asked == ["search", "unseen", "all"]
    assert Metric(None, lambda _: 0.5, 4, split=True).search(Runner()) == Scores(0.5)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((2, 2)), r"float64 of shape \[2, 2\]"),
        ("good", "<U4"),
        (np.nan, "not finite"),
        (np.zeros(0), r"shape \[0\]"),
    ],
)
def test_what_is_no_metric_is_refused(value, words) -> None:
    with pytest.raises(UsageError, match=words):
        Metric(None, lambda _: value, 4).of(Runner())
