"""Build the documentation: ``python -m whet.tools.docs --output build/site``.

Pages that are written lie in ``docs/``; those of passes, of the interface and of the command line are made from the
code. Broken links are errors. It takes the extra ``docs``.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from whet.tools.docs.site import assemble, pages

__all__ = ["main", "run_mkdocs"]

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Assemble the pages, and turn them into a site."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/site"))
    parser.add_argument(
        "--pages", type=Path, default=Path("build/pages"), help="where they are assembled"
    )
    parser.add_argument(
        "--serve", action="store_true", help="show the site on this machine instead"
    )
    options = parser.parse_args(argv)
    config = assemble(pages(ROOT), options.pages, options.output)
    return run_mkdocs(config, "serve" if options.serve else "build")


def run_mkdocs(config: Path, action: str) -> int:
    """Build the site, where a warning is an error, or serve it; return the exit code."""
    strict = ["--strict", "--quiet"] if action == "build" else []
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", action, *strict]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    words = [*command, "--config-file", str(config)]
    return subprocess.run(words, check=False, env=quiet).returncode


if __name__ == "__main__":
    sys.exit(main())
