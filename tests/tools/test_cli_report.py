"""``whet report``: render again, compare, profile later; and the page that a compile writes."""

import json
from pathlib import Path

import pytest
from commandline import Run

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from whet.artifact import load
from whet.compiler import compile
from whet.page import add_page


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw pages as a compile does outside of tests."""
    monkeypatch.setattr("whet.compiler.add_page", add_page)


@pytest.fixture
def out(whet: Run, model: Path, tmp_path: Path) -> Path:
    """Return a compiled artifact."""
    folder = tmp_path / "out"
    made = whet("compile", model, "-o", folder, "--no-measure")
    assert made.exit_code == 0, made.output
    assert "report.html" in made.stdout
    return folder


def test_a_page_is_rendered_again(whet: Run, out: Path) -> None:
    first = (out / "report.html").read_text()
    (out / "report.html").unlink()
    result = whet("report", out)
    assert result.exit_code == 0, result.output
    assert (out / "report.html").read_text() == first
    assert "merge-parallel" in first or "eliminate-identity" in first


def test_two_are_compared(whet: Run, model: Path, out: Path, tmp_path: Path) -> None:
    assert (
        whet(
            "compile",
            model,
            "-o",
            tmp_path / "exact",
            "--recipe",
            "exact",
            "--no-measure",
            "--no-page",
        ).exit_code
        == 0
    )
    assert not (tmp_path / "exact" / "report.html").exists()
    page = tmp_path / "both.html"
    result = whet("report", out, tmp_path / "exact", "-o", page, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "schema": 1,
        "page": str(page),
        "bytes": page.stat().st_size,
    }
    assert "whet: out and exact" in page.read_text()


def test_operators_are_profiled_later(
    whet: Run, model: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    assert json.loads((out / "report.json").read_text())["profile"] is None
    result = whet("report", out, "--profile", "--source", model)
    assert result.exit_code == 0, result.output
    found = json.loads((out / "report.json").read_text())["profile"]
    assert found["peak"]["flops"] > 0
    for when in ("before", "after"):
        names = [row[found[when]["columns"].index("layer")] for row in found[when]["rows"]]
        assert "second" in names
    assert "Waterline" in (out / "report.html").read_text()
    whet("report", out, "--profile")
    again = json.loads((out / "report.json").read_text())["profile"]
    assert again["before"] == found["before"]


def test_mistakes_are_named(whet: Run, out: Path, tmp_path: Path) -> None:
    missing = whet("report", tmp_path / "no")
    assert missing.exit_code == 2
    assert "cannot read" in missing.stderr
    assert "needs --profile" in whet("report", out, "--source", "m.onnx").stderr


def test_without_the_libraries_a_compile_says_how_to_get_the_page(
    whet: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whet.tools.report.render.available", lambda: False)
    result = whet("compile", model, "-o", tmp_path / "out", "--no-measure")
    assert result.exit_code == 0
    assert "pip install 'whet[report]'" in " ".join(result.stdout.split())
    assert (tmp_path / "out" / "report.json").is_file()
    assert not (tmp_path / "out" / "report.html").exists()
    assert whet("report", tmp_path / "out").exit_code == 2


def test_a_page_that_cannot_be_drawn_loses_no_artifact(
    whet: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_record: object) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr("whet.tools.report.render.render", broken)
    result = whet("compile", model, "-o", tmp_path / "out", "--no-measure")
    assert result.exit_code == 0
    assert "no ink" in result.stdout
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_an_artifact_that_is_saved_has_its_page(model: Path, tmp_path: Path) -> None:
    artifact = compile(model, recipe="exact", measure=False)
    assert not (artifact.folder / "report.html").exists()
    saved = artifact.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "report.html").is_file()
    assert saved._repr_html_().startswith("<iframe")
    assert load(tmp_path / "saved")._repr_html_().startswith("<iframe")
