"""``--target auto``: times decide, doubt and accuracy hold them back, and the reasons are on record."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet import contest
from whet.backends.base import Target, find_target
from whet.backends.measure import Timing
from whet.backends.onnxruntime import OnnxRuntime
from whet.backends.reference import Reference
from whet.contest import Contender, choose
from whet.errors import UnsupportedTarget, UsageError


def ms(median: float, spread: float = 0.02) -> Timing:
    return Timing(median, median * (1 - spread), median * (1 + spread), 7)


ORT, FAST = Contender("ort", 1e-6), Contender("fast", 1e-6)


def test_the_faster_one_wins_with_its_ratio() -> None:
    runs = [[ms(20), ms(8)], [ms(20), ms(9)]]
    assert choose([ORT, FAST], runs) == (1, "0.45x of the time of ort or less", {})


def test_the_best_of_several_wins() -> None:
    third = Contender("third", 1e-6)
    assert choose([ORT, FAST, third], [[ms(20), ms(8), ms(6)]] * 2)[0] == 2
    assert choose([ORT, FAST, third], [[ms(20), ms(8), ms(8)]] * 2)[0] == 1


@pytest.mark.parametrize(
    "runs",
    [
        [[ms(20), ms(8)], [ms(20), ms(19.5)]],
        [[ms(20, 0.5), ms(15, 0.5)]] * 2,
        [[ms(8), ms(20)]] * 2,
    ],
    ids=["once", "spread", "slower"],
)
def test_in_doubt_the_default_stays(runs: list[list[Timing]]) -> None:
    best, why, barred = choose([ORT, FAST], runs)
    assert (best, why, barred) == (0, "fast not faster beyond doubt", {})


def test_a_less_accurate_one_never_wins() -> None:
    runs = [[ms(20), ms(2)]] * 2
    best, why, barred = choose([ORT, Contender("fast", 0.01)], runs)
    assert (best, why) == (0, "no other may be chosen")
    assert barred == {"fast": "less accurate: relative error 1.0e-02, ort's is 1.0e-06"}
    assert choose([ORT, Contender("fast", 9e-5)], runs)[0] == 1
    assert choose([Contender("ort", 0.01), Contender("fast", 0.019)], runs)[0] == 1


def test_a_metric_decides_where_there_is_one() -> None:
    runs = [[ms(20), ms(2)]] * 2
    entries = [Contender("ort", 1e-6, 0.9), Contender("fast", 0.3, 0.895)]
    best, _, barred = choose(entries, runs)
    assert best == 0
    assert barred["fast"] == "less accurate: its metric is 0.895, expected 0.9 or more"
    assert choose(entries, runs, 0.01)[0] == 1
    assert choose([entries[0], Contender("fast", 0.3, 0.9)], runs)[0] == 1
    by_chance = [Contender("ort", 0.1, 0.921, 0.92), Contender("fast", 0.1, 0.92, 0.92)]
    assert choose(by_chance, runs)[0] == 1


def test_a_budget_comes_before_times() -> None:
    over = Contender("fast", 1e-6, missed=("size is 9 bytes, the budget 8",))
    best, _, barred = choose([ORT, over], [[ms(20), ms(2)]] * 2)
    assert best == 0
    assert barred["fast"] == "it misses the budget: size is 9 bytes, the budget 8"
    assert choose([Contender("ort", 1e-6, missed=("x",)), FAST], [[ms(2), ms(20)]] * 2)[0] == 1


def test_without_times_the_first_stays() -> None:
    best, why, _ = choose([ORT, FAST], [])
    assert (best, why) == (0, "nothing was timed, so the first one that runs the model")


class Other(Reference):
    """A runtime that takes part in tests."""

    contends: ClassVar[bool] = True


class Absent(Other):
    name = "absent"

    def missing(self) -> str:
        return "absent is not installed: pip install absent"


class Unwilling(Other):
    name = "unwilling"

    def refuses(self, model: Any) -> list[str]:
        return ["it does not want to"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [onnx.numpy_helper.from_array(rng.standard_normal((8, 4)).astype(np.float32), "w")],
    )
    path = tmp_path / "net.onnx"
    imports = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), path)
    return path


def entered(monkeypatch: pytest.MonkeyPatch, *others: Target) -> None:
    found = {target.name: target for target in (OnnxRuntime(), *others)}
    monkeypatch.setattr(contest, "contenders", lambda: found)


def build(source: Path, out: Path, **options: Any) -> whet.Artifact:
    given = {"recipe": "exact", "target": "auto", "page": False}
    return whet.compile(str(source), output=out, **{**given, **options})


@pytest.mark.parametrize(("second", "chosen"), [(2.0, "reference"), (30.0, "onnxruntime")])
def test_the_artifact_is_the_winners_and_says_why(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    second: float,
    chosen: str,
) -> None:
    entered(monkeypatch, Other(), Absent(), Unwilling())
    monkeypatch.setattr(contest, "compare_speed", lambda *_: [ms(20), ms(second)])
    made = build(source, tmp_path / "out")
    assert made.manifest["target"] == chosen
    record = json.loads((tmp_path / "out" / "report.json").read_text())["contest"]
    assert record["chosen"] == chosen
    assert [row["target"] for row in record["results"]] == ["onnxruntime", "reference"]
    assert [len(row["times"]) for row in record["results"]] == [2, 2]
    assert record["refused"]["absent"] == "absent is not installed: pip install absent"
    assert record["refused"]["unwilling"].endswith("cannot run it: it does not want to")
    assert made.report is not None
    assert made.report.provenance is not None
    assert "--target auto" in made.report.provenance.command
    assert any(f"runtime {chosen}, chosen among 2" in note for note in made.report.notes)
    assert any("runtime absent was not chosen" in note for note in made.report.notes)
    x = np.ones((2, 8), np.float32)
    assert whet.load(tmp_path / "out").run(x=x)[0].shape == (2, 4)


def test_times_are_measured_in_one_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered(monkeypatch, Other())
    made = build(source, tmp_path / "out")
    assert made.report is not None
    assert made.report.contest is not None
    medians = [row["times"][0]["median"] for row in made.report.contest["results"]]
    assert all(median > 0 for median in medians)


def test_feeds_that_can_be_read_once_are_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered(monkeypatch, Other())
    feeds = ({"x": np.full((1, 8), k, np.float32)} for k in range(9))
    made = build(source, tmp_path / "out", calibration=feeds, measure=False)
    assert made.report is not None
    assert made.report.contest is not None
    assert len(made.report.contest["results"]) == 2
    assert made.report.contest["why"].startswith("nothing was timed")


def test_nobody_left_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "contenders", lambda: {"unwilling": Unwilling()})
    with pytest.raises(UnsupportedTarget, match="it does not want to"):
        build(source, tmp_path / "out")
    monkeypatch.setattr(contest, "contenders", lambda: {"absent": Absent()})
    with pytest.raises(UnsupportedTarget, match="absent is not installed"):
        build(source, tmp_path / "out")


def test_a_target_that_fixes_sizes_takes_part_where_they_are_fixed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tvm", reason="TVM is not installed (pip install 'whet[tvm]')")
    entered(monkeypatch, find_target("tvm"))
    monkeypatch.setattr(contest, "compare_speed", lambda *_: [ms(20), ms(2)])
    made = build(source, tmp_path / "fixed", sizes={"n": 3}, allow_noop=True)
    assert made.manifest["target"] == "tvm"
    assert (tmp_path / "fixed" / "model.so").is_file()
    assert whet.load(tmp_path / "fixed").run(x=np.ones((3, 8), np.float32))[0].shape == (3, 4)
    assert made.report is not None
    assert made.report.contest is not None
    assert [row["target"] for row in made.report.contest["results"]] == ["onnxruntime", "tvm"]
    assert all(row["bytes"] > 0 and row["error"] < 1e-4 for row in made.report.contest["results"])
    assert any(note.startswith("it runs at x [3, 8] alone") for note in made.report.notes)
    monkeypatch.setattr(contest, "compare_speed", lambda *_: [ms(20)])
    free = build(source, tmp_path / "free", allow_noop=True)
    assert free.manifest["target"] == "onnxruntime"
    assert free.report is not None
    assert free.report.contest is not None
    assert free.report.contest["refused"]["tvm"] == (
        "it runs at the sizes that it was compiled for, and the model leaves 'n' open: --bind n=… fixes them"
    )


def test_tvm_contends() -> None:
    assert [*contest.contenders()] == ["onnxruntime", "openvino", "tvm"]


def test_elsewhere_a_runtime_has_to_be_named() -> None:
    with pytest.raises(
        UsageError, match="a choice that a compile makes, expected one of onnxruntime"
    ):
        find_target("auto")
