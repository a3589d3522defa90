import json
import os
import subprocess
import sys

import pytest
from commandline import Run

import whet as package

COMMANDS = ["compile", "plan", "inspect", "bench", "diff", "bisect", "passes"]


def test_version(whet: Run) -> None:
    result = whet("--version")
    assert result.exit_code == 0
    assert result.stdout == f"whet {package.__version__}\n"


def test_help_lists_every_command(whet: Run) -> None:
    result = whet("--help")
    assert result.exit_code == 0
    assert all(f"│ {name} " in result.stdout for name in COMMANDS)
    assert "Exit codes" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(whet: Run, command: str) -> None:
    result = whet(command, "--help")
    assert result.exit_code == 0
    assert f"whet {command} " in result.stdout.split("Example")[1]
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert "\x1b" not in result.stdout


def test_passes_lists_every_pass_with_its_options(whet: Run) -> None:
    result = whet("passes")
    assert result.exit_code == 0
    assert "eliminate-identity" in result.stdout
    assert "limit: int = " in result.stdout


def test_one_pass_is_explained(whet: Run) -> None:
    result = whet("passes", "fold-constants")
    assert result.exit_code == 0
    assert "limit: int = " in result.stdout
    assert "--recipe fold-constants" in result.stdout


def test_passes_as_json(whet: Run) -> None:
    data = json.loads(whet("passes", "--json").stdout)
    found = {entry["name"]: entry for entry in data["passes"]}
    assert found["eliminate-identity"]["fidelity"] == "exact"
    assert found["fold-constants"]["options"][0]["name"] == "limit"


def test_an_unknown_pass_is_wrong_use(whet: Run) -> None:
    result = whet("passes", "fold-constant")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: unknown pass 'fold-constant'; did you mean")


def test_importing_whet_imports_nothing_heavy() -> None:
    code = "import sys, whet; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = _python(code).split()
    assert "whet" in loaded
    assert not {"torch", "onnx", "onnx_ir", "onnxruntime", "numpy", "scipy"} & set(loaded)


def test_the_core_and_the_command_line_do_without_torch() -> None:
    code = (
        "import sys, whet, whet.tools.cli; whet.compile, whet.load;"
        "from whet.passes.registry import all_passes; all_passes();"
        "print('torch' in sys.modules)"
    )
    assert _python(code) == "False"


def test_the_facade_has_what_it_promises() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        _ = package.compil  # type: ignore[attr-defined]


def test_the_module_runs() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "whet", "--version"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"whet {package.__version__}\n"


def _python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
