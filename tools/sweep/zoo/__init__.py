"""Small models with random weights, one per architecture: what the sweep captures and compiles."""

from whet.tools.sweep.zoo.architecture import Architecture, Sample, rebind
from whet.tools.sweep.zoo.catalogue import architecture, architectures

__all__ = ["Architecture", "Sample", "architecture", "architectures", "rebind"]
