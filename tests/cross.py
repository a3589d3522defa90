"""Build the C program of a TVM artifact for another machine, and run it under QEMU."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TRIPLE = "aarch64-linux-gnu"
TOOLS = {
    f"{TRIPLE}-gcc": "gcc-aarch64-linux-gnu",
    "qemu-aarch64": "qemu-user",
    "make": "make",
}


def execute(*command: str | Path, status: int = 0) -> str:
    """Run a program that must end with a status; return what it says."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL
    )
    assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def compiler() -> None:
    """Skip where nothing links for aarch64."""
    if shutil.which(f"{TRIPLE}-gcc") is None:
        pytest.skip(f"{TRIPLE}-gcc is not installed (apt-get install gcc-aarch64-linux-gnu)")


def runtime() -> Path:
    """Return the folder with TVM's libraries for aarch64; skip where it, a compiler or QEMU is not there."""
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (apt-get install {package})")
    folder = Path(os.environ.get("WHET_AARCH64") or Path(__file__).parents[1] / ".venv" / "aarch64")
    if not (folder / "tvm" / "lib" / "libtvm_runtime.so").is_file():
        pytest.skip(f"TVM's runtime for aarch64 is not in '{folder}' (make aarch64)")
    if not Path(f"/usr/{TRIPLE}/lib/libstdc++.so.6").exists():
        pytest.skip("there is no libstdc++ for aarch64 (apt-get install libstdc++6-arm64-cross)")
    return folder


def program(folder: Path, libraries: Path) -> tuple[str, ...]:
    """Build the program of an artifact; return the command that runs it."""
    execute("make", "-C", folder, "run", f"TVM={libraries}")
    return ("qemu-aarch64", "-L", f"/usr/{TRIPLE}", str(folder / "run"))
