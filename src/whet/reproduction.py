"""The command that repeats a compile."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

from whet.backends.device import Device
from whet.options import Data, Options

__all__ = ["reproduce"]

_FLAGS = {
    "target": "--target",
    "device": "--device",
    "triple": "--triple",
    "minimize": "--minimize",
    "candidates": "--candidates",
    "loss": "--loss",
    "workers": "--workers",
    "search_minutes": "--search-minutes",
    "tune": "--tune",
    "threads": "--threads",
    "max_ram": "--max-ram",
    "optimization": "--optimization",
    "seed": "--seed",
}
_SWITCHES = {"prove": ("--no-verify", False), "measure": ("--no-measure", False),
             "allow_noop": ("--allow-noop", True)}  # fmt: skip


def reproduce(
    source: str, data: Mapping[str, Data | None], options: Options, output: Path | None
) -> str:
    """Spell the compile of ``source`` for a shell; ``…`` stands for what was an object of a program and has no name.

    ``data`` are the files by option: ``--calibration``, ``--labels``.
    """
    words = ["whet", "compile", source, "-o", str(output) if output is not None else "out"]
    if str(options.recipe) != "auto":
        words += ["--recipe", str(options.recipe)]
    for flag, given in data.items():
        if given is not None:
            words += [flag, str(given) if isinstance(given, str | Path) else "…"]
    for name, limit in dataclasses.asdict(options.budget).items():
        if limit is not None:
            words += [f"--{name}", str(limit)]
    default = Options()
    for name, flag in _FLAGS.items():
        if getattr(options, name) != getattr(default, name):
            value = getattr(options, name)
            words += [flag, "…" if isinstance(value, Device) else str(value)]
    words += [flag for name, (flag, value) in _SWITCHES.items() if getattr(options, name) is value]
    for start in options.start:
        words += ["--start", start]
    for key, size in options.sizes.items():
        words += ["--bind", f"{key}={size}"]
    for key, entry in options.session.items():
        words += ["--session", f"{key}={entry}"]
    return " ".join(word if word == "…" else shlex.quote(word) for word in words)
