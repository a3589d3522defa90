import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from whet.analysis.npz import Spool, forget, map_npz


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((5, 3)).astype(np.float32),
        "turned": np.asfortranarray(rng.standard_normal((4, 6))),
        "ids": rng.integers(0, 9, (5, 2)),
        "none": np.zeros((0, 3), np.float32),
        "one": np.float32(3.5),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_members_are_mapped_and_equal(save: object, tmp_path: Path) -> None:
    save(tmp_path / "data.npz", **arrays())
    found = map_npz(tmp_path / "data.npz")
    assert list(found) == list(arrays())
    for name, array in arrays().items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == np.asarray(array).dtype
        assert isinstance(found[name], np.memmap) or not array.size
        forget(found[name])
        assert np.array_equal(found[name], array)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds Python objects"):
        map_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"'readme.txt' is no array"):
        map_npz(path)
    whole = io.BytesIO()
    np.save(whole, np.zeros(100))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", whole.getvalue()[:-8])
    with pytest.raises(ValueError, match="has 792 bytes of data, not 800"):
        map_npz(path)


def test_a_spool_keeps_feeds_of_any_shape_in_order() -> None:
    feeds = [{"x": np.full((k, 2), k, np.int64), "flag": np.asarray([True] * k)} for k in (3, 0, 5)]
    found = Spool(iter(feeds)).feeds
    assert len(found) == 3
    for feed, other in zip(feeds, found, strict=True):
        assert all(
            np.array_equal(feed[n], other[n]) and feed[n].dtype == other[n].dtype for n in feed
        )
        assert all(a.flags.aligned for a in other.values())
    assert Spool(iter([])).feeds == []
    with pytest.raises(ValueError, match="cannot be kept"):
        Spool(iter([{"x": np.asarray([None])}]))
