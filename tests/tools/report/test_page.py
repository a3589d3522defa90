"""The page: everything of the report is on it, nothing from a model gets out of its place."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_maker import NASTY, make_report

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from whet.errors import InvalidModel, UsageError
from whet.printing import row_by_row
from whet.tools.report import render as rendering
from whet.tools.report.notebook import in_frame
from whet.tools.report.render import read_report, render, render_comparison, write_page


class Reader(HTMLParser):
    """Collect what a browser would run, fetch, or show."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.links += [v for k, v in attrs if k in ("src", "href", "action") and v]
        self.links += [v for k, v in attrs if k == "xlink:href" and v]
        if given.get("id"):
            self.ids.append(given["id"] or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture(scope="module")
def page() -> str:
    return render(make_report(24, NASTY).to_json())


def test_everything_is_there(page: str) -> None:
    text = " ".join(read(page).words)
    for wanted in (
        "2 ms", "quartiles 4.9–5.2 → 1.9–2.2 ms", "0.9000", "95 % confidence -0.0100 to 0.0200",
        "Budget: missed", "size is 2 bytes, the budget 1", "apply-plan", "block1/layer9/MatMul", "2 bits, lean",
        "whet compile m -o out", "a note", "differs", "Break-even", "Roofline", "Waterline", "rank correlation",
        "0" * 64, "schema 2", "300 GFLOP/s",
    ):  # fmt: skip
        assert wanted in text, wanted
    rows = re.findall(r'<table id="table-layers">.*?</table>', page, re.DOTALL)[0].count("<tr>")
    assert rows == 25
    assert page.count("<figure>") == 9


def test_names_cannot_break_out(page: str) -> None:
    found = read(page)
    assert found.tags.count("script") == 1
    assert "alert('x')" in " ".join(found.words)
    assert "{{ 7 * 7 }}" in page
    assert "$x^2$" in " ".join(found.words)


def test_nothing_is_fetched_and_ids_are_unique(page: str) -> None:
    found = read(page)
    assert all(link.startswith("#") for link in found.links), found.links
    assert "url(http" not in page
    assert "default-src 'none'" in page
    assert len(set(found.ids)) == len(found.ids)
    anchors = {link[1:] for link in found.links}
    assert anchors <= set(found.ids)


def test_the_same_report_gives_the_same_page(page: str) -> None:
    assert render(make_report(24, NASTY).to_json()) == page


def test_a_report_without_measurements_has_a_page() -> None:
    report = make_report(3)
    report.before.__dict__["time"] = report.after.__dict__["time"] = None
    report.profile = report.search = report.graph = report.metric = report.interval = None
    report.histograms, report.layers, report.steps, report.limits = [], [], [], None
    report.provenance, report.agreements = None, []
    text = " ".join(read(render(report.to_json())).words)
    assert "Budget: none given" in text
    assert "too large to be drawn" in text
    assert "whet report DIR --profile" in text
    assert "Outputs were not compared" in text


def test_two_reports_are_held_against_each_other() -> None:
    one, other = make_report(12, seed=1), make_report(12, seed=2)
    page = render_comparison([("one", one.to_json()), ("other", other.to_json())])
    text = " ".join(read(page).words)
    assert "format, one" in text
    assert "format, other" in text
    assert "differs" in text
    assert "Mind that" not in text
    other.versions = {"onnxruntime": "0"}
    page = render_comparison([("one", one.to_json()), ("other", other.to_json())])
    assert "they were made with different versions" in page


def test_a_report_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(row_by_row(make_report(4).to_json()))
    record = read_report(tmp_path)
    assert record == json.loads(json.dumps(make_report(4).to_json()))
    with pytest.raises(UsageError, match="cannot read"):
        read_report(tmp_path / "no")
    (tmp_path / "report.json").write_text('{"schema": 1}')
    with pytest.raises(InvalidModel, match="has schema 1, this version of whet reads 2"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"schema": 2, "interrupted": true}')
    with pytest.raises(UsageError, match="interrupted search"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(InvalidModel, match="is not JSON"):
        read_report(tmp_path)


def test_a_report_of_two_thousand_layers_is_not_too_large() -> None:
    text = row_by_row(make_report(2000).to_json())
    assert len(text) < 2_000_000


def test_a_page_is_put_in_place_whole(tmp_path: Path) -> None:
    write_page("old", tmp_path / "x.html")
    assert write_page("new", tmp_path / "x.html").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x.html"]
    with pytest.raises(UsageError, match="cannot write"):
        write_page("x", tmp_path / "no" / "x.html")


def test_a_notebook_shows_it_in_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = make_report(3)._repr_html_()
    assert frame.startswith("<iframe sandbox=")
    assert frame.count("<") == 2
    monkeypatch.setattr("whet.tools.report.notebook.available", lambda: False)
    assert "pip install" in in_frame({})


def test_without_the_libraries_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "available", lambda: False)
    with pytest.raises(UsageError, match=r"pip install 'whet\[report\]'"):
        render({})
