"""Read PNG images of 8 bits per channel without an imaging library."""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whet.errors import UsageError

__all__ = ["read_png"]

Bytes = NDArray[np.uint8]
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


def read_png(path: Path) -> Bytes:
    """Return ``[height, width, channels]`` of uint8; palettes, 16 bits and interlacing are refused."""
    data = path.read_bytes()
    if not data.startswith(_SIGNATURE):
        raise UsageError(f"'{path}' is not a PNG file")
    header, packed = b"", b""
    place = len(_SIGNATURE)
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + size]
        header = body if kind == b"IHDR" else header
        packed += body if kind == b"IDAT" else b""
        place += size + 12
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or color not in _CHANNELS or interlaced:
        raise UsageError(
            f"'{path}' has depth {depth}, color type {color}; expected 8 bits, no palette"
        )
    channels = _CHANNELS[color]
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + width * channels)
    return _unfiltered(lines, channels).reshape(height, width, channels)


def _unfiltered(lines: Bytes, channels: int) -> Bytes:
    """Add back to each byte what its line's filter predicts it from."""
    out = np.zeros((len(lines), lines.shape[1] - 1), np.uint8)
    above = np.zeros(lines.shape[1] - 1, np.uint8)
    for row, line in enumerate(lines):
        above = out[row] = _line(int(line[0]), line[1:], above, channels)
    return out


def _line(kind: int, raw: Bytes, above: Bytes, step: int) -> Bytes:
    if kind == 0:
        return raw
    if kind == 2:
        return raw + above
    found = [0] * step + raw.tolist()
    up = [0] * step + above.tolist()
    for k in range(step, len(found)):
        left, top, corner = found[k - step], up[k], up[k - step]
        guess = left if kind == 1 else (left + top) // 2 if kind == 3 else _paeth(left, top, corner)
        found[k] = (found[k] + guess) & 255
    return np.array(found[step:], np.uint8)


def _paeth(left: int, top: int, corner: int) -> int:
    """Return whichever of the three is closest to left + top - corner, the first of equals."""
    ahead = left + top - corner
    return min((left, top, corner), key=lambda x: abs(ahead - x))
