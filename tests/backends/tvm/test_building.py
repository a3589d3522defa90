"""What a library is said to take of memory, held against a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from tvm_models import draw, parsed

import whet
from whet.backends.base import find_target
from whet.errors import BudgetMissed

RUN = r"""
import re, sys
from pathlib import Path
import numpy as np
from whet.backends.tvm.load import Model

def bytes_of(what):
    return int(re.search(what + r":\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

model = Model(sys.argv[1], 2)
feeds = {"x": np.load(sys.argv[2])}
Path("/proc/self/clear_refs").write_text("5")
before = bytes_of("VmRSS")
model.run(feeds)
print(bytes_of("VmHWM") - before)
"""
CHAIN = """(float[1,16,384,384] x) => (float[1,1] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w)
    b = Softmax <axis = 3> (a)
    c = Conv <pads = [1, 1, 1, 1]> (b, w)
    d = Add (c, b)
    e = Transpose <perm = [0, 2, 3, 1]> (d)
    s = Softmax <axis = 3> (e)
    t = ReduceMax <keepdims = 0> (s)
    one = Constant <value_ints = [1, 1]> ()
    y = Reshape (t, one)
}"""


def memory(folder: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((folder / "model.json").read_text())["memory"]
    return found


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks cannot be reset")
def test_a_run_takes_what_was_planned(tmp_path: Path) -> None:
    target, fixed = find_target("tvm{threads=2}").settle(
        parsed(CHAIN, {"w": draw(16, 16, 3, 3)}), {}, {}, 0
    )
    target.lower(fixed, tmp_path)
    found = memory(tmp_path)
    image = 16 * 384 * 384 * 4
    assert found["inputs"] == image
    assert 2 * image <= found["tensors"] <= 4 * image
    assert found["scratch"] > 0
    np.save(tmp_path / "x.npy", draw(1, 16, 384, 384))
    command = [sys.executable, "-c", RUN, str(tmp_path), str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stated = found["tensors"] + found["scratch"]  # the loader has taken the memory of inputs before
    assert 0.8 * stated < int(done.stdout) < 1.2 * stated + 4e6


def test_memory_is_a_budget(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 23]> g (float[4,64] x) => (float[4,64] y) '
        "{ h = MatMul (x, w) y = Relu (h) }"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(draw(64, 64), "w"))
    given = {
        "target": "tvm",
        "recipe": "exact",
        "page": False,
        "measure": False,
        "allow_noop": True,
    }
    made = whet.compile(
        model, output=tmp_path / "a", budget=whet.Budget(ram="1MB", flash="1MB"), **given
    )
    found = memory(tmp_path / "a")
    assert found["weights"] == 64 * 64 * 4
    used = sum(found.values())
    assert made.report is not None
    assert any(
        note.startswith(f"RAM: {used:,} bytes (16,384 of weights") for note in made.report.notes
    )
    with pytest.raises(
        BudgetMissed,
        match=r"RAM is .* of weights, .* of tensors, .* the budget 16,384; the largest constants are 'w' 16,384",
    ):
        whet.compile(model, output=tmp_path / "b", budget=whet.Budget(ram="16KiB"), **given)
    kept = made.report.after.bytes
    with pytest.raises(
        BudgetMissed, match=rf"flash is {kept:,} bytes of files, .* the budget 4,096"
    ):
        whet.compile(model, output=tmp_path / "c", device="host{flash=4KiB}", **given)
