"""Drop, merge and prune experts of a small trained mixture, against random choices.

``python -m whet.tools.bench.experts`` trains mixtures of 8 experts on scikit-learn's handwritten digits, a few seconds
each, and prints bytes and accuracy for a quarter and a half of what could go.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import onnx_ir
from rich.console import Console
from rich.table import Table

from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.ir.values import Array, weight_bytes
from whet.passes.experts.drop_experts import DropExperts
from whet.passes.experts.expert_pass import ExpertPass
from whet.passes.experts.merge_experts import MergeExperts
from whet.passes.experts.prune_experts import PruneExperts
from whet.passes.workbench import Context, Workbench
from whet.tools.bench.experts_model import moe_model, random_weights

__all__ = ["Digits", "accuracy", "compress", "main", "train"]

EXPERTS, UNITS, WIDTH, K = 8, 32, 32, 2
RATIOS = (0.25, 0.5)


class Digits:
    """Scikit-learn's digits, 0..1: a part to train on and to compress with, a part to judge by."""

    def __init__(self, seed: int = 0) -> None:
        """Shuffle."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(images))
        self.images: Array = (images[order] / 16).astype(np.float32)
        self.labels: Array = labels[order]

    def part(self, name: str) -> tuple[Array, Array]:
        """Return images and labels: ``train``, ``test``."""
        cut = slice(0, 1200) if name == "train" else slice(1200, None)
        return self.images[cut], self.labels[cut]


def train(digits: Digits, seed: int = 0, steps: int = 600) -> dict[str, Array]:
    """Train the weights of :func:`moe_model` by Adam, with the usual loss that balances the router."""
    import torch
    from torch.nn.functional import cross_entropy, one_hot, silu

    torch.manual_seed(seed)
    drawn = random_weights(EXPERTS, UNITS, WIDTH, seed=seed, inputs=64, outputs=10)
    weights = {n: torch.from_numpy(a).requires_grad_() for n, a in drawn.items()}
    images, labels = (torch.from_numpy(a) for a in digits.part("train"))
    optimizer = torch.optim.Adam(list(weights.values()), 3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(0, len(images), (128,), generator=generator)
        states = images[rows] @ weights["wi"]
        scores = (states @ weights["wr"].T).softmax(1)
        top, chosen = scores.topk(K)
        top = top / top.sum(1, keepdim=True)
        gate, up = torch.einsum("tkoi,ti->tko", weights["gu"][chosen], states).chunk(2, 2)
        answers = torch.einsum("tkoi,tki->tko", weights["dn"][chosen], silu(gate) * up)
        logits = (states + (top[:, :, None] * answers).sum(1)) @ weights["wo"]
        share = one_hot(chosen, EXPERTS).float().mean((0, 1))
        loss = cross_entropy(logits, labels[rows]) + 0.01 * EXPERTS * (share * scores.mean(0)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch declares no types here
        optimizer.step()
    return {name: weight.detach().numpy() for name, weight in weights.items()}


def accuracy(model: onnx_ir.Model, digits: Digits) -> float:
    """Return the share of test digits that are read correctly."""
    images, labels = digits.part("test")
    (logits,) = Executor(onnx_ir.to_proto(model)).run({"x": images})
    return float((logits.argmax(1) == labels).mean())


def compress(
    weights: dict[str, Array], step: ExpertPass, digits: Digits, seed: int = 0
) -> onnx_ir.Model:
    """Return the model after one pass; raises RuntimeError where it changed nothing."""
    model = moe_model(weights, K)
    images, _ = digits.part("train")
    feeds = tuple({"x": images[k : k + 64]} for k in (0, 64, 128, 192))
    bindings = Bindings(({"N": 2}, {"N": 5}))
    held = ({"x": images[256:384]},)
    work = Workbench(model, step, Context(bindings, calibration=feeds, held_out=held, seed=seed))
    step.apply(work)
    if not work.coverage.changed:
        raise RuntimeError(f"{step} changed nothing: {work.coverage.nearest_miss}")
    return model


def rows(ratio: float) -> list[tuple[str, ExpertPass, ExpertPass]]:
    """Return what is compared: a name, the pass, and the pass with a random choice."""
    every = 1e9
    return [
        (
            "drop-experts",
            DropExperts(ratio=ratio, limit=every),
            DropExperts(ratio=ratio, choice="random", limit=every),
        ),
        (
            "merge-experts",
            MergeExperts(ratio=ratio, limit=every),
            MergeExperts(ratio=ratio, choice="random", limit=every),
        ),
        (
            "prune-experts",
            PruneExperts(ratio=ratio, likelihood="categorical", limit=every),
            PruneExperts(ratio=ratio, score="random", limit=every),
        ),
        (
            "prune-experts, activations",
            PruneExperts(ratio=ratio, score="activation", limit=every),
            PruneExperts(ratio=ratio, score="random", limit=every),
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train some models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=5, help="models, and random choices, to average over"
    )
    seeds = range(parser.parse_args(arguments).seeds)
    digits = Digits()
    trained = [train(digits, seed) for seed in seeds]
    whole = [moe_model(weights, K) for weights in trained]
    table = Table(title="experts of a mixture that reads digits")
    for column in ("pass", "ratio", "bytes", "accuracy", "at random"):
        table.add_column(column, justify="left" if column == "pass" else "right")
    before = np.mean([accuracy(model, digits) for model in whole])
    table.add_row("none", "", "1.000x", f"{before:.4f}", "")
    size = weight_bytes(whole[0])
    for ratio in RATIOS:
        for name, step, random in rows(ratio):
            chosen = [compress(w, step, digits, s) for s, w in enumerate(trained)]
            drawn = [compress(w, random, digits, s) for s, w in enumerate(trained)]
            good, bad = (np.mean([accuracy(m, digits) for m in part]) for part in (chosen, drawn))
            share = f"{weight_bytes(chosen[0]) / size:.3f}x"
            table.add_row(name, f"{ratio:g}", share, f"{good:.4f}", f"{bad:.4f}")
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
