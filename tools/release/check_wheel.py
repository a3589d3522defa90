"""Build the sdist, the wheel from it, and check both against the tree; then import what was built.

``python -m whet.tools.release.check_wheel``: the root folders reach the package through links, which a build may lose.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

from whet.errors import WhetError

__all__ = ["BrokenBuild", "compare", "main", "tree_files"]

FOLDERS = ("ir", "passes", "analysis", "solve", "backends", "tools")
_KINDS = ("*.py", "*.c", "*.j2", "*.css", "*.js")
_PACKAGE = "whet"
_IMPORT = """
import sys, pathlib, whet
from whet.passes.registry import all_passes
place = pathlib.Path(whet.__file__).resolve()
assert place.is_relative_to(pathlib.Path(sys.argv[1]).resolve()), f"whet comes from {place}"
print(len(all_passes()))
"""


class BrokenBuild(WhetError):
    """What was built is not what is in the tree."""

    exit_code = 1


def tree_files(root: Path) -> set[str]:
    """Return the package's files as a wheel names them: modules and what pages are made of, and the marker."""
    found = {
        f"{_PACKAGE}/{p.relative_to(root)}"
        for folder in FOLDERS
        for kind in _KINDS
        for p in (root / folder).rglob(kind)
    }
    found |= {f"{_PACKAGE}/{p.name}" for p in (root / "src" / _PACKAGE).glob("*.py")}
    return found | {f"{_PACKAGE}/py.typed"}


def compare(built: set[str], wanted: set[str], what: str) -> None:
    """Raise BrokenBuild, naming every file that is missing or too many."""
    missing, extra = sorted(wanted - built), sorted(built - wanted)
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has {', '.join(extra)}, which the tree lacks"] if extra else []
        raise BrokenBuild(f"the {what} {'; it '.join(parts)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run all checks; return 1 after naming the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--isolation", action="store_true", help="build in a fresh environment")
    options = parser.parse_args(argv)
    if not (options.root / "pyproject.toml").is_file():
        parser.error(f"'{options.root}' has no pyproject.toml: run this from a checkout")
    try:
        with tempfile.TemporaryDirectory(prefix="whet-wheel-") as folder:
            _check(options.root, Path(folder), isolated=options.isolation)
    except BrokenBuild as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _check(root: Path, folder: Path, *, isolated: bool) -> None:
    wanted = tree_files(root)
    sdist, wheel = _build(
        root, folder / "dist", isolated=isolated or find_spec("setuptools") is None
    )
    compare(_sdist_files(sdist), wanted, "sdist")
    print(f"{sdist.name}: {len(wanted)} files of the package, as in the tree")
    compare(_wheel_files(wheel), wanted, "wheel")
    print(f"{wheel.name}: {len(wanted)} files of the package, as in the tree")
    _check_metadata(wheel, root)
    passes = _check_import(wheel, folder)
    print(f"imported from the wheel elsewhere: {passes} passes, and the command answers")


def _build(root: Path, output: Path, *, isolated: bool) -> tuple[Path, Path]:
    """Build the sdist, then the wheel from it."""
    extra = [] if isolated else ["--no-isolation"]
    _run([sys.executable, "-m", "build", "--outdir", str(output), *extra, str(root)], root)
    sdists, wheels = list(output.glob("*.tar.gz")), list(output.glob("*.whl"))
    if len(sdists) != 1 or len(wheels) != 1:
        raise BrokenBuild(
            f"built {len(sdists)} sdists and {len(wheels)} wheels, expected 1 of each"
        )
    return sdists[0], wheels[0]


def _sdist_files(path: Path) -> set[str]:
    """Return the package's files below ``src`` that are really in the archive."""
    with tarfile.open(path) as archive:
        names = [m.name.split("/", 1)[-1] for m in archive.getmembers() if m.isfile()]
    inside = (name.removeprefix("src/") for name in names if name.startswith(f"src/{_PACKAGE}/"))
    return {name for name in inside if _counts(name)}


def _wheel_files(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    strange = [n for n in names if not n.startswith(f"{_PACKAGE}/") and ".dist-info/" not in n]
    if strange:
        raise BrokenBuild(f"the wheel installs {strange[0]}, outside {_PACKAGE}")
    return {name for name in names if _counts(name)}


def _counts(name: str) -> bool:
    return name.startswith(f"{_PACKAGE}/") and (
        name.endswith((*(kind[1:] for kind in _KINDS), "/py.typed"))
    )


def _check_metadata(wheel: Path, root: Path) -> None:
    """Hold the wheel's extras and entry points against pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(wheel) as archive:
        folder = next(n.split("/")[0] for n in archive.namelist() if ".dist-info/" in n)
        metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        entries = archive.read(f"{folder}/entry_points.txt").decode()
    extras = set(metadata.get_all("Provides-Extra") or [])
    if extras != set(project["optional-dependencies"]):
        raise BrokenBuild(
            f"the wheel has extras {sorted(extras)}, "
            f"pyproject.toml {sorted(project['optional-dependencies'])}"
        )
    for name, target in project["scripts"].items():
        if f"{name} = {target}" not in entries:
            raise BrokenBuild(f"the wheel has no command '{name} = {target}'")


def _check_import(wheel: Path, folder: Path) -> int:
    """Install the wheel alone into a folder, import it from elsewhere; return how many passes it has."""
    place, elsewhere = folder / "installed", folder / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--no-index", "--target", str(place), str(wheel)], elsewhere)
    found = _run([sys.executable, "-c", _IMPORT, str(place)], elsewhere, place)
    answer = _run([sys.executable, str(place / "bin" / _PACKAGE), "--help"], elsewhere, place)
    if "compile" not in answer:
        raise BrokenBuild(f"'{_PACKAGE} --help' does not name its commands: {answer[:200]}")
    return int(found)


def _run(command: Sequence[str], folder: Path, importable: Path | None = None) -> str:
    """Run a command in ``folder``; return its output or raise BrokenBuild with its last lines."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if importable is not None:
        environment["PYTHONPATH"] = str(importable)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        tail = " | ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise BrokenBuild(f"'{' '.join(command[1:4])}' failed with {done.returncode}: {tail}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
