"""The type of every array, in a module that costs no import."""

import numpy as np

__all__ = ["Array"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
