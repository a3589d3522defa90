"""The super-resolution benchmark: reading images, cutting windows, the figure itself."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from whet.errors import UsageError
from whet.ir.values import Array
from whet.tools.bench.png import read_png
from whet.tools.bench.super_resolution import luma, main, psnr, upscale

SHARED = Path(os.environ.get("WHET_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))


def _write_png(path: Path, image: Array, kinds: list[int], color: int = 2) -> None:
    """Write lines with the given filters in turn, by the definition of each."""
    height, width, channels = image.shape
    flat = image.reshape(height, -1).astype(int)
    lines = b""
    for row in range(height):
        kind = kinds[row % len(kinds)]
        coded = [kind]
        for k in range(width * channels):
            left = flat[row, k - channels] if k >= channels else 0
            up = flat[row - 1, k] if row else 0
            corner = flat[row - 1, k - channels] if row and k >= channels else 0
            ahead = left + up - corner
            nearest = min((left, up, corner), key=lambda x: abs(ahead - x))
            guess = (0, left, up, (left + up) // 2, nearest)[kind]
            coded.append((flat[row, k] - guess) % 256)
        lines += bytes(int(c) for c in coded)
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("kinds", [[0], [1], [2], [3], [4], [4, 3, 2, 1, 0]])
def test_png_files_are_read_whatever_their_filter(kinds: list[int], tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    _write_png(tmp_path / "image.png", image, kinds)
    np.testing.assert_array_equal(read_png(tmp_path / "image.png"), image)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"GIF89a")
    with pytest.raises(UsageError, match="is not a PNG file"):
        read_png(path)
    _write_png(path, np.zeros((2, 2, 1), np.uint8), [0], color=3)
    with pytest.raises(UsageError, match="color type 3; expected 8 bits, no palette"):
        read_png(path)


def test_luma_and_psnr_follow_their_formulas() -> None:
    white = np.full((1, 1, 3), 255.0)
    assert luma(white)[0, 0] == pytest.approx(235.0, abs=0.02)
    truth = np.zeros((12, 12, 3))
    made = truth + 10 * np.ones(3)
    away = 10 * (65.481 + 128.553 + 24.966) / 255
    assert psnr(made, truth) == pytest.approx(20 * np.log10(255 / away))
    made[:2] = 255  # the border does not count
    assert psnr(made, truth) == pytest.approx(20 * np.log10(255 / away))


@pytest.mark.parametrize("shape", [(64, 64), (100, 131), (113, 64)])
def test_windows_cover_the_image_without_seams(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    fed: list[tuple[int, ...]] = []

    def double(window: Array) -> Array:
        fed.append(window.shape)
        return window.repeat(2, 2).repeat(2, 3)

    made = upscale(double, image)
    np.testing.assert_array_equal(made, image.repeat(2, 0).repeat(2, 1))
    assert set(fed) == {(1, 3, 64, 64)}


def test_seams_lie_in_the_middle_of_what_windows_share() -> None:
    count = iter(range(2))
    made = upscale(
        lambda window: np.full((1, 3, 128, 128), next(count) / 255),
        np.zeros((64, 112, 3), np.uint8),
    )
    assert np.unique(made[:, :112]).tolist() == [0]
    assert np.unique(made[:, 112:]).tolist() == [1]


def test_without_assets_the_reason_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    assert main(["--assets", str(tmp_path), "--json", str(file)]) == 0
    assert "super-resolution: skipped: no file" in capsys.readouterr().out
    assert "ngswin_x2.onnx" in json.loads(file.read_text())["skipped"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared assets are not here")
def test_the_published_images_are_read() -> None:
    folder = SHARED / "assets" / "super_resolution" / "Set5"
    for path in sorted((folder / "HR").glob("*.png")):
        high = read_png(path)
        low = read_png(folder / "LR_bicubic" / "X2" / f"{path.stem}x2.png")
        assert high.shape == (2 * low.shape[0], 2 * low.shape[1], 3)
        assert 20 < psnr(low.repeat(2, 0).repeat(2, 1), high) < 40
