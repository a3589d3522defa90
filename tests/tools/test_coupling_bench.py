"""The bench removes random groups from architectures of the zoo."""

import pytest
from pruning import feeds_of, graph

from whet.analysis.coupling import Coupled
from whet.passes.sparsity.prune_copying import Masking, Shrinking
from whet.tools.bench import coupling


def test_an_architecture_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    """One architecture, one seed, three ratios; the table tells groups, weights left and agreement."""
    assert coupling.main(["unet", "--seeds", "1"]) == 0
    told = capsys.readouterr().out
    assert "320 channels" in told
    assert "3 of 3 removals agree" in told


def test_a_failure_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What goes wrong is a line of the table, and the exit code says so."""

    def fail(name: str) -> None:
        raise RuntimeError(f"no {name} today")

    monkeypatch.setattr(coupling, "_model", fail)
    assert coupling.main(["unet", "--seeds", "1"]) == 1
    assert "RuntimeError: no unet today" in " ".join(capsys.readouterr().out.split())


def test_the_same_groups_go() -> None:
    """A seed means the same removal for either kind, and no axis is left empty."""
    first, second = (Coupled(graph("dense").graph) for _ in range(2))
    gone = coupling.some_groups(first, 0.9, 3)
    assert gone == coupling.some_groups(second, 0.9, 3)
    assert not first.emptied(gone)
    assert coupling.remove(graph("dense"), Masking, 0.5, 0) == 1
    error, left = coupling.difference(graph("dense"), feeds_of(graph("dense")), 0.5, 0)
    assert error < coupling.LIMIT
    assert 0.1 < left < 0.6
    assert coupling.remove(graph("experts"), Shrinking, 0.0, 0) == 0
