"""ONNX's own tests and the model collections: canonicalized with the same outputs, or refused with a reason."""

import os
from pathlib import Path

import pytest

from whet.tools.sweep.corpus import Outcome, State, onnx_test_models, run_corpus

PARTS = 4
SHARED = Path(os.environ.get("WHET_SHARED", Path(__file__).parents[3] / "shared")) / "assets"


def check(outcomes: list[Outcome], least_same: float) -> None:
    bad = [o for o in outcomes if o.state in {State.WRONG, State.CRASHED}]
    assert not bad, "\n".join(f"{o.state.name} {o.name}: {o.detail}" for o in bad)
    assert all(o.detail for o in outcomes if o.state is State.REFUSED)
    same = sum(o.state is State.SAME for o in outcomes)
    assert same >= least_same * len(outcomes)


@pytest.fixture(scope="session")
def onnx_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return onnx_test_models(tmp_path_factory.mktemp("onnx"))


@pytest.mark.parametrize("part", range(PARTS))
def test_onnx_backend_tests(onnx_models: list[Path], part: int) -> None:
    check(list(run_corpus(onnx_models[part::PARTS])), 0.95)


@pytest.mark.parametrize("part", range(PARTS))
def test_shared_models(part: int) -> None:
    paths = [p for p in sorted(SHARED.rglob("*.onnx")) if p.stat().st_size < 1 << 21]
    if not paths:
        pytest.skip(f"no models below {SHARED}")
    check(list(run_corpus(paths[part::PARTS])), 0.5)
