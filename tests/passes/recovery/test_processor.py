import pytest

from whet.passes.recovery.processor import multiplies_bfloat16

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("known", "fast"),
    [
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True}, True),
        ({"avx512_f": True}, False),
        ({}, False),
    ],
)
def test_only_what_the_processor_multiplies(known, fast, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert multiplies_bfloat16() is fast
