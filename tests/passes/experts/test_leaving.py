import pytest
from moe import apply, reasons
from operators import operator_model

from whet.ir.sites import SiteKind, find_sites
from whet.passes.registry import make_pass
from whet.tools.bench.experts_model import moe_model, random_weights

OTHERS = (
    "sparsify-weights",
    "prune-structure",
    "quantize-weights",
    "quantize-dynamic",
    "factor-linear",
)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["plain", "operator"])
def test_other_passes_say_that_experts_stay(name: str, kind: str) -> None:
    model = moe_model(random_weights()) if kind == "plain" else operator_model()
    coverage = apply(model, make_pass(name))
    assert "the weights of 4 experts" in reasons(coverage)
    assert "prune-experts work on them" in reasons(coverage)
    assert coverage.matched


def test_what_looks_like_experts_is_a_near_miss() -> None:
    coverage = apply(operator_model(operator="QMoE"), make_pass("quantize-weights"), data=False)
    assert coverage.near_misses == {
        "moe": "perhaps experts: the experts' weights are quantized already"
    }


def test_experts_are_sites() -> None:
    kinds = {site.name: site.kind for site in find_sites(moe_model(random_weights()))}
    assert list(kinds.values()).count(SiteKind.EXPERTS) == 2
    (site,) = [s for s in find_sites(operator_model()) if s.kind is SiteKind.EXPERTS]
    assert site.weights == ("w1", "b1", "w2", "b2")
    assert site.bytes > 0
