"""Small models with random weights, one per architecture: what the sweep captures and compiles."""

from whet.tools.sweep.zoo.architecture import Architecture, Sample, rebind
from whet.tools.sweep.zoo.catalogue import architecture, architectures
from whet.tools.sweep.zoo.lengthened import at_length

__all__ = ["Architecture", "Sample", "architecture", "architectures", "at_length", "rebind"]
