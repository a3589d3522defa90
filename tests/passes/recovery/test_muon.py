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
    assert cosine > 0.98


def test_steps_are_as_large_as_those_of_adam() -> None:
    matrix = torch.nn.Parameter(drawn(8, 2, 3, 3))
    before = matrix.detach().clone()
    optimizer = Muon([matrix])
    optimizer.param_groups[0]["lr"] = 0.01
    (matrix * drawn(8, 2, 3, 3)).sum().backward()
    optimizer.step()
    moved = (matrix.detach() - before).square().mean().sqrt()
    assert float(moved) == pytest.approx(0.2 * 0.01 * math.sqrt(18) / math.sqrt(18), rel=0.3)


def test_it_fits_what_is_badly_scaled_sooner_than_adam() -> None:
    """Inputs whose scales differ a thousandfold: all directions are learned at one speed."""
    x = drawn(256, 16) @ torch.diag(torch.logspace(0, -3, 16)) @ torch.linalg.qr(drawn(16, 16))[0]
    truth, shift = drawn(16, 12), drawn(12)
    wanted = x @ truth + shift
    losses = {}
    for kind in (Muon, torch.optim.Adam):
        weight, bias = (torch.nn.Parameter(torch.zeros(*s)) for s in ((16, 12), (12,)))
        optimizer = kind([weight, bias])
        for step in range(300):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
            optimizer.zero_grad()
            loss = (x @ weight + bias - wanted).square().mean()
            loss.backward()
            optimizer.step()
        losses[kind] = float(loss.detach())
    assert losses[Muon] < losses[torch.optim.Adam]


def test_what_has_no_slope_stays() -> None:
    still, moved = torch.nn.Parameter(drawn(3, 4)), torch.nn.Parameter(drawn(3, 4))
    before = still.detach().clone()
    optimizer = Muon([still, moved])
    optimizer.param_groups[0]["lr"] = 0.1
    moved.sum().backward()
    optimizer.step()
    assert torch.equal(still.detach(), before)
