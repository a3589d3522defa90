"""A wrong pass, planted from outside into a trained network: bisect names the pass, the site and the nodes at fault.

The fault slips through the proof: a limit of 6 is forgotten, and random numbers do not reach 6. Of three places with
such a limit only the second gets values that do.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from commandline import Run

NETWORK = """
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(128, 10)

    def forward(self, x):
        quiet = nn.functional.relu6(self.first(x / 16))
        loud = nn.functional.relu6(32 * self.second(quiet))
        scores = self.last(nn.functional.max_pool2d(loud, 2).flatten(1))
        return nn.functional.relu6(torch.sigmoid(scores))


def make():
    torch.manual_seed(0)
    data = load_digits()
    x = torch.from_numpy(data.images[:, None].astype(np.float32))
    y = torch.from_numpy(data.target)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for rows in torch.randperm(len(x)).split(64):
        loss = nn.functional.nll_loss(torch.log(model(x[rows]) + 1e-6), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), (x[:4],), {"x": {0: "batch"}}
"""
PLANTED = '''
import dataclasses
from typing import ClassVar

from whet.extend import Fidelity, Rewrite, op, var, weight


@dataclasses.dataclass(frozen=True)
class ForgetLimit(Rewrite):
    """Replace ``Clip(x, 0, 6)`` by ``Relu(x)``, which is wrong."""

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("Clip", var("x"), weight("low"), weight("high")),)

    def replace(self, found, build):
        return build.op("Relu", found["x"])
'''
RECIPE = 'base = "exact"\n\n[[pass]]\nname = "planted:ForgetLimit"\n'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for package in ("torch", "sklearn"):
        pytest.importorskip(package)
    for name, text in (("trained", NETWORK), ("planted", PLANTED)):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pass_the_site_and_the_smallest_subgraph_are_named(whet: Run, place: Path) -> None:
    result = whet("bisect", "trained:make", "--recipe", "recipe.toml", "--json")
    assert result.exit_code == 1, result.output
    data = json.loads(result.stdout)
    culprit = data["culprit"]
    assert data["refused"] == []
    assert culprit["step"] == "forget-limit"
    assert culprit["refuted"] is True
    assert "on the model's own values" in culprit["shown"]
    assert culprit["number"] < culprit["total"]
    model = onnx.load(culprit["reproducer"])
    kinds = sorted(node.op_type for node in model.graph.node)
    assert kinds == ["Clip", "Identity", "Identity", "Relu"]
    session = onnxruntime.InferenceSession(
        culprit["reproducer"], providers=["CPUExecutionProvider"]
    )
    with np.load(Path(culprit["reproducer"]).with_suffix(".npz")) as file:
        feeds = {name: file[name] for name in file.files}
    old, new = session.run(["old_0", "new_0"], feeds)
    assert np.asarray(old).max() == 6 < np.asarray(new).max()
    assert len(feeds) == 1


def test_the_site_is_the_one_whose_values_reach_the_limit(whet: Run, place: Path) -> None:
    result = whet("bisect", "trained:make", "--recipe", "recipe.toml")
    assert result.exit_code == 1, result.output
    (site,) = (line for line in result.stdout.splitlines() if line.startswith("culprit"))
    spared = site.split(" at ")[1].split(",")[0]
    only = f"planted:ForgetLimit{{skip={spared}}}"
    clean = whet("bisect", "trained:make", "--recipe", only)
    assert clean.exit_code == 0, clean.output
    assert "nothing breaks" in clean.stdout
