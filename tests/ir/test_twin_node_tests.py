"""The twin against ONNX's own backend node tests."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from whet.errors import UnsupportedModel

torch = pytest.importorskip("torch")
twin_package = pytest.importorskip("whet.ir.twin")

# Why an operator of the node tests has no twin.
UNSUPPORTED = {
    "ai.onnx.preview.training::Adagrad": "an optimizer's step",
    "ai.onnx.preview.training::Adam": "an optimizer's step",
    "ai.onnx.preview.training::Momentum": "an optimizer's step",
    "ai.onnx.preview::FlexAttention": "a preview; its expanded form is tested",
    "ai.onnx.ml::ArrayFeatureExtractor": "classical machine learning",
    "ai.onnx.ml::Binarizer": "classical machine learning",
    "ai.onnx.ml::LabelEncoder": "classical machine learning",
    "ai.onnx.ml::TreeEnsemble": "classical machine learning",
    "ai.onnx::ImageDecoder": "reads image files",
    "ai.onnx::RegexFullMatch": "strings",
    "ai.onnx::StringConcat": "strings",
    "ai.onnx::StringNormalizer": "strings",
    "ai.onnx::StringSplit": "strings",
    "ai.onnx::TfIdfVectorizer": "strings",
}

# Tests of supported operators with an element type that torch lacks.
LACKING_TYPE = {
    "test_cast_FLOAT4E2M1_to_FLOAT",
    "test_cast_FLOAT4E2M1_to_FLOAT16",
    "test_cast_FLOAT_to_FLOAT4E2M1",
    "test_cast_FLOAT16_to_FLOAT4E2M1",
    "test_castlike_FLOAT4E2M1_to_FLOAT",
    "test_castlike_FLOAT4E2M1_to_FLOAT_expanded",
    "test_castlike_FLOAT4E2M1_to_FLOAT16",
    "test_castlike_FLOAT4E2M1_to_FLOAT16_expanded",
    "test_castlike_FLOAT_to_FLOAT4E2M1",
    "test_castlike_FLOAT_to_FLOAT4E2M1_expanded",
    "test_castlike_FLOAT16_to_FLOAT4E2M1",
    "test_castlike_FLOAT16_to_FLOAT4E2M1_expanded",
    "test_dequantizelinear_float4e2m1",
    "test_quantizelinear_float4e2m1",
    "test_equal_string",
    "test_equal_string_broadcast",
}

# Random values: only the shape and the type can be compared.
RANDOM = {
    "test_bernoulli",
    "test_bernoulli_double",
    "test_bernoulli_double_expanded",
    "test_bernoulli_expanded",
    "test_bernoulli_seed",
    "test_bernoulli_seed_expanded",
    "test_training_dropout",
    "test_training_dropout_default",
    "test_training_dropout_default_mask",
    "test_training_dropout_mask",
}

# (rtol, atol) where the expected values are themselves rounding noise.
LOOSER = {
    "test_attention_4d_causal_fp16": (2e-3, 1e-7),  # sums in float16, two units in the last place
    "test_attention_4d_causal_fp16_expanded": (2e-3, 1e-7),
    "test_dft_inverse": (1e-3, 1e-6),  # expects numpy's 1.9e-7 where the exact value is 0
    "test_dft_inverse_opset19": (1e-3, 1e-6),
}


@dataclass
class Outcome:
    passed: set[str] = field(default_factory=set)
    operators: set[tuple[str, str]] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)
    lacking_type: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    result = Outcome()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, while onnx generates the cases
            cases = load_model_tests(kind="node")
        for case in cases:
            run_case(case, result)
    finally:
        torch.set_num_threads(threads)
    return result


def run_case(case: Any, result: Outcome) -> None:
    model = onnx_ir.from_proto(case.model)
    try:
        twin = twin_package.to_fx(model)
    except UnsupportedModel as error:
        kind = result.unsupported if "no differentiable twin" in str(error) else result.lacking_type
        kind[case.name] = str(error)
        return
    try:
        for inputs, expected in case.data_sets:
            with torch.no_grad():
                actual = twin(*map(to_torch, inputs))
            rtol, atol = LOOSER.get(case.name, (case.rtol, case.atol))
            compare(list(actual), list(expected), rtol, atol, values=case.name not in RANDOM)
    except UnsupportedModel as error:
        result.lacking_type[case.name] = str(error)
        return
    except Exception as error:  # every failure is collected, whatever it is
        result.failed[case.name] = f"{type(error).__name__}: {error}"
        return
    result.passed.add(case.name)
    result.operators |= {(node.domain, node.op_type) for node in model.graph.all_nodes()}


def to_array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def to_torch(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [to_torch(item) for item in value]
    return twin_package.from_numpy(np.asarray(to_array(value)))


def compare(actual: Any, expected: Any, rtol: float, atol: float, *, values: bool) -> None:
    if isinstance(expected, (list, tuple)):
        assert isinstance(actual, (list, tuple))
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            compare(one, other, rtol, atol, values=values)
        return
    if expected is None:
        assert actual is None
        return
    got, wanted = twin_package.to_numpy(actual), in_a_byte(np.asarray(to_array(expected)))
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    if not values:
        return
    if wanted.dtype.name == "bfloat16":
        rtol = max(rtol, 2**-6)  # as ONNX's own runner does
    if wanted.dtype.kind not in "fiub" or wanted.dtype.name.startswith(("bfloat", "float8")):
        got, wanted = got.astype(np.float32), wanted.astype(np.float32)
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol)


def in_a_byte(array: np.ndarray) -> np.ndarray:
    narrow = {"int2": np.int8, "int4": np.int8, "uint2": np.uint8, "uint4": np.uint8}
    return array.astype(narrow.get(array.dtype.name, array.dtype))


def test_every_supported_case_matches(outcome: Outcome) -> None:
    assert outcome.failed == {}


def test_every_unsupported_operator_is_expected(outcome: Outcome) -> None:
    unexplained = {
        name: message
        for name, message in outcome.unsupported.items()
        if not any(kind in message for kind in UNSUPPORTED)
    }
    assert unexplained == {}


def test_every_lacking_type_is_expected(outcome: Outcome) -> None:
    assert set(outcome.lacking_type) - LACKING_TYPE == set()


def test_no_exception_is_stale(outcome: Outcome) -> None:
    assert LACKING_TYPE & outcome.passed == set()
    kinds = {f"{domain or 'ai.onnx'}::{name}" for domain, name in twin_package.supported()}
    assert kinds & set(UNSUPPORTED) == set()


def test_at_least_150_operators_pass(outcome: Outcome) -> None:
    assert len({name for domain, name in outcome.operators if domain == ""}) >= 150
    assert len(outcome.passed) >= 1700
