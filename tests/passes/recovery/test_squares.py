import pytest

torch = pytest.importorskip("torch")
from whet.passes.recovery.squares import squared, squared_distance  # noqa: E402


def drawn(dtype: "torch.dtype", *shape: int) -> "torch.Tensor":
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_value_and_slope_are_those_of_the_formula(dtype: "torch.dtype") -> None:
    found, wanted = drawn(dtype, 7, 5).requires_grad_(), drawn(torch.float32, 5).repeat(7, 1)
    made = 3 * squared_distance(found, wanted)
    made.backward()
    plain = found.detach().double().requires_grad_()
    truth = 3 * (plain - wanted.to(dtype).double()).square().sum()
    truth.backward()
    near = 1e-2 if dtype.itemsize == 2 else 1e-5
    assert float(made.detach()) == pytest.approx(float(truth.detach()), rel=near)
    assert found.grad is not None
    assert plain.grad is not None
    assert found.grad.dtype == dtype
    torch.testing.assert_close(found.grad.double(), plain.grad, rtol=near, atol=near)


def test_half_precision_does_not_overflow() -> None:
    assert float(squared(torch.full((64,), 60000.0, dtype=torch.float16))) == pytest.approx(
        64 * 60000.0**2, rel=1e-3
    )
