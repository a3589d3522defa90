"""Tools that are there make files, tools that are not are told as failures, and one table has both."""

import numpy as np
import onnx
import onnx_ir
import pytest
from mixing import network

from whet.backends.base import RuntimeOptions
from whet.backends.measure import Timing
from whet.backends.worker import Worker
from whet.tools.bench.rivals import command
from whet.tools.bench.rivals.makers import MAKERS
from whet.tools.bench.rivals.tasks import Job


@pytest.fixture
def job(tmp_path) -> Job:
    source = tmp_path / "source.onnx"
    onnx.save(onnx_ir.to_proto(network()), source)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 64)).astype(np.float32)

    def judge(path) -> float:
        with Worker(path, RuntimeOptions(1)) as worker:
            return float(worker.run({"x": x})[0].shape[0])

    return Job("a network", "transformer", source, {"x": x}, {"x": x[:1]}, "samples", judge)


def test_files_failures_and_the_table(job: Job, tmp_path, monkeypatch) -> None:
    wanted = ["onnxruntime", "onnxsim"]
    assert set(wanted) < set(MAKERS)
    monkeypatch.setattr(
        command,
        "contest",
        lambda models, *_: {n: Timing.of([1.0 + k]) for k, n in enumerate(models)},
    )
    rows = [command._row(t, job, tmp_path, tmp_path / "nothing") for t in ("float32", *wanted)]
    assert "onnxsim" in rows[2].failure
    again = [command._row(t, job, tmp_path, None) for t in ("float32", *wanted)]
    assert again == rows  # what was made is found again
    timed = command._timed(job, tmp_path, rows, 1)
    text = "\n".join(command._table(job, timed, None))
    assert "| float32 | 1.000x | 16.0000 | 1.00x | |" in text
    assert timed[1].time == 2.0
    assert 0 < timed[1].size < 1
    assert "| – | – | – | failed: ModuleNotFoundError" in text


def test_a_file_that_does_not_run_is_a_failure(job: Job, tmp_path, monkeypatch) -> None:
    def broken(tool, job, data, out, tools) -> tuple[float, str]:
        out.write_bytes(b"no model")
        return 1.0, ""

    monkeypatch.setattr(command, "_make", broken)
    row = command._row("nncf", job, tmp_path, None)
    assert "does not run it" in row.failure


def test_models_that_are_not_there_are_skipped(tmp_path, capsys) -> None:
    assert command.main(["--assets", str(tmp_path), "--only", "resnet20"]) == 0
    assert "resnet20: skipped" in capsys.readouterr().out
