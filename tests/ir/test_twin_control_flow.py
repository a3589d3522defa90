"""If, Loop and Scan run, capture outer values, and let gradients through."""

import onnx_ir
import pytest

torch = pytest.importorskip("torch")
twin_package = pytest.importorskip("whet.ir.twin")

IF = """
<ir_version: 8, opset_import: ["": 17]>
choose (bool flag, float[2] x) => (float[2] y)
  <float[2] w = {2.0, 3.0}>
{
  y = If (flag) <
    then_branch = t () => (float[2] a) { a = Mul (x, w) },
    else_branch = e () => (float[2] b) <float[2] inner = {10.0, 20.0}> { b = Add (x, inner) }
  >
}
"""

LOOP = """
<ir_version: 8, opset_import: ["": 17]>
power (int64 n, float[2] x) => (float[2] last, float[k, 2] all)
  <float[2] w = {2.0, 3.0}>
{
  go = Constant <value_int = 1> ()
  yes = Cast <to = 9> (go)
  last, all = Loop (n, yes, x) <
    body = b (int64 i, bool c, float[2] s) => (bool c2, float[2] s2, float[2] shown) {
      c2 = Identity (c)
      s2 = Mul (s, w)
      shown = Identity (s2)
    }
  >
}
"""

SCAN = """
<ir_version: 8, opset_import: ["": 17]>
running (float[1] start, float[n, 1] xs) => (float[1] total, float[n, 1] sums)
  <float[1] w = {0.5}>
{
  total, sums = Scan (start, xs) <num_scan_inputs = 1,
    body = b (float[1] s, float[1] x) => (float[1] s2, float[1] y) {
      scaled = Mul (x, w)
      s2 = Add (s, scaled)
      y = Identity (s2)
    }
  >
}
"""


def test_if_runs_the_chosen_branch() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(IF))
    x = torch.tensor([1.0, 1.0])
    assert twin(torch.tensor(True), x)[0].tolist() == [2.0, 3.0]
    assert twin(torch.tensor(False), x)[0].tolist() == [11.0, 21.0]


def test_if_trains_only_what_the_branch_uses() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(IF))
    parameters = dict(twin.named_parameters())
    assert set(parameters) == {"w", "inner"}
    twin(torch.tensor(True), torch.tensor([1.0, 4.0]))[0].sum().backward()
    assert parameters["w"].grad.tolist() == [1.0, 4.0]
    assert parameters["inner"].grad is None


def test_loop_carries_state_and_stacks() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(LOOP))
    last, every = twin(torch.tensor(3), torch.tensor([1.0, 1.0]))
    assert last.tolist() == [8.0, 27.0]
    assert every.tolist() == [[2.0, 3.0], [4.0, 9.0], [8.0, 27.0]]


def test_loop_gradient_is_that_of_the_product() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(LOOP))
    twin(torch.tensor(3), torch.tensor([1.0, 1.0]))[0].sum().backward()
    assert dict(twin.named_parameters())["w"].grad.tolist() == [12.0, 27.0]


def test_scan_accumulates() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(SCAN))
    total, sums = twin(torch.tensor([1.0]), torch.tensor([[2.0], [4.0], [6.0]]))
    assert total.tolist() == [7.0]
    assert sums.tolist() == [[2.0], [4.0], [7.0]]
    total.sum().backward()
    assert dict(twin.named_parameters())["w"].grad.tolist() == [12.0]


def test_values_in_subgraphs_follow_the_wanted_type() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(LOOP), dtype=torch.float64)
    last, every = twin(torch.tensor(2), torch.tensor([1.0, 1.0]))
    assert last.dtype is every.dtype is torch.float64
