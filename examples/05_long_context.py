"""Compile a long-context model with ALiBi: its bias becomes two small factors where that is faster.

``python examples/05_long_context.py --length 2048``. ALiBi adds ``slope_h (j - i)`` to the scores of query i and key
j. Written down, that is a tensor of queries times keys for every head, which the runtime's fast kernels do not take
and which must be made, held and read: 134 MB for 8 heads and 2,048 tokens. But slope (j - i) is a sum of a function
of the query and one of the key,

    softmax(q k'/s + u v') = softmax([u, q/s] [v, k]')

so that two more columns on queries and keys say the same, and no such tensor exists. The pass factor-bias sees that
in the graph by meaning, whoever exported it. Whether it pays depends on the length, and is measured: compare 256 with
2,048.

The weights are random: what is shown here depends on positions only.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

import whet

HEADS, SIZE = 8, 32


class Layer(nn.Module):
    """Causal attention with ALiBi, and a feed-forward part."""

    def __init__(self) -> None:
        """The slopes are those of the paper: a geometric series."""
        super().__init__()
        width = HEADS * SIZE
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.packed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        slopes = 2.0 ** (-8.0 * torch.arange(1, HEADS + 1) / HEADS)
        self.register_buffer("slopes", slopes.view(HEADS, 1, 1))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map [batch, length, width] to the same."""
        batch, length, width = states.shape
        parts = self.packed(self.before(states)).view(batch, length, 3, HEADS, SIZE)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        place = torch.arange(length)
        bias = self.slopes * (place[None, :] - place[:, None])
        future = place[None, :] > place[:, None]
        bias = bias.masked_fill(future, float("-inf"))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        states = states + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return states + self.feed(self.between(states))


class LongContext(nn.Module):
    """Two layers between an embedding and scores of the next token."""

    def __init__(self) -> None:
        """There are no position embeddings: ALiBi is all that the model knows of order."""
        super().__init__()
        self.embed = nn.Embedding(1000, HEADS * SIZE)
        self.layers = nn.Sequential(Layer(), Layer())
        self.leave = nn.Linear(HEADS * SIZE, 1000)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Map token ids [batch, length] to scores [batch, length, 1000]."""
        return self.leave(self.layers(self.embed(input_ids)))


def main() -> None:
    """Compile at a length; say what became of the bias."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--output", type=Path, default=Path("out/alibi"))
    options = parser.parse_args()
    console = Console(width=100)
    torch.manual_seed(0)
    tokens = torch.randint(0, 1000, (1, options.length))

    # `sizes` says at which length prices are measured and the whole is timed. The length stays free: the artifact
    # runs at any, and every rewrite is proven at two. The recipe is `exact`, so nothing is lost but the order of
    # floating-point sums.
    artifact = whet.compile(
        LongContext().eval(),
        (tokens,),
        dynamic_shapes=({1: "length"},),
        sizes={"length": options.length},
        recipe="exact",
        output=options.output,
    )
    artifact.report.print(console)

    # Below the break-even length the pass declines, and says from where on it would pay: that too is an answer.
    (step,) = (s for s in artifact.report.steps if s.name == "factor-bias")
    changed, matched = step.coverage.changed, step.coverage.matched
    console.print(
        f"\nfactor-bias: {changed} of {matched} attentions factored at {options.length} tokens"
    )
    for reason in sorted(set(step.coverage.declined.values())):
        console.print(f"  declined: {reason}")


if __name__ == "__main__":
    main()
