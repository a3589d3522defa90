from __future__ import annotations

import importlib.util

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from whet.errors import UsageError  # noqa: E402
from whet.tools.sweep.zoo import architecture, architectures, rebind  # noqa: E402
from whet.tools.sweep.zoo.check import TOLERANCE, bindings, check  # noqa: E402
from whet.tools.sweep.zoo.torchvision_ops import declare  # noqa: E402

NEEDS_TIMM = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("timm", "torchvision", "PIL")),
    reason="timm, torchvision or pillow is not installed",
)
FAST = ["bert", "swin", "unet", pytest.param("resnet18", marks=NEEDS_TIMM)]
EXPECTED = """bert roberta distilbert electra deberta-v2 mpnet t5-encoder t5-decoder bloom mpt gpt2
gpt-neox llama mistral qwen2 qwen3 gemma phi opt mixtral whisper-encoder vit deit swin swinv2 beit
clip convnext resnet mobilenetv3_small_050 efficientnet_b0 densenet121 regnety_002 unet detr
wav2vec2 segformer mobilevit levit_128s lstm-tagger tcn"""


def test_names_are_unique_and_many():
    names = [each.name for each in architectures()]
    assert len(set(names)) == len(names) >= 44
    assert set(EXPECTED.split()) <= set(names)


def test_order_is_fixed():
    assert [each.name for each in architectures()] == [each.name for each in architectures()]
    assert {each.source for each in architectures()} == {"transformers", "timm", "torch"}


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="'robertta': did you mean 'roberta'"):
        architecture("robertta")


@pytest.mark.parametrize("name", FAST)
def test_two_builds_are_identical(name: str):
    before = torch.get_rng_state()
    first, second = architecture(name).build(), architecture(name).build()
    assert torch.equal(before, torch.get_rng_state())
    weights, again = first.module.state_dict(), second.module.state_dict()
    assert list(weights) == list(again)
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert all(
        torch.equal(a, b) for (a, _), (b, _) in zip(first.axes(), second.axes(), strict=True)
    )
    assert not first.module.training


@pytest.mark.parametrize("name", FAST)
def test_no_weight_is_trivial(name: str):
    module = architecture(name).build().module
    state = {key: value for key, value in module.state_dict().items() if value.is_floating_point()}
    constant = [key for key, value in state.items() if value.numel() > 1 and value.std() == 0]
    assert not constant
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("name", FAST)
def test_outputs_follow_a_rebound_batch(name: str):
    sample = architecture(name).build()
    assert "batch" in sample.dimensions()
    for batch in (1, 3):
        outputs = sample.run(rebind(sample, {"batch": batch}))
        assert {output.shape[0] for output in outputs} == {batch}
        assert all(bool(output.isfinite().all()) for output in outputs)


def test_rebinding_repeats_the_example():
    sample = architecture("bert").build()
    inputs = rebind(sample, {"batch": 3, "sequence": 25})
    assert isinstance(inputs, dict)
    assert isinstance(sample.inputs, dict)
    ids, example = inputs["input_ids"], sample.inputs["input_ids"]
    assert ids.shape == (3, 25)
    assert torch.equal(ids[:2, :24], example)
    assert torch.equal(ids[2, :24], example[0])
    assert torch.equal(ids[:2, 24], example[:, 0])


def test_rebinding_refuses_an_unknown_dimension():
    with pytest.raises(UsageError, match=r"'bach' is not dynamic here: dynamic are \['batch'\]"):
        rebind(architecture("unet").build(), {"bach": 3})


def test_bindings_cover_the_example_a_larger_size_and_one():
    example = {"batch": 2, "sequence": 12}
    larger, single = {"batch": 3, "sequence": 13}, {"batch": 1, "sequence": 12}
    assert bindings(architecture("lstm-tagger").build()) == [example, larger, single]


def test_check_accepts_a_network_that_exports():
    row = check("unet")
    assert not row.failure
    assert row.error <= TOLERANCE
    assert row.nodes > 20


def test_check_reports_what_went_wrong():
    assert "did you mean 'unet'" in check("unett").failure


@NEEDS_TIMM
def test_declaring_twice_changes_nothing():
    declare()
    declared = torch.ops.torchvision.nms.default._schema
    declare()
    assert torch.ops.torchvision.nms.default._schema == declared
