"""``--tune`` through the compiler: what is found is used, said, and left alone when asked; where it means nothing."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnx_ir
import pytest
from tuning import Known
from tvm_models import draw, parsed

import whet
from whet.backends.base import RuntimeOptions, find_target
from whet.backends.measure import Timing
from whet.backends.tvm.machine import find_machine
from whet.backends.tvm.processor import Processor
from whet.backends.tvm.schedules import Schedule, spell
from whet.backends.tvm.tuning import session
from whet.backends.tvm.tuning.database import Database
from whet.backends.tvm.tuning.session import worse
from whet.backends.tvm.tuning.stand import Race
from whet.backends.tvm.works.work import Work
from whet.errors import UsageError
from whet.ir.files import load_model


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    text = "(float[6,8] x) => (float[6,48] y) { h = MatMul(x, w)  y = Relu(h) }"
    path = tmp_path / "net.onnx"
    onnx.save(onnx_ir.to_proto(parsed(text, {"w": draw(8, 48)})), path)
    return path


class Narrow(Known):
    """A stand where one vector at a time is twice as fast."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__({})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def race(self, work: Work, schedule: Schedule, rounds: int) -> Race:
        self.times = {spell(schedule): 0.5} if schedule.get("vectors") == 1 else {}
        return super().race(work, schedule, rounds)


def build(source: Path, out: Path, whole: float = 0.5, **options: Any) -> whet.Artifact:
    def compare(
        _workers: Sequence[object], _feeds: Sequence[Mapping[str, np.ndarray]]
    ) -> list[Timing]:
        return [Timing(ms, ms, ms, 7) for ms in (1.0, whole)]

    target = "tvm{threads=1}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Stand", Narrow)
        patch.setattr(session, "compare_speed", compare)
        patch.setattr(session, "Worker", lambda *_: contextlib.nullcontext())
        return whet.compile(
            str(source), recipe="exact", target=target, page=False, allow_noop=True,
            output=out, **options,
        )  # fmt: skip


def schedules(folder: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((folder / "whet.json").read_text()).get(
        "schedules", {}
    )
    assert found == json.loads((folder / "model.json").read_text())["schedules"]
    return found


def test_what_is_found_is_used_said_and_kept(source: Path, tmp_path: Path) -> None:
    made = build(source, tmp_path / "tuned", tune="1min")
    assert made.report is not None
    ((key, times),) = schedules(tmp_path / "tuned").items()
    assert key == "dense 6x8x48 | Relu"
    assert list(times.values()) == [1.0, 0.5]
    assert "vectors=1" in list(times)[1]
    assert made.report.kernels[key] == times
    notes = "\n".join(made.report.notes)
    assert "tuned 1 of 1 kernels" in notes
    assert "the whole model: 1 ms (1-1) as it was, 0.5 ms" in notes
    assert "1 kernels run schedules that were measured" in notes
    assert made.report.provenance is not None
    assert "--tune 1min" in made.report.provenance.command
    x = draw(6, 8)
    (want,) = whet.load(tmp_path / "tuned").run({"x": x})
    model = load_model(source)
    for target, expected in (("", {key: times}), ("{tune=off}", {})):
        folder = tmp_path / f"later{target}"
        folder.mkdir()
        settled, fixed = (
            find_target(f"tvm{target}").configured({"threads": "1"}).settle(model, {}, {}, 0)
        )
        settled.lower(fixed, folder)
        assert settled.measured(folder) == expected
        (got,) = settled.open(folder, RuntimeOptions(threads=1)).run({"x": x})
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_a_model_that_does_not_become_faster_is_left_alone(source: Path, tmp_path: Path) -> None:
    made = build(source, tmp_path / "out", whole=1.1, tune="1min")
    assert made.report is not None
    assert schedules(tmp_path / "out") == {}
    assert any("schedules were taken back: the whole model" in n for n in made.report.notes)
    record = Database(find_machine(Processor("", "", "", 1))).find("dense 6x8x48 | Relu")
    assert record is not None
    assert (record.best, record.done) == ("", True)  # and not tried again
    assert "the whole model was not faster with what was chosen" in record.trials.values()


def test_harm_is_more_than_noise() -> None:
    usual = Timing(1.0, 0.98, 1.02, 7)
    assert worse(usual, Timing(1.1, 1.05, 1.2, 7))
    assert not worse(usual, Timing(1.01, 1.0, 1.02, 7))
    assert not worse(usual, Timing(0.9, 0.89, 0.91, 7))


@pytest.mark.parametrize(("target", "options", "reason"), [
    ("onnxruntime", {"tune": "5min"}, "target 'onnxruntime' has no kernels to tune, --tune 5min is for --target tvm"),
    ("auto", {"tune": "5min"}, r"--tune 5min needs a target that has kernels to tune \(tvm\), the target is 'auto'"),
    ("tvm", {"tune": "5"}, "tune is '5', expected more than zero in one of the units s, min, h"),
    ("tvm", {"tune": "0s"}, "tune is '0s', expected more than zero"),
    ("tvm{tune=soon}", {}, "tune is 'soon', expected something like 10min"),
    ("tvm{tune=1min}", {"measure": False}, "tuning needs timing, which is switched off"),
    ("tvm{tune=1min}", {"device": "x86-64-v3"}, "tuning needs timing, and this machine is not the device 'x86-64-v3'"),
    ("tvm{triple=aarch64-linux-gnu}", {"tune": "1min"}, "this machine is not the device 'aarch64-linux-gnu'"),
    ("tvm{cpu=nocona}", {"tune": "1min"}, "code is made for 'nocona', this machine is a '"),
    ("tvm{threads=999}", {"tune": "1min"}, f"divided for 999 threads, this machine has {os.cpu_count()}"),
])  # fmt: skip
def test_where_it_means_nothing(
    source: Path, tmp_path: Path, target: str, options: Mapping[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        whet.compile(str(source), target=target, output=tmp_path / "out", page=False, **options)
    assert not (tmp_path / "out").exists()


def test_times_are_read() -> None:
    for text, seconds in (("10min", 600), ("90s", 90), ("1.5h", 5400), ("off", 0), ("", 0)):
        assert find_target("tvm").tuned(text).tuning == seconds if text else True
    assert find_target("tvm{tune=2min}").tuning == 120
    assert find_target("tvm").tuning == 0
