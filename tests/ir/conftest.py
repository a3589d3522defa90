import warnings

import onnx
import onnx_ir
import pytest
from onnx.backend.test.loader import load_model_tests


@pytest.fixture(scope="session")
def backend_protos() -> list[onnx.ModelProto]:
    """ONNX's own node tests, without those that hold what onnx_ir cannot (sparse tensors, maps)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # raised by ONNX's case builders
        cases = load_model_tests(kind="node")
    protos = [case.model or onnx.load(f"{case.model_dir}/model.onnx") for case in cases]
    return [proto for proto in protos if _is_supported(proto)]


def _is_supported(proto: onnx.ModelProto) -> bool:
    try:
        onnx_ir.from_proto(proto)
    except onnx_ir.serde.SerdeError:
        return False
    return True
