"""The whole way from a budget to an artifact, on handwritten digits."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from folding import build
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import whet
from whet.errors import BudgetMissed, NothingChanged, UsageError
from whet.ir.saving import save_model

pytest.importorskip("torch")
CANDIDATES = ",".join(f"quantize-codebooks{{bits={bits},minimum=64}}" for bits in (4, 3, 2))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no search go on where another test's was."""
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """Return a trained network, inputs to calibrate on, and inputs with labels."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    trained = MLPClassifier((96, 48), random_state=0, max_iter=600).fit(x[:1000], y[:1000])
    names = ["w1", "w2", "w3"], ["b1", "b2", "b3"]
    weights = {n: w.astype(np.float32) for n, w in zip(names[0], trained.coefs_, strict=True)}
    weights |= {n: b.astype(np.float32) for n, b in zip(names[1], trained.intercepts_, strict=True)}
    text = """(float[N,64] x) => (float[N,10] y) {
        a = Gemm (x, w1, b1) b = Relu (a) c = Gemm (b, w2, b2) d = Relu (c) y = Gemm (d, w3, b3) }"""
    model: onnx_ir.Model = build(text, weights, opset=21)
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    save_model(model, path)
    return path, {"x": x[:200]}, {"x": x[1000:], "labels": y[1000:]}


def compile(digits: tuple[Path, dict, dict], **options):
    path, calibration, labels = digits
    given = {"candidates": CANDIDATES, "threads": 1, "measure": False, **options}
    return whet.compile(path, calibration=calibration, labels=labels, **given)


def test_a_size_is_kept_with_the_least_loss(digits, tmp_path) -> None:
    artifact = compile(digits, budget=whet.Budget(size="25%"), output=tmp_path / "out")
    report = artifact.report
    assert report is not None
    assert report.search is not None
    assert report.after.bytes <= 0.25 * report.before.bytes
    assert report.metric is not None
    assert report.interval is not None
    assert report.metric[0] - report.metric[1] < 0.03
    assert report.interval.low <= report.interval.drop <= report.interval.high
    assert report.search["rank_correlation"] > 0.8
    step = next(s for s in report.steps if s.name == "apply-plan")
    assert step.coverage.changed == sum(step.coverage.proofs.values()) > 0
    assert len(report.search["decisions"]) == 3
    text = str(report)
    assert "Plan, the dearest decisions first" in text
    assert "rank correlation" in " ".join(text.split())
    assert json.loads((tmp_path / "out" / "report.json").read_text())["search"]["best"]


def test_a_drop_is_kept_on_samples_that_the_search_never_saw(digits, tmp_path) -> None:
    budget = whet.Budget(drop="2%")
    artifact = compile(digits, budget=budget, minimize="size", output=tmp_path / "out")
    assert artifact.report is not None
    before, after = artifact.report.metric
    assert before - after <= 0.02
    assert artifact.report.after.bytes < 0.3 * artifact.report.before.bytes
    assert all(
        t["drop"] is not None for t in artifact.report.search["trials"] if t["why"] == "solved"
    )


def test_an_impossible_budget_leaves_the_best_and_says_why(digits, tmp_path) -> None:
    with pytest.raises(BudgetMissed, match=r"size is .* bytes, the budget") as caught:
        compile(digits, budget=whet.Budget(size="3%"), output=tmp_path / "out")
    assert caught.value.exit_code == 3
    record = caught.value.artifact.report.search
    assert "bytes" in record["missed"]
    assert whet.load(tmp_path / "out").run({"x": digits[1]["x"][:2]})[0].shape == (2, 10)


def test_two_searches_make_the_same_file(digits, tmp_path) -> None:
    for name in ("one", "two"):
        compile(digits, budget=whet.Budget(size="20%"), output=tmp_path / name)
    one, two = ((tmp_path / name / "model.onnx").read_bytes() for name in ("one", "two"))
    assert one == two


def test_an_interrupted_search_leaves_the_best_so_far(digits, tmp_path) -> None:
    def stop(message: str) -> None:
        if seen and message.startswith("search: measure plan"):
            raise KeyboardInterrupt
        if message.startswith("search: write"):
            seen.append(message)

    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        compile(
            digits,
            budget=whet.Budget(drop="0.1%"),
            minimize="size",
            output=tmp_path / "out",
            progress=stop,
        )
    assert seen
    assert whet.load(tmp_path / "out").run({"x": digits[1]["x"][:2]})[0].shape == (2, 10)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["interrupted"]


@pytest.mark.parametrize(("option", "value"), [("minimize", "bytes"), ("loss", "accuracy")])
def test_unknown_words_are_refused(digits, option, value) -> None:
    with pytest.raises(UsageError, match=f"{option} is '{value}', expected one of"):
        compile(digits, **{option: value})


def test_a_search_goes_on_where_it_was_interrupted(digits, tmp_path, monkeypatch) -> None:
    budget = whet.Budget(size="21%")

    def stop(message: str) -> None:
        if message.startswith("search: random mixture 9 of "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile(digits, budget=budget, output=tmp_path / "one", progress=stop)
    store = next((tmp_path / "cache" / "searches").iterdir())
    known = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    assert sum(name.startswith("plan-") for name in known) == 8
    compile(digits, budget=budget, output=tmp_path / "two")
    after = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    assert {name: after[name] for name in known} == known
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "other"))
    compile(digits, budget=budget, output=tmp_path / "three")
    two, three = ((tmp_path / name / "model.onnx").read_bytes() for name in ("two", "three"))
    assert two == three


@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None,
    reason="dask is not installed: pip install whet[dask]",
)
def test_a_cluster_finds_the_same(digits, tmp_path, monkeypatch) -> None:
    for workers in ("here", "2"):
        monkeypatch.setenv("WHET_CACHE", str(tmp_path / f"cache-{workers}"))
        budget = whet.Budget(size="20%")
        compile(digits, budget=budget, output=tmp_path / workers, workers=workers)
    one, two = ((tmp_path / name / "model.onnx").read_bytes() for name in ("here", "2"))
    assert one == two
    trials = [
        json.loads((tmp_path / name / "report.json").read_text())["search"]["trials"]
        for name in ("here", "2")
    ]
    assert [t["measured"]["loss"] for t in trials[0]] == [t["measured"]["loss"] for t in trials[1]]


def test_workers_that_are_nowhere_are_refused(digits) -> None:
    with pytest.raises(UsageError, match="workers is 'there', expected 'here'"):
        compile(digits, budget=whet.Budget(size="20%"), workers="there")


def test_the_record_of_a_search_has_the_documented_keys(digits, tmp_path) -> None:
    from report_maker import make_report

    artifact = compile(digits, budget=whet.Budget(size="25%"), output=tmp_path / "out")
    assert artifact.report is not None
    found, made_up = artifact.report.search, make_report(3).search
    assert found is not None
    assert made_up is not None
    assert found.keys() == made_up.keys()
    assert found["best"].keys() == found["trials"][0].keys() == made_up["best"].keys()
    assert found["source"].keys() == made_up["source"].keys() == found["best"]["measured"].keys()
    assert found["decisions"][0].keys() == made_up["decisions"][0].keys()
    assert all(len(trial["plan"]) == len(found["sites"]) for trial in found["trials"])
    assert max(k for trial in found["trials"] for k in trial["plan"]) < len(found["labels"])


def test_sparse_factored_and_quantized_layers_are_mixed(digits, tmp_path) -> None:
    """What takes weights away is priced and mixed like what makes them narrow."""
    artifact = compile(
        digits,
        candidates="sparsify-weights{sparsity=0.8},factor-linear{ratio=0.3,prefer=size},"
        "quantize-weights{bits=8,prefer=size}",
        budget=whet.Budget(size="40%"),
        output=tmp_path / "out",
    )
    report = artifact.report
    assert report is not None
    assert report.search is not None
    assert not report.search["idle_candidates"]
    assert {name.partition("{")[0] for name in report.search["labels"]} == {
        "keep", "sparsify-weights", "factor-linear", "quantize-weights",
    }  # fmt: skip
    assert report.after.bytes <= 0.4 * report.before.bytes
    taken = {d["taken"].partition("{")[0] for d in report.search["decisions"]}
    assert taken - {"keep"}
    assert report.metric is not None
    assert report.metric[0] - report.metric[1] < 0.03


PRUNED = "prune-structure{ratio=0.4,multiple=1}"


def test_a_smaller_network_is_a_start_where_formats_alone_do_not_reach(digits, tmp_path) -> None:
    budget = whet.Budget(size="12.5%")
    with pytest.raises(BudgetMissed) as caught:
        compile(digits, budget=budget, output=tmp_path / "formats")
    text = " ".join(str(caught.value.artifact.report).split())
    assert "only formats were tried; --start" in text
    artifact = compile(digits, budget=budget, start=(PRUNED,), output=tmp_path / "smaller")
    report = artifact.report
    assert report.after.bytes <= 0.125 * report.before.bytes
    assert report.metric[0] - report.metric[1] < 0.1
    assert report.search["start"] == PRUNED
    names = [step.name for step in report.steps if step.coverage.changed]
    assert names.index("prune-structure") < names.index("apply-plan")
    source, start = report.search["starts"]
    assert source["seen"]["loss"] == 0 < start["seen"]["loss"] < start["best"]["loss"]
    assert report.search["source"] == source["seen"]
    assert "Where the search began" in str(report)
    record = json.loads((tmp_path / "smaller" / "report.json").read_text())
    assert f"--start '{PRUNED}'" in record["provenance"]["command"]


def test_a_start_that_cannot_win_is_not_searched(digits, tmp_path) -> None:
    seen: list[str] = []
    much = "prune-structure{ratio=0.8,multiple=1,most=0.9,limit=10}"
    artifact = compile(
        digits,
        budget=whet.Budget(size="25%"),
        start=much,
        output=tmp_path / "out",
        progress=seen.append,
    )
    search = artifact.report.search
    assert search["start"] == ""
    assert "loss is" in search["starts"][1]["skipped"]
    assert search["starts"][1]["best"] is None
    assert f"search: measure what {much} leaves" in seen
    assert sum(m.startswith("candidates:") for m in seen) == 3


def test_a_start_that_loses_too_much_is_not_searched(digits, tmp_path) -> None:
    much = "prune-structure{ratio=0.9,multiple=1,most=0.95,limit=10}"
    budget = whet.Budget(drop="0.5%")
    artifact = compile(digits, budget=budget, minimize="size", start=much, output=tmp_path / "out")
    (why,) = (s["skipped"] for s in artifact.report.search["starts"] if s["recipe"] == much)
    assert "without a plan, the budget is 0.005" in why


def test_unknown_starts_are_refused_at_once(digits) -> None:
    with pytest.raises(UsageError, match="prune-structur"):
        compile(digits, start="prune-structur", budget=whet.Budget(size="25%"))


def test_a_start_that_is_the_source_is_no_start(digits, tmp_path) -> None:
    idle = "drop-blocks{count=1}"
    with pytest.raises(NothingChanged, match="drop-blocks"):
        compile(digits, start=idle, budget=whet.Budget(size="25%"), output=tmp_path / "out")
    artifact = compile(
        digits,
        start=idle,
        budget=whet.Budget(size="25%"),
        allow_noop=True,
        output=tmp_path / "out",
    )
    assert len(artifact.report.search["starts"]) == 1
    assert f"'{idle}' changes nothing" in " ".join(artifact.report.notes)


@pytest.mark.parametrize("given", [{}, {"budget": whet.Budget(size="25%"), "recipe": "exact"}])
def test_a_start_without_a_search_is_refused(digits, given) -> None:
    with pytest.raises(UsageError, match="nothing is searched for"):
        compile(digits, start=PRUNED, **given)
