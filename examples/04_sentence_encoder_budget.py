"""Give a sentence encoder a budget: all-MiniLM-L6-v2 in a third of its bytes, as close to itself as can be.

``python examples/04_sentence_encoder_budget.py`` takes some minutes. Example 01 asks for whatever is faster; here it
is said how large the result may be, and whet finds what to do with each layer: which stays, which gets eight bits,
which four.

A search needs two things. *Data*: sentences as the model will see them; here the documentation strings of Python's
own library, since those are on every machine. And a *metric*: here the cosine between an embedding and the one that
PyTorch computes, a number for each sentence, from which whet also knows how sure it is.
"""

import argparse
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from tokenizers import Tokenizer

import whet

# fmt: off
MODULES = [
    "argparse", "ast", "asyncio", "base64", "calendar", "collections", "contextlib", "csv", "dataclasses",
    "datetime", "decimal", "difflib", "email", "fractions", "ftplib", "functools", "gettext", "glob", "gzip",
    "heapq", "html", "http.client", "imaplib", "inspect", "io", "ipaddress", "itertools", "json", "locale",
    "logging", "mailbox", "math", "mimetypes", "os", "pathlib", "pickle", "platform", "poplib", "pprint",
    "queue", "random", "re", "sched", "secrets", "selectors", "shelve", "shutil", "smtplib", "socket",
    "sqlite3", "ssl", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading",
    "timeit", "tokenize", "traceback", "types", "unittest", "urllib.request", "uuid", "warnings", "wave",
    "weakref", "xml.dom.minidom", "zipfile", "zoneinfo",
]
# fmt: on


def sentences(count: int) -> list[str]:
    """Return the first sentences of documentation strings, in an order that means nothing."""
    found: dict[str, None] = {}
    for name in MODULES:
        for _, thing in inspect.getmembers(importlib.import_module(name)):
            text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
            if re.fullmatch(r"[A-Z][^(){}<>|=]{25,160}\.", text):
                found[text] = None
    rows = sorted(found)
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[k] for k in order[:count]]


def main() -> None:
    """Tokenize, search, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/minilm-budget"))
    parser.add_argument("--size", default="30%")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6, help="fewer make it quick, and wrong")
    options = parser.parse_args()
    console = Console(width=100)

    example = importlib.import_module("01_sentence_encoder")
    folder = example.package()
    encoder = example.SentenceEncoder(folder)
    encoder.bert.encoder.layer = encoder.bert.encoder.layer[: options.layers]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(max_length=32)
    rows = tokenizer.encode_batch(sentences(options.sentences))
    tokens = {
        "input_ids": np.array([row.ids for row in rows]),
        "attention_mask": np.array([row.attention_mask for row in rows]),
    }
    with torch.no_grad():
        targets = encoder(**{name: torch.from_numpy(t) for name, t in tokens.items()}).numpy()

    # The first two thirds of the sentences are for calibration; the others judge. Of those the search sees every
    # second one, and the report is written with the rest: a number that was searched for is too good to be believed.
    border = 2 * len(rows) // 3
    seen = {name: array[:border] for name, array in tokens.items()}
    judge = {name: array[border:] for name, array in {**tokens, "targets": targets}.items()}

    # Candidates are ordinary passes with options. MiniLM's word embeddings are half of its bytes, and a lookup costs
    # no time in any format, so much depends on them. The default list is longer; this one keeps the example short.
    candidates = (
        "quantize-dynamic,quantize-weights{bits=8,prefer=size},"
        "quantize-weights{bits=4,prefer=size,method=nearest}"
    )
    with console.status("starting") as status:
        artifact = whet.compile(
            encoder,
            {name: torch.from_numpy(array[:2]) for name, array in tokens.items()},
            dynamic_shapes={name: {0: "batch", 1: "sequence"} for name in tokens},
            calibration=seen,
            evaluate=whet.evaluate.cosine(judge),
            budget=whet.Budget(size=options.size),
            candidates=candidates,
            search_minutes=options.minutes,
            sizes={"batch": 1, "sequence": 32},
            output=options.output,
            progress=status.update,
        )

    # Look at the decisions: each has what the next larger and the next smaller choice would have cost. And at the
    # interval of the drop, which tells whether a difference means anything on so few sentences.
    artifact.report.print(console)
    (found,) = whet.load(options.output).run(example.tokens(tokenizer, example.SENTENCES))
    order = np.argsort(-(found @ found.T - 2 * np.eye(len(found))), axis=1)[:, 0]
    for sentence, nearest in zip(example.SENTENCES, order, strict=True):
        console.print(f"  {sentence:46} is nearest to  {example.SENTENCES[nearest]}")


if __name__ == "__main__":
    main()
