from pathlib import Path

import numpy as np
import pytest
from commandline import make_model
from folding import build, run

from whet.advice import advise
from whet.compiler import compile
from whet.errors import UsageError
from whet.passes.base import Coverage, Damage, Fidelity, Pass
from whet.passes.pipeline import Pipeline, Step
from whet.passes.quantization.quantize_dynamic import QuantizeDynamic
from whet.passes.recipes import read_recipe
from whet.passes.registry import parse_passes
from whet.passes.workbench import Context

NAME = "quantize-dynamic"
TWO = """(float[N,32] x) => (float[N,32] y) {
    a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"""


def step_of(*rows: Damage) -> Step:
    return Step(NAME, "lossy", "", Coverage(damage=list(rows)), spelling=NAME)


def damage(site: str, error: float, saved: int, ms: float = 0.0) -> Damage:
    return Damage(site, "int8", error, saved, 0, ms, 0.0)


def test_the_price_is_a_share_of_bytes_and_of_milliseconds() -> None:
    rows = [
        damage("dear", 0.2, 900, 9.0),
        damage("cheap", 0.1, 50, 0.5),
        damage("slow", 0.1, 50, 0.6),
    ]
    found = advise([step_of(*rows)], "auto")
    assert [a.site for a in found] == ["cheap", "slow", "dear"]
    assert sum(a.avoided for a in found) == pytest.approx(1)
    assert str(found[0]) == (
        "leaving cheap alone avoids 17% of the predicted loss and costs +50 bytes and +0.5 ms: "
        "--recipe 'auto{skip=cheap}'"
    )


def test_curvature_goes_before_the_error_and_what_was_reverted_does_not_count() -> None:
    weighed = Damage("a", "int8", 0.5, 10, 0, curvature=1e-6)
    taken_back = step_of(damage("c", 1.0, 10))
    taken_back.reverted = "slower"
    found = advise([step_of(weighed, damage("b", 0.1, 10)), taken_back], "auto")
    assert [a.site for a in found] == ["b", "a"]
    assert advise([step_of(damage("a", 0.0, 5))], "auto") == []


@pytest.mark.parametrize(
    ("recipe", "spelled"),
    [
        ("auto", "--recipe 'auto{skip=/l/a?0?}'"),
        ("auto{skip=b}", "--recipe 'auto{skip=b+/l/a?0?}'"),
        ("quantize-dynamic{minimum=4}", "--recipe 'quantize-dynamic{minimum=4,skip=/l/a?0?}'"),
        ("my.toml", 'in my.toml, the pass quantize-dynamic takes skip = ["/l/a?0?"]'),
    ],
)
def test_the_recipe_can_be_copied(recipe: str, spelled: str) -> None:
    (found,) = advise([step_of(damage("/l/a[0]", 0.1, 5))], recipe)
    assert found.recipe == spelled
    if spelled.startswith("--recipe"):
        stages = read_recipe(spelled.split("'")[1]).stages
        (lossy,) = [s for s in stages if isinstance(s, Pass) and s.name == NAME]
        assert lossy.skips("/l/a[0]")


def test_wrong_options_of_built_in_recipes() -> None:
    with pytest.raises(UsageError, match="auto takes skip=NODE"):
        read_recipe("auto{prefer=size}")
    with pytest.raises(UsageError, match="exact takes nothing"):
        read_recipe("exact{skip=a}")
    kinds = [s for s in read_recipe("auto{skip=a+b}").stages if isinstance(s, Pass)]
    assert all(s.skip == ("a", "b") for s in kinds if s.fidelity is Fidelity.LOSSY)


def two_products() -> object:
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal((32, 32)).astype(np.float32) for n in "wv"}
    return build(TWO, weights)


def test_a_site_is_left_alone() -> None:
    model = two_products()
    coverage = run(model, QuantizeDynamic(skip=("MatMul_0",)))
    assert [row.site for row in coverage.damage] == ["MatMul_2"]
    assert coverage.declined["MatMul_0"] == "left alone as the user wishes (skip)"
    assert [n.name for n in model.graph if n.op_type == "MatMul"] == ["MatMul_0"]


def test_a_pattern_leaves_several_alone_and_an_unknown_name_is_an_error() -> None:
    context = Context()
    for spelled in ("quantize-dynamic{skip=MatMul_?}", "quantize-dynamic{skip=Mat*}"):
        _, (step,) = Pipeline(parse_passes(spelled)).run(two_products(), context)
        assert step.coverage.changed == 0
    with pytest.raises(UsageError, match=r"is to skip 'MatMul_3'.*did you mean 'MatMul_"):
        Pipeline(parse_passes("quantize-dynamic{skip=MatMul_3}")).run(two_products(), context)


def test_a_compile_says_what_was_lost_where_and_what_to_revert(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    labels = {"x": samples, "labels": np.zeros(40, np.int64)}
    recipe = "quantize-dynamic{minimum=1,prefer=size}"
    artifact = compile(
        make_model(),
        calibration={"x": samples},
        labels=labels,
        recipe=recipe,
        measure=False,
        output=tmp_path / "out",
    )
    report = artifact.report
    assert report is not None
    (step,) = [s for s in report.steps if s.name == NAME]
    assert [(o.output, o.samples) for o in step.outputs] == [("y", 4)]
    assert 0 < step.outputs[0].error < 0.1
    assert step.metric == report.metric
    assert {row.measured_on for row in report.damage} == {"held-out data"}
    data = report.to_json()
    first = dict(zip(data["layers"]["columns"], data["layers"]["rows"][0], strict=True))
    assert first["sqnr"] == pytest.approx(-20 * np.log10(first["error"]), rel=1e-4)
    assert first["predicted_loss"] == pytest.approx(first["error"] ** 2, rel=1e-4)
    text = str(report)
    assert "on 4 held-out samples, the metric from" in text
    assert "Damage by layer on held-out data, worst first" in text
    spelled = data["revert_first"][0]["recipe"]
    assert spelled in " ".join(text.split())
    again = compile(
        make_model(),
        calibration={"x": samples},
        recipe=spelled.split("'")[1],
        measure=False,
        output=tmp_path / "again",
    )
    assert again.report is not None
    assert data["revert_first"][0]["site"] not in {row.site for row in again.report.damage}
