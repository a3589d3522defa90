"""Large weights go to disk and come back as they were."""

from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from whet.ir.residency import LARGE, release, spill


def weight(count: int, dtype: type = np.float32) -> onnx_ir.Value:
    tensor = onnx_ir.tensor(np.arange(count).astype(dtype), name="w")
    return onnx_ir.Value(name="w", const_value=tensor)


def resident_file_pages() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))


def test_a_spilled_weight_keeps_its_bytes_type_and_shape(tmp_path: Path) -> None:
    value = weight(LARGE // 4)
    before = value.const_value
    assert before is not None
    assert spill(value, tmp_path / "weights")
    after = value.const_value
    assert isinstance(after, onnx_ir.ExternalTensor)
    assert (after.dtype, after.shape, after.name) == (before.dtype, before.shape, "w")
    np.testing.assert_array_equal(after.numpy(), before.numpy())
    assert not spill(value, tmp_path / "weights"), "it is on disk already"


def test_small_weights_and_strings_stay_in_memory(tmp_path: Path) -> None:
    small = weight(LARGE // 4 - 1)
    assert not spill(small, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    assert not spill(onnx_ir.Value(name="free"), tmp_path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_released_pages_leave_memory_and_arrays_stay_valid(tmp_path: Path) -> None:
    value = weight(2 * LARGE // 4)
    spill(value, tmp_path)
    assert value.const_value is not None
    array = value.const_value.numpy()
    total = float(array.sum(dtype=np.float64))
    touched = resident_file_pages()
    release([value, None, weight(3)])
    assert touched - resident_file_pages() > LARGE
    assert float(array.sum(dtype=np.float64)) == total
