"""The pages of the site: every pass, option and public name; links hold; the whole is built where MkDocs is."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from whet.passes.registry import all_passes
from whet.tools.docs.__main__ import run_mkdocs
from whet.tools.docs.api_pages import MODULES, undocumented
from whet.tools.docs.docstrings import documented_fields, markdown
from whet.tools.docs.site import assemble, pages

ROOT = Path(__file__).parents[2]
_CODE = re.compile(r"^(`{3,}).*?^\1", re.M | re.S)


@pytest.fixture(scope="module")
def site() -> dict[str, str]:
    return pages(ROOT)


def test_every_pass_has_a_page(site: dict[str, str]) -> None:
    for name, cls in all_passes().items():
        page = site[f"passes/{name}.md"]
        assert page.startswith(f"# {name}\n")
        assert cls.fidelity.value in page.lower()
        for field in cls.fields():
            assert f"| `{field.name}` |" in page
    assert "taken back" in site["passes/quantize-static.md"]
    assert "BatchNormalization is in training mode" in site["passes/fold-batch-norm.md"]


def test_every_option_says_what_it_is() -> None:
    silent = [
        f"{name}.{field.name}"
        for name, cls in all_passes().items()
        for field in cls.fields()
        if field.name not in documented_fields(cls)
    ]
    assert not silent


def test_every_public_name_has_a_docstring() -> None:
    assert undocumented() == []


def test_public_modules_have_pages(site: dict[str, str]) -> None:
    assert set(MODULES) <= {Path(name).stem for name in site} | {
        name.removeprefix("api/").removesuffix(".md") for name in site
    }
    assert "### Artifact.run" in site["api/whet.md"]
    assert "class CalibrationError(UsageError)" in site["api/whet.errors.md"]


def test_every_command_is_there(site: dict[str, str]) -> None:
    for name in "compile plan inspect bench diff bisect report doctor passes".split():  # noqa: SIM905
        assert f"## whet {name}" in site["cli.md"]


def test_every_key_of_the_manifest_is_explained() -> None:
    from folding import build

    from whet.compiler import compile

    model = build("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }", {})
    artifact = compile(model, recipe="exact", allow_noop=True, measure=False)
    page = (ROOT / "docs" / "artifact.md").read_text()
    section = page.split("## whet.json")[1]
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", section, re.M))))
    assert explained == set(json.loads((artifact.folder / "whet.json").read_text()))


def test_links_hold(site: dict[str, str]) -> None:
    for name, text in site.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", _CODE.sub("", text)):
            if target:
                path = (Path("/") / name).parent / target
                assert path.resolve().relative_to("/").as_posix() in site, f"{name}: {target}"


def test_docstrings_become_markdown() -> None:
    text = """Say ``a`` and :class:`~whet.errors.UsageError`.

    Like so::

        y = W x

    Raises:
        UsageError: it is
            wrong.
    """
    assert markdown(text) == (
        "Say `a` and `UsageError`.\n\nLike so:\n\n```text\ny = W x\n```\n\n"
        "**Raises**\n\n- UsageError: it is\n  wrong."
    )


def test_every_page_is_reachable(site: dict[str, str], tmp_path: Path) -> None:
    config = assemble(site, tmp_path / "pages", tmp_path / "site")
    listed = re.findall(r'"([\w./-]+\.md)"', json.dumps(json.loads(config.read_text())["nav"]))
    assert sorted(listed) == sorted(site)


def test_the_site_is_built(site: dict[str, str], tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed")
    config = assemble(site, tmp_path / "pages", tmp_path / "site")
    assert run_mkdocs(config, "build") == 0
    assert (tmp_path / "site" / "passes" / "fold-batch-norm.html").is_file()
