from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from folding import build
from hypothesis import given
from hypothesis import strategies as st

from whet.analysis.calibration import Dataset, read_dataset
from whet.analysis.ranges import Range, Ranges
from whet.errors import CalibrationError
from whet.passes.workbench import Context

TEXT = "(float[N,L] x, int64[N] id) => (float[N,L] y) { y = Neg(x) }"


def model_of(batch: str = "N") -> onnx_ir.Model:
    return build(TEXT.replace("[N", f"[{batch}"))


def feed(count: int, length: int = 3, start: int = 0) -> dict[str, np.ndarray]:
    ids = np.arange(start, start + count)
    return {"x": np.repeat(ids[:, None], length, 1).astype(np.float32), "id": ids}


def ids_of(batches: object) -> list[list[int]]:
    return [part["id"].tolist() for part in batches]


def generated(*feeds: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    yield from feeds


@pytest.mark.parametrize("kind", ["npz", "compressed", "dict", "list", "generator"])
def test_all_sources_give_the_same_batches(kind: str, tmp_path: Path) -> None:
    whole, path = feed(7), tmp_path / "data.npz"
    (np.savez_compressed if kind == "compressed" else np.savez)(path, **whole)
    parts = [feed(2), feed(4, start=2), feed(1, start=6)]
    source = {"npz": path, "compressed": str(path), "dict": whole, "list": parts}.get(kind)
    data = read_dataset(generated(*parts) if source is None else source, model_of())
    assert len(data) == 7
    batches = data.batches(3)
    for _ in range(2):
        assert ids_of(batches) == [[0, 1, 2], [3, 4, 5], [6]]
    assert all(np.array_equal(b["x"][:, 0], b["id"]) for b in batches)
    assert batches.samples == 7
    assert [len(b["id"]) for b in batches[1:]] == [3, 1]


def test_lengths_may_differ_from_feed_to_feed() -> None:
    feeds = [feed(2, 3), feed(3, 3, 2), feed(1, 9, 5), feed(2, 4, 6)]
    data = read_dataset(feeds, model_of())
    batches = data.batches(4)
    assert ids_of(batches) == [[0, 1, 2, 3], [4], [5], [6, 7]]
    assert [part["x"].shape for part in batches.kinds()] == [(1, 3), (1, 9), (1, 4)]
    context = Context(calibration=batches)
    assert Ranges(("y",)).measure(model_of(), context)["y"] == Range(-7, 0)


def test_calls_whose_arrays_count_different_things_stay_whole() -> None:
    model = build("(float[b,4] x, float[2,b,3] state) => (float[b,4] y) { y = Neg(x) }")
    calls = [
        {"x": np.full((1, 4), k, np.float32), "state": np.zeros((2, 1, 3), np.float32)}
        for k in range(3)
    ]
    data = read_dataset(calls, model)
    assert len(data) == 3
    assert [b["state"].shape for b in data.batches(32)] == [(2, 1, 3)] * 3


@given(st.integers(8, 4000), st.sampled_from([1, 3]))
def test_a_tenth_is_held_out(groups: int, unit: int) -> None:
    count = groups * unit
    data = Dataset((feed(count, 1),), labels=np.arange(count), unit=unit)
    fit, held = data.held_out()
    kept, judged = (np.concatenate(ids_of(d.batches(64))) for d in (fit, held))
    assert sorted([*kept, *judged]) == list(range(count))
    assert len(judged) % unit == 0
    size = len(judged) // unit
    assert min(max(2, groups // 10), 256) <= size <= max(2, min(256, groups // 8 + 1))
    assert np.array_equal(held.labels, judged)
    assert np.array_equal(fit.labels, kept)
    assert np.all(np.diff(judged) > 0)


def test_few_samples_are_not_divided() -> None:
    fit, held = read_dataset(feed(7), model_of()).held_out()
    assert (len(fit), len(held), len(held.batches(4))) == (7, 0, 0)


def test_a_fixed_batch_stays_together() -> None:
    fit, held = read_dataset(feed(32), model_of("4")).held_out()
    assert [part["id"].tolist() for part in held.batches(4)] == [[12, 13, 14, 15], [28, 29, 30, 31]]
    assert all(len(part["id"]) == 4 for part in fit.batches(4))


def test_labels_of_feeds() -> None:
    feeds = [{**feed(2), "labels": np.asarray([5, 6])}, {**feed(1, 9), "labels": np.asarray([7])}]
    data = read_dataset(generated(*feeds), model_of())
    assert data.labels is not None
    assert data.labels.tolist() == [5, 6, 7]
    with pytest.raises(CalibrationError, match="labels need one for each sample"):
        read_dataset([feeds[0], feed(1)], model_of())


NOT_A_NUMBER = {"x": np.asarray([[0, 1], [np.nan, 1]], np.float32), "id": np.arange(2)}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ([], "the iterable is empty"),
        ([feed(0)], "holds no samples"),
        (feed(0), "holds no samples"),
        ([3], "feed 0 is a int, expected a dict"),
        ([feed(2), {"x": feed(2)["x"]}], r"missing \['id'\]"),
        ([{**feed(2), "z": np.zeros(2)}], r"unknown \['z'\]"),
        ({**feed(2), "id": np.arange(3)}, "numbers of samples disagree"),
        ({**feed(2), "id": np.zeros(2, np.int32)}, "dtype int32 of 'id' does not match int64"),
        ({**feed(2), "x": np.zeros((2, 3, 1), np.float32)}, r"shape \(2, 3, 1\) of 'x'"),
        (NOT_A_NUMBER, r"'x' is nan at \[1, 0\]; it must be finite"),
        ([feed(1), NOT_A_NUMBER], "must be finite"),
        ([{**feed(1), "x": np.full((1, 3), np.inf, np.float32)}], r"'x' is inf at \[0, 0\]"),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_bad_data_are_refused(source: object, says: str, lazy: bool) -> None:
    with pytest.raises(CalibrationError, match=says):
        read_dataset(iter(source) if lazy and isinstance(source, list) else source, model_of())


def test_a_wrong_number_of_samples_for_a_fixed_batch() -> None:
    with pytest.raises(
        CalibrationError, match="5 samples of 'x' are no multiple of the model's batch 4"
    ):
        read_dataset(feed(5), model_of("4"))


def test_files_that_are_none(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    for name, says in (
        ("one.npy", "holds one array"),
        ("text.npz", "cannot be read as .npz"),
        ("no", "no file"),
    ):
        with pytest.raises(CalibrationError, match=says):
            read_dataset(tmp_path / name, model_of())


def test_an_axis_more_than_the_inputs_have_counts_calls(tmp_path: Path) -> None:
    model = build("(float[2,3] x, int64 k) => (float[2,3] y) { y = Neg(x) }")
    x = np.arange(54, dtype=np.float32).reshape(9, 2, 3)
    np.savez(tmp_path / "calls.npz", x=x, k=np.arange(9))
    data = read_dataset(tmp_path / "calls.npz", model)
    assert (len(data), data.whole) == (9, True)
    calls = list(data.batches(4))
    assert [int(call["k"]) for call in calls] == list(range(9))
    assert all(np.array_equal(call["x"], x[k]) for k, call in enumerate(calls))
    with pytest.raises(CalibrationError, match="numbers of samples disagree"):
        read_dataset({"x": x, "k": np.arange(8)}, model)
