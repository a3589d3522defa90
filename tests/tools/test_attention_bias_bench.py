"""The benchmark of attention with a bias: every contender computes the same, and the arithmetic of the table."""

import json
from pathlib import Path

import numpy as np
import pytest

from whet.ir.execute import CannotRun, Executor
from whet.tools.bench import attention_bias
from whet.tools.bench.attention_bias import Plan, Row, crossing, main, measure
from whet.tools.bench.attention_models import (
    FUSED,
    Case,
    Means,
    attention_model,
    expected_rows,
    make_data,
    make_feeds,
)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("means", ["bias", "factors", "nothing"])
@pytest.mark.parametrize("kernel", ["plain", *FUSED])
def test_every_kernel_computes_the_same(kernel: str, means: Means, causal: bool) -> None:
    case = Case(length=12, head=16, rank=3, heads=2, causal=causal)
    data = make_data(case)
    try:
        session = Executor(attention_model(case, kernel, means), optimization="all")
    except CannotRun as error:
        pytest.skip(f"this runtime has no such {kernel}: {error}")
    (found,) = session.run(make_feeds(case, kernel, means, data))
    if found.ndim == 3:
        found = found.reshape(1, 12, 2, 16).swapaxes(1, 2)
    expected = expected_rows(case, means, data, np.arange(12))
    assert float(np.abs(found[0] - expected).max()) < 1e-5


def test_the_reference_is_softmax_attention() -> None:
    case = Case(length=5, head=4, rank=2, heads=1)
    data = make_data(case)
    q, k, v, left, right = (data[n][0, 0].astype(float) for n in ("q", "k", "v", "left", "right"))
    scores = np.exp(q @ k.T / 2 + left @ right.T)
    expected = scores @ v / scores.sum(1, keepdims=True)
    found = expected_rows(case, "bias", data, np.arange(5))
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.5, 0.9, 0.8], None),
        ([1.5, 2.0, 3.0], 100.0),
        ([0.5, 2.0, 3.0], 100 * 2**0.5),
        ([2.0, 0.5, 2.0], 200 * 2**0.5),
    ],
)
def test_break_even_is_where_the_gain_stays_above_one(
    gains: list[float], expected: float | None
) -> None:
    assert crossing([100, 200, 400], gains) == pytest.approx(expected)


def _key(row: Row) -> tuple[str, str, int]:
    return row.kernel, row.means, row.rank


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return measure(16, 8, [2], Plan(heads=2, threads=1, rounds=1, block_seconds=0.001))


def test_each_contender_runs_and_is_right(rows: list[Row]) -> None:
    pytest.importorskip("torch")
    assert len({_key(row) for row in rows}) == len(rows) == 11
    ran = [row for row in rows if row.time is not None]
    assert {"plain", "Attention", "MultiHeadAttention", "torch"} <= {row.kernel for row in ran}
    assert all(row.error < 1e-5 and row.bytes > 0 for row in ran)


def test_what_does_not_fit_together_runs_alone(
    rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_bias, "_free_memory", lambda: 1 << 28)
    alone = measure(16, 8, [2], Plan(heads=2, threads=1, rounds=2, block_seconds=0.001))
    assert [_key(row) for row in alone] == [_key(row) for row in rows]
    assert all(row.time is None or row.time.runs == 2 for row in alone)
    assert any(row.time is not None for row in alone)


def test_what_does_not_fit_at_all_is_skipped_with_the_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_bias, "_free_memory", lambda: 1 << 20)
    found = measure(16, 8, [2], Plan(heads=2, threads=1))
    assert all(row.skipped == "needs about 0.1 GB, 0.0 GB are free" for row in found)


def test_the_command_prints_ratios_and_the_break_even(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    sizes = ["--lengths", "16", "--head-sizes", "8", "--ranks", "2", "--heads", "2"]
    assert main(["--quick", "--threads", "1", *sizes, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "break-even, d 8, rank 2:" in printed
    data = json.loads(file.read_text())
    assert data["comparisons"][0]["gain"] > 0
    assert data["comparisons"][0]["of_no_bias"] > 0
