"""The page in a real browser: no errors, sorting and filtering work, also with two thousand layers."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from report_maker import NASTY, make_report

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from whet.tools.report.render import render

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
    "--timeout=60000", "--dump-dom",
)  # fmt: skip
_CHECK = """
const found = {errors}, all = (what) => Array.from(document.querySelectorAll(what));
const column = (k) => all("#table-layers tbody tr").map((row) => row.cells[k].textContent);
const titles = all("#table-layers th").map((head) => head.textContent);
const at = titles.indexOf("bytes after");
all("#table-layers th")[at].click(); found.down = column(at);
all("#table-layers th")[at].click(); found.up = column(at);
all("#table-layers th")[0].click(); found.names = column(0);
const shown = () => all("#table-layers tbody tr").filter((row) => !row.hidden).length;
const filter = document.querySelector("[data-table=layers] input");
const choose = document.querySelector("[data-table=layers] select");
const type = (box, text) => { box.value = text; box.dispatchEvent(new Event("input")); };
type(filter, "layer1"); found.filtered = shown(); type(filter, "");
found.formats = Array.from(choose.options).map((option) => option.value);
type(choose, found.formats[1]); found.chosen = shown();
const visible = all("#table-layers tbody tr").filter((row) => !row.hidden);
found.kinds = [...new Set(visible.map((row) => row.cells[1].textContent))];
type(choose, ""); found.whole = shown();
const net = document.getElementById("net"), box = net.getAttribute("viewBox");
document.querySelector("[data-zoom]").click(); found.zoomed = net.getAttribute("viewBox") !== box;
type(document.getElementById("find"), "layer1"); found.hits = document.querySelectorAll("#net .hit").length;
const before = getComputedStyle(document.body).backgroundColor;
document.getElementById("theme").click(); found.themed = getComputedStyle(document.body).backgroundColor !== before;
found.drawn = all("figure svg").every((svg) => svg.getBoundingClientRect().height > 50);
found.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
const said = document.createElement("pre");
said.id = "said"; said.textContent = JSON.stringify(found); document.body.append(said);
"""


def browse(page: str, folder: Path, *flags: str) -> tuple[str, str]:
    """Open a page; return its document as it is then, and what the console said."""
    path = folder / "page.html"
    path.write_text(page)
    assert BROWSER is not None
    with tempfile.TemporaryDirectory() as profile:
        command = [BROWSER, *_FLAGS, *flags, f"--user-data-dir={profile}", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    said = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, said


def check(page: str, folder: Path, *flags: str) -> dict[str, Any]:
    """Open a page with a script of ours behind its own, and return what that found."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    watch = "<script>window.errors = []; onerror = (words) => { errors.push(words); };</script>"
    page = page.replace("<head>", f"<head>{watch}", 1).replace(
        "</body>", f"<script>{_CHECK}</script></body>"
    )
    document, said = browse(page, folder, *flags)
    assert not said, said
    found = re.search(r'<pre id="said">(.*?)</pre>', document, re.DOTALL)
    assert found is not None, document[-2000:]
    answer: dict[str, Any] = json.loads(
        found.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    )
    return answer


def numbers(cells: list[str]) -> list[float]:
    return [float(cell.replace(",", "")) for cell in cells]


def test_the_page_runs_under_its_own_policy(tmp_path: Path) -> None:
    document, said = browse(render(make_report(12, NASTY).to_json()), tmp_path)
    assert not said, said
    assert 'data-ready="yes"' in document[:300]


@pytest.mark.parametrize(("layers", "flags"), [(24, ("--window-size=400,800",)), (2000, ())])
def test_sorting_filtering_and_the_graph_work(
    layers: int, flags: tuple[str, ...], tmp_path: Path
) -> None:
    found = check(render(make_report(layers, NASTY).to_json()), tmp_path, *flags)
    assert found["errors"] == []
    assert numbers(found["down"]) == sorted(numbers(found["down"]), reverse=True)
    assert numbers(found["up"]) == sorted(numbers(found["down"]))
    assert len(found["names"]) == layers
    named = [name for name in found["names"] if name != NASTY]
    assert named == sorted(named, key=lambda n: [int(part) for part in re.findall(r"\d+", n)])
    expected = sum("layer1" in name for name in named)
    assert found["filtered"] == found["hits"] == expected > 0
    assert found["kinds"] == [found["formats"][1]]
    assert 0 < found["chosen"] < layers
    assert found["whole"] == layers
    assert found["zoomed"]
    assert found["themed"]
    assert found["drawn"]
    assert not found["wide"]
