import math

import pytest

torch = pytest.importorskip("torch")
from whet.passes.recovery.muon import Muon, orthogonal  # noqa: E402


def drawn(*shape: int) -> "torch.Tensor":
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5), (160, 200)])
def test_the_factor_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    u, _, v = torch.linalg.svd(drawn(*shape), full_matrices=False)
    matrix = (u * torch.linspace(1, 3, len(v))) @ v
    factor = orthogonal(matrix)
    values = torch.linalg.svdvals(factor)
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    truth = u @ v
    cosine = float((factor * truth).sum() / factor.norm() / truth.norm())
    assert cosine > 0.96


def test_steps_are_as_large_as_those_of_adam() -> None:
    matrix = torch.nn.Parameter(drawn(8, 2, 3, 3))
    before = matrix.detach().clone()
    optimizer = Muon([matrix])
    optimizer.param_groups[0]["lr"] = 0.01
    (matrix * drawn(8, 2, 3, 3)).sum().backward()
    optimizer.step()
    moved = (matrix.detach() - before).square().mean().sqrt()
    assert float(moved) == pytest.approx(0.2 * 0.01 * math.sqrt(18) / math.sqrt(18), rel=0.3)


def test_it_fits_a_linear_map() -> None:
    x, truth, shift = drawn(256, 16, 1)[..., 0], drawn(16, 12), drawn(12)
    wanted = x @ truth + shift
    weight, bias = (torch.nn.Parameter(torch.zeros(*s)) for s in ((16, 12), (12,)))
    optimizer = Muon([weight, bias])
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 200)
        optimizer.zero_grad()
        loss = (x @ weight + bias - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-3 * float(wanted.square().mean())


def test_what_has_no_slope_stays() -> None:
    still, moved = torch.nn.Parameter(drawn(3, 4)), torch.nn.Parameter(drawn(3, 4))
    before = still.detach().clone()
    optimizer = Muon([still, moved])
    optimizer.param_groups[0]["lr"] = 0.1
    moved.sum().backward()
    optimizer.step()
    assert torch.equal(still.detach(), before)
