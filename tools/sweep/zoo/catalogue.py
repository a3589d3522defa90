"""The list of all architectures."""

from __future__ import annotations

import difflib

from whet.errors import UsageError
from whet.tools.sweep.zoo import (
    audio,
    biased,
    convnets,
    decoders,
    encoders,
    own,
    vision_transformers,
)
from whet.tools.sweep.zoo.architecture import Architecture


def architectures() -> tuple[Architecture, ...]:
    """Return every architecture, family by family, always in the same order."""
    return (
        *encoders.ARCHITECTURES,
        *decoders.ARCHITECTURES,
        *vision_transformers.ARCHITECTURES,
        *convnets.ARCHITECTURES,
        *audio.ARCHITECTURES,
        *own.ARCHITECTURES,
        *biased.ARCHITECTURES,
    )


def architecture(name: str) -> Architecture:
    """Return the architecture called ``name``."""
    by_name = {candidate.name: candidate for candidate in architectures()}
    if name in by_name:
        return by_name[name]
    close = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)
    raise UsageError(f"no architecture is called {name!r}: did you mean {close[0]!r}?")
