"""Measure int8 against float32 and against ONNX Runtime's own quantizer: size, agreement, milliseconds."""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from whet.tools.bench.arguments import argument_parser
from whet.tools.bench.quantization.minilm import minilm
from whet.tools.bench.quantization.ngswin import ngswin
from whet.tools.bench.quantization.resnet import resnet8, resnet20
from whet.tools.bench.quantization.rlfn import rlfn

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per model and shape; what needs data that are not there is skipped with the reason."""
    parser = argument_parser(__doc__)
    parser.add_argument("--only", choices=["resnet20", "resnet8", "rlfn", "ngswin", "minilm"])
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        jobs: dict[str, Callable[[], Iterator[str]]] = {
            "resnet20": lambda: resnet20(options.assets, Path(folder), options.threads),
            "resnet8": lambda: resnet8(options.assets, Path(folder), options.threads),
            "rlfn": lambda: rlfn(options.assets, Path(folder), options.threads),
            "ngswin": lambda: ngswin(options.assets, Path(folder), options.threads),
            "minilm": lambda: minilm(options.assets, Path(folder), options.threads),
        }
        for name, job in jobs.items():
            if options.only not in (None, name):
                continue
            for line in _or_skipped(name, job):
                print(line, flush=True)
                lines.append(line)
    if options.json is not None:
        options.json.write_text(json.dumps(lines, indent=1) + "\n")
    return 0


def _or_skipped(name: str, job: Callable[[], Iterator[str]]) -> Iterator[str]:
    try:
        yield from job()
    except (FileNotFoundError, ImportError) as error:
        yield f"{name}: skipped: {error}"
