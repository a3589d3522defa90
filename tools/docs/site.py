"""Put the pages of the site together, and say how they hang together."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.passes.registry import all_passes
from whet.tools.docs.api_pages import MODULES, api_pages
from whet.tools.docs.cli_page import cli_page
from whet.tools.docs.pass_pages import FAMILIES, family, pass_index, pass_pages

__all__ = ["assemble", "pages"]

_COPIED = {
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages of the root folder, and what they are called in the site."""
_EXAMPLES = "examples.md"
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")
_GUIDES = {
    "An ONNX file": "howto/onnx_file.md",
    "A PyTorch module": "howto/pytorch.md",
    "A budget": "howto/budget.md",
    "A metric of your own": "howto/metric.md",
    "What broke my model": "howto/bisect.md",
    "A step of a build, and CI": "howto/build_step.md",
    "A pass of your own": "howto/own_pass.md",
}


def pages(root: Path) -> dict[str, str]:
    """Return every page by its path in the site, with links that hold there."""
    found = {
        path.relative_to(root / "docs").as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((root / "docs").rglob("*.md"))
    }
    for source, name in _COPIED.items():
        found[name] = _relinked((root / source).read_text(encoding="utf-8"))
    found[_EXAMPLES] = _examples(root)
    found["cli.md"] = cli_page()
    found["passes/index.md"] = pass_index()
    found.update((f"passes/{name}.md", text) for name, text in pass_pages().items())
    found.update((f"api/{name}.md", text) for name, text in api_pages().items())
    return found


def assemble(found: Mapping[str, str], folder: Path, output: Path) -> Path:
    """Write the pages and the configuration into ``folder``, which is emptied; return the configuration's path."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in found.items():
        path = folder / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    config = folder / "mkdocs.yml"
    config.write_text(json.dumps(_config(output.absolute()), indent=1))  # JSON is YAML
    return config


def _relinked(text: str) -> str:
    """Turn links from the root folder into links inside the site."""

    def moved(match: re.Match[str]) -> str:
        target = match.group(1)
        inside = _COPIED.get(target, target.removeprefix("docs/"))
        return f"]({inside}{match.group(2) or ''})"

    return _LINK.sub(moved, text)


def _examples(root: Path) -> str:
    """Return a page with every example as it stands."""
    parts = [
        "# Examples",
        "Each runs as it stands, from `examples/` of a checkout, and is run by the tests.",
    ]
    for path in sorted((root / "examples").rglob("*")):
        if (
            path.is_file()
            and path.suffix in {".py", ".toml", ".sh", ""}
            and "out" not in path.parts
        ):
            kind = {".py": "python", ".toml": "toml", ".sh": "sh"}.get(path.suffix, "make")
            name = path.relative_to(root / "examples").as_posix()
            parts.append(
                f"## {name}\n\n````{kind}\n{path.read_text(encoding='utf-8').rstrip()}\n````"
            )
    return "\n\n".join(parts) + "\n"


def _navigation() -> list[Mapping[str, Any]]:
    listed: list[Mapping[str, Any]] = [
        {
            title: [
                f"passes/{name}.md" for name, cls in all_passes().items() if family(cls) == folder
            ]
        }
        for folder, title in FAMILIES.items()
    ]
    return [
        {"Start": "index.md"},
        {"Tutorial": "tutorial.md"},
        {"How to": [{title: page} for title, page in _GUIDES.items()] + [{"Examples": _EXAMPLES}]},
        {
            "How it works": [
                {"Architecture": "architecture.md"},
                {"Attention": "attention.md"},
                {"Quantization": "quantization.md"},
                {"Rewrites that prepare": "preparing.md"},
                {"From a budget to a plan": "search.md"},
                {"Taking weights away": "sparsity.md"},
                {"Weights": "sparsity_weights.md"},
                {"Channels and heads": "sparsity_channels.md"},
                {"Ranks and blocks": "sparsity_structure.md"},
                {"Experts": "sparsity_experts.md"},
                {"Recovery": "sparsity_recovery.md"},
                {"Devices": "devices.md"},
                {"C99 for small devices": "target_c.md"},
                {"TVM": "target_tvm.md"},
            ]
        },
        {"Passes": ["passes/index.md", *listed]},
        {
            "Reference": [
                {"Command line": "cli.md"},
                {"The artifact": "artifact.md"},
                {"report.json": "report_schema.md"},
                {"Python": [f"api/{name}.md" for name in MODULES]},
            ]
        },
        {"Questions": "faq.md"},
        {"Contributing": ["contributing.md", "changelog.md"]},
    ]


def _config(output: Path) -> Mapping[str, Any]:
    """Return the settings of MkDocs: nothing is fetched, every page must be reachable, every link must hold."""
    light, dark = (
        {"scheme": scheme, "media": f"(prefers-color-scheme: {kind})", "primary": "blue grey"}
        for scheme, kind in (("default", "light"), ("slate", "dark"))
    )
    return {
        "site_name": "whet",
        "site_description": "The model-compression compiler that shows its work",
        "docs_dir": "docs",
        "site_dir": str(output),
        "use_directory_urls": False,
        "theme": {
            "name": "material",
            "font": False,
            "palette": [light, dark],
            "features": ["navigation.indexes", "navigation.top", "content.code.copy"],
        },
        "plugins": ["search"],
        "markdown_extensions": [
            "tables",
            "admonition",
            "pymdownx.superfences",
            {"toc": {"permalink": True}},
        ],
        "nav": _navigation(),
        "validation": {
            "omitted_files": "warn",
            "absolute_links": "warn",
            "unrecognized_links": "warn",
            "anchors": "warn",
        },
    }
