"""What every benchmark on real models takes."""

import argparse
from pathlib import Path

__all__ = ["argument_parser"]


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with ``--assets``, ``--threads`` and ``--json``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--assets", type=Path, default=Path("../shared/assets"), help="a folder of models and data"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="store what was measured in this file")
    return parser
