"""Slice the residual stream of a small Llama: share of channels deleted against outputs, perplexity and bytes.

``python -m whet.tools.bench.slicing`` needs ``stories260k`` in the folder of models and data (``--assets``). A share of
0 only rotates. The first rows of tokens calibrate, others judge; the model was trained on such text: take the
differences, not the values.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.errors import NothingChanged
from whet.ir.values import Array
from whet.tools.bench.arguments import argument_parser
from whet.tools.bench.structure.command import file_bytes, made
from whet.tools.bench.structure.subjects import Subject, stories

__all__ = ["main"]

_SHARES = (0.0, 0.125, 0.25, 0.375, 0.5)
_JUDGED = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per share, with axes for every block and with the same axes everywhere."""
    parser = argument_parser(__doc__)
    parser.add_argument("--shares", type=float, nargs="*", default=list(_SHARES))
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    if not (options.assets / "stories260k").is_dir():
        print(f"skipped: no folder '{options.assets / 'stories260k'}'")
        return 0
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        subject = stories(options.assets, Path(folder), options.threads)
        for line in _lines(subject, options.shares, Path(folder), options.threads):
            print(line, flush=True)
            lines.append(line)
    if options.json is not None:
        options.json.write_text(json.dumps(lines, indent=1) + "\n")
    return 0


def _lines(subject: Subject, shares: Sequence[float], place: Path, threads: int) -> Iterator[str]:
    source = made("exact", {}, subject, place, threads)
    wanted = _outputs(source, subject, threads)
    yield f"{'source':28} {file_bytes(source):,} bytes, perplexity {subject.metric(source):.4f}"
    for shared in (False, True):
        for share in shares:
            name = f"{share:.1%}{', shared axes' if shared else ''}"
            step = {"share": share, "shared": shared, "untie": True, "limit": 10.0}
            try:
                path = made(name, {"slice-residual": step}, subject, place, threads)
            except NothingChanged as reason:
                yield f"{name:28} {reason}"
                continue
            gap = np.linalg.norm(np.subtract(_outputs(path, subject, threads), wanted))
            size = file_bytes(path)
            yield (
                f"{name:28} {size:,} bytes, {size / file_bytes(source):.3f}x, outputs change by "
                f"{gap / np.linalg.norm(wanted):.2e}, perplexity {subject.metric(path):.4f}"
            )


def _outputs(path: Path, subject: Subject, threads: int) -> Array:
    feeds = {name: array[:_JUDGED] for name, array in subject.calibration.items()}
    with Worker(path, RuntimeOptions(threads)) as worker:
        return np.asarray(worker.run(feeds)[0], np.float64)


if __name__ == "__main__":
    raise SystemExit(main())
